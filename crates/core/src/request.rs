//! The input of the rules: one operation on one object.

use std::borrow::Cow;

use serde_json::Value;

/// Stands for the end of a name that the API server has yet to generate. It does that after it has
/// called the mutating webhooks, and before the validating ones.
pub const GENERATED_END: &str = "xxxxx";

/// An admission request's operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// The object is new.
    Create,
    /// The object replaces `old`.
    Update,
}

/// One operation on one object: an admission request, or a manifest in a file.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The operation.
    pub operation: Operation,
    /// The API group of `object`; empty for the core group.
    pub group: &'a str,
    /// The kind of `object`.
    pub kind: &'a str,
    /// The subresource that the request writes, or empty.
    pub subresource: &'a str,
    /// The object's namespace, which the object itself may omit.
    pub namespace: &'a str,
    /// The object as it would be stored.
    pub object: &'a Value,
    /// The object as it is stored; `None` unless `operation` is [`Operation::Update`].
    pub old: Option<&'a Value>,
}

impl<'a> Request<'a> {
    /// The creation of a manifest, for the offline review. `None` if `object` has no `apiVersion`
    /// or `kind`, so that it is not a Kubernetes object.
    pub fn create(object: &'a Value, default_namespace: &'a str) -> Option<Self> {
        let api_version = object.get("apiVersion")?.as_str()?;
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        Some(Self {
            operation: Operation::Create,
            group,
            kind: object.get("kind")?.as_str()?,
            subresource: "",
            namespace: metadata(object, "namespace").unwrap_or(default_namespace),
            object,
            old: None,
        })
    }

    /// The object's name, if it has one yet.
    pub fn name(&self) -> Option<&'a str> {
        metadata(self.object, "name")
    }

    /// The object's name, or one that the API server could generate.
    pub fn likely_name(&self) -> Option<Cow<'a, str>> {
        let generated = || {
            let start = metadata(self.object, "generateName")?;
            Some(Cow::Owned(format!("{start}{GENERATED_END}")))
        };
        self.name().map(Cow::Borrowed).or_else(generated)
    }

    /// A label's value.
    pub fn label(&self, key: &str) -> Option<&'a str> {
        self.object
            .get("metadata")?
            .get("labels")?
            .get(key)?
            .as_str()
    }

    /// Whether the object is being deleted.
    pub fn is_being_deleted(&self) -> bool {
        metadata(self.object, "deletionTimestamp").is_some()
    }

    /// Whether a controller owns the object, or did until now.
    pub fn is_controlled(&self) -> bool {
        let controlled = |object: &Value| {
            object
                .get("metadata")
                .and_then(|m| m.get("ownerReferences"))
                .and_then(Value::as_array)
                .is_some_and(|owners| {
                    owners
                        .iter()
                        .any(|owner| owner.get("controller") == Some(&Value::Bool(true)))
                })
        };
        controlled(self.object) || self.old.is_some_and(controlled)
    }
}

fn metadata<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.get("metadata")?.get(key)?.as_str()
}
