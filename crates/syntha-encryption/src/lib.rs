#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod hygiene;
mod kek;
mod key_file;
mod passphrase;
mod provider;
mod raw;
mod secret;
pub mod stream;
#[cfg(feature = "vault")]
mod vault;

pub use hygiene::harden_process;
pub use kek::{Kek, LocalKek};
pub use key_file::make_key_file;
pub use passphrase::PassphraseParameters;
pub use provider::{KekId, KeyContext, KeyProvider, MAX_SECRET, What, Wrapped};
pub use secret::{SecretBytes, SecretKey};
#[cfg(feature = "vault")]
pub use vault::{VaultTransit, VaultTransitBuilder};
