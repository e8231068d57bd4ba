#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod digests;
#[cfg(feature = "faults")]
mod fault;
mod hub;
mod import;
pub mod leaf;
pub mod link;
pub mod replay;
mod store;
pub mod trail;
mod user_store;
pub mod verify;

#[cfg(feature = "faults")]
pub use fault::Fault;

pub use digests::KEY_BYTES;
pub use store::AuditedStore;
/// The storage contract that the trail is kept over.
pub use syntha_store;
