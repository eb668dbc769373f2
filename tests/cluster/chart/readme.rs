//! The table of values in the chart's README is generated from the comments in `values.yaml`, which
//! have the format of helm-docs.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, ensure};
use migration_gate_yaml as yaml;
use serde_json::Value;

use super::CHART;

testkit::tests! {
    helm: the_readme_lists_every_value;
}

const BEGIN: &str = "<!-- values: begin -->\n";
const END: &str = "<!-- values: end -->\n";

/// A value with a comment: its path, and the comment's text.
type Documented = (Vec<String>, String);

/// The keys whose comment begins with `# --`, in the order of the file.
fn documented(text: &str) -> Vec<Documented> {
    let mut found = Vec::new();
    let mut path: Vec<(usize, String)> = Vec::new();
    let mut comment: Option<String> = None;
    for line in text.lines() {
        let content = line.trim_start();
        let indent = line.len() - content.len();
        if let Some(first) = content.strip_prefix("# -- ") {
            comment = Some(first.to_owned());
        } else if let Some(more) = content.strip_prefix("# ") {
            if let Some(comment) = &mut comment {
                let _ = write!(comment, " {more}");
            }
        } else if let Some((key, _)) = content.split_once(':')
            && !content.starts_with('-')
        {
            path.retain(|(outer, _)| *outer < indent);
            path.push((indent, key.to_owned()));
            if let Some(comment) = comment.take() {
                found.push((path.iter().map(|(_, key)| key.clone()).collect(), comment));
            }
        }
    }
    found
}

fn table(values: &Value, documented: &[Documented]) -> Result<String> {
    let mut table = "| value | default | what it does |\n|---|---|---|\n".to_owned();
    for (path, comment) in documented {
        let pointer = format!("/{}", path.join("/"));
        let default = values
            .pointer(&pointer)
            .with_context(|| format!("values.yaml has no {pointer}"))?;
        let default = match default {
            Value::Array(list) if list.iter().any(Value::is_object) => "PieFed's gate".to_owned(),
            other => format!("`{other}`"),
        };
        ensure!(
            !comment.contains('|') && comment.ends_with('.'),
            "{pointer}: {comment}"
        );
        let _ = writeln!(table, "| `{}` | {default} | {comment} |", path.join("."));
    }
    Ok(table)
}

/// A value without a comment, and not inside of one that has a comment.
fn undocumented(values: &Value, at: &[String], documented: &[Documented]) -> Option<String> {
    if documented.iter().any(|(path, _)| path == at) {
        return None;
    }
    match values {
        Value::Object(map) if !map.is_empty() => map.iter().find_map(|(key, value)| {
            let at = [at, std::slice::from_ref(key)].concat();
            undocumented(value, &at, documented)
        }),
        _ => Some(at.join(".")),
    }
}

fn the_readme_lists_every_value(_: &Path) -> Result<()> {
    let text = fs::read_to_string(format!("{CHART}/values.yaml"))?;
    let values = yaml::documents(&text)
        .next()
        .context("values.yaml is empty")?
        .map_err(|error| anyhow!("values.yaml: {}", error.message))?
        .value;
    let documented = documented(&text);
    ensure!(
        undocumented(&values, &[], &documented).is_none(),
        "values.yaml: {:?} has no comment that begins with `# --`",
        undocumented(&values, &[], &documented)
    );
    let path = format!("{CHART}/README.md");
    let readme = fs::read_to_string(&path)?;
    let (before, rest) = readme
        .split_once(BEGIN)
        .context("README.md has no place for the table")?;
    let (found, after) = rest
        .split_once(END)
        .context("README.md: the table has no end")?;
    let wanted = table(&values, &documented)?;
    if std::env::var_os("GENERATE").is_some() {
        return Ok(fs::write(
            &path,
            format!("{before}{BEGIN}{wanted}{END}{after}"),
        )?);
    }
    ensure!(
        found == wanted,
        "{path} doesn't list the values as they are; run this test with GENERATE=1 and commit the file"
    );
    Ok(())
}
