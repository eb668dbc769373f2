//! Reading a review.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::object::{self, ObjectValue};
use migration_gate_core::request::{Operation, Request};
use migration_gate_core::text::shorten;

/// The only version of the admission API that the webhooks support.
pub const API_VERSION: &str = "admission.k8s.io/v1";

/// The kind of both the request and the response.
pub const KIND: &str = "AdmissionReview";

/// The `request` of a review. Everything but its objects is borrowed from the body.
pub type AdmissionRequest<'a> = RequestWith<'a, ObjectResult>;

/// An object, or the reason why it cannot be read. A review with such an object still has a uid, so
/// it gets a response.
pub type ObjectResult = Result<Value, serde_json::Error>;

/// The `request` of a review, with objects of type `O`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", bound(deserialize = "O: Deserialize<'de>"))]
pub struct RequestWith<'a, O> {
    /// Identifies this call; the response repeats it.
    #[serde(borrow)]
    pub uid: Cow<'a, str>,
    /// The object's kind, after conversion to the version in the webhook's rules.
    #[serde(borrow)]
    pub kind: GroupVersionKind<'a>,
    /// The subresource that is being written, such as `ephemeralcontainers`.
    pub sub_resource: Option<Cow<'a, str>>,
    /// The object's name. Absent if the API server has yet to make one from `generateName`.
    pub name: Option<Cow<'a, str>>,
    /// The object's namespace. Absent for cluster-scoped objects.
    pub namespace: Option<Cow<'a, str>>,
    /// `CREATE`, `UPDATE`, `DELETE` or `CONNECT`.
    #[serde(borrow)]
    pub operation: Cow<'a, str>,
    /// The user who sends the request.
    #[serde(borrow, default)]
    pub user_info: UserInfo<'a>,
    /// Whether the request is a dry run: nothing is stored.
    pub dry_run: Option<bool>,
    object: Option<O>,
    old_object: Option<O>,
}

impl<'a, O> RequestWith<'a, O> {
    fn map(self, read: impl Fn(O) -> ObjectResult) -> AdmissionRequest<'a> {
        RequestWith {
            uid: self.uid,
            kind: self.kind,
            sub_resource: self.sub_resource,
            name: self.name,
            namespace: self.namespace,
            operation: self.operation,
            user_info: self.user_info,
            dry_run: self.dry_run,
            object: self.object.map(&read),
            old_object: self.old_object.map(&read),
        }
    }
}

/// A `metav1.GroupVersionKind`.
#[derive(Debug, Deserialize)]
#[allow(missing_docs, reason = "the names are Kubernetes' own")]
pub struct GroupVersionKind<'a> {
    #[serde(borrow, default)]
    pub group: Cow<'a, str>,
    #[serde(borrow, default)]
    pub version: Cow<'a, str>,
    #[serde(borrow)]
    pub kind: Cow<'a, str>,
}

/// The part of `authentication/v1.UserInfo` that is logged.
#[derive(Debug, Default, Deserialize)]
pub struct UserInfo<'a> {
    /// Identifies the user among all active users.
    pub username: Option<Cow<'a, str>>,
}

/// Why a body is not a review. The caller gets the message, so it names what was expected.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The body is not JSON, or it is JSON of another shape.
    #[error("expected an AdmissionReview of admission.k8s.io/v1 as JSON: {0}")]
    Malformed(String),
    /// The body names another `kind` or `apiVersion`.
    #[error(
        "expected kind AdmissionReview of apiVersion admission.k8s.io/v1, got kind {kind} of apiVersion {api_version}; set admissionReviewVersions: [v1] in the webhook configuration"
    )]
    Unsupported {
        /// The `kind`, quoted, or `none`.
        kind: String,
        /// The `apiVersion`, quoted, or `none`.
        api_version: String,
    },
    /// The review has no request, such as another webhook's response.
    #[error("expected an AdmissionReview with a request, got one without")]
    NoRequest,
    /// The uid is empty, so the API server could not match the response with its request.
    #[error("expected an AdmissionReview whose request.uid is set, got an empty one")]
    NoUid,
}

impl From<serde_json::Error> for DecodeError {
    /// Limits the quoted part of the body: if a text takes the place of an object, serde's error
    /// quotes all of it.
    fn from(error: serde_json::Error) -> Self {
        const LONGEST: usize = 256;
        let text = error.to_string();
        Self::Malformed(if text.len() <= LONGEST {
            text
        } else {
            let (line, column) = (error.line(), error.column());
            let cut = shorten(&text, LONGEST);
            format!("{cut} at line {line} column {column}")
        })
    }
}

