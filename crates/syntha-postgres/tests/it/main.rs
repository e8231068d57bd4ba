//! What is PostgreSQL's own: the walls, what a store leaves behind, and servers that go away.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod catalog;
mod connections;
mod install;
mod meters;
mod migrate;
mod notify;
mod pooler;
mod stale;
mod walls;

use syntha_postgres::testing::{TestDatabase, TestServer};
use syntha_postgres::{Mode, PostgresStore};
use syntha_store::{Batch, CreateMode, Keyspace, RecordId, Store, Timestamp, UserId, UserTag};

const MODES: [Mode; 2] = [Mode::Schema, Mode::Rls];

async fn database(mode: Mode) -> TestDatabase {
    TestServer::get().await.unwrap().database(mode).await.unwrap()
}

fn tag(store: &PostgresStore, user: &str) -> UserTag {
    store.deployment_key().tag(&UserId::new(user).unwrap())
}

fn id(name: &str) -> RecordId {
    RecordId::new(name.as_bytes().to_vec(), 0).unwrap()
}

fn batch() -> Batch {
    Batch::new(Timestamp(1)).unwrap()
}

fn put(name: &str, body: &str) -> Batch {
    batch().put(Keyspace::Context, id(name), "head", body.as_bytes().to_vec())
}

async fn user(store: &PostgresStore, user: &str) -> std::sync::Arc<dyn syntha_store::UserStore> {
    store.create(tag(store, user), put("who", user), CreateMode::New).await.unwrap().0
}

async fn who(user: &dyn syntha_store::UserStore) -> Option<String> {
    let read = user.read(Keyspace::Context, &[id("who")]).await.unwrap().value;
    read[0].as_ref().map(|record| String::from_utf8(record.body.to_vec()).unwrap())
}
