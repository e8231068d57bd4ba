#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod background;
mod cursor;
mod digests;
mod export;
#[cfg(feature = "faults")]
mod fault;
mod file_sink;
mod hub;
mod import;
mod index;
mod keeper;
mod kept_index;
pub mod leaf;
pub mod link;
mod lives;
mod log;
mod lost_key;
mod refusals;
pub mod replay;
mod retention;
mod run;
mod shipping;
mod signer;
mod signer_file;
mod signer_keys;
mod sink;
mod size;
mod store;
pub mod trail;
mod user_store;
pub mod verify;
#[cfg(feature = "webhook")]
mod webhook_sink;

#[cfg(feature = "faults")]
pub use fault::Fault;

pub use background::Background;
pub use cursor::SinkMemory;
pub use digests::KEY_BYTES;
pub use export::{ExportReport, Whose};
pub use file_sink::FileSink;
pub use hub::Backlog;
pub use keeper::Shipped;
pub use log::{Checkpoint, Opened};
pub use refusals::Refusals;
pub use retention::Pruned;
pub use signer::{IndexKey, MemorySigner, Signer, SigningTurn, TreeHead, origin};
pub use signer_file::FileSigner;
pub use signer_keys::SignerKeys;
#[cfg(feature = "tracing")]
pub use sink::TracingSink;
pub use sink::{AuditSink, Behaviour, DELIVERY_DEADLINE, Delivery, MemorySink, SinkError};
pub use size::TrailSize;
pub use store::AuditedStore;
/// The storage contract that the trail is kept over.
pub use syntha_store;
#[cfg(feature = "webhook")]
pub use webhook_sink::{WebhookSink, WebhookSinkBuilder};
