//! New files, made in memory.

use std::sync::Arc;

use parking_lot::Mutex;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Executor, SqlStr, SqliteConnection};
use syntha_store::{Batch, Error, ErrorKind, Result};

use crate::error::from_sqlx;
use crate::plan;
use crate::schema::{self, SCHEMA, UserRow};

/// Makes the bytes of new files. Each is made in a database of its own, which nobody's data was in before; one with the
/// tables in it is kept ready.
#[derive(Clone, Debug, Default)]
pub(crate) struct Images {
    spare: Arc<Mutex<Option<SqliteConnection>>>,
}

impl Images {
    /// A file that holds one user row and what a batch puts.
    pub(crate) async fn build(&self, row: &UserRow, first: Option<&Batch>) -> Result<Vec<u8>> {
        let spare = self.spare.lock().take();
        let mut memory = match spare {
            Some(memory) => memory,
            None => empty().await.map_err(|error| from_sqlx(&error))?,
        };
        let built = build(&mut memory, row, first).await;
        // It ends in the background; nothing of it is in a file.
        drop(memory);
        built
    }

    /// Makes the next database ready, once the file that it is not needed for is in its place.
    pub(crate) fn refill(&self) {
        let spare = Arc::clone(&self.spare);
        tokio::spawn(async move {
            if spare.lock().is_none()
                && let Ok(memory) = empty().await
            {
                *spare.lock() = Some(memory);
            }
        });
    }

    /// Closes the spare one.
    pub(crate) fn clear(&self) {
        drop(self.spare.lock().take());
    }
}

async fn empty() -> Result<SqliteConnection, sqlx::Error> {
    let options = SqliteConnectOptions::new().in_memory(true).pragma("trusted_schema", "OFF");
    let mut memory = options.disable_statement_logging().connect().await?;
    memory.execute(SCHEMA).await?;
    for statement in [schema::INSERT_USER, plan::PUT, plan::PUTS] {
        Executor::prepare(&mut memory, SqlStr::from_static(statement)).await?;
    }
    Ok(memory)
}

async fn build(memory: &mut SqliteConnection, row: &UserRow, first: Option<&Batch>) -> Result<Vec<u8>> {
    schema::insert_user(memory, row).await.map_err(|error| from_sqlx(&error))?;
    if let Some(batch) = first {
        plan::commit(memory, row.state.stamp.incarnation, batch, true).await?;
    }
    let mut image = memory.serialize(None).await.map_err(|error| from_sqlx(&error))?.to_vec();
    // The file says that it uses a write-ahead log, so that the first open need not write it.
    // <https://www.sqlite.org/fileformat2.html#file_format_version_numbers>
    match image.get_mut(18..20) {
        Some(versions) => versions.fill(2),
        None => return Err(Error::new(ErrorKind::Unavailable, "the engine made an empty file")),
    }
    Ok(image)
}
