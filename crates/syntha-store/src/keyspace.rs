use std::fmt;

use crate::error::{Error, ErrorKind, Result};

/// A user's records are kept in separate spaces by what they are for. The set is closed.
///
/// The codes are part of every on-disk format and never change.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum Keyspace {
    /// Facts about the user's mesh itself.
    Meta = 1,
    /// Context entries.
    Context = 2,
    /// Agents: incarnation, subscriptions, permissions.
    Agents = 3,
    /// Messages of the conversation history. Paged from the store, never held whole in memory.
    History = 4,
    /// The audit chain. Written below the mesh; a batch of it raises no epoch.
    Audit = 5,
    /// Ids of operations that were done, so that a retry does not write twice.
    Operations = 6,
    /// The deployment's directory of users. Only in the deployment's own space.
    Directory = 7,
    /// The deployment's ledger of erasures. Only in the deployment's own space.
    Ledger = 8,
    /// Threads of the history: who may see each, and what its messages add up to.
    Threads = 9,
    /// Ids of messages, so that the same message is not appended twice.
    MessageIds = 10,
    /// What agents did, for an application to show to its user.
    Interactions = 11,
    /// Wrapped keys. Only in the own space of a keystore, which lies apart from the data.
    Keys = 12,
    /// Who may log in: accounts with their rights and password hashes. In a space that is nobody's data.
    Accounts = 13,
    /// Hashes of access tokens. In a space that is nobody's data.
    Tokens = 14,
    /// Hashes of session ids. In a space that is nobody's data.
    Sessions = 15,
    /// How often logins failed, in a table of fixed size. In a space that is nobody's data.
    Throttle = 16,
    /// What agents removed, until the host can no longer undo it. Never held in memory, and in no view of an agent's.
    Undo = 17,
}

/// Which layer may write a keyspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Writer {
    /// The mesh's writer.
    Mesh,
    /// The audit layer.
    Audit,
    /// The user manager, in the deployment's own space.
    Manager,
    /// The identity layer, in the deployment's own space or in spaces of its own.
    Identity,
}

struct Policy {
    space: Keyspace,
    name: &'static str,
    /// Whether the mesh holds the heads in memory.
    indexed: bool,
    writer: Writer,
}

/// The one inventory of keyspaces: what a layer below or above must know about each.
const POLICY: &[Policy] = &[
    Policy { space: Keyspace::Meta, name: "meta", indexed: true, writer: Writer::Mesh },
    Policy { space: Keyspace::Context, name: "context", indexed: true, writer: Writer::Mesh },
    Policy { space: Keyspace::Agents, name: "agents", indexed: true, writer: Writer::Mesh },
    Policy { space: Keyspace::History, name: "history", indexed: false, writer: Writer::Mesh },
    Policy { space: Keyspace::Audit, name: "audit", indexed: false, writer: Writer::Audit },
    Policy { space: Keyspace::Operations, name: "operations", indexed: true, writer: Writer::Mesh },
    Policy { space: Keyspace::Directory, name: "directory", indexed: false, writer: Writer::Manager },
    Policy { space: Keyspace::Ledger, name: "ledger", indexed: false, writer: Writer::Manager },
    Policy { space: Keyspace::Threads, name: "threads", indexed: false, writer: Writer::Mesh },
    Policy { space: Keyspace::MessageIds, name: "message-ids", indexed: false, writer: Writer::Mesh },
    Policy { space: Keyspace::Interactions, name: "interactions", indexed: false, writer: Writer::Mesh },
    Policy { space: Keyspace::Keys, name: "keys", indexed: false, writer: Writer::Manager },
    Policy { space: Keyspace::Accounts, name: "accounts", indexed: false, writer: Writer::Identity },
    Policy { space: Keyspace::Tokens, name: "tokens", indexed: false, writer: Writer::Identity },
    Policy { space: Keyspace::Sessions, name: "sessions", indexed: false, writer: Writer::Identity },
    Policy { space: Keyspace::Throttle, name: "throttle", indexed: false, writer: Writer::Identity },
    Policy { space: Keyspace::Undo, name: "undo", indexed: false, writer: Writer::Mesh },
];

impl Keyspace {
    /// How many there are. Their codes are the numbers from 1 to this.
    pub const COUNT: usize = POLICY.len();

    /// Every keyspace, by code.
    pub fn all() -> impl Iterator<Item = Self> {
        POLICY.iter().map(|policy| policy.space)
    }

    /// The stored code.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The keyspace of a stored code.
    ///
    /// # Errors
    ///
    /// `Unsupported` for a code that this build does not know: a newer build wrote it.
    pub fn from_code(code: u8) -> Result<Self> {
        Self::all().find(|space| space.code() == code).ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                "the data holds a keyspace that this build does not know, upgrade",
            )
        })
    }

    /// A fixed, lower-case name.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.policy().map_or("unknown", |policy| policy.name)
    }

    /// Whether the mesh holds this keyspace's heads in memory.
    #[must_use]
    pub fn is_indexed(self) -> bool {
        self.policy().is_some_and(|policy| policy.indexed)
    }

    /// Which layer writes this keyspace.
    #[must_use]
    pub fn writer(self) -> Writer {
        self.policy().map_or(Writer::Audit, |policy| policy.writer)
    }

    fn policy(self) -> Option<&'static Policy> {
        POLICY.iter().find(|policy| policy.space == self)
    }
}

impl fmt::Debug for Keyspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_are_fixed() {
        let table: Vec<_> = Keyspace::all().map(|space| (space.code(), space.name())).collect();
        assert_eq!(
            table,
            [
                (1, "meta"),
                (2, "context"),
                (3, "agents"),
                (4, "history"),
                (5, "audit"),
                (6, "operations"),
                (7, "directory"),
                (8, "ledger"),
                (9, "threads"),
                (10, "message-ids"),
                (11, "interactions"),
                (12, "keys"),
                (13, "accounts"),
                (14, "tokens"),
                (15, "sessions"),
                (16, "throttle"),
                (17, "undo")
            ]
        );
        assert_eq!(table.len(), Keyspace::COUNT);
        for space in Keyspace::all() {
            assert_eq!(Keyspace::from_code(space.code()).unwrap(), space);
        }
        assert_eq!(Keyspace::from_code(0).unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(Keyspace::from_code(18).unwrap_err().kind(), ErrorKind::Unsupported);
    }
}
