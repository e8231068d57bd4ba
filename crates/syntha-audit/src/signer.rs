//! Who signs the log. The key lies outside the data, and with it what it signed last, so that data which is put back is noticed.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use data_encoding::BASE64;
use parking_lot::Mutex;
use rand_core::{CryptoRng, RngCore};
use signed_note::{Note, StandardSigner};
use syntha_store::{Error, ErrorKind, KeyFingerprint, Result};
use tlog_tiles::{EMPTY_HASH, check_tree};
use zeroize::Zeroizing;

use crate::cursor::SinkMemory;
use crate::link::Hash;
use crate::signer_keys::SignerKeys;

/// A state of the log: how many leaves, and the root of the tree over them (RFC 6962, section 2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TreeHead {
    /// How many leaves.
    pub size: u64,
    /// The root.
    pub root: Hash,
}

impl TreeHead {
    /// The tree without leaves.
    pub const EMPTY: Self = Self { size: 0, root: EMPTY_HASH.0 };
}

/// The name of a deployment's log: `syntha/` and the first 16 hexadecimal digits of the fingerprint.
#[must_use]
pub fn origin(deployment: &KeyFingerprint) -> String {
    let short = deployment.as_bytes().get(..8).unwrap_or_default();
    format!("syntha/{}", data_encoding::HEXLOWER.encode(short))
}

/// The key that authenticates the index which the data holds of the log: 32 random bytes. See [`Signer::index_key`].
#[derive(Clone)]
pub struct IndexKey(Zeroizing<[u8; 32]>);

impl fmt::Debug for IndexKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IndexKey")
    }
}

impl IndexKey {
    /// A key that was kept.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// A new one.
    ///
    /// # Errors
    ///
    /// `Unavailable` if the system has no random source.
    pub fn generate() -> Result<Self> {
        Ok(Self(random()?))
    }

    /// The bytes, to be kept where the signing key is.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

fn random() -> Result<Zeroizing<[u8; 32]>> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *bytes).map_err(|source| {
        Error::new(ErrorKind::Unavailable, "the system's random source failed").with_source(source)
    })?;
    Ok(bytes)
}

/// A key that signs the log, with what it signed last. One signs at a time, also among processes.
#[async_trait]
pub trait Signer: fmt::Debug + Send + Sync + 'static {
    /// The log's name, the first line of each checkpoint.
    fn origin(&self) -> &str;

    /// The keys that checkpoints are verified with.
    ///
    /// # Errors
    ///
    /// `KeyRefused` and `KeyUnavailable` if the key is not kept as it must be, or can't be had.
    async fn keys(&self) -> Result<SignerKeys>;

    /// The last state that was signed and published, without waiting for anybody's turn.
    ///
    /// # Errors
    ///
    /// As [`keys`](Self::keys).
    async fn signed(&self) -> Result<Option<TreeHead>>;

    /// Which sinks were begun, with the key of what the data says of how far they were told; `None` if none was, or from a signer that does
    /// not remember it. Of such a signer's sinks the data is believed: who can write it can make them skip entries.
    ///
    /// # Errors
    ///
    /// As [`keys`](Self::keys).
    async fn sinks(&self) -> Result<Option<SinkMemory>> {
        Ok(None)
    }

    /// The key of the index that the data holds of the log, with which a start need not read all leaves; `None` if none was made, or from a
    /// signer that keeps none. With such a signer every start reads all leaves.
    ///
    /// # Errors
    ///
    /// As [`keys`](Self::keys).
    async fn index_key(&self) -> Result<Option<IndexKey>> {
        Ok(None)
    }

    /// The right to sign, until it is dropped.
    ///
    /// # Errors
    ///
    /// As [`keys`](Self::keys); `Busy` if another one has it for too long.
    async fn turn(&self) -> Result<Box<dyn SigningTurn>>;
}

/// The right to sign. See [`Signer::turn`].
#[async_trait]
pub trait SigningTurn: Send {
    /// The last state that was signed and published.
    fn signed(&self) -> Option<TreeHead>;

    /// A state that was signed, and of which it is not known here whether it was published.
    fn pending(&self) -> Option<TreeHead>;

    /// Signs a state. It is remembered, durably, before its note is given out.
    ///
    /// # Errors
    ///
    /// `Tampered` unless `consistency` proves (RFC 6962, section 2.1.2) that the state extends the last one that was published.
    async fn sign(&mut self, head: TreeHead, consistency: &[Hash]) -> Result<String>;

    /// Remembers that the log stands at this state, which was published; what else was signed is forgotten.
    ///
    /// # Errors
    ///
    /// `Tampered` if it has fewer leaves than the last one; `Unavailable` and `StorageFull` from where the key is kept.
    async fn settle(&mut self, published: TreeHead) -> Result<()>;

    /// Remembers, durably, that a sink of this name was begun; `None` from a signer that does not remember it.
    ///
    /// # Errors
    ///
    /// `Unavailable` if the system has no random source; as [`settle`](Self::settle).
    async fn begin_sink(&mut self, name: &str) -> Result<Option<SinkMemory>> {
        let _ = name;
        Ok(None)
    }

