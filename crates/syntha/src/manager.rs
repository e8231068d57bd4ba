use std::fmt;
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use syntha_mesh::{Guard, MeshConfig, PlanName, ResourceLimits, UsageReport, UserLimits};
use syntha_store::archive::ArchiveInfo;
use syntha_store::{
    Action, CreateMode, DeploymentKey, Event, MemoryStore, SelfCheck, Store, UserId, UserTag,
};

use crate::context_mesh::ContextMesh;
use crate::deployment::{Base, Deployment};
use crate::directory::UserEntry;
use crate::erasure::Erasure;
use crate::error::{Error, ErrorKind, Result};
use crate::fairness::{Fairness, Running};
use crate::incoming::{Incoming, LIMIT};
use crate::layers::Layers;
use crate::session::Session;
use crate::shutdown::Shutdown;
use crate::turns::Turns;

/// The users of a deployment: who there is, their sessions, archives and erasure.
///
/// The one place, beside [`ContextMesh::open`], that takes a user's id. Agents never see one.
pub struct UserManager {
    pub(crate) deployment: Arc<Deployment>,
    number: u64,
}

/// The proof that the holder has authenticated the user it asks a session for.
///
/// It comes with its manager, once, and can't be cloned: who has it decided to pass it on.
pub struct HostAuthority {
    deployment: Arc<Deployment>,
    manager: u64,
}

/// What all users' data adds up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Totals {
    /// Users in the directory.
    pub users: u64,
    /// Users who have not written yet.
    pub empty: u64,
    /// Users whose data can't be read.
    pub unreadable: u64,
    /// Entries, expired ones that are not swept yet included.
    pub entries: u64,
    /// Registered agents.
    pub agents: u64,
    /// Bytes of keys and values.
    pub entry_bytes: u64,
    /// Bytes of history.
    pub history_bytes: u64,
}

/// How an archive is restored.
#[derive(Clone, Copy, Debug, Default)]
#[must_use]
pub struct Restore {
    plain: bool,
    archived_permissions: bool,
}

impl Restore {
    /// An archive as the deployment makes them, and no permission that is wider than now.
    pub const fn new() -> Self {
        Self { plain: false, archived_permissions: false }
    }

    /// The archive is not sealed.
    pub const fn plain(mut self) -> Self {
        self.plain = true;
        self
    }

    /// Agents may do what they might when the archive was made, whatever was forbidden since.
    pub const fn archived_permissions(mut self) -> Self {
        self.archived_permissions = true;
        self
    }
}

/// How to open a [`UserManager`].
#[must_use = "a builder does nothing until it is opened"]
pub struct Builder {
    backend: Backend,
    mesh: MeshConfig,
    limits: Option<ResourceLimits>,
    plans: Vec<(Result<PlanName>, ResourceLimits)>,
    layers: Layers,
    running: Running,
    /// `None`: as the backend is.
    sweep_every: Option<Option<Duration>>,
    #[cfg(feature = "identity")]
    accounts: Option<crate::identity::Configure>,
}

enum Backend {
    Unnamed,
    Memory,
    Store(std::sync::Arc<dyn Store>, DeploymentKey),
    #[cfg(feature = "sqlite")]
    Sqlite(syntha_sqlite::SqliteConfig),
    #[cfg(feature = "postgres")]
    Postgres(crate::Postgres),
}

impl Builder {
    /// Data in memory, gone with the process.
    pub fn memory(mut self) -> Self {
        self.backend = Backend::Memory;
        self
    }

    /// A backend of one's own, and the key that users' tags are derived with: the same one at every start.
    pub fn store(mut self, store: Arc<dyn Store>, key: DeploymentKey) -> Self {
        self.backend = Backend::Store(store, key);
        self
    }

    /// SQLite files in a folder.
    #[cfg(feature = "sqlite")]
    pub fn sqlite(self, folder: impl Into<std::path::PathBuf>) -> Self {
        self.sqlite_with(syntha_sqlite::SqliteConfig::new(folder))
    }

