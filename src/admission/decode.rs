//! Reading a review.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use migration_gate_core::request::{Operation, Request};
use migration_gate_core::text::shorten;

/// The only version of the API that is spoken here.
pub const API_VERSION: &str = "admission.k8s.io/v1";

/// The kind of both the question and the answer.
pub const KIND: &str = "AdmissionReview";

/// The `request` of a review, borrowed from its body.
///
/// The objects stay text until somebody asks for them, for most reviews are answered by looking at
/// their kind, and a review whose object can't be read still has a uid to be answered with.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AdmissionRequest<'a> {
    /// Names this call; the answer repeats it.
    #[serde(borrow)]
    pub uid: Cow<'a, str>,
    /// What the object is, after conversion to what the webhook's rules ask for.
    #[serde(borrow)]
    pub kind: GroupVersionKind<'a>,
    /// The subresource that is being written, such as `ephemeralcontainers`.
    pub sub_resource: Option<Cow<'a, str>>,
    /// The object's name. Absent while the API server has yet to make one from `generateName`.
    pub name: Option<Cow<'a, str>>,
    /// The object's namespace. Absent for what has none.
    pub namespace: Option<Cow<'a, str>>,
    /// `CREATE`, `UPDATE`, `DELETE` or `CONNECT`.
    #[serde(borrow)]
    pub operation: Cow<'a, str>,
    /// Who asks.
    #[serde(borrow, default)]
    pub user_info: UserInfo<'a>,
    /// Whether nothing will be stored.
    pub dry_run: Option<bool>,
    #[serde(borrow)]
    object: Option<&'a RawValue>,
    #[serde(borrow)]
    old_object: Option<&'a RawValue>,
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
    /// Unique among active users.
    pub username: Option<Cow<'a, str>>,
}

/// Why a body is no review. Shown to the caller, so it says what was expected.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON, or JSON of another shape.
    #[error("expected an AdmissionReview of admission.k8s.io/v1 as JSON: {0}")]
    Malformed(String),
    /// JSON that says it is something else.
    #[error(
        "expected kind AdmissionReview of apiVersion admission.k8s.io/v1, got kind {kind} of apiVersion {api_version}; set admissionReviewVersions: [v1] in the webhook configuration"
    )]
    Unsupported {
        /// The `kind`, quoted, or `none`.
        kind: String,
        /// The `apiVersion`, quoted, or `none`.
        api_version: String,
    },
    /// A review without a question, such as another webhook's answer.
    #[error("expected an AdmissionReview with a request, got one without")]
    NoRequest,
    /// The answer could not be matched with its question.
    #[error("expected an AdmissionReview whose request.uid is set, got an empty one")]
    NoUid,
}

impl From<serde_json::Error> for DecodeError {
    /// Repeats no more of the body than one can read: a text where an object should be is in the
    /// error from its first character to its last.
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
/// Costs one pass over the body and no copy of the objects in it.
pub fn decode(body: &[u8]) -> Result<AdmissionRequest<'_>, DecodeError> {
    // In two steps: what claims to be something else is told so, whatever is wrong inside of it.
    let header: Header<'_> = serde_json::from_slice(body)?;
    if !is(header.kind, KIND) || !is(header.api_version, API_VERSION) {
        return Err(DecodeError::Unsupported {
            kind: shown(header.kind),
            api_version: shown(header.api_version),
        });
    }
    let request = header.request.ok_or(DecodeError::NoRequest)?;
    let request: AdmissionRequest<'_> = serde_json::from_str(request.get())?;
    if request.uid.is_empty() {
        return Err(DecodeError::NoUid);
    }
    Ok(request)
}

