//! The input of a review: files, folders, standard input.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use walkdir::{DirEntry, WalkDir};

pub use super::folder::MAX_INPUT;
use super::folder::{Folders, Part, plain};
use super::origin::Origin;

/// The name of standard input in reports.
pub const STDIN: &str = "<stdin>";

/// One text that holds manifests.
#[derive(Debug, Clone, Default)]
pub struct SourceText {
    /// The path as it was given, or [`STDIN`].
    pub name: String,
    /// Its content.
    pub text: String,
    /// The namespace of objects that name none, from the kustomization beside the file.
    pub namespace: Option<String>,
    /// Whether the object is stored in a cluster already, so that its next change is an update.
    pub stored: bool,
    /// Whether the text was found in a folder, and so may hold no manifests.
    pub found: bool,
    /// The kind of the file, if it holds no manifests.
    pub part: Option<Part>,
    /// The file from which the text was rendered. `name` is its path.
    pub origin: Option<Origin>,
    /// The namespace that was rendered because none was chosen. An object in it counts as naming
    /// none.
    pub unsaid: Option<&'static str>,
}

impl SourceText {
    fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }
}

/// An input that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {message}")]
pub struct Unreadable {
    /// The path.
    pub name: String,
    /// Why, and what to do.
    pub message: String,
}

/// Reads files and folders; `-` is standard input. Folders are read with all folders below them, in
/// the order of names: `*.yaml`, `*.yml` and `*.json`, but no hidden files.
pub fn gather(paths: &[PathBuf], stdin: impl Read) -> (Vec<SourceText>, Vec<Unreadable>) {
    let mut gatherer = Gatherer {
        left: MAX_INPUT,
        sources: Vec::new(),
        unreadable: Vec::new(),
        folders: Folders::default(),
        patches: HashSet::new(),
    };
    let mut stdin = Some(stdin);
    for path in paths {
        if path.as_os_str() == "-" {
            if let Some(stdin) = stdin.take() {
                gatherer.read(stdin, SourceText::named(STDIN));
            }
        } else if path.is_dir() {
            gatherer.folder(path);
        } else {
            let folder = path.parent().unwrap_or(path);
            gatherer.note_patches(folder);
            gatherer.file(path, folder, false);
        }
    }
    (gatherer.sources, gatherer.unreadable)
}

struct Gatherer {
    left: u64,
    sources: Vec<SourceText>,
    unreadable: Vec<Unreadable>,
    folders: Folders,
    /// The files that kustomizations use as patches.
    patches: HashSet<PathBuf>,
}

impl Gatherer {
    fn folder(&mut self, root: &Path) {
        let before = self.sources.len() + self.unreadable.len();
        let walk = WalkDir::new(root)
            .follow_links(true)
            .sort_by_file_name()
            .into_iter()
            .filter_entry(|entry| entry.depth() == 0 || !is_hidden(entry));
        let mut files = Vec::new();
        for entry in walk {
            match entry {
                Ok(entry) if entry.file_type().is_dir() => self.note_patches(entry.path()),
                Ok(entry) if entry.file_type().is_file() && is_manifest(entry.path()) => {
                    files.push(entry.into_path());
                }
                Ok(_) => {}
                Err(error) => {
                    let path = error.path().unwrap_or(root).display().to_string();
                    self.fail(&path, &error.into());
                }
            }
        }
        for file in files {
            self.file(&file, root, true);
        }
        if self.sources.len() + self.unreadable.len() == before {
            self.unreadable.push(Unreadable {
                name: root.display().to_string(),
                message: "there is no *.yaml, *.yml or *.json file in this folder".to_owned(),
            });
        }
    }

    fn note_patches(&mut self, folder: &Path) {
        let patches = self.folders.patches(folder);
        self.patches.extend(patches.iter().cloned());
    }

    fn file(&mut self, path: &Path, root: &Path, found: bool) {
        let source = SourceText {
            found,
            part: self.part(path, found),
            namespace: self.folders.namespace(path.parent().unwrap_or(root), root),
            ..SourceText::named(&path.display().to_string())
        };
        match File::open(path) {
            Ok(file) => self.read(file, source),
            Err(error) => self.fail(&source.name, &error),
        }
    }

    fn part(&mut self, path: &Path, found: bool) -> Option<Part> {
        if self.patches.contains(&plain(path)) {
            Some(Part::Patch)
        } else if found && self.folders.is_template(path) {
            Some(Part::Template)
        } else if found && self.folders.is_values(path) {
            Some(Part::Values)
        } else {
            None
        }
    }

    /// Reads the text of `source`.
    fn read(&mut self, from: impl Read, mut source: SourceText) {
        let mut bytes = Vec::new();
        let text = match from.take(self.left + 1).read_to_end(&mut bytes) {
            Err(error) => return self.fail(&source.name, &error),
            Ok(read) if read as u64 > self.left => Err(format!(
                "more than {} MiB in all; review the manifests in parts",
                MAX_INPUT >> 20
            )),
            Ok(read) => {
                self.left -= read as u64;
                decode(bytes)
            }
        };
        match text {
            Ok(text) => {
                source.text = text;
                self.sources.push(source);
            }
            Err(message) => self.unreadable.push(Unreadable {
                name: source.name,
                message,
            }),
        }
    }

    fn fail(&mut self, name: &str, error: &io::Error) {
        self.unreadable.push(Unreadable {
            name: name.to_owned(),
            message: format!("cannot be read: {error}"),
        });
    }
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
            "this is UTF-16, and manifests are UTF-8; save it again as UTF-8 (PowerShell's `>` writes UTF-16)".to_owned()
        } else {
            let line = bytes[..at].split(|byte| *byte == b'\n').count();
            format!("line {line} is not UTF-8")
        }
    })
}
