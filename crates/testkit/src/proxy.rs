//! A TCP proxy between a waiter and the API server, which cuts connections and holds them back.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::client::{block_on, spawn};
use crate::sandbox::NODE_ADDRESS;

/// Ends with the test program.
pub struct Proxy {
    address: SocketAddr,
    connections: Arc<Mutex<Vec<AbortHandle>>>,
    held: watch::Sender<bool>,
}

impl Proxy {
    /// In front of the API server that a kubeconfig names; `through` becomes a kubeconfig that
    /// names the proxy.
    pub fn start(kubeconfig: &Path, through: &Path) -> Result<Self> {
        let mut config: Value = serde_json::from_str(&fs::read_to_string(kubeconfig)?)?;
        let server = &mut config["clusters"][0]["cluster"]["server"];
        let upstream: SocketAddr = server
            .as_str()
            .and_then(|url| url.strip_prefix("https://"))
            .context("a server's address")?
            .parse()?;
        // The API server's certificate holds for this address, whatever the port.
        let address: IpAddr = NODE_ADDRESS.parse()?;
        let listener = block_on(TcpListener::bind((address, 0)))?;
        let this = Self {
            address: listener.local_addr()?,
            connections: Arc::default(),
            held: watch::Sender::new(false),
        };
        *server = json!(format!("https://{}", this.address));
        fs::write(through, config.to_string())?;
        let (connections, held) = (Arc::clone(&this.connections), this.held.subscribe());
        drop(spawn(accept(listener, upstream, connections, held)));
        Ok(this)
    }

    /// Ends every connection, in the middle of whatever it carries.
    pub fn cut(&self) {
        let mut connections = self
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        connections.drain(..).for_each(|handle| handle.abort());
    }

    /// Lets new connections come about, and nothing through them.
    pub fn hold(&self) {
        self.held.send_replace(true);
    }

    /// Lets through what was held.
    pub fn release(&self) {
        self.held.send_replace(false);
    }
}

async fn accept(
    listener: TcpListener,
    upstream: SocketAddr,
    connections: Arc<Mutex<Vec<AbortHandle>>>,
    held: watch::Receiver<bool>,
) {
    while let Ok((mut near, _)) = listener.accept().await {
        let mut held = held.clone();
        let task = tokio::spawn(async move {
            if held.wait_for(|held| !held).await.is_ok()
                && let Ok(mut far) = TcpStream::connect(upstream).await
            {
                // However it ends, both ends of it are closed.
                let _ = copy_bidirectional(&mut near, &mut far).await;
            }
        });
        connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(task.abort_handle());
    }
}
