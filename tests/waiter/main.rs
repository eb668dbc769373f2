//! The waiter and the recorder, over every way in which a connection can fail. `testkit::rows` has
//! the waiter's decisions.

mod arguments;
mod connection;
mod events;
mod logs;
mod recorder;
mod watch;

use testkit::fake::FakeApi;
use testkit::gate::{JOB, JOB_PATH, V2, complete, job, running};
use testkit::waiter::{Ended, Waiter};

/// A waiter on behalf of an image of version 2.
fn start(api: &FakeApi) -> Waiter {
    start_with(api, &[V2])
}

fn start_with(api: &FakeApi, args: &[&str]) -> Waiter {
    let job = format!("--job={JOB}");
    let args = ["--gate=g", "--namespace=ns", &job]
        .into_iter()
        .chain(args.iter().copied());
    Waiter::spawn(&api.kubeconfig(), api.folder(), args)
}

/// An API server with a running Job of that version, and a waiter that has seen it.
fn beside_a_running_job() -> (FakeApi, Waiter) {
    let api = FakeApi::start();
    api.put(JOB_PATH, job("2", running()));
    let mut waiter = start(&api);
    waiter.says("is running");
    api.await_watches(2);
    (api, waiter)
}

/// The Job completes, and the waiter opens.
fn completes(api: &FakeApi, waiter: Waiter) -> Ended {
    api.put(JOB_PATH, job("2", complete()));
    waiter.ends_with(0)
}

/// A client as the program makes one, over loopback.
fn client(api: &FakeApi) -> kube::Client {
    let config = kube::Config::new(api.url().parse().expect("a URL"));
    migration_gate::api::client::client(config).expect("a client")
}
