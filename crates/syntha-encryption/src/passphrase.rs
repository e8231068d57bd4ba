//! A key from a passphrase: Argon2id, RFC 9106.

use std::sync::{Arc, OnceLock};

use argon2::{Algorithm, Argon2, Block, Params, Version};
use syntha_store::{Error, ErrorKind, Result};
use tokio::sync::Semaphore;
use zeroize::{Zeroize, Zeroizing};

use crate::secret::fill;
use crate::{SecretBytes, SecretKey};

const MIN_KIB: u32 = 64 * 1024;
const MAX_KIB: u32 = 2 * 1024 * 1024;
const MIN_PASSES: u32 = 3;
const MAX_PASSES: u32 = 24;
const MAX_LANES: u32 = 16;
const MIN_PASSPHRASE: usize = 12;
const MAX_PASSPHRASE: usize = 4096;

/// What Argon2id is run with. Public, and kept beside what the passphrase opens.
///
/// Between 64 MiB and 2 GiB of memory, 3 to 24 passes, 1 to 16 lanes. Parameters outside are refused before any memory
/// is taken, so that a forged file costs its reader nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PassphraseParameters {
    /// Memory in KiB.
    pub m_kib: u32,
    /// Passes over the memory.
    pub t: u32,
    /// Lanes.
    pub p: u32,
    /// Random, and new for each passphrase that is set.
    pub salt: [u8; 16],
}

impl PassphraseParameters {
    /// The bytes of [`encode`](Self::encode).
    pub const BYTES: usize = 28;

    /// 256 MiB, 3 passes, 4 lanes, a new salt.
    ///
    /// # Errors
    ///
    /// `Unavailable` if the system has no random source.
    pub fn generate() -> Result<Self> {
        let mut salt = [0; 16];
        fill(&mut salt)?;
        Ok(Self { m_kib: 256 * 1024, t: 3, p: 4, salt })
    }

    /// Whether a passphrase may be tried with these.
    ///
    /// # Errors
    ///
    /// `KeyRefused` under the floor, `LimitExceeded` over the ceiling.
    pub const fn check(&self) -> Result<()> {
        if self.m_kib < MIN_KIB || self.t < MIN_PASSES || self.p < 1 {
            return Err(Error::new(
                ErrorKind::KeyRefused,
                "the passphrase's parameters are too weak, they need 64 MiB, 3 passes and a lane at least",
            ));
        }
        if self.m_kib > MAX_KIB || self.t > MAX_PASSES || self.p > MAX_LANES {
            return Err(Error::new(
                ErrorKind::LimitExceeded,
                "the passphrase's parameters cost more than 2 GiB, 24 passes or 16 lanes, they are not used",
            ));
        }
        Ok(())
    }

