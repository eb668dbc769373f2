//! What the API server is told to send.

#![allow(
    clippy::disallowed_methods,
    reason = "the chart's copy is a file; the core itself has none"
)]

use migration_gate_core::prefilter::{Prefilter, mutating, validating};
use serde_json::{Value, json};

const GENERATED: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../charts/migration-gate/files/webhooks.json"
);

/// The chart's webhooks come from the engine's lists. `GENERATE=1 cargo test -p migration-gate-core` writes it.
#[test]
fn the_chart_has_the_prefilter_of_this_release() {
    let list = |prefilters: Vec<Prefilter>| -> Value {
        prefilters
            .into_iter()
            .map(|p| {
                json!({"name": p.name, "rules": p.rules, "matchConditions": p.match_conditions})
            })
            .collect()
    };
    let wanted = json!({"mutating": list(mutating()), "validating": list(validating())});
    let wanted = format!("{wanted:#}\n");
    if std::env::var_os("GENERATE").is_some() {
        std::fs::write(GENERATED, &wanted).unwrap();
    }
    let found = std::fs::read_to_string(GENERATED).unwrap_or_default();
    assert!(
        found == wanted,
        "{GENERATED} is out of date; run `GENERATE=1 cargo test -p migration-gate-core` and commit it"
    );
}
