//! What the last commits changed: a text in the user row, so that another handle can follow without reading everything.

use std::fmt::Write as _;

use data_encoding::HEXLOWER;
use syntha_store::{Epoch, Keyspace, RecordId};

/// The most characters that one commit adds; the row keeps 1,920.
const COMMIT_CHARACTERS: usize = 1_600;
/// The fewest that a record with a name adds.
const RECORD_CHARACTERS: usize = 8;

/// One commit's part of the text, in the making. Its format stands in `schema.sql`.
pub(crate) struct ChangeLog {
    text: String,
    given_up: bool,
}

/// A record that a commit changed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Changed {
    pub(crate) epoch: Epoch,
    pub(crate) space: Keyspace,
    pub(crate) id: RecordId,
    pub(crate) deleted: bool,
}

impl ChangeLog {
    /// For a commit of so many records: it may be known beforehand that they are more than can be told.
    pub(crate) const fn of(records: usize) -> Self {
        Self { text: String::new(), given_up: records > COMMIT_CHARACTERS / RECORD_CHARACTERS }
    }

    pub(crate) fn push(&mut self, kind: char, space: Keyspace, id: &RecordId) {
        // The audit trail is followed by its sequence numbers.
        if self.given_up || space == Keyspace::Audit {
            return;
        }
        let _ = write!(self.text, ",{kind}{:x}:{:x}:", space.code(), id.seq());
        HEXLOWER.encode_append(id.name(), &mut self.text);
        if self.text.len() > COMMIT_CHARACTERS {
            self.give_up();
        }
    }

    /// The commit changes more than can be told.
    pub(crate) fn give_up(&mut self) {
        self.given_up = true;
        self.text.clear();
    }

    pub(crate) fn end(self) -> String {
        if self.given_up { "!".to_owned() } else { self.text }
    }
}

/// What was changed after an epoch, in the order of commits; `None` if the text does not reach back so far, or a commit gave up.
pub(crate) fn since(text: &str, since: Epoch, now: Epoch) -> Option<Vec<Changed>> {
    let mut found = Vec::new();
    if since == now {
        return Some(found);
    }
    let mut expected = since.0.checked_add(1)?;
    // What stands before the first mark is the rest of a commit that was cut.
    for commit in text.split('|').skip(1) {
        let (epoch, changes) = commit.split_at_checked(16)?;
        let epoch = u64::from_str_radix(epoch, 16).ok()?;
        if epoch < expected {
            continue;
        }
        if epoch > expected || changes == "!" {
            return None;
        }
        expected += 1;
        for change in changes.split(',').skip(1) {
            found.push(parse(Epoch(epoch), change)?);
        }
    }
    (expected == now.0 + 1).then_some(found)
}

fn parse(epoch: Epoch, change: &str) -> Option<Changed> {
    let (kind, rest) = change.split_at_checked(1)?;
    let mut parts = rest.split(':');
    let space = Keyspace::from_code(u8::from_str_radix(parts.next()?, 16).ok()?).ok()?;
    let seq = u64::from_str_radix(parts.next()?, 16).ok()?;
    let hex = parts.next()?;
    let name = (0..hex.len() / 2).map(|n| u8::from_str_radix(hex.get(n * 2..n * 2 + 2)?, 16).ok());
    let id = RecordId::new(name.collect::<Option<Vec<_>>>()?, seq).ok()?;
    Some(Changed { epoch, space, id, deleted: kind == "d" })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn commit(epoch: u64, changes: &[(char, &str, u64)]) -> String {
        let mut log = ChangeLog::of(changes.len());
        for (kind, name, seq) in changes {
            log.push(*kind, Keyspace::Context, &RecordId::new(name.as_bytes().to_vec(), *seq).unwrap());
        }
        format!("|{epoch:016x}{}", log.end())
    }

    #[test]
    fn what_was_written_is_read() {
        let text =
            commit(7, &[('p', "a|,:", 1)]) + &commit(8, &[]) + &commit(9, &[('d', "b", 2), ('p', "c", 0)]);
        let names = |from| {
            let found = since(&text, Epoch(from), Epoch(9))?;
            Some(
                found
                    .iter()
                    .map(|one| (one.epoch.0, one.id.name().to_vec(), one.deleted))
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(names(9), Some(vec![]));
        assert_eq!(names(8), Some(vec![(9, b"b".to_vec(), true), (9, b"c".to_vec(), false)]));
        assert_eq!(names(6).unwrap().len(), 3);
        assert_eq!(names(5), None, "commit 6 is not told of");
    }

    #[test]
    fn a_cut_or_large_commit_is_not_guessed() {
        let text = commit(7, &[('p', "abcdef", 1)]) + &commit(8, &[('p', "g", 1)]);
        let cut = text.get(5..).unwrap();
        assert_eq!(since(cut, Epoch(6), Epoch(8)), None);
        assert_eq!(since(cut, Epoch(7), Epoch(8)).unwrap().len(), 1);
        assert_eq!(since(&text, Epoch(7), Epoch(9)), None, "the last commit is missing");
        let long = "x".repeat(200);
        let large = commit(9, &[('p', &long, 1), ('p', &long, 2), ('p', &long, 3), ('p', &long, 4)]);
        assert_eq!(since(&large, Epoch(8), Epoch(9)), None);
    }
}
