#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a check fails by panicking"
)]

pub mod broken;
mod harness;
mod mesh;
mod report;
#[cfg(feature = "sqlite")]
mod sqlite;
mod store;

pub use harness::{Bed, Check, Harness, Instance, MemoryHarness, run, run_with};
pub use mesh::mesh_checks;
pub use report::{Report, Row};
#[cfg(feature = "sqlite")]
pub use sqlite::{SharedSqliteHarness, SqliteHarness};
pub use store::store_checks;

/// The mesh, whose configuration a run may set.
pub use syntha_mesh;
/// The storage contract, which is checked.
pub use syntha_store;
