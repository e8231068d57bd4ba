//! The store itself.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use syntha_postgres::syntha_store::{self as store, Keyspace, Scan, Store as _, UserStore};
use syntha_postgres::{PostgresConfig, PostgresStore};
use syntha_postgres_tests::{id, put, tag, user};

use super::harness::{Call, KEYS, Kind, Seen, Subject, USERS, Work, name};

pub(crate) struct Store {
    store: PostgresStore,
    users: Vec<Arc<dyn UserStore>>,
    /// Another way in.
    beside: PostgresStore,
}

impl Store {
    pub(crate) async fn new(config: PostgresConfig, beside: PostgresConfig) -> Self {
        let store = PostgresStore::open(config).await.unwrap();
        let mut users = Vec::new();
        for number in 0..USERS {
            users.push(user(&store, &name(number)).await);
        }
        Self { store, users, beside: PostgresStore::open(beside).await.unwrap() }
    }

    pub(crate) async fn close(&self) {
        self.store.close().await.unwrap();
        self.beside.close().await.unwrap();
    }

    async fn call(&self, call: Call) -> Result<Vec<String>, store::Error> {
        let user = &self.users[call.user];
        match call.kind {
            Kind::Write => user.commit(put(&call.key(), &call.value())).await.map(|_| Vec::new()),
            Kind::WriteTwo => {
                let second = id(&call.second_key());
                let batch =
                    put(&call.key(), &call.value()).put(Keyspace::Context, second, "head", call.value());
                user.commit(batch).await.map(|_| Vec::new())
            }
            Kind::Read => {
                let ids: Vec<_> = (0..KEYS).map(|key| id(&format!("key-{key}"))).chain([id("who")]).collect();
                let read = user.read(Keyspace::Context, &ids).await?.value;
                Ok(read.into_iter().flatten().map(|record| text(&record.body)).collect())
            }
            Kind::ReadAll => scan(&**user).await.map(|all| all.into_values().collect()),
            Kind::Open => {
                let user = self.store.open(tag(&self.store, &name(call.user))).await?;
                user.state().await?;
                scan(&*user).await.map(|all| all.into_values().collect())
            }
            Kind::Copy => {
                let mut copy = user.snapshot().await?;
                let mut values = Vec::new();
                while let Some(chunk) = copy.next().await? {
                    values.extend(chunk.iter().map(|stored| text(&stored.record.body)));
                }
                Ok(values)
            }
        }
    }
}

fn text(body: &[u8]) -> String {
    String::from_utf8(body.to_vec()).unwrap()
}

async fn scan(user: &dyn UserStore) -> Result<HashMap<String, String>, store::Error> {
    let page = user.scan(Scan::records(Keyspace::Context, 100)).await?.value;
    let pair = |(head, body): (store::Head, Option<_>)| {
        (text(head.id.name()), text(body.as_deref().unwrap_or_default()))
    };
    Ok(page.records.into_iter().map(pair).collect())
}

impl Subject for Store {
    fn work(&self, call: Call) -> Work<'_> {
        Box::pin(async move { Seen::from(self.call(call).await.map_err(|error| error.to_string())) })
    }

    fn all(&self, user: usize) -> Pin<Box<dyn Future<Output = HashMap<String, String>> + Send + '_>> {
        Box::pin(async move {
            let user = self.beside.open(tag(&self.beside, &name(user))).await.unwrap();
            scan(&*user).await.unwrap()
        })
    }
}
