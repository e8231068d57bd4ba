#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]

mod config;
mod connections;
mod error;
mod install;
mod meters;
mod migrate;
mod notices;
mod plan;
mod pooler;
mod rows;
mod snapshot;
mod statement;
mod store;
#[cfg(feature = "testing")]
pub mod testing;
mod user_store;
mod verify;

#[cfg(feature = "faults")]
pub use config::Fault;
pub use config::{Mode, PostgresConfig, Statements};
pub use install::{InstallConfig, install};
pub use migrate::{Migrated, Versions, migrate, versions};
pub use store::PostgresStore;

/// The storage contract, which this crate implements.
pub use syntha_store;
