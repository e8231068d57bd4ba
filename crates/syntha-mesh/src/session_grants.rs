use std::fmt;
use std::ops::BitOr;

/// What the handles of a session may do, whoever they are for: a closed set. Given with [`Guard::with_grants`](crate::Guard::with_grants).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SessionGrants(u8);

impl SessionGrants {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Read entries, threads and lists, and watch.
    pub const READ: Self = Self(1);
    /// Push, append, subscribe, import.
    pub const WRITE: Self = Self(2);
    /// Make agents, and change what agents may do.
    pub const CREATE_AGENTS: Self = Self(4);
    /// Export the whole mesh.
    pub const EXPORT: Self = Self(8);
    /// Remove entries, messages, threads, topics and agents.
    pub const DELETE: Self = Self(16);
    /// Everything: what a session has that was given no grants.
    pub const ALL: Self = Self(31);

    /// Whether all of these are in it.
    #[must_use]
    pub const fn has(self, all: Self) -> bool {
        self.0 & all.0 == all.0
    }

    /// What is in both.
    #[must_use]
    pub const fn common(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl BitOr for SessionGrants {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Debug for SessionGrants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = ["read", "write", "create-agents", "export", "delete"];
        let set = names.iter().enumerate().filter(|(bit, _)| self.0 >> bit & 1 == 1).map(|(_, name)| name);
        f.debug_set().entries(set).finish()
    }
}
