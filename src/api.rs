//! All access to the API server.

pub mod client;
pub mod error;
pub mod objects;
pub mod observe;
pub mod records;
pub mod seen;

pub use error::{ApiError, Cause};
pub use objects::{DryRun, FIELD_MANAGER, Objects, TIMEOUT};
