//! Copies of a deployment's files, what stands in them, and what only ever has a name for a moment.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteRow};
use sqlx::{ConnectOptions, Connection as _, Row, SqliteConnection};
use syntha_encryption::inventory::USER;
use syntha_store::{Keyspace, UserTag};

use crate::needles::{Needles, of_bytes};

/// Copies everything as it is now, as a crash would leave it. Another process does: a file that this one closes loses its locks.
pub(crate) fn copy(from: &Path, to: &Path) {
    // The key of the audit log remembers what it signed last: a copy of a later moment than the data's would call the data put back.
    let key = std::fs::read(from.join("data.audit.key")).ok();
    let copied =
        std::process::Command::new("cp").arg("-a").arg(from).arg(to).env("LC_ALL", "C").output().unwrap();
    // A log or a temporary file may go while it is looked for; what is left is copied all the same.
    let text = String::from_utf8_lossy(&copied.stderr);
    assert!(
        copied.status.success() || text.lines().all(|line| line.ends_with("No such file or directory")),
        "{text}"
    );
    if let Some(key) = key {
        std::fs::write(to.join("data.audit.key"), key).unwrap();
    }
}

/// Every file below a folder.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// The files below a folder that hold one of the needles, or whose name does; and how many bytes were searched.
pub(crate) fn search(folder: &Path, needles: &Needles) -> (Vec<String>, usize) {
    let (mut found, mut searched) = (Vec::new(), 0);
    for path in files(folder) {
        let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
        let bytes = std::fs::read(&path).unwrap();
        searched += bytes.len();
        for place in [name.as_bytes(), &bytes] {
            if let Some(what) = needles.find(place) {
                found.push(format!("{name}: {what} ({} times)", needles.count(place)));
            }
        }
    }
    (found, searched)
}

async fn open(file: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(file).connect().await.unwrap()
}

fn databases(folder: &Path) -> impl Iterator<Item = PathBuf> {
    files(folder).into_iter().filter(|path| path.extension().is_some_and(|ending| ending == "db"))
}

/// Where in a copy's tables the needles stand: `context name`, `user log`.
pub(crate) async fn places(folder: &Path, needles: &Needles) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for file in databases(folder) {
        let mut db = open(&file).await;
        let rows = sqlx::query(
            "SELECT space, name, head, body FROM record UNION ALL SELECT 5, x'', head, body FROM link",
        )
        .fetch_all(&mut db)
        .await
        .unwrap();
        for row in rows {
            let space = Keyspace::from_code(u8::try_from(row.get::<i64, _>(0)).unwrap()).unwrap();
            for (column, part) in [(1, "name"), (2, "head"), (3, "body")] {
                if needles.find(row.get(column)).is_some() {
                    found.insert(format!("{} {part}", space.name()));
                }
            }
        }
        let row: SqliteRow = sqlx::query("SELECT * FROM user").fetch_one(&mut db).await.unwrap();
        for (column, inventory) in USER.iter().enumerate() {
            if row.try_get::<&[u8], _>(column).is_ok_and(|bytes| needles.find(bytes).is_some()) {
                found.insert(format!("user {}", inventory.what));
            }
        }
        // Otherwise its log goes at some later moment, while the copy is searched.
        db.close().await.unwrap();
    }
    found
}

/// What is of one user alone in a copy: the salts of every sealed value, the names that records are stored under, and the wrapped keys.
pub(crate) async fn remains(folder: &Path, tag: UserTag) -> Vec<(String, Vec<u8>)> {
    let mut needles = Vec::new();
    let stem = tag.to_string();
    for file in databases(folder) {
        let mut db = open(&file).await;
        if file.file_name().unwrap().to_str().unwrap().starts_with(&stem) {
            let query = "SELECT name, head, body FROM record UNION ALL SELECT x'', head, body FROM link";
            let rows = sqlx::query(query).fetch_all(&mut db).await.unwrap();
            for row in rows {
                let name: &[u8] = row.get(0);
                // Names of other lengths are no keyed hashes, and the search for texts finds them.
                if name.len() == 32 {
                    needles.extend(of_bytes("a stored name", name));
                }
                for column in [1, 2] {
                    // Version, algorithm and epoch are those of others too.
                    if let Some(salt) = row.get::<&[u8], _>(column).get(6..30) {
                        needles.push(("a sealed value".to_owned(), salt.to_vec()));
                    }
                }
            }
            let note: Vec<u8> = sqlx::query_scalar("SELECT note FROM user").fetch_one(&mut db).await.unwrap();
            needles.push(("a note".to_owned(), note[6..30].to_vec()));
        }
        if file.parent().unwrap().extension().is_some_and(|ending| ending == "keys") {
            let bodies: Vec<Vec<u8>> =
                sqlx::query_scalar("SELECT body FROM record WHERE space = 12 AND name = ?")
                    .bind(tag.as_bytes().as_slice())
                    .fetch_all(&mut db)
                    .await
                    .unwrap();
            assert!(bodies.len() >= 2, "a user has a root and a life");
            for body in bodies {
                let row: serde_json::Value = serde_json::from_slice(&body).unwrap();
                let keys = row["keys"].as_array().into_iter().flatten().map(|key| &key["key"]);
                for key in keys.chain([&row["root"]]).filter_map(serde_json::Value::as_str) {
                    let blob = data_encoding::BASE64.decode(key.as_bytes()).unwrap();
                    // Its end is random; its head is that of every wrap.
                    needles.extend(of_bytes("a wrapped key", &blob[blob.len() - 48..]));
                }
            }
        }
        db.close().await.unwrap();
    }
    needles
}

/// Reads what has a name for a moment only, or none any more: temporary files, and files that are open but deleted.
pub(crate) struct Watch {
    end: Sender<()>,
    thread: std::thread::JoinHandle<(usize, Option<String>)>,
}

impl Watch {
    pub(crate) fn start(folder: &Path, needles: Arc<Needles>) -> Self {
        let folder = folder.to_owned();
        let (end, ended) = channel::<()>();
        let thread = std::thread::spawn(move || {
            let (mut seen, mut found) = (0, None);
            // A few hundred microseconds: a copy of a user's data has a name for that long.
            while ended.recv_timeout(Duration::from_micros(300)) == Err(RecvTimeoutError::Timeout) {
                let temporary =
                    ["data/tmp", "data.keys/tmp"].map(|name| std::fs::read_dir(folder.join(name)));
                let named = temporary.into_iter().flatten().flatten().flatten().map(|entry| entry.path());
                let open = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
                let deleted = open.map(|entry| entry.path()).filter(|path| {
                    let target = std::fs::read_link(path).unwrap_or_default();
                    target.starts_with(&folder) && target.to_string_lossy().ends_with(" (deleted)")
                });
                for path in named.chain(deleted) {
                    // It may be gone by now.
                    let bytes = std::fs::read(&path).unwrap_or_default();
                    seen += usize::from(!bytes.is_empty());
                    found = found
                        .or_else(|| needles.find(&bytes).map(|what| format!("a temporary file: {what}")));
                }
            }
            (seen, found)
        });
        Self { end, thread }
    }

    /// How many files were read, and what was found in one.
    pub(crate) fn end(self) -> (usize, Option<String>) {
        drop(self.end);
        self.thread.join().unwrap()
    }
}
