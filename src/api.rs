//! The one way to the API server.

pub mod client;
pub mod error;
pub mod observe;
