//! A user's trail, read below all layers and checked by hand from `docs/audit-v1.md`, so that nothing goes unseen that the layer does to
//! both sides alike.

use std::collections::BTreeMap;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use syntha_audit::link::{Kind, Link, Place, StoredLink, Trace};
use syntha_store::{
    ChainHead, Incarnation, Keyspace, Record, RecordId, Scan, Timestamp, UserState, UserStore, UserTag,
};

use crate::harness::Bed;

/// What is kept of one owner below all layers.
pub(super) struct Trail {
    pub(super) state: UserState,
    pub(super) key: Vec<u8>,
    pub(super) links: Vec<Link>,
    pub(super) stored: Vec<StoredLink>,
    /// The records of the other keyspaces.
    pub(super) records: BTreeMap<(Keyspace, RecordId), Record>,
    genesis: [u8; 32],
}

/// What the chain leads to for a record: its expiry, head and body by keyed hash, its version and its body's.
pub(super) type Kept = ([u8; 8], [u8; 32], [u8; 32], u64, u64);

impl Trail {
    pub(super) async fn of(bed: &Bed, user: &str) -> Self {
        Self::of_tag(bed, bed.tag(user)).await
    }

    pub(super) async fn of_tag(bed: &Bed, tag: UserTag) -> Self {
        Self::read(bed, &*bed.bare().open(tag).await.unwrap(), tag.as_bytes()).await
    }

    async fn read(bed: &Bed, user: &dyn UserStore, owner: &[u8; 32]) -> Self {
        let (mut records, mut links, mut stored, mut key) =
            (BTreeMap::new(), Vec::new(), Vec::new(), Vec::new());
        for space in Keyspace::all() {
            let page = user.scan(Scan::records(space, syntha_store::BATCH_OPS)).await.unwrap().value;
            assert!(!page.more);
            for (head, body) in page.records {
                let body = body.unwrap();
                if space != Keyspace::Audit {
                    records.insert((space, head.id.clone()), Record::new(head, body));
                } else if head.id.name().is_empty() {
                    let link = StoredLink::decode(&body).unwrap();
                    links.push(Link::decode(&link.text).unwrap());
                    assert_eq!(links.last().unwrap().seq, head.id.seq(), "a link stands in its place");
                    stored.push(link);
                } else if head.id.name() == "key" {
                    key = body.to_vec();
                }
            }
        }
        let genesis = Sha256::new()
            .chain_update(b"syntha/audit/v1/genesis\0")
            .chain_update(bed.key().fingerprint().as_bytes())
            .chain_update(owner)
            .finalize();
        let state = user.state().await.unwrap();
        Self { state, key, links, stored, records, genesis: genesis.into() }
    }

    pub(super) fn last(&self) -> &Link {
        self.links.last().unwrap()
    }

    /// Follows every link by its hash, and says where the chain ends.
    pub(super) fn end(&self) -> ChainHead {
        let mut at = ChainHead { seq: 0, head: self.genesis };
        for (link, stored) in self.links.iter().zip(&self.stored) {
            assert_eq!(link.seq, at.seq + 1, "the links are numbered one by one");
            let length = (stored.text.len() as u64).to_be_bytes();
            let head = Sha256::new().chain_update([0]).chain_update(length).chain_update(at.head);
            at = ChainHead { seq: link.seq, head: head.chain_update(&stored.text).finalize().into() };
            let hashed: [u8; 32] = match &stored.details {
                None => [0; 32],
                Some((salt, details)) => {
                    Sha256::new().chain_update([2]).chain_update(salt).chain_update(details).finalize().into()
                }
            };
            assert_eq!(link.details, hashed, "a link names its details");
        }
        at
    }