    /// The key of [`Signer::index_key`], made and remembered, durably, if there is none; `None` from a signer that keeps none.
    ///
    /// # Errors
    ///
    /// As [`begin_sink`](Self::begin_sink).
    async fn make_index_key(&mut self) -> Result<Option<IndexKey>> {
        Ok(None)
    }

    /// Makes a new key, for all states after the last one that was published. Gives the note by which the old key names it. A signer that
    /// keeps an index key forgets that one: whoever has the old file must not be able to write an index.
    ///
    /// # Errors
    ///
    /// `Unavailable` if the system has no random source; as [`settle`](Self::settle).
    async fn rotate(&mut self) -> Result<String>;
}

/// Checks that one state of the log extends another.
///
/// # Errors
///
/// `Tampered` if it does not.
pub(crate) fn check_extends(last: TreeHead, head: TreeHead, consistency: &[Hash]) -> Result<()> {
    let proof = consistency.iter().copied().map(tlog_tiles::Hash).collect();
    let extends = match last.size {
        0 => true,
        size if size <= head.size => {
            check_tree(&proof, head.size, tlog_tiles::Hash(head.root), last.size, tlog_tiles::Hash(last.root))
                .is_ok()
        }
        _ => false,
    };
    if extends { Ok(()) } else { Err(rolled_back()) }
}

pub(crate) const fn rolled_back() -> Error {
    Error::new(
        ErrorKind::Tampered,
        "the audit log does not go on from where it was last signed: the data was put back or changed, verify it",
    )
}

/// A key's private text (`PRIVATE+KEY+...`) and its verifier key.
pub(crate) fn generate(origin: &str) -> Result<(Zeroizing<String>, String)> {
    let mut seed = Seed { bytes: Zeroizing::new([0; 64]), used: 0 };
    getrandom::fill(&mut *seed.bytes).map_err(|source| {
        Error::new(ErrorKind::Unavailable, "the system's random source failed").with_source(source)
    })?;
    let (private, public) = signed_note::generate_key(&mut seed, origin);
    let private = Zeroizing::new(private);
    if seed.used > seed.bytes.len() {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "a signing key takes more random bytes than it should",
        ));
    }
    Ok((private, public))
}

/// Random bytes that were drawn before, where the system's failure can still be told.
struct Seed {
    bytes: Zeroizing<[u8; 64]>,
    used: usize,
}

impl CryptoRng for Seed {}

impl RngCore for Seed {
    fn next_u32(&mut self) -> u32 {
        let mut bytes = [0; 4];
        self.fill_bytes(&mut bytes);
        u32::from_be_bytes(bytes)
    }

    fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.fill_bytes(&mut bytes);
        u64::from_be_bytes(bytes)
    }

    fn fill_bytes(&mut self, to: &mut [u8]) {
        let end = self.used.saturating_add(to.len());
        if let Some(bytes) = self.bytes.get(self.used..end) {
            to.copy_from_slice(bytes);
        }
        // INVARIANT: past the end it is noticed, and what was made is thrown away.
        self.used = end;
    }

    fn try_fill_bytes(&mut self, to: &mut [u8]) -> std::result::Result<(), rand_core::Error> {
        self.fill_bytes(to);
        Ok(())
    }
}

/// A note over a text, by a private key.
pub(crate) fn sign_text(private: &str, text: &str) -> Result<String> {
    let signer = StandardSigner::new(private).map_err(|_| unusable())?;
    let mut note = Note::new(text.as_bytes(), &[]).map_err(|_| unusable())?;
    note.add_sigs(&[&signer]).map_err(|_| unusable())?;
    String::from_utf8(note.to_bytes()).map_err(|_| unusable())
}

const fn unusable() -> Error {
    Error::new(ErrorKind::KeyRefused, "the key of the audit log can't sign, put its copy back")
}

/// The text of a checkpoint (C2SP `tlog-checkpoint`), without its signature.
pub(crate) fn checkpoint_text(origin: &str, head: TreeHead) -> String {
    format!("{origin}\n{}\n{}\n", head.size, BASE64.encode(&head.root))
}

/// What is kept with a key.
#[derive(Clone)]
pub(crate) struct Kept {
    pub(crate) private: Zeroizing<String>,
    pub(crate) keys: SignerKeys,
    pub(crate) signed: Option<TreeHead>,
    pub(crate) pending: Option<TreeHead>,
    pub(crate) sinks: Option<SinkMemory>,
    pub(crate) index_key: Option<IndexKey>,
}

impl Kept {
    /// A new key for a log whose first `from` leaves it does not sign.
    pub(crate) fn generate(origin: &str, from: u64) -> Result<Self> {
        let (private, public) = generate(origin)?;
        let keys = SignerKeys::new(origin, from, public)?;
        Ok(Self { private, keys, signed: None, pending: None, sinks: None, index_key: None })
    }