    /// `m_kib(4) | t(4) | p(4) | salt(16)`, most significant byte first.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let fields =
            self.m_kib.to_be_bytes().into_iter().chain(self.t.to_be_bytes()).chain(self.p.to_be_bytes());
        for (to, from) in bytes.iter_mut().zip(fields.chain(self.salt)) {
            *to = from;
        }
        bytes
    }

    /// Reads what [`encode`](Self::encode) wrote. [`check`](Self::check) is left to [`derive`](Self::derive).
    #[must_use]
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Self {
        let [m0, m1, m2, m3, t0, t1, t2, t3, p0, p1, p2, p3, salt @ ..] = *bytes;
        Self {
            m_kib: u32::from_be_bytes([m0, m1, m2, m3]),
            t: u32::from_be_bytes([t0, t1, t2, t3]),
            p: u32::from_be_bytes([p0, p1, p2, p3]),
            salt,
        }
    }

    /// The passphrase's key.
    ///
    /// The passphrase is taken as the bytes that it is, 12 to 4,096 of them: whoever reads it from a person brings it
    /// into one form (such as NFC) first. Runs beside the runtime's threads, in one process on all cores but one at
    /// most; others wait. A run that nobody waits for any more ends by itself, and counts until it did.
    ///
    /// # Errors
    ///
    /// `KeyRefused` for a passphrase of another length and for parameters that are too weak, `LimitExceeded` for
    /// parameters that cost too much, `KeyUnavailable` if there is not enough memory.
    pub async fn derive(&self, passphrase: &SecretBytes) -> Result<SecretKey> {
        self.derive_among(permits(), passphrase).await
    }

    async fn derive_among(&self, permits: &Arc<Semaphore>, passphrase: &SecretBytes) -> Result<SecretKey> {
        self.check()?;
        if !(MIN_PASSPHRASE..=MAX_PASSPHRASE).contains(&passphrase.as_bytes().len()) {
            return Err(Error::new(
                ErrorKind::KeyRefused,
                "a passphrase has 12 to 4096 bytes, use several words or the output of a generator",
            ));
        }
        #[cfg(test)]
        tests::DERIVED.with(|derived| derived.set(derived.get() + 1));
        let (parameters, passphrase) = (*self, passphrase.clone());
        let permit = Arc::clone(permits).acquire_owned().await.map_err(|_| unavailable())?;
        let run = move || {
            // INVARIANT: the permit goes with the work, not with the future that waits for it.
            let _permit = permit;
            let Self { m_kib, t, p, salt } = parameters;
            argon2id(passphrase.as_bytes(), &salt, m_kib, t, p)
        };
        tokio::task::spawn_blocking(run).await.map_err(|_| unavailable())?
    }
}

/// How many may run at once in this process.
fn permits() -> &'static Arc<Semaphore> {
    static PERMITS: OnceLock<Arc<Semaphore>> = OnceLock::new();
    PERMITS.get_or_init(|| {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Arc::new(Semaphore::new(cores.saturating_sub(1).max(1)))
    })
}

fn argon2id(passphrase: &[u8], salt: &[u8], m_kib: u32, t: u32, p: u32) -> Result<SecretKey> {
    let params = Params::new(m_kib, t, p, Some(32))
        .map_err(|_| Error::new(ErrorKind::KeyRefused, "the passphrase's parameters are not Argon2's"))?;
    let mut memory = Memory::take(params.block_count())?;
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into_with_memory(passphrase, salt, &mut key[..], &mut memory.0)
        .map_err(|_| Error::new(ErrorKind::KeyRefused, "the passphrase's parameters are not Argon2's"))?;
    Ok(SecretKey::from_bytes(&key))
}

/// Argon2's memory. The crate frees its own as it is; this is wiped first.
struct Memory(Vec<Block>);

impl Memory {
    fn take(blocks: usize) -> Result<Self> {
        let mut memory = Vec::new();
        memory.try_reserve_exact(blocks).map_err(|_| unavailable())?;
        memory.resize(blocks, Block::default());
        Ok(Self(memory))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.0.iter_mut().for_each(Zeroize::zeroize);
    }
}

const fn unavailable() -> Error {
    Error::new(ErrorKind::KeyUnavailable, "there is not enough memory to try the passphrase, try it later")
}

#[cfg(test)]
pub(crate) mod tests {
    use std::task::Poll;
    use std::time::{Duration, Instant};

    use super::*;

    thread_local! {
        /// How many passphrases were tried on this thread.
        pub(crate) static DERIVED: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
    }

    /// The cheapest that is allowed.
    pub(crate) const FLOOR: PassphraseParameters =
        PassphraseParameters { m_kib: 64 * 1024, t: 3, p: 1, salt: [7; 16] };

    fn passphrase(text: &str) -> SecretBytes {
        SecretBytes::new(text.as_bytes())
    }

    async fn kind(parameters: PassphraseParameters, text: &str) -> Option<ErrorKind> {
        parameters.derive(&passphrase(text)).await.err().map(|error| error.kind())
    }

    /// From `src/test.c` of the reference implementation, <https://github.com/P-H-C/phc-winner-argon2>.
    #[test]
    fn a_published_vector() {
        let key = argon2id(b"password", b"somesalt", 65536, 2, 1).unwrap();
        let hex = data_encoding::HEXLOWER.encode(key.as_bytes());
        assert_eq!(hex, "09316115d5cf24ed5a15a31a3ba326e5cf32edc24702987c02b6566f61913cf7");
    }

