//! What wraps keys, and how a wrapped key is written down.

use std::fmt;

use async_trait::async_trait;
use syntha_store::{Error, ErrorKind, Result};

use crate::SecretBytes;

/// The most bytes of a secret that a provider wraps.
pub const MAX_SECRET: usize = 4096;
/// The most bytes of a wrapped secret.
const MAX_BLOB: usize = 8192;
const WRAPPED_VERSION: u8 = 1;

/// Who a wrapped key belongs to; authenticated by every provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyContext {
    /// The deployment's id.
    pub deployment: [u8; 16],
    /// The owner's tag, zeros for the deployment itself.
    pub owner: [u8; 32],
    /// What is wrapped.
    pub what: What,
    /// The life of the owner that the key belongs to, 0 if it belongs to all.
    pub life: u128,
    /// The epoch of the key, 0 if it has none.
    pub epoch: u32,
}

/// What a wrapped key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum What {
    /// The root of a user's keys.
    Root,
    /// A key of a user's data.
    Dek,
    /// A known value, to tell the right key from a wrong one.
    Check,
    /// The key that users' tags are made with.
    DeploymentKey,
    /// The key of one sealed stream.
    Artefact,
}

impl What {
    /// The name that is authenticated.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Dek => "dek",
            Self::Check => "check",
            Self::DeploymentKey => "deployment-key",
            Self::Artefact => "artefact",
        }
    }
}

impl KeyContext {
    /// One encoding of every context, no two of which are the same: each field's length (4 bytes, most significant
    /// first) and its bytes, in the order of the fields, with the name of [`What`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (life, epoch) = (self.life.to_be_bytes(), self.epoch.to_be_bytes());
        let fields: [&[u8]; 5] = [&self.deployment, &self.owner, self.what.name().as_bytes(), &life, &epoch];
        let mut bytes = Vec::with_capacity(128);
        for field in fields {
            // The longest has 32 bytes.
            bytes.extend_from_slice(&[0, 0, 0, u8::try_from(field.len()).unwrap_or(u8::MAX)]);
            bytes.extend_from_slice(field);
        }
        bytes
    }
}

/// Names a wrapping key without telling it. Public.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KekId {
    name: [u8; 16],
    version: u32,
}

impl KekId {
    /// The id of a provider's key and its version there.
    #[must_use]
    pub const fn new(name: [u8; 16], version: u32) -> Self {
        Self { name, version }
    }

    /// The key's name: the same for all versions of it.
    #[must_use]
    pub const fn name(&self) -> &[u8; 16] {
        &self.name
    }

    /// The key's version, from 1. Keys that have none are of version 1.
    #[must_use]
    pub const fn version(&self) -> u32 {
        self.version
    }
}

impl fmt::Debug for KekId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KekId({}, version {})", data_encoding::HEXLOWER.encode(&self.name), self.version)
    }
}

/// A wrapped secret: worth nothing without the provider that wrapped it.
#[derive(Clone, PartialEq, Eq)]
pub struct Wrapped {
    /// The key that wrapped it.
    pub kek: KekId,
    /// What the provider made of it, at most 8 KiB.
    pub blob: Vec<u8>,
}

impl Wrapped {
    /// `version(1) = 1 | name(16) | key version(4 BE) | length(4 BE) | blob`.
    ///
    /// # Errors
    ///
    /// `LimitExceeded` for a blob of more than 8 KiB.
    pub fn encode(&self) -> Result<Vec<u8>> {
        if self.blob.len() > MAX_BLOB {
            return Err(Error::new(ErrorKind::LimitExceeded, "the wrapped key is larger than 8 KiB"));
        }
        let length = u32::try_from(self.blob.len()).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(25 + self.blob.len());
        bytes.push(WRAPPED_VERSION);
        bytes.extend_from_slice(&self.kek.name);
        bytes.extend_from_slice(&self.kek.version.to_be_bytes());
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&self.blob);
        Ok(bytes)
    }

    /// Reads what [`encode`](Self::encode) wrote. Copies no more than was given.
    ///
    /// # Errors
    ///
    /// `Unsupported` for another version, `Tampered` for anything else that `encode` does not write.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let damaged = || Error::new(ErrorKind::Tampered, "a wrapped key is damaged, put its copy back");
        let (version, rest) = bytes.split_first().ok_or_else(damaged)?;
        if *version != WRAPPED_VERSION {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "this build does not know the wrapped key's format",
            ));
        }
        let (name, rest) = rest.split_first_chunk().ok_or_else(damaged)?;
        let (key_version, rest) = rest.split_first_chunk().ok_or_else(damaged)?;
        let (length, blob) = rest.split_first_chunk().ok_or_else(damaged)?;
        if blob.len() > MAX_BLOB || u32::try_from(blob.len()) != Ok(u32::from_be_bytes(*length)) {
            return Err(damaged());
        }
        Ok(Self { kek: KekId::new(*name, u32::from_be_bytes(*key_version)), blob: blob.to_vec() })
    }
}

impl fmt::Debug for Wrapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wrapped").field("kek", &self.kek).field("bytes", &self.blob.len()).finish()
    }
}

