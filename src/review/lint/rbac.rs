//! Whether the account of a held pod has the rights that the waiter needs.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Gated, World};
use crate::review::codes::Code;
use crate::review::report::Finding;
use migration_gate_core::gates::Requirement;
use migration_gate_core::injection::account;
use migration_gate_core::names;
use migration_gate_core::podspec::{list, pod_kind};

/// A right that the waiter needs.
struct Permission<'g> {
    group: &'static str,
    resource: &'static str,
    /// The name of the object, if it is known beforehand.
    name: Option<&'g str>,
    verbs: &'static [&'static str],
    /// The consequence for a waiter that lacks it.
    without: &'static str,
}

const WATCH: &[&str] = &["get", "list", "watch"];

/// The waiter's rights, the most important first: only the consequence of the first missing right
/// is printed.
fn permissions<'g>(requirements: &'g [Requirement], record: &'g str) -> Vec<Permission<'g>> {
    let permission = |group, resource, name, verbs, without| Permission {
        group,
        resource,
        name,
        verbs,
        without,
    };
    let logs = "a failed Job's logs are not shown";
    let without_jobs = "the waiter exits with code 5 after 30s";
    // To read Jobs by a pattern or by labels, an account needs the right to read all of them.
    let sources = requirements
        .iter()
        .flat_map(|requirement| &requirement.any_of);
    let jobs =
        sources.map(|source| permission("batch", "jobs", source.exact_name(), WATCH, without_jobs));
    let others = [
        permission(
            "",
            "configmaps",
            Some(record),
            WATCH,
            "pods that start after the Job is gone wait until they time out",
        ),
        permission("", "pods", None, &["list"], logs),
        permission("", "pods/log", None, &["get"], logs),
    ];
    jobs.chain(others).collect()
}

pub(super) fn lint(gated: &Gated<'_>) -> Vec<Finding> {
    let mut accounts: BTreeMap<&str, usize> = BTreeMap::new();
    for index in &gated.workloads {
        let request = gated.world.request(*index);
        let kind = pod_kind(request.group, request.kind);
        let spec = kind.and_then(|kind| kind.pod_spec(gated.world.stored(*index)));
        let account = spec
            .and_then(account)
            .unwrap_or(&gated.gate.service_account);
        accounts.entry(account).or_insert(*index);
    }
    let findings = accounts
        .into_iter()
        .filter_map(|(account, workload)| of_account(gated, account, workload));
    findings.collect()
}

/// Whether the reviewed manifests give every right to the account of a held workload.
pub(super) fn is_granted(gated: &Gated<'_>, workload: usize) -> bool {
    let request = gated.world.request(workload);
    let kind = pod_kind(request.group, request.kind);
    let spec = kind.and_then(|kind| kind.pod_spec(gated.world.stored(workload)));
    let Some(account) = spec.and_then(account) else {
        return false;
    };
    let record = names::record(&gated.gate.name);
    Granted::to(gated.world, &gated.gate.namespace, account).is_some_and(|granted| {
        let requirements = gated.gate.requirements();
        permissions(&requirements, &record)
            .iter()
            .all(|needed| granted.missing(needed).is_none())
    })
}

