//! What a batch must know before it removes what may be undone, or undoes it: values, and what is kept.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;
use syntha_store::{
    Error as StoreError, ErrorKind as StoreErrorKind, Head, Keyspace, Record, RecordId, Scan, Stamp,
};

use crate::change::Change;
use crate::core::Core;
use crate::draft::after;
use crate::entry::Entry;
use crate::fault::Fault;
use crate::index::Index;
use crate::undo::{UndoId, UndoOverwrites};
use crate::undo_draft::{UNDO_BYTES, UNDO_ENTRIES};
use crate::undo_record::{ACTS, ActBody, ActHead, act_record, entries_name};

const PAGE: usize = 1_000;
/// The most acts, and the most entries of them, that one sweep ends.
const SWEPT: usize = 4_096;

/// What is known of it.
#[derive(Default)]
pub(crate) struct UndoLookup {
    /// Entries with their values.
    pub(crate) values: HashMap<Arc<str>, Arc<Entry>>,
    /// Acts by number.
    pub(crate) acts: BTreeMap<u64, Known>,
}

/// An act that is stored.
pub(crate) struct Known {
    pub(crate) head: ActHead,
    /// Only where it is needed.
    pub(crate) body: Option<ActBody>,
    /// The entries' own heads and bodies, by number, of an act that is undone.
    pub(crate) entries: HashMap<u64, (Bytes, Bytes)>,
}

/// What the changes of a batch want to know.
#[derive(Default)]
pub(crate) struct Wanted {
    entries: Vec<Arc<Entry>>,
    undo: Option<UndoId>,
    purge: Option<Option<UndoId>>,
    sweep: Option<std::time::Duration>,
}

impl Wanted {
    pub(crate) fn of<'a>(core: &Core, changes: impl Iterator<Item = &'a Change>) -> Self {
        let (mut wanted, index) = (Self::default(), core.index.read());
        for change in changes {
            match change {
                Change::By { change, .. } if !core.config.undo_window.is_zero() => {
                    wanted.removed(core, &index, change, &mut 0);
                }
                Change::Undo { id } => wanted.undo = Some(*id),
                Change::PurgeUndo { id } => wanted.purge = Some(*id),
                Change::Sweep { grace } => wanted.sweep = Some(*grace),
                _ => {}
            }
        }
        wanted
    }

    /// What an agent may take away, up to what one act keeps: the draft refuses more.
    fn removed(&mut self, core: &Core, index: &Index, change: &Change, bytes: &mut u64) {
        let key = match change {
            Change::Batch(changes) => {
                return changes.iter().for_each(|change| self.removed(core, index, change, bytes));
            }
            Change::Remove { key, .. } => key,
            Change::Push(push) if core.config.undo_overwrites != UndoOverwrites::None => &push.key,
            Change::DeleteTopic { topic } => {
                let on = |entry: &&Arc<Entry>| entry.audience.topics.contains(topic.shared());
                let entries = index.entries().filter(on).take(UNDO_ENTRIES + 1);
                return entries.for_each(|entry| self.entry(entry, bytes));
            }
            _ => return,
        };
        if let Some(entry) = index.get(key.as_str()) {
            self.entry(entry, bytes);
        }
    }

    fn entry(&mut self, entry: &Arc<Entry>, bytes: &mut u64) {
        *bytes += entry.bytes();
        if *bytes <= UNDO_BYTES {
            self.entries.push(Arc::clone(entry));
        }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.undo.is_none() && self.purge.is_none() && self.sweep.is_none()
    }

    /// Reads it; a conflict if somebody else committed meanwhile.
    pub(crate) async fn look_up(self, core: &Core, stamp: Stamp) -> Result<UndoLookup, StoreError> {
        let mut lookup = UndoLookup::default();
        values(core, stamp, self.entries, &mut lookup.values).await?;
        if let Some(id) = self.undo.or(self.purge.flatten())
            && let Some(record) = act(core, stamp, id).await?
        {
            let mut known = Known::of(&record.head)?;
            if self.undo.is_some() {
                let body = ActBody::decode(&record.body)?;
                let changed = body.entries.iter().filter(|one| one.over.is_some()).map(|one| &one.key);
                let there: Vec<_> = {
                    let (index, parted) = (core.index.read(), body.parted.iter().map(|one| &one.key));
                    changed.chain(parted).filter_map(|key| index.get(key).cloned()).collect()
                };
                values(core, stamp, there, &mut lookup.values).await?;
                known.entries = entries(core, stamp, id.0).await?;
                known.body = Some(body);
            }
            lookup.acts.insert(id.0, known);
        }
        if self.purge == Some(None) {
            acts(core, stamp, |_| true, usize::MAX, &mut lookup.acts).await?;
        }
        if let Some(grace) = self.sweep.filter(|_| !core.config.has(Fault::UndoEndless)) {
            let now = core.now(&core.index.read());
            let over = |at| after(at, grace) <= now;
            acts(core, stamp, |head| head.expires.is_some_and(over), SWEPT, &mut lookup.acts).await?;
            for (number, known) in &mut lookup.acts {
                if !over(known.head.until) {
                    let record = act(core, stamp, UndoId(*number)).await?;
                    known.body = record.map(|record| ActBody::decode(&record.body)).transpose()?;
                }
            }
        }
        Ok(lookup)
    }
}

