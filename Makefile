# Targets for contributors and CI. Each does all of its own set-up, even on a fresh Debian machine.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# The steps share two cores and one build folder, so they run one after the other, except for the build of the release
# binary in `test`.
.NOTPARALLEL:

cache := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/migration-gate
cargo_deny_version := 0.20.2
cargo_deny := $(cache)/tools/cargo-deny-$(cargo_deny_version)/bin/cargo-deny
cargo_fuzz_version := 0.13.2
cargo_fuzz := $(cache)/tools/cargo-fuzz-$(cargo_fuzz_version)/bin/cargo-fuzz
# Seconds for each fuzz target.
FUZZ_SECONDS ?= 60
comma := ,
cyclonedx_version := 0.5.9
cyclonedx := $(cache)/tools/cargo-cyclonedx-$(cyclonedx_version)/bin/cargo-cyclonedx
# Progress that stands out from what the tools print.
say = @echo "==> $(1)"
# The speed of these tools does not matter, so they are built quickly.
cargo_install = CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
	cargo install --quiet --locked --root "$(@D)/.."

.PHONY: help
help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

.PHONY: demo
demo: packages ## What the webhooks would do to PieFed's manifests, as they should be and as they were
	$(call say,building migration-gate (about a minute on two cores$(comma) once))
	@cargo build --quiet --locked --package migration-gate
	$(call say,migration-gate review examples/piefed)
	@cargo run --quiet --locked --package migration-gate -- review examples/piefed
	$(call say,migration-gate review examples/piefed-old (exit code 1$(comma) as it has violations))
	@! cargo run --quiet --locked --package migration-gate -- review examples/piefed-old

.PHONY: test
test: packages ## Everything: lints, dependencies' licences, all tests (some 40 minutes on two cores at first, 12 when all is cached)
	$(call say,release binary for the image; it takes one core for 2 minutes$(comma) so the next steps run in parallel)
	@CARGO_TERM_QUIET=true build/binary.sh >/dev/null & binary=$$!; \
	trap 'kill $$binary 2>/dev/null || true' EXIT; \
	$(MAKE) --no-print-directory lint test-fast deny sbom test-cluster; \
	wait $$binary; \
	$(MAKE) --no-print-directory attacks

.PHONY: test-fast
test-fast: packages ## The tests that need no cluster (seconds, once compiled)
	$(call say,tests without a cluster (compiled in about 3 minutes at first$(comma) then seconds))
	cargo test --locked

.PHONY: attacks
attacks: packages ## Hostile clients against the released binary, in a memory cgroup of the chart's limit
	$(call say,attacks on the released binary (half a minute; ATTACK_SECONDS lengthens each))
	ATTACKED=$$(build/binary.sh) cargo test --locked --test attacks -- --include-ignored --nocapture

# The tests build what they need. Where they cannot run, they print why.
.PHONY: test-cluster
test-cluster: packages ## The tests on a real node (builds and boots it), or on the cluster of KUBECONFIG
	$(call say,tests on a cluster (the first run builds control planes$(comma) a node and an application: some 25 minutes; then 10))
	cargo test --locked --test cluster -- $(TESTS)

.PHONY: test-peers
test-peers: packages ## The tests beside Argo CD, Argo Rollouts, cert-manager and Flux (some 30 minutes to build these at first; then minutes)
	$(call say,tests beside other tools (each is built once: some 9 minutes on two cores))
	cargo test --locked --test cluster -- --peers $(PEERS)

# Each test must fail then. UNGATED selects tests by a part of their names.
.PHONY: ungated
ungated: packages ## The stories and the tests beside other tools with the gate taken away, where each has to fail
	$(call say,tests without the gate (builds what make test-peers builds; then some 15 minutes))
	cargo test --locked --test cluster -- --ungated $(UNGATED)

.PHONY: lint
lint: packages ## Formatting, words, and clippy, where a warning is an error
	$(call say,formatting$(comma) words and lints (about 2 minutes on two cores at first))
	tests/words.sh
	@cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 || rustup component add rustfmt clippy
	cargo fmt --all --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy --locked --test cluster -- -D warnings

.PHONY: deny
deny: $(cargo_deny) ## Licences, sources and bans of the dependencies
	$(call say,licences and sources of the dependencies)
	$(cargo_deny) --locked check bans licenses sources

.PHONY: audit
audit: $(cargo_deny) ## Known vulnerabilities of the dependencies (fetches the advisory database)
	$(cargo_deny) --locked check advisories

