//! What one client may cost.

use std::time::Duration;

/// Bounds on everything that a client could otherwise make grow. See `migration-gate serve --help`.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Limits")]
pub struct ClientLimits {
    /// Largest body of a review, in bytes; a larger one gets 413
    ///
    /// An UPDATE carries two objects, and the API server lets each grow to 3 MiB.
    #[arg(long, value_name = "BYTES", default_value_t = 7 * 1024 * 1024, value_parser = clap::value_parser!(u64).range(1024..=1024 * 1024 * 1024))]
    pub max_body: u64,

    /// Most bytes of bodies that are held at one time; others wait for their turn
    ///
    /// A quarter is for bodies of up to 64 KiB, which larger ones can't take away.
    #[arg(long, value_name = "BYTES", default_value_t = 32 * 1024 * 1024, value_parser = clap::value_parser!(u64).range(1024..=64 * 1024 * 1024 * 1024))]
    pub max_in_flight: u64,

    /// Fewest bytes of a body in a second; one that comes more slowly gets 408
    #[arg(long, value_name = "BYTES", default_value_t = 16 * 1024, value_parser = clap::value_parser!(u64).range(1..=1024 * 1024 * 1024))]
    pub min_body_rate: u64,

    /// How long a body may take before its rate counts
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = duration)]
    pub body_grace: Duration,

    /// Most connections at one time; for one more, the longest idle one is closed
    #[arg(long, value_name = "COUNT", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_connections: u32,

    /// Longest head of a request, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 8 * 1024, value_parser = clap::value_parser!(u32).range(8192..=1024 * 1024))]
    pub max_header: u32,

    /// How long a TLS handshake may take
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    pub handshake_timeout: Duration,

    /// How long the head of a request may take
    ///
    /// From its first byte on, or from the end of the handshake if the connection never brought one.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    pub header_timeout: Duration,

    /// How long a review may take from the end of its head to the answer, its body included
    ///
    /// The API server gives up after the webhook's timeoutSeconds, 30 at most.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub request_timeout: Duration,

    /// How long the client may take to take an answer; then the connection is cut
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    pub answer_timeout: Duration,

    /// How long a connection may stay without a request
    ///
    /// Longer than the 90 s after which the API server drops a connection by itself: were this side
    /// the first to close, a call could be on its way just then, and fail.
    #[arg(long, value_name = "DURATION", default_value = "3m", value_parser = duration)]
    pub idle_timeout: Duration,
}

/// Reads a duration as Go writes them: `500ms`, `5s`, `1m30s`, `2160h`. Greater than zero.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    text.parse::<jiff::SignedDuration>()
        .ok()
        .and_then(|parsed| Duration::try_from(parsed).ok())
        .filter(|parsed| !parsed.is_zero())
        .ok_or_else(|| "write it as 500ms, 5s, 1m30s or 2160h".to_owned())
}

/// As [`duration`], but zero is fine.
pub(super) fn duration_or_zero(text: &str) -> Result<Duration, String> {
    match text {
        "0" | "0s" => Ok(Duration::ZERO),
        _ => duration(text),
    }
}
