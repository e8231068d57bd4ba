//! The checks of rotation, on what must pass them and on what must not.

#![cfg(feature = "encryption")]

use syntha_conformance::syntha_encryption::{Fault, Mode};
use syntha_conformance::{Harness, MemoryHarness, rotation_checks, run_rotation};

async fn passes(backend: &dyn Harness, mode: Mode) {
    for row in run_rotation(backend, mode, None, &rotation_checks()).await.rows {
        assert_eq!(row.failure, None, "{}", row.check);
    }
}

async fn failed(fault: Fault) -> Vec<&'static str> {
    run_rotation(&MemoryHarness, Mode::Sealed, Some(fault), &rotation_checks()).await.failed()
}

#[tokio::test(flavor = "multi_thread")]
async fn rotation_over_memory() {
    passes(&MemoryHarness, Mode::Sealed).await;
    passes(&MemoryHarness, Mode::Values).await;
}

#[cfg(feature = "sqlite")]
#[tokio::test(flavor = "multi_thread")]
async fn rotation_over_sqlite() {
    passes(&syntha_conformance::SqliteHarness { fault: None }, Mode::Sealed).await;
}

#[cfg(feature = "sqlite")]
#[tokio::test(flavor = "multi_thread")]
async fn rotation_over_shared_sqlite() {
    passes(&syntha_conformance::SharedSqliteHarness { fault: None }, Mode::Sealed).await;
}

/// A handle that goes on with the key that it first saw.
#[tokio::test(flavor = "multi_thread")]
async fn rotation_with_a_stale_handle_is_found() {
    let failed = failed(Fault::EpochStale).await;
    assert!(failed.contains(&"rotation_beside_another_process"), "{failed:?}");
}

/// A rotation that destroys the old key after its first pass, whatever it left.
#[tokio::test(flavor = "multi_thread")]
async fn rotation_in_haste_is_found() {
    let failed = failed(Fault::RotationHasty).await;
    assert!(failed.contains(&"rotation_beside_writers"), "{failed:?}");
}
