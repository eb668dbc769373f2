//! The platforms' values in `examples/values/`: each renders, and does what the platform needs.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::lifecycle::helm_test;
use super::{APPLICATION, EXAMPLE, objects, template};
use testkit::cluster::Cluster;
use testkit::image::BUSYBOX;
use testkit::poll;
use testkit::release::Release;

testkit::tests! {
    helm:
        every_platforms_values_do_what_it_needs,
        flux_and_argo_cd_install_what_the_application_waits_for;
    exclusive: openshift_admits_the_server_and_what_it_holds;
}

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/values");

/// The values of a platform, and the name of their file.
pub(super) struct Platform {
    name: String,
    pub(super) values: Value,
}

/// All of them.
pub(super) fn platforms() -> Result<Vec<Platform>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(FOLDER)? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|name| name.to_str());
        found.push(Platform {
            name: name.context("a name")?.to_owned(),
            values: objects(&fs::read_to_string(&path)?)?
                .pop()
                .with_context(|| format!("{} is empty", path.display()))?,
        });
    }
    Ok(found)
}

fn every_platforms_values_do_what_it_needs(helm: &Path) -> Result<()> {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/platforms.md"))?;
    let mut seen = BTreeSet::new();
    for Platform { name, values } in platforms()? {
        let objects = objects(&template(helm, &values)?)?;
        let of = |kind: &str| {
            objects
                .iter()
                .find(|object| object["kind"] == kind)
                .with_context(|| format!("{name}: no {kind}"))
        };
        let deployment = &of("Deployment")?["spec"];
        let pod = &deployment["template"]["spec"];
        let port = &pod["containers"][0]["ports"][0]["containerPort"];
        let image = pod["containers"][0]["image"].as_str().context("an image")?;
        let configuration = &of("MutatingWebhookConfiguration")?["metadata"];
        let enforcer = &configuration["annotations"]["admissions.enforcer/disabled"];
        let good = match name.as_str() {
            "eks" => {
                pod["hostNetwork"] == true
                    && port != 10250
                    && deployment["strategy"]["rollingUpdate"]["maxSurge"] == 0
            }
            "eks-fargate" => pod["hostNetwork"].is_null() && port != 10250,
            "gke" => port == 10250,
            "aks" => enforcer == "true" && pod["tolerations"][0]["key"] == "CriticalAddonsOnly",
            "openshift" => {
                let context = &pod["securityContext"];
                context["runAsUser"].is_null() && context["fsGroup"].is_null()
            }
            "k3s" => deployment["replicas"] == 1,
            "air-gapped" => objects
                .iter()
                .filter_map(|object| object["data"]["config.yaml"].as_str())
                .any(|config| config.contains(image) && image.starts_with("registry.internal")),
            _ => false,
        };
        ensure!(good, "{name}: {deployment:#}\n{configuration:#}");
        ensure!(
            page.contains(&format!("examples/values/{name}.yaml")),
            "docs/platforms.md says nothing of {name}"
        );
        seen.insert(name);
    }
    ensure!(seen.len() == 7, "{seen:?}");
    Ok(())
}

