//! Archives of one user: one format for every backend, `docs/archive-v1.md`.
//!
//! An archive is a header, chunks of records and an end, each a frame with a counter and a running SHA-256
//! (FIPS 180-4) over everything before it. A flipped, missing, repeated, reordered or cut frame is found before the
//! import that reads it has changed anything. The hash has no key: it finds accidents, not forgers. Whose archive it is
//! stands in the header as the user's tag, which only the deployment's key can derive.

use std::io::{ErrorKind as IoKind, Read, Write};

use async_trait::async_trait;
use bytes::{Buf, BufMut, Bytes};
use sha2::{Digest, Sha256};

use crate::batch::{BATCH_BYTES, SEALED_BATCH_BYTES, SEALED_HEAD_BYTES};
use crate::error::{Error, ErrorKind, Result};
use crate::keyspace::Keyspace;
use crate::record::{Head, NAME_BYTES, Record, RecordId, StoredRecord};
use crate::state::{ChainHead, Epoch, Incarnation, Note, Stamp, Timestamp, Usage, UserState, Version};
use crate::store::Snapshot;
use crate::user::UserTag;

/// The first 16 bytes: a name, a zero byte and the format's version.
pub const MAGIC: [u8; 16] = *b"syntha-archive\0\x02";
/// The same of format 1, in which records stand in order of their names; it is still read.
const MAGIC_1: [u8; 16] = *b"syntha-archive\0\x01";

/// The length of a user's row in the format's layout.
pub const STATE_BYTES: usize = 16 + 8 + 8 + 32 + 4 * 8 + 8 + 8;

const HEADER: u8 = 1;
const RECORDS: u8 = 2;
const END: u8 = 3;
const NEVER: u64 = u64::MAX;
/// A chunk holds a few MiB, or one record of the greatest size.
const FRAME_BYTES: usize = BATCH_BYTES + (8 << 20);

/// What an archive holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ArchiveInfo {
    /// Whose it is.
    pub owner: UserTag,
    /// Where the data stood.
    pub stamp: Stamp,
    /// How many records.
    pub records: u64,
    /// How many bytes were written.
    pub bytes: u64,
    /// The hash at its end, which names the archive.
    pub hash: [u8; 32],
}

/// Writes a snapshot as an archive. The caller makes what was written durable.
///
/// # Errors
///
/// `Unavailable` if the sink fails, else the snapshot's error.
pub async fn write<W: Write + Send>(snapshot: &mut dyn Snapshot, sink: &mut W) -> Result<ArchiveInfo> {
    let mut frames = FrameWriter { sink, hash: Sha256::digest(MAGIC).into(), counter: 0, bytes: 0 };
    frames.sink.write_all(&MAGIC).map_err(sink_failed)?;
    frames.bytes += MAGIC.len() as u64;
    let (owner, state) = (snapshot.owner(), snapshot.state());
    let mut header = owner.as_bytes().to_vec();
    encode_state(&mut header, &state);
    frames.write(HEADER, &header)?;
    let mut records = 0;
    while let Some(chunk) = snapshot.next().await? {
        let mut payload = Vec::new();
        for stored in &chunk {
            encode_record(&mut payload, stored)?;
            records += 1;
            if payload.len() > BATCH_BYTES / 8 {
                frames.write(RECORDS, &payload)?;
                payload.clear();
            }
        }
        if !payload.is_empty() {
            frames.write(RECORDS, &payload)?;
        }
    }
    frames.write(END, &u64::to_be_bytes(records))?;
    frames.sink.flush().map_err(sink_failed)?;
    Ok(ArchiveInfo { owner, stamp: state.stamp, records, bytes: frames.bytes, hash: frames.hash })
}

/// An archive that is being read. It is a [`Snapshot`], so a store imports it like another store's data.
#[derive(Debug)]
pub struct Reader<R> {
    source: R,
    owner: UserTag,
    state: UserState,
    hash: [u8; 32],
    counter: u64,
    records: u64,
    last: Option<(Keyspace, RecordId)>,
    /// Records must stand in order of their names, as in format 1.
    ordered: bool,
    ended: bool,
}

