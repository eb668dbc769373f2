//! Loading the configuration: a [`Config`] from a file, or the errors with their places in the
//! file.

pub mod values;

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use serde_path_to_error::{Path as KeyPath, Segment};

use migration_gate_core::field::{FieldPath, Step};
use migration_gate_core::gates::{self, Config};
use migration_gate_yaml::{self as yaml, Document, Lines, Position};

/// Why a configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The configuration is invalid, at these places.
    #[error("{}", lines(origin, problems))]
    Invalid {
        /// The name of the text, such as a path.
        origin: String,
        /// The problems, in the order of the lines; at least one.
        problems: Vec<Mistake>,
    },
}

/// One mistake in a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Its place.
    pub at: Position,
    /// The key, such as `gates[0].timeout`; empty for the file as a whole.
    pub key: String,
    /// The problem, and a correct value.
    pub message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.at.line, self.at.column)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

fn lines(origin: &str, problems: &[Mistake]) -> String {
    let lines: Vec<String> = problems
        .iter()
        .map(|problem| format!("{origin}:{problem}"))
        .collect();
    lines.join("\n")
}

/// Reads and validates a configuration file.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    parse(&text, &path.display().to_string())
}

/// Reads and validates a configuration. `origin` names the text in errors.
pub fn parse(text: &str, origin: &str) -> Result<Config, ConfigError> {
    let reader = Reader {
        text,
        lines: Lines::new(text),
    };
    reader.config().map_err(|mut problems| {
        problems.sort_by_key(|problem| problem.at);
        ConfigError::Invalid {
            origin: origin.to_owned(),
            problems,
        }
    })
}

/// The document that holds the configuration.
struct Source {
    document: Document,
    /// Its path in the document: empty, unless the document is a `HelmRelease`.
    at: Vec<Step>,
}

impl Source {
    fn root(&self) -> &Value {
        self.document.find(&self.at).value
    }

    fn find(&self, steps: &[Step]) -> yaml::Found<'_> {
        let steps: Vec<Step> = self.at.iter().chain(steps).cloned().collect();
        self.document.find(&steps)
    }
}

/// Whether a document is a Flux `HelmRelease` that brings gates.
fn is_release(document: &Document) -> bool {
    let value = &document.value;
    let gates = value.pointer("/spec/values/gates");
    value.get("kind").is_some_and(|kind| kind == "HelmRelease") && gates.is_some()
}

struct Reader<'t> {
    text: &'t str,
    lines: Lines<'t>,
}

impl Reader<'_> {
    fn config(&self) -> Result<Config, Vec<Mistake>> {
        let document = self.document().map_err(|problem| vec![problem])?;
        let mut value = document.root().clone();
        values::to_configuration(&mut value, !document.at.is_empty());
        let config: Config = serde_path_to_error::deserialize(&value)
            .map_err(|error| vec![self.type_error(&document, &error)])?;
        let problems: Vec<Mistake> = config
            .problems()
            .into_iter()
            .map(|gates::Problem { field, message }| Mistake {
                at: self.place(&document, field.steps()),
                key: field.to_string(),
                message,
            })
            .collect();
        if problems.is_empty() {
            Ok(config)
        } else {
            Err(problems)
        }
    }

    fn document(&self) -> Result<Source, Mistake> {
        let whole = |offset: usize, message: &str| Mistake {
            at: self.lines.position(offset),
            key: String::new(),
            message: message.to_owned(),
        };
        let documents: Result<Vec<Document>, _> = yaml::documents(self.text).collect();
        let mut documents = documents.map_err(|error| whole(error.offset, &error.message))?;
        if let Some(release) = documents.iter().position(is_release) {
            return Ok(Source {
                document: documents.swap_remove(release),
                at: ["spec", "values"]
                    .map(|key| Step::Key(key.to_owned()))
                    .into(),
            });
        }
        if let Some(second) = documents.get(1) {
            let message = "a configuration is one YAML document, and here a second one starts";
            return Err(whole(second.span.start(), message));
        }
        let document = documents.pop().ok_or_else(|| whole(0, EMPTY))?;
        match &document.value {
            Value::Object(_) => Ok(Source {
                document,
                at: Vec::new(),
            }),
            Value::Null => Err(whole(0, EMPTY)),
            _ => Err(whole(
                document.node.span.start(),
                "a configuration is a mapping; its keys are `gates`, `forbiddenEnv`, `mode` and `waiter`",
            )),
        }
    }

    fn type_error(
        &self,
        source: &Source,
        error: &serde_path_to_error::Error<serde_json::Error>,
    ) -> Mistake {
        let field = field(error.path());
        let message = error.inner().to_string();
        let yaml::Found {
            key, value: found, ..
        } = source.find(field.steps());
        Mistake {
            at: match key.filter(|_| message.starts_with("unknown field")) {
                Some(key) => self.lines.position(key.start()),
                None => self.place(source, field.steps()),
            },
            key: field.to_string(),
            message: match close_match(&message) {
                Some(meant) => format!("{message}; did you mean `{meant}`?"),
                // Kubernetes reads YAML 1.1, in which `n` and `on` are booleans.
                None if message.ends_with("expected a string") && !found.is_null() => {
                    format!("{message}; put it in quotes")
                }
                None => message,
            },
        }
    }

    /// The place of a value: its key's if it is a collection, and its parent's if it is missing.
    fn place(&self, source: &Source, steps: &[Step]) -> Position {
        let found = source.find(steps);
        let span = match found.value {
            Value::Object(_) | Value::Array(_) => found.key,
            _ => None,
        };
        let span = span.unwrap_or(found.node.span);
        self.lines.position(span.start())
    }
}

const EMPTY: &str = "the configuration is empty; leave `--config` out for the built-in gate";

fn field(path: &KeyPath) -> FieldPath {
    path.iter()
        .fold(FieldPath::default(), |field, segment| match segment {
            Segment::Seq { index } => field.index(*index),
            Segment::Map { key } => field.key(key),
            Segment::Enum { .. } | Segment::Unknown => field,
        })
}

/// The word that was probably meant, if serde's error about an unknown word lists a similar one.
fn close_match(message: &str) -> Option<&str> {
    if !message.starts_with("unknown ") {
        return None;
    }
    let mut words = message.split('`').skip(1).step_by(2);
    let given = words.next()?;
    // clap's own measure and threshold.
    let likeness = |word: &str| strsim::jaro(given, word);
    let likely = words.filter(|word| likeness(word) > 0.7);
    likely.max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
}