$(cargo_deny):
	$(call say,building cargo-deny $(cargo_deny_version) (about 2 minutes on two cores$(comma) once))
	$(cargo_install) cargo-deny@$(cargo_deny_version)

.PHONY: fuzz
fuzz: packages $(cargo_fuzz) ## Each fuzz target for FUZZ_SECONDS (60), starting from the seeds
	$(call say,fuzzing (the instrumented build takes about 5 minutes on two cores))
	PATH="$(dir $(cargo_fuzz)):$$PATH" fuzz/run.sh $(FUZZ_SECONDS)

$(cargo_fuzz):
	$(call say,building cargo-fuzz $(cargo_fuzz_version) (about a minute on two cores$(comma) once))
	$(cargo_install) cargo-fuzz@$(cargo_fuzz_version)

# BENCHES selects parts by a part of their names; the figures of the other parts stay. COMPARE also measures the program
# of another commit, and keeps no figures.
.PHONY: bench
bench: packages ## Figures, which it writes to docs/performance.md (some 30 minutes); BENCHES=part, COMPARE=commit
	$(call say,what is compared with: gator$(comma) Gatekeeper$(comma) Kyverno$(comma) kubectl-validate$(comma) a bare server (some 15 minutes at first))
	@tests/cluster/bench/tools.sh $(COMPARE) >/dev/null
	@cargo build --quiet --release --locked --package migration-gate-core --example rules
	$(call say,figures (a release build and a control plane at first))
	BENCH_TOOLS=$$(tests/cluster/bench/tools.sh $(COMPARE)) \
	BENCH_RULES=$$(realpath $${CARGO_TARGET_DIR:-target}/release/examples/rules) \
		cargo test --locked --test cluster -- --bench $(BENCHES)

.PHONY: soak
soak: packages container-engine ## The long forms of the tests, one after the other (under an hour on two cores)
	$(call say,the model at length (minutes))
	cargo test --locked --package migration-gate-core --test model -- --ignored
	ATTACK_SECONDS=20 $(MAKE) --no-print-directory attacks
	$(call say,soaks on a cluster (a release build and a control plane at first))
	MIGRATION_GATE_TEST_PROMETHEUS=$$(tests/cluster/prometheus.sh) cargo test --locked --test cluster -- --soak $(SOAKS)

.PHONY: sbom
sbom: packages $(cyclonedx) ## The image's bill of materials, checked against what is linked: target/sbom/migration-gate.cdx.json
	$(call say,bill of materials)
	CARGO_CYCLONEDX=$(cyclonedx) build/sbom.sh

$(cyclonedx):
	$(call say,building cargo-cyclonedx $(cyclonedx_version) (about a minute on two cores$(comma) once))
	$(cargo_install) cargo-cyclonedx@$(cyclonedx_version)

.PHONY: image
image: packages ## The container image, without a container engine: target/image/migration-gate.tar
	$(call say,container image (a static release binary: some minutes at first))
	build/image.sh

.PHONY: reproducible
reproducible: packages ## Whether the image has the same bytes, built in two folders
	$(call say,two images$(comma) built from scratch in two folders (some 10 minutes on two cores))
	build/reproducible.sh

.PHONY: archive
archive: packages ## The program with its licences$(comma) man pages and completions$(comma) for this machine: target/archive
	$(call say,archive (a static release binary: some minutes at first))
	build/archive.sh

.PHONY: cluster-assets
cluster-assets: ## The control plane, kubelet, containerd, Helm, Flux and an application to run there (cached)
ifeq ($(KUBECONFIG),)
	@tests/cluster/assets.sh flux >/dev/null
	@tests/cluster/apps/build.sh >/dev/null
endif

# Rust needs a linker, and a C compiler for one dependency. If there is one, nothing is installed.
.PHONY: packages
packages:
	@command -v cc >/dev/null || { \
		echo "==> installing Debian packages: gcc libc6-dev (under a minute)"; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends gcc libc6-dev >/dev/null; }

# Podman builds and runs the images in the pages' commands.
.PHONY: container-engine
container-engine:
	@command -v podman >/dev/null || { \
		echo "==> installing Debian packages: podman buildah (a minute)"; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends podman buildah >/dev/null; }

.PHONY: clean-cache
clean-cache: ## Forget every program that was built for the tests
	chmod -R u+w "$(cache)" 2>/dev/null || true
	rm -rf "$(cache)"
