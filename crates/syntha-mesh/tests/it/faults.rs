//! The checks find what they are there for.

#![cfg(feature = "faults")]

use syntha_mesh::{Fault, MeshConfig};

#[tokio::test]
async fn a_change_without_its_event_is_found() {
    let found =
        crate::changes::each_change_has_its_event(MeshConfig::default().fault(Fault::EventMissing)).await;
    assert!(found.unwrap_err().starts_with("push: "));
    crate::changes::each_change_has_its_event(MeshConfig::default().fault(Fault::ReadNotRecorded))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_read_that_is_not_told_is_found() {
    let found = crate::reads::each_read_is_told(MeshConfig::default().fault(Fault::ReadNotRecorded)).await;
    assert_eq!(found.unwrap_err(), "told: []");
}
