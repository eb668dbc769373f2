//! The chart's dashboard and alerts ask for metrics that exist, by labels that they have.

use std::collections::{BTreeMap, BTreeSet};

use axum::body::Body;
use axum::http::Request;
use jiff::Timestamp;
use migration_gate::serve::recorder::{GateNews, GateReport};
use migration_gate_core::outlook::GateState;
use serde_json::Value;
use tower::ServiceExt as _;

use crate::support::{default_limits, pod_review, webhooks};

const DASHBOARD: &str = include_str!("../../charts/migration-gate/files/dashboard.json");
const ALERTS: &str = include_str!("../../charts/migration-gate/templates/prometheusrule.yaml");

/// For each series, the labels that it has with the values that were seen.
type Series = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// The metrics after everything that is counted has happened.
async fn series() -> Series {
    let (routes, metrics) = webhooks(default_limits());
    for body in [pod_review("a"), b"no review".to_vec()] {
        let request = Request::post("/validate").body(Body::from(body)).unwrap();
        routes.clone().oneshot(request).await.unwrap();
    }
    let report = GateReport {
        state: GateState::Open,
        waiting_pods: 0,
        unrecorded: 0,
        last: Some((Timestamp::UNIX_EPOCH, Some(60))),
        sees_jobs: true,
        sees_record: true,
        sees_workloads: true,
    };
    metrics.on_gate("piefed", &GateNews::State(report));
    metrics.set_certificate_expiry(1);
    let mut series = Series::new();
    for line in metrics.encode().unwrap().lines() {
        if line.starts_with('#') {
            continue;
        }
        let (sample, _) = line.rsplit_once(' ').unwrap();
        let (name, labels) = sample.split_once('{').unwrap_or((sample, "}"));
        let known = series.entry(name.to_owned()).or_default();
        for (label, value) in matchers(labels.strip_suffix('}').unwrap()) {
            known.entry(label).or_default().insert(value);
        }
    }
    series
}

/// `a="b",c="d"`; no value that is looked at holds a comma or a quote.
fn matchers(text: &str) -> impl Iterator<Item = (String, String)> + '_ {
    text.split(',').filter(|each| !each.is_empty()).map(|each| {
        let (label, value) = each.split_once('=').unwrap();
        (label.trim().to_owned(), value.trim_matches('"').to_owned())
    })
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// The problems of an expression in Prometheus' language.
fn problems(series: &Series, expression: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let mut grouped: BTreeSet<&str> = BTreeSet::new();
    for list in expression.split("by (").skip(1) {
        let (list, _) = list.split_once(')').unwrap();
        grouped.extend(list.split(',').map(str::trim));
    }
    let mut asked = 0;
    let ours = ["migration_gate_", "process_"];
    for (at, _) in ours
        .into_iter()
        .flat_map(|name| expression.match_indices(name))
    {
        asked += 1;
        let rest = &expression[at..];
        let name = &rest[..rest.find(|c| !is_word(c)).unwrap_or(rest.len())];
        let Some(labels) = series.get(name) else {
            problems.push(format!("there is no series {name}"));
            continue;
        };
        let conditions = rest[name.len()..]
            .strip_prefix('{')
            .map_or("", |rest| rest.split_once('}').unwrap().0);
        for (label, value) in matchers(conditions) {
            if !labels.get(&label).is_some_and(|seen| seen.contains(&value)) {
                problems.push(format!("{name} has no {label}=\"{value}\""));
            }
        }
        for label in &grouped {
            if !labels.contains_key(*label) {
                problems.push(format!("{name} has no label {label}"));
            }
        }
    }
    // Prometheus' own series of every target.
    if asked == 0 && !expression.contains("up{job=") {
        problems.push("it asks for nothing of migration-gate".to_owned());
    }
    problems
}

/// `{{label}}` in a legend that the expression doesn't group by would stay empty.
fn unknown_in_legend<'l>(legend: &'l str, expression: &str) -> Vec<&'l str> {
    legend
        .split("{{")
        .skip(1)
        .map(|rest| rest.split_once("}}").unwrap().0.trim())
        .filter(|label| !expression.split(|c| !is_word(c)).any(|word| word == *label))
        .collect()
}

#[tokio::test]
async fn every_panel_shows_metrics_that_exist() {
    let series = series().await;
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    assert!(!panels.is_empty());
    for panel in panels {
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{panel}");
        for target in targets {
            let expression = target["expr"].as_str().unwrap();
            let legend = target["legendFormat"].as_str().unwrap();
            assert_eq!(problems(&series, expression), [""; 0], "{expression}");
            assert_eq!(unknown_in_legend(legend, expression), [""; 0], "{panel}");
        }
    }
}

#[tokio::test]
async fn every_alert_asks_for_metrics_that_exist() {
    let series = series().await;
    let expressions: Vec<&str> = ALERTS
        .lines()
        .filter_map(|line| line.trim().strip_prefix("expr: "))
        .collect();
    let alerts = ALERTS.matches("include \"migration-gate.alert\"").count();
    assert_eq!(expressions.len(), alerts);
    for expression in expressions {
        assert_eq!(problems(&series, expression), [""; 0], "{expression}");
    }
}

#[tokio::test]
async fn a_wrong_expression_is_found() {
    let series = series().await;
    for (expression, found) in [
        ("migration_gate_nothing_total", "no series"),
        (
            "migration_gate_gate_state{state=\"Failed\"}",
            "no state=\"Failed\"",
        ),
        (
            "sum by (color) (migration_gate_gate_state)",
            "no label color",
        ),
        ("rate(http_requests_total[5m])", "nothing of migration-gate"),
        ("process_resident_megabytes", "no series"),
    ] {
        let problems = problems(&series, expression);
        assert!(
            problems.len() == 1 && problems[0].contains(found),
            "{problems:?}"
        );
    }
}
