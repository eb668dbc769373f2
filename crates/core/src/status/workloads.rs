//! Problems of workloads and their pods.

use super::commands::{quoted, retried};
use super::diagnosis::{Diagnosis, TroubleCode as Code};
use super::passage::{Decided, View};
use super::seen::{PodSeen, Snapshot, WaiterPlace, WorkloadSeen};
use crate::explain;
use crate::names::WAITER_CONTAINER;

pub(super) fn diagnose(view: &View<'_>, troubles: &mut Vec<Diagnosis>) {
    for (workload, decided) in &view.held {
        let case = WorkloadCase {
            view,
            workload,
            opens: matches!(decided, Some(Decided::Opens(_))),
        };
        troubles.extend(case.waiter());
        troubles.extend(case.version());
        troubles.extend(case.gates());
        troubles.extend(case.overdue());
        troubles.extend(case.refused());
    }
    pods(view, troubles);
}

/// A merge patch that changes a pod template without any effect on its pods.
const RESTARTED: &str =
    r#"{"spec":{"template":{"metadata":{"annotations":{"migration-gate.io/restarted":"NOW"}}}}}"#;

/// How long a running waiter may take to see that the gate is open, in seconds.
const SEEING: u64 = 60;

struct WorkloadCase<'a> {
    view: &'a View<'a>,
    workload: &'a WorkloadSeen,
    opens: bool,
}

