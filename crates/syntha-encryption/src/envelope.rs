//! Sealed blobs: AES-256-GCM (NIST SP 800-38D) under a key of the blob's own. `docs/envelope-v1.md` gives the bytes.

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, P_MAX, Tag};
use subtle::ConstantTimeEq;
use syntha_store::{Error, ErrorKind, Result};
use zeroize::{Zeroize, Zeroizing};

pub use crate::binding::{Binding, DetailsBinding, FrameBinding, RecordBinding, WrapBinding};
use crate::padding;
use crate::secret::{SecretKey, fill};
use crate::subkeys::expand;

/// The version of the format, the first byte of every blob.
pub const VERSION: u8 = 1;
/// The bytes of a salt.
pub const SALT_BYTES: usize = 24;
/// The bytes of the header: version, algorithm, epoch, salt.
pub const HEADER_BYTES: usize = 1 + 1 + 4 + SALT_BYTES;
/// The bytes of a commitment to the key.
pub const COMMITMENT_BYTES: usize = 32;
/// The bytes of GCM's tag.
pub const TAG_BYTES: usize = 16;

const KEY_DOMAIN: &[u8] = b"syntha/v1/rec";

/// How a blob is sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// AES-256-GCM. It opens under one key when honestly made, but a writer who knows two keys can make a blob that
    /// opens under both.
    Record = 1,
    /// AES-256-GCM with a commitment to the key, checked before anything is decrypted.
    Committing = 2,
}

impl Algorithm {
    /// The stored code.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The bytes that sealing adds to the content.
    #[must_use]
    pub const fn overhead(self) -> usize {
        HEADER_BYTES + self.commitment_bytes() + TAG_BYTES
    }

    const fn commitment_bytes(self) -> usize {
        match self {
            Self::Record => 0,
            Self::Committing => COMMITMENT_BYTES,
        }
    }
}

/// What a blob says of itself in clear. Nothing of it is known to be true before the blob is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// How it is sealed.
    pub algorithm: Algorithm,
    /// The epoch of the data key.
    pub epoch: u32,
}

impl Header {
    /// Reads the header. No key is needed.
    ///
    /// # Errors
    ///
    /// `Tampered` if the bytes are no blob of this format.
    pub fn read(sealed: &[u8]) -> Result<Self> {
        Blob::split(sealed).map(|blob| blob.header)
    }
}

/// What is sealed: pieces that follow each other, so that no caller has to join them.
#[derive(Clone, Copy)]
pub enum Content<'a> {
    /// As it is.
    Plain(&'a [&'a [u8]]),
    /// Padded, see [`padding`]. Opened by [`open_padded`].
    Padded(&'a [&'a [u8]]),
}

/// Shows no content.
impl std::fmt::Debug for Content<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Content(..)")
    }
}

impl Content<'_> {
    const fn pieces(&self) -> &[&[u8]] {
        match self {
            Self::Plain(pieces) | Self::Padded(pieces) => pieces,
        }
    }

    /// The bytes to encrypt, padding included.
    fn len(&self) -> Result<usize> {
        let too_long = || Error::new(ErrorKind::LimitExceeded, "a sealed value has at most 2^36 - 32 bytes");
        // Checked before it is padded too: padding is defined for lengths that memory can hold.
        let within = |len: &usize| u64::try_from(*len).is_ok_and(|len| len <= P_MAX);
        let sum = self.pieces().iter().try_fold(0_usize, |sum, piece| sum.checked_add(piece.len()));
        let len = sum.filter(within).ok_or_else(too_long)?;
        match self {
            Self::Plain(_) => Ok(len),
            Self::Padded(_) => Some(padding::padded_len(len)).filter(within).ok_or_else(too_long),
        }
    }

    fn append_to(&self, buffer: &mut Vec<u8>) -> Result<()> {
        let start = buffer.len();
        for piece in self.pieces() {
            buffer.extend_from_slice(piece);
        }
        match self {
            Self::Plain(_) => Ok(()),
            Self::Padded(_) => padding::pad(buffer, start),
        }
    }
}

/// Salts for a batch of blobs, drawn from the operating system's random source in one call.
#[derive(Debug)]
pub struct Salts(std::vec::IntoIter<[u8; SALT_BYTES]>);

