//! Sealed streams: bytes of any length under one key, for files that leave the store.
//!
//! The format is `docs/sealed-v1.md`, byte for byte. [`Writer`] seals, [`Pending`] reads the head of a stream, which says
//! what key opens it, and [`Reader`] gives the bytes. A reader gives nothing that was not authenticated, and no end
//! that the writer did not write: whoever acts on bytes before the end came must be able to take it back.

use std::fmt;
use std::io::{self, ErrorKind as IoKind, Read, Write};

use hkdf::Hkdf;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use syntha_store::{Error, ErrorKind, Result};
use zeroize::{Zeroize, Zeroizing};

use crate::SecretKey;
use crate::binding::{Binding, FrameBinding};
use crate::envelope::{self, Algorithm};
use crate::passphrase::PassphraseParameters;
use crate::provider::{KeyContext, What, Wrapped};
use crate::secret::fill;

const MAGIC: &[u8; 16] = b"syntha-sealed\0\0\x01";
/// The last bytes of the magic are the format's version.
const MAGIC_NAME: usize = 13;
/// Content, deployment, owner, salt, the source's code.
const HEAD_FIXED: usize = 1 + 16 + 32 + 32 + 1;
const COMMITMENT: usize = 32;
/// More than the longest source needs.
const MAX_HEAD: usize = 12 * 1024;
/// Bytes of each frame but the last, which has fewer.
const FRAME: usize = 64 * 1024;
/// What sealing adds to a frame.
const OVERHEAD: usize = 1 + 1 + 4 + 24 + 16;

/// What a sealed stream holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Content {
    /// A user's archive.
    Archive,
    /// An export under a passphrase.
    Export,
    /// A copy of a keystore.
    Keystore,
    /// The directory and the ledger of a deployment.
    Deployment,
    /// The list of a backup's files.
    Manifest,
}

/// What key opens a sealed stream.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeySource {
    /// The archive key of the user whose tag is the owner.
    Archive,
    /// A passphrase, with [`PassphraseParameters::derive`].
    Passphrase(PassphraseParameters),
    /// A key that a provider wrapped, with [`Header::key_context`].
    Provider(Wrapped),
    /// The same, where the provider's own key comes from a passphrase with these parameters: so that the passphrase is enough.
    PassphraseProvider(PassphraseParameters, Wrapped),
}

/// Whether a file that starts so is a sealed stream, of whatever version. [`Reader::open`] says more.
#[must_use]
pub fn is_sealed(first: &[u8]) -> bool {
    first.get(..MAGIC_NAME).is_some_and(|name| Some(name) == MAGIC.get(..MAGIC_NAME))
}

/// The head of a sealed stream, which anybody can read.
///
/// It is not authenticated before [`Pending::unlock`] had the right key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the stream holds.
    pub content: Content,
    /// The deployment's id.
    pub deployment: [u8; 16],
    /// The owner's tag, zeros for none.
    pub owner: [u8; 32],
    /// What key opens it.
    pub source: KeySource,
}

impl Header {
    /// What a provider wraps the key of a stream with: the head's deployment and owner, [`What::Artefact`], no life and
    /// no epoch.
    #[must_use]
    pub const fn key_context(&self) -> KeyContext {
        KeyContext { deployment: self.deployment, owner: self.owner, what: What::Artefact, life: 0, epoch: 0 }
    }

    /// The head's bytes from the magic up to the commitment.
    fn encode(&self, salt: &[u8; 32]) -> Result<Vec<u8>> {
        let (code, source) = match &self.source {
            KeySource::Archive => (1, Vec::new()),
            KeySource::Passphrase(parameters) => (2, parameters.encode().to_vec()),
            KeySource::Provider(wrapped) => {
                let wrapped = wrapped.encode()?;
                (3, [&length(wrapped.len())?, &wrapped[..]].concat())
            }
            KeySource::PassphraseProvider(parameters, wrapped) => {
                let wrapped = wrapped.encode()?;
                (4, [&parameters.encode()[..], &length(wrapped.len())?, &wrapped].concat())
            }
        };
        let content = match self.content {
            Content::Archive => 1,
            Content::Export => 2,
            Content::Keystore => 3,
            Content::Deployment => 4,
            Content::Manifest => 5,
        };
        let after = length(HEAD_FIXED + source.len() + COMMITMENT)?;
        Ok([&MAGIC[..], &after, &[content], &self.deployment, &self.owner, salt, &[code], &source].concat())
    }

