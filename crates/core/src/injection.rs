//! What is injected: the waiter and its token; and what counts as still being that.

use serde_json::{Value, json};

use super::image::{same_repository, same_through_mirror, same_version};
use super::names::{self, TOKEN_MOUNT_PATH, TOKEN_VOLUME, WAITER_CONTAINER};
use super::podspec::{default_container, list, name};
use crate::gates::{Gate, LogFormat, WaiterConfig};

/// The argument that tells the waiter which image it guards.
const IMAGE_ARGUMENT: &str = "--image=";

/// The arguments that tell it what it waits for.
const ERRAND: [&str; 4] = ["--gate=", "--namespace=", "--job=", IMAGE_ARGUMENT];

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
}

impl Injection {
    /// What `gate` injects into `template`.
    pub fn wanted(gate: &Gate, waiter: &WaiterConfig, template: &Value) -> Self {
        let image = default_container(template)
            .and_then(|container| container.get("image")?.as_str())
            .unwrap_or_default();
        Self {
            container: container(gate, waiter, image),
            volume: token_volume(),
        }
    }

    /// What was injected into `old`, if `new` differs from it in the injection at most.
    ///
    /// A new release of this program wants another waiter, but putting that in would restart an
    /// application whose own template nobody touched. Such a template keeps what it has.
    pub fn kept(gate: &Gate, old: &Value, new: &Value) -> Option<Self> {
        let spec = old.get("spec")?;
        let container = waiter_of(spec)
            .filter(|(_, container)| is_ours(container))?
            .1;
        let volume = named(list(spec, "volumes"), TOKEN_VOLUME)?.1;
        (without_injection(gate, old) == without_injection(gate, new)).then(|| Self {
            container: container.clone(),
            volume: volume.clone(),
        })
    }
}

fn container(gate: &Gate, waiter: &WaiterConfig, image: &str) -> Value {
    let mut args = vec![
        "wait".to_owned(),
        format!("--gate={}", gate.name),
        format!("--namespace={}", gate.namespace),
        format!("--job={}", gate.job),
        format!("--record={}", names::record(&gate.name)),
        format!("{IMAGE_ARGUMENT}{image}"),
        format!("--timeout={}s", gate.timeout.as_secs()),
        format!("--freshness={}", gate.freshness.as_str()),
    ];
    // The default goes without saying, as it did before it could be said.
    if waiter.log_format != LogFormat::default() {
        args.push(format!("--log-format={}", waiter.log_format.as_str()));
    }
    json!({
        "name": WAITER_CONTAINER,
        "image": waiter.image,
        "imagePullPolicy": waiter.image_pull_policy.as_str(),
        "args": args,
        "resources": {
            "requests": waiter.resources.requests,
            "limits": waiter.resources.limits,
        },
        // The restricted Pod Security Standard, met without help from the pod's own settings.
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsGroup": 65532,
            "runAsNonRoot": true,
            "runAsUser": 65532,
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
}

/// The three files that a Kubernetes client expects, as the API server's own
/// `kube-api-access` volume has them, but for the one container that mounts it.
fn token_volume() -> Value {
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
}

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

/// Whether `actual` says all that `wanted` says. What others added (defaults of a newer API
/// server, variables that a mesh injects) is theirs.
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

/// How a container that stands in the waiter's place fails to wait for what `wanted` waits for: the
/// field, and why that lets pods start too early or never. `None` if it still waits for the same.
///
/// It may be of another release, or of another configuration: while a new one rolls out, the API
/// server asks one replica to mutate an object and another to validate it.
pub fn blunted(actual: &Value, wanted: &Value) -> Option<(&'static str, String)> {
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
    if !same_errand(list(actual, "args"), list(wanted, "args")) {
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

/// Whether a waiter is of the same release and configuration as `wanted`, however its images are
/// written.
pub fn is_current(actual: &Value, wanted: &Value) -> bool {
    let image = |container: &Value| {
        let image = container.get("image").and_then(Value::as_str);
        image.unwrap_or_default().to_owned()
    };
    blunted(actual, wanted).is_none()
        && same_through_mirror(&image(wanted), &image(actual))
        && same_arguments(list(actual, "args"), list(wanted, "args"))
}

/// Writes the waiter's image and the guarded image in `wanted` as `actual` has them, which
/// [`is_current`]: another way to write the same version.
pub fn take_over_images(wanted: &mut Value, actual: &Value) {
    if let Some(image) = actual.get("image") {
        wanted["image"] = image.clone();
    }
    let actual = list(actual, "args");
    let wanted = wanted.get_mut("args").and_then(Value::as_array_mut);
    for (wanted, actual) in wanted.into_iter().flatten().zip(actual) {
        let is_image = |arg: &Value| arg.as_str().is_some_and(|a| a.starts_with(IMAGE_ARGUMENT));
        if is_image(wanted) && is_image(actual) {
            wanted.clone_from(actual);
        }
    }
}

/// Equal, or different only in how the same version of the guarded image is written.
fn same_arguments(actual: &[Value], wanted: &[Value]) -> bool {
    actual.len() == wanted.len()
        && actual
            .iter()
            .zip(wanted)
            .all(|(actual, wanted)| same_argument(actual, wanted))
}

/// Whether arguments make the waiter wait for the same Job and version. The rest (how long, which
/// record) is for each release and configuration to say.
fn same_errand(actual: &[Value], wanted: &[Value]) -> bool {
    let decides = |arg: &&Value| {
        arg.as_str()
            .is_some_and(|arg| ERRAND.iter().any(|prefix| arg.starts_with(prefix)))
    };
    actual.first() == wanted.first()
        && wanted
            .iter()
            .filter(decides)
            .all(|wanted| actual.iter().any(|actual| same_argument(actual, wanted)))
}

/// A webhook that pins digests may run after this one, and change what was told of the image.
fn same_argument(actual: &Value, wanted: &Value) -> bool {
    let image = |arg: &Value| {
        arg.as_str()?
            .strip_prefix(IMAGE_ARGUMENT)
            .map(str::to_owned)
    };
    actual == wanted
        || matches!((image(actual), image(wanted)), (Some(a), Some(w)) if same_version(&a, &w))
}

/// The template as its author wrote it, as far as that can be told.
fn without_injection(gate: &Gate, template: &Value) -> Value {
    let mut template = template.clone();
    let Some(spec) = template.get_mut("spec").and_then(Value::as_object_mut) else {
        return template;
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
    let own = ["serviceAccountName", "serviceAccount"]
        .into_iter()
        .find_map(|field| {
            let account = spec.get(field)?.as_str()?;
            (!account.is_empty()).then(|| account.to_owned())
        })
        .filter(|account| account != "default" && *account != gate.service_account);
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
    template
}
