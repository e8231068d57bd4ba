#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
compile_error!(
    "Syntha runs on Linux and macOS: its file permissions and locks are not written for other systems"
);

pub mod archive;
mod batch;
mod clock;
mod error;
mod event;
mod fair;
mod image;
mod keyspace;
mod memory;
pub mod name;
mod record;
mod state;
mod store;
mod user;

pub use batch::{
    BATCH_BYTES, BATCH_OPS, Batch, BatchId, Expect, HEAD_BYTES, OUTCOMES_KEPT, Op, SEALED_BATCH_BYTES,
    SEALED_HEAD_BYTES, UNSEALED_NOTE_BYTES,
};
pub use clock::{Clock, ManualClock, SystemClock};
pub use error::{Error, ErrorKind, Result, Retry, TrailFull};
pub use event::{
    Action, EVENT_BYTES, EVENTS_BYTES, Event, Events, Rule, Subject, Verdict, decode_events, encode_events,
};
#[cfg(feature = "faults")]
pub use fair::FairFault;
pub use fair::{Acquire, FairConfig, FairKey, FairLoad, FairPermit, FairQueue, OwnerGroups};
pub use image::{Image, Step};
pub use keyspace::{Keyspace, Writer};
pub use memory::MemoryStore;
pub use record::{Body, Head, NAME_BYTES, Record, RecordId, StoredRecord};
pub use state::{
    ChainHead, Epoch, Fence, Incarnation, NOTE_BYTES, Note, Stamp, Timestamp, Usage, UserState, Version,
};
pub use store::{
    At, Capabilities, Changes, Commit, CreateMode, Delta, EPOCH_JUMP, Erased, ImportMode, Outcome, Page,
    Scan, SelfCheck, Snapshot, Store, UserStore, Want,
};
pub use user::{DEPLOYMENT_OWNER, DeploymentKey, KeyFingerprint, UserId, UserTag};
