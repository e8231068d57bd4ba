//! The index, kept in the deployment's own space, so that a start reads the leaves since then and not all of them. The format is
//! docs/audit-v1.md.
//!
//! It counts under a key that lies with the signing key, and where the leaves after it lead to what was signed. Whatever is wrong with it makes
//! a start read all leaves, and is no error. It is a function of the leaves below its checkpoint, so two processes that keep it at once
//! write the same; the row that names the parts comes last, by the number of its checkpoint, and the last one counts.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Buf, BufMut, Bytes};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest, Sha256};
use syntha_store::{
    Batch, ChainHead, Error, ErrorKind, Expect, Head, Incarnation, KeyFingerprint, Keyspace, Op, Record,
    RecordId, Result, Scan, Timestamp,
};

use crate::hub::Owner;
use crate::index::{Copied, Index, PAGE};
use crate::leaf::{Leaf, LeafKind};
use crate::link::{Hash, malformed};
use crate::log::{At, Log, id};
use crate::signer::{IndexKey, TreeHead};
use crate::user_store::put;

const FORMAT: u8 = 1;
const INDEX: &[u8] = b"index";
const PART: &[u8] = b"index-part";
const MAC_BYTES: usize = 32;
/// Bytes of what an index's row has before its roots.
const FIXED: usize = 1 + 8 + 8 + 32 + 32 + 8 + 8 + 1;

/// After how many leaves at least the index is kept again, while a process goes on and when it ends.
const LEAVES_LEAST: u64 = 1_024;
const LEAVES_AT_END: u64 = 256;
/// How many bytes of it are written for each leaf at most, over time. At the end it may be four times as many.
const BYTES_A_LEAF: u64 = 400;
/// From how many leaves on a kept index is looked for.
pub(crate) const LEAVES_WORTH_IT: u64 = LEAVES_AT_END;

/// About how many bytes a part has.
pub(crate) const PART_BYTES: usize = 256 * 1024;
const OWNER_BYTES: usize = 105;
const FLOOR_BYTES: usize = 96;
const HASH_BYTES: usize = 32;
/// How many parts are read at a time.
const PARTS_PAGE: usize = 4;
/// How many parts one index may have: its number and theirs share 64 bits.
const PARTS_MOST: u64 = 1 << 16;
/// How many parts of before go with one commit.
const REMOVED_MOST: usize = 16_384;
/// How often an index is read again because another process kept a newer one meanwhile.
const TRIES: usize = 3;

/// What a part holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Owners = 1,
    Floors = 2,
    Pages = 3,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Owners, Self::Floors, Self::Pages];

    const fn bytes(self) -> usize {
        match self {
            Self::Owners => OWNER_BYTES,
            Self::Floors => FLOOR_BYTES,
            Self::Pages => HASH_BYTES,
        }
    }

    /// How many of them a part holds at most.
    const fn most(self, part_bytes: usize) -> usize {
        part_bytes / self.bytes()
    }
}

/// About how many bytes an index has.
pub(crate) const fn bytes(owners: usize, floors: usize, size: u64) -> u64 {
    let known = owners.saturating_mul(OWNER_BYTES).saturating_add(floors.saturating_mul(FLOOR_BYTES));
    (known as u64).saturating_add(size / PAGE * HASH_BYTES as u64)
}

/// After how many leaves an index of so many bytes is kept again.
const fn due_after(bytes: u64, ending: bool) -> u64 {
    let (least, share) =
        if ending { (LEAVES_AT_END, 4 * BYTES_A_LEAF) } else { (LEAVES_LEAST, BYTES_A_LEAF) };
    if bytes / share > least { bytes / share } else { least }
}

/// What an index's row says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Manifest {
    number: u64,
    head: TreeHead,
    tail: Hash,
    owners: u64,
    floors: u64,
    roots: Vec<Hash>,
    /// What each part is hashed to.
    parts: Vec<Hash>,
}

impl Manifest {
    fn of(copied: &Copied, parts: Vec<Hash>) -> Self {
        Self {
            number: copied.number,
            head: copied.edge().head(),
            tail: copied.tail,
            owners: copied.owners.len() as u64,
            floors: copied.floors.len() as u64,
            roots: copied.roots.clone(),
            parts,
        }
    }

    /// A copy that has nothing of the parts yet.
    fn begun(&self) -> Copied {
        Copied {
            number: self.number,
            size: self.head.size,
            roots: self.roots.clone(),
            tail: self.tail,
            ..Copied::default()
        }
    }

