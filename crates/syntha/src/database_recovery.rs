//! A deployment out of its backup, in a PostgreSQL database that is new, with a state folder that is new.
//!
//! A file `data.restoring.json` in the state folder says which backup it is of, and how far it is: written first, removed last. While it is
//! there nothing else opens the database by this folder, and no other folder opens it. A restore that was stopped goes on when it is called again.

use std::io::Read;
use std::path::Path;

use syntha_encryption::Keychain;
use syntha_sqlite::KeyPlace;
use syntha_store::DeploymentKey;

use crate::backup::UserProgress;
use crate::database::{Postgres, PostgresOwner, State, install};
use crate::encryption::Encryption;
use crate::error::{Error, ErrorKind, Result};
use crate::files;
use crate::layers::{Layers, Wanted};
use crate::manager::UserManager;
use crate::recovery::{Recovery, RestoreReport, manifest};

/// Builds a deployment in a PostgreSQL database from a backup that [`UserManager::backup_all`] made, whatever it was kept in then. Nothing
/// else is needed than the key that the deployment was sealed with (`None` for a backup that is not sealed), an empty database, and the role that
/// will own its tables. The state folder is new: the keystore is restored into it, unless another place is named for it.
///
/// Beside that it is as [`restore_all`](crate::restore_all).
///
/// # Errors
///
/// `AlreadyExists` if the state folder is a deployment's, or there is data in the database; `Denied` for a database of another deployment, or another key;
/// `Invalid` for a backup that is not whole, or is sealed and no key was given, or the other way round; `Corrupt`, `Tampered` for a backup
/// that is damaged; `Storage`.
pub async fn restore_all_postgres(
    backup: impl AsRef<Path> + Send,
    postgres: Postgres,
    owner: &PostgresOwner,
    encryption: Option<Encryption>,
    mut progress: impl FnMut(UserProgress) + Send,
) -> Result<RestoreReport> {
    run(backup.as_ref(), postgres, owner, encryption, false, &mut progress).await
}

/// The same with a backup that is not sealed, out of which a sealed deployment is made: so data is sealed that was not. Its keys are new, and are made
/// where `encryption` says. Users keep their tags, their data and its versions. The backup and the place that it was made of stay as they are, and readable.
///
/// # Errors
///
/// As [`restore_all_postgres`]; `Invalid` for a backup that is sealed.
pub async fn seal_backup_into_postgres(
    backup: impl AsRef<Path> + Send,
    postgres: Postgres,
    owner: &PostgresOwner,
    encryption: impl Into<Encryption> + Send,
    mut progress: impl FnMut(UserProgress) + Send,
) -> Result<RestoreReport> {
    run(backup.as_ref(), postgres, owner, Some(encryption.into()), true, &mut progress).await
}

async fn run(
    backup: &Path,
    postgres: Postgres,
    owner: &PostgresOwner,
    encryption: Option<Encryption>,
    seals: bool,
    progress: &mut (dyn FnMut(UserProgress) + Send),
) -> Result<RestoreReport> {
    let (backup, state) = (files::absolute(backup)?, State::make(postgres.state())?);
    let (anchor, postgres) = (state.anchor(), postgres.restoring());
    let encryption = encryption.map(|encryption| encryption.placed(&anchor));
    // What opens the backup.
    let opens = encryption.as_ref().filter(|_| !seals);
    let (list, name) = manifest(&backup, opens).await?;
    let name = if seals { format!("{name}-sealed") } else { name };
    let phase = begin(&state, &name)?;
    let mut recovery = Recovery::of(backup, list, opens).await?;
    if seals {
        recovery = recovery.sealing();
    }
    if phase == Phase::New {
        note(&state, &name, Phase::Keys)?;
    }
    let encryption = match encryption {
        Some(encryption) if seals => {
            make_keys(&encryption, &recovery.plain_key()?).await?;
            Some(encryption)
        }
        Some(encryption) => Some(recovery.keys(encryption, phase != Phase::New).await?),
        None => {
            state.keep_key(&recovery.plain_key()?)?;
            None
        }
    };
    install(&postgres, owner, layers(encryption.clone())).await?;
    if phase != Phase::Users {
        // INVARIANT: what is there was not put there by this restore, so it is nobody's to overwrite or to count.
        if !crate::database::is_empty(&postgres, layers(encryption.clone())).await? {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                "there is data in the database, name a new one",
            ));
        }
        recovery.keep_trail(&anchor)?;
        note(&state, &name, Phase::Users)?;
    }
    recovery.users(UserManager::builder().postgres_with(postgres), encryption, progress).await?;
    files::remove(&state.marker())?;
    Ok(recovery.report)
}

/// Makes a keystore for tags that are there already. One that was made so before is taken.
async fn make_keys(encryption: &Encryption, key: &DeploymentKey) -> Result<()> {
    let (keystore, kek) = (encryption.open_keystore().await?, encryption.kek());
    let (mode, cache) = (encryption.chosen_mode(), encryption.chosen_cache());
    let made = Keychain::create(keystore.clone(), kek, mode, key, cache).await;
    keystore.close().await?;
    if made?.deployment_key().fingerprint() == key.fingerprint() {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::AlreadyExists,
        "there are keys in the keystore already, name another place for it",
    ))
}

fn layers(encryption: Option<Encryption>) -> Layers {
    let sealing = encryption.map_or(Wanted::Plain, Wanted::Sealed);
    Layers { sealing, ..Layers::default() }
}

/// How far a restore is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing was done.
    New,
    /// Keys are put in their place.
    Keys,
    /// The database was found empty, and users are put into it.
    Users,
}

impl Phase {
    const fn name(self) -> &'static str {
        if matches!(self, Self::Users) { "users" } else { "keys" }
    }
}

fn note(state: &State, name: &str, phase: Phase) -> Result<()> {
    Ok(files::write(&state.marker(), format!("{name} {}", phase.name()).as_bytes())?)
}

/// Looks whether there is room, or a restore of the same backup under way.
fn begin(state: &State, name: &str) -> Result<Phase> {
    let marker = state.marker();
    if files::is_there(&marker) {
        let mut found = String::new();
        files::open(&marker)?.read_to_string(&mut found).map_err(files::failed)?;
        return match found.split_once(' ') {
            Some((of, "keys")) if of == name => Ok(Phase::Keys),
            Some((of, "users")) if of == name => Ok(Phase::Users),
            _ => Err(Error::new(
                ErrorKind::AlreadyExists,
                "a restore of another backup was stopped here: end it, or name a new state folder and database",
            )),
        };
    }
    if state.place()? == KeyPlace::Nowhere {
        return Ok(Phase::New);
    }
    Err(Error::new(ErrorKind::AlreadyExists, "the state folder is a deployment's already, name a new one"))
}
