//! What sinks were told, and what they remember, against somebody who writes the data.

use std::sync::Arc;

use bytes::Bytes;
use syntha_audit::{AuditSink, AuditedStore, FileSigner, FileSink, MemorySigner, MemorySink, Signer};
use syntha_sqlite::Mode;
use syntha_store::{Batch, ErrorKind, Keyspace, Op, RecordId, Scan, Store, Timestamp};

use crate::log::copy;
use crate::{LONG, Memory, commits, create, key, sqlite, tag, whole};

fn cursor(name: &str) -> RecordId {
    RecordId::new([b"sink".as_slice(), name.as_bytes()].concat(), 0).unwrap()
}

async fn write(bed: &Memory, op: Op) {
    let mut batch = Batch::new(Timestamp(0)).unwrap();
    batch.ops.push(op);
    bed.raw().deployment().await.unwrap().commit(batch).await.unwrap();
}

async fn row(bed: &Memory) -> Bytes {
    let space = bed.raw().deployment().await.unwrap();
    let read = space.read(Keyspace::Audit, &[cursor("one")]).await.unwrap();
    Bytes::clone(&read.value[0].as_ref().unwrap().body)
}

const SPACE: Keyspace = Keyspace::Audit;

fn put(body: impl Into<Bytes>) -> Op {
    Op::Put { space: SPACE, id: cursor("one"), head: Bytes::new(), body: body.into(), expires: None }
}

/// Somebody moves the sink's cursor in the data. Whether everything comes all the same.
async fn moved(
    plant: impl Fn(crate::AuditedMemory) -> crate::AuditedMemory + Send + Sync,
    how: impl Fn(Bytes, Bytes) -> Op + Send + Sync,
) -> Result<(), String> {
    let bed = Memory::new();
    let sink = MemorySink::new("one");
    let store = plant(bed.open(&[&sink])).bounds(10_000, LONG);
    let user = create(&store, 1).await;
    store.checkpoint().await.unwrap();
    store.shipped().await.unwrap();
    let old = row(&bed).await;
    commits(&user, 5).await;
    store.checkpoint().await.unwrap();
    store.shipped().await.unwrap();
    commits(&user, 5).await;
    store.checkpoint().await.unwrap();
    drop((user, store));
    let op = how(old, row(&bed).await);
    write(&bed, op).await;
    let store = plant(bed.open(&[&sink])).bounds(10_000, LONG);
    commits(&store.open(tag(1)).await.unwrap(), 1).await;
    store.checkpoint().await.unwrap();
    store.shipped().await.unwrap();
    assert_eq!(store.backlog().sinks, [("one".to_owned(), 0)]);
    whole(&store, &sink, &bed.deployment(), &[1]).await
}

#[tokio::test]
async fn a_cursor_that_was_moved_loses_no_entry() {
    let far = 100_u64.to_be_bytes();
    moved(|store| store, |_, now| put([&now[..8], &[9], &now[9..]].concat())).await.unwrap();
    moved(|store| store, |_, _| put(far.to_vec())).await.unwrap();
    moved(|store| store, |_, _| put(3_u64.to_be_bytes().to_vec())).await.unwrap();
    moved(|store| store, |_, _| Op::Delete { space: SPACE, id: cursor("one") }).await.unwrap();
    moved(|store| store, |old, _| put(old)).await.unwrap();
    moved(|store| store, |_, _| put("")).await.unwrap();
    #[cfg(feature = "faults")]
    {
        let believed = |store: crate::AuditedMemory| store.fault(syntha_audit::Fault::CursorBelieved);
        assert!(moved(believed, |_, _| put(3_u64.to_be_bytes().to_vec())).await.is_err());
        assert!(moved(believed, |_, _| Op::Delete { space: SPACE, id: cursor("one") }).await.is_err());
    }
}

/// A sink that is new begins at the log's end, and the key file remembers it, also past a new key.
#[tokio::test]
async fn the_key_file_remembers_which_sinks_were_begun() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    let bed = Memory::new();
    let sink = MemorySink::new("one");
    let open = async || {
        let signer = FileSigner::open(&path, &bed.deployment()).await.unwrap();
        let store = AuditedStore::new(Arc::new(bed.raw()), bed.deployment()).unwrap();
        store.signer(Arc::new(signer)).sink(Arc::new(sink.clone()) as Arc<dyn AuditSink>)
    };
    // From before there was a sink.
    let signer = FileSigner::open(&path, &bed.deployment()).await.unwrap();
    let store = AuditedStore::new(Arc::new(bed.raw()), bed.deployment()).unwrap().signer(Arc::new(signer));
    commits(&create(&store, 1).await, 3).await;
    store.checkpoint().await.unwrap();
    let store = open().await;
    let user = store.open(tag(1)).await.unwrap();
    store.shipped().await.unwrap();
    assert!(sink.taken().is_empty());
    commits(&user, 1).await;
    store.rotate_signer().await.unwrap();
    store.shipped().await.unwrap();
    let taken = sink.taken().len();
    assert!(taken > 0);
    let signer = FileSigner::open(&path, &bed.deployment()).await.unwrap();
    assert!(signer.sinks().await.unwrap().unwrap().knows("one"));
    // Nothing is delivered twice where nobody meddled.
    let store = open().await;
    store.checkpoint().await.unwrap();
    store.shipped().await.unwrap();
    assert_eq!(sink.taken().len(), taken);
    // Nor is anything left out after somebody did.
    write(&bed, Op::Delete { space: SPACE, id: cursor("one") }).await;
    open().await.shipped().await.unwrap();
    assert!(sink.taken().len() > taken + 3);
}

