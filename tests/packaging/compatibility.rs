//! `docs/compatibility.md` lists the versions of other tools that the tests run, and what they
//! prove. The versions are those of the tests' pins, and the listed tests exist.
//! `GENERATE=1 cargo test --test packaging compatibility` writes the page.

use std::fs;

use super::{read, repository};

/// A tool that the tests run.
struct Tool {
    name: &'static str,
    /// The file that pins it, and the text before the version in that file.
    pin: (&'static str, &'static str),
    proven: &'static str,
    /// Tests of `tests/cluster/`, by module and name; a module alone stands for all its tests.
    tests: &'static [&'static str],
}

const ASSETS: &str = "tests/cluster/assets.sh";
const NEWEST: &str = "tests/cluster/control-plane/go.mod";
const OLDEST: &str = "tests/cluster/control-plane/oldest/go.mod";
/// The text before the version in `go.mod`.
const KUBERNETES: &str = "k8s.io/kubernetes v";
const DEFINITIONS: &str = "tests/cluster/definitions.sh";
const PEERS: &str = "tests/cluster/peers.sh";

const TOOLS: &[Tool] = &[
    Tool {
        name: "Kubernetes",
        pin: (NEWEST, KUBERNETES),
        proven: "API server, controllers, scheduler and kubelet: everything",
        tests: &["prefilter", "same_verdict", "orders", "waiter", "stories"],
    },
    Tool {
        name: "Kubernetes, oldest",
        pin: (OLDEST, KUBERNETES),
        proven: "its API server: the chart, admission, `matchConditions`, the record, and what \
                 the waiter does for what it sees",
        tests: &["oldest"],
    },
    Tool {
        name: "Kubernetes",
        pin: (NEWEST, KUBERNETES),
        proven: "its autoscaler, from zero without the Job: started by the record, or held in a \
                 new version",
        tests: &["stories::from_zero"],
    },
    Tool {
        name: "containerd",
        pin: (ASSETS, "containerd=v"),
        proven: "runs every pod of the tests",
        tests: &["waiter"],
    },
    Tool {
        name: "Helm",
        pin: (ASSETS, "helm=v"),
        proven: "install, upgrade, rollback and uninstallation of the chart",
        tests: &["chart::lifecycle", "chart::upgrading", "chart::install"],
    },
    Tool {
        name: "Helm",
        pin: (ASSETS, "helm=v"),
        proven: "the `helm upgrade` that is printed for a held release is run, and helps",
        tests: &["waiter::applied::the_way_out_of_a_helm_release_leads_out"],
    },
    Tool {
        name: "kubectl",
        pin: (NEWEST, KUBERNETES),
        proven: "what is printed for a held application is run, and helps",
        tests: &["waiter::applied::the_way_out_with_kubectl_leads_out"],
    },
    Tool {
        name: "Flux kustomize-controller",
        pin: (ASSETS, "flux=v"),
        proven: "first deployment, upgrades, failures, the day after; no drift; Jobs that go at \
                 once; health checks that a repair cancels",
        tests: &[
            "stories::first_deployment",
            "stories::upgrade",
            "stories::day_after",
            "stories::health_checks",
        ],
    },
    Tool {
        name: "Flux kustomize-controller, earlier",
        pin: (PEERS, "flux_kustomize=v"),
        proven: "the chart first, and the application after it",
        tests: &["peers::flux"],
    },
    Tool {
        name: "Flux source-controller",
        pin: (PEERS, "flux_source=v"),
        proven: "the chart out of a registry; on an empty cluster the application comes after it",
        tests: &["peers::flux"],
    },
    Tool {
        name: "Flux helm-controller",
        pin: (PEERS, "flux_helm=v"),
        proven: "the installation of the chart",
        tests: &["peers::flux"],
    },
    Tool {
        name: "Flux command line",
        pin: (PEERS, "flux_command=v"),
        proven: "what the waiter, Events and `status` print for a Kustomization and a HelmRelease \
                 is run, and helps",
        tests: &["peers::flux::cure"],
    },
    Tool {
        name: "Argo CD",
        pin: (PEERS, "argo_cd=v"),
        proven: "hooks run in order, also those that are deleted at once",
        tests: &[
            "peers::argo_cd::a_hook_runs_before_the_pods",
            "peers::argo_cd::a_hook_that_is_deleted_at_once_is_recorded",
        ],
    },
    Tool {
        name: "Argo CD",
        pin: (PEERS, "argo_cd=v"),
        proven: "a selective sync, and the self-heal that runs no hook (argo-cd#22795), are held; \
                 no drift; the `argocd app sync` that is printed is run, and helps",
        tests: &[
            "peers::argo_cd::a_selective_sync_is_held_until_a_full_one",
            "peers::argo_cd::a_self_heal_that_runs_no_hooks_is_held",
        ],
    },
    Tool {
        name: "Argo CD",
        pin: (PEERS, "argo_cd=v"),
        proven: "a hook completes while every replica is down",
        tests: &["peers::argo_cd::down"],
    },
    Tool {
        name: "Argo CD",
        pin: (PEERS, "argo_cd=v"),
        proven: "the chart is installed and upgraded, a gate retired",
        tests: &["peers::argo_cd::chart"],
    },
    Tool {
        name: "Argo Rollouts",
        pin: (PEERS, "argo_rollouts=v"),
        proven: "canary, blue-green and `workloadRef` held; an abort while held",
        tests: &["peers::argo_rollouts"],
    },
    Tool {
        name: "cert-manager",
        pin: (PEERS, "cert_manager=v"),
        proven: "let through by its webhook, issued, injected, and both certificates renewed under \
                 load",
        tests: &["peers::cert_manager", "chart::certificates"],
    },
    Tool {
        name: "Prometheus operator",
        pin: (
            DEFINITIONS,
            "github.com/prometheus-operator/prometheus-operator@v",
        ),
        proven: "its kinds, as the chart renders them",
        tests: &["chart::accepted"],
    },
];