    /// SQLite files in a folder that other processes open so as well. Every read looks first whether one of them has written,
    /// which costs a cached read about a microsecond.
    #[cfg(feature = "sqlite")]
    pub fn sqlite_shared(self, folder: impl Into<std::path::PathBuf>) -> Self {
        self.sqlite_with(syntha_sqlite::SqliteConfig::new(folder).mode(syntha_sqlite::Mode::Shared))
    }

    /// SQLite files in a folder that another process may hold, for administrative reads: every write fails.
    #[cfg(feature = "sqlite")]
    pub fn sqlite_beside(self, folder: impl Into<std::path::PathBuf>) -> Self {
        self.sqlite_with(syntha_sqlite::SqliteConfig::new(folder).mode(syntha_sqlite::Mode::Beside))
    }

    /// SQLite files in a folder, configured.
    #[cfg(feature = "sqlite")]
    pub fn sqlite_with(mut self, config: syntha_sqlite::SqliteConfig) -> Self {
        self.backend = Backend::Sqlite(config);
        self
    }

    /// A PostgreSQL database, by its URL, and the folder of the deployment's keys: `postgres("postgres://syntha_app@db/syntha", "state")`. The
    /// database was [installed](Self::install). Other processes may open it so as well.
    #[cfg(feature = "postgres")]
    pub fn postgres(self, url: impl Into<String>, state: impl Into<std::path::PathBuf>) -> Self {
        self.postgres_with(crate::Postgres::new(url, state))
    }

    /// A PostgreSQL database, configured.
    #[cfg(feature = "postgres")]
    pub fn postgres_with(mut self, postgres: crate::Postgres) -> Self {
        self.backend = Backend::Postgres(postgres);
        self
    }

    /// Prepares the PostgreSQL database that was named, or brings it to this version, and makes what is not there yet of the deployment's keys:
    /// sealed with what [`encryption`](Self::encryption) says, or as [`plain`](Self::plain) data, or with a key file in the state folder. It
    /// can be repeated. Nothing is opened.
    ///
    /// # Errors
    ///
    /// `Invalid` if no PostgreSQL database was named; `Denied` for the state folder of another deployment, for a role that lacks rights, and for
    /// keys that are sealed otherwise; `Storage` for another mode, a newer version, or a server that can't be reached.
    #[cfg(feature = "postgres")]
    pub async fn install(self, owner: &crate::PostgresOwner) -> Result<()> {
        let Backend::Postgres(postgres) = &self.backend else {
            return Err(Error::new(ErrorKind::Invalid, "no PostgreSQL database was named, call `postgres`"));
        };
        crate::database::install(postgres, owner, self.layers).await
    }

    /// At most so many users' files open at a time. Default 512.
    #[cfg(feature = "sqlite")]
    pub fn connections(mut self, connections: usize) -> Self {
        if let Backend::Sqlite(config) = self.backend {
            self.backend = Backend::Sqlite(config.connections(connections));
        }
        self
    }

    /// Seals everything at rest with a key: `encryption(Kek::file(path))`. Without this call, a folder that is new is sealed with a key file
    /// that is made beside it, one that is there is opened as it was made, and data in memory or in a store of your own is not
    /// sealed.
    #[cfg(feature = "encryption")]
    pub fn encryption(mut self, encryption: impl Into<crate::Encryption>) -> Self {
        self.layers.sealing = crate::layers::Wanted::Sealed(encryption.into());
        self
    }

    /// Seals nothing.
    #[cfg(feature = "encryption")]
    pub fn plain(mut self) -> Self {
        self.layers.sealing = crate::layers::Wanted::Plain;
        self
    }

    /// Keeps an audit trail: `audit(AuditPolicy::Strict)`, or an [`Audit`](crate::Audit) with a key and sinks. Data that was there before
    /// begins its trail with what is there. Without this call, a folder that is new gets [`Audit::default`](crate::Audit), with the key that
    /// signs beside it; data that has a trail goes on with it; other folders, data in memory and a store of your own get none.
    #[cfg(feature = "audit")]
    pub fn audit(mut self, audit: impl Into<crate::Audit>) -> Self {
        self.layers.auditing = crate::layers::Auditing::On(audit.into());
        self
    }