impl Salts {
    /// Draws `count` salts.
    ///
    /// # Errors
    ///
    /// `Unavailable` if the system has no random source.
    pub fn draw(count: usize) -> Result<Self> {
        let mut salts = vec![[0; SALT_BYTES]; count];
        fill(salts.as_flattened_mut())?;
        Ok(Self(salts.into_iter()))
    }

    fn take(&mut self) -> Result<[u8; SALT_BYTES]> {
        self.0.next().ok_or_else(|| {
            Error::new(ErrorKind::Invalid, "more is sealed than salts were drawn for, draw more")
        })
    }
}

/// Seals content under a subkey, with a new salt.
///
/// # Errors
///
/// `LimitExceeded` for content or a bound field that is too long, `Invalid` for a wrap that does not commit,
/// `Unavailable` if the system has no random source.
pub fn seal(
    subkey: &SecretKey,
    algorithm: Algorithm,
    epoch: u32,
    binding: &Binding<'_>,
    content: Content<'_>,
) -> Result<Vec<u8>> {
    let mut salt = [0; SALT_BYTES];
    fill(&mut salt)?;
    seal_salted(subkey, algorithm, epoch, binding, salt, content)
}

/// [`seal`] with a salt that was drawn before.
///
/// # Errors
///
/// As [`seal`], and `Invalid` if every salt was used.
pub fn seal_from(
    salts: &mut Salts,
    subkey: &SecretKey,
    algorithm: Algorithm,
    epoch: u32,
    binding: &Binding<'_>,
    content: Content<'_>,
) -> Result<Vec<u8>> {
    seal_salted(subkey, algorithm, epoch, binding, salts.take()?, content)
}

/// [`seal`] with a given salt, for tests of the format alone: a salt that is used twice gives both contents away.
///
/// # Errors
///
/// As [`seal`].
#[cfg(feature = "vectors")]
pub fn seal_with_salt(
    subkey: &SecretKey,
    algorithm: Algorithm,
    epoch: u32,
    binding: &Binding<'_>,
    salt: [u8; SALT_BYTES],
    content: Content<'_>,
) -> Result<Vec<u8>> {
    seal_salted(subkey, algorithm, epoch, binding, salt, content)
}

