//! A real Prometheus that scrapes the replicas, with the chart's alerts.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::PATIENCE;
use crate::chart::{objects, template};
use testkit::cluster::Cluster;
use testkit::poll::{Look, until};
use testkit::process::{self, Process};
use testkit::release::Release;
use testkit::skip::Skip;

/// The folder that `tests/cluster/prometheus.sh` prints.
const PROGRAMS: &str = "MIGRATION_GATE_TEST_PROMETHEUS";
const ADDRESS: &str = "127.0.0.1:19090";

pub(super) struct Prometheus {
    programs: PathBuf,
    replicas: Vec<String>,
    begun: Timestamp,
    server: Process,
}

/// The values of a query over time, in seconds since the start.
pub(super) struct Series {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

impl Prometheus {
    pub(super) fn start(cluster: &Cluster, release: &Release, values: &Value) -> Result<Self> {
        let programs = std::env::var_os(PROGRAMS).ok_or_else(|| {
            Skip(format!(
                "{PROGRAMS} names no folder with Prometheus; `make soak` sets it"
            ))
        })?;
        let programs = PathBuf::from(programs);
        let pods = release
            .kubectl()
            .get("pods --selector=app.kubernetes.io/name=migration-gate")?;
        let replicas: Vec<String> = pods["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|pod| pod["status"]["podIP"].as_str().map(str::to_owned))
            .collect();
        ensure!(!replicas.is_empty(), "no replica has an address");

        let folder = cluster.sandbox()?.state("prometheus")?;
        let rules = objects(&template(&release.kubectl().helm, values)?)?
            .into_iter()
            .find(|object| object["kind"] == "PrometheusRule")
            .context("no PrometheusRule")?;
        let rules_file = folder.join("rules.yaml");
        fs::write(&rules_file, rules["spec"].to_string())?;
        let targets: Vec<String> = replicas.iter().map(|ip| format!("{ip}:8080")).collect();
        let config = json!({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [rules_file],
            "scrape_configs": [{
                "job_name": "migration-gate",
                "static_configs": [{"targets": targets, "labels": {"namespace": "migration-gate"}}],
            }],
        });
        let config_file = folder.join("prometheus.yaml");
        fs::write(&config_file, config.to_string())?;
        let mut command = Command::new(programs.join("prometheus"));
        command
            .arg(format!("--config.file={}", config_file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.join("data").display()
            ))
            .arg(format!("--web.listen-address={ADDRESS}"));
        let logs = cluster.sandbox()?.logs("prometheus")?;
        let server = Process::spawn("prometheus", &logs, &mut command)?;
        let mut this = Self {
            programs,
            replicas,
            begun: Timestamp::now(),
            server,
        };
        this.value_is("count(up == 1)", &targets.len().to_string())?;
        this.begun = Timestamp::now();
        Ok(this)
    }

    /// Waits until all replicas report this state of the gate, and no other.
    pub(super) fn gate_is(&self, state: &str) -> Result<()> {
        self.value_is(
            &format!("count(migration_gate_gate_state{{state=\"{state}\"}} == 1) and count(migration_gate_gate_state == 1) == count(up)"),
            &self.replicas.len().to_string(),
        )
    }

    /// Waits until an alert fires, or until it does not.
    pub(super) fn fires(&self, alert: &str, does: bool) -> Result<()> {
        let firing =
            format!("count(ALERTS{{alertname=\"{alert}\",alertstate=\"firing\"}}) or vector(0)");
        self.value_is(&firing, if does { "1" } else { "0" })
    }

    /// Waits until a query returns only this value.
    pub(super) fn value_is(&self, query: &str, wanted: &str) -> Result<()> {
        let begun = Instant::now();
        until(&format!("{query} to be {wanted}"), PATIENCE, || {
            if begun.elapsed() > Duration::from_secs(1) {
                // There is no event for it, and Prometheus scrapes each second.
                thread::sleep(Duration::from_millis(250));
            }
            match self.ask(&["instant"], &[query]) {
                Ok(found) if found[0]["value"][1] == wanted => Look::Done(()),
                Ok(found) => Look::Pending(found.to_string()),
                Err(error) => match self.server.check() {
                    Ok(()) => Look::Pending(format!("{error:#}")),
                    Err(gone) => Look::Failed(gone),
                },
            }
        })
    }

    /// Sends each replica a request that is no review, as a foreign client might.
    pub(super) fn no_review_is_answered(&self) -> Result<()> {
        for ip in &self.replicas {
            let mut client = Command::new("openssl");
            client.args(["s_client", "-quiet", "-connect", &format!("{ip}:10250")]);
            let request = "POST /mutate HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\
                           Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
            let said = process::run(&mut client, request, PATIENCE)?;
            ensure!(
                said.stdout.contains("HTTP/1.1 4"),
                "{}{}",
                said.stdout,
                said.stderr
            );
        }
        self.value_is(
            "count(sum by (instance) (migration_gate_rejected_requests_total) > 0)",
            &self.replicas.len().to_string(),
        )
    }

    /// The results of a query since the start, with the names of a panel's legend.
    pub(super) fn range(&self, query: &str, legend: &str) -> Result<Vec<Series>> {
        let now = Timestamp::now();
        let [start, end] = [self.begun, now].map(|time| time.as_second().to_string());
        let found = self.ask(
            &[
                "range",
                &format!("--start={start}"),
                &format!("--end={end}"),
                "--step=1s",
            ],
            &[query],
        )?;
        let mut series = Vec::new();
        for one in found.as_array().context("no series")? {
            let labels: BTreeMap<String, String> = serde_json::from_value(one["metric"].clone())?;
            let mut name = legend.to_owned();
            for (label, value) in &labels {
                name = name.replace(&format!("{{{{{label}}}}}"), value);
            }
            let mut points = Vec::new();
            for point in one["values"].as_array().into_iter().flatten() {
                let value: f64 = point[1].as_str().context("a value")?.parse()?;
                let begun: f64 = start.parse()?;
                let time = point[0].as_f64().context("a time")? - begun;
                if value.is_finite() {
                    points.push((time, value));
                }
            }
            series.push(Series { name, points });
        }
        Ok(series)
    }

    fn ask(&self, kind: &[&str], query: &[&str]) -> Result<Value> {
        let mut command = Command::new(self.programs.join("promtool"));
        command
            .arg("query")
            .args(kind)
            .args(["--format=json", &format!("http://{ADDRESS}")])
            .args(query);
        let said = process::run(&mut command, "", Duration::from_mins(1))?.success()?;
        serde_json::from_str(&said).map_err(|error| anyhow!("{error}: {said}"))
    }
}