fn of_account(gated: &Gated<'_>, account: &str, workload: usize) -> Option<Finding> {
    let namespace = &gated.gate.namespace;
    // A role that is not among the manifests may grant everything.
    let granted = Granted::to(gated.world, namespace, account)?;
    let record = names::record(&gated.gate.name);
    let requirements = gated.gate.requirements();
    let needed = permissions(&requirements, &record);
    let missing: Vec<(String, &str)> = needed
        .iter()
        .filter_map(|needed| Some((granted.missing(needed)?, needed.without)))
        .collect();
    let (code, message) = if let Some((_, without)) = missing.first() {
        let listed =
            *account == gated.gate.service_account || gated.gate.extra_accounts.contains(account);
        let chart = gated.world.config.rbac.gates;
        // The chart gives the rights to this account.
        if listed && chart {
            return None;
        }
        let missing: Vec<&str> = missing.iter().map(|(text, _)| text.as_str()).collect();
        let remedy = if chart {
            "bind it to a Role that does, or list it in the gate's `extraAccounts` (the chart)"
        } else {
            "bind it to a Role that does, since with `rbac.gates: false` the chart brings none"
        };
        let message = format!(
            "nothing among the reviewed manifests lets ServiceAccount {namespace}/{account} {}; {remedy}; otherwise {without}",
            missing.join("; "),
        );
        (Code::MissingRbac, message)
    } else {
        let there = gated.world.find("", "ServiceAccount", namespace, account);
        if there.is_some() {
            return None;
        }
        let message = format!(
            "ServiceAccount {namespace}/{account} is not among the reviewed manifests, although rights are bound to it; no pod is created until it exists"
        );
        (Code::NoAccount, message)
    };
    let request = gated.world.request(workload);
    let kind = pod_kind(request.group, request.kind)?;
    let field = kind.field().key("serviceAccountName");
    Some(Finding::new(workload, code, field, message))
}

/// The rules that an account has in a namespace.
struct Granted<'w>(Vec<&'w Value>);

impl<'w> Granted<'w> {
    /// `None` if the account is bound to a role that isn't among the objects.
    fn to(world: &World<'w>, namespace: &str, account: &str) -> Option<Self> {
        let mut rules = Vec::new();
        for (_, object) in world.all() {
            let request = &object.manifest.request;
            let here = match (request.group, request.kind) {
                ("rbac.authorization.k8s.io", "RoleBinding") => request.namespace == namespace,
                ("rbac.authorization.k8s.io", "ClusterRoleBinding") => true,
                _ => false,
            };
            if !here || !binds(request.object, request.namespace, namespace, account) {
                continue;
            }
            let role = request.object.get("roleRef")?;
            let kind = role.get("kind")?.as_str()?;
            let name = role.get("name")?.as_str()?;
            let (_, role) = world.all().find(|(_, object)| {
                let request = &object.manifest.request;
                request.group == "rbac.authorization.k8s.io"
                    && request.kind == kind
                    && request.name() == Some(name)
                    && (kind == "ClusterRole" || request.namespace == namespace)
            })?;
            rules.extend(list(role.manifest.request.object, "rules"));
        }
        Some(Self(rules))
    }

    /// The missing part of a right, in the words of `kubectl auth can-i`.
    fn missing(&self, needed: &Permission<'_>) -> Option<String> {
        let missing: Vec<&str> = needed
            .verbs
            .iter()
            .copied()
            .filter(|verb| !self.allows(needed, verb))
            .collect();
        let name = needed
            .name
            .map(|name| format!("/{name}"))
            .unwrap_or_default();
        (!missing.is_empty()).then(|| format!("{} {}{name}", missing.join(", "), needed.resource))
    }

    fn allows(&self, needed: &Permission<'_>, verb: &str) -> bool {
        self.0.iter().any(|rule| {
            let lists = |field: &str, wanted: &str| {
                list(rule, field).iter().any(|v| v == wanted || v == "*")
            };
            let names = list(rule, "resourceNames");
            lists("apiGroups", needed.group)
                && lists("resources", needed.resource)
                && lists("verbs", verb)
                && (names.is_empty()
                    || needed
                        .name
                        .is_some_and(|name| names.iter().any(|n| n == name)))
        })
    }
}

/// Whether a binding has the account among its subjects, by itself or by one of its groups.
fn binds(binding: &Value, bound_in: &str, namespace: &str, account: &str) -> bool {
    list(binding, "subjects").iter().any(|subject| {
        let text = |field: &str| {
            subject
                .get(field)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        match text("kind") {
            "ServiceAccount" => {
                let own = text("namespace");
                let own = if own.is_empty() { bound_in } else { own };
                text("name") == account && own == namespace
            }
            "Group" => {
                let group = text("name");
                group == "system:serviceaccounts"
                    || group == "system:authenticated"
                    || group.strip_prefix("system:serviceaccounts:") == Some(namespace)
            }
            _ => false,
        }
    })
}
