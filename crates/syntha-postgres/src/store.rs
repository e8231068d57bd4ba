use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use sqlx::Executor;
use sqlx::postgres::PgConnection;
use syntha_store::{
    Batch, Capabilities, Commit, CreateMode, DEPLOYMENT_OWNER, DeploymentKey, EPOCH_JUMP, Epoch, Erased,
    Error, ErrorKind, Fence, ImportMode, Incarnation, Result, SelfCheck, Snapshot, Stamp, Store,
    StoredRecord, UserStore, UserTag,
};

use crate::config::PostgresConfig;
use crate::connections::Connections;
use crate::error::{Sent, corrupt, foreign, from_sqlx};
use crate::notices::Notices;
use crate::plan::{Plan, usage};
use crate::pooler;
use crate::rows::{self, int};
use crate::statement::{Kind, Statement, call, one};
use crate::user_store::PostgresUser;
use crate::verify;

/// Users' data in a PostgreSQL database.
pub struct PostgresStore {
    connections: Arc<Connections>,
    config: PostgresConfig,
    notices: Arc<Notices>,
}

impl PostgresStore {
    /// Opens the store of a database that was [installed](crate::install()), and checks what the isolation rests on.
    ///
    /// # Errors
    ///
    /// `Refused` for roles, tables, policies or settings that would void the isolation, and for another deployment's key; `Unsupported` for
    /// another mode, version of the functions, or a server that is too old; `Unavailable` if the server can't be reached.
    pub async fn open(config: PostgresConfig) -> Result<Self> {
        let connections = Arc::new(Connections::new(&config)?);
        // First: through a pooler that mixes statements up, nothing may be called.
        if config.verifies() {
            pooler::check(&connections, config.statements).await?;
        }
        verify::server(&connections, &config).await?;
        let notices = Notices::new(&connections, &config)?;
        let store = Self { connections, config, notices };
        if store.config.verifies() {
            verify::walls(&store.connections, store.config.mode).await?;
        }
        store.connections.tend();
        // What an earlier process left.
        if drop_erased(&store.connections).await.is_err() {
            tokio::spawn(drop_later(Arc::downgrade(&store.connections)));
        }
        Ok(store)
    }

    /// The key that users' tags are derived with.
    #[must_use]
    pub fn deployment_key(&self) -> &DeploymentKey {
        &self.config.key.0
    }

    fn print(&self) -> [u8; 32] {
        *self.config.key.0.fingerprint().as_bytes()
    }

    fn handle(&self, tag: [u8; 32], life: Incarnation) -> Arc<dyn UserStore> {
        Arc::new(PostgresUser::new(Arc::clone(&self.connections), tag, life, self.notices.bell(&tag)))
    }

    fn wake(&self, tag: &[u8; 32]) {
        self.notices.ring(tag);
    }

    async fn import_in(
        &self,
        connection: &mut PgConnection,
        user: UserTag,
        snapshot: &mut dyn Snapshot,
        mode: ImportMode,
    ) -> Result<Stamp> {
        // The life may be the snapshot's choice, which an import asks for at the end.
        let begin = Statement::call(Kind::Other, call!("o_status", "import_begin($1, $2, $3, $4)"))
            .bind(&user.as_bytes()[..])
            .bind(Incarnation::random()?.0.to_be_bytes().to_vec())
            .bind(self.print().to_vec())
            .bind(i64::from(mode == ImportMode::Replace));
        rows::check(&one(connection, begin, Sent::Read).await?)?;
        while let Some(chunk) = snapshot.next().await? {
            import_page(connection, user, chunk).await?;
        }
        let life = snapshot.life().map_or_else(Incarnation::random, Ok)?;
        let (state, follows) = (snapshot.state(), snapshot.follows());
        let end = Statement::call(
            Kind::Other,
            call!("o_status, o_epoch", "import_end($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"),
        )
        .bind(&user.as_bytes()[..])
        .bind(life.0.to_be_bytes().to_vec())
        .bind(self.print().to_vec())
        .bind(int(state.stamp.epoch.0))
        .bind(int(EPOCH_JUMP))
        .bind(follows.map(|chain| int(chain.seq)))
        .bind(follows.map(|chain| chain.head.to_vec()))
        .bind(int(state.chain.seq))
        .bind(state.chain.head.to_vec())
        .bind(usage(&state.usage))
        .bind(int(state.time.0))
        .bind(state.note.as_bytes().to_vec());
        let row = one(connection, end, Sent::Read).await?;
        rows::check(&row)?;
        Ok(Stamp { incarnation: life, epoch: Epoch(rows::number(&row, "o_epoch")?) })
    }
}

