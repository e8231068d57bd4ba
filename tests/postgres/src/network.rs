use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

/// A network between a store and the server, as a socket in a folder of its own, which is cut: each connection at a byte of its own, either way.
#[derive(Debug)]
pub struct Network {
    folder: PathBuf,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    /// Decides after how many bytes each connection is cut. None: never.
    seed: AtomicU64,
    /// At most so many bytes are left to a connection from its beginning; 0 for no limit.
    most: AtomicI64,
    cut: AtomicU64,
    /// Raised, every connection is cut.
    all: watch::Sender<u64>,
}

impl Network {
    /// Begins to pass on what comes to `folder`, which must be empty, to the server's socket. A connection lives for up to `most` bytes; 0 for ever.
    pub fn before(socket: PathBuf, folder: &Path, most: i64) -> Self {
        let listener = UnixListener::bind(folder.join(".s.PGSQL.5432")).unwrap();
        let state = Arc::new(State {
            seed: AtomicU64::new(1),
            most: AtomicI64::new(most),
            cut: AtomicU64::new(0),
            all: watch::Sender::new(0),
        });
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (state, socket) = (Arc::clone(&shared), socket.clone());
                tokio::spawn(async move {
                    if let Ok(server) = UnixStream::connect(&socket).await {
                        state.pass(client, server).await;
                    }
                });
            }
        });
        Self { folder: folder.to_owned(), state }
    }

    /// The URL for a role in a database.
    #[must_use]
    pub fn url(&self, role: &str, database: &str) -> String {
        format!("postgres://{role}@localhost/{database}?host={}", self.folder.display())
    }

    /// How many connections were cut.
    #[must_use]
    pub fn cuts(&self) -> u64 {
        self.state.cut.load(Ordering::Relaxed)
    }

    /// How long connections live that are made from now on.
    pub fn lifetimes(&self, most: i64) {
        self.state.most.store(most, Ordering::Relaxed);
    }

    /// Cuts every connection that there is.
    pub fn cut_all(&self) {
        self.state.all.send_modify(|times| *times += 1);
    }
}

impl State {
    async fn pass(&self, client: UnixStream, server: UnixStream) {
        let left = AtomicI64::new(self.lifetime());
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let mut all = self.all.subscribe();
        // Whichever ends first ends both: what was not passed on by then is lost.
        tokio::select! {
            () = pass(from_client, to_server, &left) => {}
            () = pass(from_server, to_client, &left) => {}
            _ = all.changed() => { left.store(0, Ordering::Relaxed); }
        }
        if left.load(Ordering::Relaxed) <= 0 {
            self.cut.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The same in each run.
    fn lifetime(&self) -> i64 {
        let most = self.most.load(Ordering::Relaxed);
        if most == 0 {
            return i64::MAX;
        }
        let number = self.seed.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        i64::try_from(number >> 33).unwrap_or(0) % most + 1
    }
}

async fn pass(mut from: impl AsyncReadExt + Unpin, mut to: impl AsyncWriteExt + Unpin, left: &AtomicI64) {
    let mut buffer = vec![0; 8 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let size = i64::try_from(read).unwrap_or(i64::MAX);
        let before = left.fetch_sub(size, Ordering::Relaxed);
        let passed = usize::try_from(before.clamp(0, size)).unwrap_or(0);
        let sent = to.write_all(buffer.get(..passed).unwrap_or_default()).await;
        if sent.is_err() || passed < read {
            return;
        }
    }
}
