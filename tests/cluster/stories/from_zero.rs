//! An application that an autoscaler scales to zero, and scales up again long after its Job was
//! deleted: with the same version, or with the next.

mod demand;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use self::demand::Demand;
use super::stage::SLEEPER;
use crate::waiter::application::{GatedApplication, JOB, WEB, manifests};
use testkit::cluster::Cluster;
use testkit::process::says;

testkit::tests! {
    shared: what_wakes_from_zero_starts_by_the_record_or_waits;
}

const V2: &str = "piefed/piefed:1.2.0";
const V3: &str = "piefed/piefed:1.3.0";

/// An autoscaler that scales the Deployment to zero and back.
pub(crate) trait Autoscaler {
    /// The autoscaler's object.
    fn object(&self) -> Value;

    /// Sets the demand.
    fn demands(&self, value: u32) -> Result<()>;

    /// Fails if the autoscaler no longer works.
    fn check(&self) -> Result<()>;
}

/// An application that an autoscaler scales.
pub(crate) struct Sleeper<'a, A> {
    pub(crate) application: &'a GatedApplication,
    pub(crate) autoscaler: &'a A,
}

impl<A: Autoscaler> Sleeper<'_, A> {
    /// The whole story, from the first version on.
    pub(crate) fn story(&self) -> Result<()> {
        let application = self.application;
        let kubectl = application.kubectl();
        kubectl.apply(&manifests(V2))?;
        application.migrates_first(V2)?;
        self.autoscaler.demands(1)?;
        kubectl.apply(&self.autoscaler.object().to_string())?;
        self.sleeps()?;

        // Days later, the Job is deleted, and there is demand again.
        kubectl.run(&format!("delete job {JOB}"))?;
        self.wakes()?;
        application.rolled_out()?;
        let [(_, said)] = &application.waiters(V2)?[..] else {
            bail!("not one pod of {V2}");
        };
        says(said, &["open: the record has version 1.2.0"])?;
        ensure!(said.lines().count() == 1, "it waited for something: {said}");
        self.sleeps()?;

        // The next version is deployed while nothing runs, but without its migration.
        kubectl.run(&format!("set image deployment/{WEB} web={V3}"))?;
        self.wakes()?;
        application.holds(V3, "and no record of version 1.3.0")?;
        // Apply only the Job, because the autoscaler decides the number of pods.
        let all = manifests(V3);
        let (job, _) = all.split_once("\n---\n").context("the Job")?;
        kubectl.apply(job)?;
        application.migrates_first(V3)
    }

    /// Removes the demand, and waits until there is no pod.
    fn sleeps(&self) -> Result<()> {
        self.autoscaler.demands(0)?;
        self.scaled_to(0)?;
        let kubectl = self.application.kubectl();
        let pods = "pods --selector=app=web";
        if !kubectl
            .run(&format!("get {pods} --output=name"))?
            .is_empty()
        {
            kubectl.run(&format!("wait {pods} --for=delete --timeout=170s"))?;
        }
        Ok(())
    }

    /// Sets a demand, and waits for a pod.
    fn wakes(&self) -> Result<()> {
        self.autoscaler.demands(1)?;
        self.scaled_to(1)
    }

    fn scaled_to(&self, count: u32) -> Result<()> {
        let replicas = format!("jsonpath={{.spec.replicas}}={count}");
        let kubectl = self.application.kubectl();
        let scaled = kubectl.wait(&format!("deployment/{WEB}"), &replicas, 60);
        scaled.map_err(|error| match self.autoscaler.check() {
            Ok(()) => error,
            Err(gone) => gone.context(error),
        })
    }
}

/// Kubernetes' own autoscaler. It can scale to zero from 1.37 on, and before with the feature gate
/// `HPAScaleToZero`.
impl Autoscaler for Demand<'_> {
    fn object(&self) -> Value {
        json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": WEB},
            "spec": {
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": WEB},
                "minReplicas": 0, "maxReplicas": 1,
                "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}},
                "metrics": [{"type": "External", "external": {
                    "metric": {"name": "demand"},
                    "target": {"type": "AverageValue", "averageValue": "1"},
                }}],
            },
        })
    }

    fn demands(&self, value: u32) -> Result<()> {
        self.say(value);
        Ok(())
    }

    fn check(&self) -> Result<()> {
        Ok(())
    }
}

fn what_wakes_from_zero_starts_by_the_record_or_waits(cluster: &Cluster) -> Result<()> {
    let application = GatedApplication::new(cluster, SLEEPER)?;
    let autoscaler = Demand::serve(cluster, application.kubectl())?;
    let sleeper = Sleeper {
        application: &application,
        autoscaler: &autoscaler,
    };
    sleeper.story()
}