/// A review as the API server sends it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Usual<'a> {
    #[serde(borrow)]
    api_version: Cow<'a, str>,
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    request: RequestWith<'a, ObjectValue>,
}

/// Any other body: only the fields that show what it is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header<'a> {
    #[serde(borrow)]
    api_version: Option<&'a RawValue>,
    #[serde(borrow)]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    request: Option<&'a RawValue>,
}

/// Reads a review.
///
/// This takes one pass over a well-formed body, and three more over any other.
pub fn decode(body: &[u8]) -> Result<AdmissionRequest<'_>, DecodeError> {
    usual(body).map_or_else(|| any(body), Ok)
}

/// The review, if the body is well-formed.
fn usual(body: &[u8]) -> Option<AdmissionRequest<'_>> {
    let review: Usual<'_> = serde_json::from_slice(body).ok()?;
    let is_review = review.kind == KIND && review.api_version == API_VERSION;
    (is_review && !review.request.uid.is_empty())
        .then(|| review.request.map(|ObjectValue(o)| Ok(o)))
}

fn any(body: &[u8]) -> Result<AdmissionRequest<'_>, DecodeError> {
    // The header is read first, so that a body of another kind gets that error even if its content
    // is malformed.
    let header: Header<'_> = serde_json::from_slice(body)?;
    if !is(header.kind, KIND) || !is(header.api_version, API_VERSION) {
        return Err(DecodeError::Unsupported {
            kind: shown(header.kind),
            api_version: shown(header.api_version),
        });
    }
    let request = header.request.ok_or(DecodeError::NoRequest)?;
    let request: RequestWith<'_, &RawValue> = serde_json::from_str(request.get())?;
    if request.uid.is_empty() {
        return Err(DecodeError::NoUid);
    }
    Ok(request.map(object::read))
}

