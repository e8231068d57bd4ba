#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod agent;
mod change;
mod clock;
mod config;
mod core;
mod draft;
mod entry;
mod error;
mod fault;
mod guard;
mod index;
mod life;
mod listing;
mod mesh;
mod names;
mod push;
mod roster;
mod writer;

pub use agent::Agent;
pub use change::{Expected, Subscriptions, SweepReport, TopicDeleted};
pub use clock::{Clock, ManualClock, SystemClock};
pub use config::MeshConfig;
pub use entry::{Audience, Entry};
pub use error::{Error, ErrorKind, Result};
#[cfg(feature = "faults")]
pub use fault::Fault;
pub use guard::{Guard, Revoker};
pub use listing::{Filter, Stats, TopicInfo};
pub use mesh::Mesh;
pub use names::{AgentName, EntryKey, OperationId, Topic};
pub use push::{Batch, Push, Pushed};

/// The storage contract, whose stores a mesh is opened on.
pub use syntha_store;
