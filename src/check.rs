//! The subcommand `check`: tests the webhooks of an installed release.
//!
//! For each gate, the API server dry-runs a held workload, and one that sets a forbidden variable.
//! Nothing is stored, and no pod is started. `helm test` runs it.

use std::collections::BTreeMap;
use std::fmt;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use k8s_openapi::api::apps::v1::Deployment;
use kube::Client;
use kube::api::Patch;
use serde_json::{Value, json};

use crate::api::objects::workload;
use crate::api::{ApiError, DryRun, Objects};
use crate::cli::say::say;
use crate::cli::{self, ClusterArgs, ConfigArgs, Exit, ScopeArgs};
use migration_gate_core::gates::{
    Config, Gate, HeldKind, LabelOperator, LabelSelector, Mode, Which, parse_duration,
};
use migration_gate_core::names::WAITER_CONTAINER;
use migration_gate_core::podspec::list;

/// The name of the objects that exist only in dry runs.
const NAME: &str = "migration-gate-check";

/// The part of the API server's message by which a denial of this program is recognized.
const OUR_DENIAL: &str = ".migration-gate.io\" denied the request";

/// Pause between two attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// Test the webhooks of an installed release, with dry runs
///
/// For each gate, the API server dry-runs a held workload, which must get its waiter, and one that
/// sets a forbidden variable, which must be denied. Nothing is stored. This needs permission to
/// create and patch Deployments in the gates' namespaces.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    scope: ScopeArgs,
    /// How long to wait for the dry runs to pass
    ///
    /// A release that was just installed needs a moment.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    timeout: Duration,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Runs `migration-gate check` and returns its exit code: 0 if all checks passed, 1 otherwise.
pub fn main(args: &CheckArgs) -> ExitCode {
    let ended = cli::block_on(run(args)).map(|trials| report(&trials));
    cli::finish(ended, Exit::Failure)
}

fn report(trials: &[Trial]) -> Exit {
    for trial in trials {
        say(trial);
    }
    let failed = trials.iter().filter(|t| t.result.is_err()).count();
    if failed == 0 {
        say("All checks passed.");
        return Exit::Success;
    }
    say(format_args!("{failed} of {} failed.", trials.len()));
    Exit::Failure
}

