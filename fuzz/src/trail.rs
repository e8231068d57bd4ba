//! Audit trails: bytes are judged without a panic, and a changed trail that is found clean says nothing else of what is signed.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use bytes::Bytes;
use syntha_audit::trail::{Item, TrailReader, TrailWriter};
use syntha_audit::verify::{Checkpoint, Scope, TrustedKeys, Verdict, Verifier};

use crate::mutation;

const TRAIL: &[u8] = include_bytes!("../../tests/audit/golden.trail");
const KEYS: &str = include_str!("../../tests/audit/golden.keys");

type Links = BTreeMap<[u8; 32], Vec<Bytes>>;

static KNOWN: LazyLock<Option<Checkpoint>> = LazyLock::new(|| {
    let notes = items(TRAIL).into_iter().filter_map(|item| match item {
        Item::Checkpoint { note } => Some(note),
        _ => None,
    });
    Checkpoint::parse(&notes.last()?, &keys()).ok()
});

static LINKS: LazyLock<Links> = LazyLock::new(|| vouched(TRAIL).expect("the golden trail is clean"));

fn keys() -> TrustedKeys {
    TrustedKeys::parse(KEYS).expect("the golden keys")
}

fn items(bytes: &[u8]) -> Vec<Item> {
    let mut reader = TrailReader::new(bytes);
    let lines = std::iter::from_fn(|| reader.line().expect("memory can be read"));
    lines.filter_map(|line| line.item).collect()
}

/// The links that a clean trail vouches for: those that a checkpoint covers.
fn vouched(bytes: &[u8]) -> Option<Links> {
    let mut verifier = Verifier::new(keys()).scope(Scope::Log).known(KNOWN.clone());
    verifier.read(bytes).expect("memory can be read");
    let report = verifier.finish();
    if report.verdict() != Verdict::Clean {
        return None;
    }
    let (mut links, mut owner) = (Links::new(), [0; 32]);
    for item in items(bytes) {
        match item {
            Item::Trail(header) => owner = header.owner,
            Item::Link { seq, stored } => {
                let anchored = report.user(&owner).and_then(|user| user.anchored_to);
                if anchored.is_some_and(|anchored| seq <= anchored) {
                    links.entry(owner).or_default().push(stored.text);
                }
            }
            _ => {}
        }
    }
    Some(links)
}

/// Judges the bytes as a file, and the golden trail that they change. What is read is written and read again.
pub fn check(data: &[u8]) {
    for item in items(data) {
        let mut writer = TrailWriter::new(Vec::new());
        writer.write(&item).expect("what is read can be written");
        let again = items(&writer.finish().expect("memory can be written"));
        assert!(again == [item], "another line");
    }
    let changed = mutation::apply(data, TRAIL, &[TRAIL]);
    for bytes in [data, &changed] {
        let Some(links) = vouched(bytes) else { continue };
        for (owner, links) in links {
            assert!(LINKS.get(&owner) == Some(&links), "a clean trail says something else");
        }
    }
}

/// The golden trail's lines, small enough for a fuzzer, and a script that changes nothing.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let lines = TRAIL.split_inclusive(|byte| *byte == b'\n').filter(|line| line.len() < 2_048);
    lines.step_by(9).map(<[u8]>::to_vec).chain([Vec::new(), vec![0; 5]]).collect()
}