    /// Keeps no audit trail, also in a folder that is new. Data that has one is refused.
    #[cfg(feature = "audit")]
    pub fn no_audit(mut self) -> Self {
        self.layers.auditing = crate::layers::Auditing::Off;
        self
    }

    /// How accounts work: what a password costs to look at, peppers, how long sessions live. Opening the accounts, with the first call that
    /// needs them, fails if this does.
    #[cfg(feature = "identity")]
    pub fn accounts(
        mut self,
        configure: impl Fn(
            syntha_identity::IdentityConfig,
        ) -> syntha_identity::Result<syntha_identity::IdentityConfig>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        self.accounts = Some(Arc::new(configure));
        self
    }

    /// How much is done at once for all users, and how long who waits for a turn waits.
    pub const fn fairness(mut self, fairness: Fairness) -> Self {
        self.running.fairness = fairness;
        self
    }

    /// Which users are of one owner, such as the customer whose users they are: what users share is given out by these groups first, and in each
    /// by its users, so that a thousand users of one owner get what one user of another does. It is asked whenever a user is opened, and has to
    /// say the same each time. Without it every user is a group of its own.
    pub fn owner_groups(mut self, group: impl Fn(&UserId) -> u64 + Send + Sync + 'static) -> Self {
        self.running.group_of = Some(Arc::new(group));
        self
    }

    /// At most so many bytes of cached values of all users together. Default 256 MiB. Over it, the largest cache of the group that holds the
    /// most shrinks first, and none below 64 KiB: with so many users active that these alone are more, so much more is kept.
    pub const fn memory_budget(mut self, bytes: usize) -> Self {
        self.running.memory = bytes;
        self
    }

    /// After how long a user's mesh that nobody holds is closed. Default 5 minutes, at least 200 milliseconds. The next session opens it again.
    pub const fn idle_after(mut self, idle: Duration) -> Self {
        self.running.idle_after = idle;
        self
    }

    /// How often expired entries, retry records and what can't be undone any more are looked for and deleted, of users who are open and of those
    /// who are not. Default every minute on SQLite files and on PostgreSQL; data in memory, a store of one's own and what is opened beside another process are not
    /// swept by themselves. Nothing is deleted while the wall clock is off by more than a minute.
    pub const fn sweep_every(mut self, every: Duration) -> Self {
        self.sweep_every = Some(Some(every));
        self
    }

    /// Sweeps nobody by itself: the host calls [`Mesh::sweep`](syntha_mesh::Mesh::sweep).
    pub const fn no_sweeper(mut self) -> Self {
        self.sweep_every = Some(None);
        self
    }

    /// How every user's mesh works.
    pub fn mesh(mut self, config: MeshConfig) -> Self {
        self.mesh = config;
        self
    }

    /// What every user may use at most, where neither the user's own limits nor the user's plan say it:
    /// `limits(ResourceLimits::default().max_contexts(1_000).storage_limit_mb(100))`.
    pub fn limits(mut self, limits: ResourceLimits) -> Self {
        self.limits = Some(limits);
        self
    }

    /// A plan, which [`UserManager::set_limits`] gives to users by its name. Users of a plan that is not named here read and delete, and add
    /// nothing.
    pub fn plan<P>(mut self, name: P, limits: ResourceLimits) -> Self
    where
        P: TryInto<PlanName>,
        syntha_mesh::Error: From<P::Error>,
    {
        let name = name.try_into().map_err(|error| syntha_mesh::Error::from(error).into());
        self.plans.push((name, limits));
        self
    }

