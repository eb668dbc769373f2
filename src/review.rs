//! The subcommand `review`: the webhooks' rules over manifests, before a cluster sees them.
//!
//! [`input`] gathers texts (or [`live`] the objects of a cluster), [`load`] reads their documents,
//! [`manifest`] finds the objects in them, [`engine`] asks the webhooks' own rules what they would
//! do with each, and [`lint`] looks for problems that appear later. The [`report`] holds the
//! answers. [`rewrite`] shows changes as edits of the text, and [`output`] prints. The steps from
//! `manifest` to `rewrite` neither read nor print.

pub mod codes;
pub mod diff;
pub mod edit;
pub mod engine;
pub mod folder;
pub mod input;
pub mod lint;
pub mod live;
pub mod load;
pub mod manifest;
pub mod origin;
pub mod output;
mod program;
mod progress;
pub mod render;
pub mod rendered;
pub mod report;
pub mod rewrite;

use std::io::{self, BufWriter, IsTerminal, Write};
use std::iter::once_with;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use self::codes::{Code, Level};
use self::input::{SourceText, Unreadable};
use self::load::{Retention, load};
use self::output::{Format, Paint, Sinks};
use self::rendered::HelmArgs;
use self::report::Report;
use crate::cli::{self, ClusterArgs, ConfigArgs, Exit};
use migration_gate_core::gates::Config;

/// The arguments of `migration-gate review`.
#[derive(Debug, clap::Args)]
#[command(
    about = "Show what admission would do to manifests, before a cluster sees them",
    after_help = "\
Exit codes: 0 nothing would be denied, 1 something would, 2 something cannot be reviewed.

To review what kustomize or Helm renders:
  migration-gate review -k DIR
  migration-gate review --helm CHART -f values.yaml -n NAMESPACE"
)]
pub struct ReviewArgs {
    /// Files, directories (every *.yaml, *.yml and *.json below), or - for standard input
    #[arg(required_unless_present_any = ["live", "kustomize", "helm"], value_name = "PATH")]
    paths: Vec<PathBuf>,

    /// Review what kustomize renders from this directory; repeatable
    ///
    /// Runs kubectl kustomize or kustomize build.
    #[arg(long, short = 'k', value_name = "DIR")]
    kustomize: Vec<PathBuf>,

    /// Review the objects in the cluster, as if they were applied again
    #[arg(long, conflicts_with_all = ["paths", "kustomize", "helm"])]
    live: bool,

    #[command(flatten)]
    config: ConfigArgs,

    /// Namespace of the objects that name none [default: from the kustomization beside the file]
    ///
    /// With --helm, the namespace of the release. With --live, the only namespace to review.
    #[arg(long, short, value_name = "NAME")]
    namespace: Option<String>,

    /// All namespaces, with --live; this is the default
    #[arg(long, short = 'A', requires = "live", conflicts_with = "namespace")]
    all_namespaces: bool,

    /// Output format
    #[arg(long, short, value_name = "FORMAT", value_enum, default_value_t = Format::Human)]
    output: Format,

    /// Exit with code 1 on warnings, too
    #[arg(long)]
    strict: bool,

    /// Code of warnings to drop; repeatable
    ///
    /// The annotation migration-gate.io/ignore drops them for one object.
    #[arg(
        long,
        value_name = "CODE",
        value_delimiter = ',',
        value_parser = code(),
        hide_possible_values = true
    )]
    ignore: Vec<Code>,

    /// When to use colors; auto means on a terminal, unless NO_COLOR is set
    #[arg(long, value_enum, default_value_t = Color::Auto, value_name = "WHEN")]
    color: Color,

    #[command(flatten)]
    helm: HelmArgs,

    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Reads one of the codes of warnings.
