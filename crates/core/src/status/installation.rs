//! Problems of the installed release.

use jiff::{SignedDuration, Timestamp};

use super::InstallationLine;
use super::commands::{SERVER_LOGS, quoted};
use super::diagnosis::{Diagnosis, TroubleCode as Code};
use super::records::fix_by_chart;
use super::seen::{
    Calling, Certificate, CertificateMaker, Installation, Server, Snapshot, Webhooks,
};
use crate::explain;

/// A certificate is renewed when a third of its lifetime is left. The renewal is late when only
/// this part of the lifetime (a quarter) is left, or a week if that is shorter.
const LATE: i64 = 4;

pub(super) fn line(release: &Installation) -> InstallationLine {
    let (replicas, ready) = match &release.server {
        Some(Server::Present {
            replicas, ready, ..
        }) => (Some(*replicas), Some(*ready)),
        _ => (None, None),
    };
    InstallationLine {
        name: release.name.clone(),
        namespace: release.namespace.clone(),
        version: release.version.clone(),
        replicas,
        ready,
        // A configuration that does not exist calls no webhook.
        answers: if lacks_webhooks(release) {
            Some(false)
        } else {
            let answer = release.answer.as_ref();
            answer.map(|answer| *answer == Calling::Good)
        },
        certificate_expires: release.certificate.as_ref().and_then(|c| c.not_after),
    }
}

/// Whether a webhook configuration does not exist, or has no webhooks.
fn lacks_webhooks(release: &Installation) -> bool {
    let mut found = release.webhooks.values();
    found.any(|found| found.as_ref().is_none_or(|found| found.bundles.is_empty()))
}

pub(super) fn diagnose(snapshot: &Snapshot<'_>, now: Timestamp) -> Vec<Diagnosis> {
    let Some(release) = &snapshot.release else {
        let cause = "No release of migration-gate is installed, so nothing is held.";
        return vec![
            Diagnosis::new(Code::NotInstalled, "The release", cause)
                .advise("Install the chart; its README has the command."),
        ];
    };
    let case = InstallationCase {
        snapshot,
        release,
        now,
    };
    // A replica is ready only while webhook configurations exist that trust its certificate.
    let waits_for_webhooks = lacks_webhooks(release)
        && matches!(&release.server, Some(Server::Present { replicas, .. }) if *replicas > 0);
    let server = case.server().filter(|_| !waits_for_webhooks);
    let mut troubles: Vec<Diagnosis> = server.into_iter().collect();
    troubles.extend(case.webhooks());
    troubles.extend(case.certificate());
    // The problems above explain why the webhooks do not answer.
    if troubles.is_empty() {
        troubles.extend(case.answer());
    }
    troubles
}

struct InstallationCase<'a> {
    snapshot: &'a Snapshot<'a>,
    release: &'a Installation,
    now: Timestamp,
}

