//! Snapshots out of a file, and files out of snapshots.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use futures_util::TryStreamExt;
use sqlx::{ConnectOptions, Connection, SqliteConnection};
use syntha_store::{
    ChainHead, Error, ErrorKind, Incarnation, Keyspace, Result, Snapshot, StoredRecord, UserState, UserTag,
    Writer,
};

use crate::error::{from_sqlx, gone};
use crate::image::Images;
use crate::links::is_link;
use crate::schema::{self, Format, UserRow, body, code, head, int, space};

/// The most bytes of heads and bodies in a chunk, but for one record that is larger.
const CHUNK_BYTES: usize = 1024 * 1024;

/// A copy of a user's data as of one commit, in a temporary file of its own, so that reading it holds nobody up.
pub(crate) struct SqliteSnapshot {
    owner: UserTag,
    state: UserState,
    db: SqliteConnection,
    part: Part,
    after: (i64, Vec<u8>, i64),
}

/// Which of the records are read next, so that links come in their place among the others.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Those of a copy that has links among them.
    All,
    /// Those before the audit keyspace.
    First,
    Links,
    Last,
}

impl Part {
    const fn next(self) -> Option<Self> {
        match self {
            Self::First => Some(Self::Links),
            Self::Links => Some(Self::Last),
            Self::All | Self::Last => None,
        }
    }

    const fn statement(self) -> &'static str {
        match self {
            Self::First => {
                "SELECT name, seq, version, body_version, expires, owner, head, body, space FROM record
                 WHERE (space, name, seq) > (?, ?, ?) AND space < 5 ORDER BY space, name, seq"
            }
            Self::All | Self::Last => {
                "SELECT name, seq, version, body_version, expires, owner, head, body, space FROM record
                 WHERE (space, name, seq) > (?, ?, ?) ORDER BY space, name, seq"
            }
            Self::Links => {
                "SELECT x'', seq, version, body_version, expires, owner, head, body, 5 FROM link
                 WHERE seq > ? ORDER BY seq"
            }
        }
    }
}

/// A file that goes when this does.
pub(crate) struct Temporary(pub(crate) PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // What stays is removed when the store is opened again.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl SqliteSnapshot {
    /// Copies the data. `VACUUM INTO` makes a transactionally consistent copy, <https://www.sqlite.org/lang_vacuum.html>.
    pub(crate) async fn take(
        db: &mut SqliteConnection,
        owner: UserTag,
        life: Incarnation,
        path: PathBuf,
    ) -> Result<Self> {
        let name = path
            .to_str()
            .ok_or_else(|| Error::new(ErrorKind::Refused, "the data folder's path must be UTF-8"))?;
        let file = Temporary(path.clone());
        sqlx::query("VACUUM INTO ?").bind(name).execute(db).await.map_err(|error| from_sqlx(&error))?;
        let options = schema::private_options(&path).immutable(true).read_only(true);
        let mut db = options.connect().await.map_err(|error| from_sqlx(&error))?;
        let format = schema::check_format(&mut db).await?;
        let UserRow { state, fence, .. } = schema::user_row(&mut db, format).await?;
        // Another process may have ended the life since it was looked at.
        if fence.is_some() || state.stamp.incarnation != life {
            return Err(gone());
        }
        // The open connection keeps the copy; its name goes now, so that an erase or a crash leaves no copy behind.
        drop(file);
        let part = match format {
            Format::Present => Part::First,
            Format::Former => Part::All,
        };
        Ok(Self { owner, state, db, part, after: (-1, Vec::new(), -1) })
    }
}

#[async_trait]
impl Snapshot for SqliteSnapshot {
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
        loop {
            let chunk = self.chunk().await?;
            if let Some(last) = chunk.last() {
                let id = &last.record.head.id;
                self.after = (code(last.space), id.name().to_vec(), int(id.seq()));
                return Ok(Some(chunk));
            }
            let Some(part) = self.part.next() else { return Ok(None) };
            self.part = part;
            // Of the audit keyspace: its records have names, but for links.
            self.after = (code(Keyspace::Audit), Vec::new(), -1);
        }
    }
}

impl SqliteSnapshot {
    async fn chunk(&mut self) -> Result<Vec<StoredRecord>> {
        let (mut chunk, mut bytes) = (Vec::new(), 0);
        let query = match self.part {
            Part::Links => sqlx::query(self.part.statement()).bind(self.after.2),
            Part::All | Part::First | Part::Last => {
                sqlx::query(self.part.statement()).bind(self.after.0).bind(&self.after.1).bind(self.after.2)
            }
        };
        let mut rows = query.fetch(&mut self.db);
        while let Some(row) = rows.try_next().await.map_err(|error| from_sqlx(&error))? {
            let record = syntha_store::Record::new(head(&row, 0, self.owner.as_bytes())?, body(&row, 7)?);
            bytes += record.body.len() + record.head.head.len();
            chunk.push(StoredRecord { space: space(&row, 8)?, record });
            if bytes >= CHUNK_BYTES {
                break;
            }
        }
        Ok(chunk)
    }
}