    /// Whether a copy has as much as it should.
    fn is_whole(&self, copied: &Copied) -> bool {
        let counts = (copied.owners.len() as u64, copied.floors.len() as u64, copied.pages.len() as u64);
        counts == (self.owners, self.floors, self.head.size / PAGE)
    }

    fn encode(&self, key: &IndexKey, deployment: &KeyFingerprint) -> Result<Bytes> {
        let mut out = Vec::with_capacity(FIXED + HASH_BYTES * (self.roots.len() + self.parts.len() + 1));
        out.put_u8(FORMAT);
        out.put_u64(self.number);
        out.put_u64(self.head.size);
        out.put_slice(&self.head.root);
        out.put_slice(&self.tail);
        out.put_u64(self.owners);
        out.put_u64(self.floors);
        out.put_u8(u8::try_from(self.roots.len()).map_err(|_| malformed())?);
        self.roots.iter().chain(&self.parts).for_each(|hash| out.put_slice(hash));
        let mac = mac(key, deployment, &out)?.finalize().into_bytes();
        out.put_slice(&mac);
        Ok(out.into())
    }

    /// # Errors
    ///
    /// `Corrupt` for what was not written under this key, of this deployment. `believes`: a planted fault.
    fn decode(from: &[u8], key: &IndexKey, deployment: &KeyFingerprint, believes: bool) -> Result<Self> {
        let at = from.len().checked_sub(MAC_BYTES).ok_or_else(malformed)?;
        let (mut body, tag) = from.split_at(at);
        if !believes {
            mac(key, deployment, body)?.verify_slice(tag).map_err(|_| malformed())?;
        }
        if body.len() < FIXED || body.get_u8() != FORMAT {
            return Err(malformed());
        }
        let (number, size) = (body.get_u64(), body.get_u64());
        let (root, tail) = (take_hash(&mut body), take_hash(&mut body));
        let (owners, floors) = (body.get_u64(), body.get_u64());
        let roots = usize::from(body.get_u8());
        if roots != size.count_ones() as usize
            || body.len() < roots * HASH_BYTES
            || !body.len().is_multiple_of(HASH_BYTES)
        {
            return Err(malformed());
        }
        let mut hashes = body.chunks_exact(HASH_BYTES).map(|mut hash| take_hash(&mut hash));
        let roots = hashes.by_ref().take(roots).collect();
        let head = TreeHead { size, root };
        Ok(Self { number, head, tail, owners, floors, roots, parts: hashes.collect() })
    }
}

fn mac(key: &IndexKey, deployment: &KeyFingerprint, body: &[u8]) -> Result<Hmac<Sha256>> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).map_err(|_| malformed())?;
    mac.update(b"syntha/audit/v1/index\0");
    mac.update(deployment.as_bytes());
    mac.update(body);
    Ok(mac)
}

fn take_hash(from: &mut &[u8]) -> Hash {
    let mut hash = [0; HASH_BYTES];
    from.copy_to_slice(&mut hash);
    hash
}

/// The parts of a copy, in their order.
fn parts(copied: &Copied, part_bytes: usize) -> impl Iterator<Item = Bytes> {
    Kind::ALL.into_iter().flat_map(move |kind| {
        let count = match kind {
            Kind::Owners => copied.owners.len(),
            Kind::Floors => copied.floors.len(),
            Kind::Pages => copied.pages.len(),
        };
        let most = kind.most(part_bytes);
        (0..count).step_by(most).map(move |first| part(copied, kind, first, most))
    })
}

fn part(copied: &Copied, kind: Kind, first: usize, most: usize) -> Bytes {
    let mut out = Vec::with_capacity(1 + most * kind.bytes());
    out.put_u8(kind as u8);
    match kind {
        Kind::Owners => {
            for (owner, at) in copied.owners.iter().skip(first).take(most) {
                out.put_slice(owner);
                out.put_u8(u8::from(at.erased));
                put_end(&mut out, at.life, at.chain);
                out.put_u64(at.index);
                out.put_u64(at.gone);
            }
        }
        Kind::Floors => {
            for (index, leaf) in copied.floors.iter().skip(first).take(most) {
                out.put_slice(&leaf.owner);
                put_end(&mut out, leaf.life, leaf.chain);
                out.put_u64(*index);
            }
        }
        Kind::Pages => {
            copied.pages.iter().skip(first).take(most).for_each(|hash| out.put_slice(hash));
        }
    }
    out.into()
}

