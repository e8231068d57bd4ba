#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod accounts;
mod base62;
mod clock;
mod config;
mod error;
mod events;
mod fault;
mod hasher;
mod identity;
mod lease;
mod login;
mod password;
mod rows;
#[cfg(doctest)]
mod ruled_out;
mod scopes;
mod secret;
mod sessions;
mod spaces;
mod throttle;
mod tokens;

pub use accounts::{Account, AccountCursor, AccountPage, Accounts};
pub use config::IdentityConfig;
pub use error::{Error, ErrorKind, Result};
pub use events::{IdentityAction, IdentityEvent, Reason};
#[cfg(feature = "faults")]
pub use fault::Fault;
pub use hasher::{HashingCost, HashingLoad};
pub use identity::Identity;
pub use lease::Lease;
pub use password::{Factor, PASSWORD_BYTES, Password};
pub use scopes::Scopes;
pub use secret::{Secret, SecretId, SecretKind};
pub use sessions::{Opened, SESSIONS_MOST, SessionRequest, Sessions};
/// The storage contract that accounts are kept over.
pub use syntha_store;
pub use syntha_store::{Clock, ManualClock, SystemClock};
pub use throttle::Source;
pub use tokens::{SecretInfo, TOKENS_MOST, TokenRequest, Tokens};
