use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use syntha_postgres::testing::{TestDatabase, TestServer};
use syntha_postgres::{Fault, Mode, PostgresConfig, PostgresStore};
use syntha_store::{DeploymentKey, Store};

use crate::harness::{Harness, Instance};
use crate::one_of_two::OneOfTwo;

/// The PostgreSQL backend in a database of its own, on the process's server, whole or broken. Two stores, which share nothing but the database, are
/// handed out in turn, as two servers of an application would have them.
#[derive(Clone, Copy, Debug)]
pub struct PostgresHarness {
    /// How users are kept apart.
    pub mode: Mode,
    /// The fault, if any.
    pub fault: Option<PostgresFault>,
}

/// What is wrong with a broken store in a PostgreSQL database.
#[derive(Clone, Copy, Debug)]
pub struct PostgresFault {
    /// Its name in reports.
    pub name: &'static str,
    /// The mode that it is in.
    pub mode: Mode,
    /// What plants it in the database, if it is there.
    pub statements: &'static str,
    /// What plants it in the use of connections, if it is there. The store has one connection then.
    pub connections: Option<Fault>,
}

/// The same behind pgbouncer, which pools by transaction: four connections of the server for twelve of two stores.
#[derive(Clone, Copy, Debug)]
pub struct PooledPostgresHarness {
    /// How users are kept apart.
    pub mode: Mode,
}

struct PostgresInstance {
    config: PostgresConfig,
    stores: [Arc<PostgresStore>; 2],
    turn: AtomicUsize,
    database: Option<TestDatabase>,
}

#[async_trait]
impl Harness for PostgresHarness {
    fn name(&self) -> &'static str {
        match (self.fault, self.mode) {
            (Some(fault), _) => fault.name,
            (None, Mode::Schema) => "postgres-schema",
            (None, Mode::Rls) => "postgres-rls",
        }
    }

    // A check that moves a hundred megabytes, on a server that others use as well. What is broken need not be waited for.
    fn patience(&self) -> Duration {
        Duration::from_secs(if self.fault.is_some() { 30 } else { 180 })
    }

    async fn fresh(&self) -> Box<dyn Instance> {
        let server = TestServer::get().await.unwrap();
        let database = server.database(self.mode).await.unwrap();
        let mut config = database.config().connections(6);
        if let Some(fault) = self.fault {
            database.admin(fault.statements).await.unwrap();
            config = config.unverified();
            if let Some(fault) = fault.connections {
                config = config.connections(1).fault(fault);
            }
        }
        let (stores, turn) = (two(&config).await, AtomicUsize::new(0));
        Box::new(PostgresInstance { config, stores, turn, database: Some(database) })
    }
}

async fn two(config: &PostgresConfig) -> [Arc<PostgresStore>; 2] {
    let first = PostgresStore::open(config.clone()).await.unwrap();
    [Arc::new(first), Arc::new(PostgresStore::open(config.clone()).await.unwrap())]
}

#[async_trait]
impl Harness for PooledPostgresHarness {
    fn name(&self) -> &'static str {
        match self.mode {
            Mode::Schema => "postgres-schema-pooled",
            Mode::Rls => "postgres-rls-pooled",
        }
    }

    async fn fresh(&self) -> Box<dyn Instance> {
        let server = TestServer::get().await.unwrap();
        let database = server.database(self.mode).await.unwrap();
        let config = database.config_through(server.shared_pooler().await.unwrap()).connections(6);
        let (stores, turn) = (two(&config).await, AtomicUsize::new(0));
        Box::new(PostgresInstance { config, stores, turn, database: Some(database) })
    }
}

#[async_trait]
impl Instance for PostgresInstance {
    fn store(&self) -> Arc<dyn Store> {
        let [even, odd] = &self.stores;
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let [used, other] = if turn.is_multiple_of(2) { [even, odd] } else { [odd, even] };
        Arc::new(OneOfTwo { used: Arc::clone(used) as _, other: Arc::clone(other) as _ })
    }

    fn key(&self) -> DeploymentKey {
        self.stores[0].deployment_key().clone()
    }

    fn below(&self) -> Option<Arc<dyn Store>> {
        None
    }

    async fn reopen(&mut self) {
        for store in &self.stores {
            store.close().await.unwrap();
        }
        self.stores = two(&self.config).await;
    }

    async fn crash(&mut self) {
        // The server goes on when a client dies.
        self.stores = two(&self.config).await;
    }

    // The files are the server's: they hold every user's, and its log of changes keeps for a while what was erased.
    async fn files(&self) -> Vec<(String, Vec<u8>)> {
        Vec::new()
    }
}

impl Drop for PostgresInstance {
    fn drop(&mut self) {
        // On a thread of its own, and waited for: the check's runtime ends at once, and a database has megabytes.
        if let Some(database) = self.database.take() {
            let remove = || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                drop(runtime.block_on(database.remove()));
            };
            drop(std::thread::spawn(remove).join());
        }
    }
}
