use std::fmt;
use std::ops::BitOr;
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};

/// What an account, a session or a token may do with the user's data. A closed set; what it means is decided where it is asked for.
///
/// None of them reaches another user's data or the deployment: that takes the host's own authority, which nobody logs in to.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Scopes(u8);

const NAMES: [(Scopes, &str); 5] = [
    (Scopes::READ, "read"),
    (Scopes::WRITE, "write"),
    (Scopes::CREATE_AGENTS, "create-agents"),
    (Scopes::EXPORT, "export"),
    (Scopes::DELETE, "delete"),
];

impl Scopes {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Read what the agent or user may see.
    pub const READ: Self = Self(1);
    /// Write entries and messages.
    pub const WRITE: Self = Self(1 << 1);
    /// Register agents, and say what they may do.
    pub const CREATE_AGENTS: Self = Self(1 << 2);
    /// Take the user's data out as a whole.
    pub const EXPORT: Self = Self(1 << 3);
    /// Delete topics, threads or everything.
    pub const DELETE: Self = Self(1 << 4);
    /// All of them.
    pub const ALL: Self = Self(0b1_1111);

    /// Whether it holds all of another set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// What is in both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether nothing is in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The stored number: 1 read, 2 write, 4 create agents, 8 export, 16 delete.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// The names of what is in it, in a fixed order.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        NAMES.into_iter().filter(move |(scope, _)| self.contains(*scope)).map(|(_, name)| name)
    }

    /// A stored number. One that this build does not know is refused, not cut.
    pub(crate) const fn stored(bits: u8) -> Result<Self> {
        if bits & !Self::ALL.0 != 0 {
            return Err(Error::unsupported());
        }
        Ok(Self(bits))
    }
}

impl BitOr for Scopes {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The names, joined by commas.
impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names().collect::<Vec<_>>().join(","))
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Scopes({self})")
    }
}

/// Names joined by commas; the empty text is nothing.
impl FromStr for Scopes {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        text.split(',').filter(|name| !name.is_empty()).try_fold(Self::NONE, |scopes, name| {
            let known = NAMES.into_iter().find(|(_, known)| *known == name);
            let (scope, _) = known.ok_or_else(|| {
                let message = "a scope is one of read, write, create-agents, export, delete";
                Error::new(ErrorKind::Invalid, message)
            })?;
            Ok(scopes | scope)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_fixed() {
        let table: Vec<_> = NAMES.iter().map(|(scope, name)| (scope.bits(), *name)).collect();
        assert_eq!(table, [(1, "read"), (2, "write"), (4, "create-agents"), (8, "export"), (16, "delete")]);
        for bits in 0..=Scopes::ALL.bits() {
            let scopes = Scopes::stored(bits).unwrap();
            assert_eq!(scopes.to_string().parse::<Scopes>().unwrap(), scopes);
        }
        assert_eq!(Scopes::stored(32).unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!("read,admin".parse::<Scopes>().unwrap_err().kind(), ErrorKind::Invalid);
    }

    #[test]
    fn a_narrower_set_never_holds_more() {
        for a in 0..32 {
            for b in 0..32 {
                let (a, b) = (Scopes(a), Scopes(b));
                assert!(a.contains(a.and(b)) && b.contains(a.and(b)));
            }
        }
    }
}
