//! The output of Helm and kustomize, as sources: each document with its file.

use std::ffi::OsString;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::folder::{KUSTOMIZATIONS, MAX_INPUT, plain};
use super::input::{SourceText, Unreadable};
use super::origin::Origin;
use super::program::{self, NoOutput};
use migration_gate_yaml as yaml;

/// The namespace that Helm renders if none is chosen. An object that names it counts as naming
/// none.
const NO_NAMESPACE: &str = "default";

/// A chart and how it is to be rendered. The options are those of `helm template`.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Helm")]
pub struct HelmArgs {
    /// Review what helm template renders from this chart: a directory, a package, or a reference
    #[arg(long, value_name = "CHART")]
    helm: Option<PathBuf>,

    /// Values file for --helm; repeatable
    #[arg(long, short = 'f', value_name = "FILE", requires = "helm")]
    values: Vec<PathBuf>,

    /// Value for --helm; repeatable
    #[arg(long, value_name = "KEY=VALUE", requires = "helm")]
    set: Vec<String>,

    /// Release name for --helm
    #[arg(
        long,
        value_name = "NAME",
        requires = "helm",
        default_value = "release-name",
        hide_default_value = true
    )]
    release: String,
}

impl HelmArgs {
    /// Renders the chart for a namespace. Empty without a chart.
    pub fn render(&self, namespace: Option<&str>) -> Result<Vec<SourceText>, Unreadable> {
        let Some(chart) = &self.helm else {
            return Ok(Vec::new());
        };
        let mut arguments: Vec<OsString> = vec!["template".into(), "--namespace".into()];
        arguments.push(namespace.unwrap_or(NO_NAMESPACE).into());
        for file in &self.values {
            arguments.extend(["--values".into(), file.into()]);
        }
        for value in &self.set {
            arguments.extend(["--set".into(), value.into()]);
        }
        // After `--`, a name that begins with a dash is not an option.
        arguments.extend(["--".into(), self.release.clone().into(), chart.into()]);
        let text = match program::output("helm", &arguments, MAX_INPUT) {
            Ok(text) => decoded(text),
            Err(NoOutput::Failed(message)) => Err(message),
            Err(NoOutput::NotFound) => Err("`helm` is not in PATH; install it (https://helm.sh/docs/intro/install), or pipe what it renders: `helm template CHART | migration-gate review -`".to_owned()),
        };
        let text = text.map_err(|message| unreadable(chart, message))?;
        let unsaid = namespace.is_none().then_some(NO_NAMESPACE);
        Ok(of_templates(chart, &text, unsaid))
    }
}

/// Renders a folder with `kubectl kustomize`, or with `kustomize` if there is no kubectl.
pub fn kustomize(folder: &Path) -> Result<Vec<SourceText>, Unreadable> {
    let text = match program::output(
        "kubectl",
        &["kustomize".as_ref(), "--".as_ref(), folder],
        MAX_INPUT,
    ) {
        Err(NoOutput::NotFound) => program::output(
            "kustomize",
            &["build".as_ref(), "--".as_ref(), folder],
            MAX_INPUT,
        ),
        output => output,
    };
    let text = match text {
        Ok(text) => decoded(text),
        Err(NoOutput::Failed(message)) => Err(message),
        Err(NoOutput::NotFound) => Err("neither `kubectl` nor `kustomize` is in PATH; install one (https://kubernetes.io/docs/tasks/tools), or pipe what it renders: `kubectl kustomize DIR | migration-gate review -`".to_owned()),
    };
    let text = text.map_err(|message| unreadable(folder, message))?;
    let resources = Bases::of(folder);
    let sources = split(&text).into_iter().map(|part| {
        let (name, origin) = resources.origin(part);
        SourceText {
            name,
            text: part.to_owned(),
            origin: Some(origin),
            ..SourceText::default()
        }
    });
    Ok(sources.collect())
}

fn unreadable(what: &Path, message: String) -> Unreadable {
    Unreadable {
        name: what.display().to_string(),
        message,
    }
}

fn decoded(bytes: Vec<u8>) -> Result<String, String> {
    String::from_utf8(bytes).map_err(|_| "what is rendered is not UTF-8".to_owned())
}

/// The documents of a rendered text, each with the `---` in front of it. The lines of a block
/// scalar are indented, so none of them is mistaken for a `---`.
fn split(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut start = 0;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if line.trim_end() == "---" && at > start {
            parts.push(&text[start..at]);
            start = at;
        }
        at += line.len();
    }
    if at > start {
        parts.push(&text[start..]);
    }
    parts
}

/// Splits Helm's output by the templates that its comments name. A template may render several
/// documents.
fn of_templates(chart: &Path, text: &str, unsaid: Option<&'static str>) -> Vec<SourceText> {
    let mut sources: Vec<SourceText> = Vec::new();
    let mut last = None;
    for part in split(text) {
        let template = part
            .lines()
            .find_map(|line| line.strip_prefix("# Source: "));
        match sources.last_mut() {
            Some(source) if template.is_some() && template == last => source.text.push_str(part),
            _ => sources.push(of_template(chart, template, part, unsaid)),
        }
        last = template;
    }
    sources
}

