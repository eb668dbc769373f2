//! The injection, which is the waiter and its token, and the changes to it that are accepted.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use super::applier::Applier;
use super::gates::{Gate, LogFormat, WaiterConfig};
use super::glob::Glob;
use super::image::{MovingTags, Relation, compare, same_repository, same_through_mirror};
use super::names::{self, APPLIED_BY, POD_NAME, TOKEN_MOUNT_PATH, TOKEN_VOLUME, WAITER_CONTAINER};
use super::podspec::{list, name};
use super::version::{Containers, Images, Wanted};

/// The argument that tells the waiter which image it guards.
const IMAGE_ARGUMENT: &str = "--image=";

/// The arguments that tell it what it waits for, but for the image.
const IDENTITY: [&str; 4] = ["--gate=", "--namespace=", "--job=", "--version="];

/// The argument without a value.
const DEFAULT_IMAGE_COUNTS: &str = "--default-image-counts";

/// The arguments that every release writes, and by which a waiter opens for more or for less.
const DECIDING: [&str; 2] = ["--record=", "--freshness="];

/// The arguments that say how images are compared. Releases up to 0.1 know none of them.
const COMPARING: [&str; 4] = [
    "--init-image=",
    "--container=",
    "--moving-tags=",
    DEFAULT_IMAGE_COUNTS,
];

/// The arguments that no release injects: with them a waiter would use another API server, or use
/// the record too early.
const FOREIGN: [&str; 3] = ["--kubeconfig=", "--context=", "--settle="];

/// All that a held pod template gets.
///
/// Every field that the API server would fill in by default is set, so that what is stored equals
/// what was injected.
#[derive(Debug, Clone, PartialEq)]
pub struct Injection {
    /// The init container.
    pub container: Value,
    /// The volume with the waiter's token.
    pub volume: Value,
    /// The places of both in their lists.
    pub at: (usize, usize),
}

impl Injection {
    /// The injection of `gate` for `template`.
    pub fn wanted(gate: &Gate, waiter: &WaiterConfig, template: &Value) -> Self {
        Self {
            container: container(gate, waiter, template),
            volume: VOLUME.clone(),
            at: (0, 0),
        }
    }

    /// The same for a workload of that applier, so that the waiter can name the way in which a Job
    /// comes there.
    ///
    /// A variable, as the webhooks' conditions compare arguments.
    #[must_use]
    pub fn applied_by(mut self, applier: &Applier) -> Self {
        if let (Some(word), Some(env)) = (applier.word(), self.container["env"].as_array_mut()) {
            env.push(json!({"name": APPLIED_BY, "value": word}));
        }
        self
    }

    /// The injection in `old`, if `new` differs from `old` at most in the injection.
    ///
    /// A new release of this program wants another waiter, but putting that in would restart an
    /// application whose own template is unchanged. Such a template keeps what it has.
    ///
    /// One that doesn't wait for what `wanted` waits for, or would open for more, isn't worth
    /// keeping.
    pub fn kept(gate: &Gate, wanted: &Self, old: &Value, new: &Value) -> Option<Self> {
        let spec = old.get("spec")?;
        let (first, container) = waiter_of(spec).filter(|(_, container)| is_ours(container))?;
        if weakness(container, &wanted.container).is_some()
            || !opens_alike(container, &wanted.container)
        {
            return None;
        }
        let (second, volume) = named(list(spec, "volumes"), TOKEN_VOLUME)?;
        (without_injection(gate, old) == without_injection(gate, new)).then(|| Self {
            container: container.clone(),
            volume: volume.clone(),
            at: (first, second),
        })
    }
}

/// The waiter's arguments, except for the version, which is between the two. Arguments with their
/// default are omitted, so that waiters of older releases compare equal.
pub(crate) struct WaiterArguments {
    /// The arguments before the version.
    pub before: Vec<String>,
    /// The arguments after the version.
    pub after: Vec<String>,
}

