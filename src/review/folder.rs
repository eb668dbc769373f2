//! Finds the files of a folder that are YAML but not manifests: patches, templates, values.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use migration_gate_yaml as yaml;

/// Maximum total size of the input, in bytes.
pub const MAX_INPUT: u64 = 256 << 20;

/// A file or document that is not a manifest. It is skipped, and the report names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// A part of an object, which kustomize merges into the whole.
    Patch,
    /// A file from which Helm renders manifests.
    Template,
    /// A document without `apiVersion` and `kind`: values of a chart, settings of a tool.
    Values,
}

impl Part {
    /// The code in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Patch => "patch",
            Self::Template => "template",
            Self::Values => "values",
        }
    }

    /// Its kind, and how to review its effect.
    pub fn message(self) -> &'static str {
        match self {
            Self::Patch => {
                "this is a part of an object, so nothing is injected into it; review the whole: `migration-gate review -k DIR`"
            }
            Self::Template => {
                "this is a Helm template; review what is rendered from it: `migration-gate review --helm CHART`"
            }
            Self::Values => {
                "this has neither apiVersion nor kind, so it is not a Kubernetes object"
            }
        }
    }
}

/// A kustomization's statements about the files beside it.
#[derive(Debug, Clone, Default)]
struct Kustomization {
    namespace: Option<String>,
    patches: HashSet<PathBuf>,
}

/// The kustomizations and charts of the folders that were read.
#[derive(Debug, Default)]
pub(super) struct Folders {
    kustomizations: HashMap<PathBuf, Kustomization>,
    charts: RefCell<HashMap<PathBuf, bool>>,
}

impl Folders {
    /// The namespace of the nearest kustomization, from the file's folder up to `root`.
    pub(super) fn namespace(&mut self, folder: &Path, root: &Path) -> Option<String> {
        up_to(folder, root).find_map(|folder| self.kustomization(folder).namespace.clone())
    }

    /// The files that a folder's kustomization uses as patches. They may be in other folders.
    pub(super) fn patches(&mut self, folder: &Path) -> &HashSet<PathBuf> {
        &self.kustomization(folder).patches
    }

    /// Whether a file is a template of a chart.
    pub(super) fn is_template(&self, path: &Path) -> bool {
        path.ancestors().skip(1).any(|folder| {
            folder.file_name().is_some_and(|name| name == "templates")
                && folder.parent().is_some_and(|chart| self.is_chart(chart))
        })
    }

    /// Whether a file is a chart's own: its description or its values.
    pub(super) fn is_values(&self, path: &Path) -> bool {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let chart_file = name == "Chart.yaml" || name.starts_with("values");
        chart_file && path.parent().is_some_and(|folder| self.is_chart(folder))
    }

    fn is_chart(&self, folder: &Path) -> bool {
        *self
            .charts
            .borrow_mut()
            .entry(folder.to_owned())
            .or_insert_with(|| folder.join("Chart.yaml").is_file())
    }

    fn kustomization(&mut self, folder: &Path) -> &Kustomization {
        self.kustomizations
            .entry(folder.to_owned())
            .or_insert_with(|| kustomization(folder).unwrap_or_default())
    }
}

/// A folder and those above it, up to `root`.
fn up_to<'p>(folder: &'p Path, root: &'p Path) -> impl Iterator<Item = &'p Path> {
    let mut over = false;
    folder
        .ancestors()
        .take_while(move |above| !std::mem::replace(&mut over, *above == root))
}

/// The names that kustomize looks for.
pub(super) const KUSTOMIZATIONS: [&str; 3] =
    ["kustomization.yaml", "kustomization.yml", "Kustomization"];

/// Whether a file is a kustomization by its name.
pub fn is_kustomization(name: &str) -> bool {
    Path::new(name)
        .file_name()
        .is_some_and(|name| KUSTOMIZATIONS.iter().any(|known| name == *known))
}

fn kustomization(folder: &Path) -> Option<Kustomization> {
    let value = KUSTOMIZATIONS.iter().find_map(|name| {
        let file = File::open(folder.join(name)).ok()?;
        let mut text = String::new();
        file.take(MAX_INPUT).read_to_string(&mut text).ok()?;
        Some(yaml::documents(&text).next()?.ok()?.value)
    })?;
    let namespace = value.get("namespace").and_then(Value::as_str);
    Some(Kustomization {
        namespace: namespace.filter(|n| !n.is_empty()).map(str::to_owned),
        patches: patch_files(&value)
            .map(|path| plain(&folder.join(path)))
            .collect(),
    })
}

/// The files in a kustomization's three lists of patches. Entries may also be inline patches.
fn patch_files(kustomization: &Value) -> impl Iterator<Item = &str> {
    let lists = ["patches", "patchesStrategicMerge", "patchesJson6902"];
    let entries = lists
        .into_iter()
        .filter_map(|list| kustomization.get(list)?.as_array())
        .flatten();
    entries.filter_map(|entry| entry.as_str().or_else(|| entry.get("path")?.as_str()))
}

/// A path without `.` and `..`, so that two paths to one file are equal.
pub(super) fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir if plain.file_name().is_some() => {
                plain.pop();
            }
            component => plain.push(component),
        }
    }
    plain
}
