//! The waiter as a process, and the objects that it sees.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use serde_json::{Value, json};

use crate::api::{Api, PATIENCE};

/// The Job that all tests are about.
pub(crate) const JOB: &str = "db-init";
/// Its record.
pub(crate) const RECORD: &str = "migration-gate-g";

/// A running waiter. It is killed when it is dropped.
pub(crate) struct Waiter {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
    termination_log: std::path::PathBuf,
}

/// How a waiter ended.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) output: String,
    pub(crate) termination: String,
}

impl Waiter {
    /// `migration-gate wait` for [`JOB`], on behalf of an image of version 2.
    pub(crate) fn start(api: &Api) -> Self {
        Self::with(api, &["--image=web:2"])
    }

    pub(crate) fn with(api: &Api, args: &[&str]) -> Self {
        let termination_log = api.folder().join("termination-log");
        std::fs::write(&termination_log, "").expect("a termination log");
        let mut child = Command::new(env!("CARGO_BIN_EXE_migration-gate"))
            .args(["wait", "--gate=g", "--namespace=ns"])
            .arg(format!("--job={JOB}"))
            .arg("--termination-log")
            .arg(&termination_log)
            .args(args)
            .env("KUBECONFIG", api.kubeconfig())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the waiter");
        let stdout = child.stdout.take().expect("its output");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self {
            child,
            lines,
            seen: Vec::new(),
            termination_log,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line with this in it.
    pub(crate) fn says(&mut self, part: &str) -> String {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(part) {
                        return line;
                    }
                }
                Err(_) => panic!("it never said {part:?}, but {:#?}", self.seen),
            }
        }
    }

    /// Waits for its end.
    pub(crate) fn ends(mut self) -> Ended {
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            self.seen.push(line);
        }
        let code = self.child.wait().expect("its status").code();
        Ended {
            code,
            output: self.seen.join("\n"),
            termination: std::fs::read_to_string(&self.termination_log).expect("a message"),
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The Job, of an image with this tag.
pub(crate) fn job(tag: &str, status: Value) -> Value {
    json!({
        "metadata": {"uid": format!("uid-of-{tag}")},
        "spec": {
            "backoffLimit": 3,
            "template": {"spec": {
                "restartPolicy": "Never",
                "containers": [{"name": "migrate", "image": format!("init:{tag}")}],
            }},
        },
        "status": status,
    })
}

pub(crate) fn running() -> Value {
    json!({"active": 1, "ready": 1})
}

pub(crate) fn condition(kind: &str) -> Value {
    json!({"conditions": [{
        "type": kind, "status": "True", "reason": format!("Because{kind}"), "message": "so it is",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }]})
}

pub(crate) fn complete() -> Value {
    condition("Complete")
}

/// The record of completions of images with these tags.
pub(crate) fn record(tags: &[&str]) -> Value {
    let data: serde_json::Map<_, _> = tags
        .iter()
        .map(|tag| {
            let entry = json!({"image": format!("init:{tag}"), "job": JOB, "uid": "u",
                               "completed": "2026-01-01T00:00:00Z"});
            ((*tag).to_owned(), json!(entry.to_string()))
        })
        .collect();
    json!({"metadata": {}, "data": data})
}
