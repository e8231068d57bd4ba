use std::fmt;
use std::str::FromStr;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use zeroize::Zeroize;

use crate::error::{Error, ErrorKind, Result};
use crate::name::{self, NameError};

/// The owner of the deployment's own space, in identity rows. No user's tag has this value.
pub const DEPLOYMENT_OWNER: [u8; 32] = [0; 32];

const USER_DOMAIN: &[u8] = b"syntha/v1/user\0";
const FINGERPRINT_DOMAIN: &[u8] = b"syntha/v1/deployment-key-fingerprint\0";
const NOTICE_DOMAIN: &[u8] = b"syntha/v1/notice\0";

/// The id of a user, as the application knows it: 1 to 256 bytes of NFC text with nothing invisible in it.
///
/// It has no `Display`, and its `Debug` hides the text, so that it reaches no log by accident.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserId(String);

impl UserId {
    /// Parses an id.
    ///
    /// # Errors
    ///
    /// The rule of [`name::check_actor`] that the text breaks.
    pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
        let text = text.into();
        name::check_actor(&text)?;
        Ok(Self(text))
    }

    /// An id as it was written down when it was parsed. A rule that is stricter by now does not make its user vanish.
    #[must_use]
    pub const fn stored(text: String) -> Self {
        Self(text)
    }

    /// The id's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UserId(..)")
    }
}

impl TryFrom<&str> for UserId {
    type Error = NameError;

    fn try_from(text: &str) -> Result<Self, NameError> {
        Self::new(text)
    }
}

impl TryFrom<String> for UserId {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        Self::new(text)
    }
}

impl TryFrom<&UserId> for UserId {
    type Error = NameError;

    fn try_from(id: &UserId) -> Result<Self, NameError> {
        Ok(id.clone())
    }
}

/// The key from which a deployment derives its users' tags: 32 random bytes, made once, kept beside the data.
///
/// It has no `Debug`, `Display` or serialisation, and is wiped when dropped.
#[derive(Clone)]
#[allow(missing_debug_implementations, reason = "a secret has none")]
pub struct DeploymentKey([u8; 32]);

impl Drop for DeploymentKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl DeploymentKey {
    /// A new key from the operating system's random source.
    ///
    /// # Errors
    ///
    /// `Unavailable` if the system has no random source.
    pub fn generate() -> Result<Self> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|source| {
            Error::new(ErrorKind::Unavailable, "the system's random source failed").with_source(source)
        })?;
        Ok(Self(bytes))
    }

    /// A key from its stored bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for the backend that keeps them.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The user's tag: HMAC-SHA-256 (RFC 2104) over `"syntha/v1/user\0"` and the id.
    #[must_use]
    pub fn tag(&self, user: &UserId) -> UserTag {
        UserTag(self.mac(USER_DOMAIN, user.as_str().as_bytes()))
    }

    /// What an identity row keeps, to notice a data folder beside another deployment's key.
    #[must_use]
    pub fn fingerprint(&self) -> KeyFingerprint {
        KeyFingerprint(Sha256::digest(self.mac(FINGERPRINT_DOMAIN, b"")).into())
    }

    /// What processes call a user's data among themselves, where others may hear it: HMAC-SHA-256 over `"syntha/v1/notice\0"` and the tag, cut to
    /// 128 bits. Without the key it leads to no tag, and from a tag to none.
    #[must_use]
    pub fn notice(&self, owner: &[u8; 32]) -> [u8; 16] {
        let mut notice = [0; 16];
        for (to, from) in notice.iter_mut().zip(self.mac(NOTICE_DOMAIN, owner)) {
            *to = from;
        }
        notice
    }

    fn mac(&self, domain: &[u8], text: &[u8]) -> [u8; 32] {
        #[allow(clippy::expect_used, reason = "HMAC takes a key of any length (RFC 2104, section 2)")]
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&self.0).expect("any key length");
        mac.update(domain);
        mac.update(text);
        mac.finalize().into_bytes().into()
    }
}

/// A digest of a [`DeploymentKey`] that tells two keys apart and gives neither away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyFingerprint([u8; 32]);

impl KeyFingerprint {
    /// A fingerprint from its stored bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes to store.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// A user as a backend sees one: 32 bytes that give away nothing about the user's id.
///
/// The reserved value [`DEPLOYMENT_OWNER`] can't be made into a tag, so no call that takes a tag reaches the
/// deployment's own space.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserTag([u8; 32]);

impl UserTag {
    /// A tag from its stored bytes.
    ///
    /// # Errors
    ///
    /// `Invalid` for the reserved value [`DEPLOYMENT_OWNER`].
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self> {
        if bytes == DEPLOYMENT_OWNER {
            return Err(Error::new(ErrorKind::Invalid, "the reserved tag names no user"));
        }
        Ok(Self(bytes))
    }

    /// The tag's bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// RFC 4648 base32 in lower case without padding: 52 characters of `[a-z2-7]`.
impl fmt::Display for UserTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE32_LOWER.encode(&self.0))
    }
}

/// The first 20 characters (12.5 bytes): enough to find a file, in logs and reports.
impl fmt::Debug for UserTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserTag({:.20})", self.to_string())
    }
}

impl FromStr for UserTag {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::new(ErrorKind::Invalid, "a tag is 52 characters of lower-case base32");
        let bytes = BASE32_LOWER.decode(text.as_bytes()).map_err(|_| wrong())?;
        Self::from_bytes(bytes.try_into().map_err(|_| wrong())?)
    }
}

static BASE32_LOWER: std::sync::LazyLock<data_encoding::Encoding> = std::sync::LazyLock::new(|| {
    let mut specification = data_encoding::Specification::new();
    specification.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
    #[allow(clippy::expect_used, reason = "a constant specification, covered by a test")]
    specification.encoding().expect("32 distinct symbols")
});

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> DeploymentKey {
        DeploymentKey::from_bytes([7; 32])
    }

    #[test]
    fn the_tag_is_the_documented_hmac() {
        // python3: hmac.new(b"\x07"*32, b"syntha/v1/user\0alice", "sha256").hexdigest()
        let tag = key().tag(&UserId::new("alice").unwrap());
        let hex: String = tag.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, include_str!("../fixtures/alice-tag.hex").trim());
    }

    #[test]
    fn a_tag_survives_its_text_and_nothing_else_parses() {
        let tag = key().tag(&UserId::new("bob").unwrap());
        let text = tag.to_string();
        assert_eq!(text.len(), 52);
        assert_eq!(text.parse::<UserTag>().unwrap(), tag);
        for wrong in ["", "a", &text[1..], &text.to_uppercase(), &format!("{text}a"), &"a".repeat(52)] {
            assert_eq!(wrong.parse::<UserTag>().unwrap_err().kind(), ErrorKind::Invalid, "{wrong}");
        }
    }

    #[test]
    fn the_reserved_tag_names_no_user() {
        assert_eq!(UserTag::from_bytes(DEPLOYMENT_OWNER).unwrap_err().kind(), ErrorKind::Invalid);
    }

    #[test]
    fn keys_tell_deployments_apart() {
        let other = DeploymentKey::from_bytes([8; 32]);
        let alice = UserId::new("alice").unwrap();
        assert_ne!(key().tag(&alice), other.tag(&alice));
        assert_ne!(key().fingerprint(), other.fingerprint());
        assert_ne!(key().fingerprint().as_bytes(), key().as_bytes());
    }

    #[test]
    fn a_user_id_hides_its_text() {
        assert_eq!(format!("{:?}", UserId::new("alice").unwrap()), "UserId(..)");
    }
}