/// Keeps the keys that wrap other keys: in a file, behind a passphrase, or in a service that never gives them out.
///
/// # Behavior
///
/// - The context is authenticated: what was wrapped under one unwraps under no other.
/// - A secret has at most 4 KiB; more is `LimitExceeded`, before anything is sent anywhere.
/// - What was wrapped under another key is `KeyRefused`. What does not open under the key that it names, or not under
///   this context, is `Tampered`, or `KeyRefused` where the provider does not tell the two apart.
/// - A provider that can't be reached, does not answer in its own timeout, or answers nonsense is `KeyUnavailable`. No
///   call takes longer than that timeout.
/// - An access that the provider denies is `KeyRefused`.
/// - A call that is dropped half-way has no effect that the next one sees.
/// - Neither `Debug` nor an error tells a key, a secret, or what opens the provider.
#[async_trait]
pub trait KeyProvider: fmt::Debug + Send + Sync + 'static {
    /// Wraps a secret under the newest key.
    async fn wrap(&self, context: &KeyContext, secret: &SecretBytes) -> Result<Wrapped>;

    /// Gives back what [`wrap`](Self::wrap) was given with the same context.
    async fn unwrap(&self, context: &KeyContext, wrapped: &Wrapped) -> Result<SecretBytes>;

    /// Wraps again under the newest key. A provider whose keys never leave it does that inside, if it can.
    async fn rewrap(&self, context: &KeyContext, wrapped: &Wrapped) -> Result<Wrapped>;

    /// The key that `wrap` uses now.
    async fn current(&self) -> Result<KekId>;
}

/// Refuses secrets that are too large for a provider.
pub(crate) fn check_secret(secret: &SecretBytes) -> Result<()> {
    if secret.as_bytes().len() > MAX_SECRET {
        return Err(Error::new(ErrorKind::LimitExceeded, "a secret to be wrapped has at most 4 KiB"));
    }
    Ok(())
}

/// What a provider says of another's keys.
pub(crate) const fn unknown_key() -> Error {
    Error::new(
        ErrorKind::KeyRefused,
        "the data was wrapped under another key or passphrase, give that one as well",
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn wrapped(blob: Vec<u8>) -> Wrapped {
        Wrapped { kek: KekId::new(*b"0123456789abcdef", 7), blob }
    }

    #[test]
    fn a_wrapped_key_is_read_back() {
        for length in [0, 1, 300, MAX_BLOB] {
            let one = wrapped(vec![9; length]);
            assert_eq!(Wrapped::decode(&one.encode().unwrap()).unwrap(), one);
        }
        assert_eq!(wrapped(vec![0; MAX_BLOB + 1]).encode().unwrap_err().kind(), ErrorKind::LimitExceeded);
    }

    #[test]
    fn cut_long_and_unknown_wrapped_keys_are_refused() {
        let bytes = wrapped(vec![9; 40]).encode().unwrap();
        for end in 0..bytes.len() {
            assert_eq!(Wrapped::decode(&bytes[..end]).unwrap_err().kind(), ErrorKind::Tampered);
        }
        let mut longer = bytes.clone();
        longer.push(0);
        assert_eq!(Wrapped::decode(&longer).unwrap_err().kind(), ErrorKind::Tampered);
        let mut huge = bytes.clone();
        huge[21..25].copy_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(Wrapped::decode(&huge).unwrap_err().kind(), ErrorKind::Tampered);
        let mut over = bytes.clone();
        over.resize(25 + MAX_BLOB + 1, 0);
        over[21..25].copy_from_slice(&u32::try_from(MAX_BLOB + 1).unwrap().to_be_bytes());
        assert_eq!(Wrapped::decode(&over).unwrap_err().kind(), ErrorKind::Tampered);
        let mut newer = bytes;
        newer[0] = 2;
        assert_eq!(Wrapped::decode(&newer).unwrap_err().kind(), ErrorKind::Unsupported);
    }

    proptest! {
        #[test]
        fn any_bytes_decode_to_what_encodes_to_them(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(wrapped) = Wrapped::decode(&bytes) {
                prop_assert_eq!(wrapped.encode().unwrap(), bytes);
            }
        }
    }

    #[test]
    fn debug_shows_public_names_only() {
        let text = format!("{:?}", wrapped(vec![0xAB; 3]));
        assert_eq!(text, "Wrapped { kek: KekId(30313233343536373839616263646566, version 7), bytes: 3 }");
    }

    #[test]
    fn every_field_of_a_context_counts() {
        let one = KeyContext { deployment: [1; 16], owner: [2; 32], what: What::Root, life: 3, epoch: 4 };
        let mut encoded = vec![
            one.encode(),
            KeyContext { deployment: [9; 16], ..one }.encode(),
            KeyContext { owner: [9; 32], ..one }.encode(),
            KeyContext { life: 9, ..one }.encode(),
            KeyContext { epoch: 9, ..one }.encode(),
        ];
        for what in [What::Dek, What::Check, What::DeploymentKey, What::Artefact] {
            encoded.push(KeyContext { what, ..one }.encode());
        }
        let count = encoded.len();
        encoded.sort();
        encoded.dedup();
        assert_eq!(encoded.len(), count);
    }
}
