//! The waiter and the record as processes, over every way in which a connection can fail.

mod api;
mod connection;
mod process;
mod recorder;
mod rows;
