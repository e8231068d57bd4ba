//! A PostgreSQL database as a deployment's place: users' data in it, and every key in a folder of the application's own.
//!
//! | in the state folder | what it is |
//! |---|---|
//! | `deployment.key` | the key of users' tags, where nothing is sealed |
//! | `deployment.print` | its fingerprint, where the keystore has it |
//! | `data.key` | the key that wraps keys, unless another was named |
//! | `data.keys` | the keystore, unless another place was named |
//! | `data.audit.key` | the key that signs the audit log, unless another was named |
//! | `data.restoring.json` | a restore was begun: nothing opens until it has ended |
//!
//! The names are those of a data folder `data` and of what lies beside it. The database has the fingerprint of the tags' key, so a folder of another
//! deployment is refused, and so is an empty one: only an [installation](crate::Builder::install) makes a key.

use std::fmt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use syntha_postgres::{InstallConfig, Mode, PostgresConfig, PostgresStore};
use syntha_sqlite::{KeyPlace, key_place};
use syntha_store::DeploymentKey;

use crate::deployment::Base;
use crate::error::{Error, ErrorKind, Result};
use crate::files;
use crate::layers::{Layers, Place as DataPlace};

/// Where a deployment on PostgreSQL is: the database, and the folder of its keys.
#[derive(Clone)]
#[must_use]
pub struct Postgres {
    url: Arc<str>,
    state: PathBuf,
    mode: Mode,
    configure: Option<Configure>,
    /// The one who restores may enter what is not whole yet.
    restores: bool,
}

type Configure = Arc<dyn Fn(PostgresConfig) -> PostgresConfig + Send + Sync>;

impl Postgres {
    /// The database of a URL, `postgres://role@host/database` with the application's role, and the folder of the deployment's keys. A password
    /// need not stand in the URL: `PGPASSWORD` and `PGPASSFILE` are looked at as every client of PostgreSQL does.
    ///
    /// The folder is this account's alone (rights 0700). Who has lost it has lost the data, so keep a copy of it, apart from the database's.
    pub fn new(url: impl Into<String>, state: impl Into<PathBuf>) -> Self {
        Self {
            url: url.into().into(),
            state: state.into(),
            mode: Mode::default(),
            configure: None,
            restores: false,
        }
    }

    /// How users are kept apart; what the database was installed with. Default: a schema for each.
    pub const fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// How the store is to work beside that: connections, waiting times, statements.
    pub fn configure(
        mut self,
        configure: impl Fn(PostgresConfig) -> PostgresConfig + Send + Sync + 'static,
    ) -> Self {
        self.configure = Some(Arc::new(configure));
        self
    }

    /// The folder of its keys.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.state
    }

    pub(crate) fn url(&self) -> &Arc<str> {
        &self.url
    }

    pub(crate) const fn chosen_mode(&self) -> Mode {
        self.mode
    }

    /// For who restores.
    #[cfg(feature = "encryption")]
    pub(crate) const fn restoring(mut self) -> Self {
        self.restores = true;
        self
    }

    /// What opens the store.
    fn config(&self, key: DeploymentKey) -> PostgresConfig {
        let config = PostgresConfig::new(&*self.url, key).mode(self.mode);
        // INVARIANT: the mode is what was said, whatever else is configured.
        self.configure.as_ref().map_or(config.clone(), |configure| configure(config)).mode(self.mode)
    }
}

impl fmt::Debug for Postgres {
    // A URL may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres")
            .field("state", &self.state)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

/// Who prepares a database: the role that will own the tables.
#[derive(Clone)]
#[must_use]
pub struct PostgresOwner {
    url: Arc<str>,
    app_role: Option<String>,
}

impl PostgresOwner {
    /// The database's URL with the owner's role, which may create schemas there, and is no superuser.
    pub fn new(url: impl Into<String>) -> Self {
        Self { url: url.into().into(), app_role: None }
    }

    /// The application's role, which must be there. Default: `syntha_app`.
    pub fn app_role(mut self, role: impl Into<String>) -> Self {
        self.app_role = Some(role.into());
        self
    }

    fn config(&self, mode: Mode) -> InstallConfig {
        let config = InstallConfig::new(&*self.url).mode(mode);
        match &self.app_role {
            Some(role) => config.app_role(role.as_str()),
            None => config,
        }
    }
}

impl fmt::Debug for PostgresOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresOwner").field("app_role", &self.app_role).finish_non_exhaustive()
    }
}