    /// Reads the bytes between the head's length and the commitment.
    fn decode(bytes: &[u8]) -> Option<Result<(Self, [u8; 32])>> {
        let (content, rest) = bytes.split_first()?;
        let (deployment, rest) = rest.split_first_chunk()?;
        let (owner, rest) = rest.split_first_chunk()?;
        let (salt, rest) = rest.split_first_chunk()?;
        let (code, rest) = rest.split_first()?;
        let content = match content {
            1 => Content::Archive,
            2 => Content::Export,
            3 => Content::Keystore,
            4 => Content::Deployment,
            5 => Content::Manifest,
            _ => return Some(Err(unknown_format())),
        };
        let source = match code {
            1 if rest.is_empty() => KeySource::Archive,
            2 => KeySource::Passphrase(PassphraseParameters::decode(rest.try_into().ok()?)),
            3 => match wrapped(rest)? {
                Ok(wrapped) => KeySource::Provider(wrapped),
                Err(error) => return Some(Err(error)),
            },
            4 => {
                let (parameters, rest) = rest.split_first_chunk()?;
                match wrapped(rest)? {
                    Ok(wrapped) => {
                        KeySource::PassphraseProvider(PassphraseParameters::decode(parameters), wrapped)
                    }
                    Err(error) => return Some(Err(error)),
                }
            }
            1 => return None,
            _ => return Some(Err(unknown_format())),
        };
        Some(Ok((Self { content, deployment: *deployment, owner: *owner, source }, *salt)))
    }
}

/// Seals what is written to it.
///
/// Holds 64 KiB at a time. A stream is whole only after [`finish`](Self::finish): what a dropped writer leaves behind
/// is refused by every reader. `flush` passes on whole frames, not the bytes of an unfinished one.
pub struct Writer<W: Write> {
    sink: W,
    frames: Frames,
    buffer: Buffer,
    failed: bool,
}

impl<W: Write> Writer<W> {
    /// Writes the head of a stream. `key`: the 32 bytes that the header's source stands for.
    ///
    /// # Errors
    ///
    /// `Unavailable` if the sink fails or the system has no random source, `LimitExceeded` for a wrapped key of more
    /// than 8 KiB, and what [`PassphraseParameters::check`] says of a passphrase's parameters.
    pub fn new(mut sink: W, header: &Header, key: &SecretKey) -> Result<Self> {
        if let KeySource::Passphrase(parameters) | KeySource::PassphraseProvider(parameters, _) =
            &header.source
        {
            parameters.check()?;
        }
        let mut salt = [0; 32];
        fill(&mut salt)?;
        let mut head = header.encode(&salt)?;
        let derived = Derived::new(key, &salt, &head)?;
        head.extend_from_slice(&derived.commitment);
        sink.write_all(&head).map_err(into_error)?;
        let frames = Frames { key: derived.key, head: Sha256::digest(&head).into(), next: 0 };
        Ok(Self { sink, frames, buffer: Buffer::default(), failed: false })
    }

    /// Ends the stream, flushes the sink and gives it back.
    ///
    /// # Errors
    ///
    /// `Unavailable` if the sink fails, or failed before.
    pub fn finish(mut self) -> Result<W> {
        self.write_frame().map_err(into_error)?;
        self.sink.flush().map_err(into_error)?;
        Ok(self.sink)
    }