/// Checks that the examples' values render, and that the application is installed after the
/// webhooks.
fn flux_and_argo_cd_install_what_the_application_waits_for(helm: &Path) -> Result<()> {
    let example = |path: &str| {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/");
        objects(&fs::read_to_string(format!("{folder}{path}"))?)
    };
    let flux = example("flux/kustomizations.yaml")?;
    ensure!(
        flux[1]["spec"]["dependsOn"][0]["name"] == flux[0]["metadata"]["name"]
            && flux[0]["spec"]["wait"] == true,
        "{flux:#?}"
    );
    let release = example("flux/migration-gate/release.yaml")?;
    let chart = example("flux/migration-gate/chart.yaml")?;
    ensure!(
        release[0]["spec"]["chartRef"]["name"] == chart[0]["metadata"]["name"],
        "{release:#?}"
    );
    let values = &release[0]["spec"]["values"];
    let rendered = objects(&template(helm, values)?)?;
    let config = super::render::configuration(&rendered)?;
    // The same gate as the one for the example that it installs.
    let gates = example("piefed-gates.yaml")?;
    let wanted = super::render::configuration(&objects(&template(helm, &gates[0])?)?)?;
    ensure!(config.gates == wanted.gates, "{config:#?}\n{wanted:#?}");

    let argo = example("argo-cd/applications.yaml")?;
    let wave =
        |index: usize| &argo[index]["metadata"]["annotations"]["argocd.argoproj.io/sync-wave"];
    ensure!(wave(0) == "0" && wave(1) == "1", "{argo:#?}");
    let values = &argo[0]["spec"]["source"]["helm"]["valuesObject"];
    let rendered = objects(&template(helm, values)?)?;
    // Objects that waiters need are not pruned with a gate.
    let kept = rendered.iter().filter(|object| {
        let annotations = &object["metadata"]["annotations"];
        annotations["argocd.argoproj.io/sync-options"] == "Prune=false"
            && annotations["helm.sh/resource-policy"] == "keep"
    });
    let kinds: Vec<&Value> = kept.map(|object| &object["kind"]).collect();
    ensure!(kinds == ["Role", "RoleBinding"], "{kinds:?}");
    Ok(())
}

/// Policies with the effect of the constraints `restricted-v2`: users and groups of the namespace,
/// and no access to the host.
const RESTRICTED_V2: &str = r#"
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: restricted-v2}
spec:
  matchConstraints:
    namespaceSelector: {matchLabels: {scc: restricted-v2}}
    resourceRules:
    - {apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}
  matchConditions:
  - {name: no-user-yet, expression: "!has(object.spec.securityContext) || !has(object.spec.securityContext.runAsUser)"}
  failurePolicy: Fail
  reinvocationPolicy: IfNeeded
  mutations:
  - patchType: ApplyConfiguration
    applyConfiguration:
      expression: >-
        Object{spec: Object.spec{securityContext: Object.spec.securityContext{runAsUser: 1000680000, fsGroup: 1000680000}}}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: restricted-v2}
spec: {policyName: restricted-v2}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: restricted-v2}
spec:
  matchConstraints:
    namespaceSelector: {matchLabels: {scc: restricted-v2}}
    resourceRules:
    - {apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [pods]}
  failurePolicy: Fail
  variables:
  - {name: pod, expression: "object.spec.?securityContext"}
  - {name: containers, expression: "object.spec.containers + object.spec.?initContainers.orValue([])"}
  validations:
  - expression: >-
      variables.pod.?runAsUser.optMap(u, u >= 1000680000 && u < 1000690000).orValue(true)
      && variables.containers.all(c, c.?securityContext.?runAsUser.optMap(u, u >= 1000680000 && u < 1000690000).orValue(true))
    message: "runAsUser: must be in the ranges: [1000680000, 1000689999]"
  - expression: "variables.pod.?fsGroup.optMap(g, g >= 1000680000 && g < 1000690000).orValue(true)"
    message: "fsGroup: must be in the ranges: [1000680000, 1000689999]"
  - expression: >-
      !object.spec.?hostNetwork.orValue(false) && !object.spec.?hostPID.orValue(false) && !object.spec.?hostIPC.orValue(false)
      && variables.containers.all(c, c.?ports.orValue([]).all(p, p.?hostPort.orValue(0) == 0))
    message: "Host network, ports, processes and IPC are not allowed to be used"
  - expression: >-
      variables.containers.all(c, !c.?securityContext.?privileged.orValue(false)
      && !c.?securityContext.?allowPrivilegeEscalation.orValue(false)
      && c.?securityContext.?capabilities.?add.orValue([]).all(a, a == "NET_BIND_SERVICE"))
    message: "privileged, allowPrivilegeEscalation and capabilities are not allowed"
  - expression: >-
      variables.pod.?seccompProfile.?type.orValue("RuntimeDefault") == "RuntimeDefault"
      && variables.containers.all(c, c.?securityContext.?seccompProfile.?type.orValue("RuntimeDefault") == "RuntimeDefault")
    message: "seccomp: only runtime/default is allowed"
  - expression: >-
      !variables.pod.?seLinuxOptions.hasValue() && variables.containers.all(c, !c.?securityContext.?seLinuxOptions.hasValue())
    message: "seLinuxOptions: must be the namespace's"
  - expression: >-
      object.spec.?volumes.orValue([]).all(v, has(v.configMap) || has(v.csi) || has(v.downwardAPI) || has(v.emptyDir)
      || has(v.ephemeral) || has(v.persistentVolumeClaim) || has(v.projected) || has(v.secret))
    message: "volumes: this type is not allowed to be used"
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: restricted-v2}
spec: {policyName: restricted-v2, validationActions: [Deny]}
"#;

