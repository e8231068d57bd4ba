//! Which key a deployment is sealed with, where its wrapped keys are kept, and how both are found at the first start.

use std::fmt;
#[cfg(feature = "sqlite")]
use std::path::{Path, PathBuf};
use std::sync::Arc;

use syntha_encryption::{EncryptedStore, Kek, KeyCache, Keychain, Keystore, Mode};
use syntha_store::{DeploymentKey, MemoryStore, Store};

use crate::error::{Error, ErrorKind, Result};
#[cfg(feature = "sqlite")]
use crate::files::beside;

/// How a deployment is sealed.
#[derive(Clone)]
#[must_use]
pub struct Encryption {
    kek: Kek,
    mode: Mode,
    keystore: Place,
    cache: KeyCache,
}

#[derive(Clone)]
enum Place {
    Beside,
    #[cfg(feature = "sqlite")]
    Folder(PathBuf),
    Store(Arc<dyn Store>),
}

/// What a host asked for.
#[derive(Clone, Default)]
pub(crate) enum Wanted {
    /// New data is sealed with a key file beside it; data that is there is opened as it is.
    #[default]
    Unsaid,
    /// Nothing is sealed.
    Plain,
    /// This.
    Sealed(Encryption),
}

impl Encryption {
    /// Seals with a key: everything that users wrote, names included.
    pub fn new(kek: Kek) -> Self {
        Self { kek, mode: Mode::Sealed, keystore: Place::Beside, cache: KeyCache::default() }
    }

    /// What is hidden. A deployment has one mode for ever.
    pub const fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// The folder of the wrapped keys. Default: beside the data folder, with `.keys` after its name. Keep it on another disk than the
    /// data, and its backups apart and short: whoever has an old copy of both can bring back an erased user.
    #[cfg(feature = "sqlite")]
    pub fn keystore(mut self, folder: impl Into<PathBuf>) -> Self {
        self.keystore = Place::Folder(folder.into());
        self
    }

    /// A store of one's own for the wrapped keys, which holds nothing else.
    pub fn keystore_in(mut self, store: Arc<dyn Store>) -> Self {
        self.keystore = Place::Store(store);
        self
    }

    /// How many users' unwrapped keys are kept in memory, and for how long.
    pub const fn cache(mut self, cache: KeyCache) -> Self {
        self.cache = cache;
        self
    }

    /// The same, with the folder of its keystore named where it is the one beside the data: for data that is not in its place yet.
    #[cfg(feature = "sqlite")]
    pub(crate) fn placed(mut self, data: &Path) -> Self {
        if matches!(self.keystore, Place::Beside) {
            self.keystore = Place::Folder(beside(data, ".keys"));
        }
        self
    }

    /// The key that wraps.
    #[cfg(feature = "sqlite")]
    pub(crate) const fn kek(&self) -> &Kek {
        &self.kek
    }

    /// What is hidden.
    #[cfg(feature = "sqlite")]
    pub(crate) const fn chosen_mode(&self) -> Mode {
        self.mode
    }

    /// How many keys are kept unwrapped.
    #[cfg(feature = "sqlite")]
    pub(crate) const fn chosen_cache(&self) -> KeyCache {
        self.cache
    }

    /// Whether there is a keystore of [placed](Self::placed) data, as far as its folder tells.
    #[cfg(feature = "postgres")]
    pub(crate) fn has_keystore(&self) -> Result<bool> {
        use syntha_sqlite::{KeyPlace, key_place};
        match &self.keystore {
            Place::Folder(folder) => Ok(key_place(folder)? != KeyPlace::Nowhere),
            _ => Ok(true),
        }
    }

    /// The keystore, which other processes of this machine open as well.
    #[cfg(feature = "postgres")]
    pub(crate) async fn open_shared_keystore(&self) -> Result<Keystore> {
        self.keystore_as(syntha_sqlite::Mode::Shared).await
    }

    /// Opens the keystore of [placed](Self::placed) data, and makes an empty one if there is none.
    #[cfg(feature = "sqlite")]
    pub(crate) async fn open_keystore(&self) -> Result<Keystore> {
        self.keystore_as(syntha_sqlite::Mode::Exclusive).await
    }