/// The folder of a deployment's keys.
pub(crate) struct State {
    folder: PathBuf,
}

impl State {
    /// The folder, which has to be there.
    fn find(folder: &Path) -> Result<Self> {
        let state = Self { folder: absolute(folder)? };
        state.check()?;
        Ok(state)
    }

    /// The folder, made if it is not there.
    pub(crate) fn make(folder: &Path) -> Result<Self> {
        let folder = absolute(folder)?;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(files::failed)?;
        Self::find(&folder)
    }

    fn check(&self) -> Result<()> {
        let found = match self.folder.symlink_metadata() {
            Ok(found) => found,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(no_key()),
            Err(error) => return Err(files::failed(error).into()),
        };
        if !found.is_dir() || found.mode() & 0o077 != 0 {
            return Err(Error::new(
                ErrorKind::Denied,
                "the state folder holds keys: it must be a folder, no link, and this account's alone, use `chmod 700`",
            ));
        }
        Ok(())
    }

    /// What stands for the data folder in the names of the files.
    pub(crate) fn anchor(&self) -> PathBuf {
        self.folder.join("data")
    }

    pub(crate) fn place(&self) -> Result<KeyPlace> {
        Ok(key_place(&self.folder)?)
    }

    /// What says that a restore has not ended.
    pub(crate) fn marker(&self) -> PathBuf {
        files::beside(&self.anchor(), ".restoring.json")
    }

    /// The key of a deployment that is not sealed.
    fn read_key(&self) -> Result<DeploymentKey> {
        let bytes = std::fs::read(self.folder.join(KEY)).map_err(files::failed)?;
        let bytes = bytes.try_into().map_err(|_| damaged())?;
        Ok(DeploymentKey::from_bytes(bytes))
    }

    /// Puts a key there, durably, unless another process was first. Gives the one that is there then.
    pub(crate) fn keep_key(&self, key: &DeploymentKey) -> Result<DeploymentKey> {
        let (path, part) = (self.folder.join(KEY), self.folder.join(format!("{KEY}.{}", std::process::id())));
        files::write(&part, key.as_bytes())?;
        let linked = std::fs::hard_link(&part, &path);
        files::remove(&part)?;
        match linked {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(files::failed(error).into());
            }
            _ => files::sync_parent(&path)?,
        }
        self.read_key()
    }

    /// Writes down whose state it is, where the keystore has the key.
    #[cfg(feature = "encryption")]
    pub(crate) fn keep_print(&self, key: &DeploymentKey) -> Result<()> {
        Ok(files::write(&self.folder.join(PRINT), key.fingerprint().as_bytes())?)
    }

    #[cfg(feature = "encryption")]
    fn check_print(&self, key: &DeploymentKey) -> Result<()> {
        let print = std::fs::read(self.folder.join(PRINT)).map_err(files::failed)?;
        if print == key.fingerprint().as_bytes() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Denied,
            "the keystore belongs to another deployment than the state folder, put the right one back",
        ))
    }
}

/// The names that `key_place` knows.
const KEY: &str = "deployment.key";
#[cfg(feature = "encryption")]
const PRINT: &str = "deployment.print";

/// Also of what is a link: that is refused, and not followed.
pub(crate) fn absolute(folder: &Path) -> Result<PathBuf> {
    std::path::absolute(folder)
        .map_err(|_| Error::new(ErrorKind::Invalid, "the state folder's path can't be made absolute"))
}

/// A database's store with the layers that were asked for.
pub(crate) struct Opened {
    pub(crate) key: DeploymentKey,
    pub(crate) base: Base,
}

/// Opens a database that was installed, sealed or not, as the state folder says.
pub(crate) async fn open(config: &Postgres, layers: Layers) -> Result<Opened> {
    let state = State::find(&config.state)?;
    if !config.restores && files::is_there(&state.marker()) {
        return Err(Error::new(
            ErrorKind::Denied,
            "a restore into this database has not ended, call it again to end it",
        ));
    }
    let place = state.place()?;
    if place == KeyPlace::Nowhere {
        return Err(no_key());
    }
    let keys = Keys::find(&state, place, layers.sealing).await?;
    let store = Arc::new(PostgresStore::open(config.config(keys.key.clone())).await?);
    let anchor = state.anchor();
    let data = DataPlace { folder: Some(&anchor), reads: false };
    let trailed = layers.auditing.over(store as _, &keys.key, data).await?;
    let key = keys.key.clone();
    Ok(Opened { key, base: keys.over(trailed)? })
}