/// Opens a blob that was sealed so, there.
///
/// # Errors
///
/// `Tampered` for everything else.
pub fn open(
    subkey: &SecretKey,
    algorithm: Algorithm,
    binding: &Binding<'_>,
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>> {
    let blob = Blob::split(sealed)?;
    // Not taken from the blob: who can choose it could ask for a wrap without the commitment.
    if blob.header.algorithm != algorithm || !binding.allows(algorithm) {
        return Err(tampered());
    }
    let keys = Keys::derive(subkey, blob.header, blob.salt);
    if !bool::from(keys.commitment(algorithm).ct_eq(blob.commitment)) {
        return Err(tampered());
    }
    let associated_data = binding.associated_data(algorithm, blob.header.epoch).map_err(|_| tampered())?;
    let mut content = Zeroizing::new(blob.ciphertext.to_vec());
    // The tag is checked before a byte is decrypted.
    keys.cipher()
        .decrypt_inout_detached(
            &nonce(blob.salt),
            &associated_data,
            content.as_mut_slice().into(),
            &Tag::from(*blob.tag),
        )
        .map_err(|_| tampered())?;
    Ok(content)
}

/// [`open`] for content that was sealed padded; gives it without its padding.
///
/// # Errors
///
/// `Tampered` as [`open`], and if the content is not padded.
pub fn open_padded(
    subkey: &SecretKey,
    algorithm: Algorithm,
    binding: &Binding<'_>,
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>> {
    let mut content = open(subkey, algorithm, binding, sealed)?;
    let len = padding::unpad(&content)?.len();
    content.truncate(len);
    Ok(content)
}

pub(crate) fn seal_salted(
    subkey: &SecretKey,
    algorithm: Algorithm,
    epoch: u32,
    binding: &Binding<'_>,
    salt: [u8; SALT_BYTES],
    content: Content<'_>,
) -> Result<Vec<u8>> {
    if !binding.allows(algorithm) {
        return Err(Error::new(ErrorKind::Invalid, "a wrapped key is sealed by the committing algorithm"));
    }
    let len = content.len()?;
    let associated_data = binding.associated_data(algorithm, epoch)?;
    let keys = Keys::derive(subkey, Header { algorithm, epoch }, &salt);
    let mut sealed = Vec::with_capacity(algorithm.overhead().saturating_add(len));
    sealed.extend_from_slice(&[VERSION, algorithm.code()]);
    sealed.extend_from_slice(&epoch.to_be_bytes());
    sealed.extend_from_slice(&salt);
    sealed.extend_from_slice(keys.commitment(algorithm));
    let start = sealed.len();
    content.append_to(&mut sealed)?;
    let tag = sealed.get_mut(start..).and_then(|content| {
        keys.cipher().encrypt_inout_detached(&nonce(&salt), &associated_data, content.into()).ok()
    });
    let Some(tag) = tag else {
        sealed.zeroize();
        return Err(Error::new(ErrorKind::LimitExceeded, "the content is too long to be sealed"));
    };
    sealed.extend_from_slice(&tag);
    Ok(sealed)
}

/// The one error of opening: it does not say how far a blob got.
const fn tampered() -> Error {
    Error::new(ErrorKind::Tampered, "the sealed data does not open: it was changed, moved, or is not sealed")
}

/// The pieces of a blob that has the form of one.
struct Blob<'a> {
    header: Header,
    salt: &'a [u8; SALT_BYTES],
    commitment: &'a [u8],
    ciphertext: &'a [u8],
    tag: &'a [u8; TAG_BYTES],
}

impl<'a> Blob<'a> {
    fn split(sealed: &'a [u8]) -> Result<Self> {
        Self::pieces(sealed).ok_or_else(tampered)
    }

    fn pieces(sealed: &'a [u8]) -> Option<Self> {
        let (version, rest) = sealed.split_first()?;
        let (algorithm, rest) = rest.split_first()?;
        let algorithm = match (*version, *algorithm) {
            (VERSION, 1) => Algorithm::Record,
            (VERSION, 2) => Algorithm::Committing,
            _ => return None,
        };
        let (epoch, rest) = rest.split_first_chunk::<4>()?;
        let (salt, rest) = rest.split_first_chunk()?;
        let (commitment, rest) = rest.split_at_checked(algorithm.commitment_bytes())?;
        let (ciphertext, tag) = rest.split_last_chunk()?;
        let header = Header { algorithm, epoch: u32::from_be_bytes(*epoch) };
        Some(Self { header, salt, commitment, ciphertext, tag })
    }
}

/// A blob's own key, and what commits to it.
struct Keys(Zeroizing<[u8; 64]>);

impl Keys {
    fn derive(subkey: &SecretKey, header: Header, salt: &[u8; SALT_BYTES]) -> Self {
        let mut keys = Self(Zeroizing::new([0; 64]));
        let (for_key, _) = salt.split_at(12);
        let info: [&[u8]; 4] = [KEY_DOMAIN, &[header.algorithm.code()], &header.epoch.to_be_bytes(), for_key];
        let len = 32 + header.algorithm.commitment_bytes();
        let (output, _) = keys.0.split_at_mut(len);
        expand(subkey, &info, output);
        keys
    }

    fn cipher(&self) -> Aes256Gcm {
        let (key, _) = self.0.split_at(32);
        #[allow(clippy::expect_used, reason = "the key was cut to 32 bytes one line above")]
        Aes256Gcm::new_from_slice(key).expect("a key of 32 bytes")
    }

    fn commitment(&self, algorithm: Algorithm) -> &[u8] {
        let (_, commitment) = self.0.split_at(32);
        commitment.split_at(algorithm.commitment_bytes()).0
    }
}

fn nonce(salt: &[u8; SALT_BYTES]) -> Nonce<aes_gcm::aead::consts::U12> {
    let (_, for_nonce) = salt.split_at(12);
    let mut nonce = Nonce::default();
    nonce.copy_from_slice(for_nonce);
    nonce
}

#[cfg(test)]
mod tests;
