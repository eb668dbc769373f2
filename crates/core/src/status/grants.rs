//! The permissions that Roles grant, as far as they were read.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::podspec::list;

/// A permission that a ServiceAccount needs in a namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// The account's namespace.
    pub home: String,
    /// The account's name.
    pub account: String,
    /// The namespace of the permission.
    pub namespace: String,
    /// The verb.
    pub verb: &'static str,
    /// The API group; empty for the core group.
    pub group: &'static str,
    /// The resource's plural.
    pub resource: &'static str,
    /// The subresource, or empty.
    pub subresource: &'static str,
    /// The object's name, or empty for all objects.
    pub name: String,
}

impl Right {
    /// The permission in words: `watch jobs.batch/migrate`.
    pub fn words(&self) -> String {
        let group = match self.group {
            "" => String::new(),
            group => format!(".{group}"),
        };
        let of = [self.subresource, self.name.as_str()]
            .into_iter()
            .filter(|part| !part.is_empty())
            .map(|part| format!("/{part}"));
        let of: String = of.collect();
        format!("{} {}{group}{of}", self.verb, self.resource)
    }
}

/// The Roles and `RoleBinding`s of one namespace. They may not be all: other grants, such as
/// `ClusterRole`s, were not read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grants {
    rules: BTreeMap<String, Vec<PolicyRule>>,
    bindings: Vec<Binding>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct PolicyRule {
    groups: Vec<String>,
    resources: Vec<String>,
    verbs: Vec<String>,
    names: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Binding {
    role: String,
    /// Namespace and name of each ServiceAccount.
    accounts: Vec<(String, String)>,
}

impl Grants {
    /// Adds a Role.
    pub fn add_role(&mut self, role: &Value) {
        let texts = |rule: &Value, field: &str| -> Vec<String> {
            let texts = list(rule, field).iter().filter_map(Value::as_str);
            texts.map(str::to_owned).collect()
        };
        let rules = list(role, "rules").iter().map(|rule| PolicyRule {
            groups: texts(rule, "apiGroups"),
            resources: texts(rule, "resources"),
            verbs: texts(rule, "verbs"),
            names: texts(rule, "resourceNames"),
        });
        self.rules
            .insert(text(&role["metadata"]["name"]), rules.collect());
    }

    /// Adds a RoleBinding.
    pub fn add_binding(&mut self, binding: &Value) {
        let reference = &binding["roleRef"];
        if reference["kind"] != "Role" {
            return;
        }
        let accounts = list(binding, "subjects")
            .iter()
            .filter(|subject| subject["kind"] == "ServiceAccount")
            .map(|subject| (text(&subject["namespace"]), text(&subject["name"])));
        self.bindings.push(Binding {
            role: text(&reference["name"]),
            accounts: accounts.collect(),
        });
    }

    /// Whether they grant the permission.
    pub fn allow(&self, right: &Right) -> bool {
        let is_meant = |binding: &&Binding| {
            let mut accounts = binding.accounts.iter();
            accounts.any(|(home, name)| *home == right.home && *name == right.account)
        };
        self.bindings
            .iter()
            .filter(is_meant)
            .filter_map(|binding| self.rules.get(&binding.role))
            .flatten()
            .any(|rule| rule.allows(right))
    }
}

impl PolicyRule {
    fn allows(&self, right: &Right) -> bool {
        let has =
            |list: &[String], wanted: &str| list.iter().any(|one| one == "*" || one == wanted);
        let resource = match right.subresource {
            "" => right.resource.to_owned(),
            subresource => format!("{}/{subresource}", right.resource),
        };
        has(&self.groups, right.group)
            && has(&self.resources, &resource)
            && has(&self.verbs, right.verb)
            && (self.names.is_empty() || self.names.contains(&right.name))
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn right(verb: &'static str, name: &str) -> Right {
        Right {
            home: "shop".into(),
            account: "waiter".into(),
            namespace: "shop".into(),
            verb,
            group: "batch",
            resource: "jobs",
            subresource: "",
            name: name.into(),
        }
    }

    #[test]
    fn a_role_allows_what_a_binding_gives() {
        let role = json!({"metadata": {"name": "r"}, "rules": [
            {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get", "watch"],
             "resourceNames": ["migrate"]},
        ]});
        let binding = |account: &str, kind: &str| {
            json!({"roleRef": {"kind": kind, "name": "r"}, "subjects": [
                {"kind": "ServiceAccount", "namespace": "shop", "name": account},
            ]})
        };
        let check = |bound: Value, right: &Right, expect: bool| {
            let mut grants = Grants::default();
            grants.add_role(&role);
            grants.add_binding(&bound);
            assert_eq!(grants.allow(right), expect, "{bound} {}", right.words());
        };
        check(binding("waiter", "Role"), &right("watch", "migrate"), true);
        check(binding("waiter", "Role"), &right("list", "migrate"), false);
        check(binding("waiter", "Role"), &right("watch", "other"), false);
        // A rule with `resourceNames` does not grant it for all objects.
        check(binding("waiter", "Role"), &right("watch", ""), false);
        check(binding("other", "Role"), &right("watch", "migrate"), false);
        check(
            binding("waiter", "ClusterRole"),
            &right("watch", "migrate"),
            false,
        );
    }

    #[test]
    fn a_right_is_written_as_kubectl_takes_it() {
        assert_eq!(
            right("watch", "migrate").words(),
            "watch jobs.batch/migrate"
        );
        let logs = Right {
            group: "",
            resource: "pods",
            subresource: "log",
            ..right("get", "")
        };
        assert_eq!(logs.words(), "get pods/log");
    }
}
