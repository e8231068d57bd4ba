//! What a mesh tells the audit layer, read back from the links of its user's chain.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]
#![allow(clippy::print_stdout, reason = "a test prints its row of evidence")]

mod bed;
mod changes;
mod faults;
mod full;
mod limit_model;
mod pacing;
mod permission_calls;
mod permission_model;
mod reads;
mod refusals;
mod strict;
mod under_way;
