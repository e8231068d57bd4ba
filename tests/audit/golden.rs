//! A trail that was written once: what reads it today must read it for ever. And what becomes of it under any change.

use std::cell::Cell;
use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use syntha_audit::trail::{Item, TrailReader};
use syntha_audit::verify::{Checkpoint, Report, Scope, TrustedKeys, Verdict, Verifier};

const TRAIL: &str = include_str!("golden.trail");
const KEYS: &str = include_str!("golden.keys");

/// The last checkpoint of the trail, which the auditor has kept.
fn kept() -> String {
    let mut reader = TrailReader::new(TRAIL.as_bytes());
    let items = std::iter::from_fn(|| reader.line().unwrap()).filter_map(|line| line.item);
    let note = |item| if let Item::Checkpoint { note } = item { Some(note) } else { None };
    items.filter_map(note).last().unwrap()
}

fn verified(bytes: &[u8]) -> Report {
    let keys = TrustedKeys::parse(KEYS).unwrap();
    let known = Checkpoint::parse(&kept(), &keys).unwrap();
    let mut verifier = Verifier::new(keys).scope(Scope::Log).known(Some(known));
    verifier.read(bytes).unwrap();
    verifier.finish()
}

/// The links that a clean trail vouches for: those that a checkpoint covers.
fn vouched(bytes: &[u8], report: &Report) -> BTreeMap<[u8; 32], Vec<Bytes>> {
    let mut reader = TrailReader::new(bytes);
    let (mut links, mut owner) = (BTreeMap::<_, Vec<_>>::new(), [0; 32]);
    while let Some(line) = reader.line().unwrap() {
        match line.item {
            Some(Item::Trail(header)) => owner = header.owner,
            Some(Item::Link { seq, stored }) => {
                let anchored = report.user(&owner).and_then(|user| user.anchored_to);
                if anchored.is_some_and(|anchored| seq <= anchored) {
                    links.entry(owner).or_default().push(stored.text);
                }
            }
            _ => {}
        }
    }
    links
}

#[test]
fn the_golden_trail_is_clean() {
    let report = verified(TRAIL.as_bytes());
    assert_eq!((report.verdict(), report.users.len()), (Verdict::Clean, 3));
    assert_eq!((report.leaves, report.rebuilt, report.lines), (43, 43, TRAIL.lines().count() as u64));
    let (links, anchored) = report
        .users
        .iter()
        .fold((0, 0), |(links, anchored), user| (links + user.to, anchored + user.anchored_to.unwrap()));
    assert_eq!((links, anchored), GOLDEN);
}

/// Links, and how many of them are anchored.
const GOLDEN: (u64, u64) = (20, 17);

/// Whatever is done to the trail, what it says after it is what it said before, or that something is wrong.
#[test]
fn a_changed_trail_lies_about_nothing() {
    let config = Config {
        cases: 512,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(0x7A11),
        ..Config::default()
    };
    let before = vouched(TRAIL.as_bytes(), &verified(TRAIL.as_bytes()));
    let lines: Vec<_> = TRAIL.lines().collect();
    let step = (0_u8..8, any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>());
    let clean = Cell::new(0);
    TestRunner::new(config)
        .run(&prop::collection::vec(step, 1..4), |steps| {
            let mut changed: Vec<Vec<u8>> = lines.iter().map(|line| line.as_bytes().to_vec()).collect();
            for (what, at, other, byte) in steps {
                let (at, other) = (at.index(changed.len()), other.index(changed.len()));
                match what {
                    0 => drop(changed.remove(at)),
                    1 => changed.swap(at, other),
                    2 => changed.insert(at, changed[other].clone()),
                    3 => changed.truncate(at + 1),
                    4 => changed[at] = changed[other].clone(),
                    5 => {
                        let place = usize::from(byte) * 7 % (changed[at].len() + 1);
                        changed[at].insert(place, byte);
                    }
                    6 => {
                        let place = usize::from(byte) * 7 % changed[at].len().max(1);
                        changed[at].get_mut(place).into_iter().for_each(|old| *old ^= 1 << (byte % 8));
                    }
                    _ => {
                        let line = String::from_utf8_lossy(&changed[at]).replace("\"salt\"", "\"sal\"");
                        changed[at] = line.into_bytes();
                    }
                }
                if changed.is_empty() {
                    changed.push(Vec::new());
                }
            }
            let bytes = [changed.join(&b'\n'), b"\n".to_vec()].concat();
            let report = verified(&bytes);
            if report.verdict() == Verdict::Clean {
                clean.set(clean.get() + 1);
                for (owner, links) in vouched(&bytes, &report) {
                    prop_assert!(before.get(&owner) == Some(&links));
                }
            }
            Ok(())
        })
        .unwrap();
    // Lines of the log may stand in any order, so some changes are none.
    assert!(clean.get() > 0);
}