fn code() -> impl TypedValueParser<Value = Code> {
    let codes = Code::ALL.iter().map(|code| code.as_str());
    PossibleValuesParser::new(codes).try_map(|code| Code::find(&code).ok_or("an unknown code"))
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Color {
    Auto,
    Always,
    Never,
}

impl Color {
    fn paint(self, terminal: bool) -> Paint {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        match self {
            Self::Always => Paint::Coloured,
            Self::Auto if terminal && !no_color => Paint::Coloured,
            Self::Auto | Self::Never => Paint::Plain,
        }
    }
}

/// Runs `migration-gate review` and returns its exit code.
pub fn main(args: ReviewArgs) -> ExitCode {
    cli::finish(run(args), Exit::BadInput)
}

fn run(args: ReviewArgs) -> anyhow::Result<Exit> {
    let ReviewArgs {
        paths,
        kustomize,
        helm,
        live,
        config,
        namespace,
        output,
        strict,
        ignore,
        color,
        all_namespaces: _,
        cluster,
    } = args;
    let config = config.load()?;
    let (sources, unreadable) = if live {
        live::fetch(&cluster, &config, namespace.as_deref())?
    } else {
        gather(&paths, &kustomize, &helm, namespace.as_deref())
    };
    let retention = match output {
        // This format prints whole objects.
        Format::Yaml => Retention::All,
        _ => Retention::Needed {
            config: &config,
            namespace: namespace.as_deref(),
        },
    };
    let loaded = load(sources, retention);
    let mut report = engine::review(&config, &loaded, namespace.as_deref());
    report.unreadable = unreadable;
    report.ignore(&ignore);
    let mut sinks = Sinks {
        out: BufWriter::new(io::stdout().lock()),
        err: BufWriter::new(io::stderr().lock()),
        out_paint: color.paint(io::stdout().is_terminal()),
        err_paint: color.paint(io::stderr().is_terminal()),
    };
    let written = output::write(output, &report, &mut sinks)
        .and_then(|()| sinks.out.flush())
        .and_then(|()| sinks.err.flush());
    match written {
        // The reader of a pipe may stop early.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write the report")
        }
        _ => Ok(exit(&report, strict)),
    }
}

/// Gathers the texts of files and those that kustomize and Helm render, with what could not be
/// read.
fn gather(
    paths: &[PathBuf],
    kustomize: &[PathBuf],
    helm: &HelmArgs,
    namespace: Option<&str>,
) -> (Vec<SourceText>, Vec<Unreadable>) {
    let (mut sources, mut unreadable) = input::gather(paths, io::stdin().lock());
    let kustomized = kustomize.iter().map(|folder| rendered::kustomize(folder));
    for rendered in kustomized.chain(once_with(|| helm.render(namespace))) {
        match rendered {
            Ok(rendered) => sources.extend(rendered),
            Err(error) => unreadable.push(error),
        }
    }
    (sources, unreadable)
}

fn exit(report: &Report<'_>, strict: bool) -> Exit {
    if report.unreviewed() > 0 {
        Exit::BadInput
    } else if report.count(Level::Error) > 0 || (strict && report.count(Level::Warning) > 0) {
        Exit::Failure
    } else {
        Exit::Success
    }
}

/// Reviews one text, as the fuzz target and the benchmark do: every step between reading and
/// printing.
pub fn review_text(config: &Config, text: &str) -> String {
    let source = input::SourceText {
        name: input::STDIN.to_owned(),
        text: text.to_owned(),
        ..input::SourceText::default()
    };
    let retention = Retention::Needed {
        config,
        namespace: None,
    };
    let loaded = load(vec![source], retention);
    let report = engine::review(config, &loaded, None);
    let mut sinks = Sinks {
        out: Vec::new(),
        err: Vec::new(),
        out_paint: Paint::Plain,
        err_paint: Paint::Plain,
    };
    // Writing to a Vec can't fail.
    let _ = output::write(Format::Human, &report, &mut sinks);
    String::from_utf8_lossy(&sinks.out).into_owned()
}
