#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod archives;
mod artefact;
mod binding;
mod census;
mod details;
pub mod envelope;
#[cfg(feature = "faults")]
mod fault;
mod held;
mod holders;
mod hygiene;
pub mod inventory;
mod kek;
mod key_file;
mod keychain;
mod keyring;
mod keystore;
mod mode;
mod note;
pub mod padding;
mod passphrase;
mod provider;
mod record;
mod rewrap;
mod roster;
mod rotation;
mod rows;
mod secret;
mod snapshots;
mod store;
pub mod stream;
mod subkeys;
#[cfg(test)]
mod tests;
mod user_store;
#[cfg(feature = "vault")]
mod vault;

#[cfg(feature = "faults")]
pub use fault::Fault;

pub use archives::UserArchives;
pub use artefact::{open_artefact, restore_keys};
pub use census::Census;
pub use hygiene::harden_process;
pub use kek::{Kek, LocalKek};
pub use key_file::make_key_file;
pub use keychain::Keychain;
pub use keyring::KeyCache;
pub use keystore::Keystore;
pub use mode::Mode;
pub use passphrase::PassphraseParameters;
pub use provider::{KekId, KeyContext, KeyProvider, MAX_SECRET, What, Wrapped};
pub use rewrap::{Rewrap, RewrapStatus, Rewrapped};
pub use rotation::{KeyStatus, Owner, Progress, Rotated};
pub use rows::{Row, RowReader, RowWriter};
pub use secret::{SecretBytes, SecretKey};
pub use store::EncryptedStore;
pub use subkeys::{DataKey, Purpose, Root};
/// The storage contract, which this crate implements over any store.
pub use syntha_store;
#[cfg(feature = "vault")]
pub use vault::{VaultTransit, VaultTransitBuilder};
