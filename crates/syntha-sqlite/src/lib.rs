#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]

mod backup;
mod bell;
mod change_log;
mod config;
mod connections;
mod error;
mod files;
mod handle;
mod image;
mod links;
mod lives;
mod meters;
mod plan;
mod schema;
mod store;
mod transaction;
mod user_store;

#[cfg(feature = "faults")]
pub use config::Fault;
pub use config::{KeyPlace, Mode, SqliteConfig, Synchronous};
pub use files::key_place;
pub use store::{FolderLock, SqliteStore, Turn};

/// The storage contract, which this crate implements.
pub use syntha_store;
