//! What is told of a running store: the counts are right, every label is of a closed set, and nothing of a user is in it.

use std::collections::BTreeMap;

use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use syntha_postgres::{Mode, PostgresStore};
use syntha_store::{Keyspace, Store};

use super::{database, id, put, user};

const STATEMENTS: &[&str] =
    &["commit", "create", "open", "state", "read", "scan", "changes", "fence", "erase", "list", "other"];

/// Every metric that there is, its label, and the values of that.
const METRICS: &[(&str, &str, &[&str])] = &[
    ("syntha_postgres_connection_wait_seconds", "", &[""]),
    ("syntha_postgres_connection_waits_total", "", &[""]),
    ("syntha_postgres_connections", "state", &["in_use", "idle"]),
    ("syntha_postgres_connections_closed_total", "reason", &["lost", "unclean"]),
    ("syntha_postgres_connections_opened_total", "", &[""]),
    ("syntha_postgres_listener_losses_total", "", &[""]),
    ("syntha_postgres_notices_total", "way", &["sent", "heard"]),
    ("syntha_postgres_statement_seconds", "statement", STATEMENTS),
];

type Found = BTreeMap<(String, String), f64>;

struct Looks {
    snapshots: Snapshotter,
    gauges: Found,
}

impl Looks {
    /// What was told since the last look; of gauges, where they stand.
    fn look(&mut self) -> Found {
        look(&self.snapshots, &mut self.gauges)
    }
}

fn look(snapshots: &Snapshotter, gauges: &mut Found) -> Found {
    let mut found = Found::new();
    for (key, _, _, value) in snapshots.snapshot().into_vec() {
        let (name, labels) = key.key().clone().into_parts();
        let (_, label, allowed) =
            METRICS.iter().find(|(known, ..)| *known == name.as_str()).expect("a metric that is not listed");
        assert!(labels.iter().all(|of| of.key() == *label), "{labels:?}");
        let of = labels.first().map_or("", |of| of.value()).to_owned();
        assert!(allowed.contains(&of.as_str()), "{} of {of}", name.as_str());
        let value = match value {
            DebugValue::Counter(count) => count as f64,
            // The recorder sets it to 0 at each look.
            DebugValue::Gauge(more) => {
                let stands = gauges.entry((name.as_str().to_owned(), of.clone())).or_default();
                *stands += more.0;
                *stands
            }
            DebugValue::Histogram(values) => values.len() as f64,
        };
        found.insert((name.as_str().to_owned(), of), value);
    }
    found
}

fn of(found: &Found, name: &str, label: &str) -> f64 {
    found[&(format!("syntha_postgres_{name}"), label.to_owned())]
}

// One thread: the recorder is that thread's.
#[tokio::test]
async fn metrics_are_of_closed_sets_and_right() {
    let recorder = DebuggingRecorder::new();
    let mut looks = Looks { snapshots: recorder.snapshotter(), gauges: Found::new() };
    let _here = metrics::set_default_local_recorder(&recorder);
    let database = database(Mode::Rls).await;
    let config = database.config().connections(2).notifications(false);
    let store = PostgresStore::open(config).await.unwrap();
    looks.look();
    let alice = user(&store, "CANARY").await;
    for n in 0..5 {
        alice.commit(put("CANARY-key", &n.to_string())).await.unwrap();
        alice.state().await.unwrap();
    }
    let found = looks.look();
    let expected: Vec<_> = METRICS.iter().map(|(.., of)| of.len()).collect();
    assert_eq!(found.len(), expected.iter().sum::<usize>());
    for (name, label, expected) in [
        ("statement_seconds", "create", 1.0),
        ("statement_seconds", "commit", 5.0),
        ("statement_seconds", "state", 5.0),
        ("statement_seconds", "erase", 0.0),
        ("connections", "in_use", 0.0),
        ("connections", "idle", 1.0),
        ("connection_waits_total", "", 0.0),
        ("connections_closed_total", "lost", 0.0),
    ] {
        assert_eq!(of(&found, name, label), expected, "{name} {label}");
    }
    // Three want the two connections at once. On a busy machine the server may have answered before the next one asks.
    let ids = [id("CANARY-key")];
    let read = || alice.read(Keyspace::Context, &ids);
    let mut found = Found::new();
    for _ in 0..1_000 {
        let all = tokio::join!(read(), read(), read());
        assert!(all.0.is_ok() && all.1.is_ok() && all.2.is_ok());
        found = looks.look();
        if of(&found, "connection_waits_total", "") > 0.0 {
            break;
        }
    }
    assert_eq!(of(&found, "connection_waits_total", ""), 1.0);
    assert_eq!(of(&found, "connection_wait_seconds", ""), 1.0);
    assert_eq!(of(&found, "connections", "idle"), 2.0);
    database
        .number("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND usename = 'syntha_app'")
        .await
        .unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    alice.state().await.unwrap();
    let found = looks.look();
    assert_eq!(of(&found, "connections_closed_total", "lost"), 1.0);
    store.close().await.unwrap();
    let found = looks.look();
    assert_eq!((of(&found, "connections", "idle"), of(&found, "connections", "in_use")), (0.0, 0.0));
    database.remove().await.unwrap();
}
