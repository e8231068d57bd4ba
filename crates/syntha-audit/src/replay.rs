//! Replays a user's chain against the live data: what the links add up to must be what is there. It finds what was changed below the
//! audit layer, in the database's own files.

mod live;

use std::collections::BTreeMap;

use bytes::Bytes;
use syntha_store::{
    ChainHead, DEPLOYMENT_OWNER, ErrorKind, KeyFingerprint, Keyspace, Record, Result, Stamp, Store,
    StoredRecord, UserState, UserStore, UserTag, Version,
};

use crate::digests::Digests;
use crate::link::{Hash, Kind, Link, Place, StoredLink, Trace};
use crate::store::AuditedStore;
use crate::trail::Header;
use crate::user_store::key_id;
use crate::verify::chain::Chain;
use crate::verify::{Problem, UserReport};

/// How live data differs from its chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Difference {
    /// There is no chain, or not the key that its keyed hashes are made with: nothing can be compared.
    NoChain,
    /// The user's row stands at another commit than the last link.
    Stamp,
    /// The usage in the user's row is not the last that a link set.
    Usage,
    /// The note in the user's row is not the last that a link set.
    Note,
    /// A record has other bytes, another expiry or another version than its last link wrote.
    Changed,
    /// A record is as an older link wrote it.
    RolledBack,
    /// A record that the links put there is not there.
    Deleted,
    /// A record is there that no link put there.
    Added,
    /// A record is there that no link put there, with the versions of one that is not where it was put.
    Moved,
    /// A snapshot in the chain lists something else than the links before it add up to.
    Snapshot,
}

/// A difference, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StateFinding {
    /// What differs.
    pub difference: Difference,
    /// The record's place, by its keyed hash; `None` for what is no record.
    pub place: Option<Place>,
    /// The link that last wrote it; `None` if none did.
    pub seq: Option<u64>,
}

/// What a replay found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StateReport {
    /// The chain by itself. Where the user's row says that it ends elsewhere, this has [`Problem::End`]. Compare its head with the log: data
    /// and chain that were rolled back together are of one piece.
    pub chain: UserReport,
    /// The moment that was looked at.
    pub stamp: Stamp,
    /// How many records were compared.
    pub records: u64,
    /// What differs: the row first, then records by keyspace.
    pub findings: Vec<StateFinding>,
}

impl StateReport {
    /// Whether the data is what the chain says, and the chain is whole.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty() && self.chain.findings.is_empty()
    }
}

/// Compares a user's data with its chain, both as of one moment. `inner` is the user in the store that the audit layer lies over, so below
/// what seals. `floor`: where a pruned chain begins, by the log: the first link that is left, and the hash of the one before.
///
/// The deployment's own space has no snapshot. It is read while others write it, and compared with what the chain says of that while; where
/// its chain begins it says itself.
///
/// # Errors
///
/// Those of the store; `Busy` for the deployment's own space if it is pruned all the time. A difference is no error, but in the report.
pub async fn replay(
    inner: &dyn UserStore,
    deployment: &KeyFingerprint,
    owner: &[u8; 32],
    floor: Option<ChainHead>,
) -> Result<StateReport> {
    let mut snapshot = match inner.snapshot().await {
        Ok(snapshot) => snapshot,
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            return live::replay(inner, deployment, owner).await;
        }
        Err(error) => return Err(error),
    };
    let mut records = Vec::new();
    while let Some(chunk) = snapshot.next().await? {
        records.extend(chunk);
    }
    let state = snapshot.state();
    let header = Header::new(String::new(), *deployment, *owner).with_floor(floor);
    let mut chain = Chain::new(&header, 0);
    let (mut links, mut key, mut data) = (BTreeMap::new(), None, Vec::new());
    let key_at = key_id()?;
    for StoredRecord { space, record } in records {
        let id = &record.head.id;
        if space != Keyspace::Audit {
            data.push((space, record));
        } else if id.name().is_empty() {
            links.insert(id.seq(), Bytes::clone(&record.body));
        } else if *id == key_at {
            key = Some(Bytes::clone(&record.body));
        }
    }
    let mut replayed = Replayed::default();
    for (seq, body) in &links {
        let Ok(stored) = StoredLink::decode(body) else {
            chain.link(0, *seq, &StoredLink::new(Bytes::new(), None));
            continue;
        };
        chain.link(0, *seq, &stored);
        if let Ok(link) = Link::decode(&stored.text) {
            replayed.link(&link);
        }
    }
    chain.end(0, state.chain);
    let (mut chain, _) = chain.finish(None);
    // The caller has it from the log.
    chain.findings.retain(|finding| finding.problem != Problem::Floor);
    let records = data.len() as u64;
    let known = key.as_ref().and_then(|key| Digests::new(key).ok()).filter(|_| !links.is_empty());
    let Some(digests) = known else { return Ok(StateReport::unknown(chain, state.stamp, records)) };
    let found = data.iter().map(|(space, record)| found(&digests, *space, record));
    Ok(replayed.compare(&digests, &state, found.collect(), &Moving::new(), chain))
}

