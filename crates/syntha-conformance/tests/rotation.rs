//! The checks of rotation, on what must pass them and on what must not.

#![cfg(feature = "encryption")]

use syntha_conformance::syntha_encryption::{Fault, Mode};
use syntha_conformance::{Harness, MemoryHarness, rotation_checks, run_rotation};

async fn passes(backend: &dyn Harness, mode: Mode) {
    for row in run_rotation(backend, mode, None, &rotation_checks()).await.rows {
        assert_eq!(row.failure, None, "{}", row.check);
    }
}

/// Whether a check fails with a fault. Writers that race meet one by luck, so it is tried a few times.
async fn finds(fault: Fault, name: &str) -> bool {
    let mut checks = rotation_checks();
    checks.retain(|check| check.name == name);
    for _ in 0..5 {
        if run_rotation(&MemoryHarness, Mode::Sealed, Some(fault), &checks).await.failed() == [name] {
            return true;
        }
    }
    false
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
    assert!(finds(Fault::EpochStale, "rotation_beside_another_process").await);
}

/// A rotation that destroys the old key after its first pass, whatever it left.
#[tokio::test(flavor = "multi_thread")]
async fn rotation_in_haste_is_found() {
    assert!(finds(Fault::RotationHasty, "rotation_beside_writers").await);
}
