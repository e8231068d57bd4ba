//! A sink that writes JSON Lines to a file.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind as IoKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use rustix::fs::OFlags;

use crate::sink::{AuditSink, Delivery, SinkError};

/// A sink that appends JSON Lines to a file with rights 0600, and syncs it before it answers.
///
/// A line is what [`Delivery::to_json`] gives. Past its size, a file `NAME` becomes `NAME.1`, that one `NAME.2`, and so on.
pub struct FileSink {
    name: Arc<str>,
    file: Arc<Mutex<Files>>,
    outside: bool,
}

struct Files {
    path: PathBuf,
    rotate: u64,
    keep: Option<u32>,
    open: Option<File>,
}

impl fmt::Debug for FileSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileSink").field("name", &self.name).finish_non_exhaustive()
    }
}

impl FileSink {
    /// A sink of a name that writes to a file, which is made at the first delivery; its folder must be there. One file of 64 MiB after the
    /// other, and none is removed.
    #[must_use]
    pub fn new(name: &str, path: impl Into<PathBuf>) -> Self {
        let files = Files { path: path.into(), rotate: 64 * 1024 * 1024, keep: None, open: None };
        Self { name: name.into(), file: Arc::new(Mutex::new(files)), outside: false }
    }

    /// The file lies where nobody who can write this host's other files can change it: on another host, or where what was written stays.
    #[must_use]
    pub const fn outside(mut self) -> Self {
        self.outside = true;
        self
    }

    /// A file of more bytes is put aside and a new one begun. `keep`: how many of those put aside are kept, the newest, at most 10,000;
    /// `None` for all. Those that go are gone, so have them moved elsewhere before.
    #[must_use]
    pub fn rotate(self, bytes: u64, keep: Option<u32>) -> Self {
        {
            let mut files = self.file.lock();
            files.rotate = bytes.max(1);
            files.keep = keep.map(|keep| keep.min(10_000));
        }
        self
    }
}

#[async_trait]
impl AuditSink for FileSink {
    fn name(&self) -> &str {
        &self.name
    }

    async fn deliver(&self, entries: &[Delivery]) -> Result<(), SinkError> {
        let mut lines = Vec::with_capacity(entries.iter().map(|entry| 2 * entry.bytes() + 128).sum());
        for entry in entries {
            lines.extend_from_slice(entry.to_json().as_bytes());
            lines.push(b'\n');
        }
        let file = Arc::clone(&self.file);
        let written = tokio::task::spawn_blocking(move || {
            // A call before this one that hangs in the system keeps it: this one fails, and no thread piles up.
            let mut files = file.try_lock().ok_or_else(|| SinkError::new("the file's last write hangs"))?;
            files.append(&lines).map_err(|error| {
                files.open = None;
                SinkError::new("the audit file can't be written").with_source(error)
            })
        });
        written
            .await
            .unwrap_or_else(|_| Err(SinkError::new("the runtime ended while the audit file was written")))
    }

    async fn last_checkpoint(&self) -> Result<Option<String>, SinkError> {
        let file = Arc::clone(&self.file);
        let found = tokio::task::spawn_blocking(move || {
            let files = file.try_lock().ok_or_else(|| SinkError::new("the file's last write hangs"))?;
            let found = match last_note(&files.path) {
                // The file before it may have been put aside a moment ago.
                Ok(None) => last_note(&files.aside(1)),
                found => found,
            };
            found.map_err(|error| SinkError::new("the audit file can't be read").with_source(error))
        });
        found.await.unwrap_or_else(|_| Err(SinkError::new("the runtime ended while the audit file was read")))
    }

    fn is_outside(&self) -> bool {
        self.outside
    }
}

/// How much of a file's end is looked through for a checkpoint: at first, and at most.
const LOOK_LEAST: u64 = 64 * 1024;
const LOOK_MOST: u64 = 64 * 1024 * 1024;

/// The last checkpoint in a file; `None` if there is no file, or none near its end.
fn last_note(path: &Path) -> std::io::Result<Option<String>> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    let mut file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(error) if error.kind() == IoKind::NotFound => return Ok(None),
        file => file?,
    };
    let length = file.metadata()?.len();
    let mut look = LOOK_LEAST;
    loop {
        let start = length.saturating_sub(look);
        file.seek(SeekFrom::Start(start))?;
        let mut end = Vec::new();
        (&file).take(look).read_to_end(&mut end)?;
        // A first line that is cut is no JSON.
        let note = end.rsplit(|byte| *byte == b'\n').find_map(note);
        if note.is_some() || start == 0 || look >= LOOK_MOST {
            return Ok(note);
        }
        look = look.saturating_mul(8);
    }
}

fn note(line: &[u8]) -> Option<String> {
    let line: serde_json::Value = serde_json::from_slice(line).ok()?;
    let is_checkpoint = line.get("t").and_then(serde_json::Value::as_str) == Some("checkpoint");
    line.get("note").filter(|_| is_checkpoint)?.as_str().map(ToOwned::to_owned)
}

impl Files {
    fn append(&mut self, lines: &[u8]) -> std::io::Result<()> {
        let mut file = match self.open.take() {
            Some(file) if same(&file, &self.path) => file,
            _ => self.open()?,
        };
        let length = file.seek(SeekFrom::End(0))?;
        if length > 0 && length.saturating_add(lines.len() as u64) > self.rotate {
            drop(file);
            self.put_aside()?;
            file = self.open()?;
        }
        let start = file.seek(SeekFrom::End(0))?;
        let written = file.write_all(lines).and_then(|()| file.sync_all());
        if let Err(error) = written {
            // What was written in part comes again whole.
            let _ = file.set_len(start);
            return Err(error);
        }
        self.open = Some(file);
        Ok(())
    }

    fn open(&self) -> std::io::Result<File> {
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true).mode(0o600).custom_flags(flags);
        let mut file = options.open(&self.path)?;
        let found = file.metadata()?;
        if !found.is_file() || found.mode() & 0o077 != 0 {
            let text = "the audit file is open to others or no plain file, use `chmod 600`";
            return Err(std::io::Error::new(IoKind::PermissionDenied, text));
        }
        sync_folder(&self.path)?;
        // A line that a crash cut off was never acknowledged: it comes again, and stands on a line of its own.
        if found.len() > 0 && last_byte(&mut file)? != b'\n' {
            file.write_all(b"\n")?;
        }
        Ok(file)
    }

    /// The file becomes `.1`, and each other the next one; the highest name that is free ends the row.
    fn put_aside(&self) -> std::io::Result<()> {
        let mut count = 0_u32;
        while self.aside(count + 1).symlink_metadata().is_ok() {
            count += 1;
        }
        if let Some(keep) = self.keep {
            while count > 0 && count >= keep {
                std::fs::remove_file(self.aside(count))?;
                count -= 1;
            }
        }
        for number in (1..=count).rev() {
            std::fs::rename(self.aside(number), self.aside(number + 1))?;
        }
        if self.keep == Some(0) {
            std::fs::remove_file(&self.path)?;
        } else {
            std::fs::rename(&self.path, self.aside(1))?;
        }
        sync_folder(&self.path)
    }

    fn aside(&self, number: u32) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        name.into()
    }
}

/// Whether an open file is still the one of its name.
fn same(file: &File, path: &Path) -> bool {
    match (file.metadata(), path.symlink_metadata()) {
        (Ok(open), Ok(named)) => (open.dev(), open.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

fn last_byte(file: &mut File) -> std::io::Result<u8> {
    let mut byte = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut byte)?;
    Ok(byte[0])
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or_else(|| Path::new("."))).and_then(|folder| folder.sync_all())
}
