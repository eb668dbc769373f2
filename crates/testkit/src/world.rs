//! The worlds in which the [rows](crate::rows) run: real API servers, and the fake one.

use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use crate::fake::FakeApi;
use crate::poll::{Look, until};
use crate::proxy::Proxy;
use crate::sandbox::Sandbox;
use crate::scene::{Plane, Scene};

/// A row of [`rows`](crate::rows), in any world.
pub type Row = fn(&dyn WaiterWorld) -> Result<()>;

/// An API server with a scene, and faults of the connections of the scene's waiters.
pub trait WaiterWorld {
    /// The scene, by which a row changes objects and starts waiters.
    fn scene(&self) -> &Scene;

    /// Waits until waiters have started `each` watches of the Job and as many of the record in
    /// total.
    fn await_watches(&self, each: usize) -> Result<()>;

    /// Cuts every connection of a waiter.
    fn cut(&self);

    /// From now on, accepts connections of waiters and never answers.
    fn hold(&self);
}

/// The fake API server.
pub struct Fake {
    api: FakeApi,
    scene: Scene,
}

impl Fake {
    /// A new fake API server with a scene.
    pub fn start() -> Result<Self> {
        let api = FakeApi::start();
        let scene = Scene::new(&api.admin(), api.kubeconfig(), "ns")?;
        Ok(Self { api, scene })
    }
}

impl WaiterWorld for Fake {
    fn scene(&self) -> &Scene {
        &self.scene
    }

    fn await_watches(&self, each: usize) -> Result<()> {
        self.api.await_begun_watches(2 * each);
        Ok(())
    }

    fn cut(&self) {
        self.api.cut();
    }

    fn hold(&self) {
        self.api.hold("*", "*");
    }
}

/// A namespace of a real API server. Waiters reach it through a proxy.
pub struct Real {
    plane: &'static Plane,
    scene: Scene,
    proxy: Proxy,
}

impl Real {
    /// A scene in a new namespace with this name.
    pub fn start(sandbox: &Sandbox, plane: &'static Plane, namespace: &str) -> Result<Self> {
        let proxies = sandbox.state(&format!("{}-proxies", plane.server.name()))?;
        let kubeconfig = proxies.join(namespace);
        let proxy = Proxy::start(plane.server.admin(), &kubeconfig)?;
        let scene = Scene::through(plane, &kubeconfig, namespace)?;
        Ok(Self {
            plane,
            scene,
            proxy,
        })
    }
}

impl WaiterWorld for Real {
    fn scene(&self) -> &Scene {
        &self.scene
    }

    fn await_watches(&self, each: usize) -> Result<()> {
        await_watches(self.plane, &self.scene.namespace, each)
    }

    fn cut(&self) {
        self.proxy.cut();
    }

    fn hold(&self) {
        self.proxy.hold();
    }
}

/// The number of requests with this verb and resource whose audit event has this stage.
pub fn count(requests: &[Value], verb: &str, resource: &str, stage: &str) -> usize {
    requests
        .iter()
        .filter(|event| {
            event["verb"] == verb
                && event["objectRef"]["resource"] == resource
                && event["stage"] == stage
        })
        .count()
}

/// Waits until a real API server has begun to answer `each` watches of each kind in total.
pub fn await_watches(plane: &Plane, namespace: &str, each: usize) -> Result<()> {
    until(
        &format!("{each} watches of Job and record"),
        Duration::from_mins(3),
        || match plane.requests(namespace) {
            Err(error) => Look::Failed(error),
            Ok(requests) => {
                let begun = ["jobs", "configmaps"]
                    .map(|resource| count(&requests, "watch", resource, "ResponseStarted"));
                if begun.iter().all(|&begun| begun >= each) {
                    Look::Done(())
                } else {
                    Look::Pending(format!("{begun:?}"))
                }
            }
        },
    )
}
