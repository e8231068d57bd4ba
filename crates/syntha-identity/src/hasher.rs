//! Passwords by Argon2id (RFC 9106), a few at a time.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use argon2::password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use hmac::{Hmac, KeyInit, Mac};
use parking_lot::Mutex;
use sha2::Sha256;
use subtle::ConstantTimeEq;
use syntha_store::{FairConfig, FairKey, FairPermit, FairQueue, UserId};
use tokio::time::Instant;
use zeroize::{Zeroize, Zeroizing};

use crate::config::Pepper;
use crate::error::{Error, ErrorKind, Result};
use crate::password::Password;
use crate::rows::PasswordRow;
use crate::throttle::Source;

/// How long a login waits for its turns.
const DEADLINE: Duration = Duration::from_secs(2);
/// How many logins are looked at before their password is, and wait for its turn, for each password that is looked at: half of them of one
/// user from one source.
const DESKS: usize = 4;
/// How many wait for that, for each password that is looked at: of one user from one source, and in all.
const WAITING: (usize, usize) = (32, 128);
const HASH_BYTES: usize = 32;
const SALT_BYTES: usize = 16;

/// What Argon2id is run with: between 7 MiB and 1 GiB of memory, 1 to 16 passes, 1 to 8 lanes, and memory times passes at least 35,840 KiB,
/// the weakest of the settings that OWASP's cheat sheet holds equal.
///
/// The default is 19 MiB, 2 passes, 1 lane. 46 MiB and more are better where there is memory for it: as many run at once as there are cores
/// but one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct HashingCost {
    /// Memory in KiB.
    pub m_kib: u32,
    /// Passes over the memory.
    pub t: u32,
    /// Lanes.
    pub p: u32,
}

impl HashingCost {
    const LEAST_KIB: u32 = 7 * 1024;
    const MOST_KIB: u32 = 1024 * 1024;
    const MOST_PASSES: u32 = 16;
    const MOST_LANES: u32 = 8;
    const LEAST_WORK: u64 = 35_840;

    /// Settings in the range above.
    ///
    /// # Errors
    ///
    /// `Invalid` outside of it.
    pub fn new(m_kib: u32, t: u32, p: u32) -> Result<Self> {
        let cost = Self { m_kib, t, p };
        let weak = m_kib < Self::LEAST_KIB || u64::from(m_kib) * u64::from(t) < Self::LEAST_WORK;
        if weak || !cost.is_bearable() {
            return Err(Error::new(
                ErrorKind::Invalid,
                "hashing takes 7 MiB to 1 GiB, 1 to 16 passes, 1 to 8 lanes, and 35,840 KiB times passes at least",
            ));
        }
        Ok(cost)
    }

    /// 64 KiB and one pass: fast, and no protection. For tests alone.
    #[cfg(feature = "faults")]
    #[must_use]
    pub const fn weak() -> Self {
        Self { m_kib: 64, t: 1, p: 1 }
    }

    /// Whether a record that names it may be looked at: asked before any memory is taken, so that a forged one costs nothing.
    const fn is_bearable(self) -> bool {
        self.m_kib <= Self::MOST_KIB
            && self.t >= 1
            && self.t <= Self::MOST_PASSES
            && self.p >= 1
            && self.p <= Self::MOST_LANES
    }

    const fn is_below(self, policy: Self) -> bool {
        self.m_kib < policy.m_kib || self.t < policy.t
    }
}

impl Default for HashingCost {
    fn default() -> Self {
        Self { m_kib: 19 * 1024, t: 2, p: 1 }
    }
}

/// How much hashing is under way in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HashingLoad {
    /// How many may run at once.
    pub permits: usize,
    /// How many run.
    pub running: usize,
    /// The most that ever ran at once.
    pub peak: usize,
    /// How many logins wait for their turn or are being looked at before it.
    pub waiting: usize,
    /// How many passwords were hashed since the start.
    pub hashed: u64,
    /// How many logins had to wait for others since the start.
    pub waited: u64,
}

#[derive(Debug, Default)]
struct Counts {
    running: AtomicUsize,
    peak: AtomicUsize,
    waiting: AtomicUsize,
    hashed: AtomicU64,
}

