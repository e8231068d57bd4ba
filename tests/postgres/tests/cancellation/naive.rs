//! The store that everybody writes first: a transaction by the driver, the user in a setting of the session, the driver's pool as it comes. It saves
//! setting the user again where the connection has it already.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Mutex;

use sqlx::postgres::{PgConnection, PgPool, PgPoolOptions};
use sqlx::{Connection, Row};
use syntha_postgres::testing::TestDatabase;

use super::harness::{Call, Kind, Subject, USERS, Work, name};

pub(crate) struct Store {
    pool: PgPool,
    beside: PgPool,
    /// Whose the one connection is.
    current: Mutex<Option<usize>>,
}

const TABLE: &str = "CREATE TABLE public.entry (tenant text NOT NULL, key text NOT NULL, value text NOT NULL, PRIMARY KEY (tenant, key));
    ALTER TABLE public.entry ENABLE ROW LEVEL SECURITY;
    CREATE POLICY tenant ON public.entry USING (tenant = current_setting('naive.tenant', true));
    GRANT USAGE ON SCHEMA public TO syntha_app; GRANT SELECT, INSERT, UPDATE ON public.entry TO syntha_app";
const BE: &str = "SELECT set_config('naive.tenant', $1, false)";
const PUT: &str =
    "INSERT INTO public.entry (tenant, key, value) VALUES (current_setting('naive.tenant'), $1, $2)
    ON CONFLICT (tenant, key) DO UPDATE SET value = excluded.value";
const ALL: &str = "SELECT key, value FROM public.entry";

impl Store {
    pub(crate) async fn new(database: &TestDatabase) -> Self {
        database.admin(TABLE).await.unwrap();
        let url = database.url("syntha_app");
        let pool = PgPoolOptions::new().max_connections(1).connect(&url).await.unwrap();
        let beside = PgPoolOptions::new().max_connections(1).connect(&url).await.unwrap();
        let store = Self { pool, beside, current: Mutex::default() };
        for user in 0..USERS {
            store.call(Call { user, kind: Kind::WriteTwo, number: 0 }).await.unwrap();
        }
        store
    }

    pub(crate) async fn close(&self) {
        self.pool.close().await;
        self.beside.close().await;
    }

    async fn be(&self, user: usize, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        if *self.current.lock().unwrap() != Some(user) {
            sqlx::query(BE).bind(name(user)).execute(connection).await?;
            *self.current.lock().unwrap() = Some(user);
        }
        Ok(())
    }

    async fn call(&self, call: Call) -> Result<Vec<String>, sqlx::Error> {
        let mut connection = self.pool.acquire().await?;
        match call.kind {
            // One statement needs no transaction.
            Kind::Write => {
                self.be(call.user, &mut connection).await?;
                sqlx::query(PUT).bind(call.key()).bind(call.value()).execute(&mut *connection).await?;
                Ok(Vec::new())
            }
            Kind::WriteTwo => {
                let mut transaction = connection.begin().await?;
                self.be(call.user, &mut transaction).await?;
                for key in [call.key(), call.second_key()] {
                    sqlx::query(PUT).bind(key).bind(call.value()).execute(&mut *transaction).await?;
                }
                transaction.commit().await?;
                Ok(Vec::new())
            }
            Kind::Read | Kind::ReadAll | Kind::Open | Kind::Copy => {
                let mut transaction = connection.begin().await?;
                self.be(call.user, &mut transaction).await?;
                let rows = sqlx::query(ALL).fetch_all(&mut *transaction).await?;
                transaction.commit().await?;
                rows.into_iter().map(|row| row.try_get("value")).collect()
            }
        }
    }
}

impl Subject for Store {
    fn work(&self, call: Call) -> Work<'_> {
        Box::pin(async move { self.call(call).await.map_err(|error| error.to_string()) })
    }

    fn all(&self, user: usize) -> Pin<Box<dyn Future<Output = HashMap<String, String>> + Send + '_>> {
        Box::pin(async move {
            let mut connection = self.beside.acquire().await.unwrap();
            sqlx::query(BE).bind(name(user)).execute(&mut *connection).await.unwrap();
            let rows = sqlx::query(ALL).fetch_all(&mut *connection).await.unwrap();
            rows.iter().map(|row| (row.get("key"), row.get("value"))).collect()
        })
    }
}