impl StateReport {
    /// Nothing can be compared.
    fn unknown(chain: UserReport, stamp: Stamp, records: u64) -> Self {
        let none = StateFinding { difference: Difference::NoChain, place: None, seq: None };
        Self { chain, stamp, records, findings: vec![none] }
    }
}

impl<S: Store + ?Sized> AuditedStore<S> {
    /// Compares a user's data with its chain: see [`replay`].
    ///
    /// # Errors
    ///
    /// Those of [`replay`]; `NotFound` for a user who is not there.
    pub async fn replay(&self, user: UserTag, floor: Option<ChainHead>) -> Result<StateReport> {
        // Not through this layer: it opens nothing that is visibly broken, and this is to say how.
        let opened = self.inner.open(user).await?;
        replay(&*opened, &self.shared.deployment, user.as_bytes(), floor).await
    }

    /// Compares the deployment's own records (who there is, who was erased) with the deployment's own chain: see [`replay`]. Others may
    /// write them meanwhile.
    ///
    /// # Errors
    ///
    /// Those of [`replay`].
    pub async fn replay_deployment(&self) -> Result<StateReport> {
        let space = self.inner.deployment().await?;
        replay(&*space, &self.shared.deployment, &DEPLOYMENT_OWNER, None).await
    }
}

/// What a record must be by the links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Expected {
    expires: [u8; 8],
    head: Hash,
    body: Hash,
    version: Version,
    body_version: Version,
}

/// What is there of a record.
type Found = (Place, Expected);

/// What records may have been while they were read: each that links of that while touch, with all that it was then.
type Moving = BTreeMap<Place, Vec<Option<Expected>>>;

fn found(digests: &Digests, space: Keyspace, record: &Record) -> Found {
    let head = &record.head;
    let there = Expected {
        expires: digests.expires(head.expires),
        head: digests.head(space, &head.id, &head.head),
        body: digests.body(space, &head.id, &record.body),
        version: head.version,
        body_version: head.body_version,
    };
    (digests.place(space, &head.id), there)
}

/// What the links add up to.
#[derive(Debug, Default)]
struct Replayed {
    /// Each record with the link that last wrote it.
    records: BTreeMap<Place, (Expected, u64)>,
    /// What a snapshot in several links has listed so far.
    listed: BTreeMap<Place, (Expected, u64)>,
    /// There is something that a snapshot can be compared with.
    begun: bool,
    /// The first link that is left.
    first: Option<u64>,
    usage: Option<[u8; 16]>,
    note: Option<[u8; 16]>,
    last: Option<(Stamp, u64)>,
    findings: Vec<StateFinding>,
}

impl Replayed {
    fn link(&mut self, link: &Link) {
        self.first.get_or_insert(link.seq);
        self.last = Some((Stamp { incarnation: link.life, epoch: link.epoch }, link.seq));
        self.usage = link.usage.or(self.usage);
        self.note = link.note.or(self.note);
        // Whatever their order in the commit, these took effect first.
        for change in &link.changes {
            match change {
                Trace::Clear { space } => self.records.retain(|place, _| place.space != *space),
                Trace::DeleteName { space, name } => {
                    let (from, to) = (Place { space: *space, name: *name, seq: 0 }, u64::MAX);
                    let named = self.records.range(from..=Place { seq: to, ..from });
                    let named: Vec<Place> = named.map(|(place, _)| *place).collect();
                    for place in named {
                        self.records.remove(&place);
                    }
                }
                _ => {}
            }
        }
        for change in &link.changes {
            self.change(change, link);
        }
        if matches!(link.kind, Kind::Snapshot | Kind::Restore) && !link.more {
            let listed = std::mem::take(&mut self.listed);
            let differing = |one: &BTreeMap<Place, (Expected, u64)>,
                             other: &BTreeMap<Place, (Expected, u64)>| {
                let differs = |(place, (expected, _)): (&Place, &(Expected, u64))| {
                    other.get(place).is_none_or(|(there, _)| there != expected)
                };
                one.iter().find(|pair| differs(*pair)).map(|(place, _)| *place)
            };
            if link.kind == Kind::Snapshot && self.begun {
                let found = differing(&listed, &self.records).or_else(|| differing(&self.records, &listed));
                self.findings.extend(found.map(|place| StateFinding {
                    difference: Difference::Snapshot,
                    place: Some(place),
                    seq: Some(link.seq),
                }));
            }
            self.records = listed;
        }
        // What links before the first one that is left had put there is known from the first whole snapshot on.
        let whole = matches!(link.kind, Kind::Snapshot | Kind::Restore) && !link.more;
        self.begun |= whole || self.first == Some(1) && !link.more;
    }

