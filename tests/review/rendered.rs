//! `-k` and `--helm`, by small stand-ins for the programs. The cluster tests run the real ones.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};

use tempfile::TempDir;

const WEB: &str = "\
kind: Deployment
apiVersion: apps/v1
metadata:
  namespace: piefed-application
  name: piefed-web
spec:
  template:
    spec:
      containers:
      - command: [web]
        name: web
        image: piefed/piefed:latest
";

/// A folder with programs, in which the review runs.
struct Scene(TempDir);

impl Scene {
    fn new() -> Self {
        let scene = Self(TempDir::new().expect("a folder"));
        fs::create_dir(scene.0.path().join("bin")).expect("a folder");
        scene
    }

    fn file(&self, name: &str, text: &str) {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(path, text).expect("a file");
    }

    /// A program that prints a file, after it has noted its arguments.
    fn program(&self, name: &str, script: &str) {
        let name = format!("bin/{name}");
        self.file(
            &name,
            &format!("#!/bin/sh\necho \"$0 $*\" >> called\n{script}\n"),
        );
        let path = self.0.path().join(name);
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("a program");
    }

    fn review(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_migration-gate"))
            .arg("review")
            .args(arguments)
            .current_dir(self.0.path())
            .env("PATH", self.0.path().join("bin"))
            .output()
            .expect("the program")
    }

    /// The exit code, and what is printed.
    fn said(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.review(arguments);
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        (output.status.code(), text)
    }

    fn called(&self) -> String {
        let text = fs::read_to_string(self.0.path().join("called")).expect("a call");
        text.replace(&format!("{}/bin/", self.0.path().display()), "")
    }
}

#[test]
fn what_is_missing_is_told_with_the_way_around() {
    let scene = Scene::new();
    scene.file("web.yaml", WEB);
    let (code, text) = scene.said(&["-k", "deploy"]);
    assert_eq!(code, Some(2), "{text}");
    assert!(
        text.contains("neither `kubectl` nor `kustomize` is in PATH; install one"),
        "{text}"
    );
    // The rest is reviewed all the same.
    let (code, text) = scene.said(&["--helm", "chart", "web.yaml"]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("`helm` is not in PATH; install it"), "{text}");
    assert!(text.contains("1 object: 1 injection"), "{text}");
}

#[test]
fn a_program_that_fails_is_quoted() {
    let scene = Scene::new();
    scene.program(
        "kubectl",
        "echo kind: Secret; echo 'no kustomization' >&2; exit 1",
    );
    scene.program("helm", "echo 'Error: no \\033[31mchart' >&2; exit 1");
    let (code, text) = scene.said(&["-k", "deploy", "--helm", "chart"]);
    assert_eq!(code, Some(2), "{text}");
    assert!(
        text.contains("`kubectl` failed (exit status: 1): no kustomization"),
        "{text}"
    );
    assert!(
        text.contains("`helm` failed (exit status: 1): Error: no "),
        "{text}"
    );
    assert!(!text.contains('\u{1b}'), "{text}");
    assert!(text.contains("no objects"), "{text}");
}