impl<R: Read> Reader<R> {
    /// Reads the header.
    ///
    /// # Errors
    ///
    /// `Unsupported` for an archive of a newer format; `Corrupt` for anything that is not an archive.
    pub fn open(mut source: R) -> Result<Self> {
        let mut magic = [0; 16];
        read_exact(&mut source, &mut magic)?;
        let ordered = magic == MAGIC_1;
        if magic != MAGIC && !ordered {
            return Err(if magic.starts_with(b"syntha-archive\0") {
                Error::new(
                    ErrorKind::Unsupported,
                    "the archive has a format that this build does not know, upgrade",
                )
            } else {
                Error::new(ErrorKind::Corrupt, "the file is not a Syntha archive")
            });
        }
        let mut hash = Sha256::digest(magic).into();
        let (kind, payload) = read_frame(&mut source, &mut hash, 0)?;
        if kind != HEADER {
            return Err(damaged());
        }
        let (owner, state) = decode_header(payload)?;
        Ok(Self { source, owner, state, hash, counter: 1, records: 0, last: None, ordered, ended: false })
    }

    fn next_chunk(&mut self) -> Result<Option<Vec<StoredRecord>>> {
        if self.ended {
            return Ok(None);
        }
        let (kind, mut payload) = read_frame(&mut self.source, &mut self.hash, self.counter)?;
        self.counter += 1;
        match kind {
            RECORDS => {
                let mut chunk = Vec::new();
                while payload.has_remaining() {
                    let stored = decode_record(&mut payload)?;
                    let key = (stored.space, stored.record.head.id.clone());
                    let out_of_order =
                        |last: &(Keyspace, RecordId)| last.0 > key.0 || (self.ordered && *last >= key);
                    if self.last.as_ref().is_some_and(out_of_order)
                        || stored.record.head.version.0 > self.state.stamp.epoch.0
                        || stored.space.writer() == crate::keyspace::Writer::Manager
                    {
                        return Err(damaged());
                    }
                    self.last = Some(key);
                    self.records += 1;
                    chunk.push(stored);
                }
                Ok(Some(chunk))
            }
            END => {
                if payload.try_get_u64().map_err(|_| damaged())? != self.records || payload.has_remaining() {
                    return Err(damaged());
                }
                let mut more = [0; 1];
                if self.source.read(&mut more).map_err(source_failed)? != 0 {
                    return Err(damaged());
                }
                self.ended = true;
                Ok(None)
            }
            _ => Err(damaged()),
        }
    }
}

#[async_trait]
impl<R: Read + Send> Snapshot for Reader<R> {
    fn owner(&self) -> UserTag {
        self.owner
    }

    fn state(&self) -> UserState {
        self.state
    }

    fn life(&self) -> Option<Incarnation> {
        None
    }

    fn follows(&self) -> Option<ChainHead> {
        None
    }

    async fn next(&mut self) -> Result<Option<Vec<StoredRecord>>> {
        self.next_chunk()
    }
}

struct FrameWriter<'a, W> {
    sink: &'a mut W,
    hash: [u8; 32],
    counter: u64,
    bytes: u64,
}

impl<W: Write> FrameWriter<'_, W> {
    fn write(&mut self, kind: u8, payload: &[u8]) -> Result<()> {
        let length = u32::try_from(payload.len()).ok().filter(|_| payload.len() <= FRAME_BYTES);
        let length = length
            .ok_or_else(|| Error::new(ErrorKind::LimitExceeded, "a chunk of an archive is too large"))?;
        self.hash = frame_hash(self.hash, kind, self.counter, payload);
        let mut head = Vec::with_capacity(5);
        head.put_u8(kind);
        head.put_u32(length);
        for part in [head.as_slice(), payload, &self.hash] {
            self.sink.write_all(part).map_err(sink_failed)?;
            self.bytes += part.len() as u64;
        }
        self.counter += 1;
        Ok(())
    }
}

fn read_frame(source: &mut impl Read, hash: &mut [u8; 32], counter: u64) -> Result<(u8, Bytes)> {
    let mut head = [0; 5];
    read_exact(source, &mut head)?;
    let mut fields = head.as_slice();
    let (kind, length) = (fields.get_u8(), fields.get_u32() as usize);
    if length > FRAME_BYTES {
        return Err(damaged());
    }
    // Read by parts, so that a forged length allocates no more than what is there.
    let mut payload = Vec::new();
    source.take(length as u64).read_to_end(&mut payload).map_err(source_failed)?;
    if payload.len() != length {
        return Err(damaged());
    }
    let mut stored = [0; 32];
    read_exact(source, &mut stored)?;
    *hash = frame_hash(*hash, kind, counter, &payload);
    if *hash != stored {
        return Err(damaged());
    }
    Ok((kind, payload.into()))
}

