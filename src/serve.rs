//! The subcommand `serve`: the two webhooks over HTTPS, and health over plain HTTP.

mod body;
pub mod certificates;
pub mod connections;
mod events;
pub mod limits;
mod log;
pub mod metrics;
mod process;
pub mod ready;
pub mod recorder;
mod rejection;
pub mod review;
pub mod routes;
mod share;
pub mod stop;
pub mod tls;
pub mod webhook;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::net::TcpListener;
use tracing::{error, info, warn};

use self::certificates::CertificateSource;
use self::certificates::clients::{ClientArgs, ClientFile};
use self::connections::Listener;
use self::limits::{ClientLimits, duration_or_zero};
use self::metrics::Metrics;
use self::ready::Readiness;
use self::recorder::{GateNews, GateReport};
use self::review::Reviewer;
use self::stop::{Signals, Stop};
use self::tls::{Acceptor, Served};
use crate::cli::{self, ClusterArgs, ConfigArgs, Exit};
use migration_gate_core::gates::Config;

/// Maximum number of threads that decide on reviews. Each may hold a parsed object, which takes
/// many times the memory of its text. The chart's `GLIBC_TUNABLES` allows as many arenas.
const MOST_WORKERS: usize = 4;

/// Serve the admission webhooks
#[derive(Debug, Clone, clap::Args)]
#[command(mut_arg("config", |config| config.env("MIGRATION_GATE_CONFIG")))]
pub struct ServeArgs {
    #[command(flatten)]
    config: ConfigArgs,

    /// Address of the webhooks, with TLS
    ///
    /// [::] stands for all addresses, IPv4 included.
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:8443")]
    listen: SocketAddr,

    /// Address of /livez, /readyz and /metrics, without TLS
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:8080")]
    health_listen: SocketAddr,

    /// How long to keep serving after SIGTERM, while endpoints update
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration_or_zero)]
    drain_delay: Duration,

    /// Time limit for open requests after that
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = duration_or_zero)]
    drain_timeout: Duration,

    /// Log filter, such as debug or warn,h2=info
    ///
    /// The HTTP/2 library, h2, logs only if it is named.
    #[arg(
        long,
        value_name = "FILTER",
        default_value = "info",
        env = "MIGRATION_GATE_LOG"
    )]
    log: String,

    /// Do not create Kubernetes Events
    #[arg(long)]
    no_events: bool,

    #[command(flatten)]
    certificate: certificates::CertificateArgs,

    #[command(flatten)]
    clients: ClientArgs,

    #[command(flatten)]
    limits: ClientLimits,

    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Runs `migration-gate serve` and returns its exit code: 0 after a clean stop; 1 if it cannot
/// start, or if it cut open requests.
pub fn main(args: ServeArgs) -> ExitCode {
    let (config, _log) = match prepare(&args) {
        Ok(prepared) => prepared,
        Err(error) => return cli::finish(Err(error), Exit::Failure),
    };
    let ended = serve(args, config).map_or_else(
        |error| {
            // From here on, the log is JSON.
            error!(cause = cli::chain(error.as_ref()), "cannot serve");
            Exit::Failure
        },
        |()| Exit::Success,
    );
    ended.into()
}

/// Reads the configuration and sets up the log.
fn prepare(args: &ServeArgs) -> anyhow::Result<(Config, impl Sized + use<>)> {
    let filter = log::filter(&args.log).with_context(|| format!("--log {}", args.log))?;
    let config = args.config.load()?;
    let log = log::start(filter)?;
    Ok((config, log))
}

fn serve(args: ServeArgs, config: Config) -> anyhow::Result<()> {
    // Not one thread for each processor of the node: that could take more memory than the server
    // has.
    let workers = thread::available_parallelism().map_or(1, |count| count.get().min(MOST_WORKERS));
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(run(args, config))
}

