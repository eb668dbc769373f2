//! The injection (the waiter and its token), and the changes to it that are accepted.

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

/// The argument with an image of the pod, whose version the Job must have.
const IMAGE_ARGUMENT: &str = "--image=";

/// The arguments that identify what the waiter waits for, except the images.
const IDENTITY: [&str; 4] = ["--gate=", "--namespace=", "--job=", "--version="];

/// The only argument without a value.
const DEFAULT_IMAGE_COUNTS: &str = "--default-image-counts";

/// Arguments that every release writes, and that change for which completions a waiter opens.
const DECIDING: [&str; 2] = ["--record=", "--freshness="];

/// The arguments for the comparison of images. Releases up to 0.1 know none of them.
const COMPARING: [&str; 4] = [
    "--init-image=",
    "--container=",
    "--moving-tags=",
    DEFAULT_IMAGE_COUNTS,
];

/// Arguments that no release injects: a waiter with them would use another API server, or the
/// record too early.
const FOREIGN: [&str; 3] = ["--kubeconfig=", "--context=", "--settle="];

/// The fields that a held pod template gets, except account and token mount.
///
/// It sets every field for which the API server has a default, so that the stored fields equal the
/// injected ones.
#[derive(Debug, Clone, PartialEq)]
pub struct Injection {
    /// The init container.
    pub container: Value,
    /// The volume with the waiter's token.
    pub volume: Value,
    /// The index of the container and of the volume in their lists.
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

    /// Tells the waiter which tool applies the workload, so that its messages can name the command
    /// that creates a Job.
    ///
    /// This is an environment variable and not an argument, because the webhooks' conditions
    /// compare arguments.
    #[must_use]
    pub fn applied_by(mut self, applier: &Applier) -> Self {
        if let (Some(word), Some(env)) = (applier.word(), self.container["env"].as_array_mut()) {
            env.push(json!({"name": APPLIED_BY, "value": word}));
        }
        self
    }

    /// The injection in `old`, if `new` differs from `old` only in the injection.
    ///
    /// A new release of this program wants another waiter, but injecting that would restart an
    /// application whose own template is unchanged. So such a template keeps its waiter.
    ///
    /// `None` if that waiter does not wait for the same as `wanted`, or would open for more.
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

/// The waiter's arguments before and after those for the version. Arguments with their default
/// value are omitted, so that waiters of older releases compare equal.
pub(crate) struct WaiterArguments {
    /// The arguments before the version.
    pub before: Vec<String>,
    /// The arguments after the version.
    pub after: Vec<String>,
}

/// The arguments of `gate` that do not depend on the template.
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

/// The arguments for the version.
fn version_arguments(gate: &Gate, template: &Value) -> Vec<String> {
    if let Some(source) = gate.compared_metadata() {
        // Without a version in the template, the value is empty, and the waiter exits with an
        // error.
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
        // Every version counts. The image is only for messages.
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
/// the Pod Security Standard `restricted` whatever the pod's own settings are. Its user comes from
/// the image, or from a platform that assigns users.
///
/// It is built once, because a copy is much faster.
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

/// The three files that a Kubernetes client expects, as in the API server's own volume
/// `kube-api-access`, but only the waiter mounts it.
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

/// The element with the name `wanted`, and its index.
pub fn named<'a>(list: &'a [Value], wanted: &str) -> Option<(usize, &'a Value)> {
    list.iter()
        .enumerate()
        .find(|(_, element)| name(element) == Some(wanted))
}

/// The init container with the waiter's name, ours or not, and its index.
pub fn waiter_of(pod_spec: &Value) -> Option<(usize, &Value)> {
    named(list(pod_spec, "initContainers"), WAITER_CONTAINER)
}

/// The ServiceAccount of a pod spec; `None` for the namespace's default.
///
/// `serviceAccountName` has precedence over the deprecated `serviceAccount`, as in the API server.
pub fn account(pod_spec: &Value) -> Option<&str> {
    ["serviceAccountName", "serviceAccount"]
        .into_iter()
        .filter_map(|field| pod_spec.get(field)?.as_str())
        .find(|account| !account.is_empty())
        .filter(|account| *account != "default")
}

/// Whether some release of this program injected the container: it runs `wait` for a Job, with the
/// token volume that only this program mounts.
pub fn is_ours(container: &Value) -> bool {
    let args = list(container, "args");
    container.get("command").is_none_or(Value::is_null)
        && args.first().is_some_and(|arg| arg == "wait")
        && args
            .iter()
            .any(|arg| arg.as_str().is_some_and(|arg| arg.starts_with("--job=")))
        && named(list(container, "volumeMounts"), TOKEN_VOLUME).is_some()
}

/// Whether `actual` has all fields of `wanted`. Additional fields are ignored, such as defaults of
/// a newer API server, or variables of a mesh.
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

/// Why a container with the waiter's name does not wait as `wanted` does: the field, and the reason
/// why pods would start too early or never. `None` if it waits for the same.
///
/// The container may be of another release or configuration: during a roll-out, one replica may
/// mutate an object and another one validate it.
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

/// Whether two containers have the same image, perhaps through a mirror.
pub fn same_image(actual: &Value, wanted: &Value) -> bool {
    let image = |container: &Value| {
        let image = container.get("image").and_then(Value::as_str);
        image.unwrap_or_default().to_owned()
    };
    same_through_mirror(&image(wanted), &image(actual))
}

/// Whether arguments make the waiter wait for the same Jobs and version. Other arguments, such as
/// the timeout or the record, may differ between releases and configurations. Images may differ in
/// their digests, which another webhook may have pinned.
fn same_identity(actual: &[Value], wanted: &[Value]) -> bool {
    let same_image = |(a, w): (&&str, &&str)| {
        a == w || compare(a, w, &MovingTags::default()) != Relation::Different
    };
    let (images, wanted_images) = (images(actual), images(wanted));
    actual.first() == wanted.first()
        && starting(actual, &IDENTITY) == starting(wanted, &IDENTITY)
        && images.is_empty() == wanted_images.is_empty()
        // Their number may differ between releases.
        && images.iter().zip(&wanted_images).all(same_image)
}

/// Whether an existing waiter opens for the same as `wanted`, and for nothing else. Any author may
/// have written it, in a template from before the gate held the workload.
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

/// Whether the images of init containers are of the same versions, and the other arguments for the
/// comparison are equal.
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

/// The images in the arguments, the default container's first.
fn images(args: &[Value]) -> Vec<&str> {
    let texts = args.iter().filter_map(Value::as_str);
    texts
        .filter_map(|arg| arg.strip_prefix(IMAGE_ARGUMENT))
        .collect()
}

/// The arguments that start with one of `prefixes`, sorted.
fn starting<'a>(args: &'a [Value], prefixes: &[&str]) -> Vec<&'a str> {
    let texts = args.iter().filter_map(Value::as_str);
    let mut found: Vec<&str> = texts
        .filter(|arg| prefixes.iter().any(|prefix| arg.starts_with(prefix)))
        .collect();
    found.sort_unstable();
    found
}

/// The template without the injection, so as its author wrote it, as far as that can be determined.
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