/// The arguments that `gate` gives to every waiter, whatever the template.
pub(crate) fn waiter_arguments(gate: &Gate, waiter: &WaiterConfig) -> WaiterArguments {
    let mut before = vec![
        "wait".to_owned(),
        format!("--gate={}", gate.name),
        format!("--namespace={}", gate.namespace),
    ];
    before.extend(gate.requirements().iter().map(|job| format!("--job={job}")));
    before.push(format!("--record={}", names::record(&gate.name)));
    let mut after = Vec::new();
    if gate.compared_metadata().is_none() {
        after.extend(
            gate.container
                .iter()
                .map(|name| format!("--container={name}")),
        );
        if let Some(globs) = &gate.moving_tags {
            let globs: Vec<&str> = globs.iter().map(Glob::as_str).collect();
            after.push(format!("--moving-tags={}", globs.join(",")));
        }
    }
    after.push(format!("--timeout={}s", gate.timeout.as_secs()));
    after.push(format!("--freshness={}", gate.freshness.as_str()));
    if waiter.log_format != LogFormat::default() {
        after.push(format!("--log-format={}", waiter.log_format.as_str()));
    }
    WaiterArguments { before, after }
}

/// The arguments that tell the waiter its version.
fn version_arguments(gate: &Gate, template: &Value) -> Vec<String> {
    if let Some(source) = gate.compared_metadata() {
        // A template without a version gets a waiter that refuses to guess.
        let value = source.value(template).unwrap_or_default();
        return vec![format!(
            "--version={}:{}={value}",
            source.argument(),
            source.key()
        )];
    }
    let containers = Containers::of(template);
    let images = match Wanted::of(gate, template) {
        Ok(Wanted::Images { images, .. }) => images,
        // Of any version; the image is told for people.
        Ok(_) => Images::one(
            containers
                .default()
                .map_or("", |container| &container.image),
        ),
        Err(_) => Images::one(""),
    };
    let main = images
        .main()
        .map(|image| format!("{IMAGE_ARGUMENT}{image}"));
    let init = images
        .init
        .iter()
        .map(|image| format!("--init-image={image}"));
    let mut args: Vec<String> = main.chain(init).collect();
    if gate.container.is_none() && containers.annotated && args.len() > 1 {
        args.push(DEFAULT_IMAGE_COUNTS.to_owned());
    }
    args
}

fn container(gate: &Gate, waiter: &WaiterConfig, template: &Value) -> Value {
    let WaiterArguments { before, after } = waiter_arguments(gate, waiter);
    let version = version_arguments(gate, template);
    let args = before.into_iter().chain(version).chain(after);
    let mut container = CONTAINER.clone();
    container["image"] = waiter.image.as_str().into();
    container["imagePullPolicy"] = waiter.image_pull_policy.as_str().into();
    container["args"] = args.collect();
    container["resources"] = Value::Object(Map::from_iter([
        (
            "requests".to_owned(),
            quantities(&waiter.resources.requests),
        ),
        ("limits".to_owned(), quantities(&waiter.resources.limits)),
    ]));
    if !waiter.security_context.is_empty() {
        let over = waiter.security_context.clone().into();
        json_patch::merge(&mut container["securityContext"], &over);
    }
    container
}

fn quantities(of: &BTreeMap<String, String>) -> Value {
    let pairs = of.iter();
    pairs
        .map(|(name, quantity)| (name.clone(), quantity.clone()))
        .collect()
}

/// The container, with `null` for the fields that configuration, gate and template set. It meets
/// the restricted Pod Security Standard without help from the pod's own settings. Its user comes
/// from the image, or from a platform that assigns users.
///
/// Made once, because copying it is much faster.
static CONTAINER: LazyLock<Value> = LazyLock::new(|| {
    json!({
        "name": WAITER_CONTAINER,
        "image": null,
        "imagePullPolicy": null,
        "args": null,
        "resources": null,
        "env": [{
            "name": POD_NAME,
            "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}},
        }],
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsNonRoot": true,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "volumeMounts": [{
            "name": TOKEN_VOLUME,
            "mountPath": TOKEN_MOUNT_PATH,
            "readOnly": true,
        }],
    })
});

/// The three files that a Kubernetes client expects, as the API server's own
/// `kube-api-access` volume has them, but for the one container that mounts it.
static VOLUME: LazyLock<Value> = LazyLock::new(|| {
    json!({
        "name": TOKEN_VOLUME,
        "projected": {
            "defaultMode": 0o644,
            "sources": [
                {"serviceAccountToken": {"expirationSeconds": 3600, "path": "token"}},
                {"configMap": {
                    "name": "kube-root-ca.crt",
                    "items": [{"key": "ca.crt", "path": "ca.crt"}],
                }},
                {"downwardAPI": {"items": [{
                    "path": "namespace",
                    "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
                }]}},
            ],
        },
    })
});

