//! The whole program with a certificate.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::timeout;

use crate::support::{Authority, PATIENCE, handshake, pod_review, post, read};

/// `serve` with these arguments.
pub fn migration_gate(arguments: &[&str]) -> Command {
    serving(
        Command::new(env!("CARGO_BIN_EXE_migration-gate")),
        arguments,
    )
}

/// `serve` with these arguments, by a command that runs the program.
pub fn serving(mut command: Command, arguments: &[&str]) -> Command {
    command
        .arg("serve")
        .args(arguments)
        .env_remove("KUBECONFIG")
        .env("HOME", "/nonexistent")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

pub fn write(folder: &Path, (certificate, key): (String, String)) -> (String, String) {
    let path = |name: &str, text: String| {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    (path("tls.crt", certificate), path("tls.key", key))
}

/// `serve` with a certificate in a folder.
pub struct Serve {
    pub child: Child,
    pub log: Lines<BufReader<ChildStderr>>,
    pub webhooks: SocketAddr,
    pub health: SocketAddr,
}

impl Serve {
    pub async fn start(certificate: &str, key: &str, more: &[&str]) -> Self {
        let listen = ["--listen=127.0.0.1:0", "--health-listen=127.0.0.1:0"];
        Self::start_on(certificate, key, &[&listen, more].concat()).await
    }

    pub async fn start_on(certificate: &str, key: &str, more: &[&str]) -> Self {
        let program = Command::new(env!("CARGO_BIN_EXE_migration-gate"));
        Self::start_by(program, certificate, key, more).await
    }

    /// Starts `serve` with a certificate, by a command that runs the program.
    pub async fn start_by(program: Command, certificate: &str, key: &str, more: &[&str]) -> Self {
        let mut command = serving(
            program,
            &[
                &format!("--tls-cert={certificate}"),
                &format!("--tls-key={key}"),
                "--tls-reload-interval=20ms",
            ],
        );
        let mut child = command.args(more).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let line = line(&mut log, "serving").await;
        let address = |field: &str| line[field].as_str().unwrap().parse().unwrap();
        Self {
            webhooks: address("webhooks"),
            health: address("health"),
            child,
            log,
        }
    }

    pub fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id().unwrap()).unwrap();
        kill_process(Pid::from_raw(id).unwrap(), signal).unwrap();
    }

    pub async fn get(&self, path: &str) -> (StatusCode, String) {
        let stream = TokioIo::new(TcpStream::connect(self.health).await.unwrap());
        let (mut client, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get(path).header("host", "localhost");
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let response = client.send_request(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    /// Whether a client of this authority gets an answer.
    pub async fn answers(&self, authority: &Authority, uid: &str) -> bool {
        self.asked(authority, pod_review(uid)).await
    }

    /// Whether a client of this authority gets a response to this review.
    pub async fn asked(&self, authority: &Authority, review: Vec<u8>) -> bool {
        let tcp = TcpStream::connect(self.webhooks).await.unwrap();
        let Ok(stream) = handshake(tcp, authority, &["http/1.1"], rustls::ALL_VERSIONS).await
        else {
            return false;
        };
        let stream = TokioIo::new(stream);
        let (mut client, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let response = client.send_request(post(review)).await.unwrap();
        read(response).await.0 == StatusCode::OK
    }

    pub async fn ends(&mut self) -> std::process::ExitStatus {
        timeout(PATIENCE, self.child.wait())
            .await
            .expect("it goes on")
            .unwrap()
    }
}

/// The next line of the log with this message.
pub async fn line(log: &mut Lines<BufReader<ChildStderr>>, message: &str) -> Value {
    let find = async {
        loop {
            let line = log.next_line().await.unwrap().expect("the log ends");
            let line: Value = serde_json::from_str(&line)
                .unwrap_or_else(|_| panic!("a line that isn't JSON: {line}"));
            if line["message"] == message {
                return line;
            }
        }
    };
    timeout(PATIENCE, find)
        .await
        .unwrap_or_else(|_| panic!("{message} is never logged"))
}
