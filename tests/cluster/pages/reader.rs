//! A reader who runs the pages' commands, with a home directory and a folder of its own.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::flux::Flux;
use testkit::assets::repository;
use testkit::cluster::Cluster;
use testkit::image::{BUSYBOX, MIGRATION_GATE};
use testkit::kubectl::Kubectl;
use testkit::poll::{Look, until};
use testkit::process;
use testkit::shell::Shell;

/// Time limit for a command, and for a page's preconditions.
const PATIENCE: Duration = Duration::from_mins(4);

const APPLICATION: &str = "piefed-application";
/// The namespaces that pages create or require.
const NAMESPACES: &str = "migration-gate other piefed-application shop";

pub(super) struct Reader {
    kubectl: Kubectl,
    /// The parts of a checkout that the pages need.
    checkout: tempfile::TempDir,
    home: tempfile::TempDir,
}

/// Creates a page's precondition.
type Before = fn(&Reader) -> Result<()>;

/// The preconditions of commands, by page and beginning. All that match are created.
const BEFORE: &[(&str, &str, Before)] = &[
    ("docs/gates.md", "", Reader::has_a_chart_of_its_own),
    ("docs/integration.md", "kubectl get roles", Reader::installs),
    (
        "docs/integration.md",
        "kubectl -n migration-gate delete secret",
        Reader::had_cert_manager,
    ),
    ("docs/integration.md", "helm rollback", Reader::installs),
    ("docs/integration.md", "helm install", Reader::uninstalls),
    (
        "docs/monitoring.md",
        "kubectl -n piefed-application describe job",
        Reader::deploys,
    ),
    (
        "docs/monitoring.md",
        "kubectl -n piefed-application describe configmap",
        Reader::is_recorded,
    ),
    (
        "docs/operating.md",
        "kubectl -n flux-system",
        Reader::has_a_kustomization,
    ),
    (
        "docs/operating.md",
        "migration-gate review --live --config values.yaml",
        Reader::writes_values,
    ),
    (
        "docs/operating.md",
        "helm install migration-gate charts/migration-gate --namespace migration-gate --create-namespace --set mode=warn",
        Reader::uninstalls,
    ),
    (
        "docs/operating.md",
        "migration-gate eject --config gates.yaml --yes",
        Reader::lets_migrate,
    ),
    (
        "docs/operating.md",
        "helm upgrade migration-gate charts/migration-gate --namespace migration-gate --values",
        Reader::had_a_second_gate,
    ),
    (
        "docs/operating.md",
        "migration-gate record list",
        Reader::runs_the_application,
    ),
    (
        "docs/operating.md",
        "migration-gate eject --context staging",
        Reader::has_a_staging_cluster,
    ),
    ("docs/status.md", "", Reader::installs),
    (
        "docs/troubleshooting.md",
        "migration-gate status",
        Reader::has_a_shop,
    ),
    (
        "examples/piefed/README.md",
        "kubectl -n piefed-application logs -f",
        Reader::lets_migrate,
    ),
];

impl Drop for Reader {
    fn drop(&mut self) {
        // A failure cannot be reported here. The next test that uses these names notices it.
        let _ = self.leaves_nothing();
    }
}

impl Reader {
    pub(super) fn arrives(cluster: &Cluster) -> Result<Self> {
        // The image of `make image`, and the chart's default image.
        for name in [
            "docker.io/library/migration-gate:dev",
            "docker.io/migration-gate/migration-gate:0.1.0",
        ] {
            cluster.tag(MIGRATION_GATE, name)?;
        }
        // One page has an application that Flux applies.
        Flux::of(cluster)?;
        let checkout = tempfile::tempdir()?;
        for name in ["charts", "examples"] {
            let mut copy = Command::new("cp");
            copy.arg("-r")
                .arg(repository().join(name))
                .arg(checkout.path());
            process::run(&mut copy, "", Duration::from_secs(10))?.success()?;
        }
        let home = tempfile::tempdir()?;
        fs::create_dir_all(home.path().join(".local/bin"))?;
        let kubeconfig = home.path().join("kubeconfig");
        fs::copy(&cluster.kubectl().kubeconfig, &kubeconfig)?;
        Ok(Self {
            kubectl: cluster.kubectl().with_kubeconfig(&kubeconfig),
            checkout,
            home,
        })
    }

