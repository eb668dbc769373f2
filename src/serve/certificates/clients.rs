//! The CAs of client certificates, from a file.

use std::path::PathBuf;
use std::time::Duration;

use tracing::info;

use super::files::{self, FilesError, Looks};
use crate::serve::stop::Stop;
use crate::serve::tls::{Acceptor, RequiredClients};

/// Client certificates: `--client-ca` and `--client-name`.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Client certificates")]
pub struct ClientArgs {
    /// CA certificates, PEM; clients need a certificate that one of them signed
    ///
    /// The API server then needs a client certificate: see its AdmissionConfiguration. The file is
    /// reloaded when it changes.
    #[arg(long, value_name = "FILE")]
    client_ca: Option<PathBuf>,

    /// Common name or DNS name that a client certificate must have; repeatable
    #[arg(long, value_name = "NAME", requires = "client_ca")]
    client_name: Vec<String>,
}

/// The file of `--client-ca`, and the names of `--client-name`.
#[derive(Debug)]
pub(in crate::serve) struct ClientFile {
    path: PathBuf,
    names: Vec<String>,
    /// The last content, usable or not.
    last: Vec<u8>,
}

impl ClientFile {
    /// `None` if clients need no certificate.
    pub(in crate::serve) fn new(args: ClientArgs) -> Option<Self> {
        let ClientArgs {
            client_ca,
            client_name,
        } = args;
        client_ca.map(|path| Self {
            path,
            names: client_name,
            last: Vec::new(),
        })
    }

    /// Reads the file. If it has changed, `acceptor` accepts only clients with a certificate of the
    /// CAs that it now holds.
    pub(in crate::serve) async fn apply(&mut self, acceptor: &Acceptor) -> Result<(), FilesError> {
        let text = files::read(&self.path).await?;
        if text == self.last {
            return Ok(());
        }
        let required = RequiredClients::new(&text, self.names.clone());
        self.last = text;
        let unusable = |source| FilesError::Authorities {
            path: self.path.clone(),
            source,
        };
        acceptor.require(required.map_err(unusable)?);
        info!(path = %self.path.display(), "clients need a certificate that these CAs signed");
        Ok(())
    }

    /// Calls [`Self::apply`] periodically, until the server closes. Open connections stay open.
    pub(in crate::serve) async fn follow(
        mut self,
        interval: Duration,
        acceptor: Acceptor,
        stop: Stop,
    ) {
        let failure = "cannot reload the client CAs; the previous ones stay in use";
        let mut looks = Looks::new(interval, stop, failure);
        while looks.next().await {
            looks.end(self.apply(&acceptor).await);
        }
    }
}