    fn change(&mut self, change: &Trace, link: &Link) {
        let version = Version(link.epoch.0);
        match change {
            Trace::Put { at, expires, head, body, .. } => {
                let (expires, head, body) = (*expires, *head, *body);
                let put = Expected { expires, head, body, version, body_version: version };
                self.records.insert(*at, (put, link.seq));
            }
            Trace::PutHead { at, expires, head, .. } => {
                if let Some((expected, seq)) = self.records.get_mut(at) {
                    (expected.expires, expected.head, expected.version) = (*expires, *head, version);
                    *seq = link.seq;
                }
            }
            Trace::Rewrite { at, head, body } => {
                if let Some((expected, seq)) = self.records.get_mut(at) {
                    (expected.head, expected.body) = (*head, *body);
                    *seq = link.seq;
                }
            }
            Trace::Delete { at } => {
                self.records.remove(at);
            }
            Trace::DeleteName { .. } | Trace::Clear { .. } => {}
            Trace::Held { at, expires, head, body, version, body_version } => {
                let held = Expected {
                    expires: *expires,
                    head: *head,
                    body: *body,
                    version: *version,
                    body_version: *body_version,
                };
                self.listed.insert(*at, (held, link.seq));
            }
        }
    }

    /// A link of the while in which records are read.
    fn link_meanwhile(&mut self, link: &Link, moving: &mut Moving) {
        let mut touched = Vec::new();
        for change in &link.changes {
            match change {
                Trace::Put { at, .. }
                | Trace::PutHead { at, .. }
                | Trace::Rewrite { at, .. }
                | Trace::Delete { at } => touched.push(*at),
                Trace::Clear { space } => {
                    touched.extend(self.records.keys().filter(|place| place.space == *space));
                }
                Trace::DeleteName { space, name } => {
                    let from = Place { space: *space, name: *name, seq: 0 };
                    touched.extend(
                        self.records.range(from..=Place { seq: u64::MAX, ..from }).map(|(at, _)| *at),
                    );
                }
                // It changes nothing, or says so itself.
                Trace::Held { .. } => {}
            }
        }
        for place in &touched {
            moving.entry(*place).or_insert_with(|| vec![self.expected(place)]);
        }
        self.link(link);
        for place in touched {
            moving.entry(place).or_default().push(self.expected(&place));
        }
    }

    fn expected(&self, place: &Place) -> Option<Expected> {
        self.records.get(place).map(|(expected, _)| *expected)
    }

    fn compare(
        mut self,
        digests: &Digests,
        state: &UserState,
        found: Vec<Found>,
        moving: &Moving,
        chain: UserReport,
    ) -> StateReport {
        let was = |place: &Place, there: Option<Expected>| {
            moving.get(place).is_some_and(|moments| moments.contains(&there))
        };
        let mut findings = std::mem::take(&mut self.findings);
        let last = self.last.map(|(_, seq)| seq);
        let row = [
            (Difference::Stamp, self.last.is_none_or(|(stamp, _)| stamp != state.stamp)),
            (Difference::Usage, self.usage.is_some_and(|usage| usage != digests.usage(&state.usage))),
            (Difference::Note, self.note.is_some_and(|note| note != digests.note(&state.note))),
        ];
        for (difference, _) in row.into_iter().filter(|(_, differs)| *differs) {
            findings.push(StateFinding { difference, place: None, seq: last });
        }
        let (records, mut added) = (found.len() as u64, Vec::new());
        for (place, there) in found {
            let known = self.records.remove(&place);
            if was(&place, Some(there)) {
                continue;
            }
            let Some((expected, seq)) = known else {
                added.push((place, there));
                continue;
            };
            if there == expected {
                continue;
            }
            let older = there.version < expected.version || there.body_version < expected.body_version;
            let difference = if older { Difference::RolledBack } else { Difference::Changed };
            findings.push(StateFinding { difference, place: Some(place), seq: Some(seq) });
        }
        self.records.retain(|place, _| !was(place, None));
        for (place, there) in added {
            let like = |(at, (expected, _)): (&Place, &(Expected, u64))| {
                at.space == place.space
                    && (expected.version, expected.body_version) == (there.version, there.body_version)
            };
            let moved = self.records.iter().any(like);
            let difference = if moved { Difference::Moved } else { Difference::Added };
            findings.push(StateFinding { difference, place: Some(place), seq: None });
        }
        for (place, (_, seq)) in self.records {
            let difference = Difference::Deleted;
            findings.push(StateFinding { difference, place: Some(place), seq: Some(seq) });
        }
        findings.sort_by_key(|finding| (finding.place.map(|place| place.space), finding.seq, finding.place));
        StateReport { chain, stamp: state.stamp, records, findings }
    }
}