    fn check(&self) -> io::Result<()> {
        if self.failed {
            return Err(io::Error::other("the sealed stream failed before, write it again from the start"));
        }
        Ok(())
    }

    /// Seals what is in the buffer. It is the last frame if it is not full.
    fn write_frame(&mut self) -> io::Result<()> {
        self.check()?;
        self.failed = true;
        let sealed = self.frames.seal(&self.buffer.0).map_err(into_io)?;
        self.buffer.clear();
        self.sink.write_all(&length(sealed.len()).map_err(into_io)?)?;
        self.sink.write_all(&sealed)?;
        self.failed = false;
        Ok(())
    }
}

impl<W: Write> Write for Writer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.check()?;
        let taken = bytes.len().min(FRAME.saturating_sub(self.buffer.0.len()));
        let Some(part) = bytes.get(..taken) else { return Ok(0) };
        self.buffer.add(part);
        if self.buffer.0.len() == FRAME {
            self.write_frame()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

impl<W: Write> fmt::Debug for Writer<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("frames", &self.frames.next).finish_non_exhaustive()
    }
}

/// A stream whose head was read, and that is not unlocked yet.
pub struct Pending<R: Read> {
    source: R,
    header: Header,
    salt: [u8; 32],
    /// From the magic up to the commitment.
    head: Vec<u8>,
    commitment: [u8; COMMITMENT],
}

impl<R: Read> Pending<R> {
    /// The head, of which nothing is authenticated yet.
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// Takes the key that the header's source stands for.
    ///
    /// # Errors
    ///
    /// `KeyRefused` if the stream was not made with this key, or its head was changed since.
    pub fn unlock(self, key: &SecretKey) -> Result<Reader<R>> {
        let Self { source, header, salt, mut head, commitment } = self;
        let derived = Derived::new(key, &salt, &head)?;
        // INVARIANT: nothing is decrypted under a key that the stream does not commit to. AES-GCM alone would let one
        // frame open under two keys.
        if !bool::from(derived.commitment.ct_eq(&commitment)) {
            return Err(Error::new(
                ErrorKind::KeyRefused,
                "the key is not the one that this stream was sealed with, or the stream's head was changed",
            ));
        }
        head.extend_from_slice(&commitment);
        let frames = Frames { key: derived.key, head: Sha256::digest(&head).into(), next: 0 };
        let (frame, sealed) = (Zeroizing::default(), Vec::new());
        Ok(Reader { source, header, frames, sealed, frame, given: 0, state: State::Open })
    }
}

impl<R: Read> fmt::Debug for Pending<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").field("header", &self.header).finish_non_exhaustive()
    }
}

/// Gives the bytes of a stream, each after it was authenticated, and an end only where the writer set it.
///
/// Holds one frame at a time. Its errors are [`Error`]s within an [`io::Error`], that [`into_error`] gives back; after
/// one it gives nothing more.
pub struct Reader<R: Read> {
    source: R,
    header: Header,
    frames: Frames,
    sealed: Vec<u8>,
    frame: Zeroizing<Vec<u8>>,
    /// How many bytes of the frame were given.
    given: usize,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    Ended,
    Failed(ErrorKind),
}

impl<R: Read> Reader<R> {
    /// Reads the head of a stream.
    ///
    /// # Errors
    ///
    /// `Tampered` for what is no sealed stream or is cut short, `Unsupported` for one of another version,
    /// `Unavailable` if the source fails.
    pub fn open(mut source: R) -> Result<Pending<R>> {
        let mut head = Vec::with_capacity(MAGIC.len() + 4 + HEAD_FIXED);
        read_more(&mut source, &mut head, MAGIC.len() + 4)?;
        let (magic, after) = head.split_first_chunk::<16>().ok_or_else(not_sealed)?;
        if magic != MAGIC {
            let is_other = magic.get(..MAGIC_NAME) == MAGIC.get(..MAGIC_NAME);
            return Err(if is_other { unknown_format() } else { not_sealed() });
        }
        let after = after.try_into().map(u32::from_be_bytes).map_err(|_| not_sealed())?;
        let after = usize::try_from(after).unwrap_or(usize::MAX);
        if !(HEAD_FIXED + COMMITMENT..=MAX_HEAD).contains(&after) {
            return Err(not_sealed());
        }
        read_more(&mut source, &mut head, after)?;
        let (open, commitment) = head.split_last_chunk().ok_or_else(not_sealed)?;
        let (header, salt) =
            open.get(MAGIC.len() + 4..).and_then(Header::decode).unwrap_or_else(|| Err(not_sealed()))?;
        let commitment = *commitment;
        head.truncate(head.len() - COMMITMENT);
        Ok(Pending { source, header, salt, head, commitment })
    }

