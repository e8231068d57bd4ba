//! What is promised of accounts, logins, tokens and sessions; and each fault that is planted is found by the check that it is for.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a test prints its row of evidence")]

mod accounts;
mod bed;
mod faults;
mod hashing;
mod login;
mod processes;
mod sessions;
mod stored;
mod throttle;
mod timing;
mod tokens;