/// Writes a finished, durable file that holds a user row and a snapshot's records.
pub(crate) async fn write(
    images: &Images,
    path: &Path,
    row: &UserRow,
    snapshot: &mut dyn Snapshot,
) -> Result<()> {
    fill(images, path, row, snapshot).await?;
    crate::files::set_write_ahead(path)?;
    crate::files::make_durable(path)
}

/// Writes a file without a write-ahead log that holds a user row and a snapshot's records. It is not synced.
pub(crate) async fn fill(
    images: &Images,
    path: &Path,
    row: &UserRow,
    snapshot: &mut dyn Snapshot,
) -> Result<()> {
    crate::files::remove(path)?;
    crate::files::write_private(path, &images.build(row, None).await?)?;
    let mut db = schema::private_options(path).connect().await.map_err(|error| from_sqlx(&error))?;
    sqlx::query("BEGIN").execute(&mut db).await.map_err(|error| from_sqlx(&error))?;
    while let Some(chunk) = snapshot.next().await? {
        for StoredRecord { space, record } in &chunk {
            if space.writer() == Writer::Manager {
                return Err(Error::new(ErrorKind::Invalid, "a user's snapshot has no deployment keyspaces"));
            }
            let head = &record.head;
            let query = if is_link(*space, head.id.name()) {
                sqlx::query("INSERT INTO link VALUES (?, ?, ?, ?, ?, ?, ?)")
            } else {
                sqlx::query(
                    "INSERT INTO record (space, name, seq, version, body_version, expires, owner, head, body)
                             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                )
                .bind(code(*space))
                .bind(head.id.name().as_ref())
            };
            query
                .bind(int(head.id.seq()))
                .bind(int(head.version.0))
                .bind(int(head.body_version.0))
                .bind(head.expires.map(|at| int(at.0)))
                .bind(row.tag.get(..16))
                .bind(head.head.as_ref())
                .bind(record.body.as_ref())
                .execute(&mut db)
                .await
                .map_err(|error| from_sqlx(&error))?;
        }
    }
    // They may be known only now.
    let state = snapshot.state();
    sqlx::query("UPDATE user SET note = ?, chain_seq = ?, chain_head = ?")
        .bind(state.note.as_bytes().to_vec())
        .bind(int(state.chain.seq))
        .bind(state.chain.head.to_vec())
        .execute(&mut db)
        .await
        .map_err(|error| from_sqlx(&error))?;
    sqlx::query("COMMIT").execute(&mut db).await.map_err(|error| from_sqlx(&error))?;
    db.close().await.map_err(|error| from_sqlx(&error))
}

/// Puts a filled file's records and a row in the place of what is in a live file: one transaction, because other processes have
/// the file open, and a file that somebody has open is not replaced. The caller has begun it, and ends it.
pub(crate) async fn take_over(db: &mut SqliteConnection, row: &UserRow) -> Result<()> {
    let state = row.state;
    for statement in [
        "DELETE FROM main.record",
        "DELETE FROM main.link",
        "INSERT INTO main.record (space, name, seq, version, body_version, expires, owner, head, body)
         SELECT space, name, seq, version, body_version, expires, owner, head, body FROM incoming.record",
        "INSERT INTO main.link (seq, version, body_version, expires, owner, head, body)
         SELECT seq, version, body_version, expires, owner, head, body FROM incoming.link ORDER BY seq",
    ] {
        sqlx::query(statement).execute(&mut *db).await.map_err(|error| from_sqlx(&error))?;
    }
    sqlx::query(
        "UPDATE main.user SET incarnation = ?, epoch = ?, chain_seq = ?, chain_head = ?, contexts = ?, agents = ?,
         context_bytes = ?, history_bytes = ?, time = ?, fence = 0, recent = x'', log = x'', note = (SELECT note FROM incoming.user)",
    )
    .bind(state.stamp.incarnation.0.to_be_bytes().to_vec())
    .bind(int(state.stamp.epoch.0))
    .bind(int(state.chain.seq))
    .bind(state.chain.head.to_vec())
    .bind(int(state.usage.contexts))
    .bind(int(state.usage.agents))
    .bind(int(state.usage.context_bytes))
    .bind(int(state.usage.history_bytes))
    .bind(int(state.time.0))
    .execute(db)
    .await
    .map(drop)
    .map_err(|error| from_sqlx(&error))
}

/// Makes a filled file readable as `incoming`.
pub(crate) async fn attach(db: &mut SqliteConnection, path: &Path) -> Result<()> {
    let name = path
        .to_str()
        .ok_or_else(|| Error::new(ErrorKind::Refused, "the data folder's path must be UTF-8"))?;
    sqlx::query("ATTACH ? AS incoming")
        .bind(name)
        .execute(db)
        .await
        .map(drop)
        .map_err(|error| from_sqlx(&error))
}
