//! Commands that can be run as they are printed.

use jiff::Timestamp;

use crate::text::printable;

/// The command for the server's log, in its namespace.
pub(super) const SERVER_LOGS: &str =
    "logs -l app.kubernetes.io/name=migration-gate --prefix --tail=20";

/// The options with which a command uses the same cluster and configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flags {
    /// The name of this program: `migration-gate` or `kubectl migration-gate`.
    pub program: String,
    /// The kubeconfig, if one was given.
    pub kubeconfig: Option<String>,
    /// The context, if one was given.
    pub context: Option<String>,
    /// The configuration file, if one was given.
    pub config: Option<String>,
}

impl Default for Flags {
    fn default() -> Self {
        Self {
            program: "migration-gate".to_owned(),
            kubeconfig: None,
            context: None,
            config: None,
        }
    }
}

impl Flags {
    /// A kubectl command in a namespace.
    pub fn kubectl(&self, namespace: &str, rest: &str) -> String {
        let cluster = self.cluster("--context");
        format!("kubectl{cluster} -n {} {rest}", quoted(namespace))
    }

    /// A kubectl command without a namespace.
    pub fn kubectl_alone(&self, rest: &str) -> String {
        format!("kubectl{} {rest}", self.cluster("--context"))
    }

    /// A command of this program about a gate.
    pub fn own(&self, rest: &str, gate: &str) -> String {
        let config = option("--config", self.config.as_ref());
        let cluster = self.cluster("--context");
        format!(
            "{} {rest} --gate {}{config}{cluster}",
            self.program,
            quoted(gate)
        )
    }

    /// The command that applies all objects of a Helm release again. It does not change existing
    /// ones.
    ///
    /// It adds Helm's annotations: `helm uninstall` leaves objects without them, and webhooks
    /// without a server would remain.
    pub fn reapply(&self, release: &str, namespace: &str) -> String {
        let cluster = self.cluster("--kube-context");
        let (namespace, release) = (quoted(namespace), quoted(release));
        format!(
            "helm{cluster} -n {namespace} get manifest {release} | kubectl annotate --local -f - -o yaml \
             meta.helm.sh/release-name={release} meta.helm.sh/release-namespace={namespace} | {}",
            self.kubectl_alone("apply -f -")
        )
    }

    fn cluster(&self, context: &str) -> String {
        option("--kubeconfig", self.kubeconfig.as_ref()) + &option(context, self.context.as_ref())
    }
}

fn option(name: &str, value: Option<&String>) -> String {
    value.map_or_else(String::new, |value| format!(" {name} {}", quoted(value)))
}

/// An annotation that changes an object, so that its controller reconciles it.
pub(super) fn retried(now: Timestamp) -> String {
    format!("migration-gate.io/retried={}", now.as_second())
}

/// A word quoted for a shell, and safe for a terminal.
pub(super) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@,+%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else if printable(word) != word {
        // The notation of bash, zsh and ksh for special characters.
        let escaped: String = word.bytes().map(escaped).collect();
        format!("$'{escaped}'")
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

fn escaped(byte: u8) -> String {
    match byte {
        b'\'' | b'\\' => format!("\\{}", char::from(byte)),
        b' '..=b'~' => char::from(byte).to_string(),
        byte => format!("\\x{byte:02x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_reaches_the_cluster_that_was_looked_at() {
        let plain = Flags::default();
        assert_eq!(
            plain.kubectl("shop", "get pods"),
            "kubectl -n shop get pods"
        );
        let named = Flags {
            program: "kubectl migration-gate".to_owned(),
            kubeconfig: Some("/my files/config".to_owned()),
            context: Some("arn:aws:eks:x/y".to_owned()),
            config: Some("gates.yaml".to_owned()),
        };
        assert_eq!(
            named.kubectl_alone("get nodes"),
            "kubectl --kubeconfig '/my files/config' --context arn:aws:eks:x/y get nodes"
        );
        assert_eq!(
            named.own("record list", "shop"),
            "kubectl migration-gate record list --gate shop --config gates.yaml \
             --kubeconfig '/my files/config' --context arn:aws:eks:x/y"
        );
        assert_eq!(
            plain.reapply("gate", "ops"),
            "helm -n ops get manifest gate | kubectl annotate --local -f - -o yaml \
             meta.helm.sh/release-name=gate meta.helm.sh/release-namespace=ops | kubectl apply -f -"
        );
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted("1\u{1b}[2J'ä"), r"$'1\x1b[2J\'\xc3\xa4'");
    }
}
