//! The table over `&dyn Store`.

mod commit;
mod lives;
mod read;

use bytes::Bytes;
use syntha_store::{Batch, ErrorKind, Keyspace, RecordId, Timestamp, UserStore};

use crate::harness::Check;

/// All checks over a store.
#[must_use]
pub fn store_checks() -> Vec<Check> {
    [lives::CHECKS, read::CHECKS, commit::CHECKS].concat()
}

/// Registers async functions as checks of the same names.
macro_rules! checks {
    ($($name:ident),* $(,)?) => {
        pub(super) const CHECKS: &[crate::harness::Check] =
            &[$(crate::harness::Check::new(stringify!($name), |bed| Box::pin($name(bed)))),*];
    };
}
pub(crate) use checks;

pub(crate) const SPACE: Keyspace = Keyspace::Context;

pub(crate) fn id(name: &str) -> RecordId {
    RecordId::new(Bytes::copy_from_slice(name.as_bytes()), 0).unwrap()
}

pub(crate) fn seq(name: &str, seq: u64) -> RecordId {
    RecordId::new(Bytes::copy_from_slice(name.as_bytes()), seq).unwrap()
}

pub(crate) fn batch() -> Batch {
    Batch::new(Timestamp(10)).unwrap()
}

pub(crate) fn put(batch: Batch, name: &str, body: &str) -> Batch {
    batch.put(SPACE, id(name), &b"head"[..], Bytes::copy_from_slice(body.as_bytes()))
}

pub(crate) async fn record_body(user: &dyn UserStore, name: &str) -> Option<String> {
    let read = user.read(SPACE, &[id(name)]).await.unwrap();
    let record = read.value.into_iter().next().unwrap()?;
    Some(String::from_utf8(record.body.to_vec()).unwrap())
}

pub(crate) fn kind<T>(result: Result<T, syntha_store::Error>) -> ErrorKind {
    match result {
        Ok(_) => panic!("it succeeded, and should have been refused"),
        Err(error) => error.kind(),
    }
}
