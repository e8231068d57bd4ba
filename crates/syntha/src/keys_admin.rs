//! Administration of the keys that data is sealed with: what there is, rotation, another key that wraps, users who hold their keys.

#[cfg(feature = "sqlite")]
use std::path::{Path, PathBuf};

use syntha_encryption::{
    Census, Kek, KeyStatus, Mode, Owner, PassphraseParameters, Progress, Rewrap, RewrapStatus, Rewrapped,
    Rotated, SecretBytes,
};
use syntha_store::{Action, UserId};

use crate::directory::UserEntry;
use crate::encryption::Sealed;
use crate::error::{Error, ErrorKind, Result};
#[cfg(feature = "sqlite")]
use crate::files::beside;
use crate::manager::UserManager;

/// What became of every user's keys.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct RotatedAll {
    /// Users whose data is under new keys.
    pub rotated: u64,
    /// The records that were sealed again.
    pub sealed: u64,
    /// Users who have not written, and have no keys.
    pub empty: u64,
    /// Users who hold their keys and did not unlock them: nothing was rotated.
    pub locked: Vec<UserEntry>,
    /// Users whose rotation failed. It goes on where it was when it is asked for again.
    pub failed: Vec<(UserEntry, Error)>,
}

/// The key file of a new data folder, unless another is named: beside it, with `.key` after its name.
#[cfg(feature = "sqlite")]
#[must_use]
pub fn default_key_file(data: &Path) -> PathBuf {
    place(data, ".key")
}

/// The keystore of a data folder, unless another is named: beside it, with `.keys` after its name.
#[cfg(feature = "sqlite")]
#[must_use]
pub fn default_keystore(data: &Path) -> PathBuf {
    place(data, ".keys")
}

#[cfg(feature = "sqlite")]
fn place(data: &Path, ending: &str) -> PathBuf {
    let data = std::path::absolute(data).unwrap_or_else(|_| data.to_owned());
    beside(&data.canonicalize().unwrap_or(data), ending)
}

impl UserManager {
    /// What the data hides, if it is sealed.
    #[must_use]
    pub fn sealing(&self) -> Option<Mode> {
        self.deployment.sealed.as_ref().map(|sealed| sealed.keychain.mode())
    }

    /// The keys of a user's data. Counting records looks at each of them, and needs the user's keys.
    ///
    /// # Errors
    ///
    /// `Invalid` if the data is not sealed; `NotFound` and `Erased` for a user without data; `Denied` if the keystore lacks the
    /// user's keys; for a count `KeyUnavailable` if the user holds them and did not unlock them.
    pub async fn key_status<U>(&self, user: U, count: bool) -> Result<KeyStatus>
    where
        U: TryInto<UserId>,
        Error: From<U::Error>,
    {
        let owner = self.owner(user)?;
        Ok(self.keys()?.store.key_status(owner, count).await?)
    }

    /// The same of the deployment's own data: who there is, and who was erased.
    ///
    /// # Errors
    ///
    /// As [`key_status`](Self::key_status).
    pub async fn deployment_key_status(&self, count: bool) -> Result<KeyStatus> {
        Ok(self.keys()?.store.key_status(Owner::Deployment, count).await?)
    }

    /// Which keys wrap what is in the keystore, and whether a change of that key has ended.
    ///
    /// # Errors
    ///
    /// `Invalid` if the data is not sealed; `KeyUnavailable` if what wraps does not answer; `Storage`.
    pub async fn wrapping_status(&self) -> Result<RewrapStatus> {
        Ok(self.keys()?.keychain.rewrap_status().await?)
    }

    /// How many users' keys are under which key.
    ///
    /// # Errors
    ///
    /// As [`wrapping_status`](Self::wrapping_status).
    pub async fn key_census(&self) -> Result<Census> {
        Ok(self.keys()?.keychain.census().await?)
    }

    /// Whether the passphrase that wraps is turned into a key with less work than a new one would be.
    ///
    /// # Errors
    ///
    /// As [`wrapping_status`](Self::wrapping_status).
    pub async fn passphrase_is_outdated(&self) -> Result<bool> {
        let Some(used) = self.key_census().await?.parameters else { return Ok(false) };
        Ok(is_less(&used, &PassphraseParameters::generate()?))
    }

    /// Seals a user's data under new keys and destroys the former ones, while the data is in use. One that did not end goes on.
    ///
    /// # Errors
    ///
    /// As [`key_status`](Self::key_status) with a count; `Gone` if the user was restored meanwhile; `Storage`, retryable, if others
    /// write all the time.
    pub async fn rotate_keys<U>(&self, user: U, mut progress: impl FnMut(Progress) + Send) -> Result<Rotated>
    where
        U: TryInto<UserId>,
        Error: From<U::Error>,
    {
        let tag = self.deployment.tag_of_a_user(&user.try_into()?)?;
        let work = async { Ok(self.keys()?.store.rotate(Owner::User(tag), &mut progress).await?) };
        self.deployment.told(Action::RotateKey, Some(tag.to_string().into()), work).await
    }

