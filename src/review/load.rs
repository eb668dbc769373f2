//! Reads texts into documents, on all processors, and keeps only as much of each document as a
//! rule, a lint or the report needs.

use std::mem;
use std::num::NonZero;
use std::ops::Range;
use std::panic;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::Value;

use super::engine::Assessor;
use super::folder::Part;
use super::input::SourceText;
use super::lint;
use super::manifest::{Loaded, only_object};
use super::progress;
use migration_gate_core::gates::Config;
use migration_gate_yaml::{Document, Node, SyntaxError, documents_of, parts};

/// How many parts of texts a thread takes at a time. Fewer are not worth a thread.
const BATCH: usize = 64;

/// The members to keep of an object that only the report's list needs, and those of its metadata.
const LEFT: [&str; 3] = ["apiVersion", "kind", "metadata"];
const LEFT_OF_METADATA: [&str; 3] = ["name", "generateName", "namespace"];

/// Which documents are kept whole.
#[derive(Debug, Clone, Copy)]
pub enum Retention<'c> {
    /// All.
    All,
    /// Those that this configuration's rules or the lints may need. `namespace` is for objects that
    /// name none.
    Needed {
        /// The configuration.
        config: &'c Config,
        /// The namespace.
        namespace: Option<&'c str>,
    },
}

/// The documents of a part of a text, and whether each was trimmed.
type Read = Vec<(Result<Document, SyntaxError>, bool)>;

/// Reads the documents of all sources. A template has none.
pub fn load(sources: Vec<SourceText>, retention: Retention<'_>) -> Vec<Loaded> {
    let tasks: Vec<(usize, Range<usize>)> = sources
        .iter()
        .enumerate()
        .filter(|(_, source)| source.part != Some(Part::Template))
        .flat_map(|(index, source)| parts(&source.text).map(move |part| (index, part)))
        .collect();
    let trimmer = Trimmer::new(retention);
    let done = AtomicUsize::new(0);
    let read = progress::shown(&done, tasks.len(), || {
        in_order(&tasks, &done, |(index, part)| {
            trimmer.read(&sources[*index], part.clone())
        })
    });
    let mut of_sources: Vec<Read> = sources.iter().map(|_| Vec::new()).collect();
    for ((index, _), read) in tasks.iter().zip(read) {
        of_sources[*index].extend(read);
    }
    let loaded = sources.into_iter().zip(of_sources);
    loaded.map(|(source, read)| whole(source, read)).collect()
}

impl Loaded {
    /// Reads a source's documents and keeps all of them.
    pub fn new(source: SourceText) -> Self {
        let read = Trimmer::new(Retention::All);
        let part = |part| read.read(&source, part);
        let documents = match source.part {
            Some(Part::Template) => Vec::new(),
            _ => parts(&source.text).flat_map(part).collect(),
        };
        whole(source, documents)
    }
}

/// A source with its documents. A file of a folder that has template actions and is not YAML
/// becomes a template, without documents.
fn whole(mut source: SourceText, mut read: Read) -> Loaded {
    let broken = read.iter().any(|(document, _)| document.is_err());
    if source.found && broken && source.text.contains("{{") {
        source.part = Some(Part::Template);
        read.clear();
    }
    let (documents, trimmed) = read.into_iter().unzip();
    Loaded {
        source,
        documents,
        trimmed,
    }
}

/// Runs `work` on each task, on all processors, and returns the results in the tasks' order. `done`
/// counts the finished tasks.
fn in_order<T: Sync, R: Send>(
    tasks: &[T],
    done: &AtomicUsize,
    work: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let batches = || {
        let mut results = Vec::new();
        loop {
            let start = next.fetch_add(BATCH, Ordering::Relaxed);
            let Some(batch) = tasks.get(start..tasks.len().min(start + BATCH)) else {
                return results;
            };
            results.push((start, batch.iter().map(&work).collect::<Vec<R>>()));
            done.fetch_add(batch.len(), Ordering::Relaxed);
        }
    };
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let helpers = processors
        .min(tasks.len().div_ceil(BATCH))
        .saturating_sub(1);
    let mut results = thread::scope(|scope| {
        let helpers: Vec<_> = (0..helpers).map(|_| scope.spawn(batches)).collect();
        let mut results = batches();
        for helper in helpers {
            match helper.join() {
                Ok(batches) => results.extend(batches),
                Err(panic) => panic::resume_unwind(panic),
            }
        }
        results
    });
    results.sort_unstable_by_key(|(start, _)| *start);
    results.into_iter().flat_map(|(_, batch)| batch).collect()
}

/// Reads documents and drops the parts that nothing needs.
struct Trimmer<'c> {
    /// The rules that decide; `None` if everything is kept.
    assessor: Option<Assessor<'c>>,
    namespace: Option<&'c str>,
}

impl<'c> Trimmer<'c> {
    fn new(retention: Retention<'c>) -> Self {
        match retention {
            Retention::All => Self {
                assessor: None,
                namespace: None,
            },
            Retention::Needed { config, namespace } => Self {
                assessor: Some(Assessor::new(config)),
                namespace,
            },
        }
    }

    fn read(&self, source: &SourceText, part: Range<usize>) -> Read {
        let documents = documents_of(&source.text, part);
        documents
            .map(|document| match document {
                Ok(document) if !self.needs(source, &document) => (Ok(trimmed(document)), true),
                Ok(mut document) => {
                    compact(&mut document.node);
                    (Ok(document), false)
                }
                error => (error, false),
            })
            .collect()
    }

    /// Whether a rule or a lint may report a document's object, or look for it.
    fn needs(&self, source: &SourceText, document: &Document) -> bool {
        let Some(assessor) = &self.assessor else {
            return true;
        };
        // Documents of a cluster are kept, and so are those that are not one object: they are rare
        // or small.
        let manifest = only_object(source, document, self.namespace);
        manifest.is_none_or(|manifest| {
            !manifest.written
                || lint::looks_at(assessor.config(), &manifest)
                || assessor.has_findings(manifest)
        })
    }
}

/// Frees the spare capacity of the lists of places, which are most of a document's memory.
fn compact(node: &mut Node) {
    node.children.shrink_to_fit();
    for child in &mut node.children {
        compact(&mut child.node);
    }
}

/// A document reduced to the name of its object.
fn trimmed(mut document: Document) -> Document {
    retain(&mut document.value, &mut document.node, &LEFT);
    let index = document.value.as_object().and_then(|members| {
        let mut keys = members.keys();
        keys.position(|key| key == "metadata")
    });
    if let (Some(metadata), Some(index)) = (document.value.get_mut("metadata"), index) {
        let node = &mut document.node.children[index].node;
        retain(metadata, node, &LEFT_OF_METADATA);
    }
    document
}

/// Drops all members of a mapping but these.
fn retain(value: &mut Value, node: &mut Node, left: &[&str]) {
    let Value::Object(members) = value else {
        return;
    };
    let members = mem::take(members).into_iter();
    let children = mem::take(&mut node.children);
    let (kept, mut places): (Vec<_>, Vec<_>) = members
        .zip(children)
        .filter(|((key, _), _)| left.contains(&key.as_str()))
        .unzip();
    places.shrink_to_fit();
    node.children = places;
    *value = Value::Object(kept.into_iter().collect());
}