fn frame_hash(before: [u8; 32], kind: u8, counter: u64, payload: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(before);
    hash.update([kind]);
    hash.update(counter.to_be_bytes());
    hash.update((payload.len() as u64).to_be_bytes());
    hash.update(payload);
    hash.finalize().into()
}

/// Writes a user's row in the format's layout, [`STATE_BYTES`] long, without its note: for backends that keep users in files of their own.
pub fn encode_state(out: &mut Vec<u8>, state: &UserState) {
    out.put_u128(state.stamp.incarnation.0);
    out.put_u64(state.stamp.epoch.0);
    out.put_u64(state.chain.seq);
    out.put_slice(&state.chain.head);
    out.put_u64(state.usage.contexts);
    out.put_u64(state.usage.agents);
    out.put_u64(state.usage.context_bytes);
    out.put_u64(state.usage.history_bytes);
    out.put_u64(state.next_expiry.map_or(NEVER, |at| at.0));
    out.put_u64(state.time.0);
}

/// Reads a user's row as [`encode_state`] wrote it.
///
/// # Errors
///
/// `Corrupt`.
pub fn decode_state(from: &mut Bytes) -> Result<UserState> {
    if from.remaining() < STATE_BYTES {
        return Err(damaged());
    }
    let stamp = Stamp { incarnation: Incarnation(from.get_u128()), epoch: Epoch(from.get_u64()) };
    let mut chain = ChainHead { seq: from.get_u64(), head: [0; 32] };
    from.copy_to_slice(&mut chain.head);
    let usage = Usage {
        contexts: from.get_u64(),
        agents: from.get_u64(),
        context_bytes: from.get_u64(),
        history_bytes: from.get_u64(),
    };
    let next_expiry = Some(from.get_u64()).filter(|at| *at != NEVER).map(Timestamp);
    let time = Timestamp(from.get_u64());
    let numbers =
        [stamp.epoch.0, chain.seq, usage.contexts, usage.agents, usage.context_bytes, usage.history_bytes];
    if numbers.iter().any(|number| *number > i64::MAX as u64 / 2) || i64::try_from(time.0).is_err() {
        return Err(damaged());
    }
    Ok(UserState { stamp, chain, usage, next_expiry, time, note: Note::NONE })
}

fn decode_header(mut from: Bytes) -> Result<(UserTag, UserState)> {
    if from.remaining() != 32 + STATE_BYTES {
        return Err(damaged());
    }
    let mut owner = [0; 32];
    from.copy_to_slice(&mut owner);
    Ok((UserTag::from_bytes(owner)?, decode_state(&mut from)?))
}

/// Writes a record in the format's layout: for backends that keep records in files of their own.
///
/// # Errors
///
/// `LimitExceeded` for a record over the contract's limits.
pub fn encode_record(out: &mut Vec<u8>, stored: &StoredRecord) -> Result<()> {
    let Record { head, body } = &stored.record;
    let large = |_| Error::new(ErrorKind::LimitExceeded, "a record is too large for an archive");
    out.put_u8(stored.space.code());
    out.put_u16(u16::try_from(head.id.name().len()).map_err(large)?);
    out.put_slice(head.id.name());
    out.put_u64(head.id.seq());
    out.put_u64(head.version.0);
    out.put_u64(head.body_version.0);
    out.put_u64(head.expires.map_or(NEVER, |at| at.0));
    out.put_u32(u32::try_from(head.head.len()).map_err(large)?);
    out.put_slice(&head.head);
    out.put_u32(u32::try_from(body.len()).map_err(large)?);
    out.put_slice(body);
    Ok(())
}

/// Reads a record as [`encode_record`] wrote it.
///
/// # Errors
///
/// `Corrupt`; `Unsupported` for a keyspace of a newer build.
pub fn decode_record(from: &mut Bytes) -> Result<StoredRecord> {
    let short = |_| damaged();
    let space = Keyspace::from_code(from.try_get_u8().map_err(short)?)?;
    let length = usize::from(from.try_get_u16().map_err(short)?);
    let name = take(from, length, NAME_BYTES)?;
    let id = RecordId::new(name, from.try_get_u64().map_err(short)?)?;
    let version = Version(from.try_get_u64().map_err(short)?);
    let body_version = Version(from.try_get_u64().map_err(short)?);
    let expires = Some(from.try_get_u64().map_err(short)?).filter(|at| *at != NEVER).map(Timestamp);
    if expires.is_some_and(|at| i64::try_from(at.0).is_err()) || body_version > version {
        return Err(damaged());
    }
    let length = from.try_get_u32().map_err(short)? as usize;
    let head = take(from, length, SEALED_HEAD_BYTES)?;
    let length = from.try_get_u32().map_err(short)? as usize;
    let body = take(from, length, SEALED_BATCH_BYTES)?;
    Ok(StoredRecord { space, record: Record::new(Head::new(id, head, version, body_version, expires), body) })
}