/// What runs Argon2id.
pub(crate) struct Hasher {
    cost: HashingCost,
    /// By number; the last is the newest.
    peppers: Arc<[Pepper]>,
    /// What the password of nobody is compared with: random, so nothing equals it.
    dummy: PasswordRow,
    /// Before anything is read for a login; and before its password is looked at.
    desks: FairQueue,
    permits: FairQueue,
    /// Makes of who is named, and of where it comes from, numbers that nobody can aim at.
    numbers: RandomState,
    size: usize,
    counts: Arc<Counts>,
    memory: Arc<Memory>,
    /// For a test: the permit stays with the caller.
    permit_with_caller: bool,
}

/// A place in the queue. Given back when dropped.
pub(crate) struct Place {
    key: FairKey,
    /// How long it may still wait.
    left: Duration,
    _desk: FairPermit,
    _counted: Counted,
}

/// Counts one who waits.
struct Counted(Arc<Counts>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What came of comparing a password.
pub(crate) struct Verified {
    pub(crate) holds: bool,
    /// What to keep instead, where what is kept is weaker than what would be kept today.
    pub(crate) renewed: Option<PasswordRow>,
}

impl Hasher {
    pub(crate) fn new(
        cost: HashingCost,
        mut peppers: Vec<Pepper>,
        permits: Option<usize>,
        permit_with_caller: bool,
        first_come: bool,
    ) -> Result<Self> {
        peppers.sort_by_key(|pepper| pepper.number);
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let size = permits.unwrap_or_else(|| cores.saturating_sub(1)).max(1);
        let mut hash = [0; HASH_BYTES];
        fill(&mut hash)?;
        let pepper = peppers.last().map_or(0, |pepper| pepper.number);
        let dummy = PasswordRow { phc: phc(cost, &random_salt()?, &hash)?, pepper };
        Ok(Self {
            cost,
            peppers: peppers.into(),
            dummy,
            desks: line(FairConfig::new(DESKS * size).each(DESKS * size / 2), size, first_come),
            permits: line(FairConfig::new(size), size, first_come),
            numbers: RandomState::new(),
            size,
            counts: Arc::default(),
            memory: Arc::default(),
            permit_with_caller,
        })
    }

    pub(crate) fn load(&self) -> HashingLoad {
        let counts = &self.counts;
        HashingLoad {
            permits: self.size,
            running: counts.running.load(Ordering::Acquire),
            peak: counts.peak.load(Ordering::Acquire),
            waiting: counts.waiting.load(Ordering::Acquire),
            hashed: counts.hashed.load(Ordering::Acquire),
            waited: self.desks.load().waited + self.permits.load().waited,
        }
    }

    /// A place in the queue, before any other work is done for the caller. Turns go by where a login comes from, then by who is named: it is
    /// the same whether there is such a user. `None`: from the host.
    pub(crate) async fn queue(&self, user: &UserId, source: Option<&Source>) -> Result<Place> {
        let own = self.numbers.hash_one(("user", user.as_str()));
        let group = source.map_or(own, |source| self.numbers.hash_one(("source", source.bytes())));
        let key = FairKey { group, user: own.into() };
        self.counts.waiting.fetch_add(1, Ordering::AcqRel);
        let counted = Counted(Arc::clone(&self.counts));
        let since = Instant::now();
        let desk = turn(&self.desks, key, DEADLINE).await?;
        let left = DEADLINE.saturating_sub(since.elapsed());
        Ok(Place { key, left, _desk: desk, _counted: counted })
    }

    /// Hashes a new password.
    pub(crate) async fn hash(&self, place: Place, password: Password) -> Result<PasswordRow> {
        let (cost, peppers) = (self.cost, Arc::clone(&self.peppers));
        self.run(place, move |memory| hash(memory, cost, &peppers, &password)).await?
    }

    /// Compares a password with what is kept of one. `None`: with nothing, at the same cost.
    pub(crate) async fn verify(
        &self,
        place: Place,
        password: Password,
        kept: Option<PasswordRow>,
    ) -> Result<Verified> {
        let (cost, peppers) = (self.cost, Arc::clone(&self.peppers));
        let is_dummy = kept.is_none();
        let kept = kept.unwrap_or_else(|| self.dummy.clone());
        let dummy = self.dummy.clone();
        let run = move |memory: &Memory| {
            let newest = peppers.last().map_or(0, |pepper| pepper.number);
            // A record that can't be looked at costs what a wrong password does.
            let (parsed, known) = match parse(&kept) {
                Ok(parsed) if has_pepper(&peppers, kept.pepper) => (parsed, true),
                _ => (parse(&dummy)?, false),
            };
            let found = digest(memory, parsed.cost, &peppers, kept.pepper, &password, &parsed.salt)?;
            let holds = bool::from(found[..].ct_eq(&parsed.hash)) && known && !is_dummy;
            let weak = parsed.cost.is_below(cost) || kept.pepper != newest;
            let renewed = if holds && weak { Some(hash(memory, cost, &peppers, &password)?) } else { None };
            Ok(Verified { holds, renewed })
        };
        self.run(place, run).await?
    }

    async fn run<T: Send + 'static>(
        &self,
        place: Place,
        work: impl FnOnce(&Memory) -> T + Send + 'static,
    ) -> Result<T> {
        let permit = turn(&self.permits, place.key, place.left).await?;
        drop(place);
        let (inside, outside) =
            if self.permit_with_caller { (None, Some(permit)) } else { (Some(permit), None) };
        let (counts, memory) = (Arc::clone(&self.counts), Arc::clone(&self.memory));
        let run = move || {
            // INVARIANT: the permit goes with the work, not with the future that waits for it: who gives up frees no memory.
            let _permit = inside;
            let running = Running::start(counts);
            let done = work(&memory);
            memory.rest(running.is_last());
            done
        };
        let done = tokio::task::spawn_blocking(run).await.map_err(|_| unavailable());
        drop(outside);
        done
    }
}

