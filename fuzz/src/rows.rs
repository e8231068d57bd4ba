//! Copies of a deployment's rows: arbitrary lines are refused or read, and an end is the one that was written.

use std::sync::Arc;

use syntha_encryption::{RowReader, RowWriter};
use syntha_store::{Batch, Keyspace, MemoryStore, RecordId, Store, Timestamp};

use crate::now;

/// Reads the bytes as they are.
pub fn check(data: &[u8]) {
    let Ok(mut reader) = RowReader::open(data) else { return };
    // Each row takes a line.
    for _ in 0..=data.len() {
        match reader.next_row() {
            Ok(Some(_)) => {}
            Ok(None) => {
                assert!(reader.next_row().is_ok_and(|row| row.is_none()), "something behind the end");
                return;
            }
            Err(_) => return,
        }
    }
    panic!("more rows than bytes");
}

/// A copy of a few rows.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let store = Arc::new(MemoryStore::new().expect("a store"));
    let copy = now(async {
        let space = store.deployment().await?;
        let mut batch = Batch::new(Timestamp(1))?;
        for n in 0..3_u64 {
            batch = batch.put(Keyspace::Directory, RecordId::new(vec![n as u8; 32], n)?, "", "{\"v\":1}");
        }
        space.commit(batch).await?;
        let mut writer = RowWriter::new(Vec::new())?;
        writer.space(&*space, Keyspace::Directory).await?;
        Ok::<_, syntha_store::Error>(writer.finish()?.0)
    });
    let copy = copy.expect("a copy");
    vec![copy.clone(), copy[..copy.len() / 2].to_vec()]
}
