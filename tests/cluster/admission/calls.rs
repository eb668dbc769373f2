//! Number of webhook calls that each kind of request costs, by the API server's own metrics.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use testkit::kubectl::Kubectl;

/// The API server's counter of calls, by webhook.
const COUNTER: &str = "apiserver_admission_webhook_request_total{";

/// The calls of each webhook so far, without the suffix of its name.
pub(super) struct Calls<'k> {
    kubectl: &'k Kubectl,
    counts: BTreeMap<String, u64>,
}

impl<'k> Calls<'k> {
    pub(super) fn so_far(kubectl: &'k Kubectl) -> Result<Self> {
        Ok(Self {
            kubectl,
            counts: counts(kubectl)?,
        })
    }

    /// Runs `request`, which must cost exactly these calls.
    pub(super) fn cost(
        &mut self,
        what: &str,
        expect: &[(&str, u64)],
        request: impl FnOnce() -> Result<String>,
    ) -> Result<()> {
        request().context(what.to_owned())?;
        let before = std::mem::replace(&mut self.counts, counts(self.kubectl)?);
        let new = |(name, count): (&String, &u64)| {
            let new = count - before.get(name).copied().unwrap_or_default();
            (new > 0).then(|| (name.clone(), new))
        };
        let found: Vec<(String, u64)> = self.counts.iter().filter_map(new).collect();
        let expect: Vec<(String, u64)> = expect
            .iter()
            .map(|(name, count)| ((*name).to_owned(), *count))
            .collect();
        ensure!(found == expect, "{what}: {found:?}, not {expect:?}");
        Ok(())
    }
}

fn counts(kubectl: &Kubectl) -> Result<BTreeMap<String, u64>> {
    let mut counts = BTreeMap::new();
    for line in kubectl.run("get --raw /metrics")?.lines() {
        let Some((labels, count)) = line
            .strip_prefix(COUNTER)
            .and_then(|line| line.split_once("} "))
        else {
            continue;
        };
        // Skip the webhooks of other tests, which have other names.
        let name = labels.split("name=\"").nth(1);
        let Some((name, _)) = name.and_then(|rest| rest.split_once(".migration-gate.io\"")) else {
            continue;
        };
        *counts.entry(name.to_owned()).or_default() += count.parse::<u64>()?;
    }
    Ok(counts)
}