    #[cfg(feature = "sqlite")]
    async fn keystore_as(&self, mode: syntha_sqlite::Mode) -> Result<Keystore> {
        use syntha_sqlite::{SqliteConfig, SqliteStore};
        let store: Arc<dyn Store> = match &self.keystore {
            Place::Store(store) => Arc::clone(store),
            Place::Folder(folder) => {
                Arc::new(SqliteStore::open(SqliteConfig::new(folder).mode(mode).connections(1)).await?)
            }
            Place::Beside => {
                return Err(Error::new(ErrorKind::Invalid, "the keystore's folder is not named"));
            }
        };
        Ok(Keystore::open(store).await?)
    }

    /// Seals a store of the host's own, or one in memory.
    pub(crate) async fn seal(self, store: Arc<dyn Store>, key: &DeploymentKey) -> Result<Sealed> {
        let keystore: Arc<dyn Store> = match self.keystore {
            Place::Store(keystore) => keystore,
            Place::Beside if store.capabilities().name == "memory" => Arc::new(MemoryStore::new()?),
            _ => {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    "a store of your own needs a store for its keys, name one with `keystore_in`",
                ));
            }
        };
        let keystore = Keystore::open(keystore).await?;
        let keychain = Keychain::create(keystore, &self.kek, self.mode, key, self.cache).await?;
        if keychain.deployment_key().fingerprint() != key.fingerprint() {
            return Err(Error::new(
                ErrorKind::Denied,
                "the keystore belongs to another deployment, give the one that was made with these tags",
            ));
        }
        Sealed::new(store, keychain)
    }
}

impl From<Kek> for Encryption {
    fn from(kek: Kek) -> Self {
        Self::new(kek)
    }
}

impl fmt::Debug for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encryption").field("kek", &self.kek).field("mode", &self.mode).finish_non_exhaustive()
    }
}

/// A sealed store and the keys that it is sealed with.
#[derive(Clone, Debug)]
pub(crate) struct Sealed {
    pub(crate) store: Arc<EncryptedStore>,
    pub(crate) keychain: Arc<Keychain>,
}

impl Sealed {
    pub(crate) fn new(store: Arc<dyn Store>, keychain: Keychain) -> Result<Self> {
        let logins = crate::reserved::accounts(keychain.deployment_key()).map(|(_, tag)| tag);
        let store = Arc::new(EncryptedStore::new(store, &keychain)?.logins(logins));
        Ok(Self { store, keychain: Arc::new(keychain) })
    }
}

#[cfg(feature = "sqlite")]
pub(crate) mod sqlite {
    use std::os::unix::fs::DirBuilderExt;

    use syntha_encryption::make_key_file;
    use syntha_sqlite::{KeyPlace, Mode as Access, SqliteConfig, SqliteStore, key_place};

    use super::{
        Arc, DeploymentKey, Encryption, Error, ErrorKind, Kek, Keychain, Keystore, Place, Result, Sealed,
        Store, Wanted, beside,
    };
    use crate::layers::{Layers, Trailed};

    /// A folder's store, and how it is sealed, if it is.
    pub(crate) struct Opened {
        pub(crate) files: Arc<SqliteStore>,
        pub(crate) trailed: Trailed,
        pub(crate) sealed: Option<Sealed>,
    }

