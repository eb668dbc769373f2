//! The waiter and the record as processes, over every way in which a connection can fail.

#[allow(dead_code, reason = "the record needs the rest")]
mod api;
mod connection;
mod process;
mod rows;