async fn run(args: ServeArgs, config: Config) -> anyhow::Result<()> {
    let ServeArgs {
        config: _,
        listen,
        health_listen,
        certificate,
        clients,
        drain_delay,
        drain_timeout,
        log: _,
        no_events,
        limits,
        cluster,
    } = args;
    let mut signals = Signals::install().context("cannot listen for signals")?;
    let limits = Arc::new(limits);
    let metrics = Metrics::new();
    let served = Arc::new(Served::default());
    let stop = Stop::default();

    // Report what cannot work before a port is opened, so that no request arrives.
    let interval = certificate.reload_interval();
    let source = CertificateSource::new(certificate, &cluster, &served, &metrics).await?;
    let callers = source.callers();
    let tls = Acceptor::new(Arc::clone(&served)).context("cannot set up TLS")?;
    let mut clients = ClientFile::new(clients);
    if let Some(clients) = &mut clients {
        clients.apply(&tls).await?;
    }
    let webhooks = bind("--listen", listen).await?;
    let health = bind("--health-listen", health_listen).await?;
    info!(
        webhooks = %webhooks.local_addr()?,
        health = %health.local_addr()?,
        gates = config.gates.len(),
        version = env!("CARGO_PKG_VERSION"),
        "serving"
    );

    let mut certificates =
        tokio::spawn(source.run(Arc::clone(&served), metrics.clone(), stop.clone()));
    if let Some(clients) = clients {
        tokio::spawn(clients.follow(interval, tls.clone(), stop.clone()));
    }
    let config = Arc::new(config);
    let mut records = tokio::spawn(keep_records(
        cluster,
        Arc::clone(&config),
        !no_events,
        metrics.clone(),
        stop.clone(),
    ));
    let reviewer = Arc::new(Reviewer::new(config, metrics.clone(), Arc::clone(&limits)));
    let webhooks = Listener {
        name: "webhooks",
        socket: webhooks,
        tls: Some(tls),
        routes: routes::webhooks(reviewer),
        limits: Arc::clone(&limits),
        stop: stop.clone(),
    };
    // Health has a stop of its own: probes and scrapes are answered until the webhooks are done.
    let health_stop = Stop::default();
    let mut health = tokio::spawn(
        Listener {
            name: "health",
            socket: health,
            tls: None,
            routes: routes::health(Readiness::new(served, callers, stop.clone()), metrics),
            limits,
            stop: health_stop.clone(),
        }
        .run(),
    );
    let mut webhooks = tokio::spawn(webhooks.run());

    // Neither listener ends before it is stopped. If one does, that is a bug: exit, so that
    // Kubernetes restarts this process.
    tokio::select! {
        signal = signals.next() => {
            // The log line comes after `begin`, so the replica is no longer ready when a reader
            // sees it.
            stop.begin();
            info!(signal, "asked to stop");
        }
        _ = &mut certificates => bail!("the certificate rotator ended unexpectedly"),
        _ = &mut webhooks => bail!("the webhooks' listener ended unexpectedly"),
        _ = &mut health => bail!("the health listener ended unexpectedly"),
        _ = &mut records => bail!("the recorder ended unexpectedly"),
    }
    let stopping = stop.run(drain_delay, drain_timeout, signals.next());
    let cut = tokio::select! {
        ended = async { stop.closing().await; (&mut webhooks).await } => {
            ended.context("the webhooks' listener failed")?;
            false
        }
        () = stopping => true,
    };
    health_stop.now();
    if let Err(cause) = health.await {
        error!(%cause, "the health listener failed");
    }
    if cut {
        bail!("stopped before all requests were answered");
    }
    info!("stopped");
    Ok(())
}

/// Runs the recorders until the server closes. Reviews need no API server, so without one, the
/// server still answers them.
async fn keep_records(
    cluster: ClusterArgs,
    config: Arc<Config>,
    events: bool,
    metrics: Metrics,
    stop: Stop,
) {
    let client = match cluster.connect().await {
        Ok(cluster) => cluster.client,
        Err(error) => {
            warn!(
                cause = cli::chain(&error),
                "no cluster to watch; completed migrations are not recorded"
            );
            for gate in &config.gates {
                metrics.on_gate(&gate.name, &GateNews::State(GateReport::blind()));
            }
            return stop.closing().await;
        }
    };
    let report = move |gate: &str, news| metrics.on_gate(gate, &news);
    recorder::run(client, config, events, report, stop.closing()).await;
}

async fn bind(flag: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    let bound = match TcpListener::bind(address).await {
        Err(cause) => match without_ipv6(address, &cause) {
            Some(address) => TcpListener::bind(address).await,
            None => Err(cause),
        },
        bound => bound,
    };
    bound.with_context(|| format!("cannot listen on {address}; is the port in use? Set {flag}"))
}

/// The IPv4 address to listen on instead, if `address` is `[::]` and IPv6 is not available.
fn without_ipv6(address: SocketAddr, cause: &io::Error) -> Option<SocketAddr> {
    let taken = matches!(
        cause.kind(),
        io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied
    );
    (address.ip() == Ipv6Addr::UNSPECIFIED && !taken)
        .then(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_ipv6_all_addresses_are_those_of_ipv4() {
        let check = |address: &str, kind: io::ErrorKind, expect: Option<&str>| {
            let instead = without_ipv6(address.parse().unwrap(), &kind.into());
            assert_eq!(instead, expect.map(|e| e.parse().unwrap()), "{address}");
        };
        let none = io::ErrorKind::AddrNotAvailable;
        check("[::]:8443", none, Some("0.0.0.0:8443"));
        check(
            "[::]:8443",
            io::ErrorKind::Unsupported,
            Some("0.0.0.0:8443"),
        );
        check("[::]:8443", io::ErrorKind::AddrInUse, None);
        check("[::1]:8443", none, None);
        check("0.0.0.0:8443", none, None);
    }
}
