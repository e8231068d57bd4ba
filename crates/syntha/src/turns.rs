//! Keeps processes on one store from changing at the same time which users there are.

use syntha_store::Result;

/// What gives turns.
#[derive(Debug)]
pub(crate) enum Turns {
    /// This process is the only one, or the store is nobody's to change.
    Alone,
    /// Others may be there.
    #[cfg(feature = "sqlite")]
    Shared(std::sync::Arc<syntha_sqlite::SqliteStore>),
    /// Others may be there, on other machines too.
    #[cfg(feature = "postgres")]
    Database(crate::turn_lock::TurnLock),
}

/// The right to change which users there are, until it is dropped.
#[allow(dead_code, reason = "it is held, never read")]
pub(crate) enum Turn {
    Alone,
    #[cfg(feature = "sqlite")]
    Shared(syntha_sqlite::Turn),
    #[cfg(feature = "postgres")]
    Database(crate::turn_lock::Held),
}

impl Turns {
    /// Waits for the right.
    #[allow(clippy::unused_async, reason = "a build without SQLite has nothing to wait for")]
    pub(crate) async fn take(&self) -> Result<Turn> {
        match self {
            Self::Alone => Ok(Turn::Alone),
            #[cfg(feature = "sqlite")]
            Self::Shared(store) => store.turn().await.map(Turn::Shared),
            #[cfg(feature = "postgres")]
            Self::Database(lock) => lock.take().await.map(Turn::Database),
        }
    }
}