    pub(crate) fn sign(&mut self, head: TreeHead, consistency: &[Hash]) -> Result<String> {
        if let Some(last) = self.signed {
            check_extends(last, head, consistency)?;
        }
        let note = sign_text(&self.private, &checkpoint_text(self.keys.origin(), head))?;
        // A key that does not hold for this size signs nothing.
        self.keys.check(&note)?;
        self.pending = Some(head);
        Ok(note)
    }

    pub(crate) fn settle(&mut self, published: TreeHead) -> Result<()> {
        if self.signed.is_some_and(|last| last.size > published.size) {
            return Err(rolled_back());
        }
        self.signed = Some(published);
        self.pending = None;
        Ok(())
    }

    pub(crate) fn begin_sink(&mut self, name: &str) -> Result<SinkMemory> {
        let mut sinks = match self.sinks.take() {
            Some(sinks) => sinks,
            None => SinkMemory::new(*random()?, []),
        };
        sinks.begin(name);
        self.sinks = Some(sinks.clone());
        Ok(sinks)
    }

    pub(crate) fn make_index_key(&mut self) -> Result<IndexKey> {
        let key = match self.index_key.take() {
            Some(key) => key,
            None => IndexKey::generate()?,
        };
        self.index_key = Some(key.clone());
        Ok(key)
    }

    pub(crate) fn rotate(&mut self) -> Result<String> {
        let from = self.signed.map_or(0, |last| last.size.saturating_add(1));
        let (private, public) = generate(self.keys.origin())?;
        let text = SignerKeys::handover_text(self.keys.origin(), from, &public);
        let note = sign_text(&self.private, &text)?;
        self.keys.add(&note)?;
        self.private = private;
        self.index_key = None;
        Ok(note)
    }
}

/// A key in memory, for tests: with the program it is gone.
#[derive(Clone)]
pub struct MemorySigner {
    origin: Arc<str>,
    kept: Arc<Mutex<Kept>>,
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl fmt::Debug for MemorySigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemorySigner").field("origin", &self.origin).finish_non_exhaustive()
    }
}

impl MemorySigner {
    /// A new key for a deployment's log. Clones are one signer.
    ///
    /// # Errors
    ///
    /// `Unavailable` if the system has no random source.
    pub fn new(deployment: &KeyFingerprint) -> Result<Self> {
        let origin = origin(deployment);
        let kept = Kept::generate(&origin, 0)?;
        Ok(Self { origin: origin.into(), kept: Arc::new(Mutex::new(kept)), turn: Arc::default() })
    }

    /// The same key, as it is now, kept apart from here on: what a copy of a key file is.
    #[must_use]
    pub fn copy(&self) -> Self {
        let kept = self.kept.lock().clone();
        Self { origin: Arc::clone(&self.origin), kept: Arc::new(Mutex::new(kept)), turn: Arc::default() }
    }

    /// Forgets what it signed last: a signer that is not one.
    #[cfg(feature = "faults")]
    pub fn forget(&self) {
        self.kept.lock().signed = None;
    }
}

#[async_trait]
impl Signer for MemorySigner {
    fn origin(&self) -> &str {
        &self.origin
    }

    async fn keys(&self) -> Result<SignerKeys> {
        Ok(self.kept.lock().keys.clone())
    }

    async fn signed(&self) -> Result<Option<TreeHead>> {
        Ok(self.kept.lock().signed)
    }

    async fn sinks(&self) -> Result<Option<SinkMemory>> {
        Ok(self.kept.lock().sinks.clone())
    }

    async fn index_key(&self) -> Result<Option<IndexKey>> {
        Ok(self.kept.lock().index_key.clone())
    }

    async fn turn(&self) -> Result<Box<dyn SigningTurn>> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        Ok(Box::new(MemoryTurn { kept: Arc::clone(&self.kept), _turn: turn }))
    }
}

struct MemoryTurn {
    kept: Arc<Mutex<Kept>>,
    _turn: tokio::sync::OwnedMutexGuard<()>,
}

#[async_trait]
impl SigningTurn for MemoryTurn {
    fn signed(&self) -> Option<TreeHead> {
        self.kept.lock().signed
    }

    fn pending(&self) -> Option<TreeHead> {
        self.kept.lock().pending
    }

    async fn sign(&mut self, head: TreeHead, consistency: &[Hash]) -> Result<String> {
        self.kept.lock().sign(head, consistency)
    }

    async fn settle(&mut self, published: TreeHead) -> Result<()> {
        self.kept.lock().settle(published)
    }

    async fn begin_sink(&mut self, name: &str) -> Result<Option<SinkMemory>> {
        self.kept.lock().begin_sink(name).map(Some)
    }

    async fn make_index_key(&mut self) -> Result<Option<IndexKey>> {
        self.kept.lock().make_index_key().map(Some)
    }

    async fn rotate(&mut self) -> Result<String> {
        self.kept.lock().rotate()
    }
}
