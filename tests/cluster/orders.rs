//! Random orders of everything that can happen to a gate, on a real API server with real waiters
//! and recorders: apply, delete, create again, run, fail, complete, forget, record by hand; cut
//! connections, killed recorders, a restarted API server.
//!
//! No waiter may open before its version is migrated, and none may wait forever. The [`history`] of
//! what was done decides what is right, not the product's code. The model in
//! `crates/core/tests/model` covers every order of few events. These tests run few orders of many
//! events, with everything real except the kubelet and the Job controller.
//!
//! A failure prints the order's steps and the seed. With `MIGRATION_GATE_TEST_SEED` set to that
//! seed, the same steps run again, but their exact times depend on the machine.

mod history;
mod losses;
mod order;
mod recorders;
mod waiter;
mod watchers;

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::PostParams;
use serde_json::json;

use self::losses::the_record_loses_none_of_10_000_completions;
use self::order::{Counts, Order, Setting, Shared};
use self::recorders::{Recorders, Settings};
use self::watchers::Watchers;
use testkit::client::block_on;
use testkit::image;
use testkit::poll::until_is;
use testkit::process;
use testkit::proxy::Proxy;
use testkit::random::Random;
use testkit::sandbox::Sandbox;
use testkit::scene::Plane;

testkit::tests! {
    standalone: no_waiter_opens_early_or_waits_for_ever_in_40_orders;
}

testkit::soaks! {
    standalone:
        no_waiter_opens_early_or_waits_for_ever_in_1_000_orders,
        the_record_loses_none_of_10_000_completions;
}

/// Number of orders that share two recorders.
const BATCH: usize = 40;
/// Number of orders that run at the same time.
const SIDE_BY_SIDE: usize = 12;
/// Time limit for each step on a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);

fn no_waiter_opens_early_or_waits_for_ever_in_40_orders(sandbox: &Sandbox) -> Result<()> {
    orders(sandbox, 1, 1)
}

fn no_waiter_opens_early_or_waits_for_ever_in_1_000_orders(sandbox: &Sandbox) -> Result<()> {
    orders(sandbox, 25, 3)
}

/// Runs `batches` batches. In one of `restarts` batches, the API server is restarted.
fn orders(sandbox: &Sandbox, batches: usize, restarts: usize) -> Result<()> {
    let random = Random::seeded("random orders")?;
    let mut plane = Plane::start(sandbox, "orders", 8)?;
    let began = Instant::now();
    let counts = Counts::default();
    let (mut kills, mut restarted) = (0, 0);
    for batch in 0..batches {
        let restart = batch.is_multiple_of(restarts);
        restarted += usize::from(restart);
        kills += Batch::new(sandbox, batch)?.run(&mut plane, &random, restart, &counts)?;
    }
    eprintln!(
        "cluster: {} orders in {} s: {counts}; {kills} recorders killed, the API server restarted {restarted} times",
        batches * BATCH,
        began.elapsed().as_secs(),
    );
    Ok(())
}

/// Orders that share two recorders.
struct Batch {
    number: usize,
    settings: Vec<Setting>,
    logs: PathBuf,
    folder: tempfile::TempDir,
}

impl Batch {
    fn new(sandbox: &Sandbox, number: usize) -> Result<Self> {
        let orders = number * BATCH..(number + 1) * BATCH;
        Ok(Self {
            number,
            settings: orders.map(Setting::of).collect(),
            logs: sandbox.logs("orders-recorders")?,
            folder: tempfile::tempdir()?,
        })
    }

