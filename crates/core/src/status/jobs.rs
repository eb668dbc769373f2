//! Problems of a gate's Jobs, if workloads wait for them.

use super::commands::{quoted, retried};
use super::diagnosis::{Diagnosis, Grade, TroubleCode as Code};
use super::passage::{Decided, View};
use super::seen::{FAILED_MOUNT, JobSeen, WorkloadSeen};
use crate::applier::Applier;
use crate::explain::{self, capital, duration};
use crate::verdict::{JobName, Waiting, What};
use crate::version::Wanted;

/// How long the deletion of a Job may take until it counts as stuck, in seconds.
const STUCK: u64 = 60;

/// How long a Job may be without a pod, in seconds.
const AWAITED: u64 = 10;

/// A migration is reported when it takes this many times as long as the last one.
const SLOWER: u64 = 3;

pub(super) fn diagnose(view: &View<'_>, troubles: &mut Vec<Diagnosis>) {
    let mut found: Vec<Diagnosis> = Vec::new();
    for (workload, decided) in &view.held {
        let (Some(Ok(wanted)), Some(Decided::Waits(waiting))) = (&workload.wanted, decided) else {
            continue;
        };
        for waiting in waiting {
            let Some(diagnosis) = of_waiting(view, workload, wanted, waiting) else {
                continue;
            };
            // Two workloads of the same version wait for the same Job.
            let same = |known: &&mut Diagnosis| {
                known.code == diagnosis.code
                    && known.object == diagnosis.object
                    && known.remedies == diagnosis.remedies
            };
            match found.iter_mut().find(same) {
                Some(known) => {
                    known.cause = format!("{} So does {}.", known.cause, workload.shown());
                }
                None => found.push(diagnosis),
            }
        }
    }
    troubles.append(&mut found);
}

fn of_waiting(
    view: &View<'_>,
    workload: &WorkloadSeen,
    wanted: &Wanted,
    waiting: &Waiting,
) -> Option<Diagnosis> {
    let seen = match &waiting.job {
        JobName::Exact(name) => view.job(name),
        JobName::Any(_) => None,
    };
    let case = JobCase {
        view,
        workload,
        wanted,
        waiting,
        seen,
    };
    let diagnosis = match &waiting.what {
        What::Failed { .. } | What::FailedUnlessRecorded => case.failed(),
        What::NoJob | What::Vanished => case.missing(),
        What::OldComplete { .. } | What::OldFailed { .. } | What::Other { .. } => case.other(),
        What::Suspended { queue } => case.suspended(queue.as_deref()),
        What::NoPod => case.no_pod()?,
        What::PodNotReady { .. } => case
            .pod_blocked()
            .or_else(|| case.crashing())
            .or_else(|| case.slow())?,
        What::Running { .. } | What::BetweenAttempts { .. } | What::Succeeding | What::Failing => {
            case.crashing().or_else(|| case.slow())?
        }
        What::Empty => case.again(
            Code::JobEmpty,
            "Set spec.completions to 1, or leave it out.",
        ),
        What::Forgotten => case.again(Code::JobForgotten, "It has to run again."),
        What::Deleting => case.deleting()?,
        What::Nothing | What::Settling { .. } => return None,
    };
    Some(diagnosis)
}

struct JobCase<'a> {
    view: &'a View<'a>,
    workload: &'a WorkloadSeen,
    wanted: &'a Wanted,
    waiting: &'a Waiting,
    seen: Option<&'a JobSeen>,
}