const BEGIN: &str = "<!-- made from the tests' pins -->\n";
const END: &str = "<!-- end -->\n";

impl Tool {
    fn version(&self) -> String {
        let (file, before) = self.pin;
        let text = read(file);
        let mut lines = text.lines().map(str::trim);
        let version = lines.find_map(|line| line.strip_prefix(before));
        version
            .unwrap_or_else(|| panic!("{file} pins no {}", self.name))
            .to_owned()
    }

    fn row(&self) -> String {
        let tests: Vec<String> = self.tests.iter().map(|test| format!("`{test}`")).collect();
        let proven = self.proven.split_whitespace().collect::<Vec<_>>().join(" ");
        format!(
            "| {} | {} | {proven} | {} |\n",
            self.name,
            self.version(),
            tests.join(", ")
        )
    }
}

#[test]
fn the_page_on_compatibility_is_that_of_the_pins() {
    let path = "docs/compatibility.md";
    let page = read(path);
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let rows: String = TOOLS.iter().map(Tool::row).collect();
    let table = format!("| tool | version | proven | tests |\n|---|---|---|---|\n{rows}");
    let expected = format!("{before}{BEGIN}\n{table}\n{END}{after}");
    if std::env::var_os("GENERATE").is_some() {
        fs::write(repository().join(path), &expected).unwrap();
    }
    assert!(
        read(path) == expected,
        "{path} is out of date; run `GENERATE=1 cargo test --test packaging compatibility` and commit it"
    );
}

#[test]
fn the_oldest_kubernetes_of_the_tests_is_the_oldest_that_the_chart_admits() {
    let chart = read("charts/migration-gate/Chart.yaml");
    let admitted = chart
        .lines()
        .find_map(|line| line.strip_prefix("kubeVersion: "));
    let oldest = TOOLS
        .iter()
        .find(|tool| tool.pin == (OLDEST, KUBERNETES))
        .unwrap();
    let version = oldest.version();
    let (minor, _) = version.rsplit_once('.').unwrap();
    assert_eq!(admitted, Some(format!("\">={minor}.0-0\"").as_str()));
}

#[test]
fn the_tests_of_the_page_on_compatibility_are_there() {
    for test in TOOLS.iter().flat_map(|tool| tool.tests) {
        assert!(is_there(test), "there is no {test}");
    }
    assert!(!is_there("peers::argo_cd::a_hook"));
    assert!(!is_there("peers::argo_workflows"));
}

/// Whether a module has that name, or a test in one.
fn is_there(test: &str) -> bool {
    let file = |module: &str| {
        let path = format!("tests/cluster/{}.rs", module.replace("::", "/"));
        fs::read_to_string(repository().join(path)).ok()
    };
    let is_test = || {
        let (module, name) = test.rsplit_once("::")?;
        Some(file(module)?.contains(&format!("\nfn {name}(")))
    };
    file(test).is_some() || is_test() == Some(true)
}