    /// The head. It is the one that the writer wrote.
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// Reads and opens the next frame.
    fn next_frame(&mut self) -> io::Result<()> {
        let mut length = [0; 4];
        self.source.read_exact(&mut length).map_err(cut)?;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if !(OVERHEAD..=FRAME + OVERHEAD).contains(&length) {
            return Err(into_io(changed()));
        }
        self.sealed.resize(length, 0);
        self.source.read_exact(&mut self.sealed).map_err(cut)?;
        let frame = self.frames.open(&self.sealed).map_err(into_io)?;
        if frame.len() < FRAME {
            self.at_end()?;
            self.state = State::Ended;
        }
        (self.frame, self.given) = (frame, 0);
        Ok(())
    }

    /// Nothing may come after the last frame.
    fn at_end(&mut self) -> io::Result<()> {
        let mut after = [0];
        loop {
            match self.source.read(&mut after) {
                Ok(0) => return Ok(()),
                Ok(_) => return Err(into_io(changed())),
                Err(error) if error.kind() == IoKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let left = self.frame.get(self.given..).unwrap_or_default();
            if !left.is_empty() {
                let count = left.len().min(buffer.len());
                for (to, from) in buffer.iter_mut().zip(left) {
                    *to = *from;
                }
                self.given += count;
                return Ok(count);
            }
            match self.state {
                State::Ended => return Ok(0),
                State::Failed(kind) => {
                    return Err(into_io(Error::new(kind, "the sealed stream failed before, open it again")));
                }
                State::Open => {}
            }
            if let Err(error) = self.next_frame() {
                // INVARIANT: a frame that was opened before the failure is not given either.
                (self.frame, self.given) = (Zeroizing::default(), 0);
                let error = into_error(error);
                self.state = State::Failed(error.kind());
                return Err(into_io(error));
            }
        }
    }
}

impl<R: Read> fmt::Debug for Reader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("header", &self.header)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

/// The [`Error`] of a failed read or write: the one that is in it, or `Unavailable` (`StorageFull` if the device is
/// full).
#[must_use]
pub fn into_error(error: io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => error,
        Err(error) if matches!(error.kind(), IoKind::StorageFull | IoKind::QuotaExceeded) => {
            Error::new(ErrorKind::StorageFull, "the device is full, the sealed stream is not whole")
        }
        Err(error) => Error::new(ErrorKind::Unavailable, "the sealed stream can't be read or written")
            .with_source(error),
    }
}

fn into_io(error: Error) -> io::Error {
    io::Error::new(IoKind::InvalidData, error)
}

/// The bytes of an unfinished frame. They lie in one place and are wiped.
#[derive(Default)]
struct Buffer(Zeroizing<Vec<u8>>);

impl Buffer {
    fn add(&mut self, bytes: &[u8]) {
        if self.0.capacity() == 0 {
            self.0.reserve_exact(FRAME);
        }
        self.0.extend_from_slice(bytes);
    }

    /// Wipes the bytes and keeps the memory.
    fn clear(&mut self) {
        self.0.as_mut_slice().zeroize();
        self.0.clear();
    }
}

