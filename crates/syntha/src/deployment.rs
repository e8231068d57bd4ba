//! A store, its directory, and the meshes that are open on it: one of each for a process.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use syntha_mesh::{CacheBudget, KeptLimits, Mesh, MeshConfig, Opening, Permissions, Tally};
use syntha_store::{
    Action, Batch, CreateMode, DeploymentKey, Erased, ErrorKind as StoreErrorKind, FairKey, ImportMode,
    Store, Usage, UserId, UserStore, UserTag, Verdict, Version,
};
use tokio::sync::Mutex as AsyncMutex;

use crate::directory::{Directory, Standing, erased};
use crate::erasure::Erasure;
use crate::error::{Error, ErrorKind, Result};
use crate::fairness::{Line, Lines, Running};
use crate::gated::GatedStore;
use crate::incoming::{Expected, Incoming, Restricted};
use crate::keeper::Keeper;
use crate::layers::{Layers, Place as DataPlace, Trailed};
use crate::newborn::{Admission, Newborn};
use crate::outgoing::Backup;
use crate::restoring::{is_lost, leaves_old, unreadable};
use crate::turns::{Turn, Turns};

/// What every handle on one deployment shares.
pub(crate) struct Deployment {
    /// For the deployment's own work and the host's, which stands in no line but that of backups.
    pub(crate) store: Arc<dyn Store>,
    /// The same for users' meshes.
    gated: Arc<GatedStore>,
    pub(crate) directory: Directory,
    key: DeploymentKey,
    pub(crate) config: Arc<MeshConfig>,
    turns: Turns,
    /// What it is sealed with, if it is.
    #[cfg(feature = "encryption")]
    pub(crate) sealed: Option<crate::encryption::Sealed>,
    #[cfg_attr(not(feature = "audit"), allow(dead_code, reason = "the trail alone asks"))]
    pub(crate) trailed: Trailed,
    #[cfg(feature = "audit")]
    pub(crate) refusals: syntha_audit::Refusals,
    #[cfg(feature = "identity")]
    pub(crate) accounts: crate::identity::Accounted,
    #[cfg(feature = "audit")]
    pub(crate) background: Mutex<Option<syntha_audit::Background>>,
    /// No other process writes. Otherwise what this one knows of users is asked for again each time.
    exclusive: bool,
    /// The store keeps an audit trail.
    pub(crate) audited: bool,
    pub(crate) users: Mutex<HashMap<UserTag, Arc<Place>>>,
    pub(crate) lines: Lines,
    pub(crate) running: Running,
    pub(crate) budget: Arc<CacheBudget>,
    /// What goes on beside the users: see `keeper.rs`.
    pub(crate) keeper: Keeper,
    /// The number of the user manager that owns it, beside whom nobody gets in; 0 for none.
    manager: AtomicU64,
    managers: AtomicU64,
    pub(crate) closed: AtomicBool,
}

/// What a deployment stands on: a store with the layers that were asked for.
pub(crate) struct Base {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) trailed: Trailed,
    #[cfg(feature = "encryption")]
    pub(crate) sealed: Option<crate::encryption::Sealed>,
}

impl Base {
    /// A store as it is.
    pub(crate) fn plain(trailed: Trailed) -> Self {
        Self {
            store: Arc::clone(&trailed.store),
            trailed,
            #[cfg(feature = "encryption")]
            sealed: None,
        }
    }

    /// A sealed store.
    #[cfg(feature = "encryption")]
    pub(crate) fn sealed(trailed: Trailed, sealed: crate::encryption::Sealed) -> Self {
        Self { store: Arc::clone(&sealed.store) as _, trailed, sealed: Some(sealed) }
    }