fn put_end(out: &mut Vec<u8>, life: Incarnation, chain: ChainHead) {
    out.put_u128(life.0);
    out.put_u64(chain.seq);
    out.put_slice(&chain.head);
}

fn take_end(from: &mut &[u8]) -> (Incarnation, ChainHead) {
    let life = Incarnation(from.get_u128());
    (life, ChainHead { seq: from.get_u64(), head: take_hash(from) })
}

/// Takes a part into a copy.
fn take_part(copied: &mut Copied, part: &[u8]) -> Result<()> {
    let Some((kind, rest)) = part.split_first() else { return Err(malformed()) };
    let kind = Kind::ALL.into_iter().find(|known| *known as u8 == *kind).ok_or_else(malformed)?;
    if !rest.len().is_multiple_of(kind.bytes()) {
        return Err(malformed());
    }
    for mut one in rest.chunks_exact(kind.bytes()) {
        match kind {
            Kind::Owners => {
                let (owner, erased): (Owner, _) = (take_hash(&mut one), one.get_u8());
                let (life, chain) = take_end(&mut one);
                let (index, gone) = (one.get_u64(), one.get_u64());
                copied.owners.push((owner, At { erased: erased != 0, life, chain, index, gone }));
            }
            Kind::Floors => {
                let owner = take_hash(&mut one);
                let (life, chain) = take_end(&mut one);
                copied.floors.push((one.get_u64(), Leaf::new(LeafKind::Floor, owner, life, chain)));
            }
            Kind::Pages => copied.pages.push(take_hash(&mut one)),
        }
    }
    Ok(())
}

/// The record that holds a part of the index of a checkpoint.
fn part_id(number: u64, part: u64) -> Result<RecordId> {
    let first = number.checked_mul(PARTS_MOST).filter(|_| part < PARTS_MOST).ok_or_else(malformed)?;
    id(PART, first.saturating_add(part))
}

