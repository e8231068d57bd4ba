//! What the suites over PostgreSQL have in common: users who write and keep count, and a network that is cut.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod network;
mod writers;

pub use network::Network;
pub use writers::{Tally, Writer, id, open, pair, put, tag, user};
