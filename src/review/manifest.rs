//! Finds the objects in documents. Each is the request in which the API server would send it.

use serde_json::Value;

use super::folder::{Part, is_kustomization};
use super::input::SourceText;
use migration_gate_core::field::{FieldPath, Step};
use migration_gate_core::podspec::{list, pod_kind};
use migration_gate_core::request::{Operation, Request};
use migration_gate_yaml::{Document, Span, SyntaxError};

/// The namespace of an object if nothing names one: the default of `kubectl`.
pub const FALLBACK_NAMESPACE: &str = "default";

/// A source with its documents. [`load`](super::load) reads them.
#[derive(Debug)]
pub struct Loaded {
    /// The source.
    pub source: SourceText,
    /// The readable documents, and the errors of the others.
    pub documents: Vec<Result<Document, SyntaxError>>,
    /// For each document, whether only the name of its one object is left, because no rule and no
    /// lint needs the rest.
    pub trimmed: Vec<bool>,
}

/// One object of the cluster.
#[derive(Debug, Clone)]
pub struct Manifest<'l> {
    /// The index of its source.
    pub source: usize,
    /// The index of its document there.
    pub document: usize,
    /// Its path in the document: empty, unless it is in a list or an AdmissionReview.
    pub at: Vec<Step>,
    /// The request that the API server would send about it.
    pub request: Request<'l>,
    /// The version of its API group.
    pub version: &'l str,
    /// Whether the object, a kustomization or the command line names its namespace.
    pub namespace_known: bool,
    /// Whether it is a file of the user's: it is neither in a cluster nor in a captured
    /// AdmissionReview.
    pub written: bool,
    /// Whether it is only a part of an object, which another tool merges into the whole.
    pub fragment: bool,
}

/// A document, or something in one, that isn't a Kubernetes object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotAnObject {
    /// The index of its source.
    pub source: usize,
    /// Its place.
    pub span: Span,
    /// The problem, and the next step.
    pub message: String,
}

/// A document, or a whole file, that is skipped on purpose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// The index of its source.
    pub source: usize,
    /// Its place.
    pub span: Span,
    /// Its kind.
    pub part: Part,
}

/// The contents of sources.
#[derive(Debug, Default)]
pub struct SourceContents<'l> {
    /// The objects, in order.
    pub manifests: Vec<Manifest<'l>>,
    /// The documents that should be objects and are not.
    pub problems: Vec<NotAnObject>,
    /// The documents that are not objects, and need not be.
    pub skipped: Vec<Skipped>,
}

/// The contents of all sources. `namespace` is for objects that name none.
pub fn contents<'l>(loaded: &'l [Loaded], namespace: Option<&'l str>) -> SourceContents<'l> {
    let mut collector = Collector {
        contents: SourceContents::default(),
        namespace,
    };
    for (source, one) in loaded.iter().enumerate() {
        if one.source.part == Some(Part::Template) {
            collector.skip(source, Span::default(), Part::Template);
        }
        for (document, (parsed, trimmed)) in one.documents.iter().zip(&one.trimmed).enumerate() {
            if let Ok(parsed) = parsed {
                collector.document(Cursor {
                    source: &one.source,
                    index: source,
                    document,
                    parsed,
                    trimmed: *trimmed,
                });
            }
        }
    }
    collector.contents
}

/// The object that a document consists of. `None` if the document holds anything else, such as a
/// list.
pub fn only_object<'l>(
    source: &'l SourceText,
    parsed: &'l Document,
    namespace: Option<&'l str>,
) -> Option<Manifest<'l>> {
    let mut collector = Collector {
        contents: SourceContents::default(),
        namespace,
    };
    collector.document(Cursor {
        source,
        index: 0,
        document: 0,
        parsed,
        trimmed: false,
    });
    let SourceContents {
        mut manifests,
        problems,
        skipped,
    } = collector.contents;
    let manifest = manifests.pop()?;
    let alone = manifests.is_empty() && problems.is_empty() && skipped.is_empty();
    (alone && manifest.at.is_empty()).then_some(manifest)
}

struct Collector<'l> {
    contents: SourceContents<'l>,
    namespace: Option<&'l str>,
}

/// The document that is being read.
#[derive(Clone, Copy)]
struct Cursor<'l> {
    source: &'l SourceText,
    index: usize,
    document: usize,
    parsed: &'l Document,
    trimmed: bool,
}

