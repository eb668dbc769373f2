//! Kubeconfigs, found and put together as kubectl does it.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use kube::client::AuthError;
use kube::config::{ExecConfig, Kubeconfig, KubeconfigError};

use crate::api::error::Cause;

/// The kubeconfig: of the file that was named, else of the files in `KUBECONFIG`, else of
/// `~/.kube/config`.
///
/// Of several files those that don't exist are left out, and what occurs twice is what the first
/// one says.
pub(super) fn read(
    named: Option<&Path>,
    variable: Option<OsString>,
) -> Result<Kubeconfig, KubeconfigError> {
    let files: Vec<PathBuf> = match (named, variable) {
        (Some(file), _) => vec![file.to_owned()],
        (None, Some(variable)) => std::env::split_paths(&variable)
            .filter(|path| !path.as_os_str().is_empty())
            .collect(),
        (None, None) => {
            let home = std::env::home_dir().ok_or(KubeconfigError::FindPath)?;
            vec![home.join(".kube/config")]
        }
    };
    let (mut merged, mut missing) = (None::<Kubeconfig>, None);
    let mut seen = BTreeSet::new();
    for file in files.iter().filter(|file| seen.insert(*file)) {
        match Kubeconfig::read_from(file) {
            Ok(next) => {
                merged = Some(match merged {
                    Some(merged) => merged.merge(next)?,
                    None => next,
                });
            }
            Err(error) if is_missing(&error) => {
                missing.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    match (merged, missing) {
        (Some(merged), _) => Ok(merged),
        (None, Some(error)) => Err(error),
        (None, None) => Err(KubeconfigError::FindPath),
    }
}

fn is_missing(error: &KubeconfigError) -> bool {
    matches!(error, KubeconfigError::ReadConfig(cause, _) if cause.kind() == io::ErrorKind::NotFound)
}

/// Why a kubeconfig can't be used, in one line, and what to do.
pub(super) fn cause(error: &KubeconfigError) -> Cause {
    let cause = match error {
        KubeconfigError::LoadContext(context) => {
            return Cause::text(&format!("it has no context {context}"))
                .then("`kubectl config get-contexts` lists those it has");
        }
        KubeconfigError::CurrentContextNotSet => {
            return Cause::text("it has no current context").then("name one with --context");
        }
        KubeconfigError::ReadConfig(cause, file) => {
            Cause::of(cause).after(&format!("cannot read {}", file.display()))
        }
        // Without the excerpt of the file, which takes several lines.
        KubeconfigError::Parse(cause) => Cause::of(cause.without_snippet()).after("it is not YAML"),
        cause => Cause::of(cause),
    };
    cause.then("set KUBECONFIG to a file that kubectl accepts, or name one with --kubeconfig")
}

/// Why a kubeconfig's credentials or certificates don't work. Names the program that is to bring
/// credentials, if it is that which is missing.
pub(super) fn credentials(error: &kube::Error, plugin: Option<&ExecConfig>) -> Cause {
    let (kube::Error::Auth(AuthError::AuthExecStart(cause)), Some(plugin)) = (error, plugin) else {
        return Cause::of(error);
    };
    let program = plugin.command.as_deref().unwrap_or_default();
    let hint = plugin.install_hint.as_deref().unwrap_or("install it");
    let hint: Vec<&str> = hint.split_whitespace().collect();
    Cause::of(cause)
        .after(&format!(
            "cannot run `{program}`, from which the kubeconfig takes credentials"
        ))
        .then(&hint.join(" "))
}
