//! The program, run as its users run it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "it prints its row of evidence")]

mod accounts;
mod audit;
mod bench;
mod doctor;
mod keys;
mod limits;
mod place;
mod postgres;
mod transfer;
mod whole;

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn syntha(data: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_syntha"));
    command.env_clear().current_dir(data.parent().unwrap()).arg("--data").arg(data).args(arguments);
    command.output().unwrap()
}

fn json(data: &Path, arguments: &[&str]) -> Value {
    let output = syntha(data, &[&["--json"], arguments].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn quickstart_keeps_two_users_apart_and_finds_them_again() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let first = json(&data, &["quickstart"]);
    assert_eq!(first["alice"]["sees"]["Assistant"], serde_json::json!(["preferences"]));
    assert_eq!(first["alice"]["sees"]["Researcher"], serde_json::json!(["note", "preferences", "task"]));
    assert_ne!(first["alice"]["tag"], first["bob"]["tag"]);
    assert_eq!(json(&data, &["quickstart"]), first, "the second run finds the data");
    assert_eq!(first["audit_key"], serde_json::json!(folder.path().join("data.audit.key")));
    assert_eq!(json(&data, &["audit", "verify", "--all", "--state"])["verdict"], "clean");
    let get = |user| json(&data, &["get", "--user", user, "--agent", "Assistant", "preferences"]);
    assert_eq!(get("alice")["value"]["theme"], "dark");
    assert_eq!(get("bob")["value"]["theme"], "light");
    assert_eq!(get("alice")["version"], get("bob")["version"]);
}

#[test]
fn users_are_archived_erased_and_not_brought_back() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    json(&data, &["user", "add", "alice"]);
    json(&data, &["push", "--user", "alice", "--agent", "a", "key", "old"]);
    let archive = folder.path().join("alice.archive");
    let archive = archive.to_str().unwrap();
    json(&data, &["user", "backup", "alice", archive]);
    json(&data, &["push", "--user", "alice", "--agent", "a", "key", "{\"new\": true}"]);
    assert!(!syntha(&data, &["user", "restore", "alice", archive]).status.success(), "it asks for --yes");
    json(&data, &["user", "restore", "alice", archive, "--yes"]);
    assert_eq!(json(&data, &["get", "--user", "alice", "--agent", "a", "key"])["value"], "old");
    json(&data, &["user", "erase", "alice", "--yes"]);
    assert_eq!(json(&data, &["user", "list"]), serde_json::json!([]));
    let again = syntha(&data, &["user", "add", "alice"]);
    assert!(!again.status.success());
    assert!(String::from_utf8_lossy(&again.stderr).contains("erased"));
    json(&data, &["user", "add", "alice", "--recreate"]);
    assert_eq!(json(&data, &["stats", "--user", "alice"])["entries"], 0);
    json(&data, &["user", "add", "bob"]);
    json(&data, &["push", "--user", "bob", "--agent", "a", "key", "1"]);
    // Nobody opens this one: who was opened has a trail that says so, and so data.
    json(&data, &["user", "add", "carol"]);
    let totals = json(&data, &["stats"]);
    assert_eq!(
        (&totals["users"], &totals["users_without_data"]),
        (&serde_json::json!(3), &serde_json::json!(1))
    );
    assert_eq!((&totals["entries"], &totals["bytes"]), (&serde_json::json!(1), &serde_json::json!(4)));
}

#[test]
fn settings_come_from_flag_then_environment_then_file() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("syntha.toml"), "data = \"from-file\"\n").unwrap();
    let run = |environment: Option<&str>, flag: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_syntha"));
        command.env_clear().current_dir(folder.path()).args(["user", "list"]);
        command.envs(environment.map(|data| ("SYNTHA_DATA", data)));
        command.args(flag.map(|data| format!("--data={data}")));
        assert!(command.status().unwrap().success());
    };
    let there = |name: &str| folder.path().join(name).exists();
    run(None, None);
    assert!(there("from-file"));
    run(Some("from-environment"), None);
    assert!(there("from-environment"));
    run(Some("not-this"), Some("from-flag"));
    assert!(there("from-flag") && !there("not-this"));
}

