//! The audit trail under tampering, against the live data and against a second implementation of its verifier in Python.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "it prints its row of evidence")]

mod golden;
mod random;
mod second;
mod state;
mod tamper;
mod trail;
mod world;
