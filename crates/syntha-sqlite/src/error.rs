use std::fmt;

use syntha_store::{Error, ErrorKind};

/// SQLite's result code. Its text is never taken over: it can hold stored values.
#[derive(Debug)]
struct Code(i32);

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SQLite result code {}", self.0)
    }
}

impl std::error::Error for Code {}

// https://www.sqlite.org/rescode.html
const BUSY: i32 = 5;
const LOCKED: i32 = 6;
const IOERR: i32 = 10;
const CORRUPT: i32 = 11;
const FULL: i32 = 13;
const CANTOPEN: i32 = 14;
const PROTOCOL: i32 = 15;
const TOOBIG: i32 = 18;
const NOTADB: i32 = 26;

/// What any statement that is wrong in itself is told.
pub(crate) const REFUSED: &str = "SQLite refused a statement";

/// What the driver's error means to a caller.
pub(crate) fn from_sqlx(error: &sqlx::Error) -> Error {
    let sqlx::Error::Database(database) = error else {
        return Error::new(ErrorKind::Unavailable, "the connection to the user's file failed, try again");
    };
    if let Some(code) = database.message().split("syntha:").nth(1) {
        return raised(code);
    }
    let extended: i32 = database.code().and_then(|code| code.parse().ok()).unwrap_or_default();
    let error = match extended & 0xff {
        BUSY | LOCKED | PROTOCOL => {
            Error::new(ErrorKind::Busy, "the user's file is locked by another program, try again")
        }
        FULL => Error::new(ErrorKind::StorageFull, "the disk is full, make room and try again"),
        CORRUPT | NOTADB => corrupt(),
        IOERR | CANTOPEN => Error::new(ErrorKind::Unavailable, "the user's file can't be read or written"),
        TOOBIG => Error::new(ErrorKind::LimitExceeded, "the batch is larger than SQLite takes, split it"),
        _ => Error::new(ErrorKind::Unavailable, REFUSED),
    };
    error.with_source(Code(extended))
}

/// Whether the connection must not be used again after the error.
pub(crate) fn spoils_connection(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Corrupt)
}

fn raised(code: &str) -> Error {
    match code {
        "gone" => gone(),
        "stamp" => Error::new(ErrorKind::Conflict, "the user's data moved on, reload and try again"),
        "chain" => Error::new(ErrorKind::Conflict, "the audit chain moved on, chain again"),
        "version" => Error::new(ErrorKind::Conflict, "the record has another version, reload and try again"),
        "absent" => Error::new(ErrorKind::Conflict, "the record to keep the body of is not there"),
        _ => Error::new(ErrorKind::Unavailable, REFUSED),
    }
}

pub(crate) fn from_io(error: std::io::Error) -> Error {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            Error::new(ErrorKind::StorageFull, "the disk is full, make room and try again")
        }
        _ => Error::new(ErrorKind::Unavailable, "a file of the store can't be read or written")
            .with_source(error),
    }
}

pub(crate) const fn gone() -> Error {
    Error::new(
        ErrorKind::Gone,
        "the user was erased, moved or restored since this handle was opened, open it again",
    )
}

pub(crate) const fn erased() -> Error {
    Error::new(
        ErrorKind::Erased,
        "the user was erased, only an explicit recreate makes one of that name again",
    )
}

pub(crate) const fn not_found() -> Error {
    Error::new(ErrorKind::NotFound, "there is no such user, create it first")
}

pub(crate) const fn present() -> Error {
    Error::new(ErrorKind::AlreadyExists, "the user is there already, open it")
}

pub(crate) const fn corrupt() -> Error {
    Error::new(ErrorKind::Corrupt, "the user's file is damaged, it was put aside, restore it from an archive")
}

pub(crate) const fn foreign() -> Error {
    Error::new(
        ErrorKind::Refused,
        "the file belongs to another user or deployment, put the right one in its place",
    )
}

pub(crate) const fn closed() -> Error {
    Error::new(ErrorKind::Unavailable, "the store was closed, open it again")
}

pub(crate) const fn followed() -> Error {
    Error::new(ErrorKind::Conflict, "the audit chain moved on, import again")
}

pub(crate) const fn read_only() -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "the data folder was opened beside its holder, for reading only: write through the holder, or stop it",
    )
}
