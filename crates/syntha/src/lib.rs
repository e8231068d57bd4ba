#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

#[cfg(feature = "identity")]
mod accounts;
#[cfg(feature = "audit")]
mod audit;
#[cfg(feature = "audit")]
mod audit_trail;
#[cfg(all(feature = "encryption", feature = "sqlite"))]
mod backup;
mod context_mesh;
#[cfg(feature = "postgres")]
mod database;
#[cfg(all(feature = "encryption", feature = "postgres"))]
mod database_recovery;
mod deployment;
mod directory;
#[cfg(feature = "encryption")]
mod encryption;
mod erasure;
mod error;
mod fairness;
#[cfg(any(feature = "encryption", feature = "audit", feature = "postgres"))]
#[cfg_attr(
    not(all(feature = "sqlite", feature = "encryption")),
    allow(dead_code, reason = "a build without some layers needs some only")
)]
mod files;
mod gated;
#[cfg(feature = "identity")]
mod identity;
mod incoming;
mod keeper;
#[cfg(feature = "encryption")]
mod keys_admin;
mod layers;
#[cfg(feature = "identity")]
mod logins;
mod manager;
#[cfg(all(feature = "encryption", feature = "sqlite"))]
mod migration;
mod newborn;
mod notes;
#[cfg(all(feature = "encryption", feature = "sqlite"))]
mod old_trail;
mod outgoing;
#[cfg(all(feature = "encryption", feature = "sqlite"))]
mod recovery;
mod registry;
mod reserved;
mod restoring;
#[cfg(feature = "encryption")]
mod sealed_export;
mod session;
mod shutdown;
mod sweeper;
#[cfg(feature = "postgres")]
mod turn_lock;
mod turns;

#[cfg(feature = "identity")]
pub use accounts::Accounts;
#[cfg(feature = "audit")]
pub use audit::{Audit, default_audit_key_file};
#[cfg(feature = "audit")]
pub use audit_trail::{AuditEntry, AuditPage, AuditQuery, AuditReport, AuditScope, AuditTrail};
#[cfg(all(feature = "encryption", feature = "sqlite"))]
pub use backup::{BackupReport, SkipReason, SkippedUser, UserProgress};
pub use context_mesh::ContextMesh;
#[cfg(feature = "postgres")]
pub use database::{Postgres, PostgresOwner};
#[cfg(all(feature = "encryption", feature = "postgres"))]
pub use database_recovery::{restore_all_postgres, seal_backup_into_postgres};
pub use directory::UserEntry;
#[cfg(feature = "encryption")]
pub use encryption::Encryption;
pub use erasure::Erasure;
pub use error::{Error, ErrorKind, Result};
pub use fairness::Fairness;
#[cfg(feature = "encryption")]
pub use keys_admin::RotatedAll;
#[cfg(all(feature = "sqlite", feature = "encryption"))]
pub use keys_admin::{default_key_file, default_keystore};
#[cfg(feature = "identity")]
pub use logins::LoggedIn;
pub use manager::{Builder, HostAuthority, Restore, Totals, UserManager};
#[cfg(all(feature = "encryption", feature = "sqlite"))]
pub use migration::{Migration, MigrationReport, seal_folder, unseal_folder};
#[cfg(all(feature = "encryption", feature = "sqlite"))]
pub use recovery::{RestoreReport, restore_all, restore_keys};
#[cfg(feature = "encryption")]
pub use sealed_export::open_export;
pub use session::Session;
pub use shutdown::Shutdown;
/// An error of a mesh's calls, for applications that turn it into something of their own.
pub use syntha_mesh::Error as MeshError;
pub use syntha_mesh::{
    Act, AgentPermissions, AgentRole, Confirmation, CustomRole, Decision, Destruction, Grant, KeyPrefix,
    Narrow, Resource, RoleName, Scope, SessionGrants,
};
pub use syntha_mesh::{
    Action, Agent, AgentName, Appended, Audience, AuditPolicy, Batch, ChatReport, Clock, Entry, EntryKey,
    ErrorKind as MeshErrorKind, Expected, Exported, Filter, HistoryMessage, ImportError, ImportReport,
    Interaction, InteractionLog, ManualClock, Mesh, MeshConfig, Message, MessageId, MessagePage, MessageRole,
    OperationId, Push, Pushed, Stats, Subscriptions, SweepReport, SystemClock, Thread, ThreadId, ThreadInfo,
    Topic, TopicDeleted, TopicInfo, Watch, WatchConfig, WatchEvent,
};
pub use syntha_mesh::{
    Deed, UNDO_WINDOW_MOST, UndoId, UndoKey, UndoOverwrites, UndoPage, UndoState, Undoable, Undone,
};
pub use syntha_mesh::{Exceeded, Limit, LimitUsage, PlanName, ResourceLimits, Seat, UsageReport, UserLimits};
pub use syntha_store::archive::ArchiveInfo;
#[cfg(feature = "audit")]
pub use syntha_store::{
    Action as AuditAction, Event as AuditEvent, Rule as AuditRule, Verdict as AuditVerdict,
};
pub use syntha_store::{Rule, Timestamp, UserId, UserTag, Version};
pub use syntha_tools::{
    Access, AgentTools, BuiltPrompt, ErrorKind as ToolErrorKind, HostTool, HybridHandler, Level, Placement,
    Prompt, Role, ToolHandler,
};

/// Accounts, passwords, tokens and sessions.
#[cfg(feature = "identity")]
pub use syntha_identity as identity_layer;
#[cfg(feature = "identity")]
pub use syntha_identity::{
    Account, AccountCursor, AccountPage, Factor, HashingCost, HashingLoad, IdentityConfig, IdentityEvent,
    Password, Scopes, Secret, SecretId, SecretInfo, SecretKind, SessionRequest, Source, TokenRequest,
};

/// The mesh layer, for hosts that open meshes over a store of their own.
pub use syntha_mesh as mesh;

/// The storage contract, for backends and layers of your own.
pub use syntha_store as store;

/// The audit layer: the trail, its signers and sinks, and the verifier.
#[cfg(feature = "audit")]
pub use syntha_audit as trail;

/// The encryption layer: keys, and what holds them.
#[cfg(feature = "encryption")]
pub use syntha_encryption as keys;
#[cfg(feature = "encryption")]
pub use syntha_encryption::{Kek, KeyCache, Mode as SealingMode, SecretBytes, SecretKey};

/// The PostgreSQL backend, to configure it.
#[cfg(feature = "postgres")]
pub use syntha_postgres as postgres;

/// The SQLite backend, to configure it.
#[cfg(feature = "sqlite")]
pub use syntha_sqlite as sqlite;

/// The tools that a language model is offered.
pub use syntha_tools as tools;
