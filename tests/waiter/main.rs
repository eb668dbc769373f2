//! The waiter and the record as processes, over every way in which a connection can fail.

mod api;
mod connection;
mod logs;
mod objects;
mod recorder;
mod rows;
mod watch;

use api::Api;
use objects::JOB;
use testkit::waiter::Waiter;

/// A waiter on behalf of an image of version 2.
fn start(api: &Api) -> Waiter {
    start_with(api, &["--image=web:2"])
}

fn start_with(api: &Api, args: &[&str]) -> Waiter {
    let job = format!("--job={JOB}");
    let args = ["--gate=g", "--namespace=ns", &job]
        .into_iter()
        .chain(args.iter().copied());
    Waiter::spawn(&api.kubeconfig(), api.folder(), args)
}
