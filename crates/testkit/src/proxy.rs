//! A TCP proxy between a waiter and the API server, which can cut connections and hold back their
//! data.

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

/// A running proxy. It ends with the test program.
pub struct Proxy {
    address: SocketAddr,
    connections: Arc<Mutex<Vec<AbortHandle>>>,
    held: watch::Sender<bool>,
}

impl Proxy {
    /// Starts a proxy for the API server in `kubeconfig`. Writes a kubeconfig for the proxy to
    /// `through`.
    pub fn start(kubeconfig: &Path, through: &Path) -> Result<Self> {
        let mut config: Value = serde_json::from_str(&fs::read_to_string(kubeconfig)?)?;
        let server = &mut config["clusters"][0]["cluster"]["server"];
        let upstream: SocketAddr = server
            .as_str()
            .and_then(|url| url.strip_prefix("https://"))
            .context("a server's address")?
            .parse()?;
        // The API server's certificate is valid for this address.
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

    /// Cuts every connection, without waiting for the end of a message.
    pub fn cut(&self) {
        let mut connections = self
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        connections.drain(..).for_each(|handle| handle.abort());
    }

    /// From now on, accepts connections and holds back their data.
    pub fn hold(&self) {
        self.held.send_replace(true);
    }

    /// Passes on the data that was held back.
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
                // An error also closes both connections.
                let _ = copy_bidirectional(&mut near, &mut far).await;
            }
        });
        connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(task.abort_handle());
    }
}
