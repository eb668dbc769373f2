//! A Deployment of the server for one test only.

use std::fs;
use std::time::Instant;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use rustix::process::{Signal, kill_process};
use tempfile::TempDir;

use super::{manifests, processes_of};
use testkit::client::block_on;
use testkit::cluster::Cluster;
use testkit::image;
use testkit::namespace::Namespace;
use testkit::pki::ClusterAuthority;

/// Two replicas in a cluster, which are called through their Service.
pub(super) struct Installed {
    pub(super) namespace: Namespace,
    /// The CA of the certificate and the folder of its keys, unless the server makes its own.
    authority: Option<(ClusterAuthority, TempDir)>,
    secrets: Api<Secret>,
}

impl Installed {
    /// With certificates that the server makes itself, and that expire after seconds.
    pub(super) fn self_managed(cluster: &Cluster) -> Result<Self> {
        let arguments = "
        - --secret=certificate
        - --server-name=serve.NAME.svc
        - --certificate-lifetime=12s
        - --propagation-delay=1s";
        Self::new(cluster, arguments, None)
    }

    /// With a certificate from a Secret's volume, which [`Self::renew`] changes.
    pub(super) fn from_files(cluster: &Cluster) -> Result<Self> {
        let arguments = "
        - --tls-cert=/tls/tls.crt
        - --tls-key=/tls/tls.key
        - --tls-reload-interval=100ms
        volumeMounts: [{name: tls, mountPath: /tls, readOnly: true}]
      volumes: [{name: tls, secret: {secretName: files}}]";
        let folder = tempfile::tempdir()?;
        let authority = ClusterAuthority::create(folder.path())?;
        Self::new(cluster, arguments, Some((authority, folder)))
    }

    fn new(
        cluster: &Cluster,
        arguments: &str,
        authority: Option<(ClusterAuthority, TempDir)>,
    ) -> Result<Self> {
        let mut namespace = cluster.namespace("serve")?;
        cluster.leave(&mut namespace);
        let this = Self {
            secrets: Api::namespaced(cluster.client(), &namespace.name),
            namespace,
            authority,
        };
        let name = &this.namespace.name;
        let kubectl = &this.namespace.kubectl;
        let bundle = match &this.authority {
            Some((authority, _)) => {
                this.renew(0)?;
                let bundle = STANDARD.encode(fs::read(authority.pair().certificate)?);
                format!(", caBundle: {bundle}")
            }
            None => String::new(),
        };
        let client_config =
            format!("{{service: {{name: serve, namespace: {name}, path: /PATH}}{bundle}}}");
        let subject = format!("{{kind: ServiceAccount, name: serve, namespace: {name}}}");
        kubectl.run("create serviceaccount serve")?;
        let deployment = include_str!("deployment.yaml")
            .replace("\nARGUMENTS", arguments)
            .replace("NAME", name)
            .replace("IMAGE", image::MIGRATION_GATE);
        kubectl.apply(&(deployment + &manifests(name, &client_config, &subject)))?;
        kubectl.wait("deployment/serve", "condition=Available", 60)?;
        kubectl.run("rollout status deployment/serve --timeout=170s")?;
        Ok(this)
    }

    /// Writes another certificate of the CA to the mounted Secret.
    pub(super) fn renew(&self, round: usize) -> Result<()> {
        let Namespace { name, kubectl, .. } = &self.namespace;
        let (authority, _) = self.authority.as_ref().context("it comes from files")?;
        let pair = authority.server(
            &format!("tls-{round}"),
            &[&format!("serve.{name}.svc")],
            &[],
        )?;
        let read = |path| anyhow::Ok(STANDARD.encode(fs::read(path)?));
        kubectl.apply(&format!(
            "{{apiVersion: v1, kind: Secret, type: kubernetes.io/tls, metadata: {{name: files}}, data: {{tls.crt: {}, tls.key: {}}}}}",
            read(pair.certificate)?,
            read(pair.key)?
        ))?;
        Ok(())
    }

    /// Kills one of the replicas, as a node failure would. Returns the time.
    pub(super) fn kills_a_replica(&self) -> Result<Instant> {
        let victim = processes_of("serve")?
            .into_iter()
            .find(|(_, arguments)| arguments.contains(&self.namespace.name))
            .context("no process of a replica")?
            .0;
        let killed = Instant::now();
        kill_process(victim, Signal::KILL)?;
        Ok(killed)
    }

    /// The last certificate that the server has made.
    pub(super) fn certificate(&self) -> Result<Vec<u8>> {
        let secret = block_on(self.secrets.get("certificate"))?;
        let data = secret.data.and_then(|mut data| data.remove("tls.crt"));
        Ok(data.context("a certificate")?.0)
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        let Namespace { name, kubectl, .. } = &self.namespace;
        // A failure cannot be reported here, and does no harm: the configurations match only this
        // test's namespace.
        let _ = kubectl.run(&format!(
            "delete deployment/serve mutatingwebhookconfiguration/{name} validatingwebhookconfiguration/{name} clusterrole/{name} clusterrolebinding/{name}"
        ));
    }
}