    /// Everything that must hold of a trail that nobody has touched, and of the data beside it.
    pub(super) fn assert_whole(&self) {
        assert_eq!(self.end(), self.state.chain, "the chain ends where the row says");
        assert_eq!(self.last().life, self.state.stamp.incarnation);
        assert_eq!(self.last().epoch, self.state.stamp.epoch);
        assert!(self.leads_to() == self.stands(), "the chain leads to what is stored");
        let usage = self.links.iter().rev().find_map(|link| link.usage).unwrap();
        let of = self.state.usage;
        let counts = [of.contexts, of.agents, of.context_bytes, of.history_bytes];
        let counts: Vec<u8> = counts.iter().flat_map(|count| count.to_be_bytes()).collect();
        assert_eq!(usage, self.short(b'u', &[&counts]), "the usage is in the chain");
        let note = self.links.iter().rev().find_map(|link| link.note).unwrap();
        assert_eq!(note, self.short(b't', &[self.state.note.as_bytes()]), "so is the note");
    }

    /// What the chain leads to, link by link.
    pub(super) fn leads_to(&self) -> BTreeMap<Place, Kept> {
        let (mut kept, mut goes_on) = (BTreeMap::<Place, Kept>::new(), false);
        for link in &self.links {
            if !matches!(link.kind, Kind::Change | Kind::Note) && !goes_on {
                kept.clear();
            }
            goes_on = link.more;
            for change in &link.changes {
                match change {
                    Trace::DeleteName { space, name } => {
                        kept.retain(|at, _| (at.space, &at.name) != (*space, name));
                    }
                    Trace::Clear { space } => kept.retain(|at, _| at.space != *space),
                    _ => {}
                }
            }
            let epoch = link.epoch.0;
            for change in &link.changes {
                match change {
                    Trace::Put { at, expires, head, body, .. } => {
                        kept.insert(*at, (*expires, *head, *body, epoch, epoch));
                    }
                    Trace::PutHead { at, expires, head, .. } => {
                        let record = kept.get_mut(at).unwrap();
                        (record.0, record.1, record.3) = (*expires, *head, epoch);
                    }
                    Trace::Rewrite { at, head, body } => {
                        let record = kept.get_mut(at).unwrap();
                        (record.1, record.2) = (*head, *body);
                    }
                    Trace::Delete { at } => drop(kept.remove(at)),
                    Trace::Held { at, expires, head, body, version, body_version } => {
                        kept.insert(*at, (*expires, *head, *body, version.0, body_version.0));
                    }
                    _ => {}
                }
            }
        }
        kept
    }

    /// The same of what is stored.
    pub(super) fn stands(&self) -> BTreeMap<Place, Kept> {
        let of = |((space, id), record): (&(Keyspace, RecordId), &Record)| {
            let place = [&[space.code()][..], id.name(), &id.seq().to_be_bytes()];
            let hash = |what, part: &[u8]| self.digest(what, &[&place[..], &[part]].concat());
            let (head, body) = (hash(b'h', &record.head.head), hash(b'b', &record.body));
            let versions = (record.head.version.0, record.head.body_version.0);
            let expires = self.expires(record.head.expires);
            (self.place(*space, id), (expires, head, body, versions.0, versions.1))
        };
        self.records.iter().map(of).collect()
    }

    pub(super) fn place(&self, space: Keyspace, id: &RecordId) -> Place {
        let name = self.short(b'n', &[&[space.code()], id.name()]);
        Place { space: space.code(), name, seq: id.seq() }
    }

    fn expires(&self, at: Option<Timestamp>) -> [u8; 8] {
        let at = at.map_or(u64::MAX, |at| at.0).to_be_bytes();
        self.digest(b'e', &[&at])[..8].try_into().unwrap()
    }

    pub(super) fn short(&self, what: u8, parts: &[&[u8]]) -> [u8; 16] {
        self.digest(what, parts)[..16].try_into().unwrap()
    }

    fn digest(&self, what: u8, parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).unwrap();
        mac.update(&[what]);
        for part in parts {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }

    pub(super) fn lives(&self) -> Vec<Incarnation> {
        let mut lives: Vec<_> = self.links.iter().map(|link| link.life).collect();
        lives.dedup();
        lives
    }
}
