//! Kubernetes admission webhooks that make a cluster enforce migration ordering.
//!
//! [`migration_gate_core`] decides and does nothing else: it has no clock, no client, no file and
//! no async code. Everything around it is a shell that fetches its input and carries out its
//! decisions: [`serve`] for the API server, [`wait`] for the pods that were held, [`review`] for
//! people and their pull requests.
//!
//! `ARCHITECTURE.md` has the code map and the invariants.

#![forbid(unsafe_code)]

pub mod admission;
pub mod api;
pub mod check;
pub mod cli;
pub mod eject;
pub mod record;
pub mod review;
pub mod serve;
pub mod status;
pub mod version;
pub mod wait;
