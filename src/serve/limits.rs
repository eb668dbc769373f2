//! The limits of one client.

use std::time::Duration;

/// Bounds on everything that a client could otherwise make grow. See `migration-gate serve --help`.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Limits")]
pub struct ClientLimits {
    /// Maximum size of a request body, in bytes; a larger one gets 413
    ///
    /// An UPDATE has two objects, of up to 3 MiB each.
    #[arg(long, value_name = "BYTES", default_value_t = 7 * 1024 * 1024, value_parser = clap::value_parser!(u64).range(1024..=1024 * 1024 * 1024))]
    pub max_body: u64,

    /// Maximum total size of request bodies in memory; further requests wait
    ///
    /// A quarter is reserved for the first 64 KiB of each body.
    #[arg(long, value_name = "BYTES", default_value_t = 32 * 1024 * 1024, value_parser = clap::value_parser!(u64).range(1024..=64 * 1024 * 1024 * 1024))]
    pub max_in_flight: u64,

    /// Minimum body rate in bytes per second; a slower one gets 408
    #[arg(long, value_name = "BYTES", default_value_t = 16 * 1024, value_parser = clap::value_parser!(u64).range(1..=1024 * 1024 * 1024))]
    pub min_body_rate: u64,

    /// Time before the body rate is checked
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration)]
    pub body_grace: Duration,

    /// Maximum number of open connections
    ///
    /// At the limit, a new connection closes the one that has been idle longest.
    #[arg(long, value_name = "COUNT", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_connections: u32,

    /// Maximum size of request headers, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 8 * 1024, value_parser = clap::value_parser!(u32).range(8192..=1024 * 1024))]
    pub max_header: u32,

    /// Time limit for a TLS handshake
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    pub handshake_timeout: Duration,

    /// Time limit for request headers
    ///
    /// It starts with the first byte; on a new connection, with the end of the handshake.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    pub header_timeout: Duration,

    /// Time limit from the end of the headers to the response
    ///
    /// The API server gives up after the webhook's timeoutSeconds, at most 30.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub request_timeout: Duration,

    /// Time limit for the client to read a response
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    pub answer_timeout: Duration,

    /// Time limit for a connection without requests
    ///
    /// Keep it above 90s, after which the API server closes idle connections itself. If the server
    /// closes first, a request that is being sent fails.
    #[arg(long, value_name = "DURATION", default_value = "3m", value_parser = duration)]
    pub idle_timeout: Duration,
}

/// Parses a duration in Go's notation: `500ms`, `5s`, `1m30s`, `2160h`. It must be greater than
/// zero.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    text.parse::<jiff::SignedDuration>()
        .ok()
        .and_then(|parsed| Duration::try_from(parsed).ok())
        .filter(|parsed| !parsed.is_zero())
        .ok_or_else(|| "write it as 500ms, 5s, 1m30s or 2160h".to_owned())
}

/// As [`duration`], but accepts zero.
pub(super) fn duration_or_zero(text: &str) -> Result<Duration, String> {
    match text {
        "0" | "0s" => Ok(Duration::ZERO),
        _ => duration(text),
    }
}
