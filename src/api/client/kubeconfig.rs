//! Kubeconfigs, found and merged as kubectl does.
//!
//! They are read with the program's own YAML reader, which follows `sigs.k8s.io/yaml` as kubectl
//! does, and whose errors have a place. kube's reader would add a second YAML deserializer, 5 % of
//! the binary.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::path::{MAIN_SEPARATOR, Path, PathBuf};

use kube::client::AuthError;
use kube::config::{ExecConfig, Kubeconfig, KubeconfigError};
use migration_gate_yaml::{self as yaml, Lines};

use super::ClusterError;
use crate::api::error::Cause;

const NEXT: &str = "set KUBECONFIG to a file that kubectl accepts, or name one with --kubeconfig";

/// Reads the named file, else the files in `KUBECONFIG`, else `~/.kube/config`.
///
/// Missing files are ignored unless all are missing. If several files set a value, the first one
/// wins.
pub(super) fn read(
    named: Option<&Path>,
    variable: Option<OsString>,
) -> Result<Kubeconfig, ClusterError> {
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
        let unusable = |cause: Cause| ClusterError::Kubeconfig(cause.then(NEXT));
        let next = match std::fs::read_to_string(file) {
            Ok(text) => parse(&text, file).map_err(unusable)?,
            Err(error) => {
                let cause = Cause::of(&error).after(&format!("cannot read {}", file.display()));
                if error.kind() == io::ErrorKind::NotFound {
                    missing.get_or_insert(unusable(cause));
                    continue;
                }
                return Err(unusable(cause));
            }
        };
        merged = Some(match merged {
            Some(merged) => merged.merge(next)?,
            None => next,
        });
    }
    match (merged, missing) {
        (Some(merged), _) => Ok(merged),
        (None, Some(error)) => Err(error),
        (None, None) => Err(KubeconfigError::FindPath.into()),
    }
}

/// Reads the text of one file. If several documents set a value, the first one wins.
fn parse(text: &str, file: &Path) -> Result<Kubeconfig, Cause> {
    let mut merged = Kubeconfig::default();
    for document in yaml::documents(text) {
        let document = document.map_err(|error| {
            let at = Lines::new(text).position(error.offset);
            let (file, line) = (file.display(), at.line);
            let place = format!("{file}:{line}:{}: it is not YAML", at.column);
            Cause::of(&error).after(&place)
        })?;
        if document.value.is_null() {
            continue;
        }
        let mut next: Kubeconfig = serde_json::from_value(document.value).map_err(|error| {
            Cause::of(&error).after(&format!("{} is not a kubeconfig", file.display()))
        })?;
        if let Some(folder) = file.parent() {
            resolve(&mut next, folder);
        }
        merged = merged.merge(next).map_err(|error| Cause::of(&error))?;
    }
    Ok(merged)
}

/// Resolves relative paths against the kubeconfig's folder. A program's name without a separator is
/// left to be looked up in `PATH`.
fn resolve(kubeconfig: &mut Kubeconfig, folder: &Path) {
    let absolute = |path: &mut Option<String>| {
        if let Some(path) = path.as_mut().filter(|path| !path.is_empty()) {
            *path = folder.join(&*path).to_string_lossy().into_owned();
        }
    };
    let clusters = kubeconfig.clusters.iter_mut();
    for cluster in clusters.filter_map(|named| named.cluster.as_mut()) {
        absolute(&mut cluster.certificate_authority);
    }
    let users = kubeconfig.auth_infos.iter_mut();
    for user in users.filter_map(|named| named.auth_info.as_mut()) {
        absolute(&mut user.client_certificate);
        absolute(&mut user.client_key);
        absolute(&mut user.token_file);
        if let Some(exec) = &mut user.exec
            && exec
                .command
                .as_ref()
                .is_some_and(|command| command.contains(MAIN_SEPARATOR))
        {
            absolute(&mut exec.command);
        }
    }
}

/// The reason why a kubeconfig cannot be used, and the next step, in one line.
pub(super) fn cause(error: &KubeconfigError) -> Cause {
    let cause = match error {
        KubeconfigError::LoadContext(context) => {
            return Cause::text(&format!("it has no context {context}"))
                .then("`kubectl config get-contexts` lists those it has");
        }
        KubeconfigError::CurrentContextNotSet => {
            return Cause::text("it has no current context").then("name one with --context");
        }
        cause => Cause::of(cause),
    };
    cause.then(NEXT)
}

/// The reason why a kubeconfig's credentials or certificates do not work. Names the credentials
/// program if it is missing.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Kubeconfig, String> {
        parse(text, Path::new("/home/op/.kube/config")).map_err(|cause| cause.to_string())
    }

    #[test]
    fn relative_paths_are_relative_to_the_file() {
        let user = |command: &str| {
            let text = format!(
                "clusters: [{{name: c, cluster: {{certificate-authority: ca.crt}}}}]\n\
                 users:\n- name: u\n  user:\n    client-certificate: pki/u.crt\n    client-key: /etc/u.key\n    \
                 tokenFile: token\n    exec: {{apiVersion: x, command: {command}}}\n"
            );
            let config = parsed(&text).unwrap();
            let ca = config.clusters[0].cluster.as_ref().unwrap();
            let user = config.auth_infos[0].auth_info.clone().unwrap();
            let exec = user.exec.unwrap().command;
            let files = [
                ca.certificate_authority.clone(),
                user.client_certificate,
                user.client_key,
                user.token_file,
                exec,
            ];
            files.map(Option::unwrap_or_default)
        };
        let expected = |command| {
            let home = "/home/op/.kube";
            let files = ["ca.crt", "pki/u.crt"].map(|file| format!("{home}/{file}"));
            let [ca, certificate] = files;
            let token = format!("{home}/token");
            [ca, certificate, "/etc/u.key".into(), token, command]
        };
        assert_eq!(user("aws"), expected("aws".to_owned()));
        assert_eq!(
            user("bin/login"),
            expected("/home/op/.kube/bin/login".to_owned())
        );
    }

    #[test]
    fn of_several_documents_the_first_counts() {
        let config =
            parsed("current-context: a\n---\ncurrent-context: b\n---\n# nothing\n").unwrap();
        assert_eq!(config.current_context.as_deref(), Some("a"));
    }

    #[test]
    fn what_cannot_be_read_is_told_with_its_place() {
        let check = |text: &str, expect: &str| {
            let message = parsed(text).unwrap_err();
            assert!(message.starts_with(expect), "{message}");
        };
        check("users:\n- [", "/home/op/.kube/config:2:");
        check(
            "users: 5\n",
            "/home/op/.kube/config is not a kubeconfig: invalid type",
        );
        check(
            "no mapping\n",
            "/home/op/.kube/config is not a kubeconfig: invalid type",
        );
    }
}
