//! The facade on a PostgreSQL server.

use std::io::Cursor;
use std::path::{Path, PathBuf};

use syntha::keys::make_key_file;
use syntha::postgres::Mode;
use syntha::postgres::testing::{TestDatabase, TestServer};
use syntha::{
    Builder, Encryption, ErrorKind, HostAuthority, Kek, Postgres, PostgresOwner, UserManager,
    restore_all_postgres, seal_backup_into_postgres,
};

use crate::backup::{everything, fill, stopped};

/// A database that nobody has installed anything in, and a folder for the keys.
struct Place {
    database: Option<TestDatabase>,
    folder: tempfile::TempDir,
    mode: Mode,
}

impl Place {
    async fn new(mode: Mode) -> Self {
        let database = TestServer::get().await.unwrap().database(mode).await.unwrap();
        // It comes installed for another deployment.
        database
            .admin("DROP SCHEMA IF EXISTS syntha_rows CASCADE; DROP SCHEMA syntha CASCADE")
            .await
            .unwrap();
        Self { database: Some(database), folder: tempfile::tempdir().unwrap(), mode }
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn owner(&self) -> PostgresOwner {
        PostgresOwner::new(self.database.as_ref().unwrap().url("syntha_owner"))
    }

    fn postgres(&self) -> Postgres {
        self.postgres_at(&self.state())
    }

    fn postgres_at(&self, state: &Path) -> Postgres {
        Postgres::new(self.database.as_ref().unwrap().url("syntha_app"), state).mode(self.mode)
    }

    fn builder(&self) -> Builder {
        UserManager::builder().postgres_with(self.postgres())
    }

    async fn open(&self) -> (UserManager, HostAuthority) {
        self.builder().open().await.unwrap()
    }

    /// Whether a row of any table holds a text.
    async fn holds(&self, text: &str) -> bool {
        let database = self.database.as_ref().unwrap();
        let hex = data_encoding::HEXLOWER.encode(text.as_bytes());
        // A row as text shows bytes in hexadecimal digits.
        let question = format!(
            "SELECT count(*) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
             WHERE (n.nspname = 'syntha' OR n.nspname = 'syntha_rows' OR n.nspname LIKE 'u\\_%') AND c.relkind = 'r' AND position(
                 '{hex}' in query_to_xml(format('SELECT t::text AS t FROM %I.%I AS t', n.nspname, c.relname), true, true, '')::text) > 0"
        );
        database.number(&question).await.unwrap() > 0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(database) = self.database.take() {
            let remove = || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                drop(runtime.block_on(database.remove()));
            };
            drop(std::thread::spawn(remove).join());
        }
    }
}

