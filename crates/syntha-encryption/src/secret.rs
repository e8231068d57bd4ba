use syntha_store::{Error, ErrorKind, Result};
use zeroize::Zeroizing;

/// A key of 32 bytes. It has no `Debug`, `Display` or serialisation, lies on the heap once, and is wiped when dropped.
#[derive(Clone)]
#[allow(missing_debug_implementations, reason = "a secret has none")]
pub struct SecretKey(Box<Zeroizing<[u8; 32]>>);

impl SecretKey {
    /// A new key from the operating system's random source.
    ///
    /// # Errors
    ///
    /// `Unavailable` if the system has no random source.
    pub fn generate() -> Result<Self> {
        let mut key = Self(Box::new(Zeroizing::new([0; 32])));
        fill(&mut key.0[..])?;
        Ok(key)
    }

    /// A key from its bytes. The caller wipes its own copy.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        let mut key = Self(Box::new(Zeroizing::new([0; 32])));
        key.0.copy_from_slice(bytes);
        key
    }

    /// A key from a slice.
    ///
    /// # Errors
    ///
    /// `KeyRefused` for any other length than 32.
    pub fn from_slice(bytes: &[u8]) -> Result<Self> {
        let bytes = bytes.try_into().map_err(|_| Error::new(ErrorKind::KeyRefused, "a key has 32 bytes"))?;
        Ok(Self::from_bytes(bytes))
    }

    /// A key whose bytes are written where they will lie.
    pub(crate) fn made_by(write: impl FnOnce(&mut [u8; 32])) -> Self {
        let mut key = Self(Box::new(Zeroizing::new([0; 32])));
        write(&mut key.0);
        key
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Secret bytes of any length: a passphrase, or a key that is wrapped already. No `Debug`, and wiped when dropped.
#[derive(Clone)]
#[allow(missing_debug_implementations, reason = "a secret has none")]
pub struct SecretBytes(Zeroizing<Box<[u8]>>);

impl SecretBytes {
    /// Takes the bytes over.
    #[must_use]
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Self {
        Self(Zeroizing::new(bytes.into()))
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Fills a buffer from the operating system's random source.
pub(crate) fn fill(buffer: &mut [u8]) -> Result<()> {
    getrandom::fill(buffer).map_err(|source| {
        Error::new(ErrorKind::Unavailable, "the system's random source failed").with_source(source)
    })
}
