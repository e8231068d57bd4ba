//! One number for a set of records, so that one that was put back or taken away is noticed.
//!
//! The sum, modulo 2^256, of HMAC-SHA-256 over each record's place and version: MSet-Add-Hash of Clarke, Devadas, van Dijk, Gassend and
//! Suh ("Incremental Multiset Hash Functions and Their Application to Memory Integrity Checking", 2003), with the sum kept
//! sealed. What a record says is bound to its version by its seal.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use syntha_store::{Batch, Incarnation, Keyspace, Op, RecordId, Result, Scan, Stamp, Version};

use crate::keyring::UserKeys;
use crate::record::tampered;
use crate::secret::SecretKey;
use crate::user_store::{EncryptedUser, PAGE, TRIES, busy, moved_on, rolled_back};

/// The sum over a set of records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Roster {
    high: u128,
    low: u128,
}

/// Whether a keyspace's records are in the roster: those that decide what others may do.
pub(crate) const fn holds(space: Keyspace) -> bool {
    matches!(space, Keyspace::Meta | Keyspace::Agents) || is_of_logins(space) || is_deployments(space)
}

/// Those of who may log in, which a space that is nobody's data has. What throttles logins is not among them: it is written by every login,
/// and one that was put back gives a guesser a hundred guesses at most.
const fn is_of_logins(space: Keyspace) -> bool {
    matches!(space, Keyspace::Accounts | Keyspace::Tokens | Keyspace::Sessions)
}

/// Those that only the deployment's own space has.
const fn is_deployments(space: Keyspace) -> bool {
    matches!(space, Keyspace::Ledger)
}

/// The keyspaces of the roster in a user's space, or in the deployment's own: those of who may log in come last.
pub(crate) fn spaces(deployment: bool) -> impl Iterator<Item = Keyspace> {
    let of = move |logins: bool| {
        Keyspace::all().filter(move |space| {
            holds(*space) && is_of_logins(*space) == logins && (deployment || !is_deployments(*space))
        })
    };
    of(false).chain(of(true))
}

impl Roster {
    pub(crate) const BYTES: usize = 32;

    pub(crate) fn add(&mut self, term: Self) {
        let (low, carry) = self.low.overflowing_add(term.low);
        self.low = low;
        self.high = self.high.wrapping_add(term.high).wrapping_add(u128::from(carry));
    }

    pub(crate) fn subtract(&mut self, term: Self) {
        let (low, borrow) = self.low.overflowing_sub(term.low);
        self.low = low;
        self.high = self.high.wrapping_sub(term.high).wrapping_sub(u128::from(borrow));
    }

    /// What one record adds.
    pub(crate) fn term(
        key: &SecretKey,
        life: Incarnation,
        space: Keyspace,
        stored: &RecordId,
        version: Version,
    ) -> Self {
        #[allow(clippy::expect_used, reason = "HMAC takes a key of any length (RFC 2104, section 2)")]
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key.as_bytes()).expect("any key length");
        mac.update(&life.0.to_be_bytes());
        mac.update(&[space.code()]);
        // Everything but the name has a fixed length, so it goes last.
        mac.update(&stored.seq().to_be_bytes());
        mac.update(&version.0.to_be_bytes());
        mac.update(stored.name());
        Self::from_bytes(mac.finalize().into_bytes().into())
    }

    pub(crate) fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let half = |from: usize| {
            let half = bytes.get(from..from + 16).and_then(|half| half.try_into().ok());
            u128::from_be_bytes(half.unwrap_or_default())
        };
        Self { high: half(0), low: half(16) }
    }

    pub(crate) fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let (high, low) = bytes.split_at_mut(16);
        high.copy_from_slice(&self.high.to_be_bytes());
        low.copy_from_slice(&self.low.to_be_bytes());
        bytes
    }
}

