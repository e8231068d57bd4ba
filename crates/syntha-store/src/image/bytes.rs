//! An image as bytes: the format of `docs/image-v1.md`.

use bytes::{Buf, BufMut, Bytes};
use sha2::{Digest, Sha256};

use super::Image;
use crate::archive::{decode_record, decode_state, encode_record, encode_state};
use crate::batch::{BatchId, OUTCOMES_KEPT};
use crate::error::{Error, ErrorKind, Result};
use crate::state::{Epoch, Fence, Note, Stamp};
use crate::user::DEPLOYMENT_OWNER;

/// The first 16 bytes: a name, zero bytes and the format's version.
const MAGIC: [u8; 16] = *b"syntha-image\0\0\0\x02";
/// The same of version 1, which has no note; it is still read.
const MAGIC_1: [u8; 16] = *b"syntha-image\0\0\0\x01";

impl Image {
    /// The image as bytes that name their owner: a user's tag, or [`DEPLOYMENT_OWNER`].
    ///
    /// # Errors
    ///
    /// `LimitExceeded` for a record over the contract's limits.
    pub fn encode(&self, owner: &[u8; 32]) -> Result<Vec<u8>> {
        let mut out = [&MAGIC[..], owner].concat();
        encode_state(&mut out, &self.state());
        let note = self.state().note;
        out.put_u8(u8::try_from(note.as_bytes().len()).map_err(|_| damaged())?);
        out.put_slice(note.as_bytes());
        out.put_u8(self.fence().map_or(0, Fence::code));
        out.put_u64(self.recent().len() as u64);
        for (batch, stamp) in self.recent() {
            out.put_u128(batch.0);
            out.put_u64(stamp.epoch.0);
        }
        self.records().try_for_each(|stored| encode_record(&mut out, &stored))?;
        let digest = Sha256::digest(&out);
        out.put_slice(&digest);
        Ok(out)
    }

    /// The image of bytes that [`encode`](Self::encode) made for the same owner.
    ///
    /// # Errors
    ///
    /// `Corrupt` for bytes that are damaged, cut short or another owner's; `Unsupported` for a newer format.
    pub fn decode(bytes: impl Into<Bytes>, owner: &[u8; 32]) -> Result<Self> {
        let mut from: Bytes = bytes.into();
        let digest = from.split_off(from.len().saturating_sub(32));
        if digest != Sha256::digest(&from)[..] {
            return Err(damaged());
        }
        let (magic, named) = (take::<16>(&mut from)?, take::<32>(&mut from)?);
        if magic != MAGIC && magic != MAGIC_1 {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the user's data has a format that this build does not know, upgrade",
            ));
        }
        // INVARIANT: what lies in another user's place is not served, however it got there.
        if named != *owner {
            return Err(damaged());
        }
        let (mut state, short) = (decode_state(&mut from)?, |_| damaged());
        if magic == MAGIC {
            let length = usize::from(from.try_get_u8().map_err(short)?);
            if length > from.remaining() {
                return Err(damaged());
            }
            state.note = Note::new(&from.split_to(length)).map_err(|_| damaged())?;
        }
        let fence = Fence::from_code(from.try_get_u8().map_err(short)?)?;
        let count = from.try_get_u64().map_err(short)?;
        if count > OUTCOMES_KEPT as u64 {
            return Err(damaged());
        }
        let mut recent = Vec::new();
        for _ in 0..count {
            let batch = BatchId(from.try_get_u128().map_err(short)?);
            let epoch = Epoch(from.try_get_u64().map_err(short)?);
            recent.push((batch, Stamp { epoch, ..state.stamp }));
        }
        let mut records = Vec::new();
        while from.has_remaining() {
            records.push(decode_record(&mut from)?);
        }
        Ok(Self::restored(state, *owner == DEPLOYMENT_OWNER, fence, recent, records))
    }
}

fn take<const N: usize>(from: &mut Bytes) -> Result<[u8; N]> {
    if from.remaining() < N {
        return Err(damaged());
    }
    let mut bytes = [0; N];
    from.copy_to_slice(&mut bytes);
    Ok(bytes)
}

fn damaged() -> Error {
    Error::new(ErrorKind::Corrupt, "the user's data is damaged, restore an archive of it")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Batch, CreateMode, Keyspace, RecordId, Timestamp};

    const OWNER: [u8; 32] = [3; 32];

    fn image() -> Image {
        let mut first = Batch::new(Timestamp(5)).unwrap();
        for n in 0..9_u64 {
            let id = RecordId::new(format!("name-{n}"), n).unwrap();
            first = first.put(Keyspace::Context, id, vec![1; 10], vec![2; 1_000]);
        }
        Image::created(None, first, CreateMode::New).unwrap().0.unwrap()
    }

    #[test]
    fn bytes_give_back_the_image() {
        let mut image = image();
        let mut batch = Batch::new(Timestamp(6)).unwrap();
        batch.note = Some(Note::new(b"a note").unwrap());
        image.commit(batch).unwrap();
        image.set_fence(Fence::Moved);
        let bytes = image.encode(&OWNER).unwrap();
        let again = Image::decode(bytes.clone(), &OWNER).unwrap();
        assert_eq!(again.state().note.as_bytes(), b"a note");
        assert_eq!(again.state(), image.state());
        assert_eq!(again.fence(), image.fence());
        assert!(again.recent().eq(image.recent()) && again.records().eq(image.records()));
        assert_eq!(again.encode(&OWNER).unwrap(), bytes);
    }

    #[test]
    fn every_cut_and_flip_and_another_owner_are_found() {
        let bytes = image().encode(&OWNER).unwrap();
        assert_eq!(Image::decode(bytes.clone(), &[4; 32]).unwrap_err().kind(), ErrorKind::Corrupt);
        for at in (0..bytes.len()).step_by(97).chain(0..80).chain(bytes.len() - 40..bytes.len()) {
            assert!(Image::decode(bytes[..at].to_vec(), &OWNER).is_err(), "cut at {at}");
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert!(Image::decode(flipped, &OWNER).is_err(), "flipped at {at}");
        }
    }

    #[test]
    fn a_newer_format_is_named_so() {
        let mut bytes = image().encode(&OWNER).unwrap();
        bytes.truncate(bytes.len() - 32);
        bytes[15] = 3;
        let digest = Sha256::digest(&bytes);
        bytes.extend_from_slice(&digest);
        assert_eq!(Image::decode(bytes, &OWNER).unwrap_err().kind(), ErrorKind::Unsupported);
    }
}
