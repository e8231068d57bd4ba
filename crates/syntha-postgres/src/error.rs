use std::fmt;

use syntha_store::{Error, ErrorKind};

use crate::pooler::lost;

/// A SQLSTATE. The server's text is never taken over: its details hold stored values.
#[derive(Debug)]
struct State([u8; 5]);

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SQLSTATE {}", String::from_utf8_lossy(&self.0))
    }
}

impl std::error::Error for State {}

/// What was under way when an error came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// Nothing yet, or something that changes nothing.
    Read,
    /// What changes data: without an answer, nobody knows whether it did.
    Write,
}

/// What the driver's error means to a caller.
pub(crate) fn from_sqlx(error: &sqlx::Error, sent: Sent) -> Error {
    let sqlx::Error::Database(database) = error else {
        return match (error, sent) {
            (sqlx::Error::PoolTimedOut, _) => Error::new(
                ErrorKind::Busy,
                "no connection became free in time, try again or raise the number of connections",
            ),
            (sqlx::Error::PoolClosed, _) => closed(),
            (sqlx::Error::Encode(_) | sqlx::Error::Configuration(_), _) => Error::new(
                ErrorKind::Unavailable,
                "the driver refused a statement's arguments before they were sent",
            ),
            (_, Sent::Read) => unreachable(),
            (_, Sent::Write) => unknown(),
        };
    };
    let code = database.code().unwrap_or_default();
    let mut state = [b'0'; 5];
    for (to, from) in state.iter_mut().zip(code.bytes()) {
        *to = if from.is_ascii_alphanumeric() { from } else { b'?' };
    }
    of_state(code.as_ref(), sent).with_source(State(state))
}

/// Whether the connection is of no use any more.
pub(crate) fn is_lost(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => {
            let code = error.code().unwrap_or_default();
            code.starts_with("57P") || code.starts_with("08")
        }
        // The answer was read to its end, or nothing was sent.
        sqlx::Error::RowNotFound | sqlx::Error::Encode(_) => false,
        _ => true,
    }
}

/// What a SQLSTATE means, <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
fn of_state(code: &str, sent: Sent) -> Error {
    match code {
        // The codes of `functions.sql`.
        "SY001" => gone(),
        "SY002" | "SY003" | "SY004" | "SY005" => {
            Error::new(ErrorKind::Conflict, "the user's data moved on, reload and try again")
        }
        "SY009" => Error::new(ErrorKind::Invalid, "a user's tag has 32 bytes"),
        // The schema or its tables went: nothing of another user is in their place.
        "3F000" | "42P01" => gone(),
        "23505" | "23514" | "22P02" | "SY010" => corrupt(),
        "42501" => Error::new(
            ErrorKind::Refused,
            "the server denied the role a right, run the installation again and check the roles",
        ),
        "42883" | "42703" => Error::new(
            ErrorKind::Unsupported,
            "the database lacks functions that this build calls, run the installation of this version",
        ),
        // A statement's name, or none, that another connection of the server knows.
        "26000" | "42P05" => lost(),
        "28000" | "28P01" | "3D000" => Error::new(
            ErrorKind::Refused,
            "the server refused the role, its password or the database, check the URL",
        ),
        "55P03" | "57014" | "40001" | "40P01" => {
            Error::new(ErrorKind::Busy, "the user's data is locked by somebody else for long, try again")
        }
        "53100" => Error::new(ErrorKind::StorageFull, "the server's disk is full, make room and try again"),
        "53200" | "53300" | "53400" => {
            Error::new(ErrorKind::Busy, "the server has no memory or connection to spare, try again")
        }
        "54000" => {
            Error::new(ErrorKind::LimitExceeded, "the batch is larger than PostgreSQL takes, split it")
        }
        "XX001" | "XX002" => corrupt(),
        "25006" => Error::new(ErrorKind::Unavailable, "the server is read-only, connect to the primary"),
        // The server went while the statement ran, or after it.
        _ if code.starts_with("57P") || code.starts_with("08") => match sent {
            Sent::Read => unreachable(),
            Sent::Write => unknown(),
        },
        _ => Error::new(ErrorKind::Unavailable, "PostgreSQL refused a statement"),
    }
}

pub(crate) const fn unreachable() -> Error {
    Error::new(ErrorKind::Unavailable, "the server can't be reached or ended the connection, try again")
}

pub(crate) const fn unknown() -> Error {
    Error::new(ErrorKind::Unknown, "whether the change happened is not known, ask the outcome")
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
    Error::new(ErrorKind::Corrupt, "the user's data is damaged, restore it from an archive")
}

pub(crate) const fn foreign() -> Error {
    Error::new(
        ErrorKind::Refused,
        "the data belongs to another deployment, use the key that it was made with",
    )
}

pub(crate) const fn closed() -> Error {
    Error::new(ErrorKind::Unavailable, "the store was closed, open it again")
}