impl EncryptedUser {
    /// Checks that none of the records that the roster holds was put back or taken away. `logins`: the space is one of who may log in.
    /// Elsewhere, what adds up without such records has none: a user's space is not read for what it never has.
    pub(crate) async fn check_roster(&self, logins: bool) -> Result<()> {
        for _ in 0..TRIES {
            let (state, note) = self.look().await?;
            let keys = self.keys().await?;
            let mut sum = Roster::default();
            let (mut one_moment, mut all) = (true, logins || self.is_deployment());
            for space in spaces(self.is_deployment()) {
                if is_of_logins(space) && !all {
                    if sum == note.roster {
                        break;
                    }
                    all = true;
                }
                let mut from: Option<RecordId> = None;
                loop {
                    let scan = Scan::heads(space, PAGE);
                    let page = self.inner.scan(match from.take() {
                        Some(from) => scan.from(from),
                        None => scan,
                    });
                    let page = page.await?;
                    one_moment &= page.stamp == state.stamp;
                    for (head, _) in &page.value.records {
                        if one_moment && head.version.0 > note.newest(state.stamp) {
                            return Err(tampered());
                        }
                        sum.add(self.term(&keys, space, &head.id, head.version));
                    }
                    from = page.value.next();
                    if from.is_none() {
                        break;
                    }
                }
            }
            if one_moment {
                #[cfg(feature = "faults")]
                if self.ring.has(crate::Fault::RosterIgnored) {
                    return Ok(());
                }
                return if sum == note.roster { Ok(()) } else { Err(rolled_back()) };
            }
            self.forget();
        }
        Err(busy())
    }

    fn term(&self, keys: &UserKeys, space: Keyspace, stored: &RecordId, version: Version) -> Roster {
        Roster::term(keys.root.roster_key(), self.life, space, stored, version)
    }

    /// The roster after a batch. What a batch clears goes first, whatever the order of its operations.
    pub(crate) async fn next_roster(
        &self,
        keys: &UserKeys,
        sealed: &Batch,
        at: Stamp,
        mut sum: Roster,
        version: Version,
    ) -> Result<Roster> {
        if !sealed.ops.iter().any(|op| holds(op.space())) {
            return Ok(sum);
        }
        // A new life has nothing in it.
        let is_new = at.epoch.0 == 0;
        let mut removed = std::collections::HashSet::new();
        #[cfg(feature = "faults")]
        let keeps = self.ring.has(crate::Fault::RosterKeepsDeleted);
        #[cfg(not(feature = "faults"))]
        let keeps = false;
        for op in sealed.ops.iter().filter(|op| holds(op.space()) && !keeps) {
            let space = op.space();
            let scan = match op {
                _ if is_new => break,
                Op::Clear { .. } => Scan::heads(space, PAGE),
                Op::DeleteName { name, .. } => Scan::heads(space, PAGE).name(name.clone()),
                _ => continue,
            };
            let mut from: Option<RecordId> = None;
            loop {
                let page = self.inner.scan(match from.take() {
                    Some(from) => scan.clone().from(from),
                    None => scan.clone(),
                });
                let page = page.await?;
                if page.stamp != at {
                    return Err(moved_on());
                }
                for (head, _) in &page.value.records {
                    if removed.insert((space, head.id.clone())) {
                        sum.subtract(self.term(keys, space, &head.id, head.version));
                    }
                }
                from = page.value.next();
                if from.is_none() {
                    break;
                }
            }
        }
        for op in sealed.ops.iter().filter(|op| holds(op.space())) {
            let (space, Some(id)) = (op.space(), op.id()) else { continue };
            if matches!(op, Op::Rewrite { .. }) {
                continue;
            }
            if !is_new
                && !removed.contains(&(space, id.clone()))
                && let Some(old) = self.stored_head(at, space, id).await?
            {
                sum.subtract(self.term(keys, space, id, old.version));
            }
            if matches!(op, Op::Put { .. } | Op::PutHead { .. }) {
                sum.add(self.term(keys, space, id, version));
            }
        }
        Ok(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn term(name: &str, version: u64) -> Roster {
        let key = SecretKey::from_bytes(&[7; 32]);
        let id = RecordId::new(name.as_bytes().to_vec(), 0).unwrap();
        Roster::term(&key, Incarnation(5), Keyspace::Agents, &id, Version(version))
    }

    #[test]
    fn order_does_not_matter_and_everything_else_does() {
        let mut one = Roster::default();
        let mut other = Roster::default();
        for name in ["a", "b", "c"] {
            one.add(term(name, 1));
        }
        for name in ["c", "a", "b"] {
            other.add(term(name, 1));
        }
        assert_eq!(one, other);
        other.subtract(term("b", 1));
        assert_ne!(one, other);
        other.add(term("b", 2));
        assert_ne!(one, other);
        other.subtract(term("b", 2));
        other.add(term("b", 1));
        assert_eq!(one, other);
        assert_eq!(Roster::from_bytes(one.to_bytes()), one);
    }

    #[test]
    fn sums_carry_and_borrow() {
        let max = Roster { high: u128::MAX, low: u128::MAX };
        let one = Roster { high: 0, low: 1 };
        let mut sum = max;
        sum.add(one);
        assert_eq!(sum, Roster::default());
        sum.subtract(one);
        assert_eq!(sum, max);
    }
}