    #[tokio::test]
    async fn every_parameter_and_the_passphrase_make_the_key() {
        let text = "correct horse battery";
        let key = FLOOR.derive(&passphrase(text)).await.unwrap();
        let again = FLOOR.derive(&passphrase(text)).await.unwrap();
        assert_eq!(key.as_bytes(), again.as_bytes());
        for other in [
            PassphraseParameters { m_kib: 64 * 1024 + 8, ..FLOOR },
            PassphraseParameters { t: 4, ..FLOOR },
            PassphraseParameters { p: 2, ..FLOOR },
            PassphraseParameters { salt: [8; 16], ..FLOOR },
        ] {
            let other = other.derive(&passphrase(text)).await.unwrap();
            assert_ne!(key.as_bytes(), other.as_bytes());
        }
        let other = FLOOR.derive(&passphrase("correct horse batterz")).await.unwrap();
        assert_ne!(key.as_bytes(), other.as_bytes());
    }

    #[tokio::test]
    async fn weak_parameters_are_refused() {
        for weak in [
            PassphraseParameters { m_kib: 64 * 1024 - 1, ..FLOOR },
            PassphraseParameters { m_kib: 0, ..FLOOR },
            PassphraseParameters { t: 2, ..FLOOR },
            PassphraseParameters { p: 0, ..FLOOR },
        ] {
            assert_eq!(kind(weak, "correct horse battery").await, Some(ErrorKind::KeyRefused));
        }
    }

    #[tokio::test]
    async fn costly_parameters_are_refused_at_once() {
        let start = Instant::now();
        for costly in [
            PassphraseParameters { m_kib: 1 << 31, ..FLOOR },
            PassphraseParameters { m_kib: 2 * 1024 * 1024 + 1, ..FLOOR },
            PassphraseParameters { t: 25, ..FLOOR },
            PassphraseParameters { t: u32::MAX, ..FLOOR },
            PassphraseParameters { p: 17, ..FLOOR },
            PassphraseParameters { m_kib: u32::MAX, t: u32::MAX, p: u32::MAX, ..FLOOR },
        ] {
            assert_eq!(kind(costly, "correct horse battery").await, Some(ErrorKind::LimitExceeded));
        }
        assert!(start.elapsed() < Duration::from_millis(500));
    }

    #[tokio::test]
    async fn short_and_endless_passphrases_are_refused() {
        for text in [String::new(), "elevenbytes".to_owned(), "x".repeat(4097)] {
            assert_eq!(kind(FLOOR, &text).await, Some(ErrorKind::KeyRefused));
        }
    }

    #[tokio::test]
    async fn a_run_keeps_its_permit_when_nobody_waits() {
        let (permits, passphrase) = (Arc::new(Semaphore::new(1)), passphrase("correct horse battery"));
        let mut run = Box::pin(FLOOR.derive_among(&permits, &passphrase));
        let start = Instant::now();
        FLOOR.derive_among(&permits, &passphrase).await.unwrap();
        let usual = start.elapsed();
        let first = std::future::poll_fn(|context| Poll::Ready(run.as_mut().poll(context))).await;
        assert!(first.is_pending());
        let start = Instant::now();
        drop(run);
        // It comes back when the work is done, and not before.
        let _permit = permits.acquire().await.unwrap();
        assert!(start.elapsed() > usual / 5);
    }

    #[test]
    fn parameters_are_read_back() {
        let one = PassphraseParameters { m_kib: 0x0102_0304, t: 0x0506_0708, p: 0x090A_0B0C, salt: [13; 16] };
        assert_eq!(PassphraseParameters::decode(&one.encode()), one);
        assert_eq!(one.encode()[..13], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]);
        let (new, newer) =
            (PassphraseParameters::generate().unwrap(), PassphraseParameters::generate().unwrap());
        assert_eq!((new.m_kib, new.t, new.p), (256 * 1024, 3, 4));
        assert_ne!(new.salt, newer.salt);
        new.check().unwrap();
    }
}