fn take(from: &mut Bytes, length: usize, most: usize) -> Result<Bytes> {
    if length > most || length > from.remaining() { Err(damaged()) } else { Ok(from.split_to(length)) }
}

fn read_exact(source: &mut impl Read, into: &mut [u8]) -> Result<()> {
    source.read_exact(into).map_err(|error| match error.kind() {
        IoKind::UnexpectedEof => damaged(),
        _ => source_failed(error),
    })
}

fn damaged() -> Error {
    Error::new(ErrorKind::Corrupt, "the archive is damaged or cut short, use another copy")
}

/// What a source says of itself stands: one that is sealed knows better what is wrong with it.
fn source_failed(error: std::io::Error) -> Error {
    error.downcast::<Error>().unwrap_or_else(|error| {
        Error::new(ErrorKind::Unavailable, "the archive can't be read").with_source(error)
    })
}

fn sink_failed(error: std::io::Error) -> Error {
    error.downcast::<Error>().unwrap_or_else(|error| {
        Error::new(ErrorKind::Unavailable, "the archive can't be written").with_source(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Batch, CreateMode, ImportMode, MemoryStore, Store, UserId, UserStore};
    use std::sync::Arc;

    fn now<T>(future: impl Future<Output = T>) -> T {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match std::pin::pin!(future).poll(&mut context) {
            std::task::Poll::Ready(value) => value,
            std::task::Poll::Pending => panic!("the reference never waits here"),
        }
    }

    fn archive() -> (MemoryStore, UserTag, Arc<dyn UserStore>, Vec<u8>) {
        let store = MemoryStore::new().unwrap();
        let tag = store.deployment_key().tag(&UserId::new("alice").unwrap());
        let mut first = Batch::new(Timestamp(5)).unwrap();
        for n in 0..40_u64 {
            let id = RecordId::new(format!("name-{n:02}"), n).unwrap();
            first = first.put(Keyspace::Context, id, vec![1; 10], vec![u8::try_from(n).unwrap(); 100_000]);
        }
        let (user, _) = now(store.create(tag, first, CreateMode::New)).unwrap();
        let mut out = Vec::new();
        let info = now(write(&mut *now(user.snapshot()).unwrap(), &mut out)).unwrap();
        assert_eq!((info.records, info.bytes), (40, out.len() as u64));
        (store, tag, user, out)
    }

    #[test]
    fn an_archive_gives_back_every_record() {
        let (store, tag, user, bytes) = archive();
        let before = now(user.state()).unwrap();
        let mut reader = Reader::open(bytes.as_slice()).unwrap();
        assert_eq!(reader.owner(), tag);
        assert_eq!(reader.state(), before);
        let stamp = now(store.import(tag, &mut reader, ImportMode::Replace)).unwrap();
        assert_ne!(stamp.incarnation, before.stamp.incarnation);
        let user = now(store.open(tag)).unwrap();
        let page = now(user.scan(crate::Scan::records(Keyspace::Context, 100))).unwrap().value;
        assert_eq!(page.records.len(), 40);
        assert!(page.records.iter().all(|(head, _)| head.version == Version(1)));
    }

    #[test]
    fn every_cut_and_flip_is_found() {
        let (_, _, _, bytes) = archive();
        let read = |bytes: &[u8]| -> Result<()> {
            let mut reader = Reader::open(bytes)?;
            while reader.next_chunk()?.is_some() {}
            Ok(())
        };
        read(&bytes).unwrap();
        for at in (0..bytes.len()).step_by(9_973).chain(bytes.len() - 60..bytes.len()) {
            assert!(read(&bytes[..at]).is_err(), "cut at {at}");
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert!(read(&flipped).is_err(), "flipped at {at}");
        }
        let mut longer = bytes;
        longer.push(0);
        assert!(read(&longer).is_err());
    }
}