/// The element with that name, and its index.
pub fn named<'a>(list: &'a [Value], wanted: &str) -> Option<(usize, &'a Value)> {
    list.iter()
        .enumerate()
        .find(|(_, element)| name(element) == Some(wanted))
}

/// The init container with the waiter's name, ours or not, and its index.
pub fn waiter_of(pod_spec: &Value) -> Option<(usize, &Value)> {
    named(list(pod_spec, "initContainers"), WAITER_CONTAINER)
}

/// The account that a pod of this spec runs as, unless it is the namespace's default.
///
/// `serviceAccountName` wins over the deprecated `serviceAccount`, as in the API server.
pub fn account(pod_spec: &Value) -> Option<&str> {
    ["serviceAccountName", "serviceAccount"]
        .into_iter()
        .filter_map(|field| pod_spec.get(field)?.as_str())
        .find(|account| !account.is_empty())
        .filter(|account| *account != "default")
}

/// Whether some release of this program made the container: it runs `wait` for a Job, with the
/// token that only this program mounts.
pub fn is_ours(container: &Value) -> bool {
    let args = list(container, "args");
    container.get("command").is_none_or(Value::is_null)
        && args.first().is_some_and(|arg| arg == "wait")
        && args
            .iter()
            .any(|arg| arg.as_str().is_some_and(|arg| arg.starts_with("--job=")))
        && named(list(container, "volumeMounts"), TOKEN_VOLUME).is_some()
}

/// Whether `actual` has all fields of `wanted`. Additions of others are ignored, such as defaults
/// of a newer API server, or variables of a mesh.
pub fn covers(actual: &Value, wanted: &Value) -> bool {
    match (actual, wanted) {
        (Value::Object(actual), Value::Object(wanted)) => wanted
            .iter()
            .all(|(key, wanted)| actual.get(key).is_some_and(|actual| covers(actual, wanted))),
        (Value::Array(actual), Value::Array(wanted)) if is_named_list(wanted) => {
            wanted.iter().all(|wanted| {
                name(wanted)
                    .and_then(|name| named(actual, name))
                    .is_some_and(|(_, actual)| covers(actual, wanted))
            })
        }
        (actual, wanted) => actual == wanted,
    }
}

fn is_named_list(list: &[Value]) -> bool {
    !list.is_empty() && list.iter().all(|element| name(element).is_some())
}