impl WorkloadCase<'_> {
    fn start(&self, code: Code, cause: impl Into<String>) -> Diagnosis {
        Diagnosis::new(code, self.workload.shown(), cause)
            .of_gate(&self.view.gate.name)
            .within(&self.workload.namespace)
    }

    fn kubectl(&self, rest: &str) -> String {
        let namespace = &self.workload.namespace;
        self.view.snapshot.flags.kubectl(namespace, rest)
    }

    /// The change that makes the webhook update the waiter.
    fn restart(&self) -> String {
        use crate::gates::HeldKind;
        let resource = quoted(&self.workload.resource());
        match self.workload.kind {
            // `kubectl rollout restart` refuses a paused Deployment, but a patch updates its
            // waiter.
            HeldKind::Deployment if self.workload.paused => self.annotate(&resource, RESTARTED),
            HeldKind::Deployment | HeldKind::StatefulSet | HeldKind::DaemonSet => {
                self.kubectl(&format!("rollout restart {resource}"))
            }
            // `kubectl rollout restart` does not support these. Any change of the template does the
            // same.
            HeldKind::CronJob => self.annotate(
                &resource,
                r#"{"spec":{"jobTemplate":{"spec":{"template":{"metadata":{"annotations":{"migration-gate.io/restarted":"NOW"}}}}}}}"#,
            ),
            HeldKind::Rollout => self.annotate(&resource, RESTARTED),
        }
    }

    fn annotate(&self, resource: &str, patch: &str) -> String {
        let now = self.view.now.as_second().to_string();
        let patch = patch.replace("NOW", &now);
        self.kubectl(&format!("patch {resource} --type=merge -p '{patch}'"))
    }

    fn waiter(&self) -> Option<Diagnosis> {
        let at_next = "A roll-out fixes it:";
        Some(match &self.workload.waiter {
            WaiterPlace::InPlace | WaiterPlace::Windows => return None,
            WaiterPlace::Missing => self
                .start(
                    Code::WaiterMissing,
                    "It has no waiter. It gets one with the next change of its pod template; until then it starts no new version.",
                )
                .milder_if(true)
                .fix("A roll-out gives it one now:", self.restart()),
            WaiterPlace::HandWritten => self
                .start(Code::WaiterStale, "It has a hand-written init container with the waiter's name.")
                .fix(at_next, self.restart()),
            WaiterPlace::Stale(cause) => self
                .start(
                    Code::WaiterStale,
                    format!("Its waiter waits for something else: {}.", explain::quoted(cause)),
                )
                .fix(at_next, self.restart()),
            WaiterPlace::NotFirst => self
                .start(
                    Code::WaiterNotFirst,
                    "Another init container comes before the waiter, and runs before the migration.",
                )
                .fix(at_next, self.restart()),
        })
    }

    fn version(&self) -> Option<Diagnosis> {
        let error = self.workload.wanted.as_ref()?.as_ref().err()?;
        let cause = format!("Its version cannot be determined: {error}. Its new pods never start.");
        let resource = quoted(&self.workload.resource());
        Some(self.start(Code::VersionUnknown, cause).fix(
            "Correct the template, or `container` or `version` of the gate:",
            self.kubectl(&format!("edit {resource}")),
        ))
    }

    fn gates(&self) -> Option<Diagnosis> {
        let (first, others) = self.workload.gates.split_first()?;
        if others.is_empty() {
            return None;
        }
        let cause = format!(
            "It waits only for gate {first}, although gate {} holds it too.",
            others.join(" and gate ")
        );
        let start = self.start(Code::TwoGates, cause);
        let text = "List the Jobs of both in one gate, or narrow `workloads` and `selector`";
        Some(match self.view.snapshot.release.as_ref() {
            Some(release) => start.fix(
                format!("{text}; the configuration is here:"),
                self.view.snapshot.flags.kubectl(
                    &release.namespace,
                    &format!("get configmap {} -o yaml", quoted(&release.name)),
                ),
            ),
            None => start.advise(format!("{text}.")),
        })
    }

    fn overdue(&self) -> Option<Diagnosis> {
        let message = self.workload.overdue.as_ref()?;
        let cause = format!(
            "Its roll-out takes longer than its progressDeadlineSeconds, so appliers report a \
             failure: {}",
            explain::quoted(message)
        );
        let longer = self.view.gate.timeout.as_secs() * 2;
        let resource = quoted(&self.workload.resource());
        let start = self.start(Code::ProgressDeadline, cause).milder_if(true);
        let start = start.advise("This ends with the roll-out.");
        Some(
            if self
                .workload
                .deadline
                .is_some_and(|deadline| deadline < longer)
            {
                start.fix(
                "For the next time:",
                self.kubectl(&format!(
                    r#"patch {resource} --type=merge -p '{{"spec":{{"progressDeadlineSeconds":{longer}}}}}'"#
                )),
            )
            } else {
                start
            },
        )
    }

    fn refused(&self) -> Option<Diagnosis> {
        let message = self.workload.refusal.as_ref()?;
        // This problem has a diagnosis of its own, with a better remedy.
        let known = self
            .view
            .namespace
            .accounts
            .as_ref()
            .is_some_and(|accounts| {
                let account = self.workload.account.as_deref().unwrap_or("default");
                !accounts.contains(account)
            });
        if known {
            return None;
        }
        let start = self.start(Code::PodsRefused, "Its pods cannot be created.");
        let start = start.with(&[explain::quoted(message)]);
        let resource = quoted(&self.workload.resource());
        let start = if message.contains("exceeded quota") {
            let look = self.kubectl("describe resourcequotas");
            start.fix("Raise the quota, or free some of it:", look)
        } else if !self.workload.offences.is_empty() && self.opens {
            return Some(start.advise("Remove the forbidden variable that it sets."));
        } else {
            let look = self.kubectl(&format!("describe {resource}"));
            start.fix("Find the cause and fix it:", look)
        };
        // The controller's back-off grows to a quarter of an hour.
        let again = retried(self.view.now);
        let again = self.kubectl(&format!("annotate {resource} --overwrite {again}"));
        Some(start.fix("Then make its controller try again:", again))
    }
}

/// Problems of pods that wait, or should no longer wait.
fn pods(view: &View<'_>, troubles: &mut Vec<Diagnosis>) {
    let case = PodsCase { view };
    let found = [
        case.blocked(),
        case.crashing(),
        case.outdated(),
        case.cut_off(),
        case.late(),
    ];
    troubles.extend(found.into_iter().flatten());
}

struct PodsCase<'a> {
    view: &'a View<'a>,
}