async fn import_page(connection: &mut PgConnection, user: UserTag, chunk: Vec<StoredRecord>) -> Result<()> {
    let (mut spaces, mut names, mut seqs) = (Vec::new(), Vec::new(), Vec::new());
    let (mut versions, mut body_versions, mut expires) = (Vec::new(), Vec::new(), Vec::new());
    let (mut heads, mut bodies) = (Vec::new(), Vec::new());
    for StoredRecord { space, record } in chunk {
        spaces.push(i64::from(space.code()));
        names.push(record.head.id.name().to_vec());
        seqs.push(int(record.head.id.seq()));
        versions.push(int(record.head.version.0));
        body_versions.push(int(record.head.body_version.0));
        expires.push(record.head.expires.map(|at| int(at.0)));
        heads.push(record.head.head.to_vec());
        bodies.push(record.body.0.to_vec());
    }
    let page = Statement::question("SELECT syntha.import_page($1, $2, $3, $4, $5, $6, $7, $8, $9)")
        .bind(&user.as_bytes()[..])
        .bind(spaces)
        .bind(names)
        .bind(seqs)
        .bind(versions)
        .bind(body_versions)
        .bind(expires)
        .bind(heads)
        .bind(bodies);
    one(connection, page, Sent::Read).await.map(drop)
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore").field("mode", &self.config.mode).finish_non_exhaustive()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Store for PostgresStore {
    fn capabilities(&self) -> Capabilities {
        Capabilities::new("postgres", true, false, self.notices.are_on())
    }

    async fn create(
        &self,
        user: UserTag,
        first: Batch,
        mode: CreateMode,
    ) -> Result<(Arc<dyn UserStore>, Commit)> {
        first.validate(false)?;
        let life = first.life.map_or_else(Incarnation::random, Ok)?;
        let recreate = mode == CreateMode::Recreate;
        let statement =
            Plan::new(life, &first)?.create(user.as_bytes(), life, &self.print(), recreate, &first)?;
        let row = self.connections.of_user(user.as_bytes(), statement, Sent::Write).await;
        self.wake(user.as_bytes());
        let row = row?;
        rows::check(&row)?;
        let stamp = Stamp { incarnation: life, epoch: Epoch(rows::number(&row, "o_epoch")?) };
        Ok((self.handle(*user.as_bytes(), life), Commit::new(stamp, rows::chain(&row)?)))
    }

    async fn open(&self, user: UserTag) -> Result<Arc<dyn UserStore>> {
        let statement = Statement::call(Kind::Open, call!("o_status, o_life, o_print", "open_user($1)"))
            .bind(&user.as_bytes()[..]);
        let row = self.connections.of_user(user.as_bytes(), statement, Sent::Read).await?;
        rows::check(&row)?;
        if rows::bytes(&row, "o_print")? != self.print() {
            return Err(foreign());
        }
        Ok(self.handle(*user.as_bytes(), rows::life(&row)?))
    }

    async fn fence(&self, user: UserTag, at: Option<Stamp>, fence: Fence) -> Result<Stamp> {
        let statement =
            Statement::call(Kind::Fence, call!("o_status, o_life, o_epoch", "fence_user($1, $2, $3, $4)"))
                .bind(&user.as_bytes()[..])
                .bind(at.map(|at| at.incarnation.0.to_be_bytes().to_vec()))
                .bind(at.map(|at| int(at.epoch.0)))
                .bind(i64::from(fence.code()));
        let row = self.connections.of_user(user.as_bytes(), statement, Sent::Write).await;
        self.wake(user.as_bytes());
        let row = row?;
        rows::check(&row)?;
        Ok(Stamp { incarnation: rows::life(&row)?, epoch: Epoch(rows::number(&row, "o_epoch")?) })
    }

    async fn erase(&self, user: UserTag) -> Result<Erased> {
        let statement = Statement::call(Kind::Erase, call!("o_status, o_removed", "erase_user($1)"))
            .bind(&user.as_bytes()[..]);
        let row = self.connections.of_user(user.as_bytes(), statement, Sent::Write).await;
        self.wake(user.as_bytes());
        let row = row?;
        rows::check(&row)?;
        let removed = rows::number(&row, "o_removed")?;
        // The user is erased. An archive that is read at the moment holds empty tables for as long.
        if drop_erased(&self.connections).await.is_err() {
            tokio::spawn(drop_later(Arc::downgrade(&self.connections)));
        }
        Ok(Erased::new(removed > 0, removed))
    }

    async fn import(&self, user: UserTag, snapshot: &mut dyn Snapshot, mode: ImportMode) -> Result<Stamp> {
        if snapshot.owner() != user {
            return Err(Error::new(ErrorKind::Invalid, "the snapshot is of another user"));
        }
        // INVARIANT: the connection is nobody else's and is closed at the end, so whoever goes leaves nothing.
        let mut connection = self.connections.own().await?;
        for statement in [BEGIN, LOCK_PATIENCE, PATIENCE] {
            connection.execute(statement).await.map_err(|error| from_sqlx(&error, Sent::Read))?;
        }
        let stamp = self.import_in(&mut connection, user, snapshot, mode).await?;
        let committed = connection.execute("COMMIT").await;
        self.wake(user.as_bytes());
        committed.map_err(|error| from_sqlx(&error, Sent::Write))?;
        Ok(stamp)
    }

    async fn list(&self, after: Option<UserTag>, limit: usize) -> Result<Vec<UserTag>> {
        let statement = Statement::call(Kind::List, call!("o_tags", "list_users($1, $2)"))
            .bind(after.map(|tag| tag.as_bytes().to_vec()).unwrap_or_default())
            .bind(int(limit as u64));
        let row = self.connections.one(statement, Sent::Read).await?;
        let tags: Vec<Vec<u8>> = rows::list(&row, "o_tags")?;
        tags.into_iter()
            .map(|tag| tag.try_into().map_err(|_| corrupt()).and_then(UserTag::from_bytes))
            .collect()
    }

    async fn deployment(&self) -> Result<Arc<dyn UserStore>> {
        let life = self.deployment_life().await?;
        Ok(self.handle(DEPLOYMENT_OWNER, life))
    }

    async fn verify(&self) -> Result<SelfCheck> {
        let mut passed = vec![pooler::check(&self.connections, self.config.statements).await?];
        passed.extend(verify::server(&self.connections, &self.config).await?);
        passed.extend(verify::walls(&self.connections, self.config.mode).await?);
        let life = self.deployment_life().await?;
        passed.push(verify::canary(&self.connections, life).await?);
        Ok(SelfCheck::new(passed))
    }

    async fn close(&self) -> Result<()> {
        self.connections.close().await;
        self.notices.close();
        Ok(())
    }
}