    /// Turns a rotation back that did not end.
    ///
    /// # Errors
    ///
    /// `Invalid` if none is under way; as [`rotate_keys`](Self::rotate_keys).
    pub async fn rotate_keys_back<U>(
        &self,
        user: U,
        mut progress: impl FnMut(Progress) + Send,
    ) -> Result<Rotated>
    where
        U: TryInto<UserId>,
        Error: From<U::Error>,
    {
        let tag = self.deployment.tag_of_a_user(&user.try_into()?)?;
        let work = async { Ok(self.keys()?.store.rotate_back(Owner::User(tag), &mut progress).await?) };
        self.deployment.told(Action::RotateKey, Some(tag.to_string().into()), work).await
    }

    /// Seals the deployment's own data under new keys: who there is, and who was erased.
    ///
    /// # Errors
    ///
    /// As [`rotate_keys`](Self::rotate_keys).
    pub async fn rotate_deployment_keys(&self, mut progress: impl FnMut(Progress) + Send) -> Result<Rotated> {
        let work = async { Ok(self.keys()?.store.rotate(Owner::Deployment, &mut progress).await?) };
        self.deployment.told(Action::RotateKey, None, work).await
    }

    /// Turns a rotation of the deployment's own data back.
    ///
    /// # Errors
    ///
    /// As [`rotate_keys_back`](Self::rotate_keys_back).
    pub async fn rotate_deployment_keys_back(
        &self,
        mut progress: impl FnMut(Progress) + Send,
    ) -> Result<Rotated> {
        let work = async { Ok(self.keys()?.store.rotate_back(Owner::Deployment, &mut progress).await?) };
        self.deployment.told(Action::RotateKey, None, work).await
    }

    /// Rotates the keys of every user and of all accounts, one after the other, and not the deployment's own. Users who hold their keys are passed over
    /// and named; so is one whose data can't be read, and nobody else waits for it.
    ///
    /// # Errors
    ///
    /// `Invalid` if the data is not sealed; `KeyUnavailable` if what wraps does not answer; `Storage` if users can't be listed.
    pub async fn rotate_all_keys(
        &self,
        mut progress: impl FnMut(&UserEntry, Progress) + Send,
    ) -> Result<RotatedAll> {
        let sealed = self.keys()?;
        let (mut all, mut after) = (RotatedAll::default(), None);
        loop {
            let page = self.deployment.directory.all(after, 1_000).await?;
            let Some(last) = page.last() else { return Ok(all) };
            after = Some(last.tag);
            for user in page {
                let own = crate::reserved::is_reserved(&user.user);
                let target = Some(user.tag.to_string().into());
                // A space of the deployment's own is nobody whom a host could name.
                let mut at = |at| {
                    if !own {
                        progress(&user, at);
                    }
                };
                let work = async { Ok(sealed.store.rotate(Owner::User(user.tag), &mut at).await?) };
                match self.deployment.told(Action::RotateKey, target, work).await {
                    Ok(rotated) => {
                        all.rotated += u64::from(!own);
                        all.sealed += rotated.sealed;
                    }
                    Err(error) => match error.kind() {
                        // Erased meanwhile, or never written.
                        ErrorKind::NotFound | ErrorKind::Erased => all.empty += u64::from(!own),
                        ErrorKind::KeyUnavailable if sealed.keychain.is_held(user.tag).await? => {
                            all.locked.push(user);
                        }
                        ErrorKind::KeyUnavailable => return Err(error),
                        _ => all.failed.push((user, error)),
                    },
                }
            }
        }
    }

    /// Wraps every key again under the current key of what wraps, where it is not yet: after the service has made a new version
    /// of the key, or to end a change that did not. No data is touched, and users who hold their keys need not unlock them.
    ///
    /// # Errors
    ///
    /// `Invalid` if the data is not sealed; `Denied` for a key that none of the given ones opens; `KeyUnavailable`; `Storage`.
    pub async fn rewrap_keys(&self, mut progress: impl FnMut(Rewrap) + Send) -> Result<Rewrapped> {
        let work = async { Ok(self.keys()?.keychain.rewrap(&mut progress).await?) };
        self.deployment.told(Action::RewrapKeys, None, work).await
    }

