use std::sync::Arc;

use async_trait::async_trait;
use syntha_postgres::testing::{TestDatabase, TestServer};
use syntha_postgres::{Fault, Mode, PostgresConfig, PostgresStore};
use syntha_store::{DeploymentKey, Store};

use crate::harness::{Harness, Instance};

/// The PostgreSQL backend in a database of its own, on the process's server, whole or broken.
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

/// The same behind pgbouncer, which pools by transaction: four connections of the server for eight of the store's.
#[derive(Clone, Copy, Debug)]
pub struct PooledPostgresHarness {
    /// How users are kept apart.
    pub mode: Mode,
}

struct PostgresInstance {
    config: PostgresConfig,
    store: Arc<PostgresStore>,
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

    async fn fresh(&self) -> Box<dyn Instance> {
        let server = TestServer::get().await.unwrap();
        let database = server.database(self.mode).await.unwrap();
        let mut config = database.config().connections(8);
        if let Some(fault) = self.fault {
            database.admin(fault.statements).await.unwrap();
            config = config.unverified();
            if let Some(fault) = fault.connections {
                config = config.connections(1).fault(fault);
            }
        }
        let store = Arc::new(PostgresStore::open(config.clone()).await.unwrap());
        Box::new(PostgresInstance { config, store, database: Some(database) })
    }
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
        let config = database.config_through(server.shared_pooler().await.unwrap()).connections(8);
        let store = Arc::new(PostgresStore::open(config.clone()).await.unwrap());
        Box::new(PostgresInstance { config, store, database: Some(database) })
    }
}

#[async_trait]
impl Instance for PostgresInstance {
    fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store) as _
    }

    fn key(&self) -> DeploymentKey {
        self.store.deployment_key().clone()
    }

    fn below(&self) -> Option<Arc<dyn Store>> {
        None
    }

    async fn reopen(&mut self) {
        self.store.close().await.unwrap();
        self.store = Arc::new(PostgresStore::open(self.config.clone()).await.unwrap());
    }

    async fn crash(&mut self) {
        // The server goes on when a client dies.
        self.store = Arc::new(PostgresStore::open(self.config.clone()).await.unwrap());
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