/// Drops the tables of users who were erased.
async fn drop_erased(connections: &Arc<Connections>) -> Result<()> {
    loop {
        let statement = Statement::call(Kind::Other, call!("o_dropped", "drop_erased()"));
        if rows::number(&connections.one(statement, Sent::Read).await?, "o_dropped")? == 0 {
            return Ok(());
        }
    }
}

/// The same, when whoever holds the tables has gone.
async fn drop_later(connections: Weak<Connections>) {
    for _ in 0..DROPS {
        tokio::time::sleep(DROP_PAUSE).await;
        let Some(connections) = connections.upgrade() else { return };
        if connections.check_open().is_err() || drop_erased(&connections).await.is_ok() {
            return;
        }
    }
}

const DROP_PAUSE: Duration = Duration::from_secs(5);
/// Longer than an archive may rest between two pages.
const DROPS: u32 = 24;

const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";
const LOCK_PATIENCE: &str = "SET LOCAL lock_timeout = '5s'";
/// Writers to the user wait for an import: so one whose source is slower than this between two chunks ends.
const PATIENCE: &str = "SET LOCAL idle_in_transaction_session_timeout = '60s'";

impl PostgresStore {
    async fn deployment_life(&self) -> Result<Incarnation> {
        let statement =
            Statement::call(Kind::Open, call!("o_status, o_life, o_print", "open_deployment($1, $2)"))
                .bind(Incarnation::random()?.0.to_be_bytes().to_vec())
                .bind(self.print().to_vec());
        let row = self.connections.one(statement, Sent::Read).await?;
        rows::check(&row)?;
        if rows::bytes(&row, "o_print")? != self.print() {
            return Err(foreign());
        }
        rows::life(&row)
    }
}