/// The policies. They are deleted when the test is over.
struct Policies<'c>(&'c Cluster);

impl Drop for Policies<'_> {
    fn drop(&mut self) {
        // A failure cannot be reported here, and does no harm: the policies' namespaces are
        // deleted, too.
        for kind in ["mutating", "validating"] {
            let _ = self.0.kubectl().run(&format!(
                "delete {kind}admissionpolicy,{kind}admissionpolicybinding restricted-v2"
            ));
        }
    }
}

/// A pod that names this user.
fn pod(user: u32) -> String {
    let context = json!({
        "runAsNonRoot": true, "runAsUser": user, "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
    });
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
        "spec": {"containers": [{"name": "a", "image": BUSYBOX, "securityContext": context}]},
    })
    .to_string()
}

fn openshift_admits_the_server_and_what_it_holds(cluster: &Cluster) -> Result<()> {
    let application = cluster.namespace_named(APPLICATION)?;
    let release = Release::prepare(cluster)?;
    super::accepted::define_other_operators_kinds(cluster)?;
    let _policies = Policies(cluster);
    cluster.kubectl().apply(RESTRICTED_V2)?;
    for namespace in [APPLICATION, "migration-gate"] {
        cluster
            .kubectl()
            .run(&format!("label namespace {namespace} scc=restricted-v2"))?;
    }
    // A policy takes a moment to be enforced.
    let dry_run = ["create", "--dry-run=server", "-f", "-"];
    let create = |user: u32| {
        let kubectl = &application.kubectl;
        kubectl.output(&dry_run, &pod(user), Duration::from_mins(1))
    };
    poll::until_is(
        "the policy",
        Duration::from_mins(1),
        || Ok(create(65532)?.failure().unwrap_or_default()),
        |refusal| refusal.contains("must be in the ranges"),
    )?;
    create(1_000_680_001)?.success()?;

    release.helm(
        "install",
        &format!("--wait --values={FOLDER}/openshift.yaml --set=replicas=1"),
    )?;
    helm_test(release.kubectl())?;
    let kubectl = &application.kubectl;
    kubectl.run(&format!("apply -k {EXAMPLE}"))?;
    kubectl.wait("job/piefed-db-init", "jsonpath={.status.ready}=1", 60)?;
    kubectl.exec("job/piefed-db-init", &["finish-migration", "success"])?;
    kubectl.wait("deployment/piefed-web", "condition=Available", 60)?;
    for (kubectl, selector) in [
        (kubectl, "app.kubernetes.io/name=piefed-web"),
        (release.kubectl(), "app.kubernetes.io/name=migration-gate"),
    ] {
        let users = kubectl.run(&format!(
            "get pods --selector={selector} --output=jsonpath={{.items[*].spec.securityContext.runAsUser}}"
        ))?;
        ensure!(
            !users.is_empty() && users.split(' ').all(|user| user == "1000680000"),
            "{selector}: {users}"
        );
    }
    Ok(())
}