#[test]
fn a_kustomization_s_object_is_found_in_the_file_that_it_lists() {
    let scene = Scene::new();
    scene.file(
        "overlays/prod/kustomization.yaml",
        "resources: [../../base, https://example.org/x]\nnameSuffix: -web\n",
    );
    scene.file(
        "base/kustomization.yml",
        "resources:\n- web.yaml\n- missing.yaml\n",
    );
    scene.file(
        "base/web.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: piefed}\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: piefed\nspec:\n  template:\n    spec:\n      containers:\n      - name: web\n        image: piefed/piefed:1\n",
    );
    let print = format!("printf '%s' '{WEB}'");
    scene.program("kubectl", &print);
    let (code, text) = scene.said(&["-k", "overlays/prod", "-o", "github", "--strict"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains(
            "::warning file=base/web.yaml,line=14,col=9,endColumn=31,title=mutable-tag::"
        ),
        "{text}"
    );
    assert_eq!(scene.called(), "kubectl kustomize -- overlays/prod\n");
    let (_, text) = scene.said(&["-k", "overlays/prod"]);
    // The line that kustomize has printed is shown, with its place in the file.
    assert!(text.contains("--> base/web.yaml:14:"), "{text}");
    assert!(text.contains("image: piefed/piefed:latest"), "{text}");
    assert!(text.contains("--- a/base/web.yaml (as rendered)"), "{text}");

    // An object that no listed file holds counts as the kustomization's own.
    scene.file("base/web.yaml", "");
    let (_, text) = scene.said(&["-k", "overlays/prod", "-o", "github"]);
    assert!(
        text.contains("::warning file=overlays/prod/kustomization.yaml,line=1,"),
        "{text}"
    );

    // Without kubectl, the program `kustomize` is used.
    let scene = Scene::new();
    scene.program("kustomize", &print);
    let (code, text) = scene.said(&["-k", "deploy"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("--> deploy (as rendered):12:"), "{text}");
    assert_eq!(scene.called(), "kustomize build -- deploy\n");
}

#[test]
fn a_chart_s_object_is_found_in_its_template() {
    let scene = Scene::new();
    let template = WEB
        .replace("piefed/piefed:latest", "{{ .Values.image }}")
        .replace("  namespace: piefed-application\n", "");
    scene.file(
        "charts/app/templates/web.yaml",
        &format!("{{{{- if .Values.web }}}}\n{template}{{{{- end }}}}\n"),
    );
    let rendered = WEB.replace("  namespace: piefed-application\n", "");
    let of_subchart = rendered.replace("piefed-web", "piefed-worker");
    scene.program(
        "helm",
        &format!("printf '%s' '---\n# Source: piefed/templates/web.yaml\n{rendered}---\n# Source: piefed/charts/worker/templates/web.yaml\n{of_subchart}'"),
    );
    let all = [
        "--helm",
        "charts/app",
        "-f",
        "a.yaml",
        "-f",
        "b.yaml",
        "--set",
        "web=true",
        "--release",
        "r",
        "-n",
        "piefed-application",
        "-o",
        "github",
    ];
    let (code, text) = scene.said(&all);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(
        scene.called(),
        "helm template --namespace piefed-application --values a.yaml --values b.yaml --set web=true -- r charts/app\n"
    );
    assert!(
        text.contains("::warning file=charts/app/templates/web.yaml,line=12,col=9,endColumn=35,title=mutable-tag::"),
        "{text}"
    );
    // Of a missing template, only the name is known.
    assert!(
        text.contains("::warning file=piefed/charts/worker/templates/web.yaml,line=1,col=1,endColumn=1,title=mutable-tag::"),
        "{text}"
    );
}

/// If no namespace is chosen, Helm's default does not count as one.
#[test]
fn a_chart_without_a_namespace_is_told() {
    let scene = Scene::new();
    let rendered = WEB.replace("piefed-application", "default");
    scene.program(
        "helm",
        &format!("printf '%s' '---\n# Source: a/templates/web.yaml\n{rendered}'"),
    );
    let (_, text) = scene.said(&["--helm", "chart", "-o", "github"]);
    assert!(text.contains("title=no-namespace::"), "{text}");
    assert!(
        scene.called().contains("--namespace default"),
        "{}",
        scene.called()
    );
    let (_, text) = scene.said(&["--helm", "chart", "-n", "default", "-o", "github"]);
    assert!(!text.contains("title=no-namespace::"), "{text}");
}

#[test]
fn options_that_do_not_go_together() {
    let scene = Scene::new();
    for arguments in [
        &["--live", "-k", "x"][..],
        &["--live", "--helm", "x"],
        &["-f", "values.yaml", "web.yaml"],
        &["--set", "a=b", "-k", "x"],
        &["--release", "a", "web.yaml"],
        &[],
    ] {
        let (code, text) = scene.said(arguments);
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains("Usage:"), "{text}");
    }
}
