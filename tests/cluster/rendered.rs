//! `review -k` and `--helm`, with the real programs.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use testkit::assets::repository;
use testkit::process::{self, program};

testkit::tests! {
    helm: what_kustomize_and_helm_render_is_reviewed_in_place;
}

fn review(helm: &Path, arguments: &str) -> Result<(bool, String)> {
    let programs = helm.parent().context("a folder")?;
    let path = format!("{}:/usr/bin:/bin", programs.display());
    let mut command = Command::new(program());
    command
        .arg("review")
        .args(arguments.split(' '))
        .env("PATH", path)
        .current_dir(repository());
    let output = process::run(&mut command, "", Duration::from_secs(90))?;
    let ok = output.status.success();
    Ok((ok, output.stdout + &output.stderr))
}

fn what_kustomize_and_helm_render_is_reviewed_in_place(helm: &Path) -> Result<()> {
    let expect = |arguments: &str, ok: bool, words: &[&str]| -> Result<()> {
        let (succeeded, text) = review(helm, arguments)?;
        ensure!(succeeded == ok, "{arguments}: {text}");
        for word in words {
            ensure!(text.contains(word), "{arguments}: no {word} in {text}");
        }
        Ok(())
    };
    let chart = "--helm examples/shop-chart --config examples/shop-chart/gates.yaml --release shop";
    // The examples are as they should be.
    expect(
        &format!("{chart} -n shop --strict"),
        true,
        &["4 objects: 3 injections, no violations, no warnings"],
    )?;
    expect(
        "-k examples/piefed --strict --config examples/piefed-gates.yaml",
        true,
        &[" injections, no violations, no warnings"],
    )?;
    // An image that comes from a value has the line of its template, also in a loop.
    expect(
        &format!("{chart} -n shop --set image.tag=latest -o github --strict"),
        false,
        &[
            "::warning file=examples/shop-chart/templates/web.yaml,line=19,col=9,endColumn=52,title=mutable-tag::Deployment shop/shop-web:",
            "::warning file=examples/shop-chart/templates/workers.yaml,line=20,col=9,endColumn=52,title=mutable-tag::Deployment shop/shop-worker-mail:",
            "::warning file=examples/shop-chart/templates/workers.yaml,line=20,col=9,endColumn=52,title=mutable-tag::Deployment shop/shop-worker-search:",
        ],
    )?;
    expect(chart, true, &["warning[no-namespace]", "--namespace shop"])?;
    // An image that an overlay changes has the line of the base.
    expect(
        "-k tests/cluster/rendered -o github --strict",
        false,
        &[
            "::warning file=examples/piefed/deployment-web.yaml,line=22,col=9,endColumn=35,title=mutable-tag::",
        ],
    )?;
    // Errors of these programs are printed in their words.
    expect(
        "--helm examples/shop-chart --set web.replicas",
        false,
        &["`helm` failed", "error[unreadable]"],
    )?;
    expect(
        "-k examples/nothing",
        false,
        &["`kubectl` failed", "error[unreadable]"],
    )
}