impl<'a> PodsCase<'a> {
    fn kubectl(&self, rest: &str) -> String {
        let namespace = &self.view.gate.namespace;
        self.view.snapshot.flags.kubectl(namespace, rest)
    }

    /// The pods for which `holds` is true; `None` if there are none.
    fn those(&self, holds: impl Fn(&PodSeen) -> bool) -> Option<Vec<&'a PodSeen>> {
        let pods: Vec<&PodSeen> = self.view.pods().filter(|pod| holds(pod)).collect();
        (!pods.is_empty()).then_some(pods)
    }

    fn start(&self, code: Code, pods: &[&PodSeen], cause: &str) -> Diagnosis {
        let object = match pods {
            [one] => format!("Pod {}", one.name),
            [one, others @ ..] => format!("Pod {} and {} more", one.name, others.len()),
            [] => String::new(),
        };
        Diagnosis::new(code, object, cause)
            .of_gate(&self.view.gate.name)
            .within(&self.view.gate.namespace)
    }

    /// The waiter's decision for this pod.
    fn decided(&self, pod: &PodSeen) -> Option<Decided> {
        self.view.decide(pod.wanted.as_ref()?)
    }

    fn opens(&self, pod: &PodSeen) -> bool {
        matches!(self.decided(pod), Some(Decided::Opens(_)))
    }

    fn blocked(&self) -> Option<Diagnosis> {
        let pods = self.those(|pod| pod.blocked.is_some())?;
        let message = pods[0].blocked.as_deref().unwrap_or_default();
        let describe = format!("describe pod {}", quoted(&pods[0].name));
        let start = self.start(Code::PodBlocked, &pods, "Its waiter cannot start.");
        Some(start.with(&[explain::quoted(message)]).fix(
            "Find the cause and fix it; the pod then starts by itself:",
            self.kubectl(&describe),
        ))
    }

    fn crashing(&self) -> Option<Diagnosis> {
        let pods = self.those(|pod| pod.crash.is_some())?;
        let message = pods[0].crash.as_deref().unwrap_or_default();
        let cause = "Its waiter is killed before it finishes, and restarted.";
        let start = self.start(Code::PodBlocked, &pods, cause);
        let start = start.with(&[explain::quoted(message)]);
        let describe = self.kubectl(&format!("describe pod {}", quoted(&pods[0].name)));
        Some(if message.contains("OOMKilled") {
            let text = "Raise waiter.resources in the chart's values, and roll the workload out. Its present limits:";
            start.fix(text, describe)
        } else {
            start.fix("Find out what kills it, and fix that:", describe)
        })
    }

    /// Pods of an old version whose controller does not replace a pod that was never ready.
    fn outdated(&self) -> Option<Diagnosis> {
        let pods = self.those(|pod| {
            let kind = pod.owner.as_ref().map(|(kind, _)| kind.as_str());
            let is_wanted = self
                .view
                .held
                .iter()
                .any(|(workload, _)| workload.version() == pod.wanted.as_ref());
            matches!(kind, Some("StatefulSet" | "Job"))
                && !is_wanted
                && matches!(self.decided(pod), Some(Decided::Waits(_)))
        })?;
        let cause = "It waits for a version that its workload no longer wants, and its controller does not replace it.";
        let delete: Vec<String> = pods
            .iter()
            .filter_map(|pod| match pod.owner.as_ref()? {
                (kind, job) if kind == "Job" => Some(format!("job/{}", quoted(job))),
                _ => Some(format!("pod/{}", quoted(&pod.name))),
            })
            .collect();
        Some(self.start(Code::PodOutdated, &pods, cause).fix(
            "Delete it; its replacement has the wanted version:",
            self.kubectl(&format!("delete {}", delete.join(" "))),
        ))
    }

    fn cut_off(&self) -> Option<Diagnosis> {
        // A pod that waits for something else has a diagnosis of its own.
        let stale = |pod: &PodSeen| {
            let mut held = self.view.held.iter();
            held.any(|(workload, _)| {
                !workload.goes_by_the_gate() && workload.version() == pod.wanted.as_ref()
            })
        };
        let pods = self.those(|pod| {
            let since = self.view.seconds_since(pod.since);
            let has_time = since.is_some_and(|seconds| seconds > SEEING);
            pod.runs && has_time && self.opens(pod) && !stale(pod)
        })?;
        let cause = "The gate is open, but its running waiter does not see it.";
        let start = self.start(Code::WaiterCutOff, &pods, cause);
        let said = pods[0].ended.as_ref().map(|(_, message)| message.as_str());
        let said = said.and_then(|message| message.lines().last());
        let details: Vec<String> = said.map(explain::quoted).into_iter().collect();
        let logs = format!(
            "logs {} -c {WAITER_CONTAINER} --tail=5",
            quoted(&pods[0].name)
        );
        Some(start.with(&details).fix(
            "Let it reach the API server. A NetworkPolicy or a mesh may block it; if not, its log says why:",
            self.kubectl(&logs),
        ))
    }

    fn late(&self) -> Option<Diagnosis> {
        let pods = self.those(|pod| pod.backs_off && pod.crash.is_none() && self.opens(pod))?;
        let names: Vec<String> = pods.iter().map(|pod| quoted(&pod.name)).collect();
        let cause = "The gate is open, but the waiter ended before that, and Kubernetes delays its next start by up to five minutes.";
        Some(self.start(Code::PodBackOff, &pods, cause).fix(
            "Replace these pods:",
            self.kubectl(&format!("delete pod {}", names.join(" "))),
        ))
    }
}