const MODES: [Mode; 2] = [Mode::Schema, Mode::Rls];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_is_sealed_audited_and_found_again() {
    for mode in MODES {
        let place = Place::new(mode).await;
        place.builder().install(&place.owner()).await.unwrap();
        place.builder().install(&place.owner()).await.unwrap();
        let (users, host) = place.open().await;
        for user in ["alice", "bob"] {
            let session = users.create_user_session(&host, user).await.unwrap();
            session.agent("a").unwrap().push("who", user).await.unwrap();
        }
        assert!(users.sealing().is_some());
        assert!(users.audit().unwrap().verify(&syntha::AuditScope::All, true).await.is_ok());
        assert!(users.verify().await.unwrap().passed.len() > 10);
        users.shutdown().await.unwrap();
        let (users, host) = place.open().await;
        for user in ["alice", "bob"] {
            let session = users.open(&host, user).await.unwrap();
            assert_eq!(
                session.agent("a").unwrap().get::<String>("who").await.unwrap().as_deref(),
                Some(user)
            );
        }
        assert!(users.erase("alice").await.unwrap().removed);
        assert_eq!(users.open(&host, "alice").await.unwrap_err().kind(), ErrorKind::Erased);
        users.recreate("alice").await.unwrap();
        let session = users.open(&host, "alice").await.unwrap();
        assert_eq!(session.size().await.unwrap(), 0);
        users.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sealed_rows_hold_nothing_readable_and_plain_ones_do() {
    let canary = "CANARYCANARYCANARYCANARY";
    for sealed in [true, false] {
        let place = Place::new(Mode::Schema).await;
        let builder = || if sealed { place.builder() } else { place.builder().plain() };
        builder().install(&place.owner()).await.unwrap();
        let (users, host) = builder().open().await.unwrap();
        let session = users.create_user_session(&host, canary).await.unwrap();
        session.agent("a").unwrap().push("k", canary).await.unwrap();
        assert_eq!(place.holds(canary).await, !sealed);
        users.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_missing_is_an_error_and_never_a_new_start() {
    let place = Place::new(Mode::Rls).await;
    let denied = async |builder: Builder| builder.open().await.map(drop).unwrap_err();
    // Nothing is installed, and no folder is there.
    assert_eq!(denied(place.builder()).await.kind(), ErrorKind::Denied);
    assert!(!place.state().exists());
    place.builder().install(&place.owner()).await.unwrap();
    let (users, _host) = place.open().await;
    users.shutdown().await.unwrap();
    // Another folder, which another installation would fill: the database is not its.
    let other = place.folder.path().join("other");
    let builder = || UserManager::builder().postgres_with(place.postgres_at(&other));
    assert_eq!(denied(builder()).await.kind(), ErrorKind::Denied);
    assert_eq!(builder().install(&place.owner()).await.unwrap_err().kind(), ErrorKind::Denied);
    assert_eq!(denied(builder()).await.kind(), ErrorKind::Denied);
    assert_eq!(builder().plain().install(&place.owner()).await.unwrap_err().kind(), ErrorKind::Denied);
    assert_eq!(denied(builder().plain()).await.kind(), ErrorKind::Denied);
    // The other mode.
    let mode = UserManager::builder().postgres_with(place.postgres().mode(Mode::Schema));
    assert_eq!(denied(mode).await.kind(), ErrorKind::Storage);
    // As plain, with another key, without the keystore, without the key.
    assert_eq!(denied(place.builder().plain()).await.kind(), ErrorKind::Denied);
    let key = place.folder.path().join("another.key");
    make_key_file(&key).unwrap();
    assert_eq!(denied(place.builder().encryption(Kek::file(&key))).await.kind(), ErrorKind::Denied);
    for (name, kind) in [
        ("data.keys", ErrorKind::Denied),
        ("data.key", ErrorKind::KeyUnavailable),
        ("data.audit.key", ErrorKind::Denied),
        ("deployment.print", ErrorKind::Denied),
    ] {
        let (path, aside) = (place.state().join(name), place.folder.path().join(name));
        std::fs::rename(&path, &aside).unwrap();
        assert_eq!(denied(place.builder()).await.kind(), kind, "{name}");
        std::fs::rename(&aside, &path).unwrap();
    }
    // Open to others.
    let rights = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
    std::fs::set_permissions(place.state(), rights(0o755)).unwrap();
    assert_eq!(denied(place.builder()).await.kind(), ErrorKind::Denied);
    std::fs::set_permissions(place.state(), rights(0o700)).unwrap();
    place.open().await.0.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_comes_back_out_of_its_backup_into_another_database() {
    for (mode, sealed) in [(Mode::Schema, true), (Mode::Rls, false)] {
        let place = Place::new(mode).await;
        let key = place.folder.path().join("seal.key");
        make_key_file(&key).unwrap();
        let of = |builder: Builder| {
            if sealed { builder.encryption(Kek::file(&key)) } else { builder.plain() }
        };
        of(place.builder()).install(&place.owner()).await.unwrap();
        let (users, host) = of(place.builder()).open().await.unwrap();
        for number in 0..6 {
            fill(&users, &host, &format!("user-{number}")).await;
        }
        users.erase("user-2").await.unwrap();
        let before = everything(&users, &host).await;
        let backup = place.folder.path().join("backup");
        let report = users.backup_all(&backup, |_| {}).await.unwrap();
        assert_eq!((report.users, report.archives >= 5, report.sealed), (5, true, sealed));
        users.shutdown().await.unwrap();
        let encryption = || sealed.then(|| Encryption::new(Kek::file(&key)));
        // Its own database has data, whatever folder asks.
        let again = place.folder.path().join("again");
        let refused =
            restore_all_postgres(&backup, place.postgres_at(&again), &place.owner(), encryption(), |_| {})
                .await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::AlreadyExists);
        // Another one, in the other mode; stopped in the middle, and nothing else opens it meanwhile.
        let other = Place::new(if mode == Mode::Rls { Mode::Schema } else { Mode::Rls }).await;
        let restore = async |progress: &mut (dyn FnMut(syntha::UserProgress) + Send)| {
            restore_all_postgres(&backup, other.postgres(), &other.owner(), encryption(), progress).await
        };
        assert!(stopped(2, restore).await);
        let early = of(other.builder()).open().await.unwrap_err();
        assert!([ErrorKind::Denied, ErrorKind::Locked].contains(&early.kind()), "{early:?}");
        let report = crate::backup::unlocked(async || {
            restore_all_postgres(&backup, other.postgres(), &other.owner(), encryption(), |_| {}).await
        })
        .await;
        assert_eq!((report.restored, report.erased, report.sealed), (5, 1, sealed));
        let (users, host) = of(other.builder()).open().await.unwrap();
        assert_eq!(everything(&users, &host).await, before);
        assert_eq!(users.open(&host, "user-2").await.unwrap_err().kind(), ErrorKind::Erased);
        users.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_folder_moves_into_a_sealed_database() {
    let (folder, data) = crate::data();
    let (users, host) = UserManager::builder().sqlite(&data).plain().open().await.unwrap();
    for user in ["alice", "bob", "carol"] {
        fill(&users, &host, user).await;
    }
    users.erase("carol").await.unwrap();
    let before = everything(&users, &host).await;
    let tag = users.tag("alice").unwrap();
    let backup = folder.path().join("backup");
    users.backup_all(&backup, |_| {}).await.unwrap();
    users.shutdown().await.unwrap();
    let place = Place::new(Mode::Schema).await;
    let key = place.folder.path().join("seal.key");
    make_key_file(&key).unwrap();
    let seal = async |progress: &mut (dyn FnMut(syntha::UserProgress) + Send)| {
        let kek = Kek::file(&key);
        seal_backup_into_postgres(&backup, place.postgres(), &place.owner(), kek, progress).await
    };
    assert!(stopped(1, seal).await);
    let report = crate::backup::unlocked(async || seal(&mut |_| {}).await).await;
    assert_eq!((report.restored, report.erased, report.sealed, report.audited), (2, 1, true, true));
    assert!(!place.holds("alice").await, "names are sealed too");
    let (users, host) = place.builder().encryption(Kek::file(&key)).open().await.unwrap();
    assert_eq!(users.tag("alice").unwrap(), tag);
    assert_eq!(everything(&users, &host).await, before);
    let verified = users.audit().unwrap().verify(&syntha::AuditScope::All, true).await.unwrap();
    assert!(verified.is_clean(), "{verified:?}");
    users.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn archives_keys_and_accounts_work() {
    let place = Place::new(Mode::Schema).await;
    place.builder().install(&place.owner()).await.unwrap();
    let (users, host) = place.open().await;
    let agent = users.create_user_session(&host, "alice").await.unwrap().agent("a").unwrap();
    users.create("bob").await.unwrap();
    agent.push("k", "old").await.unwrap();
    let mut archive = Vec::new();
    users.backup("alice", &mut archive).await.unwrap();
    agent.push("k", "new").await.unwrap();
    let foreign = users.restore("bob", Cursor::new(archive.clone())).await.unwrap_err();
    assert_eq!(foreign.kind(), ErrorKind::Invalid);
    users.restore("alice", Cursor::new(archive.clone())).await.unwrap();
    assert!(agent.push("k", "late").await.is_err());
    let agent = users.open(&host, "alice").await.unwrap().agent("a").unwrap();
    assert_eq!(agent.get::<String>("k").await.unwrap().as_deref(), Some("old"));
    let rotated = users.rotate_keys("alice", |_| {}).await.unwrap();
    assert!(rotated.sealed > 0);
    let accounts = users.accounts();
    accounts.create("alice", syntha::Scopes::ALL).await.unwrap();
    let request = syntha::TokenRequest::new(syntha::Scopes::ALL);
    let (token, info) = accounts.create_token("alice", &request).await.unwrap();
    let session = users.enter(&token).await.unwrap();
    let entered = session.agent("a").unwrap();
    assert_eq!(entered.get::<String>("k").await.unwrap().as_deref(), Some("old"));
    accounts.revoke_token("alice", info.id).await.unwrap();
    assert!(entered.get::<String>("k").await.is_err());
    assert!(users.enter(&token).await.is_err());
    // An erasure takes the key of the archive along.
    users.erase("alice").await.unwrap();
    users.recreate("alice").await.unwrap();
    let late = users.restore("alice", Cursor::new(archive)).await.unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Denied);
    users.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_text_holds_a_password() {
    let place = Place::new(Mode::Schema).await;
    let url = "postgres://syntha_app:hunter2@127.0.0.1:1/nowhere?sslmode=hunter2";
    let owner = PostgresOwner::new(url);
    let postgres = Postgres::new(url, place.state());
    let builder = || UserManager::builder().postgres_with(postgres.clone());
    let mut texts = vec![format!("{owner:?}{postgres:?}{:?}", builder())];
    for error in [builder().install(&owner).await.unwrap_err(), builder().open().await.unwrap_err()] {
        texts.push(format!("{error:?}{error}"));
        let mut cause = std::error::Error::source(&error);
        while let Some(source) = cause {
            texts.push(format!("{source:?}{source}"));
            cause = source.source();
        }
    }
    assert!(texts.iter().all(|text| !text.contains("hunter2")), "{texts:?}");
}
