//! The server that `make bench` compares with `migration-gate serve`, and the load for both.
//!
//! - `bare ADDRESS CERTIFICATE KEY` serves HTTPS with the same libraries, and does the least that a
//!   webhook can do: it parses the review's JSON and answers with its uid.
//! - `load` (see [`load`]) sends one review again and again, over some connections, and prints how
//!   many were answered and how fast, as JSON.

mod bare;
mod load;

use std::error::Error;
use std::process::ExitCode;

type Outcome = Result<(), Box<dyn Error>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["bare", address, certificate, key] => bare::serve(address, certificate, key),
        ["load", ref plan @ ..] => load::Plan::parse(plan).and_then(load::run),
        _ => Err("usage: bare ADDRESS CERTIFICATE KEY | load …".into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