/// How a container in the waiter's place fails to wait as `wanted` does: the
/// field, and why that lets pods start too early or never. `None` if it still waits for the same.
///
/// It may be of another release, or of another configuration: while a new one rolls out, the API
/// server asks one replica to mutate an object and another to validate it.
pub fn weakness(actual: &Value, wanted: &Value) -> Option<(&'static str, String)> {
    let text = |value: &Value, field: &str| {
        value
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let present = |field: &str| actual.get(field).is_some_and(|value| !value.is_null());
    if present("command") {
        return Some((
            "command",
            "it is set, so the container no longer runs the waiter".into(),
        ));
    }
    if present("restartPolicy") {
        return Some((
            "restartPolicy",
            "it is set, so the pod would start without waiting for the container's end".into(),
        ));
    }
    let (image, wanted_image) = (text(actual, "image"), text(wanted, "image"));
    if !same_repository(&wanted_image, &image) {
        return Some(("image", format!("it is `{image}`, not `{wanted_image}`")));
    }
    if !same_identity(list(actual, "args"), list(wanted, "args")) {
        return Some((
            "args",
            format!(
                "they are {}, not {}",
                Value::from(list(actual, "args")),
                Value::from(list(wanted, "args"))
            ),
        ));
    }
    if named(list(actual, "volumeMounts"), TOKEN_VOLUME).is_none() {
        return Some((
            "volumeMounts",
            format!("`{TOKEN_VOLUME}` is not mounted, so the container has no token"),
        ));
    }
    None
}

/// Whether two containers have one image, perhaps through a mirror.
pub fn same_image(actual: &Value, wanted: &Value) -> bool {
    let image = |container: &Value| {
        let image = container.get("image").and_then(Value::as_str);
        image.unwrap_or_default().to_owned()
    };
    same_through_mirror(&image(wanted), &image(actual))
}

/// Whether arguments make the waiter wait for the same Jobs and version. The rest (how long, which
/// record) is for each release and configuration to say, and a webhook that pins digests may have
/// changed the guarded images since.
fn same_identity(actual: &[Value], wanted: &[Value]) -> bool {
    let same_image = |(a, w): (&&str, &&str)| {
        a == w || compare(a, w, &MovingTags::default()) != Relation::Different
    };
    let (images, wanted_images) = (images(actual), images(wanted));
    actual.first() == wanted.first()
        && starting(actual, &IDENTITY) == starting(wanted, &IDENTITY)
        && images.is_empty() == wanted_images.is_empty()
        // How many there are is for the release to say.
        && images.iter().zip(&wanted_images).all(same_image)
}

/// Whether a waiter that is to be kept opens for what `wanted` opens for, and for nothing else. It
/// may stand in a template that was written before the gate held it, by any author.
fn opens_alike(actual: &Value, wanted: &Value) -> bool {
    let (args, wanted_args) = (list(actual, "args"), list(wanted, "args"));
    let as_injected = args.iter().skip(1).all(|arg| {
        arg.as_str().is_some_and(|arg| {
            arg == DEFAULT_IMAGE_COUNTS
                || (arg.starts_with("--")
                    && arg.contains('=')
                    && !FOREIGN.iter().any(|foreign| arg.starts_with(foreign)))
        })
    });
    let comparing = starting(args, &COMPARING);
    let old_release = actual.get("image") != wanted.get("image")
        && comparing.is_empty()
        && images(args).len() <= 1;
    as_injected
        && starting(args, &DECIDING) == starting(wanted_args, &DECIDING)
        && (old_release
            || (images(args).len() == images(wanted_args).len()
                && comparing.len() == starting(wanted_args, &COMPARING).len()
                && same_comparing(args, wanted_args)))
}

/// Whether images of init containers are of the same versions, and the rest of what is compared by
/// is the same.
fn same_comparing(actual: &[Value], wanted: &[Value]) -> bool {
    let (init, rest) = COMPARING.split_at(1);
    let pairs = starting(actual, init)
        .into_iter()
        .zip(starting(wanted, init));
    pairs
        .into_iter()
        .all(|(a, w)| a == w || compare(a, w, &MovingTags::default()) != Relation::Different)
        && starting(actual, rest) == starting(wanted, rest)
}

/// The guarded images, the one that counts first.
fn images(args: &[Value]) -> Vec<&str> {
    let texts = args.iter().filter_map(Value::as_str);
    texts
        .filter_map(|arg| arg.strip_prefix(IMAGE_ARGUMENT))
        .collect()
}

/// The arguments that begin with one of these, sorted.
fn starting<'a>(args: &'a [Value], prefixes: &[&str]) -> Vec<&'a str> {
    let texts = args.iter().filter_map(Value::as_str);
    let mut found: Vec<&str> = texts
        .filter(|arg| prefixes.iter().any(|prefix| arg.starts_with(prefix)))
        .collect();
    found.sort_unstable();
    found
}

/// The template as its author wrote it, as far as that can be told.
fn without_injection(gate: &Gate, template: &Value) -> Value {
    let own = template.get("spec").and_then(account);
    let own = own.filter(|account| *account != gate.service_account);
    let mut stripped = template.clone();
    let Some(spec) = stripped.get_mut("spec").and_then(Value::as_object_mut) else {
        return stripped;
    };
    for (field, unwanted) in [
        ("initContainers", WAITER_CONTAINER),
        ("volumes", TOKEN_VOLUME),
    ] {
        if let Some(Value::Array(elements)) = spec.get_mut(field) {
            elements.retain(|element| name(element) != Some(unwanted));
        }
        if spec
            .get(field)
            .is_some_and(|v| v.is_null() || v.as_array().is_some_and(Vec::is_empty))
        {
            spec.remove(field);
        }
    }
    spec.remove("serviceAccount");
    match own {
        Some(account) => spec.insert("serviceAccountName".into(), account.into()),
        None => spec.remove("serviceAccountName"),
    };
    if spec
        .get("automountServiceAccountToken")
        .is_some_and(|v| *v == Value::Bool(false) || v.is_null())
    {
        spec.remove("automountServiceAccountToken");
    }
    stripped
}