fn is(value: Option<&RawValue>, expected: &str) -> bool {
    value
        .and_then(|value| serde_json::from_str::<Cow<'_, str>>(value.get()).ok())
        .is_some_and(|value| value == expected)
}

/// A value as it came, cut where a caller would only be shown its own flood.
fn shown(value: Option<&RawValue>) -> String {
    const LONGEST: usize = 64;
    value.map_or_else(|| "none".to_owned(), |value| shorten(value.get(), LONGEST))
}

impl AdmissionRequest<'_> {
    /// The operation, if it is one that brings an object.
    pub fn operation(&self) -> Option<Operation> {
        match &*self.operation {
            "CREATE" => Some(Operation::Create),
            "UPDATE" => Some(Operation::Update),
            _ => None,
        }
    }

    /// The namespace, empty for what has none.
    pub fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or_default()
    }

    /// The subresource, empty for the object itself.
    pub fn sub_resource(&self) -> &str {
        self.sub_resource.as_deref().unwrap_or_default()
    }

    /// The object as it would be stored, read anew at each call. `None` where there is none.
    pub fn object(&self) -> Result<Option<Value>, serde_json::Error> {
        self.object.map(parse).transpose()
    }

    /// The object as it is stored, read anew at each call. `None` where there is none.
    pub fn old_object(&self) -> Result<Option<Value>, serde_json::Error> {
        self.old_object.map(parse).transpose()
    }

    /// The question as the rules understand it.
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

/// The most memory that one object may take as values, in bytes.
///
/// As values, `[0,0,…]` and `{"":0}` take seventy times the memory that they take as text. What
/// etcd stores, 1.5 MiB at most, has room for thirty thousand containers, variables and the like,
/// which is what this allows, and far more than any object has that does something.
const MOST_MEMORY: usize = 24 * 1024 * 1024;

/// What one value takes, in bytes.
const VALUE: usize = size_of::<Value>();

fn parse(raw: &RawValue) -> Result<Value, serde_json::Error> {
    let text = raw.get();
    if takes_more_than(text, MOST_MEMORY) {
        return Err(serde::de::Error::custom(format_args!(
            "it is divided so finely that it takes more than {} MiB of memory",
            MOST_MEMORY >> 20
        )));
    }
    serde_json::from_str(text)
}

/// Whether valid JSON takes more memory than that as values, about.
fn takes_more_than(text: &str, most: usize) -> bool {
    let most = most / VALUE;
    // Nothing takes more for its length than an empty list does.
    if text.len() * 4 <= most {
        return false;
    }
    let (mut count, mut in_string, mut escaped) = (1, false, false);
    for byte in text.bytes() {
        count += match byte {
            _ if escaped => {
                escaped = false;
                0
            }
            b'\\' => {
                escaped = in_string;
                0
            }
            b'"' => {
                in_string = !in_string;
                0
            }
            _ if in_string => 0,
            // What follows is a value, or a key and its value.
            b',' => 1,
            // A key is text of its own, in a place that is larger than a value.
            b':' => 2,
            // Both begin with room for a few.
            b'[' | b'{' => 4,
            _ => 0,
        };
    }
    count > most
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
        assert_eq!(request.object().unwrap(), Some(json!({"a": 1})));
        assert_eq!(request.old_object().unwrap(), Some(json!({"a": "é🔒"})));
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
            assert_eq!(request.object().unwrap(), None);
            assert_eq!(request.old_object().unwrap(), None);
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
    fn what_takes_too_much_memory_is_not_read() {
        let check = |text: &str, values: usize| {
            let padded = format!("{text}{}", " ".repeat(4 * text.len()));
            assert!(!takes_more_than(&padded, values * VALUE), "{text}");
            assert!(takes_more_than(&padded, (values - 1) * VALUE), "{text}");
        };
        check("7", 1);
        check("[0,0,[1]]", 11);
        check(r#"{"a":{"b":[true,"x,y[z{"]},"c,":"\\\",[,"}"#, 21);
        for flood in ["0,", "[0],", "{\"\":0},"] {
            let text = format!("[{}0]", flood.repeat(400_000));
            let raw: &RawValue = serde_json::from_str(&text).unwrap();
            let error = parse(raw).unwrap_err().to_string();
            assert!(error.contains("more than 24 MiB"), "{error}");
        }
        // Thirty thousand variables are fine.
        let variable = r#"{"name":"VARIABLE","value":"some value"},"#;
        let text = format!("[{}0]", variable.repeat(30_000));
        let raw: &RawValue = serde_json::from_str(&text).unwrap();
        assert!(parse(raw).is_ok());
    }

    #[test]
    fn an_object_that_is_too_deep_still_leaves_a_uid() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let body = format!(
            r#"{{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{{"uid":"u","kind":{{"kind":"Pod"}},"operation":"CREATE","object":{deep}}}}}"#
        );
        let request = decode(body.as_bytes()).unwrap();
        assert_eq!(request.uid, "u");
        assert!(request.object().is_err());
    }
}