    /// Begins a page, after removing everything of the last one.
    pub(super) fn turns_to(&self, page: &str) -> Result<()> {
        self.begins_anew()?;
        println!("{page}");
        Ok(())
    }

    /// Runs a command of a page, after creating its preconditions.
    pub(super) fn types(&self, page: &str, command: &str) -> Result<()> {
        for (on, begins, before) in BEFORE {
            if *on == page && command.starts_with(begins) {
                before(self).with_context(|| format!("{page}, before `{command}`"))?;
            }
        }
        println!("$ {command}");
        // This command runs until it is interrupted.
        let typed = match command.strip_suffix(" --watch") {
            Some(_) => format!("timeout 5 {command} || [ $? = 124 ]"),
            None => command.to_owned(),
        };
        let folder = match page.strip_suffix("/README.md") {
            Some(folder) if folder.starts_with("examples/") => self.checkout.path().join(folder),
            _ => self.checkout.path().to_owned(),
        };
        let shell = self.shell()?.in_folder(&folder);
        until(command, PATIENCE, || {
            let finished = match shell.run(&typed, PATIENCE) {
                Ok(finished) => finished,
                Err(error) => return Look::Failed(error),
            };
            // These commands exit with 1 if they report problems, which is no failure here.
            let tells = ["migration-gate status", "migration-gate review --live"];
            let told = tells.iter().any(|begins| command.starts_with(begins))
                && finished.status.code() == Some(1);
            // A pod has a log only after its container has started.
            let comes = command.contains(" logs ");
            match finished.success() {
                Ok(_) => Look::Done(()),
                Err(_) if told => Look::Done(()),
                Err(error) if comes => Look::Pending(format!("{error:#}")),
                Err(error) => Look::Failed(error.context(page.to_owned())),
            }
        })
    }

    fn shell(&self) -> Result<Shell> {
        let programs = self.home.path().join(".local/bin");
        Ok(Shell::new(&self.kubectl, &programs)?
            .in_folder(self.checkout.path())
            .at_home(self.home.path()))
    }

    fn runs(&self, line: &str) -> Result<String> {
        self.shell()?.run(line, PATIENCE)?.success()
    }

    fn writes(&self, name: &str, content: &Value) -> Result<()> {
        fs::write(self.checkout.path().join(name), content.to_string())?;
        Ok(())
    }

    fn leaves_nothing(&self) -> Result<()> {
        self.uninstalls()?;
        self.runs(&format!(
            "kubectl delete namespace {NAMESPACES} --ignore-not-found --wait --timeout=170s"
        ))?;
        self.runs("kubectl delete persistentvolume media --ignore-not-found")
            .map(drop)
    }