fn line(config: FairConfig, size: usize, first_come: bool) -> FairQueue {
    let config = config.waiting(WAITING.0 * size, WAITING.1 * size);
    #[cfg(feature = "faults")]
    if first_come {
        return FairQueue::new(config.fault(syntha_store::FairFault::FirstComeFirstServed));
    }
    let _ = first_come;
    FairQueue::new(config)
}

/// Waits for a turn. Who is sent away is told the same whatever others do.
async fn turn(line: &FairQueue, key: FairKey, within: Duration) -> Result<FairPermit> {
    match line.try_acquire(key) {
        Some(permit) => Ok(permit),
        None => match tokio::time::timeout(within, line.acquire(key)).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Error::busy(DEADLINE)),
        },
    }
}

struct Running(Arc<Counts>);

impl Running {
    fn start(counts: Arc<Counts>) -> Self {
        let now = counts.running.fetch_add(1, Ordering::AcqRel) + 1;
        counts.peak.fetch_max(now, Ordering::AcqRel);
        counts.hashed.fetch_add(1, Ordering::AcqRel);
        Self(counts)
    }
}

impl Running {
    /// Whether nobody else hashes or waits for it.
    fn is_last(&self) -> bool {
        self.0.running.load(Ordering::Acquire) == 1 && self.0.waiting.load(Ordering::Acquire) == 0
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}

struct Parsed {
    cost: HashingCost,
    salt: Vec<u8>,
    hash: Vec<u8>,
}

fn parse(kept: &PasswordRow) -> Result<Parsed> {
    let parsed = PasswordHash::new(&kept.phc).map_err(|_| Error::corrupt())?;
    let params = Params::try_from(&parsed).map_err(|_| Error::corrupt())?;
    let cost = HashingCost { m_kib: params.m_cost(), t: params.t_cost(), p: params.p_cost() };
    let (Some(salt), Some(hash)) = (parsed.salt, parsed.hash) else { return Err(Error::corrupt()) };
    let ours = parsed.algorithm.as_str() == "argon2id" && parsed.version == Some(0x13);
    if !ours || !cost.is_bearable() || hash.as_bytes().len() != HASH_BYTES {
        return Err(Error::corrupt());
    }
    Ok(Parsed { cost, salt: salt.to_vec(), hash: hash.as_bytes().to_vec() })
}

fn hash(memory: &Memory, cost: HashingCost, peppers: &[Pepper], password: &Password) -> Result<PasswordRow> {
    let salt = random_salt()?;
    let pepper = peppers.last().map_or(0, |pepper| pepper.number);
    let hash = digest(memory, cost, peppers, pepper, password, &salt)?;
    Ok(PasswordRow { phc: phc(cost, &salt, &hash[..])?, pepper })
}

fn has_pepper(peppers: &[Pepper], number: u32) -> bool {
    number == 0 || peppers.iter().any(|pepper| pepper.number == number)
}

/// Argon2id over the password, or over its HMAC-SHA-256 under a pepper.
fn digest(
    memory: &Memory,
    cost: HashingCost,
    peppers: &[Pepper],
    pepper: u32,
    password: &Password,
    salt: &[u8],
) -> Result<Zeroizing<[u8; HASH_BYTES]>> {
    let params = Params::new(cost.m_kib, cost.t, cost.p, Some(HASH_BYTES)).map_err(|_| Error::corrupt())?;
    let mut blocks = memory.take(params.block_count())?;
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let mut out = Zeroizing::new([0; HASH_BYTES]);
    let peppered;
    let input = match peppers.iter().find(|known| known.number == pepper) {
        Some(pepper) => {
            peppered = pepper.mac(password.as_bytes());
            &peppered[..]
        }
        None => password.as_bytes(),
    };
    let hashed = argon2.hash_password_into_with_memory(input, salt, &mut out[..], &mut blocks);
    memory.give_back(blocks);
    hashed.map_err(|_| Error::corrupt())?;
    Ok(out)
}

impl Pepper {
    fn mac(&self, password: &[u8]) -> Zeroizing<[u8; 32]> {
        #[allow(clippy::expect_used, reason = "HMAC takes a key of any length (RFC 2104, section 2)")]
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&self.key[..]).expect("any key length");
        mac.update(password);
        let mut out = Zeroizing::new([0; 32]);
        out.copy_from_slice(&mac.finalize().into_bytes());
        out
    }
}

