//! Properties of any text that is read as manifests or as the configuration.

use migration_gate::cli::config;
use migration_gate_core::gates::Config;
use migration_gate_yaml as yaml;

/// Checks one text: above all, that nothing panics, hangs or grows without bound.
///
/// # Panics
///
/// If a property does not hold.
pub fn check(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for document in yaml::documents(&text) {
        if let Err(error) = document {
            assert!(!error.to_string().is_empty());
        }
    }
    match config::parse(&text, "config.yaml") {
        Ok(config) => assert!(!config.gates.is_empty() || config == Config::default()),
        Err(error) => assert!(error.to_string().contains("config.yaml"), "{error}"),
    }
}