impl<'l> Collector<'l> {
    fn document(&mut self, place: Cursor<'l>) {
        let Cursor {
            source,
            index,
            parsed,
            ..
        } = place;
        let value = &parsed.value;
        if value.is_null() || (is_kustomization(&source.name) && text(value, "kind").is_none()) {
            return;
        }
        if let Some(part) = passed_over(source, value) {
            return self.skip(index, parsed.node.span, part);
        }
        if group(text(value, "apiVersion").unwrap_or_default()) == "admission.k8s.io" {
            self.review(place);
        } else {
            self.object(place, Vec::new(), value, None);
        }
    }

    fn skip(&mut self, source: usize, span: Span, part: Part) {
        self.contents.skipped.push(Skipped { source, span, part });
    }

    /// Collects an object or a list of objects. `of` is the version and the kind of a typed list's
    /// items.
    fn object(
        &mut self,
        place: Cursor<'l>,
        at: Vec<Step>,
        object: &'l Value,
        of: Option<(&'l str, &'l str)>,
    ) {
        let (Some(api_version), Some(kind)) = (
            text(object, "apiVersion").or(of.map(|(version, _)| version)),
            text(object, "kind").or(of.map(|(_, kind)| kind)),
        ) else {
            self.not_an_object(place, &at, object);
            return;
        };
        if group(api_version) == "kustomize.config.k8s.io" {
            return;
        }
        if let (Some(item), Some(items)) = (kind.strip_suffix("List"), object.get("items")) {
            let items = items.as_array().map_or(&[][..], Vec::as_slice);
            let of = (!item.is_empty()).then_some((api_version, item));
            for (i, object) in items.iter().enumerate() {
                let mut at = at.clone();
                at.extend([Step::Key("items".to_owned()), Step::Index(i)]);
                self.object(place, at, object, of);
            }
            return;
        }
        let fragment =
            place.source.part == Some(Part::Patch) || is_fragment(api_version, kind, object);
        let fragment = fragment && !place.source.stored && !place.trimmed;
        if fragment {
            let span = place.parsed.find(&at).node.span;
            self.skip(place.index, span, Part::Patch);
        }
        let (namespace, namespace_known) = self.namespace(place.source, object);
        self.contents.manifests.push(Manifest {
            source: place.index,
            document: place.document,
            at,
            request: Request {
                operation: if place.source.stored {
                    Operation::Update
                } else {
                    Operation::Create
                },
                group: group(api_version),
                kind,
                subresource: "",
                namespace,
                object,
                // The object is applied again, unchanged.
                old: place.source.stored.then_some(object),
            },
            version: version(api_version),
            namespace_known,
            written: !place.source.stored,
            fragment,
        });
    }

    fn namespace(&self, source: &'l SourceText, object: &'l Value) -> (&'l str, bool) {
        let own = object.get("metadata").and_then(|m| text(m, "namespace"));
        let own = own.filter(|own| source.unsaid != Some(own));
        match own.or(self.namespace).or(source.namespace.as_deref()) {
            Some(namespace) => (namespace, true),
            None => (FALLBACK_NAMESPACE, false),
        }
    }

    /// A captured AdmissionReview is reviewed as the request that it was: a create or an update.
    fn review(&mut self, place: Cursor<'l>) {
        let review = &place.parsed.value;
        let problem = |message: &str| NotAnObject {
            source: place.index,
            span: place.parsed.node.span,
            message: message.to_owned(),
        };
        if review["apiVersion"] != "admission.k8s.io/v1" || review["kind"] != "AdmissionReview" {
            self.contents.problems.push(problem(
                "only AdmissionReviews of admission.k8s.io/v1 can be reviewed",
            ));
            return;
        }
        let Some(request) = review.get("request").filter(|r| r.is_object()) else {
            self.contents.problems.push(problem(
                "this AdmissionReview has no request; capture the API server's side of the call",
            ));
            return;
        };
        let operation = match text(request, "operation") {
            Some("CREATE") => Operation::Create,
            Some("UPDATE") => Operation::Update,
            // The rules skip deletions and connections.
            Some("DELETE" | "CONNECT") => return,
            _ => {
                self.contents.problems.push(problem(
                    "request.operation is none of CREATE, UPDATE, DELETE and CONNECT",
                ));
                return;
            }
        };
        let Some(object) = request.get("object").filter(|object| object.is_object()) else {
            self.contents
                .problems
                .push(problem("request.object is missing"));
            return;
        };
        let kind = |field: &str| request.get("kind").and_then(|kind| text(kind, field));
        let Some((group, version, name)) = kind("kind").map(|name| {
            (
                kind("group").unwrap_or_default(),
                kind("version").unwrap_or_default(),
                name,
            )
        }) else {
            self.contents
                .problems
                .push(problem("request.kind is missing"));
            return;
        };
        self.contents.manifests.push(Manifest {
            source: place.index,
            document: place.document,
            at: ["request", "object"]
                .map(|key| Step::Key(key.to_owned()))
                .into(),
            request: Request {
                operation,
                group,
                kind: name,
                subresource: text(request, "subResource").unwrap_or_default(),
                namespace: text(request, "namespace").unwrap_or_default(),
                object,
                old: request.get("oldObject").filter(|old| old.is_object()),
            },
            version,
            namespace_known: true,
            written: false,
            fragment: false,
        });
    }

