use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use syntha_store::name;

use crate::error::{Error, ErrorKind};

macro_rules! name_type {
    ($(#[$doc:meta])* $type:ident, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            /// Parses a name.
            ///
            /// # Errors
            ///
            /// `Invalid`, with the rule that the text breaks as its source.
            pub fn new(text: impl AsRef<str>) -> Result<Self, Error> {
                let text = text.as_ref();
                $check(text).map_err(|rule| Error::new(ErrorKind::Invalid, rule.message()).with_source(rule))?;
                Ok(Self(text.into()))
            }

            /// The name's text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            #[allow(dead_code, reason = "an operation id is never shared with the index")]
            pub(crate) const fn shared(&self) -> &Arc<str> {
                &self.0
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($type), "(..)"))
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<&str> for $type {
            type Error = Error;

            fn try_from(text: &str) -> Result<Self, Error> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $type {
            type Error = Error;

            fn try_from(text: String) -> Result<Self, Error> {
                Self::new(text)
            }
        }

        impl TryFrom<&String> for $type {
            type Error = Error;

            fn try_from(text: &String) -> Result<Self, Error> {
                Self::new(text)
            }
        }

        impl From<&$type> for $type {
            fn from(name: &$type) -> Self {
                name.clone()
            }
        }
    };
}

name_type! {
    /// The key of an entry: 1 to 256 bytes of NFC text without control characters. `Debug` hides it.
    EntryKey, name::check
}
name_type! {
    /// A topic: 1 to 256 bytes of NFC text without control characters. `Debug` hides it.
    Topic, name::check
}
name_type! {
    /// An agent's name: 1 to 256 bytes of NFC text with nothing invisible in it. `Debug` hides it.
    AgentName, name::check_actor
}
name_type! {
    /// The caller's id of an operation, so that a retry does not write twice: 1 to 128 bytes. `Debug` hides it.
    OperationId, check_operation
}
name_type! {
    /// The name of a thread: 1 to 256 bytes of NFC text without control characters. `Debug` hides it.
    ThreadId, name::check
}
name_type! {
    /// The caller's id of a message, so that it is not appended twice: 1 to 128 bytes. `Debug` hides it.
    MessageId, check_operation
}

name_type! {
    /// What keys start with: 0 to 256 bytes of NFC text without control characters. The empty one is of every key; `notes` is of
    /// `notebook` too, `notes/` is not. `Debug` hides it.
    KeyPrefix, check_prefix
}
name_type! {
    /// The name of a role of the host's own: 1 to 64 bytes of NFC text with nothing invisible in it. `Debug` hides it.
    RoleName, check_role
}
name_type! {
    /// The name of a plan, which stands for limits that the host chose: 1 to 64 bytes of NFC text with nothing invisible in it.
    /// `Debug` hides it.
    PlanName, check_role
}

fn check_prefix(text: &str) -> Result<(), name::NameError> {
    if text.is_empty() { Ok(()) } else { name::check(text) }
}

fn check_role(text: &str) -> Result<(), name::NameError> {
    if text.len() > 64 { Err(name::NameError::TooLong) } else { name::check_actor(text) }
}

fn check_operation(text: &str) -> Result<(), name::NameError> {
    if text.len() > 128 { Err(name::NameError::TooLong) } else { name::check(text) }
}
