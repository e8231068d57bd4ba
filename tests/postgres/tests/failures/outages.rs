//! Servers that restart, connections that are ended, networks that are cut.

use std::time::Duration;

use syntha_postgres::syntha_store::{DeploymentKey, ErrorKind, Store};
use syntha_postgres::testing::{Stop, TestServer};
use syntha_postgres::{PostgresConfig, PostgresStore};
use syntha_postgres_tests::{Network, put, user};

use super::{MODES, Work, both_ways};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_lose_nothing() {
    let server = TestServer::own(&[]).await.unwrap();
    let mut works = Vec::new();
    for mode in MODES {
        let database = server.database(mode).await.unwrap();
        works.push(Work::start(both_ways(&database).await).await);
    }
    for stop in [Stop::Fast, Stop::Immediate, Stop::Fast] {
        for work in &works {
            work.tally.progress(40).await;
        }
        server.restart(stop).await.unwrap();
    }
    for work in works {
        work.end("restarts").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ended_connections_lose_nothing() {
    const END: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE datname = current_database() AND usename = 'syntha_app' AND random() < 0.4";
    for mode in MODES {
        let database = TestServer::get().await.unwrap().database(mode).await.unwrap();
        let work = Work::start(both_ways(&database).await).await;
        let mut ended = 0;
        while ended < 60 {
            work.tally.progress(3).await;
            ended += database.number(END).await.unwrap();
        }
        assert!(work.unknown() > 0, "no answer was lost");
        work.end("ended connections").await;
        database.remove().await.unwrap();
    }
}

/// Each connection ends at a byte of its own, anywhere in what the two sides say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_is_cut_loses_nothing() {
    let server = TestServer::own(&[]).await.unwrap();
    for mode in MODES {
        let database = server.database(mode).await.unwrap();
        let folder = tempfile::Builder::new().prefix("sy-").tempdir_in("/tmp").unwrap();
        let kept = database.config();
        // The store opens on a whole network.
        let network = Network::before(server.socket().unwrap(), folder.path(), 0);
        let config = PostgresConfig::new(
            network.url("syntha_app", database.name()),
            DeploymentKey::from_bytes([7; 32]),
        );
        let work = Work::start(vec![("direct", kept), ("cut", config.mode(mode))]).await;
        network.lifetimes(12_000);
        network.cut_all();
        while network.cuts() < 100 {
            work.tally.progress(1).await;
        }
        network.lifetimes(0);
        assert!(work.unknown() > 0, "no answer was lost");
        work.end("cuts").await;
        database.remove().await.unwrap();
    }
}

/// While it is away, calls are `Unavailable` in good time; a store that is opened then is, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_is_called_unavailable() {
    let server = TestServer::own(&[]).await.unwrap();
    let database = server.database(syntha_postgres::Mode::Schema).await.unwrap();
    for (way, config) in both_ways(&database).await {
        let config = config.acquire_timeout(Duration::from_millis(500));
        let store = PostgresStore::open(config.clone()).await.unwrap();
        let alice = user(&store, way).await;
        server.stop(Stop::Fast).await.unwrap();
        for _ in 0..6 {
            // Of those that were sent before it was known, the end is unknown; in a transaction, it is known.
            let refused = alice.commit(put("n", "1")).await.unwrap_err().kind();
            assert!(matches!(refused, ErrorKind::Unavailable | ErrorKind::Unknown), "{way}: {refused:?}");
            assert_eq!(alice.state().await.unwrap_err().kind(), ErrorKind::Unavailable, "{way}");
        }
        let opened = PostgresStore::open(config).await.map(drop).map_err(|error| error.kind());
        assert_eq!(opened, Err(ErrorKind::Unavailable), "{way}");
        server.resume().await.unwrap();
        let again = async {
            while alice.commit(put("n", "2")).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), again).await.unwrap();
        store.close().await.unwrap();
    }
}