    /// Opens a folder: sealed or not, as it was made; a new one as was asked for.
    pub(crate) async fn open(config: SqliteConfig, layers: Layers) -> Result<Opened> {
        let Layers { sealing: wanted, auditing } = layers;
        let folder = std::path::absolute(config.folder())
            .map_err(|_| Error::new(ErrorKind::Invalid, "the data folder's path can't be made absolute"))?;
        let folder = folder.canonicalize().unwrap_or(folder);
        let place = key_place(&folder)?;
        if place == KeyPlace::Nowhere {
            crate::migration::refuse_unfinished(&folder)?;
        }
        let encryption = match (wanted, place) {
            (Wanted::Plain, KeyPlace::Elsewhere) => return Err(is_sealed()),
            (Wanted::Sealed(_), KeyPlace::Here) => return Err(is_plain()),
            (Wanted::Plain, _) => None,
            // INVARIANT: whoever can write the data folder alone can't take its seal off by putting a plain folder in its place.
            (Wanted::Unsaid, KeyPlace::Here)
                if key_place(&beside(&folder, ".keys"))? != KeyPlace::Nowhere =>
            {
                return Err(was_sealed());
            }
            (Wanted::Unsaid, KeyPlace::Here) => {
                tracing::warn!("the data folder is not sealed, seal it with `syntha seal`");
                None
            }
            (Wanted::Sealed(encryption), _) => Some(encryption),
            (Wanted::Unsaid, place) => {
                let path = beside(&folder, ".key");
                if place == KeyPlace::Nowhere && config.chosen_mode() != Access::Beside {
                    let path = path.clone();
                    // One that is there is kept, whoever made it.
                    tokio::task::spawn_blocking(move || {
                        if let Some(parent) = path.parent() {
                            // As the data folder's own folders are made. What can't be made is told of with the file.
                            let _ = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent);
                        }
                        make_key_file(path).map(drop)
                    })
                    .await
                    .map_err(|_| Error::new(ErrorKind::Storage, "the runtime ended, try again"))??;
                }
                Some(Encryption::new(Kek::file(path)))
            }
        };
        let reads = config.chosen_mode() == Access::Beside;
        let data = crate::layers::Place { folder: Some(&folder), reads };
        let Some(encryption) = encryption else {
            let files = Arc::new(SqliteStore::open(config).await?);
            let trailed = auditing.over(Arc::clone(&files) as _, files.deployment_key(), data).await?;
            return Ok(Opened { files, trailed, sealed: None });
        };
        let keystore: Arc<dyn Store> = match encryption.keystore {
            Place::Store(store) => store,
            ref named => {
                let keys = match named {
                    Place::Folder(folder) => folder.clone(),
                    _ => beside(&folder, ".keys"),
                };
                // INVARIANT: data without its keys is an error, never a new start.
                if place == KeyPlace::Elsewhere && key_place(&keys)? == KeyPlace::Nowhere {
                    return Err(no_keystore());
                }
                // INVARIANT: keys are durable before what is sealed under them, however durable a commit of the data is: a power loss takes
                // the last commits then, and not all of a user's data with its key.
                let keys = SqliteConfig::new(keys).mode(config.chosen_mode()).connections(1);
                Arc::new(SqliteStore::open(keys).await?)
            }
        };
        let keystore = Keystore::open(keystore).await?;
        let keychain = match place {
            KeyPlace::Nowhere if config.chosen_mode() != Access::Beside => {
                let key = DeploymentKey::generate()?;
                Keychain::create(keystore, &encryption.kek, encryption.mode, &key, encryption.cache).await?
            }
            _ => Keychain::open(keystore, &encryption.kek, encryption.cache).await.map_err(|error| {
                if error.kind() == syntha_store::ErrorKind::NotFound { no_keystore() } else { error.into() }
            })?,
        };
        let config = config.deployment_key(keychain.deployment_key().clone());
        let files = Arc::new(SqliteStore::open(config).await?);
        let trailed = auditing.over(Arc::clone(&files) as _, files.deployment_key(), data).await?;
        let sealed = Sealed::new(Arc::clone(&trailed.store), keychain)?;
        Ok(Opened { files, trailed, sealed: Some(sealed) })
    }

    /// Lets a second opener in beside a first one: with the same key, or on data that is not sealed.
    pub(crate) async fn prove(
        opened: &Option<Sealed>,
        folder: &std::path::Path,
        wanted: Wanted,
    ) -> Result<()> {
        let kek = match (opened, wanted) {
            (None, Wanted::Sealed(_)) => return Err(is_plain()),
            (None, _) => return Ok(()),
            (Some(_), Wanted::Plain) => return Err(is_sealed()),
            (Some(_), Wanted::Unsaid) => Kek::file(beside(folder, ".key")),
            (Some(_), Wanted::Sealed(encryption)) => encryption.kek,
        };
        match opened {
            Some(sealed) => Ok(sealed.keychain.prove(&kek).await?),
            None => Ok(()),
        }
    }

    const fn is_sealed() -> Error {
        Error::new(ErrorKind::Denied, "the data folder is sealed, open it with its key and not as plain")
    }

    const fn was_sealed() -> Error {
        Error::new(
            ErrorKind::Denied,
            "the data folder is not sealed although its keystore lies beside it: if that is meant, open it as plain",
        )
    }

    const fn is_plain() -> Error {
        Error::new(
            ErrorKind::Denied,
            "the data folder is not sealed: seal it with `syntha seal`, or open it as plain",
        )
    }

    const fn no_keystore() -> Error {
        Error::new(
            ErrorKind::Denied,
            "the data folder is sealed and its keystore is not there, put the keystore back: nothing opens without it",
        )
    }
}