    /// Opens the deployment, ends what a process that died had begun, and hands out its one authority.
    ///
    /// # Errors
    ///
    /// `Invalid` if no backend was named, and for the name of a plan that is none; `Locked` if another process or manager has the data, or if this process still
    /// holds meshes, sessions or an authority of it; `Denied` for a folder that
    /// others may enter; `Storage`.
    pub async fn open(self) -> Result<(UserManager, HostAuthority)> {
        let mut mesh = self.mesh;
        if let Some(limits) = self.limits {
            mesh.limits = limits;
        }
        for (name, limits) in self.plans {
            mesh.plans.insert(name?, limits);
        }
        #[cfg(feature = "audit")]
        if let Some(policy) = self.layers.auditing.policy() {
            mesh.audit = policy;
        }
        let mut running = self.running;
        running.sweep_every = match (self.sweep_every, &self.backend) {
            (Some(said), _) => said,
            #[cfg(feature = "sqlite")]
            (None, Backend::Sqlite(config)) if config.chosen_mode() != syntha_sqlite::Mode::Beside => {
                Some(SWEEP_EVERY)
            }
            #[cfg(feature = "postgres")]
            (None, Backend::Postgres(_)) => Some(SWEEP_EVERY),
            (None, _) => None,
        };
        let deployment = match self.backend {
            Backend::Unnamed => {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    "no backend was named, call `sqlite(folder)` or `memory()`",
                ));
            }
            Backend::Store(store, key) => {
                crate::registry::stores::open(store, key, mesh, self.layers, running).await?
            }
            Backend::Memory => {
                let store = MemoryStore::new()?;
                let key = store.deployment_key().clone();
                let base = Base::of(Arc::new(store), &key, self.layers).await?;
                Deployment::new(base, key, mesh, Turns::Alone, running).await?.started()
            }
            #[cfg(feature = "sqlite")]
            Backend::Sqlite(config) => {
                crate::registry::folders::open(config, mesh, self.layers, running).await?
            }
            #[cfg(feature = "postgres")]
            Backend::Postgres(postgres) => {
                crate::registry::databases::open(&postgres, mesh, self.layers, running).await?
            }
        };
        let mut tries = 0;
        let number = loop {
            let number = deployment.manage();
            // A task of its own may hold it for a moment.
            if number.is_some() || !deployment.keeper.is_working() || tries == TRIES {
                break number;
            }
            tries += 1;
            tokio::time::sleep(PAUSE).await;
        };
        let Some(number) = number else {
            return Err(Error::new(
                ErrorKind::Locked,
                "this process uses the data already: shut its manager down, and drop the meshes, sessions and authority of it",
            ));
        };
        #[cfg(feature = "identity")]
        deployment.accounts.configure(self.accounts);
        let authority = HostAuthority { deployment: Arc::clone(&deployment), manager: number };
        Ok((UserManager { deployment, number }, authority))
    }
}

impl UserManager {
    /// Starts the description of a deployment.
    pub fn builder() -> Builder {
        Builder {
            backend: Backend::Unnamed,
            mesh: MeshConfig::default(),
            limits: None,
            plans: Vec::new(),
            layers: Layers::default(),
            running: Running::default(),
            sweep_every: None,
            #[cfg(feature = "identity")]
            accounts: None,
        }
    }

    /// Makes a user. The user's data is made with the first write.
    ///
    /// # Errors
    ///
    /// `Invalid`, `AlreadyExists`, `Erased`, `Storage`.
    pub async fn create<U>(&self, user: U) -> Result<()>
    where
        U: TryInto<UserId>,
        Error: From<U::Error>,
    {
        let user = user.try_into()?;
        self.deployment.create(&user, CreateMode::New).await
    }

    /// Makes a user of the name of an erased one: a new life, with none of the old data.
    ///
    /// # Errors
    ///
    /// `Invalid`, `AlreadyExists`, `Storage`.
    pub async fn recreate<U>(&self, user: U) -> Result<()>
    where
        U: TryInto<UserId>,
        Error: From<U::Error>,
    {
        let user = user.try_into()?;
        // INVARIANT: a new life begins without the old one's account, whoever left it.
        #[cfg(feature = "identity")]
        if self.deployment.is_erased(&user).await? {
            self.deployment.remove_account(&user).await?;
        }
        self.deployment.create(&user, CreateMode::Recreate).await
    }

