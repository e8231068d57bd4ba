//! A user's archives: sealed with a key that comes from the user's root, so that they open as long as the user is not erased.

use std::io::{Read, Write};

use subtle::ConstantTimeEq;
use syntha_store::{Error, ErrorKind, Result, UserTag};

use crate::keychain::Keychain;
use crate::secret::SecretKey;
use crate::stream::{Content, Header, KeySource, Reader, Writer};

/// What seals and opens one user's archives.
///
/// The key outlives rotations and restores, and ends with the user's erasure: what was sealed with it opens for nobody then, also
/// not for a new user of the same name.
#[allow(missing_debug_implementations, reason = "a secret has none")]
pub struct UserArchives {
    header: Header,
    key: Result<SecretKey>,
}

impl Keychain {
    /// What seals and opens a user's archives. A user who has no key, or holds it, is told so by the calls that need it.
    pub async fn archives(&self, user: UserTag) -> UserArchives {
        let owner = *user.as_bytes();
        let header = Header {
            content: Content::Archive,
            deployment: self.ring.deployment,
            owner,
            source: KeySource::Archive,
        };
        let key = match self.ring.keystore.root(&owner).await {
            Ok(Some(_)) => self.ring.archive_key(&owner).await,
            Ok(None) => Err(no_key()),
            Err(error) => Err(error),
        };
        UserArchives { header, key }
    }
}

impl UserArchives {
    /// Seals what is written. The archive is whole after [`Writer::finish`].
    ///
    /// # Errors
    ///
    /// `KeyUnavailable` if the user holds the key and has not unlocked it, or if what wraps does not answer; `KeyRefused` if there is no
    /// key of the user's; as [`Writer::new`].
    pub fn writer<W: Write>(self, sink: W) -> Result<Writer<W>> {
        Writer::new(sink, &self.header, &self.key?)
    }

    /// Opens a sealed archive of this user.
    ///
    /// # Errors
    ///
    /// `Invalid` for what is no archive, or one of another user or deployment; `KeyRefused` for one whose key is gone with an erasure; as
    /// [`writer`](Self::writer) and [`Reader::open`].
    pub fn reader<R: Read>(self, source: R) -> Result<Reader<R>> {
        let pending = Reader::open(source)?;
        let header = pending.header();
        if header.content != Content::Archive || header.source != KeySource::Archive {
            return Err(Error::new(ErrorKind::Invalid, "the file is a sealed one, but no user's archive"));
        }
        if header.deployment != self.header.deployment {
            return Err(Error::new(ErrorKind::Invalid, "the archive is of another deployment"));
        }
        if header.owner != self.header.owner {
            return Err(Error::new(ErrorKind::Invalid, "the archive is of another user"));
        }
        pending.unlock(&self.key?).map_err(|error| match error.kind() {
            ErrorKind::KeyRefused => no_key(),
            _ => error,
        })
    }

    /// Whether the key can be had, now.
    #[must_use]
    pub const fn has_key(&self) -> bool {
        self.key.is_ok()
    }

    /// Whether both have the same key: so that nobody was erased and made again between the two.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        match (&self.key, &other.key) {
            (Ok(one), Ok(two)) => one.as_bytes().ct_eq(two.as_bytes()).into(),
            _ => false,
        }
    }
}

const fn no_key() -> Error {
    Error::new(
        ErrorKind::KeyRefused,
        "the key of this archive is not in the keystore: it went with an erasure, or this is another keystore",
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use syntha_store::{Batch, CreateMode, MemoryStore, Store, Timestamp, UserId};

    use super::*;
    use crate::{EncryptedStore, Kek, KeyCache, Keystore, Mode, Owner, SecretBytes};

    async fn made() -> (EncryptedStore, Keychain, UserTag) {
        let store = MemoryStore::new().unwrap();
        let key = store.deployment_key().clone();
        let tag = key.tag(&UserId::new("alice").unwrap());
        let keystore = Keystore::open(Arc::new(MemoryStore::new().unwrap())).await.unwrap();
        let kek = Kek::from_key(SecretKey::generate().unwrap());
        let keychain =
            Keychain::create(keystore, &kek, Mode::Sealed, &key, KeyCache::default()).await.unwrap();
        let sealed = EncryptedStore::new(Arc::new(store) as Arc<dyn Store>, &keychain).unwrap();
        sealed.create(tag, Batch::new(Timestamp(1)).unwrap(), CreateMode::New).await.unwrap();
        (sealed, keychain, tag)
    }

    async fn archive(keychain: &Keychain, tag: UserTag) -> Result<Vec<u8>> {
        let mut writer = keychain.archives(tag).await.writer(Vec::new())?;
        writer.write_all(b"what it holds").unwrap();
        writer.finish()
    }

    async fn read(keychain: &Keychain, tag: UserTag, archive: &[u8]) -> Result<String> {
        let mut text = String::new();
        keychain.archives(tag).await.reader(archive)?.read_to_string(&mut text).unwrap();
        Ok(text)
    }

    #[tokio::test]
    async fn an_archive_outlives_rotations_and_ends_with_an_erasure() {
        let (store, keychain, tag) = made().await;
        let archive = archive(&keychain, tag).await.unwrap();
        store.rotate(Owner::User(tag), &mut |_| {}).await.unwrap();
        assert_eq!(read(&keychain, tag, &archive).await.unwrap(), "what it holds");
        let before = keychain.archives(tag).await;
        assert!(before.is_same(&keychain.archives(tag).await));
        store.erase(tag).await.unwrap();
        assert_eq!(read(&keychain, tag, &archive).await.unwrap_err().kind(), ErrorKind::KeyRefused);
        store.create(tag, Batch::new(Timestamp(1)).unwrap(), CreateMode::Recreate).await.unwrap();
        assert_eq!(read(&keychain, tag, &archive).await.unwrap_err().kind(), ErrorKind::KeyRefused);
        assert!(!before.is_same(&keychain.archives(tag).await));
    }

    #[tokio::test]
    async fn a_user_who_holds_the_key_unlocks_it_first() {
        let (_store, keychain, tag) = made().await;
        let before = archive(&keychain, tag).await.unwrap();
        let passphrase = SecretBytes::new(*b"correct horse battery staple");
        keychain.hold_key(tag, &passphrase).await.unwrap();
        keychain.lock(tag);
        assert!(keychain.is_locked(tag).await.unwrap());
        assert_eq!(archive(&keychain, tag).await.unwrap_err().kind(), ErrorKind::KeyUnavailable);
        assert_eq!(read(&keychain, tag, &before).await.unwrap_err().kind(), ErrorKind::KeyUnavailable);
        keychain.unlock(tag, &passphrase).await.unwrap();
        assert!(!keychain.is_locked(tag).await.unwrap());
        assert_eq!(read(&keychain, tag, &before).await.unwrap(), "what it holds");
    }
}
