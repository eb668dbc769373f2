//! Why a test doesn't apply.

use std::fmt;

/// The error of a test that doesn't apply here. It is reported as ignored, with this reason.
#[derive(Debug)]
pub struct Skip(pub String);

impl fmt::Display for Skip {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}