    /// A session for a user whom the host has authenticated. Makes the user if new; never brings back an erased one.
    /// A new user's data, a file of its own on SQLite, is made with the first write.
    ///
    /// # Errors
    ///
    /// `Denied` for another manager's authority; `LimitExceeded` for more sessions in this process than the user may have; `Invalid`,
    /// `Erased`, `Corrupt`, `Storage`.
    pub async fn create_user_session<U>(&self, host: &HostAuthority, user: U) -> Result<Session>
    where
        U: TryInto<UserId>,
        Error: From<U::Error>,
    {
        let user = user.try_into()?;
        self.session(host, &user, true).await
    }

    /// A session for a user who is there.
    ///
    /// # Errors
    ///
    /// As [`create_user_session`](Self::create_user_session), and `NotFound`.
    pub async fn open<U>(&self, host: &HostAuthority, user: U) -> Result<Session>
    where
        U: TryInto<UserId>,
        Error: From<U::Error>,
    {
        let user = user.try_into()?;
        self.session(host, &user, false).await
    }

    /// Users in order of their tags, at most 1,000, after one of them.
    ///
    /// # Errors
    ///
    /// `Storage`.
    pub async fn list(&self, after: Option<UserTag>, limit: usize) -> Result<Vec<UserEntry>> {
        self.deployment.looked(Action::ListUsers);
        self.deployment.directory.page(after, limit).await
    }

    /// Erases a user: account, keys, data, files and name. Open handles fail from now on. What is given back says what was destroyed, and what
    /// no erasure here reaches.
    ///
    /// # Errors
    ///
    /// `Invalid`, `NotFound`, `Storage`; repeated, or at the next start, it goes on where it stopped.
    pub async fn erase<U>(&self, user: U) -> Result<Erasure>
    where
        U: TryInto<UserId>,
        Error: From<U::Error>,
    {
        let user = user.try_into()?;
        // First, so that nobody is let in meanwhile; what fails there holds the data's erasure up no more than it must.
        #[cfg(feature = "identity")]
        let removed = self.deployment.remove_account(&user).await;
        let erasure = self.deployment.erase(&user).await?;
        // Once more: one that was made meanwhile found its user there.
        #[cfg(feature = "identity")]
        removed.and(self.deployment.remove_account(&user).await)?;
        Ok(erasure)
    }

    /// Writes a user's data as of one commit, in the format of `docs/archive-v1.md`; where the data is sealed, so is the archive
    /// (`docs/sealed-v1.md`), with a key of the user's that ends with the user's erasure. The caller makes it durable. It is written on
    /// the calling task: give a sink that does not wait, a file or a buffer.
    ///
    /// # Errors
    ///
    /// `Invalid`, `NotFound`, `Erased`, `Corrupt`, `Tampered`, `KeyUnavailable`, `Storage`.
    pub async fn backup<U, W>(&self, user: U, sink: &mut W) -> Result<ArchiveInfo>
    where
        U: TryInto<UserId>,
        Error: From<U::Error>,
        W: Write + Send,
    {
        let user = user.try_into()?;
        Ok(self.deployment.snapshot(&user).await?.write(sink).await?)
    }

    /// Puts an archive of the same user in the place of the user's data, as a new life. Open handles fail from now on. Sealed data takes
    /// sealed archives, data that is not takes plain ones.
    ///
    /// Agents who are there now may do no more than they may now, also if the archive lets them:
    /// [`restore_with`](Self::restore_with) takes the archive's permissions.
    ///
    /// # Errors
    ///
    /// `Invalid` for another user's archive; `Erased`; `Corrupt` or `Tampered` for a damaged archive, or if the present permissions can't
    /// be read; `Denied` for an archive whose key went with an erasure, and for a plain one where the data is sealed;
    /// `KeyUnavailable` if the user holds the key and it is locked: nothing changed then. `Storage`: the
    /// data is the old or the new, and open handles fail; where there is a trail and other processes wrote the user meanwhile, it is the old,
    /// and the archive has to be given again. An archive that takes longer than 60 seconds to arrive is refused.
    pub async fn restore<U, R>(&self, user: U, source: R) -> Result<()>
    where
        U: TryInto<UserId>,
        Error: From<U::Error>,
        R: Read + Send + 'static,
    {
        self.restore_with(user, source, Restore::new()).await
    }