/// Prepares a database, and the state folder if it is new.
pub(crate) async fn install(config: &Postgres, owner: &PostgresOwner, layers: Layers) -> Result<()> {
    let state = State::make(&config.state)?;
    if !config.restores && files::is_there(&state.marker()) {
        return Err(Error::new(
            ErrorKind::Denied,
            "a restore into this database has not ended, call it again to end it",
        ));
    }
    let place = state.place()?;
    let keys = match place {
        KeyPlace::Nowhere => Keys::make(&state, layers.sealing).await?,
        place => Keys::find(&state, place, layers.sealing).await?,
    };
    let installed = syntha_postgres::install(&owner.config(config.mode), &keys.key).await;
    let key = keys.key.clone();
    keys.close().await?;
    if let Err(error) = installed {
        // INVARIANT: a key that was made now and whose database refused it is nobody's. Any other failure may have happened after the
        // database took it.
        if place == KeyPlace::Nowhere && error.kind() == syntha_store::ErrorKind::Refused {
            files::remove(&state.folder.join(KEY))?;
        }
        return Err(error.into());
    }
    #[cfg(feature = "encryption")]
    if state.place()? == KeyPlace::Nowhere {
        state.keep_print(&key)?;
    }
    let _ = key;
    Ok(())
}

/// Whether a database that was installed holds nothing of anybody.
#[cfg(feature = "encryption")]
pub(crate) async fn is_empty(config: &Postgres, layers: Layers) -> Result<bool> {
    use syntha_store::{Keyspace, Scan, Store};
    let state = State::find(&config.state)?;
    let keys = Keys::find(&state, state.place()?, layers.sealing).await?;
    let store = PostgresStore::open(config.config(keys.key.clone())).await?;
    let own = store.deployment().await?;
    let mut empty = store.list(None, 1).await?.is_empty();
    for space in [Keyspace::Directory, Keyspace::Ledger] {
        empty &= own.scan(Scan::heads(space, 1)).await?.value.records.is_empty();
    }
    store.close().await?;
    keys.close().await?;
    Ok(empty)
}

/// The key of the tags, and what it was found in.
struct Keys {
    key: DeploymentKey,
    #[cfg(feature = "encryption")]
    keychain: Option<(syntha_encryption::Keychain, syntha_encryption::Keystore)>,
}

#[cfg(feature = "encryption")]
mod sealed {
    use syntha_encryption::{Kek, Keychain, Keystore, make_key_file};

    use super::{Base, DeploymentKey, Error, ErrorKind, KeyPlace, Keys, Result, State, files, key_place};
    use crate::encryption::{Encryption, Sealed};
    use crate::layers::{Trailed, Wanted};

    impl Keys {
        /// Finds what the state folder names.
        pub(super) async fn find(state: &State, place: KeyPlace, wanted: Wanted) -> Result<Self> {
            let anchor = state.anchor();
            let encryption = match (wanted, place) {
                (Wanted::Plain, KeyPlace::Elsewhere) => return Err(is_sealed()),
                (Wanted::Sealed(_), KeyPlace::Here) => return Err(is_plain()),
                // INVARIANT: whoever can write one file of the state folder can't take the seal off with it.
                (Wanted::Unsaid, KeyPlace::Here)
                    if key_place(&files::beside(&anchor, ".keys"))? != KeyPlace::Nowhere =>
                {
                    return Err(was_sealed());
                }
                (Wanted::Plain | Wanted::Unsaid, KeyPlace::Here) => {
                    return Ok(Self { key: state.read_key()?, keychain: None });
                }
                (Wanted::Sealed(encryption), _) => encryption,
                (Wanted::Unsaid | Wanted::Plain, _) => {
                    Encryption::new(Kek::file(files::beside(&anchor, ".key")))
                }
            };
            let encryption = encryption.placed(&anchor);
            // INVARIANT: data without its keys is an error, never a new start.
            if !encryption.has_keystore()? {
                return Err(no_keystore());
            }
            let keystore: Keystore = encryption.open_shared_keystore().await?;
            let opened = Keychain::open(keystore.clone(), encryption.kek(), encryption.chosen_cache()).await;
            let keychain = opened.map_err(|error| {
                if error.kind() == syntha_store::ErrorKind::NotFound { no_keystore() } else { error.into() }
            })?;
            state.check_print(keychain.deployment_key())?;
            Ok(Self { key: keychain.deployment_key().clone(), keychain: Some((keychain, keystore)) })
        }