/// Data and key are put back together, as from a copy of the whole host. What the sink has outside is newer.
#[tokio::test(flavor = "multi_thread")]
async fn a_signer_that_was_put_back_with_the_data_signs_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (data, old) = (folder.path().join("data"), folder.path().join("old"));
    let (file, outside) = (folder.path().join("audit.jsonl"), folder.path().join("other.jsonl"));
    let signer = MemorySigner::new(&key().fingerprint()).unwrap();
    let open = async |signer: MemorySigner, file: &std::path::Path| {
        let store = sqlite(&data, Mode::Exclusive, Arc::new(signer)).await.unwrap();
        store.sink(Arc::new(FileSink::new("file", file).rotate(2_000, None)))
    };
    let store = open(signer.clone(), &file).await;
    commits(&create(&store, 1).await, 3).await;
    store.close().await.unwrap();
    let then = signer.copy();
    copy(&data, &old);
    let store = open(signer.clone(), &file).await;
    commits(&store.open(tag(1)).await.unwrap(), 3).await;
    store.close().await.unwrap();
    // It goes on where nothing was put back.
    let store = open(signer.clone(), &file).await;
    store.open(tag(1)).await.unwrap();
    store.close().await.unwrap();
    copy(&old, &data);
    // The signer alone notices nothing, and goes on past what the sink has.
    let store = open(then.copy(), &outside).await;
    let user = store.open(tag(1)).await.unwrap();
    drop(store.close().await);
    drop(user);
    copy(&old, &data);
    let store = open(then.copy(), &file).await;
    assert_eq!(store.open(tag(1)).await.unwrap_err().kind(), ErrorKind::Tampered);
    assert_eq!(store.checkpoint().await.unwrap_err().kind(), ErrorKind::Tampered);
    let _ = store.close().await;
    // Also where the last lines are in the file that was put aside.
    std::fs::rename(&file, folder.path().join("audit.jsonl.1")).unwrap();
    let store = open(then.copy(), &file).await;
    assert_eq!(store.open(tag(1)).await.unwrap_err().kind(), ErrorKind::Tampered);
    let _ = store.close().await;
    // Nor after the other past became longer.
    let store = sqlite(&data, Mode::Exclusive, Arc::new(then.clone())).await.unwrap();
    let user = store.open(tag(1)).await.unwrap();
    for _ in 0..6 {
        commits(&user, 1).await;
        store.checkpoint().await.unwrap();
    }
    store.close().await.unwrap();
    let store = open(then.clone(), &file).await;
    assert_eq!(store.checkpoint().await.unwrap_err().kind(), ErrorKind::Tampered);
    let _ = store.close().await;
    // Without that comparison it is signed.
    #[cfg(feature = "faults")]
    {
        let store = open(then, &file).await.fault(syntha_audit::Fault::LastSizeIgnored);
        store.checkpoint().await.unwrap();
        store.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_sink_of_another_log_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let sink = || Arc::new(FileSink::new("file", folder.path().join("audit.jsonl")));
    let bed = Memory::new();
    let store = bed.open(&[]).sink(sink());
    assert!(!store.backlog().anchored);
    commits(&create(&store, 1).await, 3).await;
    store.checkpoint().await.unwrap();
    store.shipped().await.unwrap();
    assert_eq!(
        sink().last_checkpoint().await.unwrap(),
        Some(store.checkpoint().await.unwrap().note.to_string())
    );
    // The same deployment's, begun anew with another key.
    let signer = MemorySigner::new(&bed.deployment()).unwrap();
    let data = Memory::new().raw();
    let store = AuditedStore::new(Arc::new(data), bed.deployment()).unwrap();
    let store = store.signer(Arc::new(signer)).sink(sink());
    assert_eq!(store.open(tag(1)).await.unwrap_err().kind(), ErrorKind::KeyRefused);
    // One that lies outside says so.
    let outside = FileSink::new("file", folder.path().join("new.jsonl")).outside();
    let store = bed.open(&[]).sink(Arc::new(outside));
    assert!(store.backlog().anchored);
    let scan = Scan::heads(SPACE, 1).name("checkpoint");
    assert!(!bed.raw().deployment().await.unwrap().scan(scan).await.unwrap().value.records.is_empty());
}
