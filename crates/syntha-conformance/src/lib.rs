#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a check fails by panicking"
)]

#[cfg(feature = "audit")]
mod audit;
#[cfg(feature = "audit")]
mod audited;
pub mod broken;
#[cfg(feature = "postgres")]
mod broken_postgres;
#[cfg(feature = "encryption")]
mod encrypted;
mod harness;
mod mesh;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod one_of_two;
#[cfg(feature = "postgres")]
mod postgres;
mod report;
#[cfg(feature = "encryption")]
mod sealed;
#[cfg(feature = "encryption")]
mod sealed_rotation;
#[cfg(feature = "sqlite")]
mod sqlite;
mod store;

#[cfg(feature = "audit")]
pub use audit::audit_checks;
#[cfg(feature = "audit")]
pub use audited::AuditedHarness;
#[cfg(feature = "encryption")]
pub use encrypted::EncryptedHarness;
pub use harness::{Bed, Check, Harness, Instance, MemoryHarness, run, run_with};
pub use mesh::mesh_checks;
#[cfg(feature = "postgres")]
pub use postgres::{PooledPostgresHarness, PostgresFault, PostgresHarness};
pub use report::{Report, Row};
#[cfg(feature = "encryption")]
pub use sealed::sealed_checks;
#[cfg(feature = "encryption")]
pub use sealed_rotation::{RotationCheck, rotation_checks, run_rotation};
#[cfg(feature = "sqlite")]
pub use sqlite::{SharedSqliteHarness, SqliteHarness};
pub use store::store_checks;

/// The audit layer, whose faults a run may set.
#[cfg(feature = "audit")]
pub use syntha_audit;
/// The encryption layer, whose mode and faults a run may set.
#[cfg(feature = "encryption")]
pub use syntha_encryption;
/// The mesh, whose configuration a run may set.
pub use syntha_mesh;
/// The PostgreSQL backend, whose mode a run may set.
#[cfg(feature = "postgres")]
pub use syntha_postgres;
/// The storage contract, which is checked.
pub use syntha_store;
