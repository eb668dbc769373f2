//! An application that an autoscaler sends to sleep, and that wakes long after its Job is gone: in
//! its own version, or in the next.

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

/// What scales the Deployment to zero and back.
pub(crate) trait Autoscaler {
    /// The object that has it do so.
    fn object(&self) -> Value;

    /// Says how much there is to do.
    fn demands(&self, value: u32) -> Result<()>;

    /// An error if it doesn't work any more.
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

        // Days later the Job is gone, and someone visits.
        kubectl.run(&format!("delete job {JOB}"))?;
        self.wakes()?;
        application.rolled_out()?;
        let [(_, said)] = &application.waiters(V2)?[..] else {
            bail!("not one pod of {V2}");
        };
        says(said, &["open: the record has version 1.2.0"])?;
        ensure!(said.lines().count() == 1, "it waited for something: {said}");
        self.sleeps()?;

        // The next version comes while nothing runs, and its migration doesn't come.
        kubectl.run(&format!("set image deployment/{WEB} web={V3}"))?;
        self.wakes()?;
        application.holds(V3, "and no record of version 1.3.0")?;
        // The Job alone, as how many pods there are is for the autoscaler to say.
        let all = manifests(V3);
        let (job, _) = all.split_once("\n---\n").context("the Job")?;
        kubectl.apply(job)?;
        application.migrates_first(V3)
    }

    /// Nothing is to do, and so no pod is there any more.
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

    /// There is something to do.
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

/// Kubernetes' own autoscaler, which scales to zero from 1.37 on, and before where `HPAScaleToZero`
/// is switched on.
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
