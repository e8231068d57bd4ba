//! What a restore makes of errors.

use syntha_store::ErrorKind as StoreErrorKind;

use crate::error::{Error, ErrorKind};

const UNREADABLE: &str = "the user's present permissions can't be read, so they can't be kept: restore with the archive's permissions";

/// Whether an import that failed so has not touched the old data.
pub(crate) const fn leaves_old(kind: StoreErrorKind) -> bool {
    use StoreErrorKind as Kind;
    matches!(
        kind,
        Kind::Invalid
            | Kind::Corrupt
            | Kind::Unsupported
            | Kind::AlreadyExists
            | Kind::Erased
            | Kind::Tampered
            | Kind::KeyUnavailable
            | Kind::KeyRefused
    )
}

/// Whether what is there can't be read by anybody any more.
pub(crate) const fn is_lost(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Corrupt | ErrorKind::Tampered | ErrorKind::Denied)
}

/// What the host is told where present permissions or limits can't be read.
pub(crate) fn unreadable(error: syntha_store::Error) -> Error {
    match error.kind() {
        StoreErrorKind::Corrupt => Error::new(ErrorKind::Corrupt, UNREADABLE),
        StoreErrorKind::Tampered => Error::new(ErrorKind::Tampered, UNREADABLE),
        StoreErrorKind::KeyRefused => Error::new(ErrorKind::Denied, UNREADABLE),
        _ => error.into(),
    }
}