impl Known {
    fn of(head: &Head) -> Result<Self, StoreError> {
        Ok(Self { head: ActHead::decode(head)?, body: None, entries: HashMap::new() })
    }
}

/// Entries with their values, from memory where they are there.
async fn values(
    core: &Core,
    stamp: Stamp,
    entries: Vec<Arc<Entry>>,
    to: &mut HashMap<Arc<str>, Arc<Entry>>,
) -> Result<(), StoreError> {
    let (there, missing): (Vec<_>, Vec<_>) = entries.into_iter().partition(|entry| entry.value.is_some());
    to.extend(there.into_iter().map(|entry| (Arc::clone(&entry.key), entry)));
    if missing.is_empty() {
        return Ok(());
    }
    let id = |entry: &Arc<Entry>| RecordId::new(Bytes::copy_from_slice(entry.key.as_bytes()), 0);
    let ids = missing.iter().map(id).collect::<Result<Vec<_>, _>>()?;
    let read = core.store.read(Keyspace::Context, &ids).await?;
    same(stamp, read.stamp)?;
    for (entry, record) in missing.iter().zip(read.value) {
        let record = record.filter(|record| record.head.version == entry.version).ok_or_else(moved_on)?;
        let value = core.value(&entry.key, &record)?;
        to.insert(Arc::clone(&entry.key), Arc::new(entry.with_value(Some(value))));
    }
    Ok(())
}

async fn act(core: &Core, stamp: Stamp, id: UndoId) -> Result<Option<Record>, StoreError> {
    let read = core.store.read(Keyspace::Undo, &[act_record(id.0)?]).await?;
    same(stamp, read.stamp)?;
    Ok(read.value.into_iter().next().flatten())
}

/// The records of an act's entries.
async fn entries(core: &Core, stamp: Stamp, number: u64) -> Result<HashMap<u64, (Bytes, Bytes)>, StoreError> {
    let (mut found, mut from) = (HashMap::new(), None::<RecordId>);
    loop {
        let scan = Scan::records(Keyspace::Undo, PAGE).name(entries_name(number));
        let page = core.store.scan(match from.take() {
            Some(id) => scan.from(id),
            None => scan,
        });
        let page = page.await?;
        same(stamp, page.stamp)?;
        from = page.value.next();
        for (head, body) in page.value.records {
            found.insert(head.id.seq(), (head.head, body.unwrap_or_default()));
        }
        if from.is_none() {
            return Ok(found);
        }
    }
}

/// Acts that are wanted, the oldest first, up to a number of acts and of entries.
async fn acts(
    core: &Core,
    stamp: Stamp,
    wanted: impl Fn(&Head) -> bool + Send + Sync,
    most: usize,
    to: &mut BTreeMap<u64, Known>,
) -> Result<(), StoreError> {
    let (mut from, mut room) = (None::<RecordId>, most as u64);
    loop {
        let scan = Scan::heads(Keyspace::Undo, PAGE).name(ACTS);
        let page = core.store.scan(match from.take() {
            Some(id) => scan.from(id),
            None => scan,
        });
        let page = page.await?;
        same(stamp, page.stamp)?;
        from = page.value.next();
        for (head, _) in page.value.records.iter().filter(|(head, _)| wanted(head)) {
            let known = Known::of(head)?;
            if room == 0 {
                return Ok(());
            }
            room = room.saturating_sub(known.head.entries.max(1));
            to.insert(head.id.seq(), known);
        }
        if from.is_none() {
            return Ok(());
        }
    }
}

fn same(stamp: Stamp, read: Stamp) -> Result<(), StoreError> {
    if stamp == read { Ok(()) } else { Err(moved_on()) }
}

const fn moved_on() -> StoreError {
    StoreError::new(StoreErrorKind::Conflict, "the user's data moved on, reload and try again")
}

/// What [`Fault::UndoShown`] shows: the last entry of a key that an agent removed.
#[cfg(feature = "faults")]
pub(crate) async fn leaked(core: &Core, key: &str) -> crate::Result<Option<Arc<Entry>>> {
    let stamp = core.index.read().stamp;
    let mut acts_found = BTreeMap::new();
    acts(core, stamp, |_| true, usize::MAX, &mut acts_found).await?;
    for number in acts_found.keys().rev() {
        let Some(record) = act(core, stamp, UndoId(*number)).await? else { continue };
        let body = ActBody::decode(&record.body)?;
        let kept = entries(core, stamp, *number).await?;
        for (removed, place) in body.entries.iter().zip(1_u64..) {
            if let (true, Some((head, text))) = (*removed.key == *key, kept.get(&place)) {
                let id = RecordId::new(Bytes::copy_from_slice(key.as_bytes()), 0)?;
                let head = Head::new(id, head.clone(), record.head.version, record.head.version, None);
                let text = std::str::from_utf8(text).unwrap_or("null");
                return Ok(Some(Arc::new(Entry::decode(&head)?.with_value(Some(text.into())))));
            }
        }
    }
    Ok(None)
}
