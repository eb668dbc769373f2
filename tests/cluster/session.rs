//! The terminal session in README: a migration that fails, and its repair. It is recorded from a
//! run with the application of the stories. `GENERATE=1` writes `docs/session.svg`.

mod terminal;

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use self::terminal::Terminal;
use crate::stories::application::{Application, WEB, WORKER, one_attempt};
use testkit::assets::repository;
use testkit::cluster::Cluster;
use testkit::kubectl::Kubectl;
use testkit::release::Release;
use testkit::shell::Shell;

testkit::soaks! {
    exclusive: the_session_of_the_readme_fails_and_is_repaired;
}

const PICTURE: &str = "docs/session.svg";
const NAMESPACE: &str = "piefed-application";
const PATIENCE: Duration = Duration::from_mins(4);

fn the_session_of_the_readme_fails_and_is_repaired(cluster: &Cluster) -> Result<()> {
    let application = Application::new(cluster, cluster.namespace_named(NAMESPACE)?)?;
    let _release = Release::install(cluster)?;
    let folder = application.patched("1.1.0", &one_attempt())?;
    let mut session = Session::open(application.kubectl(), &folder)?;
    application
        .kubectl()
        .run(&format!("apply -k {}", folder.display()))?;
    for version in ["1.1.0", "1.2.0", "1.2.1"] {
        application.let_migrate(version)?;
    }
    application.rolled_out()?;

    session.remarks("An upgrade to 1.2.0, whose migration fails");
    session.types("sed -i s/1.1.0/1.2.0/ kustomization.yaml")?;
    session.types("kubectl delete job piefed-db-init")?;
    session.types("kubectl apply -k . | grep -v unchanged")?;
    for deployment in [WEB, WORKER] {
        for pod in application.await_pods(deployment, "1.2.0", 1)? {
            application.await_pod(&pod, "to have failed in its waiter", |pod| {
                let waiter = &pod["status"]["initContainerStatuses"][0];
                waiter["lastState"]["terminated"]["exitCode"] == 3
            })?;
        }
    }
    let pods = session.types("kubectl get pods -l app.kubernetes.io/part-of=piefed")?;
    ensure!(pods.contains("Init:") && pods.contains("Running"), "{pods}");
    let status = session.types("migration-gate status")?;
    for part in ["error[job-failed]", "MissingExtension"] {
        ensure!(status.contains(part), "{status}");
    }
    ensure!(!status.contains("s3cr3t"), "{status}");

    session.remarks("The repair: 1.2.1, with a migration that works");
    session.types("sed -i s/1.2.0/1.2.1/ kustomization.yaml")?;
    session.types("kubectl delete job piefed-db-init")?;
    session.types("kubectl apply -k . | grep -v unchanged")?;
    session.types("migration-gate status --watch --timeout 5m")?;
    application.rolled_out()?;
    let logs = session.types(
        "kubectl logs -l app.kubernetes.io/name=piefed-web -c wait-for-migrations --prefix",
    )?;
    ensure!(logs.contains("of version 1.2.1"), "{logs}");
    let status = session.types("migration-gate status")?;
    ensure!(!status.contains("error["), "{status}");

    if std::env::var_os("GENERATE").is_some() {
        fs::write(repository().join(PICTURE), session.terminal.svg())?;
    }
    Ok(())
}

/// An operator at a terminal, in a namespace and a folder.
struct Session {
    shell: Shell,
    terminal: Terminal,
    _home: tempfile::TempDir,
}

impl Session {
    fn open(kubectl: &Kubectl, folder: &Path) -> Result<Self> {
        let home = tempfile::tempdir()?;
        let kubeconfig = home.path().join("kubeconfig");
        fs::copy(&kubectl.kubeconfig, &kubeconfig)?;
        let mut kubectl = kubectl.with_kubeconfig(&kubeconfig);
        kubectl.namespace = None;
        let context = kubectl.run("config current-context")?;
        let set = "config set-context --current --namespace";
        kubectl.run(&format!("{set}={NAMESPACE}"))?;
        kubectl.run(&format!("config rename-context {} staging", context.trim()))?;
        Ok(Self {
            shell: Shell::new(&kubectl, home.path())?.in_folder(folder),
            terminal: Terminal::default(),
            _home: home,
        })
    }

    fn remarks(&mut self, text: &str) {
        self.terminal.remark(text);
    }

    /// Runs a command, and records it with its output. Returns the output.
    fn types(&mut self, command: &str) -> Result<String> {
        let ended = self
            .shell
            .run(&format!("{{ {command}; }} 2>&1"), PATIENCE)?;
        // `status` exits with 1 if there are problems.
        let code = ended.status.code();
        let told = command.starts_with("migration-gate status") && code == Some(1);
        ensure!(code == Some(0) || told, "{command}: {}", ended.stdout);
        self.terminal.command(command, &ended.stdout);
        Ok(ended.stdout)
    }
}