    /// A store, with the layers that were asked for. One that a host brings, or one in memory, has none by itself.
    pub(crate) async fn of(store: Arc<dyn Store>, key: &DeploymentKey, layers: Layers) -> Result<Self> {
        let trailed = layers.auditing.over(store, key, DataPlace::default()).await?;
        #[cfg(feature = "encryption")]
        if let crate::layers::Wanted::Sealed(encryption) = layers.sealing {
            let sealed = encryption.seal(Arc::clone(&trailed.store), key).await?;
            return Ok(Self::sealed(trailed, sealed));
        }
        Ok(Self::plain(trailed))
    }
}

/// Where a user's mesh is while it is open.
#[derive(Default)]
pub(crate) struct Place {
    pub(crate) open: AsyncMutex<Option<Opened>>,
    /// Asked for since idle meshes were last dropped for their number.
    used: AtomicBool,
    /// When it was last asked for, or held by somebody, in milliseconds of the boot time.
    pub(crate) at: AtomicU64,
}

/// A user's open mesh.
pub(crate) struct Opened {
    pub(crate) mesh: Mesh,
    /// The version of the user's row in the directory, if other processes may change it.
    admitted: Option<Version>,
    /// Its store, if it had no data when it was opened.
    newborn: Option<Arc<Newborn>>,
}

/// How many users' meshes are kept before those that nobody holds are dropped: 4 KiB each, if they hold ten entries.
const MESHES_KEPT: usize = 16_384;
/// What every user keeps in memory of its values whatever others do, in bytes.
const CACHE_FLOOR: usize = 64 * 1024;
/// How often a user is opened again because another process changed who is there meanwhile.
const OPENINGS: usize = 16;

impl Deployment {
    pub(crate) async fn new(
        base: Base,
        key: DeploymentKey,
        config: MeshConfig,
        turns: Turns,
        running: Running,
    ) -> Result<Self> {
        let lines = Lines::new(&running, config.deadline);
        let gated = Arc::new(GatedStore::new(Arc::clone(&base.store), lines.clone()));
        let store = base.store;
        let budget = Arc::new(CacheBudget::new(running.memory, CACHE_FLOOR));
        let config = config.cache_budget(Arc::clone(&budget));
        let keeper = Keeper::new(&*config.clock);
        let capabilities = store.capabilities();
        let (exclusive, audited) = (capabilities.exclusive, capabilities.audited && !base.trailed.beside);
        let directory = Directory::new(store.deployment().await?).audited(audited);
        directory.check_key(key.fingerprint()).await?;
        let deployment = Self {
            store,
            gated,
            directory,
            key,
            config: Arc::new(config),
            turns,
            #[cfg(feature = "encryption")]
            sealed: base.sealed,
            trailed: base.trailed,
            #[cfg(feature = "audit")]
            refusals: syntha_audit::Refusals::new(),
            #[cfg(feature = "identity")]
            accounts: crate::identity::Accounted::default(),
            #[cfg(feature = "audit")]
            background: Mutex::default(),
            exclusive,
            audited,
            users: Mutex::default(),
            lines,
            running,
            budget,
            keeper,
            manager: AtomicU64::new(0),
            managers: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        };
        #[cfg(feature = "audit")]
        deployment.begin_run().await?;
        deployment.resume().await?;
        Ok(deployment)
    }

    /// Takes it for a manager, and gives the manager's number; `None` if one has it, or if anybody holds a handle of it.
    pub(crate) fn manage(self: &Arc<Self>) -> Option<u64> {
        if Arc::strong_count(self) > 1 {
            return None;
        }
        let number = self.managers.fetch_add(1, Ordering::AcqRel) + 1;
        self.manager.compare_exchange(0, number, Ordering::AcqRel, Ordering::Acquire).ok()?;
        Some(number)
    }

    pub(crate) fn release(&self) {
        self.manager.store(0, Ordering::Release);
    }

    pub(crate) fn is_managed(&self) -> bool {
        self.manager.load(Ordering::Acquire) != 0
    }

    pub(crate) fn tag(&self, user: &UserId) -> UserTag {
        self.key.tag(user)
    }