fn of_template(
    chart: &Path,
    template: Option<&str>,
    part: &str,
    unsaid: Option<&'static str>,
) -> SourceText {
    // The first component is the chart's name, whatever its folder is called.
    let within = template.and_then(|template| template.split_once('/'));
    let file = within
        .map(|(_, path)| chart.join(path))
        .filter(|file| file.is_file());
    let (name, text) = match (&file, template) {
        (Some(file), _) => (file.display().to_string(), read(file)),
        (None, Some(template)) => (template.to_owned(), String::new()),
        (None, None) => (chart.display().to_string(), String::new()),
    };
    SourceText {
        name,
        text: part.to_owned(),
        origin: Some(Origin::Template(text)),
        unsaid,
        ..SourceText::default()
    }
}

/// The text of a file that is only needed for places. Empty if it cannot be read.
fn read(file: &Path) -> String {
    let size = fs::metadata(file).map_or(0, |metadata| metadata.len());
    if size > MAX_INPUT {
        return String::new();
    }
    fs::read_to_string(file).unwrap_or_default()
}

/// The objects in the files of a kustomization and of those that it builds on.
struct Bases {
    /// The place in a report if an object's file is not known.
    kustomization: PathBuf,
    files: Vec<(PathBuf, String)>,
    objects: Vec<BaseObject>,
}

struct BaseObject {
    kind: String,
    name: String,
    file: usize,
    /// The object's place in its file.
    part: Range<usize>,
}

/// Maximum number of kustomizations' folders that are read.
const MAX_FOLDERS: usize = 1000;

impl Bases {
    fn of(folder: &Path) -> Self {
        let mut this = Self {
            kustomization: kustomization_of(folder).unwrap_or_else(|| folder.to_owned()),
            files: Vec::new(),
            objects: Vec::new(),
        };
        let mut folders = vec![plain(folder)];
        let mut next = 0;
        while next < folders.len() && next < MAX_FOLDERS {
            let listed = resources(&folders[next]);
            next += 1;
            for path in listed {
                if path.is_dir() && !folders.contains(&path) {
                    folders.push(path);
                } else if path.is_file() {
                    this.add(path);
                }
            }
        }
        this
    }

    fn add(&mut self, path: PathBuf) {
        if self.files.iter().any(|(known, _)| *known == path) {
            return;
        }
        let text = read(&path);
        for document in yaml::documents(&text).flatten() {
            let name = document.value.pointer("/metadata/name");
            if let (Some(kind), Some(name)) = (
                document.value.get("kind").and_then(Value::as_str),
                name.and_then(Value::as_str),
            ) {
                self.objects.push(BaseObject {
                    kind: kind.to_owned(),
                    name: name.to_owned(),
                    file: self.files.len(),
                    part: document.span.range(),
                });
            }
        }
        self.files.push((path, text));
    }

    /// The name and the file of a rendered document. kustomize may have added a prefix or a suffix
    /// to the object's name.
    fn origin(&self, rendered: &str) -> (String, Origin) {
        let document = yaml::documents(rendered).flatten().next();
        let text = |pointer: &str| {
            let value = document.as_ref()?.value.pointer(pointer)?;
            value.as_str()
        };
        let (kind, name) = (
            text("/kind").unwrap_or_default(),
            text("/metadata/name").unwrap_or_default(),
        );
        let only = |fits: &dyn Fn(&str) -> bool| {
            let mut found = self
                .objects
                .iter()
                .filter(|o| o.kind == kind && fits(&o.name));
            found.next().filter(|_| found.next().is_none())
        };
        let found = only(&|own| own == name).or_else(|| only(&|own| name.contains(own)));
        match found {
            Some(object) => {
                let (path, text) = &self.files[object.file];
                let origin = Origin::Manifest {
                    text: text.clone(),
                    part: object.part.clone(),
                };
                (path.display().to_string(), origin)
            }
            None => (
                self.kustomization.display().to_string(),
                Origin::Kustomization,
            ),
        }
    }
}

fn kustomization_of(folder: &Path) -> Option<PathBuf> {
    let mut files = KUSTOMIZATIONS.iter().map(|name| folder.join(name));
    files.find(|file| file.is_file())
}

/// The paths that a kustomization lists.
fn resources(folder: &Path) -> Vec<PathBuf> {
    let text = kustomization_of(folder)
        .map(|file| read(&file))
        .unwrap_or_default();
    let Some(Ok(document)) = yaml::documents(&text).next() else {
        return Vec::new();
    };
    let lists = ["resources", "bases", "components"].into_iter();
    let entries = lists
        .filter_map(|list| document.value.get(list)?.as_array())
        .flatten();
    let paths = entries.filter_map(Value::as_str);
    paths.map(|path| plain(&folder.join(path))).collect()
}