/// The form in which a hash is kept: a string of the PHC, <https://github.com/P-H-C/phc-string-format>.
fn phc(cost: HashingCost, salt: &[u8], hash: &[u8]) -> Result<String> {
    let params = Params::new(cost.m_kib, cost.t, cost.p, None).map_err(|_| Error::corrupt())?;
    let whole = PasswordHash {
        algorithm: Algorithm::Argon2id.ident(),
        version: Some(Version::V0x13.into()),
        params: ParamsString::try_from(&params).map_err(|_| Error::corrupt())?,
        salt: Some(Salt::new(salt).map_err(|_| Error::corrupt())?),
        hash: Some(Output::new(hash).map_err(|_| Error::corrupt())?),
    };
    Ok(whole.to_string())
}

fn random_salt() -> Result<[u8; SALT_BYTES]> {
    let mut salt = [0; SALT_BYTES];
    fill(&mut salt)?;
    Ok(salt)
}

fn fill(bytes: &mut [u8]) -> Result<()> {
    getrandom::fill(bytes).map_err(|source| {
        Error::new(ErrorKind::Unavailable, "the system's random source failed").with_source(source)
    })
}

/// Argon2's memory, wiped after each use and used again while there is more to hash: an allocator that is given it back by many threads keeps
/// several times as much.
#[derive(Default)]
struct Memory(Mutex<Vec<Vec<Block>>>);

impl Memory {
    fn take(&self, count: usize) -> Result<Vec<Block>> {
        let mut blocks = self.0.lock().pop().unwrap_or_default();
        if blocks.len() != count {
            blocks = Vec::new();
            blocks.try_reserve_exact(count).map_err(|_| unavailable())?;
            blocks.resize(count, Block::default());
        }
        Ok(blocks)
    }

    fn give_back(&self, mut blocks: Vec<Block>) {
        blocks.iter_mut().for_each(Zeroize::zeroize);
        self.0.lock().push(blocks);
    }

    /// Frees what is kept once there is nothing more to hash.
    fn rest(&self, is_last: bool) {
        if is_last {
            let kept = std::mem::take(&mut *self.0.lock());
            drop(kept);
        }
    }
}

const fn unavailable() -> Error {
    Error::new(ErrorKind::Unavailable, "there is not enough memory to look at a password, try again later")
}