    /// The tag of somebody who is a user, and no space of the deployment's own.
    #[cfg(any(feature = "audit", feature = "encryption"))]
    pub(crate) fn tag_of_a_user(&self, user: &UserId) -> Result<UserTag> {
        of_a_user(user)?;
        Ok(self.tag(user))
    }

    /// The user's mesh: opened once, then shared. Other users' meshes open meanwhile.
    pub(crate) async fn mesh(&self, user: &UserId, create: bool) -> Result<Mesh> {
        self.keep_running();
        let (tag, place) = self.place_of(user)?;
        place.used.store(true, Ordering::Relaxed);
        place.at.store(self.boot(), Ordering::Relaxed);
        self.mesh_at(&place, user, tag, create).await
    }

    /// The place of somebody who is a user, who stands in line with the group that the host says.
    pub(crate) fn place_of(&self, user: &UserId) -> Result<(UserTag, Arc<Place>)> {
        of_a_user(user)?;
        let tag = self.tag(user);
        let group = self.running.group_of.as_ref().map(|group_of| group_of(user));
        let mut users = self.users.lock();
        let place = self.place_in(&mut users, tag)?;
        // INVARIANT: it is forgotten with the place, under the same lock.
        if let Some(group) = group {
            self.lines.groups.set(tag, group);
        }
        Ok((tag, place))
    }

    /// How a user stands in line, open or not.
    pub(crate) fn key_of(&self, user: &UserId, tag: UserTag) -> FairKey {
        FairKey::of(tag, self.running.group_of.as_ref().map(|group_of| group_of(user)))
    }

