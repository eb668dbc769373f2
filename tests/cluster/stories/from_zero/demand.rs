//! The metric for Kubernetes' autoscaler: an aggregated API with one value, as a monitoring
//! system's adapter serves it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use crate::registry::acceptor;
use testkit::client::{block_on, spawn};
use testkit::cluster::Cluster;
use testkit::kubectl::Kubectl;
use testkit::pki::ClusterAuthority;
use testkit::sandbox::NODE_ADDRESS;

const GROUP: &str = "external.metrics.k8s.io";
const VERSION: &str = "v1beta1";

/// The API. Dropping this removes it.
pub(super) struct Demand<'k> {
    kubectl: &'k Kubectl,
    value: Arc<AtomicU32>,
    server: AbortHandle,
}

impl<'k> Demand<'k> {
    /// Serves the API on the node's address, with a Service in the namespace of `kubectl`.
    pub(super) fn serve(cluster: &Cluster, kubectl: &'k Kubectl) -> Result<Self> {
        let state = cluster.sandbox()?.state("demand")?;
        let pair = ClusterAuthority::create(&state)?;
        let acceptor = acceptor(&pair.server("demand", &[], &[NODE_ADDRESS.parse()?])?)?;
        let listener = block_on(TcpListener::bind((NODE_ADDRESS, 0)))?;
        let port = listener.local_addr()?.port();
        let value = Arc::new(AtomicU32::new(0));
        let told = Arc::clone(&value);
        let server = spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let (acceptor, told) = (acceptor.clone(), Arc::clone(&told));
                tokio::spawn(async move {
                    if let Ok(connection) = acceptor.accept(connection).await {
                        // Ignore a client that closes its connection.
                        let _ = answer(connection, &told).await;
                    }
                });
            }
        });
        let demand = Self {
            kubectl,
            value,
            server: server.abort_handle(),
        };
        let namespace = kubectl.namespace.as_deref().context("a namespace")?;
        kubectl.apply(&registration(namespace, port).to_string())?;
        kubectl.wait(
            &format!("apiservice/{VERSION}.{GROUP}"),
            "condition=Available",
            60,
        )?;
        Ok(demand)
    }

    pub(super) fn say(&self, value: u32) {
        self.value.store(value, Ordering::Relaxed);
    }
}

impl Drop for Demand<'_> {
    fn drop(&mut self) {
        // An aggregated API without a server would block the deletion of namespaces. A failure
        // cannot be reported here.
        let _ = self
            .kubectl
            .run(&format!("delete apiservice {VERSION}.{GROUP}"));
        self.server.abort();
    }
}

/// The objects by which the API server finds the API.
fn registration(namespace: &str, port: u16) -> Value {
    let name = "demand";
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
         "spec": {"ports": [{"name": "https", "port": 443, "targetPort": port}]}},
        {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
         "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
         "addressType": "IPv4", "ports": [{"name": "https", "port": port}],
         "endpoints": [{"addresses": [NODE_ADDRESS], "conditions": {"ready": true}}]},
        {"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
         "metadata": {"name": format!("{VERSION}.{GROUP}")},
         "spec": {
             "group": GROUP, "version": VERSION, "groupPriorityMinimum": 100, "versionPriority": 100,
             "insecureSkipTLSVerify": true, "service": {"namespace": namespace, "name": name},
         }},
    ]})
}

/// Reads requests, and answers them.
async fn answer(
    connection: impl AsyncRead + AsyncWrite + Unpin,
    value: &AtomicU32,
) -> std::io::Result<()> {
    let mut connection = BufReader::new(connection);
    loop {
        let mut request = String::new();
        connection.read_line(&mut request).await?;
        let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
        if path.is_empty() {
            return Ok(());
        }
        let mut header = String::from("-");
        while !header.trim().is_empty() {
            header.clear();
            connection.read_line(&mut header).await?;
        }
        let (status, body) = body(&path, value.load(Ordering::Relaxed));
        let body = body.to_string();
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        connection.write_all(answer.as_bytes()).await?;
        connection.flush().await?;
    }
}

fn body(path: &str, value: u32) -> (&'static str, Value) {
    let (path, _) = path.split_once('?').unwrap_or((path, ""));
    let this = format!("{GROUP}/{VERSION}");
    let Some(rest) = path.strip_prefix(&format!("/apis/{this}")) else {
        let missing =
            json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404});
        return ("404 Not Found", missing);
    };
    let body = match rest {
        "" | "/" => json!({
            "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": this, "resources": [],
        }),
        _ => json!({
            "kind": "ExternalMetricValueList", "apiVersion": this, "metadata": {},
            "items": [{
                "metricName": "demand", "metricLabels": {}, "value": value.to_string(),
                "timestamp": jiff::Timestamp::now().strftime("%FT%TZ").to_string(),
            }],
        }),
    };
    ("200 OK", body)
}
