//! Asks one rule so many times: `make bench` counts the instructions.
//!
//! `rules mutate|validate held|other COUNT`

#![allow(clippy::unwrap_used, reason = "a bad argument ends it")]
#![allow(clippy::disallowed_methods, reason = "an example takes arguments")]

use std::hint::black_box;

use migration_gate_core::gates::Config;
use migration_gate_core::mutate::mutate;
use migration_gate_core::request::Request;
use migration_gate_core::validate::validate;
use serde_json::json;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [rule, which, count] = arguments.try_into().unwrap();
    let name = if which == "held" {
        "piefed-web"
    } else {
        "other"
    };
    let env: Vec<_> = (0..10)
        .map(|i| json!({"name": format!("V{i}"), "value": "1"}))
        .collect();
    let object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": "piefed-application", "labels": {"app": "web"}},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "web", "image": "example/piefed-web:1.2.3", "env": env}]},
        }},
    });
    let config = Config::default();
    let mut object = object;
    // What is validated has been mutated.
    let patch = mutate(&config, &Request::create(&object, "").unwrap()).patch;
    if rule == "validate" {
        json_patch::patch(&mut object, &patch).unwrap();
    }
    let request = Request::create(&object, "").unwrap();
    let rule = if rule == "validate" { validate } else { mutate };
    for _ in 0..count.parse().unwrap() {
        black_box(rule(black_box(&config), black_box(&request)));
    }
}