    /// Milliseconds of the boot time.
    pub(crate) fn boot(&self) -> u64 {
        u64::try_from(self.config.clock.boot().as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) async fn mesh_at(
        &self,
        place: &Place,
        user: &UserId,
        tag: UserTag,
        create: bool,
    ) -> Result<Mesh> {
        let mut open = place.open.lock().await;
        self.check_open()?;
        if let Some(opened) = open.as_ref().filter(|opened| !opened.mesh.is_retired()) {
            if self.exclusive || self.goes_on(tag, opened).await? {
                return Ok(opened.mesh.clone());
            }
            opened.mesh.retire();
        }
        *open = None;
        let opened = if self.exclusive {
            self.open_alone(user, tag, create).await?
        } else {
            self.open_beside_others(user, tag, create).await?
        };
        let mesh = opened.mesh.clone();
        *open = Some(opened);
        Ok(mesh)
    }

    fn opening(&self) -> Opening {
        Opening::new().exclusive(self.exclusive).audited(self.audited)
    }

    async fn open_alone(&self, user: &UserId, tag: UserTag, create: bool) -> Result<Opened> {
        // INVARIANT: the directory and the ledger are asked first. Data that is there alone proves nothing: its user may be
        // erased, or half-way.
        let new = self.enter(user, tag, create).await?;
        let (store, newborn): (Arc<dyn UserStore>, _) = match self.gated.open(tag).await {
            Ok(_) if new => {
                self.directory.remove(tag).await?;
                return Err(unlisted());
            }
            Ok(opened) => (opened, None),
            Err(error) => {
                let mode = match error.kind() {
                    StoreErrorKind::NotFound => CreateMode::New,
                    StoreErrorKind::Erased => CreateMode::Recreate,
                    // Nothing was done, as it says.
                    StoreErrorKind::Busy if new => {
                        self.directory.remove(tag).await?;
                        return Err(error.into());
                    }
                    _ => return Err(error.into()),
                };
                let newborn = Arc::new(Newborn::new(Arc::clone(&self.gated) as _, tag, mode, None)?);
                (Arc::clone(&newborn) as _, Some(newborn))
            }
        };
        let mesh = Mesh::open(store, self.opening(), Arc::clone(&self.config)).await?;
        Ok(Opened { mesh, newborn, admitted: None })
    }

    /// The same where other processes may erase the user and make another of the name meanwhile. What is opened is of the life
    /// that the directory tells of both before and after.
    async fn open_beside_others(&self, user: &UserId, tag: UserTag, create: bool) -> Result<Opened> {
        for _ in 0..OPENINGS {
            if create && self.directory.standing(tag).await? == Standing::Absent {
                // A name is written before its data and goes after it.
                // INVARIANT: what can't be told now is no answer.
                let orphan = match self.store.open(tag).await {
                    Ok(_) => true,
                    Err(error) if is_busy(&error) => return Err(error.into()),
                    Err(_) => false,
                };
                if orphan && self.directory.standing(tag).await? == Standing::Absent {
                    return Err(unlisted());
                }
            }
            self.enter(user, tag, create).await?;
            let (_, Some(version)) = self.directory.look(tag).await? else { continue };
            let (store, newborn): (Arc<dyn UserStore>, _) = match self.gated.open(tag).await {
                Ok(opened) => (opened, None),
                Err(error) if error.kind() == StoreErrorKind::NotFound => {
                    let admission = Admission { directory: self.directory.clone(), version };
                    let newborn =
                        Newborn::new(Arc::clone(&self.gated) as _, tag, CreateMode::New, Some(admission))?;
                    let newborn = Arc::new(newborn);
                    (Arc::clone(&newborn) as _, Some(newborn))
                }
                Err(error) if error.kind() == StoreErrorKind::Erased => {
                    // Recreated, and whoever did it died before the data was made.
                    let _turn = self.turns.take().await?;
                    self.bear(tag).await?;
                    continue;
                }
                Err(error) if error.kind() == StoreErrorKind::Gone => continue,
                Err(error) => return Err(error.into()),
            };
            let mesh = match Mesh::open(store, self.opening(), Arc::clone(&self.config)).await {
                Err(error) if error.kind() == syntha_mesh::ErrorKind::Gone => continue,
                mesh => mesh?,
            };
            if self.directory.look(tag).await? == (Standing::There, Some(version)) {
                return Ok(Opened { mesh, newborn, admitted: Some(version) });
            }
        }
        Err(Error::new(
            ErrorKind::Storage,
            "other processes erase and make the user all the time, try again later",
        ))
    }

    /// Whether an open mesh is still the user's, whatever other processes did.
    async fn goes_on(&self, tag: UserTag, opened: &Opened) -> Result<bool> {
        if self.directory.look(tag).await? != (Standing::There, opened.admitted) {
            return Ok(false);
        }
        match opened.mesh.usage().await {
            Err(error) if error.kind() == syntha_mesh::ErrorKind::Gone => Ok(false),
            usage => Ok(usage.map(|_| true)?),
        }
    }

    /// Sees to it that a user is there: admitted before, or now. Says whether it was now.
    async fn enter(&self, user: &UserId, tag: UserTag, create: bool) -> Result<bool> {
        if create {
            return match self.directory.admit(user, tag, false, self.config.clock.wall()).await {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
                admitted => admitted.map(|()| true),
            };
        }
        self.enter_known(tag).await.map(|()| false)
    }

    pub(crate) async fn enter_known(&self, tag: UserTag) -> Result<()> {
        match self.directory.standing(tag).await? {
            Standing::There => Ok(()),
            Standing::Absent => Err(not_found()),
            Standing::Erased => Err(erased()),
        }
    }

    /// Makes a user. The user's data is made with the first write.
    pub(crate) async fn create(&self, user: &UserId, mode: CreateMode) -> Result<()> {
        let (tag, place) = self.place_of(user)?;
        let _held = place.open.lock().await;
        self.check_open()?;
        if self.exclusive || mode == CreateMode::New {
            let again = mode == CreateMode::Recreate;
            return self.directory.admit(user, tag, again, self.config.clock.wall()).await;
        }
        let _turn = self.turns.take().await?;
        self.directory.admit(user, tag, true, self.config.clock.wall()).await?;
        // INVARIANT: where other processes write, a first write never brings an erased user back: a late one of the former life
        // could not be told from it. So the data is made here.
        self.bear(tag).await
    }

    /// Erases a user: intent in the ledger, data, then name and intent's end in one commit. Resumed at the next start.
    ///
    /// A task of its own does it, so that a caller who goes leaves nothing half-done in a process that goes on.
    pub(crate) async fn erase(self: &Arc<Self>, user: &UserId) -> Result<Erasure> {
        of_a_user(user)?;
        let (deployment, tag) = (Arc::clone(self), self.tag(user));
        finish(tokio::spawn(async move { deployment.erase_now(tag).await })).await
    }

    async fn erase_now(&self, tag: UserTag) -> Result<Erasure> {
        let place = self.place(tag)?;
        let mut open = place.open.lock().await;
        self.check_open()?;
        let _turn = self.turns.take().await?;
        // A user who never was leaves no intent behind.
        if self.directory.standing(tag).await? == Standing::Absent {
            return Err(not_found());
        }
        if let Some(opened) = open.take() {
            // The trail ends whole. It goes with the data all the same, where nobody outside was told of it.
            let _ = opened.mesh.flush_audit().await;
            opened.mesh.retire();
            if let Some(newborn) = opened.newborn {
                // A first write that is under way ends before the data is looked for, and none begins after.
                newborn.close().await;
            }
        }
        self.directory.intend_erasure(tag, self.config.clock.wall()).await?;
        let erased = self.destroy(tag).await?;
        let at = self.config.clock.wall();
        self.directory.finish_erasure(tag, at).await?;
        let Erased { removed, objects, keys, .. } = erased;
        Ok(Erasure { removed, objects, keys, at, sealed: self.is_sealed() })
    }

    /// The key of the tags.
    #[cfg(any(feature = "identity", all(feature = "encryption", feature = "sqlite")))]
    pub(crate) const fn deployment_key(&self) -> &DeploymentKey {
        &self.key
    }

    /// Whether it is a space of the deployment's own, and no user's.
    #[cfg(any(feature = "audit", all(feature = "encryption", feature = "sqlite")))]
    pub(crate) fn is_own(&self, tag: UserTag) -> bool {
        crate::reserved::accounts(&self.key).any(|(_, own)| own == tag)
    }

    #[cfg(feature = "identity")]
    pub(crate) fn clock(&self) -> Arc<dyn syntha_store::Clock> {
        Arc::clone(&self.config.clock)
    }

    /// The right to change who there is, over all processes.
    #[cfg(feature = "identity")]
    pub(crate) async fn turn(&self) -> Result<Turn> {
        Ok(self.turns.take().await?)
    }

    /// Makes the data of a space of the deployment's own.
    #[cfg(feature = "identity")]
    pub(crate) async fn made(&self, tag: UserTag) -> Result<()> {
        self.check_open()?;
        self.bear(tag).await
    }

    /// What time it is.
    pub(crate) fn now(&self) -> syntha_store::Timestamp {
        self.config.clock.wall()
    }

    /// What time it is.
    #[cfg(all(feature = "encryption", feature = "sqlite"))]
    pub(crate) fn wall(&self) -> syntha_store::Timestamp {
        self.config.clock.wall()
    }

    /// Whether what is kept is sealed.
    #[allow(clippy::unused_self, reason = "a build without the layer seals nothing")]
    pub(crate) const fn is_sealed(&self) -> bool {
        #[cfg(feature = "encryption")]
        return self.sealed.is_some();
        #[cfg(not(feature = "encryption"))]
        false
    }

    /// What archives of a user are taken. Refuses those of an erased one.
    pub(crate) async fn expected(&self, user: &UserId, plain: bool) -> Result<Expected> {
        of_a_user(user)?;
        let tag = self.tag(user);
        if self.directory.standing(tag).await? == Standing::Erased {
            return Err(erased());
        }
        Ok(if plain { Expected::Plain } else { self.expected_of(tag).await })
    }

    /// What archives this deployment makes of a user.
    #[allow(clippy::unused_async, reason = "a build without the layer asks nobody for a key")]
    pub(crate) async fn expected_of(&self, tag: UserTag) -> Expected {
        #[cfg(feature = "encryption")]
        if let Some(sealed) = &self.sealed {
            return Expected::Sealed(sealed.keychain.archives(tag).await);
        }
        let _ = tag;
        Expected::Plain
    }

    /// Puts an archive in the place of a user's data, in a task of its own as an erase. `archived`: with the permissions of the archive,
    /// whatever they are now.
    pub(crate) async fn restore(
        self: &Arc<Self>,
        user: &UserId,
        snapshot: Incoming,
        archived: bool,
    ) -> Result<()> {
        let (deployment, user) = (Arc::clone(self), user.clone());
        finish(tokio::spawn(async move { deployment.restore_now(&user, snapshot, archived).await })).await
    }

    async fn restore_now(&self, user: &UserId, snapshot: Incoming, archived: bool) -> Result<()> {
        let _permit = self.lines.turn(Line::Backup, self.key_of(user, self.tag(user))).await?;
        let (tag, place) = self.place_of(user)?;
        let mut open = place.open.lock().await;
        self.check_open()?;
        let _turn = self.turns.take().await?;
        // INVARIANT: an open mesh commits nothing meanwhile, also not what its trail is told of reads: the import would be of data that moved
        // on, and what is kept over it older than what was acknowledged.
        let mesh = open.as_ref().map(|opened| opened.mesh.clone());
        let _held = match &mesh {
            Some(mesh) => mesh.hold().await,
            None => None,
        };
        // INVARIANT: what was tightened since the archive was made is tight in the first moment of the new life.
        let present = if archived { None } else { self.permissions(tag).await? };
        // INVARIANT: no archive gives its user more than the user has now, whatever permissions are taken from it.
        let limits = match self.kept_limits(tag).await {
            // Data that can't be read any more is what the archive is for.
            Err(error) if archived && is_lost(error.kind()) => None,
            limits => Some(limits?),
        };
        let mut snapshot = Restricted { inner: snapshot, present, limits, tally: Tally::default() };
        // INVARIANT: the name is written before the data, so that no data is there which no list shows.
        let new = self.directory.standing(tag).await? == Standing::Absent;
        if new {
            self.directory.admit(user, tag, false, self.config.clock.wall()).await?;
        } else {
            self.bear(tag).await?;
        }
        let imported = self.store.import(tag, &mut snapshot, ImportMode::Replace).await;
        let untouched = imported.as_ref().is_err_and(|error| leaves_old(error.kind()));
        if !untouched && let Some(opened) = open.take() {
            opened.mesh.retire();
            if let Some(newborn) = opened.newborn {
                // What waits for its first write finds no data to write into.
                newborn.close().await;
            }
        }
        let verdict = if imported.is_ok() { Verdict::Done } else { Verdict::Failed };
        self.note(Action::Restore, Some(tag.to_string().into()), verdict).await?;
        // Otherwise data may be there, and the name stays with it. Another process may have made some as soon as there was a name.
        if untouched && new && self.exclusive {
            self.directory.remove(tag).await?;
        }
        Ok(imported.map(drop)?)
    }

    /// What the user's agents may do now; `None` if there is no data.
    async fn permissions(&self, tag: UserTag) -> Result<Option<Permissions>> {
        let read = match self.store.open(tag).await {
            Ok(user) => Permissions::read(&*user).await.map(Some),
            Err(error) if matches!(error.kind(), StoreErrorKind::NotFound | StoreErrorKind::Erased) => {
                Ok(None)
            }
            Err(error) => Err(error),
        };
        read.map_err(unreadable)
    }

    /// What the user was given to use.
    async fn kept_limits(&self, tag: UserTag) -> Result<KeptLimits> {
        match self.store.open(tag).await {
            Ok(user) => KeptLimits::read(&*user).await.map_err(unreadable),
            Err(error) if matches!(error.kind(), StoreErrorKind::NotFound | StoreErrorKind::Erased) => {
                Ok(KeptLimits::none())
            }
            Err(error) => Err(unreadable(error)),
        }
    }

    /// The user's data as of one commit, and what seals its archive.
    pub(crate) async fn snapshot(&self, user: &UserId) -> Result<Backup> {
        let (tag, _place) = self.place_of(user)?;
        self.snapshot_of(tag).await
    }

    pub(crate) async fn snapshot_of(&self, tag: UserTag) -> Result<Backup> {
        if self.trailed.beside {
            return Err(Error::new(
                ErrorKind::Locked,
                "a backup is written into the audit trail: make it through the process that holds the data",
            ));
        }
        // Until there is a copy: who writes it out slowly holds nobody up.
        let _permit = self.lines.turn(Line::Backup, self.lines.key(tag)).await?;
        self.note(Action::Backup, Some(tag.to_string().into()), Verdict::Done).await?;
        let place = self.place(tag)?;
        let _held = place.open.lock().await;
        self.check_open()?;
        let _turn = if self.exclusive || self.store.open(tag).await.is_ok() {
            Turn::Alone
        } else {
            self.turns.take().await?
        };
        self.bear(tag).await?;
        #[cfg(feature = "encryption")]
        if let Some(sealed) = &self.sealed {
            let before = sealed.keychain.archives(tag).await;
            let snapshot = self.store.open(tag).await?.snapshot().await?;
            let archives = sealed.keychain.archives(tag).await;
            // INVARIANT: the data and the key are of one user: nobody was erased, or erased and made again, between the two.
            if (before.has_key() || archives.has_key()) && !archives.is_same(&before) {
                return Err(gone());
            }
            return Ok(Backup { snapshot, archives: Some(archives) });
        }
        let snapshot = self.store.open(tag).await?.snapshot().await?;
        Ok(Backup {
            snapshot,
            #[cfg(feature = "encryption")]
            archives: None,
        })
    }

    /// What a user's data adds up to; `None` for a user who has not written.
    pub(crate) async fn usage(&self, tag: UserTag) -> Result<Option<Usage>> {
        match self.store.open(tag).await {
            Ok(user) => Ok(Some(user.state().await?.usage)),
            Err(error) if matches!(error.kind(), StoreErrorKind::NotFound | StoreErrorKind::Erased) => {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::new(ErrorKind::Storage, "the deployment was shut down, open it again"));
        }
        Ok(())
    }

    /// Makes the data of a user who is there and has not written yet. The caller holds the place.
    async fn bear(&self, tag: UserTag) -> Result<()> {
        self.enter_known(tag).await?;
        let mode = match self.store.open(tag).await {
            Err(error) if error.kind() == StoreErrorKind::NotFound => CreateMode::New,
            Err(error) if error.kind() == StoreErrorKind::Erased => CreateMode::Recreate,
            Err(error) if is_busy(&error) => return Err(error.into()),
            _ => return Ok(()),
        };
        match self.store.create(tag, Batch::new(self.config.clock.wall())?, mode).await {
            Err(error) if error.kind() != StoreErrorKind::AlreadyExists => Err(error.into()),
            _ => Ok(()),
        }
    }

    async fn destroy(&self, tag: UserTag) -> Result<Erased> {
        match self.store.erase(tag).await {
            Ok(erased) => Ok(erased),
            // The user never wrote.
            Err(error) if error.kind() == StoreErrorKind::NotFound => Ok(Erased::new(false, 0)),
            Err(error) => Err(error.into()),
        }
    }

    /// The user's place. Meshes that nobody holds are dropped when there are many.
    pub(crate) fn place(&self, tag: UserTag) -> Result<Arc<Place>> {
        self.place_in(&mut self.users.lock(), tag)
    }

    fn place_in(&self, users: &mut HashMap<UserTag, Arc<Place>>, tag: UserTag) -> Result<Arc<Place>> {
        // INVARIANT: asked under the lock: a shutdown that took the places away finds no more of them.
        self.check_open()?;
        if users.len() >= MESHES_KEPT && !users.contains_key(&tag) {
            drop_idle(users);
            self.lines.groups.retain(|tag| users.contains_key(tag));
        }
        Ok(Arc::clone(users.entry(tag).or_default()))
    }

    /// Ends what a process that died had begun.
    async fn resume(&self) -> Result<()> {
        if self.directory.unfinished_erasures().await?.is_empty() {
            return Ok(());
        }
        // Another process may be in the middle of one. It ends it, or dies and gives up its turn.
        let _turn = self.turns.take().await?;
        for tag in self.directory.unfinished_erasures().await? {
            // One user's damaged or refused file stops nobody else. The user stays erased to everybody, the intent stays in the
            // ledger, and `unfinished_erasures` names it.
            if self.destroy(tag).await.is_ok() {
                self.directory.finish_erasure(tag, self.config.clock.wall()).await?;
            }
        }
        Ok(())
    }
}

/// Drops meshes that no handle and no write keeps: those that were not asked for since the last time, and if these are few, all.
fn drop_idle(users: &mut HashMap<UserTag, Arc<Place>>) {
    let before = users.len();
    for all in [false, true] {
        // INVARIANT: places are handed out under the lock that is held here, so what nobody holds now stays so.
        users.retain(|_, place| {
            let held =
                Arc::strong_count(place) > 1 || place.open.try_lock().map_or(true, |open| is_held(&open));
            held || (!all && place.used.swap(false, Ordering::Relaxed))
        });
        if users.len() < before / 8 * 7 {
            break;
        }
    }
}

pub(crate) fn is_held(open: &Option<Opened>) -> bool {
    open.as_ref().is_some_and(|opened| opened.mesh.is_shared() || opened.mesh.has_untold())
}

/// Waits for a task that goes on when the caller goes.
async fn finish<T>(task: tokio::task::JoinHandle<Result<T>>) -> Result<T> {
    task.await.unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::Storage, "the runtime ended meanwhile, the next start finishes the work"))
    })
}

/// Whether it says nothing of what is there.
fn is_busy(error: &syntha_store::Error) -> bool {
    error.kind() == StoreErrorKind::Busy
}

#[cfg(feature = "encryption")]
const fn gone() -> Error {
    Error::new(ErrorKind::Gone, "the user was erased meanwhile, back up again")
}

const fn unlisted() -> Error {
    Error::new(
        ErrorKind::Corrupt,
        "there is data of a user whom the directory does not know, put the deployment's own file back",
    )
}

/// INVARIANT: nobody gets at the deployment's own spaces by a user's name, not by one that no parser has seen either.
fn of_a_user(user: &UserId) -> Result<()> {
    if crate::reserved::is_reserved(user) {
        return Err(Error::new(ErrorKind::Invalid, "the name is none that a user can have"));
    }
    Ok(())
}

const fn not_found() -> Error {
    Error::new(ErrorKind::NotFound, "there is no such user, create it first")
}

impl Drop for Deployment {
    fn drop(&mut self) {
        self.keeper.stop();
        #[cfg(feature = "audit")]
        if let Some(background) = self.background.lock().take() {
            background.stop();
        }
    }
}

impl fmt::Debug for Deployment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deployment").field("store", &self.store).finish_non_exhaustive()
    }
}
