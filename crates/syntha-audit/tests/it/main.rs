//! The deployment's log and its sinks, over the memory store and over real SQLite files.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]

mod dying;
mod failing;
mod files;
mod import;
mod kept;
mod log;
mod meanwhile;
mod outside;
mod retention;
mod signer;
mod sinks;
mod size;
#[cfg(feature = "webhook")]
mod webhook;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use syntha_audit::leaf::{Leaf, LeafKind};
use syntha_audit::link::{StoredLink, genesis};
use syntha_audit::{AuditSink, AuditedStore, Delivery, MemorySigner, MemorySink, Signer, SignerKeys};
use syntha_sqlite::{Mode, SqliteConfig, SqliteStore};
use syntha_store::{
    Batch, ChainHead, CreateMode, DeploymentKey, KeyFingerprint, Keyspace, MemoryStore, RecordId, Result,
    Store, Timestamp, UserStore, UserTag,
};

pub(crate) const LONG: Duration = Duration::from_secs(3_600);

pub(crate) fn tag(number: u8) -> UserTag {
    UserTag::from_bytes([number; 32]).unwrap()
}

pub(crate) fn batch(text: &str) -> Batch {
    let id = RecordId::new(Bytes::copy_from_slice(text.as_bytes()), 0).unwrap();
    Batch::new(Timestamp(1)).unwrap().put(Keyspace::Context, id, "", Bytes::copy_from_slice(text.as_bytes()))
}

pub(crate) async fn create<S: Store>(store: &AuditedStore<S>, number: u8) -> Arc<dyn UserStore> {
    store.create(tag(number), batch("first"), CreateMode::New).await.unwrap().0
}

/// Commits that are taken, out of so many.
pub(crate) async fn commits(user: &Arc<dyn UserStore>, count: u64) -> u64 {
    let mut taken = 0;
    for number in 0..count {
        match user.commit(batch(&format!("{}", number % 7))).await {
            Ok(_) => taken += 1,
            Err(error) => assert_eq!(error.kind(), syntha_store::ErrorKind::AuditUnavailable),
        }
    }
    taken
}

/// A deployment in memory, that can be opened again and again.
pub(crate) struct Memory {
    data: MemoryStore,
    pub(crate) signer: MemorySigner,
}

impl Memory {
    pub(crate) fn new() -> Self {
        let data = MemoryStore::with_key(DeploymentKey::generate().unwrap()).unwrap();
        let signer = MemorySigner::new(&data.deployment_key().fingerprint()).unwrap();
        Self { data, signer }
    }

    pub(crate) fn deployment(&self) -> KeyFingerprint {
        self.data.deployment_key().fingerprint()
    }

    pub(crate) fn raw(&self) -> MemoryStore {
        self.data.reopen()
    }

    pub(crate) fn open(&self, sinks: &[&MemorySink]) -> AuditedStore<MemoryStore> {
        let store = AuditedStore::new(Arc::new(self.data.reopen()), self.deployment()).unwrap();
        let store = store.signer(Arc::new(self.signer.clone()));
        sinks.iter().fold(store, |store, sink| store.sink(Arc::new((*sink).clone()) as Arc<dyn AuditSink>))
    }
}

pub(crate) type AuditedMemory = AuditedStore<MemoryStore>;

pub(crate) fn key() -> DeploymentKey {
    DeploymentKey::from_bytes([7; 32])
}

pub(crate) async fn sqlite(
    root: &Path,
    mode: Mode,
    signer: Arc<dyn Signer>,
) -> Result<AuditedStore<SqliteStore>> {
    let config = SqliteConfig::new(root).deployment_key(key()).mode(mode);
    let store = SqliteStore::open(config).await?;
    Ok(AuditedStore::new(Arc::new(store), key().fingerprint())?.signer(signer))
}

/// Each owner's present chain.
pub(crate) async fn heads<S: Store>(store: &AuditedStore<S>, numbers: &[u8]) -> HashMap<[u8; 32], ChainHead> {
    let mut heads = HashMap::new();
    for number in numbers {
        let state = store.open(tag(*number)).await.unwrap().state().await.unwrap();
        heads.insert([*number; 32], state.chain);
    }
    heads
}

/// What an auditor does with what a sink took, without keys and without the database: every chain from its beginning, every leaf against
/// its chain, and every checkpoint against the leaves. Says what is wrong.
pub(crate) fn audit(
    taken: &[Delivery],
    deployment: &KeyFingerprint,
    keys: &SignerKeys,
) -> std::result::Result<HashMap<[u8; 32], ChainHead>, String> {
    let mut chains: HashMap<[u8; 32], Vec<ChainHead>> = HashMap::new();
    let mut leaves: BTreeMap<u64, Bytes> = BTreeMap::new();
    let mut checkpoints = 0;
    for entry in taken {
        match entry {
            Delivery::Link { owner, seq, text, salt, details } => {
                let start = ChainHead { seq: 0, head: genesis(deployment, owner) };
                let chain = chains.entry(*owner).or_insert_with(|| vec![start]);
                let Some(before) = chain.get(usize::try_from(seq - 1).unwrap()) else {
                    return Err(format!("link {seq} comes before the one before it"));
                };
                let link = StoredLink::new(text.clone(), salt.zip(details.clone()));
                let (_, end) = link.follow(*before).map_err(|error| error.to_string())?;
                match chain.get(usize::try_from(*seq).unwrap()) {
                    Some(known) if *known != end => return Err(format!("link {seq} came as two")),
                    Some(_) => {}
                    None => chain.push(end),
                }
            }
            Delivery::Leaf { index, leaf } => {
                let known = leaves.entry(*index).or_insert_with(|| leaf.clone());
                if known != leaf {
                    return Err(format!("leaf {index} came as two"));
                }
                let leaf = Leaf::decode(leaf).unwrap();
                let seq = usize::try_from(leaf.chain.seq).unwrap();
                let named = chains.get(&leaf.owner).and_then(|chain| chain.get(seq));
                if leaf.kind == LeafKind::Head && named != Some(&leaf.chain) {
                    return Err(format!("leaf {index} names no link that came"));
                }
            }
            Delivery::Checkpoint { note, size } => {
                let head = keys.check(note).map_err(|error| error.to_string())?;
                let below: Vec<Bytes> = leaves.range(..size).map(|(_, leaf)| leaf.clone()).collect();
                if head.size != *size || below.len() as u64 != *size || head.root != log::tree(&below) {
                    return Err(format!("the checkpoint over {size} leaves signs others"));
                }
                checkpoints += 1;
            }
            _ => return Err("something else came".to_owned()),
        }
    }
    if checkpoints == 0 {
        return Err("no checkpoint came".to_owned());
    }
    Ok(chains.into_iter().map(|(owner, chain)| (owner, *chain.last().unwrap())).collect())
}

/// Whether everything of these users came, to the end of their chains.
pub(crate) async fn whole<S: Store>(
    store: &AuditedStore<S>,
    sink: &MemorySink,
    deployment: &KeyFingerprint,
    numbers: &[u8],
) -> std::result::Result<(), String> {
    let keys = store.signer_keys().await.unwrap();
    let ends = audit(&sink.taken(), deployment, &keys)?;
    for (owner, head) in heads(store, numbers).await {
        if ends.get(&owner) != Some(&head) {
            let came = ends.get(&owner).map_or(0, |end| end.seq);
            return Err(format!("of {} links, {came} came", head.seq));
        }
    }
    Ok(())
}
