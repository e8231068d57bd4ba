//! What is told of a running store: the counts are right, every label is of a closed set, and nothing of a user is in it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use syntha::sqlite::SqliteConfig;
use syntha::{Filter, MeshConfig, Message, UserManager};

/// Every metric that there is, and the values that its one label may have.
const METRICS: &[(&str, &str, &[&str])] = &[
    ("syntha_audit_events_lost_total", "", &[]),
    ("syntha_audit_trail_full_total", "", &[]),
    ("syntha_audit_trails_tight_total", "", &[]),
    ("syntha_batch_operations", "", &[]),
    ("syntha_cache_hits_total", "", &[]),
    ("syntha_cache_misses_total", "", &[]),
    ("syntha_checkpoints_put_off_total", "", &[]),
    ("syntha_commit_retries_total", "", &[]),
    ("syntha_commit_seconds", "", &[]),
    ("syntha_errors_total", "kind", KINDS),
    ("syntha_file_evictions_total", "", &[]),
    ("syntha_file_open_seconds", "", &[]),
    ("syntha_file_opens_total", "outcome", OUTCOMES),
    ("syntha_file_quarantines_total", "", &[]),
    ("syntha_index_reloads_total", "", &[]),
    ("syntha_open_files", "", &[]),
    ("syntha_operations_total", "operation", OPERATIONS),
    ("syntha_sheds_total", "reason", &["queue_full", "deadline", "rate", "in_flight"]),
    ("syntha_turn_wait_seconds", "line", LINES),
    ("syntha_turns_refused_total", "line", LINES),
    ("syntha_turns_waited_total", "line", LINES),
    ("syntha_write_seconds", "operation", OPERATIONS),
    ("syntha_writes_waiting", "", &[]),
];

const KINDS: &[&str] = &[
    "invalid",
    "not_found",
    "denied",
    "conflict",
    "limit_exceeded",
    "busy",
    "unknown",
    "gone",
    "session_ended",
    "audit_unavailable",
    "storage",
];
const OUTCOMES: &[&str] = &[
    "ok",
    "not_found",
    "already_exists",
    "conflict",
    "gone",
    "erased",
    "invalid",
    "limit_exceeded",
    "corrupt",
    "refused",
    "locked",
    "busy",
    "unknown",
    "storage_full",
    "unavailable",
    "unsupported",
];
const LINES: &[&str] = &["open", "commit", "read", "backup", "login"];
const OPERATIONS: &[&str] = &[
    "get",
    "get_many",
    "list",
    "read_thread",
    "push",
    "remove",
    "batch",
    "clear",
    "sweep",
    "agents",
    "topics",
    "append",
    "redact",
    "import",
    "log",
    "undo",
];

/// A metric's name, and its label's value.
type Found = BTreeMap<(String, String), DebugValue>;

fn take(recorder: &metrics_util::debugging::Snapshotter) -> Found {
    let mut found = Found::new();
    for (key, _, _, value) in recorder.snapshot().into_vec() {
        let key = key.key();
        let (name, labels): (_, Vec<_>) = (key.name().to_owned(), key.labels().collect());
        let (_, label, allowed) = METRICS
            .iter()
            .find(|(known, ..)| *known == name)
            .unwrap_or_else(|| panic!("the metric {name} is not in the list of this test"));
        let value_of = match labels[..] {
            [] => String::new(),
            [one] => {
                assert_eq!(one.key(), *label);
                assert!(allowed.contains(&one.value()), "{name} has the label {}", one.value());
                one.value().to_owned()
            }
            _ => panic!("{name} has several labels"),
        };
        found.insert((name, value_of), value);
    }
    found
}

fn count(found: &Found, name: &str, label: &str) -> f64 {
    match &found[&(name.to_owned(), label.to_owned())] {
        DebugValue::Counter(count) => *count as f64,
        DebugValue::Gauge(value) => value.0,
        DebugValue::Histogram(values) => values.len() as f64,
    }
}