/// The database was written by the real Python package; what it must become was asked of that package.
#[test]
fn a_python_syntha_database_becomes_users_of_their_own() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/python-syntha");
    for sealed in [true, false] {
        import_fixture(&fixture.join("small.db"), &fixture.join("small.expect.json"), sealed);
    }
    // A larger one is made as `tests/python-syntha/README.md` says; its expectations lie beside it.
    if let Some(database) = std::env::var_os("SYNTHA_IMPORT") {
        let database = Path::new(&database);
        for sealed in [true, false] {
            import_fixture(database, &database.with_extension("expect.json"), sealed);
        }
    }
}

fn import_fixture(database: &Path, expected: &Path, sealed: bool) {
    let expected: Value = serde_json::from_slice(&std::fs::read(expected).unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let import = |more: &[&str]| {
        json(&data, &[&["import", "--from", "python-syntha", database.to_str().unwrap()], more].concat())
    };
    // What is made so is opened so ever after.
    let first = import(if sealed { &[] } else { &["--plain"] });
    assert_eq!(first["imported"], expected["importable"]);
    assert_eq!(first["skipped"], expected["skipped_by_reason"]);
    println!(
        "evidence: {} items of {} users imported, each user's canary in {}",
        first["imported"],
        expected["users"].as_object().unwrap().len(),
        if sealed { "no file" } else { "the user's own file alone" }
    );

    let users = expected["users"].as_object().unwrap();
    let mut checked = 0;
    for (user, expected) in users {
        for (agent, keys) in expected["visible"].as_object().unwrap() {
            let seen = json(&data, &["list", "--user", user, "--agent", agent]);
            assert_eq!(sorted(&seen), sorted(keys), "{user} {agent}");
            checked += sorted(keys).len();
        }
    }
    assert!(checked > users.len());

    // In the raw files, each user's canary stands in that user's file and in no other; sealed, in none, the keystore's included.
    let tags = json(&data, &["user", "list"]);
    let mut files = Vec::new();
    collect(folder.path(), &mut files);
    assert!(files.iter().any(|(name, _)| name.ends_with(".db")));
    for (user, expected) in users {
        let tag = tags.as_array().unwrap().iter().find(|row| row["user"] == **user).unwrap();
        let canary = expected["canary"].as_str().unwrap();
        let holding: Vec<_> =
            files.iter().filter(|(_, bytes)| holds(bytes, canary)).map(|(name, _)| name).collect();
        if sealed {
            assert_eq!(holding, [""; 0], "{user}");
        } else {
            assert_eq!(holding, [&format!("{}.db", tag["tag"].as_str().unwrap())], "{user}");
        }
    }

    let again = import(&[]);
    assert_eq!(again["imported"], 0);
    let again = import(&["--into-existing"]);
    assert_eq!((&again["imported"], &again["already_there"]), (&Value::from(0), &expected["importable"]));
    let nobodys = import(&["--user", "nobody in particular"]);
    assert!(nobodys["imported"].as_u64().unwrap() > 0);
    let got = json(&data, &["get", "--user", "nobody in particular", "--agent", "a", "legacy_config"]);
    assert_eq!(got["value"], "newest");
    assert!(
        !syntha(&data, &["get", "--user", "nobody in particular", "--agent", "a", "legacy_gone"])
            .status
            .success()
    );
}

macro_rules! tables {
    ($value:literal, $column:literal, $content:literal) => {
        concat!(
            "CREATE TABLE context_items (key TEXT, value ",
            $value,
            ", subscribers TEXT, ttl REAL, created_at REAL, user_id TEXT COLLATE NOCASE);
             CREATE TABLE agent_topics (agent_name TEXT, topics TEXT, user_id TEXT COLLATE NOCASE);
             CREATE TABLE agent_permissions (agent_name TEXT, allowed_topics TEXT, user_id TEXT COLLATE NOCASE);
             INSERT INTO context_items (key, created_at, user_id, ",
            $column,
            ") SELECT column1, column2, column3, ",
            $content,
            " FROM (VALUES ('k', 1, 'alice'), ('k', 2, 'Alice'));"
        )
    };
}

/// A hostile file's own collation makes no two users one, and its computed columns compute nothing.
#[test]
fn a_hostile_database_is_refused_or_kept_apart() {
    let folder = tempfile::tempdir().unwrap();
    let make = |name: &str, tables: &'static str| {
        let path = folder.path().join(name);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            use sqlx::{ConnectOptions, Connection, Executor};
            let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path).create_if_missing(true);
            let mut db = options.connect().await.unwrap();
            db.execute(tables).await.unwrap();
            db.close().await.unwrap();
        });
        path
    };
    let data = folder.path().join("data");
    let computed =
        make("computed.db", tables!("TEXT AS (printf('%.*c', 600000000, 'x'))", "subscribers", "'[]'"));
    let refused = syntha(&data, &["import", "--from", "python-syntha", computed.to_str().unwrap()]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("no plain table"));
    let folded = make("folded.db", tables!("TEXT", "value", "'\"' || column3 || '\"'"));
    let report = json(&data, &["import", "--from", "python-syntha", folded.to_str().unwrap()]);
    assert_eq!(report["imported"], 2, "{report}");
    for user in ["alice", "Alice"] {
        let got = json(&data, &["get", "--user", user, "--agent", "a", "k"]);
        assert_eq!(got["value"], user);
    }
}

