#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod agent;
mod backlog;
mod change;
mod clock;
mod config;
mod core;
mod draft;
mod entry;
mod error;
mod events;
mod export;
mod fault;
mod guard;
mod history;
mod history_draft;
mod import;
mod index;
mod interactions;
mod life;
mod listing;
mod load;
mod mesh;
mod message;
mod meters;
mod names;
mod permissions;
mod push;
mod readable;
mod reading;
mod roster;
mod thread;
mod trail;
mod watch;
mod watchers;
mod writer;

pub use agent::Agent;
pub use change::{Expected, Subscriptions, SweepReport, TopicDeleted};
pub use clock::{Clock, ManualClock, SystemClock};
pub use config::MeshConfig;
pub use entry::{Audience, Entry};
pub use error::{Error, ErrorKind, Result};
pub use export::Exported;
#[cfg(feature = "faults")]
pub use fault::Fault;
pub use guard::{Guard, Revoker};
pub use history::MessagePage;
pub use import::{ChatReport, ImportError, ImportReport};
pub use interactions::{Action, Interaction, InteractionLog};
pub use listing::{Filter, Stats, TopicInfo};
pub use mesh::{Mesh, Opening};
pub use message::{HistoryMessage, Message, MessageRole};
pub use names::{AgentName, EntryKey, MessageId, OperationId, ThreadId, Topic};
pub use permissions::Permissions;
pub use push::{Batch, Push, Pushed};
pub use thread::{Appended, Thread, ThreadInfo};
pub use trail::{AUDIT_WAITING_MOST, AuditPolicy};
pub use watch::{Watch, WatchConfig, WatchEvent};

/// The storage contract, whose stores a mesh is opened on.
pub use syntha_store;
