//! The one way to the API server.

pub mod client;
pub mod observe;