fn sorted(keys: &Value) -> Vec<String> {
    let mut keys: Vec<_> =
        keys.as_array().unwrap().iter().map(|key| key.as_str().unwrap().to_owned()).collect();
    keys.sort();
    keys
}

fn collect(folder: &Path, into: &mut Vec<(String, Vec<u8>)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, into);
        } else {
            into.push((
                path.file_name().unwrap().to_str().unwrap().to_owned(),
                std::fs::read(&path).unwrap(),
            ));
        }
    }
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// A process that holds the folder is this test's own; the program is another one.
#[tokio::test(flavor = "multi_thread")]
async fn beside_a_holder_reads_work_and_writes_name_it() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mesh = syntha::ContextMesh::open(&data, "alice").await.unwrap();
    mesh.agent("a").unwrap().push("key", 7).await.unwrap();
    mesh.thread("chat").unwrap().append(syntha::Message::user("hello")).await.unwrap();
    for (arguments, expected) in [
        (&["user", "list"][..], "alice"),
        (&["get", "--user", "alice", "--agent", "a", "key"], "7"),
        (&["list", "--user", "alice", "--agent", "a"], "key"),
        (&["topics", "--user", "alice"], ""),
        (&["stats", "--user", "alice"], "entries"),
        (&["history", "list", "--user", "alice"], "chat"),
        (&["history", "show", "--user", "alice", "chat"], "hello"),
        (&["export", "--user", "alice", folder.path().join("export").to_str().unwrap()], "1 entries"),
        (&["keys", "status"], "alice"),
    ] {
        let output = syntha(&data, arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {said}");
        assert!(said.contains("reading beside it"), "{said}");
        assert!(String::from_utf8_lossy(&output.stdout).contains(expected), "{arguments:?}");
    }
    for arguments in [
        &["user", "add", "bob"][..],
        &["user", "erase", "alice", "--yes"],
        &["push", "--user", "alice", "--agent", "a", "key", "8"],
        &["--shared", "push", "--user", "alice", "--agent", "a", "key", "8"],
    ] {
        let output = syntha(&data, arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{arguments:?}");
        assert!(said.contains(&format!("process {}", std::process::id())), "{said}");
    }
    // A backup is written into the trail, which nobody beside the holder can.
    let (archive, copy) = (folder.path().join("archive"), folder.path().join("copy"));
    let backups = [
        &["user", "backup", "alice", archive.to_str().unwrap()][..],
        &["backup", "--all", copy.to_str().unwrap()],
    ];
    for arguments in backups {
        let output = syntha(&data, arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && said.contains("through the process that holds the data"),
            "{said}"
        );
    }
    assert!(!archive.exists());
    assert_eq!(mesh.agent("a").unwrap().get::<u64>("key").await.unwrap(), Some(7));
    let elsewhere = tempfile::tempdir().unwrap();
    let (archive, copy) = (elsewhere.path().join("archive"), elsewhere.path().join("copy"));
    let backups = [
        &["user", "backup", "alice", archive.to_str().unwrap()][..],
        &["backup", "--all", copy.to_str().unwrap()],
    ];
    let bare = folder.path().join("bare");
    let (users, host) = syntha::UserManager::builder().sqlite(&bare).plain().no_audit().open().await.unwrap();
    users.create_user_session(&host, "alice").await.unwrap().agent("a").unwrap().push("k", 1).await.unwrap();
    for (arguments, expected) in backups.into_iter().zip(["wrote", "1 of them with data"]) {
        let output = syntha(&bare, &[&["--plain"], arguments].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stdout).contains(expected), "{arguments:?}");
    }
}