    fn not_an_object(&mut self, place: Cursor<'l>, at: &[Step], object: &Value) {
        let missing = match object {
            Value::Object(_) if text(object, "apiVersion").is_none() => "it has no apiVersion",
            Value::Object(_) => "it has no kind",
            _ => "it is not a mapping",
        };
        self.contents.problems.push(NotAnObject {
            source: place.index,
            span: place.parsed.find(at).node.span,
            message: format!(
                "this is not a Kubernetes object: {missing}; leave it out, or review what is rendered from it: `migration-gate review -k DIR` or `--helm CHART`"
            ),
        });
    }
}

/// The kind of a document that is not an object.
fn passed_over(source: &SourceText, value: &Value) -> Option<Part> {
    match source.part {
        // A list of JSON Patch operations.
        Some(Part::Patch) if value.is_array() => return Some(Part::Patch),
        Some(Part::Values) => return Some(Part::Values),
        _ => {}
    }
    let unnamed = text(value, "apiVersion").is_none() && text(value, "kind").is_none();
    (source.found && unnamed).then_some(Part::Values)
}

/// Whether an object of a kind with a pod spec is only a part of one: it lacks fields that the API
/// server requires, or has a directive for merging it.
fn is_fragment(api_version: &str, kind: &str, object: &Value) -> bool {
    // Most fields of a Pod are immutable, so files hold no patches of Pods.
    let Some(kind) = pod_kind(group(api_version), kind).filter(|kind| kind.kind != "Pod") else {
        return false;
    };
    // A Rollout may take its pod template from another object.
    if kind.kind == "Rollout" && object.pointer("/spec/workloadRef").is_some() {
        return has_directive(object);
    }
    let containers = kind.pod_spec(object).map(|spec| list(spec, "containers"));
    let whole = containers.is_some_and(|containers| {
        !containers.is_empty() && containers.iter().all(|c| text(c, "image").is_some())
    });
    !whole || has_directive(object)
}

/// Whether a value has a directive of a strategic merge patch.
fn has_directive(value: &Value) -> bool {
    match value {
        Value::Array(elements) => elements.iter().any(has_directive),
        Value::Object(members) => members.iter().any(|(key, value)| {
            key == "$patch"
                || key == "$retainKeys"
                || key.starts_with("$setElementOrder/")
                || key.starts_with("$deleteFromPrimitiveList/")
                || has_directive(value)
        }),
        _ => false,
    }
}

fn text<'v>(value: &'v Value, field: &str) -> Option<&'v str> {
    value.get(field)?.as_str().filter(|text| !text.is_empty())
}

fn group(api_version: &str) -> &str {
    api_version.split_once('/').map_or("", |(group, _)| group)
}

fn version(api_version: &str) -> &str {
    api_version.rsplit('/').next().unwrap_or(api_version)
}

impl Manifest<'_> {
    /// The object's `apiVersion`.
    pub fn api_version(&self) -> String {
        match self.request.group {
            "" => self.version.to_owned(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// The object's name, or the start of one that the API server will complete.
    pub fn name(&self) -> &str {
        self.request
            .name()
            .or_else(|| {
                self.request
                    .object
                    .get("metadata")?
                    .get("generateName")?
                    .as_str()
            })
            .unwrap_or_default()
    }

    /// The steps from the document's root to a field of the object.
    pub fn steps(&self, field: &FieldPath) -> Vec<Step> {
        self.at.iter().chain(field.steps()).cloned().collect()
    }
}

impl std::fmt::Display for Manifest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} {}/{}",
            self.request.kind,
            self.request.namespace,
            self.name()
        )
    }
}
