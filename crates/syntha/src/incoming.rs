use std::io::Read;
use std::time::Duration;

use async_trait::async_trait;
use syntha_store::archive::Reader;
use syntha_store::{Error, ErrorKind, Incarnation, Result, Snapshot, StoredRecord, UserState, UserTag};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// How long an archive may take to arrive, from its first byte to its last.
const LIMIT: Duration = Duration::from_secs(60);

/// An archive that a thread of its own reads, so that a slow source holds up no task, and nobody's data for long.
pub(crate) struct Incoming {
    owner: UserTag,
    state: UserState,
    chunks: mpsc::Receiver<Result<Option<Vec<StoredRecord>>>>,
    until: Instant,
}

impl Incoming {
    pub(crate) async fn read(source: impl Read + Send + 'static) -> Result<Self> {
        let (opened, head) = oneshot::channel();
        let (sender, chunks) = mpsc::channel(2);
        let runtime = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || {
            let mut reader = match Reader::open(source) {
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
        let until = Instant::now() + LIMIT;
        let head = tokio::time::timeout_at(until, head).await.map_err(|_| late())?;
        let (owner, state) = head.map_err(|_| late())??;
        Ok(Self { owner, state, chunks, until })
    }
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

    async fn next(&mut self) -> Result<Option<Vec<StoredRecord>>> {
        let chunk = tokio::time::timeout_at(self.until, self.chunks.recv()).await.map_err(|_| late())?;
        chunk.unwrap_or_else(|| Err(late()))
    }
}

const fn late() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "the archive did not arrive within 60 seconds, copy it to a file first",
    )
}