// On threads of its own, so that this process, which waits for the other one, gives up its turn at the audit log meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_shared_folder_is_written_by_two_processes() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mesh = syntha::ContextMesh::open_shared(&data, "alice").await.unwrap();
    // Nobody has written yet; the program makes the user's file, and this process finds it.
    let agent = mesh.agent("a").unwrap();
    assert_eq!(agent.get::<u64>("key").await.unwrap(), None);
    let push = |value| json(&data, &["--shared", "push", "--user", "alice", "--agent", "b", "key", value]);
    push("1");
    assert_eq!(agent.get::<u64>("key").await.unwrap(), Some(1));
    agent.push("key", 2).await.unwrap();
    let get = json(&data, &["--shared", "get", "--user", "alice", "--agent", "b", "key"]);
    assert_eq!(get["value"], 2);
    push("3");
    assert_eq!(agent.get::<u64>("key").await.unwrap(), Some(3));
    // A life that another process ends is over here; the next one is another.
    json(&data, &["--shared", "user", "erase", "alice", "--yes"]);
    assert_eq!(agent.get::<u64>("key").await.unwrap_err().kind(), syntha::MeshErrorKind::Gone);
    let erased = syntha::ContextMesh::open_shared(&data, "alice").await.unwrap_err();
    assert_eq!(erased.kind(), syntha::ErrorKind::Erased);
    json(&data, &["--shared", "user", "add", "alice", "--recreate"]);
    assert_eq!(agent.push("key", 4).await.unwrap_err().kind(), syntha::MeshErrorKind::Gone);
    let again = syntha::ContextMesh::open_shared(&data, "alice").await.unwrap();
    assert_eq!(again.size().await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_write_does_not_bring_back_whom_another_process_erased() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let newborn = syntha::ContextMesh::open_shared(&data, "alice").await.unwrap();
    json(&data, &["--shared", "user", "erase", "alice", "--yes"]);
    assert_eq!(newborn.size().await.unwrap_err().kind(), syntha::MeshErrorKind::Gone);
    let other = syntha::ContextMesh::open_shared(&data, "bob").await.unwrap();
    json(&data, &["--shared", "user", "erase", "bob", "--yes"]);
    json(&data, &["--shared", "user", "add", "bob", "--recreate"]);
    assert_eq!(other.push("key", 1).await.unwrap_err().kind(), syntha::MeshErrorKind::Gone);
    assert_eq!(json(&data, &["--shared", "stats", "--user", "bob"])["entries"], 0);
}

/// Who changes which users there are waits until another process, which is at it, is done.
#[tokio::test(flavor = "multi_thread")]
async fn users_are_changed_in_turn() {
    use syntha::sqlite::{Mode, SqliteConfig, SqliteStore};
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    for user in ["alice", "bob"] {
        json(&data, &["--shared", "user", "add", user]);
    }
    json(&data, &["--shared", "push", "--user", "alice", "--agent", "a", "key", "1"]);
    json(&data, &["--shared", "user", "erase", "bob", "--yes"]);
    let archive = folder.path().join("archive");
    let archive = archive.to_str().unwrap();
    json(&data, &["--shared", "user", "backup", "alice", archive]);
    let keystore = SqliteConfig::new(folder.path().join("data.keys")).mode(Mode::Shared);
    let keystore = SqliteStore::open(keystore).await.unwrap();
    let keystore = syntha::keys::Keystore::open(std::sync::Arc::new(keystore)).await.unwrap();
    let kek = syntha::Kek::file(folder.path().join("data.key"));
    let keys = syntha::keys::Keychain::open(keystore, &kek, syntha::KeyCache::default()).await.unwrap();
    let config = SqliteConfig::new(&data).mode(Mode::Shared).deployment_key(keys.deployment_key().clone());
    let store = SqliteStore::open(config).await.unwrap();
    let turn = store.turn().await.unwrap();
    let commands = [
        &["--shared", "user", "erase", "alice", "--yes"][..],
        &["--shared", "user", "restore", "alice", archive, "--yes"],
        &["--shared", "user", "add", "bob", "--recreate"],
    ];
    std::thread::scope(|scope| {
        let started = commands.map(|arguments| scope.spawn(|| syntha(&data, arguments)));
        for refused in started.map(|thread| thread.join().unwrap()) {
            assert!(!refused.status.success());
            assert!(String::from_utf8_lossy(&refused.stderr).contains("another process"));
        }
    });
    drop(turn);
    for arguments in commands.iter().rev() {
        json(&data, arguments);
    }
}
