//! What will bite later, although admission lets it through.

use super::check::{Finding, Reviewed};
use crate::config::Config;

/// Every warning that more than one object, or more than the rules, is needed for.
pub fn lints(_config: &Config, _objects: &[Reviewed<'_>]) -> Vec<Finding> {
    Vec::new()
}