    /// Wraps every key again under another key: `new` is what opens from now on. To end one that did not end, open with both keys,
    /// `new.formerly(former)`, and do the same again.
    ///
    /// # Errors
    ///
    /// As [`rewrap_keys`](Self::rewrap_keys); `Denied` for a key that is weak or can't be read, before anything is changed.
    pub async fn change_key(&self, new: &Kek, mut progress: impl FnMut(Rewrap) + Send) -> Result<Rewrapped> {
        let keychain = &self.keys()?.keychain;
        let work = async {
            if keychain.rewrap_status().await?.under_way {
                let ended = keychain.rewrap(&mut progress).await?;
                // The change that did not end may have been this one.
                if keychain.prove(new).await.is_ok() {
                    return Ok(ended);
                }
            }
            Ok(keychain.change_passphrase(new, &mut progress).await?)
        };
        self.deployment.told(Action::RewrapKeys, None, work).await
    }

    /// Lets a user hold the keys: from now on nobody reads or writes the user's data before they are
    /// [unlocked](Self::unlock_user). Who loses the passphrase has lost the data.
    ///
    /// # Errors
    ///
    /// `NotFound`, `Erased`; `Denied` for a passphrase that is not 12 to 4,096 bytes; `Invalid` if the user holds them, or has not written.
    pub async fn hold_key<U>(&self, user: U, passphrase: &SecretBytes) -> Result<()>
    where
        U: TryInto<UserId>,
        Error: From<U::Error>,
    {
        let (tag, sealed) = (self.deployment.tag_of_a_user(&user.try_into()?)?, self.keys()?);
        self.deployment.enter_known(tag).await?;
        if let Err(error) = sealed.store.key_status(Owner::User(tag), false).await {
            let error: Error = error.into();
            return Err(match error.kind() {
                ErrorKind::NotFound | ErrorKind::Erased => Error::new(
                    ErrorKind::Invalid,
                    "the user has not written yet and has no keys, write something first",
                ),
                _ => error,
            });
        }
        let work = async { Ok(sealed.keychain.hold_key(tag, passphrase).await?) };
        self.deployment.told(Action::HoldKey, Some(tag.to_string().into()), work).await
    }

    /// Gives a user's keys back to the deployment. They must be unlocked.
    ///
    /// # Errors
    ///
    /// `NotFound`, `Erased`; `KeyUnavailable` while they are locked; `Invalid` if the user does not hold them.
    pub async fn give_back_key<U>(&self, user: U) -> Result<()>
    where
        U: TryInto<UserId>,
        Error: From<U::Error>,
    {
        let tag = self.deployment.tag_of_a_user(&user.try_into()?)?;
        self.deployment.enter_known(tag).await?;
        let work = async { Ok(self.keys()?.keychain.give_back_key(tag).await?) };
        self.deployment.told(Action::HoldKey, Some(tag.to_string().into()), work).await
    }

    /// Unlocks the keys of a user who holds them, in this process.
    ///
    /// # Errors
    ///
    /// `NotFound`, `Erased`; `Denied` for another passphrase; `Invalid` if the user does not hold the keys.
    pub async fn unlock_user<U>(&self, user: U, passphrase: &SecretBytes) -> Result<()>
    where
        U: TryInto<UserId>,
        Error: From<U::Error>,
    {
        let tag = self.deployment.tag_of_a_user(&user.try_into()?)?;
        self.deployment.enter_known(tag).await?;
        let work = async { Ok(self.keys()?.keychain.unlock(tag, passphrase).await?) };
        self.deployment.told(Action::HoldKey, Some(tag.to_string().into()), work).await
    }

    /// Locks them in this process, at once.
    ///
    /// # Errors
    ///
    /// `Invalid`.
    pub fn lock_user<U>(&self, user: U) -> Result<()>
    where
        U: TryInto<UserId>,
        Error: From<U::Error>,
    {
        let tag = self.tag(user)?;
        self.keys()?.keychain.lock(tag);
        self.deployment.looked(Action::HoldKey);
        Ok(())
    }

    fn owner<U>(&self, user: U) -> Result<Owner>
    where
        U: TryInto<UserId>,
        Error: From<U::Error>,
    {
        self.tag(user).map(Owner::User)
    }

    fn keys(&self) -> Result<&Sealed> {
        let sealed = self.deployment.sealed.as_ref();
        sealed.ok_or_else(|| Error::new(ErrorKind::Invalid, "the data is not sealed, it has no keys"))
    }
}

/// Whether the first ones are less work to try a passphrase with.
const fn is_less(used: &PassphraseParameters, now: &PassphraseParameters) -> bool {
    used.m_kib < now.m_kib || used.t < now.t
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_memory_or_fewer_passes_are_less_work() {
        let now = PassphraseParameters::generate().unwrap();
        let with = |m_kib, t| PassphraseParameters { m_kib, t, ..now };
        assert!(!is_less(&now, &now));
        assert!(!is_less(&with(now.m_kib * 2, now.t), &now));
        assert!(is_less(&with(now.m_kib / 2, now.t), &now));
        assert!(is_less(&with(now.m_kib, now.t - 1), &now));
    }
}
