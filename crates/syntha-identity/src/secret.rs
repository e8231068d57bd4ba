use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

use crate::base62;
use crate::error::{Error, ErrorKind, Result};

const ID_DOMAIN: &[u8] = b"syntha/v1/secret-id\0";
/// Characters of 256 random bits in base62.
const RANDOM: usize = 43;
/// Characters of a CRC-32 in base62.
const CHECK: usize = 6;
/// `syn_pat_` and `syn_ses_`.
const PREFIX: usize = 8;
const LENGTH: usize = PREFIX + RANDOM + CHECK;

/// What a [`Secret`] opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SecretKind {
    /// An access token: made by hand, for a program.
    Token,
    /// A session: made by a login.
    Session,
}

impl SecretKind {
    const fn prefix(self) -> &'static str {
        match self {
            Self::Token => "syn_pat_",
            Self::Session => "syn_ses_",
        }
    }
}

/// The text of an access token or of a session id: who has it, is let in.
///
/// `syn_pat_` or `syn_ses_`, 256 random bits as 43 characters of base62, and the CRC-32 of all that as 6 more, so that a scanner knows one
/// when it sees one. It is wiped when dropped and has no `Display`, no serialisation, no `Clone`, and a `Debug` that shows its kind.
pub struct Secret {
    kind: SecretKind,
    text: Zeroizing<String>,
}

impl Secret {
    /// Reads one. Nothing is asked for it: a text with a typing error is refused here.
    ///
    /// # Errors
    ///
    /// `Denied` for any text that is none, as for one that nobody was given.
    pub fn parse(text: &str) -> Result<Self> {
        let kind = [SecretKind::Token, SecretKind::Session]
            .into_iter()
            .find(|kind| text.starts_with(kind.prefix()))
            .ok_or_else(Error::secret)?;
        let bytes = text.as_bytes();
        let (body, check) = bytes.split_at_checked(PREFIX + RANDOM).ok_or_else(Error::secret)?;
        if check.len() != CHECK || check != checksum(body) {
            return Err(Error::secret());
        }
        // A number of more than 256 bits is none that was ever made.
        let mut random = Zeroizing::new([0; 32]);
        base62::decode(body.get(PREFIX..).unwrap_or_default(), &mut random[..]).ok_or_else(Error::secret)?;
        Ok(Self { kind, text: Zeroizing::new(text.to_owned()) })
    }

    /// A new one whose id is one of those that `fits`.
    pub(crate) fn generate(kind: SecretKind, fits: impl Fn(SecretId) -> bool) -> Result<Self> {
        let mut random = Zeroizing::new([0; 32]);
        loop {
            getrandom::fill(&mut random[..]).map_err(|source| {
                let message = "the system's random source failed";
                Error::new(ErrorKind::Unavailable, message).with_source(source)
            })?;
            let secret = Self::from_random(kind, &random);
            if fits(secret.id()) {
                return Ok(secret);
            }
        }
    }

    fn from_random(kind: SecretKind, random: &[u8; 32]) -> Self {
        let mut digits = Zeroizing::new([0; RANDOM]);
        base62::encode(random, &mut digits[..]);
        // Made at its full length, so that no copy of a part stays behind.
        let mut text = Zeroizing::new(String::with_capacity(LENGTH));
        text.push_str(kind.prefix());
        text.extend(digits.iter().map(|digit| char::from(*digit)));
        let check = checksum(text.as_bytes());
        text.extend(check.into_iter().map(char::from));
        Self { kind, text }
    }

    /// The text, to give to whom it is for. It is stored nowhere, and can't be had again.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// What it opens.
    #[must_use]
    pub const fn kind(&self) -> SecretKind {
        self.kind
    }

    /// What it is called in lists. It opens nothing.
    #[must_use]
    pub fn id(&self) -> SecretId {
        let digest: [u8; 32] =
            Sha256::new().chain_update(ID_DOMAIN).chain_update(self.text.as_bytes()).finalize().into();
        let mut id = [0; 8];
        id.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
        SecretId(id)
    }

    /// What is stored of it. 256 random bits can't be guessed from their hash, so a fast one will do.
    pub(crate) fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.text.as_bytes()).into()
    }
}

fn checksum(body: &[u8]) -> [u8; CHECK] {
    let mut check = [0; CHECK];
    base62::encode(&crc32fast::hash(body).to_be_bytes(), &mut check);
    check
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}***", self.kind.prefix())
    }
}

impl FromStr for Secret {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

/// Moves a text that a host has read into a secret and wipes the text.
impl TryFrom<String> for Secret {
    type Error = Error;

    fn try_from(mut text: String) -> Result<Self> {
        let secret = Self::parse(&text);
        text.zeroize();
        secret
    }
}

/// What a token or session is called: 8 bytes of a hash of it. Public: it opens nothing.
///
/// `Display` and `FromStr` are 16 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretId([u8; 8]);

impl SecretId {
    pub(crate) const fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }
}

impl fmt::Display for SecretId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for SecretId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretId({self})")
    }
}

impl FromStr for SecretId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::new(ErrorKind::Invalid, "an id is 16 lower-case hexadecimal digits");
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(|_| wrong())?;
        Ok(Self(bytes.try_into().map_err(|_| wrong())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counting() -> Secret {
        Secret::from_random(SecretKind::Token, &std::array::from_fn(|n| u8::try_from(n).unwrap()))
    }

    // Made with Python's zlib.crc32 and hashlib alone.
    #[test]
    fn text_id_and_hash_are_the_documented_ones() {
        assert_eq!(counting().expose(), include_str!("../fixtures/counting.token").trim());
        assert_eq!(counting().id().to_string(), include_str!("../fixtures/counting.id").trim());
        assert_eq!(HEXLOWER.encode(&counting().digest()), include_str!("../fixtures/counting.digest").trim());
        assert_eq!(counting().expose().len(), LENGTH);
        assert_eq!(counting().id().to_string().parse::<SecretId>().unwrap(), counting().id());
    }

    #[test]
    fn every_changed_character_is_refused() {
        let text = counting().expose().to_owned();
        Secret::parse(&text).unwrap();
        for at in 0..text.len() {
            let mut wrong = text.clone().into_bytes();
            wrong[at] = if wrong[at] == b'x' { b'y' } else { b'x' };
            assert!(Secret::parse(std::str::from_utf8(&wrong).unwrap()).is_err(), "{at}");
        }
        let (short, long) = (&text[..LENGTH - 1], format!("{text}0"));
        let other_kind = text.replace("pat", "ses");
        for wrong in ["", "syn_pat_", short, &long, &other_kind, &format!(" {text}"), "syn_pat_é"] {
            assert_eq!(Secret::parse(wrong).unwrap_err().kind(), ErrorKind::Denied);
        }
        // A right checksum over more than 256 bits.
        let mut large = format!("syn_pat_{}", "z".repeat(43));
        large.extend(checksum(large.as_bytes()).map(char::from));
        assert!(Secret::parse(&large).is_err());
    }

    #[test]
    fn debug_shows_the_kind_alone() {
        assert_eq!(format!("{:?}", counting()), "syn_pat_***");
    }

    #[test]
    fn secrets_are_drawn_until_one_fits() {
        let secret = Secret::generate(SecretKind::Session, |id| id.as_bytes()[0] % 4 == 3).unwrap();
        assert_eq!(secret.id().as_bytes()[0] % 4, 3);
        assert_eq!(Secret::parse(secret.expose()).unwrap().kind(), SecretKind::Session);
    }
}