#[derive(Clone, Default)]
struct Logs(Arc<Mutex<Vec<u8>>>);

impl Write for Logs {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn observability_tells_numbers_and_nothing_of_a_user() {
    let recorder = DebuggingRecorder::new();
    let snapshots = recorder.snapshotter();
    // The one recorder of this test's process.
    recorder.install().unwrap();
    let logs = Logs::default();
    let sink = logs.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_span_events(tracing_subscriber::fmt::format::FmtSpan::CLOSE)
        .with_writer(move || sink.clone())
        .init();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    work(&data).await;
    let found = take(&snapshots);
    let names: BTreeSet<_> = found.keys().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, METRICS.iter().map(|(name, ..)| *name).collect());
    for (name, label, expected) in [
        ("syntha_operations_total", "push", 12.0),
        ("syntha_operations_total", "get", 9.0),
        ("syntha_operations_total", "get_many", 3.0),
        ("syntha_operations_total", "append", 6.0),
        ("syntha_operations_total", "read_thread", 3.0),
        ("syntha_operations_total", "remove", 3.0),
        ("syntha_write_seconds", "push", 12.0),
        ("syntha_errors_total", "conflict", 3.0),
        ("syntha_errors_total", "invalid", 0.0),
        ("syntha_sheds_total", "queue_full", 0.0),
        ("syntha_cache_misses_total", "", 0.0),
        ("syntha_cache_hits_total", "", 6.0),
        // Everything is written, and closed.
        ("syntha_writes_waiting", "", 0.0),
        ("syntha_open_files", "", 0.0),
        ("syntha_file_quarantines_total", "", 0.0),
    ] {
        assert_eq!(count(&found, name, label), expected, "{name} {label}");
    }
    assert!(count(&found, "syntha_file_evictions_total", "") > 0.0);
    assert!(count(&found, "syntha_file_opens_total", "ok") > 3.0);
    assert!(count(&found, "syntha_commit_seconds", "") >= 18.0);
    let logged = String::from_utf8(logs.0.lock().unwrap().clone()).unwrap();
    for span in ["syntha_commit", "syntha_open_file"] {
        assert!(logged.contains(span), "no span {span}");
    }
    assert!(!logged.contains("CANARY"), "a span or an event holds something of a user");
}

/// Three users with names, keys and values that are canaries, two open files at a time.
async fn work(data: &std::path::Path) {
    let config = SqliteConfig::new(data).connections(2);
    let (users, host) =
        UserManager::builder().sqlite_with(config).mesh(MeshConfig::default()).open().await.unwrap();
    for user in ["CANARY-a", "CANARY-b", "CANARY-c"] {
        let session = users.create_user_session(&host, user).await.unwrap();
        let agent = session.agent("CANARY-agent").unwrap();
        for n in 0..3 {
            agent.push(format!("CANARY-key-{n}"), "CANARY-value").topic("CANARY-topic").await.unwrap();
        }
        assert!(agent.push("CANARY-key-1", 2).if_version(syntha::Version(99)).await.is_err());
        agent.subscribe(["CANARY-topic"]).await.unwrap();
        for key in ["CANARY-key-0", "CANARY-key-1", "CANARY-absent"] {
            agent.entry(key).await.unwrap();
        }
        assert_eq!(agent.all(&Filter::new()).await.unwrap().len(), 3);
        let thread = agent.thread("CANARY-thread").unwrap();
        thread.append(Message::user("CANARY-text").id("CANARY-id")).await.unwrap();
        thread.create().await.unwrap();
        thread.last(3).await.unwrap();
        agent.remove("CANARY-key-2", None).await.unwrap();
    }
    users.shutdown().await.unwrap();
    // A connection ends on a thread of its own.
    tokio::time::timeout(Duration::from_secs(10), async {
        while std::fs::read_dir("/proc/self/fd").is_ok_and(|files| {
            files
                .flatten()
                .any(|file| std::fs::read_link(file.path()).is_ok_and(|path| path.starts_with(data)))
        }) {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}
