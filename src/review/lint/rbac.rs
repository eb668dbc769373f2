//! Whether the account of a held pod may see what the waiter asks for.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{World, warning};
use crate::review::check::Finding;
use migration_gate_core::field::FieldPath;
use migration_gate_core::gates::Gate;
use migration_gate_core::injection::account;
use migration_gate_core::names;
use migration_gate_core::podspec::list;

/// What the waiter asks the API server for.
struct Need<'g> {
    group: &'static str,
    resource: &'static str,
    /// The one object that it asks for, where that is known beforehand.
    name: Option<&'g str>,
    verbs: &'static [&'static str],
    /// What becomes of a waiter that isn't allowed to.
    without: &'static str,
}

const WATCH: &[&str] = &["get", "list", "watch"];

pub(super) fn lint(
    world: &World<'_, '_>,
    gate: &Gate,
    held: &[usize],
    findings: &mut Vec<Finding>,
) {
    let record = names::record(&gate.name);
    let need = |group, resource, name, verbs, without| Need {
        group,
        resource,
        name,
        verbs,
        without,
    };
    // The worst first: what is said of several is what the first one leads to.
    let needs = [
        need(
            "batch",
            "jobs",
            Some(&*gate.job),
            WATCH,
            "the waiter exits 5 after 30s",
        ),
        need(
            "",
            "configmaps",
            Some(&*record),
            WATCH,
            "pods that start once the Job is gone wait in vain",
        ),
        need(
            "",
            "pods",
            None,
            &["list"],
            "a failed Job's logs are not shown",
        ),
        need(
            "",
            "pods/log",
            None,
            &["get"],
            "a failed Job's logs are not shown",
        ),
    ];
    let mut accounts: BTreeMap<&str, usize> = BTreeMap::new();
    for index in held {
        let spec = world.stored(*index).pointer("/spec/template/spec");
        let account = spec.and_then(account).unwrap_or(&gate.service_account);
        accounts.entry(account).or_insert(*index);
    }
    for (account, deployment) in accounts {
        let Some(granted) = Granted::to(world, &gate.namespace, account) else {
            // A role that is not among the manifests may grant everything.
            continue;
        };
        let at = FieldPath::from_iter(["spec", "template", "spec", "serviceAccountName"]);
        let missing: Vec<(String, &str)> = needs
            .iter()
            .filter_map(|need| Some((granted.missing(need)?, need.without)))
            .collect();
        if let Some((_, without)) = missing.first() {
            let missing: Vec<&str> = missing.iter().map(|(text, _)| text.as_str()).collect();
            findings.push(warning(
                deployment,
                "missing-rbac",
                at,
                format!(
                    "nothing among the reviewed manifests lets ServiceAccount {}/{account} {}; bind it to a Role that does, or let the chart do it (`rbac.gates`): without, {without}",
                    gate.namespace,
                    missing.join("; "),
                ),
            ));
        } else if world
            .find("", "ServiceAccount", &gate.namespace, account)
            .is_none()
        {
            findings.push(warning(
                deployment,
                "no-account",
                at,
                format!(
                    "ServiceAccount {}/{account} is not among the reviewed manifests, although rights are bound to it; no pod is created until it exists",
                    gate.namespace
                ),
            ));
        }
    }
}

/// The rules that an account has in a namespace.
struct Granted<'w>(Vec<&'w Value>);

impl<'w> Granted<'w> {
    /// `None` if the account is bound to a role that isn't among the objects.
    fn to(world: &World<'w, '_>, namespace: &str, account: &str) -> Option<Self> {
        let mut rules = Vec::new();
        for index in 0..world.objects.len() {
            let request = world.request(index);
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
            let role = world.objects.iter().find(|object| {
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

    /// What is missing of what is needed, as `kubectl auth can-i` would say it.
    fn missing(&self, need: &Need<'_>) -> Option<String> {
        let missing: Vec<&str> = need
            .verbs
            .iter()
            .copied()
            .filter(|verb| !self.allows(need, verb))
            .collect();
        let name = need.name.map(|name| format!("/{name}")).unwrap_or_default();
        (!missing.is_empty()).then(|| format!("{} {}{name}", missing.join(", "), need.resource))
    }

    fn allows(&self, need: &Need<'_>, verb: &str) -> bool {
        self.0.iter().any(|rule| {
            let lists = |field: &str, wanted: &str| {
                list(rule, field).iter().any(|v| v == wanted || v == "*")
            };
            let names = list(rule, "resourceNames");
            lists("apiGroups", need.group)
                && lists("resources", need.resource)
                && lists("verbs", verb)
                && (names.is_empty()
                    || need
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