    /// The same with an archive that is not sealed, also into sealed data. Anybody can have changed such an archive.
    ///
    /// # Errors
    ///
    /// As [`restore`](Self::restore); `Denied` for a sealed archive.
    pub async fn restore_plain<U, R>(&self, user: U, source: R) -> Result<()>
    where
        U: TryInto<UserId>,
        Error: From<U::Error>,
        R: Read + Send + 'static,
    {
        self.restore_with(user, source, Restore::new().plain()).await
    }

    /// The same, as is said.
    ///
    /// # Errors
    ///
    /// As [`restore`](Self::restore).
    pub async fn restore_with<U, R>(&self, user: U, source: R, how: Restore) -> Result<()>
    where
        U: TryInto<UserId>,
        Error: From<U::Error>,
        R: Read + Send + 'static,
    {
        let user = user.try_into()?;
        let expected = self.deployment.expected(&user, how.plain).await?;
        let archive = Incoming::read(source, expected, LIMIT).await?;
        self.deployment.restore(&user, archive, how.archived_permissions).await
    }

    /// Sets what a user may use, in the place of what was set before: it holds from the next commit, in other processes too. Where more is
    /// used than may be, it stays, and nothing is added.
    ///
    /// # Errors
    ///
    /// `Invalid`, `NotFound`, `Erased`, `AuditUnavailable`, `Storage`.
    pub async fn set_limits<U>(&self, user: U, limits: UserLimits) -> Result<bool>
    where
        U: TryInto<UserId>,
        Error: From<U::Error>,
    {
        let user = user.try_into()?;
        Ok(self.deployment.mesh(&user, false).await?.set_limits(limits).await?)
    }

    /// What a user uses and may use, with what was set. Sessions show the same: [`Mesh::usage_report`](crate::Mesh::usage_report).
    ///
    /// # Errors
    ///
    /// `Invalid`, `NotFound`, `Erased`, `Storage`.
    pub async fn limits<U>(&self, user: U) -> Result<UsageReport>
    where
        U: TryInto<UserId>,
        Error: From<U::Error>,
    {
        let user = user.try_into()?;
        Ok(self.deployment.mesh(&user, false).await?.usage_report().await?)
    }

    /// Users whose erasure was begun and could not be finished, because their files are refused or damaged. They stay erased to
    /// everybody; every start tries again.
    ///
    /// # Errors
    ///
    /// `Storage`.
    pub async fn unfinished_erasures(&self) -> Result<Vec<UserTag>> {
        self.deployment.looked(Action::ListUsers);
        self.deployment.directory.unfinished_erasures().await
    }

    /// The tag of a user, which names the user's file.
    ///
    /// # Errors
    ///
    /// `Invalid`.
    pub fn tag<U>(&self, user: U) -> Result<UserTag>
    where
        U: TryInto<UserId>,
        Error: From<U::Error>,
    {
        Ok(self.deployment.tag(&user.try_into()?))
    }

    /// What all users' data adds up to. Each user's row is read, one after the other; no mesh is opened.
    ///
    /// # Errors
    ///
    /// `Storage`. Users whose files are damaged or refused are counted as `unreadable`.
    pub async fn totals(&self) -> Result<Totals> {
        self.deployment.looked(Action::ListUsers);
        let (mut totals, mut after) = (Totals::default(), None);
        loop {
            let page = self.deployment.directory.page(after, 1_000).await?;
            let Some(last) = page.last() else { return Ok(totals) };
            after = Some(last.tag);
            for user in &page {
                totals.users += 1;
                match self.deployment.usage(user.tag).await {
                    Ok(None) => totals.empty += 1,
                    Ok(Some(usage)) => {
                        totals.entries += usage.contexts;
                        totals.agents += usage.agents;
                        totals.entry_bytes += usage.context_bytes;
                        totals.history_bytes += usage.history_bytes;
                    }
                    Err(_) => totals.unreadable += 1,
                }
            }
        }
    }

