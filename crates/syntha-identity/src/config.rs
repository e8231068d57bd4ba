use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use syntha_store::{Clock, DeploymentKey, SystemClock};
use zeroize::Zeroizing;

use crate::error::{Error, ErrorKind, Result};
use crate::events::{IdentityEvent, Listener};
use crate::hasher::HashingCost;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const MINUTE: Duration = Duration::from_secs(60);

/// How logins, tokens and sessions are run. Every process of a deployment has the same.
#[derive(Clone)]
#[must_use]
pub struct IdentityConfig {
    pub(crate) root: Root,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) cost: HashingCost,
    pub(crate) peppers: Vec<Pepper>,
    pub(crate) permits: Option<usize>,
    pub(crate) idle: Duration,
    pub(crate) session_lifetime: Duration,
    pub(crate) bound: Duration,
    pub(crate) listeners: Vec<Listener>,
    #[cfg(feature = "faults")]
    pub(crate) fault: Option<crate::Fault>,
}

impl IdentityConfig {
    /// The longest that a token may live: 366 days. One that is made without a lifetime lives 90.
    pub const TOKEN_LIFETIME_MOST: Duration = Duration::from_secs(366 * 24 * 60 * 60);
    pub(crate) const TOKEN_LIFETIME: Duration = Duration::from_secs(90 * 24 * 60 * 60);

    /// The defaults: sessions end after 30 minutes without use and after 12 hours in any case, passwords cost 19 MiB and two passes.
    ///
    /// Records are named by hashes under a key that comes from the deployment's.
    pub fn new(key: &DeploymentKey) -> Self {
        Self {
            root: Root::new(key),
            clock: Arc::new(SystemClock),
            cost: HashingCost::default(),
            peppers: Vec::new(),
            permits: None,
            idle: 30 * MINUTE,
            session_lifetime: DAY / 2,
            bound: Duration::from_secs(1),
            listeners: Vec::new(),
            #[cfg(feature = "faults")]
            fault: None,
        }
    }

    /// Where the time comes from.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// What a password costs. Those that cost less are hashed again when their users log in.
    pub const fn hashing(mut self, cost: HashingCost) -> Self {
        self.cost = cost;
        self
    }

    /// A secret of the deployment that goes into every password's hash, from a place where no copy of the data is: 32 bytes, numbered from 1.
    /// The highest number is used for new hashes; older ones stay until nobody's hash names them. A number is never used for another key.
    ///
    /// # Errors
    ///
    /// `Invalid` for number 0 and for one that stands twice.
    pub fn pepper(mut self, number: u32, key: &[u8; 32]) -> Result<Self> {
        if number == 0 || self.peppers.iter().any(|known| known.number == number) {
            return Err(Error::new(ErrorKind::Invalid, "peppers have distinct numbers from 1"));
        }
        let mut kept = Box::new(Zeroizing::new([0; 32]));
        kept.copy_from_slice(key);
        self.peppers.push(Pepper { number, key: kept.into() });
        Ok(self)
    }

    /// How many passwords are hashed at once: as many as there are cores but one, if nothing is said. Each takes [`HashingCost::m_kib`].
    pub const fn hashing_at_once(mut self, permits: usize) -> Self {
        self.permits = Some(permits);
        self
    }

    /// How long a session may be unused, and how long it may live in all.
    ///
    /// # Errors
    ///
    /// `Invalid` for an idle time outside of 2 minutes to 31 days, and for a lifetime shorter than that or over 366 days.
    pub fn sessions(mut self, idle: Duration, lifetime: Duration) -> Result<Self> {
        if idle < 2 * MINUTE || idle > 31 * DAY || lifetime < idle || lifetime > 366 * DAY {
            return Err(Error::new(
                ErrorKind::Invalid,
                "a session is idle for 2 minutes to 31 days at most, and lives at least as long and at most 366 days",
            ));
        }
        (self.idle, self.session_lifetime) = (idle, lifetime);
        Ok(self)
    }

    /// Hears of every login, and of every change of an account, token or session. It is called on the caller's task and must not wait; it
    /// sees why a login was refused, which the one who tried must never be told. Several may be given.
    pub fn listener(mut self, listener: impl Fn(&IdentityEvent) + Send + Sync + 'static) -> Self {
        self.listeners.push(Arc::new(listener));
        self
    }
}

impl fmt::Debug for IdentityConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentityConfig")
            .field("cost", &self.cost)
            .field("peppers", &self.peppers.len())
            .field("idle", &self.idle)
            .field("session_lifetime", &self.session_lifetime)
            .finish_non_exhaustive()
    }
}

/// A numbered secret of the deployment.
#[derive(Clone)]
pub(crate) struct Pepper {
    pub(crate) number: u32,
    pub(crate) key: Arc<Zeroizing<[u8; 32]>>,
}

/// The key that records are named by.
#[derive(Clone)]
pub(crate) struct Root(Arc<Hmac<Sha256>>);

const ROOT_DOMAIN: &[u8] = b"syntha/v1/identity\0";

impl Root {
    fn new(key: &DeploymentKey) -> Self {
        let root = Zeroizing::new(mac(&keyed(key.as_bytes()), &[ROOT_DOMAIN]));
        Self(Arc::new(keyed(&root)))
    }

    /// HMAC-SHA-256 over what a name is for, a zero byte, and the rest.
    pub(crate) fn name(&self, purpose: &str, of: &[u8]) -> [u8; 32] {
        mac(&self.0, &[purpose.as_bytes(), b"\0", of])
    }
}

fn keyed(key: &[u8; 32]) -> Hmac<Sha256> {
    #[allow(clippy::expect_used, reason = "HMAC takes a key of any length (RFC 2104, section 2)")]
    <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("any key length")
}

fn mac(keyed: &Hmac<Sha256>, parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = keyed.clone();
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    // python3: hmac over hmac(b"\x07"*32, b"syntha/v1/identity\0").digest()
    #[test]
    fn names_are_the_documented_hmac() {
        let root = Root::new(&DeploymentKey::from_bytes([7; 32]));
        let name = data_encoding::HEXLOWER.encode(&root.name("account", b"alice"));
        assert_eq!(name, include_str!("../fixtures/alice-account.hex").trim());
        assert_ne!(root.name("token", b"alice"), root.name("account", b"alice"));
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        let config = || IdentityConfig::new(&DeploymentKey::from_bytes([7; 32]));
        assert!(config().pepper(0, &[1; 32]).is_err());
        assert!(config().pepper(1, &[1; 32]).unwrap().pepper(1, &[2; 32]).is_err());
        for (idle, lifetime) in [(MINUTE, DAY), (DAY, MINUTE), (DAY, 367 * DAY), (32 * DAY, 40 * DAY)] {
            assert!(config().sessions(idle, lifetime).is_err());
        }
        let _ = config().sessions(2 * MINUTE, 366 * DAY).unwrap();
    }
}