impl InstallationCase<'_> {
    fn kubectl(&self, rest: &str) -> String {
        self.snapshot.flags.kubectl(&self.release.namespace, rest)
    }

    fn start(&self, code: Code, object: String, cause: impl Into<String>) -> Diagnosis {
        Diagnosis::new(code, object, cause).within(&self.release.namespace)
    }

    fn server(&self) -> Option<Diagnosis> {
        let name = &self.release.name;
        let object = format!("Deployment {name}");
        let refused =
            "so held workloads cannot be created, and their pod templates cannot be changed";
        match self.release.server.as_ref()? {
            Server::Missing => {
                let cause = format!("The server does not exist, {refused}.");
                let start = self.start(Code::ServerMissing, object, cause);
                Some(fix_by_chart(self.snapshot, start))
            }
            Server::Present { replicas: 0, .. } => {
                let cause = format!("It has no replicas, {refused}.");
                let start = self.start(Code::ServerNotReady, object, cause);
                let scale = format!("scale deployment {} --replicas=2", quoted(name));
                Some(start.fix("Start some:", self.kubectl(&scale)))
            }
            Server::Present {
                ready: 0, replicas, ..
            } => {
                let cause = format!("None of its {replicas} replicas is ready, {refused}.");
                let start = self.start(Code::ServerNotReady, object, cause);
                let pods = "describe pods -l app.kubernetes.io/name=migration-gate";
                Some(
                    start
                        .fix("Find out why they do not start:", self.kubectl(pods))
                        .fix("Read their logs:", self.kubectl(SERVER_LOGS)),
                )
            }
            Server::Present { .. } => None,
        }
    }

    fn webhooks(&self) -> Vec<Diagnosis> {
        let found = self.release.webhooks.iter();
        found
            .filter_map(|(kind, found)| self.webhook(kind, found.as_ref()))
            .collect()
    }

    fn webhook(&self, kind: &str, found: Option<&Webhooks>) -> Option<Diagnosis> {
        let name = &self.release.name;
        let object = format!("{kind} {name}");
        let Some(found) = found.filter(|found| !found.bundles.is_empty()) else {
            let cause = match kind {
                "MutatingWebhookConfiguration" => {
                    "It does not exist or has no webhooks, so held workloads get no waiter."
                }
                _ => "It does not exist or has no webhooks, so nothing is refused.",
            };
            let mut start = Diagnosis::new(Code::WebhookMissing, object, cause);
            start.namespace = None;
            return Some(fix_by_chart(self.snapshot, start));
        };
        let certificate = self.release.certificate.as_ref();
        let authorities = certificate
            .map(|c| c.authorities.as_str())
            .unwrap_or_default();
        let trusts = |bundle: &String| {
            !bundle.trim().is_empty()
                && (authorities.is_empty() || blocks(authorities).any(|ca| bundle.contains(ca)))
        };
        if found.bundles.iter().all(trusts) {
            return None;
        }
        let cause = "Its caBundle does not trust the server's certificate, so what it is asked about is refused.";
        let start = Diagnosis::new(Code::WebhookUntrusted, object, cause);
        let source = certificate.map_or(CertificateMaker::SelfManaged, |c| c.source);
        Some(match source {
            CertificateMaker::SelfManaged => start.fix(
                "A running server corrects this within seconds. If it does not, restart it:",
                self.kubectl(&format!("rollout restart deployment {}", quoted(name))),
            ),
            CertificateMaker::CertManager => start.fix(
                "cert-manager's cainjector writes it; check that it runs:",
                self.snapshot
                    .flags
                    .kubectl_alone("get pods -A -l app.kubernetes.io/component=cainjector"),
            ),
            CertificateMaker::Files => self.bundle_by_hand(start, kind, found, certificate),
        })
    }

    fn bundle_by_hand(
        &self,
        start: Diagnosis,
        kind: &str,
        found: &Webhooks,
        certificate: Option<&Certificate>,
    ) -> Diagnosis {
        let secret = certificate.map(|c| c.secret.as_str()).unwrap_or_default();
        let indices: Vec<String> = (0..found.bundles.len()).map(|i| i.to_string()).collect();
        let get = self.kubectl(&format!(
            r"get secret {} -o jsonpath='{{.data.ca\.crt}}'",
            quoted(secret)
        ));
        let patch = self.snapshot.flags.kubectl_alone(&format!(
            r#"patch {} {} --type=json -p "[$(for i in {}; do printf '{{"op":"add","path":"/webhooks/%s/clientConfig/caBundle","value":"%s"}},' $i "$CA"; done | sed 's/,$//')]""#,
            kind.to_lowercase(),
            quoted(&self.release.name),
            indices.join(" ")
        ));
        start.fix(
            format!("Write the CA of Secret {secret} into it, if the Secret has one as ca.crt:"),
            format!("CA=\"$({get})\"; {patch}"),
        )
    }

    fn certificate(&self) -> Option<Diagnosis> {
        let certificate = self.release.certificate.as_ref()?;
        let ends = certificate.not_after?;
        let left = ends.duration_since(self.now);
        let week = SignedDuration::from_hours(24 * 7);
        let late = match certificate.not_before {
            Some(begins) => {
                let life = ends.duration_since(begins).as_secs();
                week.min(SignedDuration::from_secs(life / LATE))
            }
            None => week,
        };
        if left > late {
            return None;
        }
        let secret = &certificate.secret;
        let object = format!("Secret {secret}");
        let cause = if left.is_negative() {
            format!("The server's certificate expired on {ends}, so the API server cannot call it.")
        } else {
            let left = explain::duration(left.unsigned_abs());
            format!("The server's certificate expires in {left}, on {ends}.")
        };
        let start = self
            .start(Code::CertificateExpiring, object, cause)
            .milder_if(!left.is_negative());
        let name = quoted(&self.release.name);
        Some(match certificate.source {
            CertificateMaker::SelfManaged => start.fix(
                "The server renews it at two thirds of its life. If it does not, read its log:",
                self.kubectl(SERVER_LOGS),
            ),
            CertificateMaker::CertManager => start.fix(
                "Find out why cert-manager does not renew it:",
                self.kubectl(&format!("describe certificate {name}")),
            ),
            CertificateMaker::Files => {
                start.advise(format!("Put a new certificate into Secret {secret}."))
            }
        })
    }

    fn answer(&self) -> Option<Diagnosis> {
        match self.release.answer.as_ref()? {
            Calling::Good => None,
            Calling::Failed(message) => {
                let object = format!("Service {}", self.release.name);
                let cause = "The API server cannot call the webhooks, so held workloads cannot be created, and their pod templates cannot be changed.";
                let start = self.start(Code::WebhookNotAnswering, object, cause);
                let start = start.with(&[explain::quoted(message)]);
                let look = self.kubectl("get pods,services,endpointslices,networkpolicies");
                Some(fix_by_chart(self.snapshot, start).fix(
                    "If everything exists, find out why the API server cannot reach it:",
                    look,
                ))
            }
            Calling::NotCalled(workload) => {
                let cause = format!(
                    "A change of {workload} would not reach the webhooks, so it gets no waiter."
                );
                let object = format!("MutatingWebhookConfiguration {}", self.release.name);
                let start = Diagnosis::new(Code::WebhookNotCalled, object, cause);
                let start = start.advise(
                    "Check its namespaceSelector and the labels of the gate's namespace, and that the installed configuration is the one given here.",
                );
                Some(fix_by_chart(self.snapshot, start))
            }
        }
    }
}

/// The certificates of a PEM file, each as its text.
fn blocks(pem: &str) -> impl Iterator<Item = &str> {
    const END: &str = "-----END CERTIFICATE-----";
    pem.split_inclusive(END)
        .map(str::trim)
        .filter(|block| block.ends_with(END))
}