/// What the key of a stream and its head make.
struct Derived {
    key: SecretKey,
    commitment: [u8; COMMITMENT],
}

impl Derived {
    fn new(key: &SecretKey, salt: &[u8; 32], head: &[u8]) -> Result<Self> {
        let mut bytes = Zeroizing::new([0; 64]);
        Hkdf::<Sha256>::new(Some(salt), key.as_bytes())
            .expand_multi_info(&[b"syntha/v1/stream", head], &mut bytes[..])
            .map_err(|_| not_sealed())?;
        let (key, commitment) = bytes.split_first_chunk::<32>().ok_or_else(not_sealed)?;
        let commitment = commitment.try_into().map_err(|_| not_sealed())?;
        Ok(Self { key: SecretKey::from_bytes(key), commitment })
    }
}

/// Seals or opens one frame after the other.
struct Frames {
    key: SecretKey,
    /// The hash of the whole head.
    head: [u8; 32],
    next: u64,
}

impl Frames {
    fn seal(&mut self, frame: &[u8]) -> Result<Vec<u8>> {
        let counter = self.count()?;
        self.seal_as(frame, counter, frame.len() < FRAME)
    }

    fn open(&mut self, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let counter = self.count()?;
        let binding = FrameBinding { header: &self.head, counter, last: sealed.len() < FRAME + OVERHEAD };
        // INVARIANT: a frame is of no epoch. The binding has the epoch that the blob names in it, so any other is refused here.
        if envelope::Header::read(sealed).map_err(|_| changed())?.epoch != 0 {
            return Err(changed());
        }
        envelope::open(&self.key, Algorithm::Record, &Binding::Frame(binding), sealed).map_err(|_| changed())
    }

    fn seal_as(&self, frame: &[u8], counter: u64, last: bool) -> Result<Vec<u8>> {
        let binding = Binding::Frame(FrameBinding { header: &self.head, counter, last });
        envelope::seal(&self.key, Algorithm::Record, 0, &binding, envelope::Content::Plain(&[frame]))
    }

    fn count(&mut self) -> Result<u64> {
        let counter = self.next;
        self.next = counter
            .checked_add(1)
            .ok_or_else(|| Error::new(ErrorKind::LimitExceeded, "the stream is too long"))?;
        Ok(counter)
    }
}

/// Reads `length(4) ‖ wrapped key`, and nothing behind it.
fn wrapped(bytes: &[u8]) -> Option<Result<Wrapped>> {
    let (length, wrapped) = bytes.split_first_chunk()?;
    if u32::try_from(wrapped.len()) != Ok(u32::from_be_bytes(*length)) {
        return None;
    }
    Some(Wrapped::decode(wrapped))
}

fn length(of: usize) -> Result<[u8; 4]> {
    u32::try_from(of)
        .map(u32::to_be_bytes)
        .map_err(|_| Error::new(ErrorKind::LimitExceeded, "the stream's head is too long"))
}

/// Adds `count` bytes of the source, and takes no memory for those that do not come.
fn read_more(source: &mut impl Read, to: &mut Vec<u8>, count: usize) -> Result<()> {
    let limit = u64::try_from(count).unwrap_or(u64::MAX);
    let read = source.by_ref().take(limit).read_to_end(to).map_err(into_error)?;
    if read == count { Ok(()) } else { Err(not_sealed()) }
}

fn cut(error: io::Error) -> io::Error {
    if error.kind() == IoKind::UnexpectedEof { into_io(changed()) } else { error }
}

const fn changed() -> Error {
    Error::new(
        ErrorKind::Tampered,
        "the sealed stream was changed or cut short, use another copy and none of what this one gave",
    )
}

const fn not_sealed() -> Error {
    Error::new(ErrorKind::Tampered, "this is not a sealed stream, or its head was cut short")
}

const fn unknown_format() -> Error {
    Error::new(ErrorKind::Unsupported, "the sealed stream has a format that this build does not know")
}

#[cfg(test)]
mod tests;
