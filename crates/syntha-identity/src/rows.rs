//! What the records hold: JSON (RFC 8259) with a version, but for the throttle's table.

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use crate::error::{Error, ErrorKind, Result};
use crate::scopes::Scopes;
use crate::secret::{SecretId, SecretKind};

const VERSION: u8 = 1;

/// An account. It lists its tokens and sessions, so that everything of a user can be found and removed.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AccountRow {
    v: u8,
    pub(crate) user: String,
    /// Raised by what must end every session.
    pub(crate) generation: u64,
    pub(crate) suspended: bool,
    rights: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) password: Option<PasswordRow>,
    pub(crate) created: u64,
    /// Oldest first.
    tokens: Vec<String>,
    sessions: Vec<String>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PasswordRow {
    /// `$argon2id$v=19$m=..,t=..,p=..$salt$hash`.
    pub(crate) phc: String,
    /// Under which pepper; 0 for none.
    pub(crate) pepper: u32,
}

/// A token, or a session.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SecretRow {
    v: u8,
    pub(crate) user: String,
    /// SHA-256 of the secret's text, in hexadecimal.
    hash: String,
    scopes: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) agent: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) label: String,
    pub(crate) created: u64,
    pub(crate) expires: u64,
    /// When it was last used, to the minute.
    pub(crate) used: u64,
    /// Of a session: how long it may be unused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) idle: Option<u64>,
    /// Of a session: the account's generation when it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) generation: Option<u64>,
}

/// What a new token or session is made of.
pub(crate) struct NewSecret {
    pub(crate) hash: [u8; 32],
    pub(crate) scopes: Scopes,
    pub(crate) agent: Option<String>,
    pub(crate) label: String,
    pub(crate) created: u64,
    pub(crate) expires: u64,
    pub(crate) idle: Option<u64>,
    pub(crate) generation: Option<u64>,
}

impl AccountRow {
    pub(crate) fn new(user: &str, rights: Scopes, created: u64) -> Self {
        Self {
            v: VERSION,
            user: user.to_owned(),
            generation: 1,
            suspended: false,
            rights: rights.bits(),
            password: None,
            created,
            tokens: Vec::new(),
            sessions: Vec::new(),
        }
    }

    /// What the account may do.
    pub(crate) fn rights(&self) -> Result<Scopes> {
        Scopes::stored(self.rights)
    }

    pub(crate) const fn set_rights(&mut self, rights: Scopes) {
        self.rights = rights.bits();
    }

    pub(crate) const fn next_generation(&mut self) {
        self.generation = self.generation.saturating_add(1);
    }

    pub(crate) const fn list_mut(&mut self, kind: SecretKind) -> &mut Vec<String> {
        match kind {
            SecretKind::Token => &mut self.tokens,
            SecretKind::Session => &mut self.sessions,
        }
    }

    pub(crate) const fn list(&self, kind: SecretKind) -> &Vec<String> {
        match kind {
            SecretKind::Token => &self.tokens,
            SecretKind::Session => &self.sessions,
        }
    }

    pub(crate) fn ids(&self, kind: SecretKind) -> Result<Vec<SecretId>> {
        self.list(kind).iter().map(|id| id.parse().map_err(|_| Error::corrupt())).collect()
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        encode(self)
    }

    pub(crate) fn decode(body: &[u8]) -> Result<Self> {
        let row: Self = decode(body)?;
        row.rights()?;
        Ok(row)
    }
}

impl SecretRow {
    pub(crate) fn new(user: &str, new: NewSecret) -> Self {
        Self {
            v: VERSION,
            user: user.to_owned(),
            hash: data_encoding::HEXLOWER.encode(&new.hash),
            scopes: new.scopes.bits(),
            agent: new.agent,
            label: new.label,
            created: new.created,
            expires: new.expires,
            used: new.created,
            idle: new.idle,
            generation: new.generation,
        }
    }

    pub(crate) fn scopes(&self) -> Result<Scopes> {
        Scopes::stored(self.scopes)
    }

    /// Compares in a time that says nothing about where they differ. `prefix`: a planted fault.
    pub(crate) fn is_of(&self, digest: &[u8; 32], prefix: bool) -> bool {
        let Ok(kept) = data_encoding::HEXLOWER.decode(self.hash.as_bytes()) else { return false };
        if prefix {
            return kept.first() == digest.first();
        }
        bool::from(kept[..].ct_eq(&digest[..]))
    }

    /// Whether its time is over.
    pub(crate) fn is_over(&self, now: u64) -> bool {
        now >= self.expires || self.idle.is_some_and(|idle| now.saturating_sub(self.used) >= idle)
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        encode(self)
    }

    pub(crate) fn decode(body: &[u8]) -> Result<Self> {
        let row: Self = decode(body)?;
        row.scopes()?;
        Ok(row)
    }
}

fn encode(row: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(row).map_err(|_| Error::new(ErrorKind::Invalid, "an account has no JSON form"))
}

fn decode<T: for<'a> Deserialize<'a>>(body: &[u8]) -> Result<T> {
    #[derive(Deserialize)]
    struct Version {
        v: u8,
    }
    match serde_json::from_slice::<Version>(body) {
        Ok(Version { v: VERSION }) => serde_json::from_slice(body).map_err(|_| Error::corrupt()),
        Ok(_) => Err(Error::unsupported()),
        Err(_) => Err(Error::corrupt()),
    }
}
