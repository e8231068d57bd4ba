use std::io::{Cursor, Read};
use std::time::Duration;

use async_trait::async_trait;
use syntha_mesh::{KeptLimits, Permissions, Tally};
use syntha_store::archive::Reader;
use syntha_store::{
    ChainHead, Error, ErrorKind, Incarnation, Keyspace, Result, Snapshot, StoredRecord, UserState, UserTag,
    Version,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// How long an archive may take to arrive, from its first byte to its last.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
/// The same for a file of this machine.
#[cfg(all(feature = "encryption", feature = "sqlite"))]
pub(crate) const LOCAL_LIMIT: Duration = Duration::from_secs(24 * 3_600);
/// How many bytes tell a sealed archive from a plain one.
const FIRST: usize = 16;

/// What kind of archive is taken.
pub(crate) enum Expected {
    /// One that is not sealed.
    Plain,
    /// One that is sealed, of the user whose archives these are.
    #[cfg(feature = "encryption")]
    Sealed(syntha_encryption::UserArchives),
}

/// An archive that a thread of its own reads, so that a slow source holds up no task, and nobody's data for long.
pub(crate) struct Incoming {
    owner: UserTag,
    state: UserState,
    chunks: mpsc::Receiver<Result<Option<Vec<StoredRecord>>>>,
    until: Instant,
}

impl Incoming {
    pub(crate) async fn read(
        source: impl Read + Send + 'static,
        expected: Expected,
        limit: Duration,
    ) -> Result<Self> {
        let (opened, head) = oneshot::channel();
        let (sender, chunks) = mpsc::channel(2);
        let runtime = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || {
            let mut reader = match expected.open(source).and_then(Reader::open) {
                Ok(reader) => reader,
                Err(error) => return drop(opened.send(Err(error))),
            };
            if opened.send(Ok((reader.owner(), reader.state()))).is_err() {
                return;
            }
            loop {
                let chunk = runtime.block_on(reader.next());
                let last = !matches!(chunk, Ok(Some(_)));
                if sender.blocking_send(chunk).is_err() || last {
                    return;
                }
            }
        });
        let until = Instant::now() + limit;
        let head = tokio::time::timeout_at(until, head).await.map_err(|_| late())?;
        let (owner, state) = head.map_err(|_| late())??;
        Ok(Self { owner, state, chunks, until })
    }
}

impl Expected {
    /// Looks at the first bytes, and gives the plain archive that is in the source.
    fn open(self, mut source: impl Read + Send + 'static) -> Result<Box<dyn Read + Send>> {
        let mut first = Vec::with_capacity(FIRST);
        let read = source.by_ref().take(FIRST as u64).read_to_end(&mut first);
        read.map_err(|error| {
            Error::new(ErrorKind::Unavailable, "the archive can't be read").with_source(error)
        })?;
        let sealed = is_sealed(&first);
        let whole = Cursor::new(first).chain(source);
        match self {
            Self::Plain if sealed => Err(Error::new(
                ErrorKind::Refused,
                "the archive is sealed: restore it where it was made, in the sealed data, and not as a plain one",
            )),
            Self::Plain => Ok(Box::new(whole)),
            #[cfg(feature = "encryption")]
            Self::Sealed(_) if !sealed => Err(Error::new(
                ErrorKind::Refused,
                "the archive is not sealed, so anybody can have changed it: if you trust it, restore it as a plain one",
            )),
            #[cfg(feature = "encryption")]
            Self::Sealed(archives) => Ok(Box::new(archives.reader(whole)?)),
        }
    }
}

#[cfg(feature = "encryption")]
fn is_sealed(first: &[u8]) -> bool {
    syntha_encryption::stream::is_sealed(first)
}

/// A build without the layer takes no sealed archive for one.
#[cfg(not(feature = "encryption"))]
fn is_sealed(_: &[u8]) -> bool {
    false
}

#[async_trait]
impl Snapshot for Incoming {
    fn owner(&self) -> UserTag {
        self.owner
    }

    fn state(&self) -> UserState {
        self.state
    }

    fn life(&self) -> Option<Incarnation> {
        None
    }

    fn follows(&self) -> Option<ChainHead> {
        None
    }

    async fn next(&mut self) -> Result<Option<Vec<StoredRecord>>> {
        let chunk = tokio::time::timeout_at(self.until, self.chunks.recv()).await.map_err(|_| late())?;
        chunk.unwrap_or_else(|| Err(late()))
    }
}

/// A snapshot whose agents may do no more than those of the same names may now.
pub(crate) struct Restricted {
    pub(crate) inner: Incoming,
    /// `None` leaves the archive's permissions.
    pub(crate) present: Option<Permissions>,
    /// What the user may use from then on; `None` leaves what the archive says.
    pub(crate) limits: Option<KeptLimits>,
    /// What came so far.
    pub(crate) tally: Tally,
}

impl Restricted {
    /// Puts the user's limits into a chunk in the place of the archive's: before the first record of a later keyspace, or at the end.
    fn keep_limits(&mut self, chunk: Vec<StoredRecord>) -> Vec<StoredRecord> {
        let version = Version(self.inner.state().stamp.epoch.0);
        let Some(limits) = &mut self.limits else { return chunk };
        let mut kept = Vec::with_capacity(chunk.len() + 1);
        for stored in chunk {
            if stored.space.code() >= Keyspace::Agents.code() {
                kept.extend(limits.take(version));
            }
            if !KeptLimits::is_one(&stored) {
                kept.push(stored);
            }
        }
        kept
    }
}

#[async_trait]
impl Snapshot for Restricted {
    fn owner(&self) -> UserTag {
        self.inner.owner()
    }

    fn state(&self) -> UserState {
        self.inner.state()
    }

    fn life(&self) -> Option<Incarnation> {
        self.inner.life()
    }

    fn follows(&self) -> Option<ChainHead> {
        self.inner.follows()
    }

    async fn next(&mut self) -> Result<Option<Vec<StoredRecord>>> {
        let Some(chunk) = self.inner.next().await? else {
            // INVARIANT: what the user uses from then on is not what an archive claims.
            if !self.tally.is_within(&self.inner.state().usage) {
                return Err(Error::new(ErrorKind::Corrupt, "the archive holds more than it says"));
            }
            let version = Version(self.inner.state().stamp.epoch.0);
            return Ok(self.limits.as_mut().and_then(|limits| limits.take(version)).map(|last| vec![last]));
        };
        // INVARIANT: nobody becomes an account by an archive of a user's.
        if chunk.iter().any(|stored| stored.space.writer() == syntha_store::Writer::Identity) {
            return Err(Error::new(ErrorKind::Invalid, "a user's archive holds no accounts"));
        }
        chunk.iter().for_each(|stored| self.tally.add(stored));
        let chunk = self.keep_limits(chunk);
        let Some(present) = &self.present else { return Ok(Some(chunk)) };
        chunk.into_iter().map(|stored| present.restrict(stored)).collect::<Result<_>>().map(Some)
    }
}

const fn late() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "the archive did not arrive within 60 seconds, copy it to a file first",
    )
}
