//! Which users' keys are wrapped under what.

use std::collections::BTreeMap;

use syntha_store::{DEPLOYMENT_OWNER, Error, ErrorKind, Result};

use crate::keychain::Keychain;
use crate::passphrase::PassphraseParameters;
use crate::provider::KekId;

/// Whose keys are in a keystore, and what wraps them. Nothing in it is secret.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Census {
    /// The key that wraps now.
    pub current: KekId,
    /// How many users have keys under which key. A user whose keys are under two of them counts for both.
    pub users: Vec<(KekId, u64)>,
    /// How many users hold their keys themselves.
    pub holders: u64,
    /// What the passphrase is turned into a key with, where a passphrase wraps.
    pub parameters: Option<PassphraseParameters>,
}

impl Keychain {
    /// Counts the users of the keystore: a look at every row, which opens none of them.
    ///
    /// # Errors
    ///
    /// `KeyUnavailable` if what wraps does not answer, and errors of the keystore.
    pub async fn census(&self) -> Result<Census> {
        let keystore = &self.ring.keystore;
        let header = keystore.header().await?.ok_or_else(|| {
            Error::new(ErrorKind::KeyRefused, "the keystore has lost its header, put its copy back")
        })?;
        let current = self.ring.wrapping().provider.current().await?;
        let (mut users, mut holders, mut after) = (BTreeMap::<_, (KekId, u64)>::new(), 0, None);
        loop {
            let owners = keystore.owners(after.as_ref()).await?;
            let Some(last) = owners.last() else { break };
            after = Some(*last);
            for owner in owners.iter().filter(|owner| **owner != DEPLOYMENT_OWNER) {
                let rows = keystore.owner(owner).await?;
                let mut under = BTreeMap::new();
                if let Some(root) = &rows.root {
                    holders += u64::from(root.row.is_held());
                    let kek = root.row.root()?.kek;
                    under.insert((*kek.name(), kek.version()), kek);
                }
                for life in &rows.lives {
                    for key in life.row.keys() {
                        let kek = key?.1.kek;
                        under.insert((*kek.name(), kek.version()), kek);
                    }
                }
                for (id, kek) in under {
                    users.entry(id).or_insert((kek, 0)).1 += 1;
                }
            }
        }
        let parameters = header.row.passphrase()?;
        Ok(Census { current, users: users.into_values().collect(), holders, parameters })
    }
}
