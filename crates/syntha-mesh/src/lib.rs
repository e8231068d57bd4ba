#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod agent;
mod backlog;
mod bounds;
mod change;
mod config;
mod core;
mod decision;
mod destruction;
mod draft;
mod ending;
mod entry;
mod error;
mod events;
mod export;
mod fault;
mod grant;
mod guard;
mod history;
mod history_draft;
mod import;
mod index;
mod interactions;
mod json;
mod life;
mod limit_calls;
mod limit_draft;
mod limits;
mod listing;
mod load;
mod memory;
mod mesh;
mod message;
mod meters;
mod names;
mod narrow;
mod pacing;
mod permissions;
mod permit;
mod push;
mod readable;
mod reading;
mod removal_draft;
mod request;
mod role;
mod roster;
mod session_grants;
mod standing;
mod thread;
mod topic_uses;
mod trail;
mod undo;
mod undo_draft;
mod undo_lookup;
mod undo_record;
mod watch;
mod watchers;
mod writer;

pub use agent::Agent;
pub use bounds::Seat;
pub use change::{Expected, Subscriptions, SweepReport, TopicDeleted};
pub use config::MeshConfig;
pub use decision::{Act, Decision, Resource};
pub use destruction::{Confirmation, Destruction};
pub use entry::{Audience, Entry};
pub use error::{Error, ErrorKind, Result};
pub use export::Exported;
#[cfg(feature = "faults")]
pub use fault::Fault;
pub use grant::{Grant, Scope};
pub use guard::{Guard, Lapsed, Revoker, Standing};
pub use history::MessagePage;
pub use import::{ChatReport, ImportError, ImportReport};
pub use interactions::{Action, Interaction, InteractionLog};
pub use limit_calls::{KeptLimits, Tally};
pub use limits::{Exceeded, Limit, LimitUsage, ResourceLimits, UsageReport, UserLimits};
pub use listing::{Filter, Stats, TopicInfo};
pub use memory::CacheBudget;
pub use mesh::{Hold, Mesh, Opening};
pub use message::{HistoryMessage, Message, MessageRole};
pub use names::{
    AgentName, EntryKey, KeyPrefix, MessageId, OperationId, PlanName, RoleName, ThreadId, Topic,
};
pub use narrow::Narrow;
pub use permissions::Permissions;
pub use permit::AgentPermissions;
pub use push::{Batch, Push, Pushed};
pub use role::{AgentRole, CustomRole, Role};
pub use session_grants::SessionGrants;
pub use syntha_store::{Clock, ManualClock, SystemClock};
pub use thread::{Appended, Thread, ThreadInfo};
pub use trail::{AUDIT_WAITING_MOST, AuditPolicy};
pub use undo::{
    Deed, UNDO_WINDOW_MOST, UndoId, UndoKey, UndoOverwrites, UndoPage, UndoState, Undoable, Undone,
};
pub use watch::{Watch, WatchConfig, WatchEvent};

/// The storage contract, whose stores a mesh is opened on.
pub use syntha_store;
