#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod binding;
pub mod envelope;
pub mod padding;
mod secret;
mod subkeys;

pub use secret::{SecretBytes, SecretKey};
pub use subkeys::{DataKey, Purpose, Root};
