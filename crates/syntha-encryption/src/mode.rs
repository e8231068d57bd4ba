use std::fmt;
use std::str::FromStr;

use syntha_store::{Error, ErrorKind};

/// How much of what a user wrote is hidden from who can read the storage. A deployment has one mode, for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mode {
    /// Everything: names are keyed hashes, heads and bodies are sealed, sizes are padded, expiries are rounded up to a minute.
    #[default]
    Sealed,
    /// Bodies. Names and heads are readable, for operators who query them, and bound to what they stand beside.
    Values,
}

impl Mode {
    /// A fixed, lower-case name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sealed => "sealed",
            Self::Values => "values",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Mode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        [Self::Sealed, Self::Values]
            .into_iter()
            .find(|mode| mode.name() == text)
            .ok_or_else(|| Error::new(ErrorKind::Unsupported, "the mode is `sealed` or `values`"))
    }
}
