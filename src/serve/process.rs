//! Metrics of this process, named as in Prometheus' own client libraries. They are read from
//! `/proc` at each scrape. A value that cannot be read is omitted.

use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// The unit of times in `/proc`, on every architecture of Linux: hundredths of a second.
/// See <https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html>.
const TICKS: f64 = 100.0;

/// Collects the metrics of this process at each scrape.
#[derive(Debug)]
pub(super) struct ProcessCollector;

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let stat = stat();
        let ticks = |field| stat.as_deref().and_then(|stat| field_of(stat, field));
        if let (Some(user), Some(system)) = (ticks(14), ticks(15)) {
            let cpu = ConstCounter::new((user + system) / TICKS);
            let help = "CPU time of this process";
            let to = encoder.encode_descriptor(
                "process_cpu",
                help,
                Some(&Unit::Seconds),
                cpu.metric_type(),
            )?;
            cpu.encode(to)?;
        }
        let booted = || line_of("/proc/stat", "btime ");
        let started = ticks(22).and_then(|ticks| Some(booted()? + ticks / TICKS));
        let resident = line_of("/proc/self/status", "VmRSS:").map(|kib| kib * 1024.0);
        for (name, help, unit, value) in [
            (
                "process_start_time",
                "Start time of this process, in seconds since 1970",
                Some(&Unit::Seconds),
                started,
            ),
            (
                "process_resident_memory",
                "Resident memory of this process",
                Some(&Unit::Bytes),
                resident,
            ),
            (
                "process_open_fds",
                "Open file descriptors of this process",
                None,
                open_files(),
            ),
            (
                "process_max_fds",
                "Maximum number of open file descriptors",
                None,
                line_of("/proc/self/limits", "Max open files"),
            ),
        ] {
            if let Some(value) = value {
                let gauge = ConstGauge::new(value);
                let to = encoder.encode_descriptor(name, help, unit, gauge.metric_type())?;
                gauge.encode(to)?;
            }
        }
        Ok(())
    }
}

/// `/proc/self/stat` after the program's name, which may contain any characters.
fn stat() -> Option<String> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    Some(fields.to_owned())
}

/// A field by its number in the manual. The first field after the name is number 3.
fn field_of(stat: &str, number: usize) -> Option<f64> {
    stat.split(' ').nth(number.checked_sub(3)?)?.parse().ok()
}

/// The first number of the line that starts with `begins`.
fn line_of(file: &str, begins: &str) -> Option<f64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(begins))?;
    line.split_whitespace().next()?.parse().ok()
}

fn open_files() -> Option<f64> {
    // One of the open files is this directory.
    let count = fs::read_dir("/proc/self/fd").ok()?.count();
    u32::try_from(count.checked_sub(1)?).ok().map(f64::from)
}