    fn begins_anew(&self) -> Result<()> {
        self.leaves_nothing()?;
        let volume = json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "media"},
            "spec": {"capacity": {"storage": "20Gi"}, "accessModes": ["ReadWriteMany"],
                     "hostPath": {"path": "/tmp"}},
        });
        self.kubectl.apply(&volume.to_string())?;
        Ok(())
    }

    fn uninstalls(&self) -> Result<()> {
        for namespace in ["migration-gate", "other"] {
            self.runs(&format!(
                "helm uninstall migration-gate --namespace {namespace} --wait --ignore-not-found"
            ))?;
        }
        Ok(())
    }

    fn installs(&self) -> Result<()> {
        self.installs_with(&json!({}))
    }

    fn installs_with(&self, values: &Value) -> Result<()> {
        self.writes("installed.yaml", values)?;
        self.runs(&format!(
            "kubectl create namespace {APPLICATION} --dry-run=client -o yaml | kubectl apply -f -"
        ))?;
        self.runs(
            "helm upgrade --install migration-gate charts/migration-gate --namespace migration-gate \
             --create-namespace --wait --values installed.yaml",
        )?;
        Ok(())
    }

    /// Applies the application. Its migration runs.
    fn deploys(&self) -> Result<()> {
        self.installs()?;
        self.runs("kubectl apply -k examples/piefed")?;
        self.kubectl.in_namespace(APPLICATION).wait(
            "job/piefed-db-init",
            "jsonpath={.status.ready}=1",
            170,
        )
    }

    fn lets_migrate(&self) -> Result<()> {
        let kubectl = self.kubectl.in_namespace(APPLICATION);
        kubectl.wait("job/piefed-db-init", "jsonpath={.status.ready}=1", 170)?;
        kubectl.exec("job/piefed-db-init", &["finish-migration", "success"])?;
        kubectl.wait("job/piefed-db-init", "condition=Complete", 170)
    }

    fn is_recorded(&self) -> Result<()> {
        self.lets_migrate()?;
        self.kubectl.in_namespace(APPLICATION).wait(
            "configmap/migration-gate-piefed",
            "create",
            170,
        )
    }

    fn runs_the_application(&self) -> Result<()> {
        self.runs(&format!(
            "kubectl -n {APPLICATION} delete job piefed-db-init --ignore-not-found"
        ))?;
        self.deploys()?;
        self.lets_migrate()?;
        self.kubectl.in_namespace(APPLICATION).wait(
            "deployment/piefed-web",
            "condition=Available",
            170,
        )
    }

    fn has_a_chart_of_its_own(&self) -> Result<()> {
        let (chart, shop) = ("examples/shop-chart", "shop");
        symlink(
            self.checkout.path().join(chart),
            self.checkout.path().join(shop),
        )?;
        self.runs("cp shop/gates.yaml gates.yaml").map(drop)
    }

    fn had_cert_manager(&self) -> Result<()> {
        self.runs(
            "for name in migration-gate-cert-manager migration-gate-cert-manager-ca; do \
             kubectl -n migration-gate create secret generic $name; done",
        )
        .map(drop)
    }

    fn has_a_kustomization(&self) -> Result<()> {
        let kustomization = json!({
            "apiVersion": "kustomize.toolkit.fluxcd.io/v1", "kind": "Kustomization",
            "metadata": {"name": "piefed", "namespace": "flux-system"},
            "spec": {"interval": "10m", "prune": true, "suspend": true,
                     "sourceRef": {"kind": "GitRepository", "name": "piefed"}},
        });
        self.kubectl.apply(&kustomization.to_string()).map(drop)
    }

    fn writes_values(&self) -> Result<()> {
        self.writes("values.yaml", &json!({"gates": [piefed()]}))
    }

    /// An installation from whose values one of two gates was removed.
    fn had_a_second_gate(&self) -> Result<()> {
        let gates = json!([piefed(), shop()]);
        self.writes("gates.yaml", &json!({"gates": gates}))?;
        self.writes_values()?;
        self.runs("kubectl create namespace shop")?;
        self.installs_with(&json!({"gates": gates}))
    }

    fn has_a_staging_cluster(&self) -> Result<()> {
        let context = self.kubectl.run("config current-context")?;
        self.runs(&format!(
            "kubectl config rename-context {} staging",
            context.trim()
        ))?;
        self.uninstalls()
    }

    /// The gate of the page's examples, with a migration that has completed.
    fn has_a_shop(&self) -> Result<()> {
        let there = self.runs("helm list --namespace migration-gate --short")?;
        if !there.is_empty() {
            return Ok(());
        }
        self.runs("kubectl create namespace shop")?;
        self.installs_with(&json!({"gates": [shop()]}))?;
        let container = json!([{"name": "main", "image": BUSYBOX, "command": ["true"]}]);
        let labels = json!({"app.kubernetes.io/name": "web"});
        let job = json!({
            "apiVersion": "batch/v1", "kind": "Job",
            "metadata": {"name": "migrate", "namespace": "shop"},
            "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": container}}},
        });
        let mut web = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"selector": {"matchLabels": labels}, "template": {
                "metadata": {"labels": labels}, "spec": {"containers": container},
            }},
        });
        web["spec"]["template"]["spec"]["containers"][0]["command"] =
            json!(["sleep", "2147483647"]);
        self.kubectl.apply(&format!("{job}\n---\n{web}"))?;
        let applied = self.kubectl.in_namespace("shop");
        applied.wait("deployment/web", "condition=Available", 170)
    }
}

/// The built-in gate.
fn piefed() -> Value {
    json!({"name": "piefed", "namespace": APPLICATION, "job": "piefed-db-init",
           "deployments": ["piefed-web", "piefed-worker"], "serviceAccount": "piefed-init-checker"})
}

fn shop() -> Value {
    json!({"name": "shop", "namespace": "shop", "job": "migrate", "deployments": ["web"],
           "serviceAccount": "shop-waiter"})
}