fn is(value: Option<&RawValue>, expected: &str) -> bool {
    value
        .and_then(|value| serde_json::from_str::<Cow<'_, str>>(value.get()).ok())
        .is_some_and(|value| value == expected)
}

/// A value as it was sent, shortened because the caller gets it back.
fn shown(value: Option<&RawValue>) -> String {
    const LONGEST: usize = 64;
    value.map_or_else(|| "none".to_owned(), |value| shorten(value.get(), LONGEST))
}

impl AdmissionRequest<'_> {
    /// The operation; `None` unless it is `CREATE` or `UPDATE`. The others bring no object.
    pub fn operation(&self) -> Option<Operation> {
        match &*self.operation {
            "CREATE" => Some(Operation::Create),
            "UPDATE" => Some(Operation::Update),
            _ => None,
        }
    }

    /// The namespace; empty for cluster-scoped objects.
    pub fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or_default()
    }

    /// The subresource; empty for the object itself.
    pub fn sub_resource(&self) -> &str {
        self.sub_resource.as_deref().unwrap_or_default()
    }

    /// The object as it would be stored, without `metadata.managedFields` and `status`. `None` if
    /// the review has none; an error if it cannot be read.
    pub fn object(&self) -> Option<Result<&Value, &serde_json::Error>> {
        self.object.as_ref().map(Result::as_ref)
    }

    /// The object as it is stored, without `metadata.managedFields` and `status`. `None` if the
    /// review has none; an error if it cannot be read.
    pub fn old_object(&self) -> Option<Result<&Value, &serde_json::Error>> {
        self.old_object.as_ref().map(Result::as_ref)
    }

    /// The request in the form that the rules take. Only an update has an old object.
    pub fn as_core<'v>(
        &'v self,
        operation: Operation,
        object: &'v Value,
        old: Option<&'v Value>,
    ) -> Request<'v> {
        Request {
            operation,
            group: &self.kind.group,
            kind: &self.kind.kind,
            subresource: self.sub_resource(),
            namespace: self.namespace(),
            object,
            old: old.filter(|_| operation == Operation::Update),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn review(request: &Value) -> Vec<u8> {
        serde_json::to_vec(
            &json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}),
        )
        .unwrap()
    }

    #[test]
    fn a_request_is_read_as_the_api_server_writes_it() {
        let body = review(&json!({
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": {"group": "apps", "version": "v1", "kind": "Deployment"},
            "resource": {"group": "apps", "version": "v1", "resource": "deployments"},
            "requestKind": {"group": "apps", "version": "v1", "kind": "Deployment"},
            "name": "piefed-web",
            "namespace": "piefed-application",
            "operation": "UPDATE",
            "userInfo": {"username": "admin", "uid": "1", "groups": ["system:masters"]},
            "object": {"a": 1},
            "oldObject": {"a": "\u{e9}\u{1f512}"},
            "dryRun": false,
            "options": {"kind": "UpdateOptions"},
        }));
        let request = decode(&body).unwrap();
        assert_eq!(request.uid, "705ab4f5-6393-11e8-b7cc-42010a800002");
        assert!(matches!(request.uid, Cow::Borrowed(_)));
        assert_eq!(
            (&*request.kind.group, &*request.kind.kind),
            ("apps", "Deployment")
        );
        assert_eq!(request.operation(), Some(Operation::Update));
        assert_eq!(request.user_info.username.as_deref(), Some("admin"));
        assert_eq!(request.dry_run, Some(false));
        assert_eq!(request.object().unwrap().unwrap(), &json!({"a": 1}));
        assert_eq!(request.old_object().unwrap().unwrap(), &json!({"a": "é🔒"}));
    }

    #[test]
    fn null_and_absent_are_the_same() {
        let minimal = json!({"uid": "u", "kind": {"kind": "Pod"}, "operation": "DELETE"});
        let nulls = json!({
            "uid": "u", "kind": {"kind": "Pod"}, "operation": "DELETE", "subResource": null,
            "name": null, "namespace": null, "object": null, "oldObject": null, "dryRun": null,
        });
        for request in [minimal, nulls] {
            let body = review(&request);
            let request = decode(&body).unwrap();
            assert_eq!(request.operation(), None);
            assert_eq!((request.namespace(), request.sub_resource()), ("", ""));
            assert!(request.object().is_none());
            assert!(request.old_object().is_none());
        }
    }

    #[test]
    fn the_old_object_is_for_updates_alone() {
        let body = review(&json!({"uid": "u", "kind": {"kind": "Pod"}, "operation": "CREATE"}));
        let request = decode(&body).unwrap();
        let value = json!({});
        let as_core = |operation| request.as_core(operation, &value, Some(&value)).old;
        assert_eq!(as_core(Operation::Create), None);
        assert_eq!(as_core(Operation::Update), Some(&value));
    }

    #[test]
    fn what_is_no_review_is_told_what_was_expected() {
        let check = |body: &[u8], expect: &str| {
            let error = decode(body).unwrap_err().to_string();
            assert!(error.contains(expect), "{error:?} lacks {expect:?}");
            assert!(error.contains("AdmissionReview"), "{error}");
        };
        check(b"", "EOF");
        check(b"hello", "expected");
        check(b"[]", "admission.k8s.io/v1");
        check(b"{}", "got kind none of apiVersion none");
        check(br#"{"kind": 7}"#, "got kind 7");
        let pod = r#"{"apiVersion":"v1","kind":"Pod"}"#;
        check(pod.as_bytes(), r#"kind "Pod" of apiVersion "v1""#);
        let unnamed = r#","request":{"uid":"","kind":{"kind":"Pod"},"operation":"CREATE"}}"#;
        let beta = r#"apiVersion "admission.k8s.io/v1beta1""#;
        for (version, rest, expect) in [
            ("v1beta1", r#","request":{"uid":7}}"#, beta),
            ("v1", r#","response":{"uid":"u"}}"#, "with a request"),
            ("v1", r#","request":{}}"#, "missing field `uid`"),
            ("v1", unnamed, "request.uid"),
            ("v1", "} trailing", "trailing characters"),
        ] {
            let start = r#"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/"#;
            check(format!("{start}{version}\"{rest}").as_bytes(), expect);
        }
        check(b"{\"kind\":\"\xff\"}", "admission.k8s.io/v1");
        let review = r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":"#;
        for flood in [
            format!(r#"{{"kind":"{}"}}"#, "é".repeat(1000)),
            format!(r#""{}""#, "é".repeat(1000)),
            format!(r#"{review}"{}"}}"#, "é".repeat(1000)),
            format!(r#"{review}{{"uid":"u","dryRun":"{}"}}}}"#, "x".repeat(1000)),
        ] {
            let error = decode(flood.as_bytes()).unwrap_err().to_string();
            assert!(error.len() < 400, "{error}");
        }
    }

    #[test]
    fn an_object_that_is_too_deep_still_leaves_a_uid() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let body = format!(
            r#"{{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{{"uid":"u","kind":{{"kind":"Pod"}},"operation":"CREATE","object":{deep}}}}}"#
        );
        let request = decode(body.as_bytes()).unwrap();
        assert_eq!(request.uid, "u");
        assert!(request.object().unwrap().is_err());
    }
}