        /// Makes what a new deployment needs.
        pub(super) async fn make(state: &State, wanted: Wanted) -> Result<Self> {
            let anchor = state.anchor();
            let encryption = match wanted {
                Wanted::Plain => {
                    return Ok(Self { key: state.keep_key(&DeploymentKey::generate()?)?, keychain: None });
                }
                Wanted::Sealed(encryption) => encryption,
                Wanted::Unsaid => {
                    let path = files::beside(&anchor, ".key");
                    let made = path.clone();
                    // One that is there is kept, whoever made it.
                    tokio::task::spawn_blocking(move || make_key_file(made).map(drop))
                        .await
                        .map_err(|_| Error::new(ErrorKind::Storage, "the runtime ended, try again"))??;
                    Encryption::new(Kek::file(path))
                }
            };
            let encryption = encryption.placed(&anchor);
            let (keystore, key) = (encryption.open_shared_keystore().await?, DeploymentKey::generate()?);
            let keychain = Keychain::create(
                keystore.clone(),
                encryption.kek(),
                encryption.chosen_mode(),
                &key,
                encryption.chosen_cache(),
            );
            let keychain = keychain.await?;
            Ok(Self { key: keychain.deployment_key().clone(), keychain: Some((keychain, keystore)) })
        }

        /// What a store is with these keys.
        pub(super) fn over(self, trailed: Trailed) -> Result<Base> {
            Ok(match self.keychain {
                Some((keychain, _)) => {
                    let sealed = Sealed::new(std::sync::Arc::clone(&trailed.store), keychain)?;
                    Base::sealed(trailed, sealed)
                }
                None => Base::plain(trailed),
            })
        }

        pub(super) async fn close(self) -> Result<()> {
            match self.keychain {
                Some((_, keystore)) => Ok(keystore.close().await?),
                None => Ok(()),
            }
        }
    }

    const fn is_sealed() -> Error {
        Error::new(ErrorKind::Denied, "the data is sealed, open it with its key and not as plain")
    }

    const fn was_sealed() -> Error {
        Error::new(
            ErrorKind::Denied,
            "the state folder has the key of data that is not sealed, and a keystore as well: if that is meant, open the data as plain",
        )
    }

    const fn is_plain() -> Error {
        Error::new(
            ErrorKind::Denied,
            "the data is not sealed: open it as plain, or restore a backup of it into a sealed one",
        )
    }

    const fn no_keystore() -> Error {
        Error::new(
            ErrorKind::Denied,
            "the data is sealed and its keystore is not there, put the keystore back: nothing opens without it",
        )
    }
}

#[cfg(not(feature = "encryption"))]
#[allow(clippy::unused_async, reason = "as in a build with the layer")]
mod plain {
    use super::{Base, DeploymentKey, Error, ErrorKind, KeyPlace, Keys, Result, State};
    use crate::layers::{Trailed, Wanted};

    impl Keys {
        pub(super) async fn find(state: &State, place: KeyPlace, _: Wanted) -> Result<Self> {
            if place == KeyPlace::Here {
                return Ok(Self { key: state.read_key()? });
            }
            Err(Error::new(
                ErrorKind::Denied,
                "the data is sealed: open it with a build that has the feature `encryption`",
            ))
        }

        pub(super) async fn make(state: &State, _: Wanted) -> Result<Self> {
            Ok(Self { key: state.keep_key(&DeploymentKey::generate()?)? })
        }

        #[allow(clippy::unnecessary_wraps, reason = "as in a build with the layer")]
        pub(super) fn over(self, trailed: Trailed) -> Result<Base> {
            Ok(Base::plain(trailed))
        }

        pub(super) async fn close(self) -> Result<()> {
            Ok(())
        }
    }
}

const fn no_key() -> Error {
    Error::new(
        ErrorKind::Denied,
        "the state folder holds no deployment's key: prepare the database (`syntha postgres install`), or put the folder back",
    )
}

const fn damaged() -> Error {
    Error::new(
        ErrorKind::Corrupt,
        "the deployment's key is damaged, put a copy of the state folder in its place",
    )
}
