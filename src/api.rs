//! The one way to the API server.

pub mod client;
pub mod error;
pub mod objects;
pub mod observe;

use std::time::Duration;

pub use error::{ApiError, Cause};
pub use objects::{DryRun, Objects};

/// The name of the writer in `managedFields`.
pub const FIELD_MANAGER: &str = "migration-gate";

/// How long the API server may take to answer one request.
pub const TIMEOUT: Duration = Duration::from_secs(10);