    /// Runs the batch. Returns the number of killed recorders.
    fn run(
        &self,
        plane: &mut Plane,
        random: &Random,
        restart: bool,
        counts: &Counts,
    ) -> Result<usize> {
        let config = self.folder.path().join("config.yaml");
        let gates: Vec<_> = self
            .settings
            .iter()
            .map(|setting| setting.config())
            .collect();
        fs::write(&config, json!({ "gates": gates }).to_string())?;
        self.creates_namespaces(plane)?;
        let program = image::released_binary().unwrap_or_else(|_| process::program());
        let shaky = self.folder.path().join("kubeconfig");
        let proxy = Proxy::start(plane.server.admin(), &shaky)?;
        let shared = Shared {
            client: plane.client.clone(),
            program: program.clone(),
            kubeconfig: plane.server.admin().to_owned(),
            shaky,
            config: config.clone(),
            folder: self.folder.path(),
            watchers: Watchers::default(),
            calm: RwLock::new(()),
            counts,
        };
        let certificate = plane
            .server
            .authority()
            .server("orders", &["localhost"], &[])?;
        let mut faults = Faults {
            random: random.part(u64::MAX - u64::try_from(self.number)?),
            shared: &shared,
            proxy: &proxy,
            recorders: Recorders::new(
                Settings {
                    program: &program,
                    config: &config,
                    logs: &self.logs,
                    certificate: &certificate,
                    port: 18700,
                    namespaces: self.settings.len(),
                },
                plane,
            )?,
            restart,
        };
        faults.begin(plane)?;
        let next = AtomicUsize::new(0);
        let failed = Mutex::new(Vec::new());
        let over = AtomicBool::new(false);
        let faults = thread::scope(|scope| {
            let threads: Vec<_> = (0..SIDE_BY_SIDE)
                .map(|_| scope.spawn(|| self.takes_turns(&shared, random, &next, &failed)))
                .collect();
            let over = &over;
            let disturbed = scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    faults.happen(plane)?;
                }
                anyhow::Ok(faults.recorders.kills)
            });
            for thread in threads {
                let _ = thread.join();
            }
            over.store(true, Ordering::Relaxed);
            disturbed
                .join()
                .map_err(|_| anyhow!("the faults panicked"))?
        });
        let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
        match failed.into_iter().next() {
            Some(error) => Err(error),
            None => faults,
        }
    }

    fn creates_namespaces(&self, plane: &Plane) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(plane.client.clone());
        for setting in &self.settings {
            let object = json!({"metadata": {"name": setting.namespace()}});
            let object = serde_json::from_value(object)?;
            block_on(namespaces.create(&PostParams::default(), &object))?;
        }
        Ok(())
    }

    /// Runs one order after another, until there is none left or one has failed.
    fn takes_turns(
        &self,
        shared: &Shared<'_>,
        random: &Random,
        next: &AtomicUsize,
        failed: &Mutex<Vec<anyhow::Error>>,
    ) {
        let failed = || failed.lock().unwrap_or_else(PoisonError::into_inner);
        while failed().is_empty()
            && let Some(setting) = self.settings.get(next.fetch_add(1, Ordering::Relaxed))
        {
            if let Err(error) = Order::new(shared, *setting, random).run() {
                failed().push(error);
            }
        }
    }
}

/// The faults during the orders.
struct Faults<'a> {
    random: Random,
    shared: &'a Shared<'a>,
    proxy: &'a Proxy,
    recorders: Recorders<'a>,
    /// Whether the API server must still be restarted.
    restart: bool,
}

impl Faults<'_> {
    /// Starts the recorders, and waits until they watch.
    fn begin(&mut self, plane: &Plane) -> Result<()> {
        let watchers = &self.shared.watchers;
        self.recorders.revive(plane, watchers)?;
        let look = || {
            self.recorders.look(plane, watchers)?;
            Ok(self.recorders.ready())
        };
        until_is("the recorders to watch", PATIENCE, look, |ready| *ready)
    }

    /// Causes one fault, and ends it.
    fn happen(&mut self, plane: &mut Plane) -> Result<()> {
        let watchers = &self.shared.watchers;
        self.rests(plane, 100..700)?;
        match self.random.below(8) {
            0..=2 => {
                let index = self.random.below(2);
                {
                    let _calm = self.shared.calm.write();
                    self.recorders.kill(index, watchers);
                }
                self.rests(plane, 0..300)?;
                self.recorders.revive(plane, watchers)?;
            }
            3..=4 => self.proxy.cut(),
            5 => {
                self.proxy.hold();
                self.proxy.cut();
                self.rests(plane, 100..8000)?;
                self.proxy.release();
            }
            6 if std::mem::take(&mut self.restart) => {
                let _calm = self.shared.calm.write();
                plane.server.kill_api_server()?;
                plane.server.start_api_server()?;
                self.recorders.server_restarts(plane, watchers)?;
            }
            _ => {
                // Both resume their watches afterwards, and get the events that they have missed. A
                // list would not have these.
                let cut = [!self.random.one_in(4), true];
                let cut = || (0..cut.len()).filter(|index| cut[*index]);
                cut().for_each(|index| self.recorders.cut_off(index));
                self.rests(plane, 100..8000)?;
                cut().for_each(|index| self.recorders.reconnect(index));
            }
        }
        Ok(())
    }

    /// Waits for some time. Meanwhile it notes which recorders have begun to watch.
    fn rests(&mut self, plane: &Plane, milliseconds: std::ops::Range<usize>) -> Result<()> {
        let time = self.random.within(milliseconds);
        let until = Instant::now() + Duration::from_millis(u64::try_from(time)?);
        loop {
            self.recorders.look(plane, &self.shared.watchers)?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(Duration::from_millis(100)));
        }
    }
}