impl JobCase<'_> {
    fn namespace(&self) -> &str {
        &self.view.gate.namespace
    }

    fn job(&self) -> String {
        match &self.waiting.job {
            JobName::Exact(name) | JobName::Any(name) => name.clone(),
        }
    }

    fn kubectl(&self, rest: &str) -> String {
        self.view.snapshot.flags.kubectl(self.namespace(), rest)
    }

    /// A problem of the Job in the waiter's words, with the workload that waits.
    fn start(&self, code: Code) -> Diagnosis {
        let subject = self.view.subject(self.wanted, &self.workload.applier);
        let sentence = explain::sentence(&subject, self.waiting);
        let cause = format!(
            "{}. {} waits for it.",
            capital(&sentence),
            self.workload.shown()
        );
        Diagnosis::new(code, format!("Job {}", self.job()), cause)
            .of_gate(&self.view.gate.name)
            .within(self.namespace())
            // If no pod waits now, only the next new one will.
            .milder_if(!self.view.holds_pods())
    }

    fn failed(&self) -> Diagnosis {
        let details = self
            .seen
            .map(|seen| seen.log.as_slice())
            .unwrap_or_default();
        let mut start = self.start(Code::JobFailed).with(details);
        // A failure does not end by itself, so it is an error even if no pod waits now.
        start.level = Grade::Error;
        let start = start.advise("Fix the cause; its log has the details.");
        self.rerun(start)
    }

    fn missing(&self) -> Diagnosis {
        let start = self.start(Code::JobMissing);
        self.unless_done(self.applied(start, "Apply the migration Job."))
    }

    /// Adds the remedy that creates a missing Job.
    fn applied(&self, start: Diagnosis, otherwise: &str) -> Diagnosis {
        match (self.by_applier(), self.applier()) {
            (Some((text, command)), _) => start.fix(format!("{}:", capital(&text)), command),
            (None, Applier::Helm { release }) => start.advise(format!(
                "Upgrade release {release} again, which applies the Job."
            )),
            (None, _) => start.advise(otherwise),
        }
    }

    /// Whether the gate requires this Job by its exact name.
    fn is_asked_for_by_name(&self) -> bool {
        let name = self.job();
        let requirements = self.view.gate.requirements();
        let mut sources = requirements.iter().flat_map(|of| &of.any_of);
        sources.any(|source| source.exact_name() == Some(name.as_str()))
    }

    /// Adds the command that records the wanted version as migrated.
    fn unless_done(&self, start: Diagnosis) -> Diagnosis {
        let (done, migrated) = match self.wanted.word() {
            Some(word) => (quoted(word), self.wanted.version()),
            None => ("--wanted".to_owned(), "all that the gate holds".to_owned()),
        };
        let done = format!("record done {done} --yes");
        let gate = &self.view.gate.name;
        start.fix(
            format!("If {migrated} is migrated already, record it:"),
            self.view.snapshot.flags.own(&done, gate),
        )
    }

    fn crashing(&self) -> Option<Diagnosis> {
        let seen = self.seen?;
        let crash = seen.crash.as_deref()?;
        let details: Vec<String> = std::iter::once(explain::quoted(crash))
            .chain(seen.log.iter().cloned())
            .collect();
        let job = quoted(&self.job());
        Some(self.start(Code::JobCrashing).with(&details).fix(
            "Read its log, and fix the cause:",
            self.kubectl(&format!(
                "logs -l batch.kubernetes.io/job-name={job} --all-containers --prefix --tail=20"
            )),
        ))
    }

    fn other(&self) -> Diagnosis {
        let start = self.start(Code::JobOfAnotherVersion);
        if !self.is_asked_for_by_name() {
            // Each version has a Job of its own, and the wanted version's is missing.
            let text = "Apply the migration Job of the wanted version.";
            return self.unless_done(self.applied(start, text));
        }
        let text = "A Job's template cannot be changed, so the Job must be created again.";
        match self.replacement() {
            Some((how, command)) => start.fix(format!("{text} {}:", capital(&how)), command),
            None => start.fix(
                format!("{text} Delete it, and apply the new one:"),
                self.delete(),
            ),
        }
    }

    fn delete(&self) -> String {
        self.kubectl(&format!("delete job {}", quoted(&self.job())))
    }

    fn applier(&self) -> &Applier {
        self.waiting.applier.or(&self.workload.applier)
    }

    /// How the Job's applier applies it again, in words and as a command. `None` if there is no
    /// such command: Helm needs the chart, and kubectl the manifests.
    fn by_applier(&self) -> Option<(String, String)> {
        Some(match self.applier() {
            Applier::ArgoCd { application, .. } => (
                "sync the whole Application, as a selective sync and self-heal run no hooks"
                    .to_owned(),
                format!("argocd app sync {application}"),
            ),
            Applier::Flux { namespace, name } => (
                "let Flux apply it again".to_owned(),
                self.reconcile("kustomizations.kustomize", namespace, name, RECONCILE),
            ),
            Applier::FluxRelease { namespace, name } => (
                "let Flux upgrade the release".to_owned(),
                self.reconcile("helmreleases.helm", namespace, name, FORCE),
            ),
            Applier::Helm { .. } | Applier::Kubectl | Applier::Unknown => return None,
        })
    }

    /// The same for an existing Job, which must be replaced.
    fn replacement(&self) -> Option<(String, String)> {
        if let Applier::Helm { release } = self.applier() {
            let text = format!("delete it, and upgrade release {release} again");
            return Some((text, self.delete()));
        }
        let (text, command) = self.by_applier()?;
        Some(match self.applier() {
            Applier::ArgoCd { replaces: true, .. } => (text, command),
            _ => (
                format!("delete it, and {text}"),
                format!("{} && {command}", self.delete()),
            ),
        })
    }

    fn suspended(&self, queue: Option<&str>) -> Diagnosis {
        match queue {
            Some(queue) => self.start(Code::JobQueued).fix(
                format!("Find out why queue {queue} does not admit it:"),
                self.kubectl("get workloads.kueue.x-k8s.io,localqueues.kueue.x-k8s.io"),
            ),
            None => self.start(Code::JobSuspended).fix(
                "Resume it:",
                self.kubectl(&format!(
                    r#"patch job {} --type=merge -p '{{"spec":{{"suspend":false}}}}'"#,
                    quoted(&self.job())
                )),
            ),
        }
    }

    fn no_pod(&self) -> Option<Diagnosis> {
        let seen = self.seen?;
        let age = self.view.seconds_since(seen.job.created)?;
        (age >= AWAITED).then(|| self.without_pod(seen))
    }

    fn without_pod(&self, seen: &JobSeen) -> Diagnosis {
        let job = quoted(&self.job());
        let start = self.start(Code::JobNoPod);
        let Some(refusal) = seen.refusal.as_deref() else {
            let look = self.kubectl(&format!("describe job {job}"));
            return start.fix("Read its Events:", look);
        };
        let start = start.with(&[explain::quoted(refusal)]);
        let look = if refusal.contains("exceeded quota") {
            let look = self.kubectl("describe resourcequotas");
            start.fix("Raise the quota, or free some of it:", look)
        } else {
            let look = self.kubectl(&format!("describe job {job}"));
            start.fix("Find the cause and fix it:", look)
        };
        // The Job controller's back-off grows to minutes.
        let again = format!("annotate job {job} --overwrite {}", retried(self.view.now));
        look.fix("Then make its controller try again:", self.kubectl(&again))
    }

    fn pod_blocked(&self) -> Option<Diagnosis> {
        let job = self.job();
        let mut pods = self.view.namespace.pods.iter().flatten();
        let pod = pods.find(|pod| pod.job.as_ref() == Some(&job) && pod.blocked.is_some())?;
        let message = pod.blocked.as_deref().unwrap_or_default();
        let start = self.start(Code::JobPodBlocked);
        let start = start.with(&[format!("Pod {}: {}", pod.name, explain::quoted(message))]);
        Some(if message.contains("persistentvolumeclaim") {
            let look = self.kubectl("get persistentvolumeclaims");
            start.fix("Create the claim, or find out why it is not bound:", look)
        } else if message.contains("Image") {
            let start = start.advise(
                "Push the image, or correct the pull secret. If its name is wrong, delete the Job, \
                 and apply the corrected one.",
            );
            self.rerun(start)
        } else if message.starts_with(FAILED_MOUNT) {
            let look = self.kubectl(&format!("describe pod {}", quoted(&pod.name)));
            let start = start.fix("Create what it mounts, such as a Secret:", look);
            // The kubelet's back-off for mounts grows to two minutes, so create the Job again.
            self.rerun(start)
        } else {
            let look = self.kubectl(&format!("describe pod {}", quoted(&pod.name)));
            start.fix(
                "Find the cause and fix it; the pod then starts by itself:",
                look,
            )
        })
    }

    fn slow(&self) -> Option<Diagnosis> {
        let seen = self.seen?;
        let seconds = self.view.seconds_since(seen.job.started)?;
        let last = self.view.last_took();
        let limit = self.view.gate.timeout.as_secs();
        let than = match last {
            Some(last) if seconds > last * SLOWER && seconds > last + STUCK => {
                format!("the last one took {}", words(last))
            }
            _ if seconds > limit => format!(
                "longer than the gate's timeout of {}, after which waiters start over",
                words(limit)
            ),
            _ => return None,
        };
        let job = self.job();
        let cause = format!(
            "Job {job} has been running for {}; {than}. {} waits for it.",
            words(seconds),
            self.workload.shown()
        );
        let mut diagnosis = self.start(Code::JobSlow).milder_if(true);
        diagnosis.cause = cause;
        Some(diagnosis.fix(
            "Read its log; a database lock is the usual cause:",
            self.kubectl(&format!(
                "logs -l batch.kubernetes.io/job-name={job} --all-containers --prefix --tail=20"
            )),
        ))
    }

    fn deleting(&self) -> Option<Diagnosis> {
        let seen = self.seen?;
        let seconds = self.view.seconds_since(seen.deleted)?;
        (seconds >= STUCK).then(|| {
            let job = quoted(&self.job());
            self.start(Code::JobDeleting).fix(
                "Find the finalizers or pods that block it:",
                self.kubectl(&format!(
                    "get job {job} -o jsonpath='{{.metadata.finalizers}}'"
                )),
            )
        })
    }

    fn again(&self, code: Code, text: &str) -> Diagnosis {
        let start = self.start(code).advise(text);
        self.rerun(start)
    }

    /// Adds the remedy that creates the same Job again.
    fn rerun(&self, start: Diagnosis) -> Diagnosis {
        if let Some((text, command)) = self.replacement() {
            return start.fix(format!("Then {text}:"), command);
        }
        if matches!(self.applier(), Applier::Unknown) {
            return start.fix("Then delete it, and apply it again:", self.delete());
        }
        let job = quoted(&self.job());
        let manifest = format!("apply view-last-applied job {job} -o json");
        let replace = self.kubectl("replace --force -f -");
        start.fix(
            "Then run it again, as it was applied last:",
            format!("{} | {replace}", self.kubectl(&manifest)),
        )
    }

    /// The command that sets `annotations`, by which Flux reconciles an object now.
    fn reconcile(&self, kind: &str, namespace: &str, name: &str, annotations: &str) -> String {
        let name = quoted(name);
        let annotate =
            format!("annotate {kind}.toolkit.fluxcd.io {name} --overwrite {annotations}");
        let annotate = self.view.snapshot.flags.kubectl(namespace, &annotate);
        format!("now=$(date +%s) && {annotate}")
    }
}

/// The annotation by which Flux reconciles an object.
const RECONCILE: &str = r#"reconcile.fluxcd.io/requestedAt="$now""#;
/// The annotations by which Flux upgrades a release that has not changed. Both must have the same
/// value.
const FORCE: &str = r#"reconcile.fluxcd.io/requestedAt="$now" reconcile.fluxcd.io/forceAt="$now""#;

fn words(seconds: u64) -> String {
    duration(std::time::Duration::from_secs(seconds))
}