    /// The backend checks its own isolation, and says what it checked.
    ///
    /// # Errors
    ///
    /// What it found.
    pub async fn verify(&self) -> Result<SelfCheck> {
        Ok(self.deployment.store.verify().await?)
    }

    /// Closes everything: as [`shutdown_within`](Self::shutdown_within) 30 seconds.
    ///
    /// # Errors
    ///
    /// `Storage`, if a file can't be closed in order, and if some user's work did not come to its end; `AuditUnavailable` if a trail can't be
    /// told of what was done.
    pub async fn shutdown(self) -> Result<()> {
        let Shutdown { unfinished, failed } = self.shutdown_within(SHUTDOWN).await;
        match failed {
            Some(error) => Err(error),
            None if unfinished.is_empty() => Ok(()),
            None => Err(given_up()),
        }
    }

    /// Takes nothing new on from now on, lets what is under way come to its end, and closes everything. Open handles fail. Says whose work did
    /// not end within this time, which is given up then: closing the files takes at most 5 seconds more. And what failed: `Storage`, if a file
    /// can't be closed in order; `AuditUnavailable` if a trail can't be told of what was done.
    pub async fn shutdown_within(self, within: Duration) -> Shutdown {
        let closed = self.deployment.close(within).await;
        #[cfg(feature = "sqlite")]
        crate::registry::folders::forget(&self.deployment).await;
        #[cfg(feature = "postgres")]
        crate::registry::databases::forget(&self.deployment).await;
        closed
    }

    /// How many bytes of values all users' meshes keep in memory, and how many they may: see [`Builder::memory_budget`].
    #[must_use]
    pub fn cached_bytes(&self) -> (usize, usize) {
        (self.deployment.budget.used(), self.deployment.budget.limit())
    }

    async fn session(&self, host: &HostAuthority, user: &UserId, create: bool) -> Result<Session> {
        self.check_host(host, user)?;
        let opened = self.deployment.mesh(user, create).await;
        let mesh = opened.inspect_err(|error| self.deployment.refused(user, error))?;
        let seat = mesh.seat().map_err(Error::from);
        let seat = seat.inspect_err(|error| self.deployment.refused(user, error))?;
        let (guard, revoker) = Guard::new();
        let kept = Arc::clone(&self.deployment);
        let mesh = mesh.guarded(guard.keeping(kept).seated(seat));
        mesh.note_event(Event::new(self.deployment.now(), Action::OpenSession)).await?;
        let deployment = Arc::clone(&self.deployment);
        Ok(Session { mesh: ContextMesh(mesh), revoker, deployment, agent: None })
    }

    /// Whether it is this manager's authority. `user`: whom a session is asked for.
    pub(crate) fn check_host(&self, host: &HostAuthority, user: &UserId) -> Result<()> {
        if Arc::ptr_eq(&host.deployment, &self.deployment) && host.manager == self.number {
            return Ok(());
        }
        let error = Error::new(ErrorKind::Denied, "the authority belongs to another user manager");
        self.deployment.refused(user, &error);
        Err(error)
    }
}

/// How often expired data is looked for in folders.
#[cfg(feature = "sqlite")]
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// How long what is under way has at a shutdown.
const SHUTDOWN: Duration = Duration::from_secs(30);
/// Together ten seconds: what a task holds it holds for one user's sweep.
const TRIES: u32 = 1_000;
const PAUSE: Duration = Duration::from_millis(10);

const fn given_up() -> Error {
    Error::new(
        ErrorKind::Storage,
        "some users' work did not end in time and was given up, ask each write's outcome by its operation id",
    )
}

impl Drop for UserManager {
    fn drop(&mut self) {
        self.deployment.release();
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("mesh", &self.mesh).finish_non_exhaustive()
    }
}

impl fmt::Debug for UserManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserManager").field("deployment", &self.deployment).finish()
    }
}

impl fmt::Debug for HostAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HostAuthority")
    }
}
