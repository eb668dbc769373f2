//! The rules, as pure functions over `serde_json::Value` and the configuration.
//!
//! Nothing here reads a clock, a file or a socket, and nothing here is async: the webhook, the
//! offline review and the tests call the same functions and get the same answers.

pub mod announcement;
pub mod applier;
pub mod decision;
pub mod dependent;
pub mod eject;
pub mod explain;
pub mod field;
pub mod gates;
pub mod glob;
pub mod held;
pub mod image;
pub mod injection;
pub mod job;
pub mod mask;
pub mod mutate;
pub mod names;
pub mod outlook;
pub mod podspec;
pub mod prefilter;
pub mod record;
pub mod request;
pub mod status;
pub mod text;
pub mod validate;
pub mod verdict;
pub mod version;
