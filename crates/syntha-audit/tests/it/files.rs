//! The sink in files.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use syntha_audit::{AuditSink, Delivery, FileSink};

use crate::{Memory, commits, create};

fn links(from: u64, count: u64) -> Vec<Delivery> {
    let link = |seq| Delivery::Link {
        owner: [1; 32],
        seq,
        text: Bytes::from(vec![7; 100]),
        salt: None,
        details: None,
    };
    (from..from + count).map(link).collect()
}

/// The numbers of the links in a file.
fn numbers(path: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.ends_with('\n'));
    let number = |line: &str| serde_json::from_str::<serde_json::Value>(line).ok()?.get("seq")?.as_u64();
    text.lines().filter_map(number).collect()
}

#[tokio::test]
async fn lines_are_appended_and_files_rotate() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let aside = |number: u32| folder.path().join(format!("audit.jsonl.{number}"));
    let sink = FileSink::new("file", &path).rotate(2_000, Some(2));
    for round in 0..6 {
        sink.deliver(&links(round * 5 + 1, 5)).await.unwrap();
    }
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
    let left: Vec<u64> = [aside(2), aside(1), path.clone()].iter().flat_map(|path| numbers(path)).collect();
    assert_eq!(*left.last().unwrap(), 30);
    assert!(left.windows(2).all(|pair| pair[1] == pair[0] + 1), "{left:?}");
    assert!(!aside(3).exists());
    // None goes where none was told to.
    let path = folder.path().join("all.jsonl");
    let sink = FileSink::new("file", &path).rotate(2_000, None);
    for round in 0..6 {
        sink.deliver(&links(round * 5 + 1, 5)).await.unwrap();
    }
    let all = (1..20)
        .rev()
        .map(|number| folder.path().join(format!("all.jsonl.{number}")))
        .filter(|path| path.exists());
    let all: Vec<u64> = all.chain([path]).flat_map(|path| numbers(&path)).collect();
    assert_eq!(all, (1..=30).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_line_that_was_cut_off_stands_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    FileSink::new("file", &path).deliver(&links(1, 2)).await.unwrap();
    let text = std::fs::read(&path).unwrap();
    std::fs::write(&path, &text[..text.len() - 30]).unwrap();
    FileSink::new("file", &path).deliver(&links(2, 2)).await.unwrap();
    assert_eq!(numbers(&path), [1, 2, 3]);
}

#[tokio::test]
async fn a_file_that_goes_or_is_open_to_others_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let sink = FileSink::new("file", &path);
    sink.deliver(&links(1, 1)).await.unwrap();
    // Somebody moves it, as programs do that rotate files.
    std::fs::rename(&path, folder.path().join("moved")).unwrap();
    sink.deliver(&links(2, 1)).await.unwrap();
    assert_eq!(numbers(&path), [2]);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    assert!(sink.deliver(&links(3, 1)).await.is_err());
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(folder.path().join("moved"), &path).unwrap();
    assert!(sink.deliver(&links(3, 1)).await.is_err());
    std::fs::remove_file(&path).unwrap();
    sink.deliver(&links(3, 1)).await.unwrap();
    assert_eq!(numbers(&path), [3]);
}

#[tokio::test]
async fn a_store_delivers_to_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let bed = Memory::new();
    let store = bed.open(&[]).sink(Arc::new(FileSink::new("file", &path)));
    let user = create(&store, 1).await;
    commits(&user, 9).await;
    store.checkpoint().await.unwrap();
    assert_eq!(store.shipped().await.unwrap().links, 10);
    assert_eq!(numbers(&path), (1..=10).collect::<Vec<_>>());
    let text = std::fs::read_to_string(&path).unwrap();
    let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let head = store.signer_keys().await.unwrap().check(last["note"].as_str().unwrap()).unwrap();
    assert_eq!(head, store.checkpoint().await.unwrap().head);
}
