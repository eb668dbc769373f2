//! What is reviewed: files, the manifests in folders, standard input.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use walkdir::{DirEntry, WalkDir};

use migration_gate_yaml as yaml;

/// How much is read in all, in bytes.
pub const MAX_INPUT: u64 = 128 << 20;

/// The name of standard input in reports.
pub const STDIN: &str = "<stdin>";

/// One text that holds manifests.
#[derive(Debug, Clone, Default)]
pub struct SourceText {
    /// The path as it was given, or [`STDIN`].
    pub name: String,
    /// What is in it.
    pub text: String,
    /// The namespace of objects that name none, from the kustomization beside the file.
    pub namespace: Option<String>,
    /// Whether a cluster has this already, so that what comes next is an update.
    pub stored: bool,
}

/// Something that was to be reviewed and couldn't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {message}")]
pub struct Unreadable {
    /// The path.
    pub name: String,
    /// Why, and what to do.
    pub message: String,
}

/// Reads what the paths name, `-` being standard input. Folders are read with all that is below
/// them, in the order of their names: `*.yaml`, `*.yml` and `*.json`, but nothing hidden.
pub fn gather(paths: &[PathBuf], stdin: impl Read) -> (Vec<SourceText>, Vec<Unreadable>) {
    let mut gatherer = Gatherer {
        left: MAX_INPUT,
        sources: Vec::new(),
        unreadable: Vec::new(),
        namespaces: HashMap::new(),
    };
    let mut stdin = Some(stdin);
    for path in paths {
        if path.as_os_str() == "-" {
            if let Some(stdin) = stdin.take() {
                gatherer.read(STDIN, stdin, None);
            }
        } else if path.is_dir() {
            gatherer.folder(path);
        } else {
            gatherer.file(path, path.parent().unwrap_or(path));
        }
    }
    (gatherer.sources, gatherer.unreadable)
}

struct Gatherer {
    left: u64,
    sources: Vec<SourceText>,
    unreadable: Vec<Unreadable>,
    /// The `namespace` of each folder's kustomization.
    namespaces: HashMap<PathBuf, Option<String>>,
}

impl Gatherer {
    fn folder(&mut self, root: &Path) {
        let before = self.sources.len() + self.unreadable.len();
        let walk = WalkDir::new(root)
            .follow_links(true)
            .sort_by_file_name()
            .into_iter()
            .filter_entry(|entry| entry.depth() == 0 || !is_hidden(entry));
        for entry in walk {
            match entry {
                Ok(entry) if entry.file_type().is_file() && is_manifest(entry.path()) => {
                    self.file(entry.path(), root);
                }
                Ok(_) => {}
                Err(error) => {
                    let path = error.path().unwrap_or(root).display().to_string();
                    self.fail(&path, &error.into());
                }
            }
        }
        if self.sources.len() + self.unreadable.len() == before {
            self.unreadable.push(Unreadable {
                name: root.display().to_string(),
                message: "there is no *.yaml, *.yml or *.json file in this folder".to_owned(),
            });
        }
    }

    fn file(&mut self, path: &Path, root: &Path) {
        let name = path.display().to_string();
        match File::open(path) {
            Ok(file) => {
                let namespace = self.namespace(path.parent().unwrap_or(root), root);
                self.read(&name, file, namespace);
            }
            Err(error) => self.fail(&name, &error),
        }
    }

    fn read(&mut self, name: &str, from: impl Read, namespace: Option<String>) {
        let mut bytes = Vec::new();
        match from.take(self.left + 1).read_to_end(&mut bytes) {
            Ok(read) if read as u64 > self.left => self.unreadable.push(Unreadable {
                name: name.to_owned(),
                message: format!(
                    "more than {} MiB in all; review the manifests in parts",
                    MAX_INPUT >> 20
                ),
            }),
            Ok(read) => {
                self.left -= read as u64;
                match decode(bytes) {
                    Ok(text) => self.sources.push(SourceText {
                        name: name.to_owned(),
                        text,
                        namespace,
                        stored: false,
                    }),
                    Err(message) => self.unreadable.push(Unreadable {
                        name: name.to_owned(),
                        message,
                    }),
                }
            }
            Err(error) => self.fail(name, &error),
        }
    }

    fn fail(&mut self, name: &str, error: &io::Error) {
        self.unreadable.push(Unreadable {
            name: name.to_owned(),
            message: format!("cannot be read: {error}"),
        });
    }

    /// The namespace that the nearest kustomization gives, from the file's folder up to `root`.
    fn namespace(&mut self, folder: &Path, root: &Path) -> Option<String> {
        let mut folder = folder;
        loop {
            let here = self
                .namespaces
                .entry(folder.to_owned())
                .or_insert_with(|| kustomization_namespace(folder));
            if here.is_some() || folder == root {
                return here.clone();
            }
            folder = folder.parent()?;
        }
    }
}

/// The names that kustomize looks for.
const KUSTOMIZATIONS: [&str; 3] = ["kustomization.yaml", "kustomization.yml", "Kustomization"];

/// Whether a file is a kustomization by its name.
pub fn is_kustomization(name: &str) -> bool {
    Path::new(name)
        .file_name()
        .is_some_and(|name| KUSTOMIZATIONS.iter().any(|known| name == *known))
}

fn kustomization_namespace(folder: &Path) -> Option<String> {
    KUSTOMIZATIONS.iter().find_map(|name| {
        let file = File::open(folder.join(name)).ok()?;
        let mut text = String::new();
        file.take(MAX_INPUT).read_to_string(&mut text).ok()?;
        let document = yaml::documents(&text).next()?.ok()?;
        let namespace = document.value.get("namespace")?.as_str()?;
        (!namespace.is_empty()).then(|| namespace.to_owned())
    })
}

fn is_hidden(entry: &DirEntry) -> bool {
    entry.file_name().as_encoded_bytes().starts_with(b".")
}

fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|extension| {
        ["yaml", "yml", "json"]
            .iter()
            .any(|known| extension.eq_ignore_ascii_case(known))
    })
}

fn decode(bytes: Vec<u8>) -> Result<String, String> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let bytes = error.as_bytes();
        if matches!(bytes, [0xff, 0xfe, ..] | [0xfe, 0xff, ..]) {
            "this is UTF-16, and manifests are UTF-8; save the file anew (PowerShell's `>` writes UTF-16)".to_owned()
        } else {
            let line = bytes[..at].split(|byte| *byte == b'\n').count();
            format!("line {line} is not UTF-8")
        }
    })
}