async fn run(args: &CheckArgs) -> anyhow::Result<Vec<Trial>> {
    let config = args.config.load()?;
    let gates = args.scope.gates(&config)?;
    let client = args.cluster.connect().await?.client;
    let end = Instant::now() + args.timeout;
    loop {
        let trials = look(&client, &config, &gates).await;
        let passed = |trials: &Vec<Trial>| trials.iter().all(|trial| trial.result.is_ok());
        if trials.as_ref().is_ok_and(passed) || Instant::now() + PAUSE > end {
            return trials
                .context("the API server did not answer; check that it can be reached from here");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// A dry run and its result, in words.
struct Trial {
    about: String,
    result: Result<String, String>,
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mark, words) = match &self.result {
            Ok(words) => ("ok  ", words),
            Err(words) => ("FAIL", words),
        };
        write!(f, "{mark}  {}: {words}", self.about)
    }
}

async fn look(client: &Client, config: &Config, gates: &[&Gate]) -> Result<Vec<Trial>, ApiError> {
    let mut trials = Vec::new();
    for gate in gates {
        for Example { kind, name, labels } in examples(gate) {
            let shown = kind.as_str();
            let result = match labels {
                Some(labels) => {
                    let answer = held(client, gate, kind, &name, &labels).await?;
                    judge_held(gate, kind, &answer)
                }
                None => Err(format!(
                    "no {shown} can match its selector, which contradicts itself"
                )),
            };
            let about = format!("gate {}: held {shown} {}/{name}", gate.name, gate.namespace);
            trials.push(Trial { about, result });
        }
        if let Some(variable) = config.forbidden_env.first() {
            let object = example(HeldKind::Deployment, NAME, &BTreeMap::new(), Some(variable));
            let deployments = Objects::namespaced::<Deployment>(client, &gate.namespace);
            let answer = deployments.try_create(&object).await?;
            let result = judge_offender(gate, config.mode_of(gate), variable, &answer);
            let about = format!(
                "gate {}: a Deployment in {} that sets {variable}",
                gate.name, gate.namespace
            );
            trials.push(Trial { about, result });
        }
    }
    Ok(trials)
}

/// A workload that a gate holds.
struct Example {
    kind: HeldKind,
    name: String,
    /// Its labels; `None` if nothing can match the gate's selector.
    labels: Option<BTreeMap<String, String>>,
}

/// Workloads that a gate holds: those that it names, and one for each of its patterns and
/// selectors.
fn examples(gate: &Gate) -> Vec<Example> {
    let named = |kind, name: &str| Example {
        kind,
        name: name.to_owned(),
        labels: Some(BTreeMap::new()),
    };
    let selected = |kind, selector| Example {
        kind,
        name: NAME.to_owned(),
        labels: matching(selector),
    };
    let deployment = HeldKind::Deployment;
    let deployments = gate.deployments.iter().map(|name| named(deployment, name));
    let selector = gate
        .selector
        .iter()
        .map(|selector| selected(deployment, selector));
    let workloads = gate.workloads.iter().map(|workload| match &workload.which {
        Which::Name(name) => named(workload.kind, &name.as_str().replace('*', "check")),
        Which::Labels(selector) => selected(workload.kind, selector),
    });
    deployments.chain(selector).chain(workloads).collect()
}

/// Labels that a selector matches.
fn matching(selector: &LabelSelector) -> Option<BTreeMap<String, String>> {
    let mut labels = selector.match_labels.clone();
    for requirement in &selector.match_expressions {
        let value = match requirement.operator {
            LabelOperator::In => requirement.values.first()?.clone(),
            LabelOperator::Exists => "any".to_owned(),
            LabelOperator::NotIn | LabelOperator::DoesNotExist => continue,
        };
        labels.entry(requirement.key.clone()).or_insert(value);
    }
    selector
        .matches(|key| labels.get(key).map(String::as_str))
        .then_some(labels)
}

fn example(
    kind: HeldKind,
    name: &str,
    labels: &BTreeMap<String, String>,
    forbidden: Option<&str>,
) -> Value {
    let env: Vec<Value> = forbidden
        .map(|name| json!({"name": name, "value": "true"}))
        .into_iter()
        .collect();
    let own = json!({"app.kubernetes.io/name": NAME});
    let mut template = json!({
        "metadata": {"labels": own},
        "spec": {"containers": [{"name": "main", "image": "example.invalid/check:1", "env": env}]},
    });
    let spec = match kind {
        HeldKind::CronJob => {
            template["spec"]["restartPolicy"] = json!("Never");
            json!({"schedule": "@yearly", "jobTemplate": {"spec": {"template": template}}})
        }
        HeldKind::StatefulSet => {
            json!({"serviceName": NAME, "selector": {"matchLabels": own}, "template": template})
        }
        HeldKind::Deployment | HeldKind::DaemonSet | HeldKind::Rollout => {
            json!({"selector": {"matchLabels": own}, "template": template})
        }
    };
    let pods = kind.pod_kind();
    json!({
        "apiVersion": format!("{}/{}", pods.group, pods.version),
        "kind": pods.kind,
        "metadata": {"name": name, "labels": labels},
        "spec": spec,
    })
}

/// The API server's message for a refusal.
fn message(answer: &DryRun) -> &str {
    answer.body["message"].as_str().unwrap_or("no reason given")
}

/// The API server's answer to a dry run of a held workload: a new one, or a patch of the existing
/// one of that name.
async fn held(
    client: &Client,
    gate: &Gate,
    kind: HeldKind,
    name: &str,
    labels: &BTreeMap<String, String>,
) -> Result<DryRun, ApiError> {
    let objects = Objects::of(client, workload(kind.pod_kind()), Some(&gate.namespace));
    let answer = objects
        .try_create(&example(kind, name, labels, None))
        .await?;
    if answer.code != 409 {
        return Ok(answer);
    }
    // The workload exists. The patch must change the pod template: the webhook is called only then.
    let mut change = json!({"metadata": {"annotations": {"migration-gate.io/check": "true"}}});
    let path = kind.pod_kind().path;
    for field in path[..path.len() - 1].iter().rev() {
        change = json!({ *field: change });
    }
    objects.try_patch(name, &Patch::Merge(change)).await
}

fn judge_held(gate: &Gate, kind: HeldKind, answer: &DryRun) -> Result<String, String> {
    if answer.code >= 300 {
        return Err(refused(&gate.namespace, answer));
    }
    // At any position: another webhook may have put its own container in front.
    let spec = kind.pod_kind().pod_spec(&answer.body);
    let mut containers = spec
        .map_or(&[][..], |spec| list(spec, "initContainers"))
        .iter();
    if containers.any(|container| container["name"] == WAITER_CONTAINER) {
        Ok(format!("waits for {}", jobs(gate)))
    } else {
        Err(format!(
            "it would start without waiting for {}: the webhook was not called; see `kubectl get mutatingwebhookconfigurations`, its namespaceSelector, and the labels of namespace {}",
            jobs(gate),
            gate.namespace
        ))
    }
}

/// The gate's Jobs, as they are printed.
fn jobs(gate: &Gate) -> String {
    let jobs: Vec<String> = gate
        .requirements()
        .iter()
        .map(|job| format!("Job {job}"))
        .collect();
    jobs.join(" and ")
}

fn judge_offender(
    gate: &Gate,
    mode: Mode,
    variable: &str,
    answer: &DryRun,
) -> Result<String, String> {
    const FIELD: &str = "spec.template.spec.containers[0].env[0]";
    let passed = answer.code < 300;
    let warned = answer
        .warnings
        .iter()
        .any(|warning| warning.contains(variable));
    let ours = answer.code == 403 && message(answer).contains(FIELD);
    match mode {
        Mode::Enforce if ours => Ok(format!("is refused, for {FIELD}")),
        Mode::Warn if passed && warned => Ok("is let through with a warning".to_owned()),
        _ if passed => Err(
            "it would be stored without a warning: the webhook was not called; see `kubectl get validatingwebhookconfigurations` and its namespaceSelector"
                .to_owned(),
        ),
        _ => Err(refused(&gate.namespace, answer)),
    }
}

/// Describes an unexpected refusal: of an object that should be accepted, or with another message
/// than the expected one.
fn refused(namespace: &str, answer: &DryRun) -> String {
    let message = message(answer);
    let next = if message.contains("failed calling webhook") {
        "no replica answered; see `kubectl get pods -A -l app.kubernetes.io/name=migration-gate` and their logs".to_owned()
    } else if answer.code == 404 {
        format!(
            "create it, or the application, which brings it: `kubectl create namespace {namespace}`"
        )
    } else if answer.code == 401 || (answer.code == 403 && message.contains("cannot ")) {
        format!(
            "see `kubectl auth can-i create deployments -n {namespace}` as this account; `helm test` makes one that may"
        )
    } else if message.contains(OUR_DENIAL) {
        format!(
            "migration-gate refuses the object as it is stored, and so the next apply of it: correct its manifest; `kubectl get deployments -n {namespace} -o yaml | migration-gate review -` shows every field"
        )
    } else {
        "migration-gate did not send this denial; check which other policies the cluster enforces"
            .to_owned()
    };
    format!("the API server answered {}: {message}; {next}", answer.code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::config;

    fn answer(code: u16, body: Value, warnings: &[&str]) -> DryRun {
        DryRun {
            code,
            body,
            warnings: warnings.iter().map(|w| (*w).to_owned()).collect(),
        }
    }

    const DEPLOYMENT: HeldKind = HeldKind::Deployment;

    #[test]
    fn an_example_matches_its_gate() {
        let config = config::parse(
            "gates: [{name: a, namespace: b, job: c, serviceAccount: d, deployments: [web, api], selector: {matchLabels: {p: q}, \
             matchExpressions: [{key: e, operator: Exists}, {key: i, operator: In, values: [j, k]}, \
             {key: m, operator: NotIn, values: [o]}, {key: z, operator: DoesNotExist}]}, \
             workloads: [{kind: CronJob, name: nightly-*}, {kind: StatefulSet, selector: {matchLabels: {s: t}}}]}]",
            "test",
        )
        .unwrap();
        let gate = &config.gates[0];
        let examples = examples(gate);
        let named = examples.iter().map(|e| (e.kind.as_str(), e.name.as_str()));
        let expect = [
            ("Deployment", "api"),
            ("Deployment", "web"),
            ("Deployment", NAME),
            ("CronJob", "nightly-check"),
            ("StatefulSet", NAME),
        ];
        assert_eq!(named.collect::<Vec<_>>(), expect);
        let labels = examples[2].labels.as_ref().unwrap();
        assert_eq!(json!(labels), json!({"p": "q", "e": "any", "i": "j"}));
    }

    #[test]
    fn nothing_matches_a_contradiction() {
        let selector = |values: &str| {
            let text = format!(
                "gates: [{{name: a, namespace: b, job: c, serviceAccount: d, selector: {{matchLabels: {{p: q}}, matchExpressions: [{{key: p, operator: In, values: [{values}]}}]}}}}]"
            );
            config::parse(&text, "test").unwrap().gates[0]
                .selector
                .clone()
                .unwrap()
        };
        assert_eq!(matching(&selector("r")), None);
        assert!(matching(&selector("r, q")).is_some());
    }

    #[test]
    fn a_held_deployment_must_wait() {
        let gate = &Config::default().gates[0];
        let with = |names: &[&str]| {
            let containers: Vec<Value> = names.iter().map(|n| json!({"name": n})).collect();
            answer(
                201,
                json!({"spec": {"template": {"spec": {"initContainers": containers}}}}),
                &[],
            )
        };
        assert!(judge_held(gate, DEPLOYMENT, &with(&[WAITER_CONTAINER, "x"])).is_ok());
        assert!(judge_held(gate, DEPLOYMENT, &with(&["mesh-init", WAITER_CONTAINER])).is_ok());
        for without in [with(&["x"]), with(&[]), answer(201, json!({}), &[])] {
            let said = judge_held(gate, DEPLOYMENT, &without).unwrap_err();
            assert!(said.contains("was not called"), "{said}");
        }
    }

    #[test]
    fn every_refusal_has_a_next_step() {
        let gate = &Config::default().gates[0];
        let others = "which other policies the cluster enforces";
        for (code, step, message) in [
            (
                500,
                "no replica answered",
                r#"Internal error occurred: failed calling webhook "x""#,
            ),
            (
                404,
                "kubectl create namespace",
                r#"namespaces "x" not found"#,
            ),
            (
                403,
                "auth can-i",
                r#"deployments.apps is forbidden: User "x" cannot create resource"#,
            ),
            (403, others, "exceeded quota"),
            (403, others, r#"admission webhook "y" denied the request"#),
            (
                403,
                "correct its manifest",
                r#"admission webhook "forbidden-env.migration-gate.io" denied the request: spec.x: `V`"#,
            ),
        ] {
            let refused = answer(code, json!({"message": message}), &[]);
            for said in [
                judge_held(gate, DEPLOYMENT, &refused).unwrap_err(),
                judge_offender(gate, Mode::Enforce, "V", &refused).unwrap_err(),
            ] {
                assert!(said.contains(message) && said.contains(step), "{said}");
            }
        }
    }

    #[test]
    fn an_offender_is_refused_or_warned_of() {
        let gate = &Config::default().gates[0];
        let judge = |mode, answer: &DryRun| judge_offender(gate, mode, "V", answer).is_ok();
        let denied = answer(
            403,
            json!({"message": "denied: spec.template.spec.containers[0].env[0]: V"}),
            &[],
        );
        let warned = answer(201, json!({}), &["299 - \"spec: V\""]);
        let silent = answer(201, json!({}), &["299 - \"something else\""]);
        assert!(judge(Mode::Enforce, &denied));
        assert!(!judge(Mode::Warn, &denied));
        assert!(judge(Mode::Warn, &warned));
        assert!(!judge(Mode::Enforce, &warned));
        assert!(!judge(Mode::Warn, &silent));
        assert!(!judge(Mode::Enforce, &silent));
    }
}
