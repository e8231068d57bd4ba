//! Which layers lie over a backend: the trail first, and what seals over it, so that the trail covers what is stored.

use std::path::Path;
use std::sync::Arc;

#[cfg(not(feature = "audit"))]
use syntha_store::DeploymentKey;
use syntha_store::Store;

#[cfg(feature = "audit")]
pub(crate) use crate::audit::Auditing;
#[cfg(feature = "encryption")]
pub(crate) use crate::encryption::Wanted;
use crate::error::{Error, ErrorKind, Result};

/// Without the layer nothing is sealed.
#[cfg(not(feature = "encryption"))]
#[derive(Clone, Copy, Default)]
pub(crate) struct Wanted(());

/// Without the layer nothing is audited.
#[cfg(not(feature = "audit"))]
#[derive(Clone, Copy, Default)]
pub(crate) struct Auditing(());

/// What a host asked for.
#[derive(Clone, Default)]
pub(crate) struct Layers {
    #[cfg_attr(not(feature = "encryption"), allow(dead_code, reason = "there is nothing to say"))]
    pub(crate) sealing: Wanted,
    pub(crate) auditing: Auditing,
}

impl Layers {
    #[cfg(all(feature = "encryption", feature = "sqlite"))]
    pub(crate) fn sealed(encryption: crate::Encryption) -> Self {
        Self { sealing: Wanted::Sealed(encryption), auditing: Auditing::default() }
    }
}

/// Where data lies, and what this process does with it.
#[derive(Clone, Copy, Default)]
pub(crate) struct Place<'a> {
    /// The folder, where it is one.
    #[cfg_attr(not(feature = "audit"), allow(dead_code, reason = "the trail's key lies beside it"))]
    pub(crate) folder: Option<&'a Path>,
    /// Nothing is written: another process has it.
    #[cfg_attr(not(feature = "audit"), allow(dead_code, reason = "the trail alone asks"))]
    pub(crate) reads: bool,
}

/// A store with its trail, if it has one.
#[derive(Clone)]
pub(crate) struct Trailed {
    pub(crate) store: Arc<dyn Store>,
    #[cfg(feature = "audit")]
    pub(crate) audited: Option<Arc<syntha_audit::AuditedStore>>,
    /// There is a trail, and this process only reads.
    pub(crate) beside: bool,
    /// The key that signs is a new one, in the place of a lost one.
    #[cfg(feature = "audit")]
    pub(crate) replaced: bool,
}

impl Trailed {
    pub(crate) async fn without(store: Arc<dyn Store>) -> Result<Self> {
        refuse_audited(&*store).await?;
        Ok(Self {
            store,
            #[cfg(feature = "audit")]
            audited: None,
            beside: false,
            #[cfg(feature = "audit")]
            replaced: false,
        })
    }
}

#[cfg(not(feature = "audit"))]
impl Auditing {
    pub(crate) async fn over(
        self,
        store: Arc<dyn Store>,
        _: &DeploymentKey,
        _: Place<'_>,
    ) -> Result<Trailed> {
        Trailed::without(store).await
    }
}

/// A folder's store with its trail where it has one, and nobody who signs: for what is done to a whole deployment that nobody has open.
#[cfg(all(feature = "encryption", feature = "sqlite"))]
#[cfg_attr(not(feature = "audit"), allow(clippy::needless_pass_by_value, reason = "a layer takes it"))]
pub(crate) fn unsigned(
    store: Arc<dyn Store>,
    #[cfg_attr(not(feature = "audit"), allow(unused_variables, reason = "no layer"))]
    key: &syntha_store::DeploymentKey,
    audited: bool,
) -> Result<Arc<dyn Store>> {
    if !audited {
        return Ok(store);
    }
    #[cfg(feature = "audit")]
    return Ok(Arc::new(
        syntha_audit::AuditedStore::new(store, key.fingerprint())?
            .unchained(crate::reserved::accounts(key).map(|(_, tag)| tag)),
    ));
    #[cfg(not(feature = "audit"))]
    Err(needs_audit())
}

/// INVARIANT: nobody writes past a trail that is there: what it says and what is there would differ for ever.
pub(crate) async fn refuse_audited(store: &dyn Store) -> Result<()> {
    if is_audited(store).await? { Err(needs_audit()) } else { Ok(()) }
}

const fn needs_audit() -> Error {
    Error::new(
        ErrorKind::Denied,
        "the data has an audit trail: open it audited, with a build that has the feature `audit`",
    )
}

/// Whether the data of a bare store has a trail.
pub(crate) async fn is_audited(store: &dyn Store) -> Result<bool> {
    Ok(!store.capabilities().audited && store.deployment().await?.state().await?.chain.seq > 0)
}
