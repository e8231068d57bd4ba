#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod binding;
pub mod envelope;
mod kek;
mod key_file;
pub mod padding;
mod passphrase;
mod provider;
mod raw;
mod secret;
pub mod stream;
mod subkeys;

pub use kek::{Kek, LocalKek};
pub use key_file::make_key_file;
pub use passphrase::PassphraseParameters;
pub use provider::{KekId, KeyContext, KeyProvider, MAX_SECRET, What, Wrapped};
pub use secret::{SecretBytes, SecretKey};
pub use subkeys::{DataKey, Purpose, Root};
