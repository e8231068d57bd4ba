//! Whoever repeats a call with the same id, because its answer was lost, writes once.

use std::time::Duration;

use syntha_mesh::{Agent, ErrorKind, Mesh, MeshConfig, Message, Opening};
use syntha_postgres::syntha_store::{Batch, CreateMode, DeploymentKey, Store, Timestamp};
use syntha_postgres::testing::TestServer;
use syntha_postgres::{PostgresConfig, PostgresStore};
use syntha_postgres_tests::{Network, tag};

use super::MODES;

const MESSAGES: u64 = 120;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_repeated_by_its_id_is_written_once() {
    let server = TestServer::own(&[]).await.unwrap();
    for mode in MODES {
        let database = server.database(mode).await.unwrap();
        let folder = tempfile::Builder::new().prefix("sy-").tempdir_in("/tmp").unwrap();
        let network = Network::before(server.socket().unwrap(), folder.path(), 0);
        let url = network.url("syntha_app", database.name());
        let config = PostgresConfig::new(url, DeploymentKey::from_bytes([7; 32])).mode(mode).connections(2);
        let store = PostgresStore::open(config).await.unwrap();
        let first = Batch::new(Timestamp(1)).unwrap();
        let alice = store.create(tag(&store, "alice"), first, CreateMode::New).await.unwrap().0;
        let mesh = Mesh::open(alice, Opening::new(), MeshConfig::default()).await.unwrap();
        let agent = mesh.agent("writer").unwrap();
        network.lifetimes(15_000);
        network.cut_all();
        let mut repeated = 0;
        for number in 1..=MESSAGES {
            while let Err(error) = both(&agent, number).await {
                let served = matches!(
                    error.kind(),
                    ErrorKind::Unknown | ErrorKind::Busy | ErrorKind::Storage | ErrorKind::Conflict
                );
                assert!(served, "message {number} in {mode:?}: {error}");
                repeated += 1;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        network.lifetimes(0);
        network.cut_all();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(repeated > 3 && network.cuts() > 10, "{repeated} repeats, {} cuts", network.cuts());
        // As somebody reads it who was not there.
        let beside = PostgresStore::open(database.config()).await.unwrap();
        let alice = syntha_postgres_tests::open(&beside, "alice").await;
        let other = Mesh::open(alice, Opening::new(), MeshConfig::default()).await.unwrap();
        let page = other.agent("writer").unwrap().thread("talk").unwrap().last(1_000).await.unwrap();
        let found: Vec<_> = page.messages.iter().map(|message| message.text().unwrap()).collect();
        let sent: Vec<_> = (1..=MESSAGES).map(|number| number.to_string()).collect();
        assert_eq!(found, sent, "in {mode:?}");
        let count = other.agent("writer").unwrap().get::<u64>("count").await.unwrap();
        assert_eq!(count, Some(MESSAGES));
        println!("repeats in {mode:?}: {repeated}, {} cuts", network.cuts());
        beside.close().await.unwrap();
        store.close().await.unwrap();
    }
}

/// A message, and then an entry: each under an id of its own.
async fn both(agent: &Agent, number: u64) -> syntha_mesh::Result<()> {
    let message = Message::user(number.to_string()).id(format!("message-{number}"));
    agent.thread("talk")?.append(message).await?;
    agent.push("count", number).operation(format!("push-{number}")).await.map(drop)
}