/// Problems of workloads, held or not.
pub(super) fn unkept(snapshot: &Snapshot<'_>, troubles: &mut Vec<Diagnosis>) {
    let meant = |gate: &str, namespace: &str| {
        let mut gates = snapshot.gates.iter();
        gates.any(|one| one.name == gate && one.namespace == namespace)
    };
    // A report on single gates omits workloads that belong to no gate.
    let all = snapshot.gates.len() == snapshot.config.gates.len();
    for (name, namespace) in &snapshot.namespaces {
        for workload in namespace.workloads.iter().flatten() {
            let kubectl = |rest: &str| snapshot.flags.kubectl(name, rest);
            let resource = quoted(&workload.resource());
            let of_gate = workload.gates.first().or(workload.waiter_gate.as_ref());
            let asked = all || of_gate.is_some_and(|gate| meant(gate, name));
            if !asked {
                continue;
            }
            if let (Some(patch), Some(gate)) = (&workload.removal, &workload.waiter_gate) {
                let cause = format!(
                    "It has a waiter of gate {gate}, but no gate holds it, so the waiter is not updated when the version changes: it opens by an old record, or never."
                );
                troubles.push(
                    Diagnosis::new(Code::WaiterUnkept, workload.shown(), cause)
                        .within(name)
                        .fix(
                            "Take the waiter out, or add the workload to a gate:",
                            kubectl(&format!("patch {resource} --type=json -p '{patch}'")),
                        ),
                );
            }
            if !workload.offences.is_empty() {
                troubles.push(offender(workload, &kubectl, &resource));
            }
        }
    }
}

fn offender(
    workload: &WorkloadSeen,
    kubectl: &impl Fn(&str) -> String,
    resource: &str,
) -> Diagnosis {
    let fields: Vec<&str> = workload
        .offences
        .iter()
        .map(|(field, _)| field.as_str())
        .collect();
    let mut variables: Vec<&str> = workload.offences.iter().map(|(_, v)| v.as_str()).collect();
    variables.sort_unstable();
    variables.dedup();
    let cause = format!(
        "It sets {}, which is forbidden: its pods run the migrations by themselves, and new ones \
         are refused ({}).",
        variables.join(", "),
        fields.join(", ")
    );
    let unset: Vec<String> = variables
        .iter()
        .map(|variable| format!("{variable}-"))
        .collect();
    Diagnosis::new(Code::Offender, workload.shown(), cause)
        .within(&workload.namespace)
        .fix(
            "Take it out of the manifest too:",
            kubectl(&format!("set env {resource} {}", unset.join(" "))),
        )
}