impl Log {
    /// The index that the data holds, if it counts: of this checkpoint, or one before it.
    pub(crate) async fn kept_index(&self, number: u64, head: TreeHead) -> Result<Option<Index>> {
        let Some(key) = self.signer.index_key().await? else { return Ok(None) };
        let mut row = self.newest_row(number).await?;
        for _ in 0..TRIES {
            let Some(found) = row else { return Ok(None) };
            if let Ok(index) = self.read_index(&found, &key, head).await {
                self.kept.store(index.size(), Ordering::Relaxed);
                return Ok(Some(index));
            }
            self.spoilt.store(found.head.id.seq(), Ordering::Relaxed);
            row = self.newest_row(number).await?;
            if row.as_ref().is_some_and(|row| row == &found) {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// The row of the last index up to a checkpoint. What is said of later ones is of no interest: nobody has kept one of what is to come.
    async fn newest_row(&self, number: u64) -> Result<Option<Record>> {
        let scan = Scan::records(Keyspace::Audit, 1).name(Bytes::from_static(INDEX)).reverse();
        let page = self.space.scan(scan.from(id(INDEX, number.saturating_add(1))?)).await?.value;
        let row = page.records.into_iter().next();
        Ok(row.map(|(head, body)| Record::new(head, body.unwrap_or_default())))
    }

    async fn read_index(&self, row: &Record, key: &IndexKey, head: TreeHead) -> Result<Index> {
        let manifest = Manifest::decode(&row.body, key, &self.deployment, self.believes)?;
        if manifest.number != row.head.id.seq() || manifest.head.size > head.size {
            return Err(malformed());
        }
        let mut copied = manifest.begun();
        for (first, hashes) in (0..).step_by(PARTS_PAGE).zip(manifest.parts.chunks(PARTS_PAGE)) {
            let ids = (first..).take(hashes.len()).map(|part| part_id(manifest.number, part));
            let found = self.space.read(Keyspace::Audit, &ids.collect::<Result<Vec<_>>>()?).await?.value;
            for (record, hash) in found.iter().zip(hashes) {
                let body = &record.as_ref().ok_or_else(malformed)?.body.0;
                if !self.believes && Hash::from(Sha256::digest(body)) != *hash {
                    return Err(malformed());
                }
                take_part(&mut copied, body)?;
            }
        }
        if !manifest.is_whole(&copied) {
            return Err(malformed());
        }
        // The state of a hash is nothing to keep: what the last page has so far is read and compared.
        let mut tail = Sha256::new();
        let mut at = copied.size / PAGE * PAGE;
        while at < copied.size {
            let leaves = self.stored(at, copied.size, PAGE as usize).await?;
            at = at.saturating_add(leaves.len() as u64);
            leaves.iter().for_each(|leaf| leaf.hash(&mut tail));
        }
        let index = Index::restored(self.deployment, copied, tail)?;
        if index.edge().head() == manifest.head { Ok(index) } else { Err(malformed()) }
    }

    /// Keeps the index in the data if enough leaves came since it was kept last. Says whether it did. It holds up nobody who signs: its commits
    /// are as small as a part, and another process that keeps it too wins or loses as a whole.
    ///
    /// # Errors
    ///
    /// Those of the store and the signer, after which it is let be until as many leaves have come again.
    pub(crate) async fn keep_index(&self, ending: bool) -> Result<bool> {
        let Ok(_keeping) = self.keeping.try_lock() else { return Ok(false) };
        let (number, size, bytes) = {
            let index = self.index.read();
            (index.number(), index.size(), index.bytes())
        };
        let due = due_after(bytes, ending);
        if size.saturating_sub(self.kept.load(Ordering::Relaxed)) < due {
            return Ok(false);
        }
        // What fails below is not tried again a second later.
        self.kept.store(size, Ordering::Relaxed);
        let key = match self.signer.index_key().await? {
            Some(key) => key,
            None => match self.signer.turn().await?.make_index_key().await? {
                Some(key) => key,
                None => return Ok(false),
            },
        };
        let row = self.newest_row(number).await?;
        let size_of =
            |row: &Record| Some(Manifest::decode(&row.body, &key, &self.deployment, false).ok()?.head.size);
        let spoilt = self.spoilt.swap(0, Ordering::Relaxed);
        let known = row.as_ref().filter(|row| row.head.id.seq() != spoilt).and_then(size_of);
        // Another process may have kept it.
        if let Some(known) = known.filter(|known| size.saturating_sub(*known) < due) {
            self.kept.store(known, Ordering::Relaxed);
            return Ok(false);
        }
        let index = Arc::clone(&self.index);
        let copied = tokio::task::spawn_blocking(move || {
            // INVARIANT: the lock is given back before what was copied is sorted.
            let copied = index.read().copied();
            copied.map(Copied::sorted)
        });
        let Some(copied) = copied.await.map_err(|_| ended())? else { return Ok(false) };
        match self.write_index(&copied, &key, row.as_ref()).await {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::Conflict => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// `before`: the row that this one takes the place of.
    async fn write_index(&self, copied: &Copied, key: &IndexKey, before: Option<&Record>) -> Result<()> {
        let mut hashes = Vec::new();
        let mut batch = Batch::new(Timestamp(0))?;
        for (number, part) in (0..).zip(parts(copied, self.part_bytes)) {
            if !batch.ops.is_empty() {
                self.space.commit(std::mem::replace(&mut batch, Batch::new(Timestamp(0))?)).await?;
            }
            hashes.push(Sha256::digest(&part).into());
            batch.ops.push(put(part_id(copied.number, number)?, part));
        }
        let manifest = Manifest::of(copied, hashes);
        batch.ops.push(put(id(INDEX, copied.number)?, manifest.encode(key, &self.deployment)?));
        if let Some(before) = before {
            // If it is gone, another process has kept one meanwhile, and may have taken parts of this one for left ones.
            let Head { id, version, .. } = before.head.clone();
            batch.expect.push(Expect::Version { space: Keyspace::Audit, id, version: Some(version) });
        }
        // INVARIANT: only what is of checkpoints before goes. One of a later checkpoint is another process's, and counts.
        for (name, first) in [(INDEX, copied.number), (PART, part_id(copied.number, 0)?.seq())] {
            let scan = Scan::heads(Keyspace::Audit, REMOVED_MOST).name(Bytes::from_static(name));
            for (head, _) in self.space.scan(scan).await?.value.records {
                if head.id.seq() < first {
                    batch.ops.push(Op::Delete { space: Keyspace::Audit, id: head.id });
                }
            }
        }
        self.space.commit(batch).await.map(drop)
    }
}

const fn ended() -> Error {
    Error::new(ErrorKind::Unavailable, "the runtime ended while the index of the audit log was kept")
}

#[cfg(test)]
mod tests;
