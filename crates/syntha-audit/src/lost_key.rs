//! A new key in the place of a lost one.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use syntha_store::{Error, ErrorKind, KeyFingerprint, Result, Store};

use crate::log::{Checks, Log, last_checkpoint};
use crate::signer::{Signer, SigningTurn, TreeHead, check_extends, origin};
use crate::signer_file::FileSigner;
use crate::signer_keys::SignerKeys;
use crate::verify::Checkpoint;

impl FileSigner {
    /// Makes a new key for a log whose key was lost: it signs what follows the last checkpoint that lies in the store, and vouches that this one
    /// is the last. What was signed before verifies with the old public key alone, and who verifies has to be told the new one.
    ///
    /// `store`: the bare one. `known`: a checkpoint that was kept elsewhere, which the log must go on from. Without one, nothing shows whether the
    /// log was put back to an older state since the key was lost.
    ///
    /// # Errors
    ///
    /// `Invalid` if the log has no checkpoint, for then no key is missing; `Tampered` if it is not as it was written, or does not go on from `known`;
    /// `AlreadyExists` if there is a file; as [`open`](Self::open).
    pub async fn replace_lost(
        store: &dyn Store,
        path: impl Into<PathBuf> + Send,
        deployment: &KeyFingerprint,
        known: Option<&Checkpoint>,
    ) -> Result<Self> {
        let path = path.into();
        let space = store.deployment().await?;
        let Some(last) = last_checkpoint(&*space).await? else {
            return Err(Error::new(
                ErrorKind::Invalid,
                "the audit log was never signed, so no key is missing",
            ));
        };
        let head = last.head;
        let vouching = Vouching { origin: origin(deployment), head };
        // Compares the tree with what is vouched for.
        let log = Log::open(space, Arc::new(vouching), *deployment, Checks::ALL).await?;
        if let Some(known) = known {
            if known.origin != origin(deployment) {
                return Err(Error::new(ErrorKind::Invalid, "the known checkpoint is of another audit log"));
            }
            let before = TreeHead { size: known.size, root: known.root };
            let proof = match known.size {
                // It has no proof; the roots say it.
                size if size == head.size || size == 0 => Vec::new(),
                size if size > head.size => return Err(older()),
                size => log.consistency(size, head.size, &HashMap::new()).await?,
            };
            check_extends(before, head, &proof).map_err(|_| older())?;
        }
        Self::replace(path, deployment, head).await
    }
}

/// Remembers what an operator vouches for, and signs nothing.
#[derive(Debug)]
struct Vouching {
    origin: String,
    head: TreeHead,
}

#[async_trait]
impl Signer for Vouching {
    fn origin(&self) -> &str {
        &self.origin
    }

    async fn keys(&self) -> Result<SignerKeys> {
        Err(no_key())
    }

    async fn signed(&self) -> Result<Option<TreeHead>> {
        Ok(Some(self.head))
    }

    async fn turn(&self) -> Result<Box<dyn SigningTurn>> {
        Err(no_key())
    }
}

const fn no_key() -> Error {
    Error::new(ErrorKind::KeyUnavailable, "the key that signed the audit log is lost")
}

const fn older() -> Error {
    Error::new(
        ErrorKind::Tampered,
        "the audit log does not go on from the known checkpoint: the data was put back or changed, put back a newer copy of it",
    )
}
