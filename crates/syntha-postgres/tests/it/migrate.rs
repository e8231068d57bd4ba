//! From a database as the first version left it: its functions, then each user's tables, while users are served.

use std::sync::Arc;
use std::time::Duration;

use sqlx::{Connection, Executor, PgConnection};
use syntha_postgres::testing::TestDatabase;
use syntha_postgres::{InstallConfig, Mode, PostgresStore, install, migrate, versions};
use syntha_store::{Changes, DeploymentKey, ErrorKind, Keyspace, Scan, Store, UserId, UserStore, UserTag};

use super::{MODES, database, id, put, user, who};

/// The texts of version 1, as they were.
const TABLES: &str = include_str!("fixtures/v1/tables.sql");
const PLACE: [&str; 2] =
    [include_str!("fixtures/v1/place_schema.sql"), include_str!("fixtures/v1/place_rls.sql")];
const FUNCTIONS: &str = include_str!("fixtures/v1/functions.sql");
const RLS: &str = include_str!("fixtures/v1/rls.sql");
const GRANTS: &str = include_str!("fixtures/v1/grants.sql");

const INDICES: &str = "SELECT count(*) FROM pg_indexes WHERE indexname = 'user_deleted_epoch'";

fn key() -> DeploymentKey {
    DeploymentKey::from_bytes([7; 32])
}

fn tag_of(name: &str) -> UserTag {
    key().tag(&UserId::new(name).unwrap())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A database that version 1 installed, with so many users that version 1 made, each with a record, and one that was deleted.
async fn old(mode: Mode, users: usize) -> TestDatabase {
    let database = database(mode).await;
    database.admin("DROP SCHEMA syntha CASCADE; DROP SCHEMA IF EXISTS syntha_rows CASCADE").await.unwrap();
    let (place, rls) = match mode {
        Mode::Schema => (PLACE[0], ""),
        Mode::Rls => (PLACE[1], RLS),
    };
    let print = hex(key().fingerprint().as_bytes());
    let texts = format!(
        "BEGIN; SELECT set_config('syntha.app_role', 'syntha_app', true); {TABLES} {place} {FUNCTIONS} {rls} {GRANTS}
         INSERT INTO syntha.deployment (one, mode, version, key_print) VALUES (1, '{}', 1, decode('{print}', 'hex')); COMMIT",
        mode.name()
    );
    database.run("syntha_owner", &texts).await.unwrap();
    let mut calls = String::new();
    for n in 0..users {
        let tag = hex(tag_of(&format!("user-{n}")).as_bytes());
        calls += &format!(
            "SELECT syntha.create_user(decode('{tag}', 'hex'), decode(repeat('0{}', 16), 'hex'), decode('{print}', 'hex'), 0,
                decode(repeat('01', 16), 'hex'), NULL, NULL, NULL, 1, NULL,
                ARRAY[1, 1]::bigint[], ARRAY[2, 2]::bigint[], ARRAY['who', 'gone']::bytea[], ARRAY[0, 0]::bigint[],
                ARRAY[NULL, NULL]::bigint[], ARRAY['head', 'head']::bytea[], ARRAY['user-{n}', 'old']::bytea[]);",
            1 + n % 9
        );
        calls += &old_commit(&tag, 1 + n % 9, 4, "gone");
    }
    database.run("syntha_app", &calls).await.unwrap();
    database
}

/// A commit in the words of version 1.
fn old_commit(tag: &str, life: usize, kind: u8, name: &str) -> String {
    let data = if kind == 4 {
        "ARRAY[NULL]::bytea[], ARRAY[NULL]::bytea[]"
    } else {
        "ARRAY['head']::bytea[], ARRAY['v1']::bytea[]"
    };
    format!(
        "SELECT syntha.commit(decode('{tag}', 'hex'), decode(repeat('0{life}', 16), 'hex'), NULL, NULL, 1,
            decode(md5('{name} {kind}'), 'hex'), NULL, NULL, NULL, 2, NULL,
            ARRAY[{kind}]::bigint[], ARRAY[2]::bigint[], ARRAY['{name}']::bytea[], ARRAY[0]::bigint[], ARRAY[NULL]::bigint[], {data});"
    )
}

fn owner(database: &TestDatabase, mode: Mode) -> InstallConfig {
    InstallConfig::new(database.url("syntha_owner")).mode(mode)
}

/// What a user of [`old`] has, through every kind of call.
async fn check_user(store: &PostgresStore, n: usize) -> Arc<dyn UserStore> {
    let user = store.open(tag_of(&format!("user-{n}"))).await.unwrap();
    assert_eq!(who(&*user).await, Some(format!("user-{n}")));
    let page = user.scan(Scan::records(Keyspace::Context, 9)).await.unwrap().value;
    let names: Vec<_> = page.records.iter().map(|(head, _)| head.id.name().to_vec()).collect();
    assert!(!names.contains(&b"gone".to_vec()), "{names:?}");
    let mut since = user.state().await.unwrap().stamp;
    since.epoch.0 = 1;
    let Changes::Delta(delta) = user.changes(since, 100).await.unwrap() else { panic!("too old") };
    assert!(delta.deleted.iter().any(|(_, gone)| gone == &id("gone")), "{:?}", delta.deleted);
    user
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_of_the_version_before_are_served_and_migrated() {
    for mode in MODES {
        let database = old(mode, 12).await;
        let config = owner(&database, mode);
        let opened = PostgresStore::open(database.config()).await.map(drop).map_err(|error| error.kind());
        assert_eq!(opened, Err(ErrorKind::Unsupported));
        let refused = migrate(&config, &key(), |_| {}).await.map(drop).map_err(|error| error.kind());
        assert_eq!(refused, Err(ErrorKind::Unsupported), "the functions come first");
        assert_eq!(versions(&config, &key()).await.unwrap().functions, 1);

        install(&config, &key()).await.unwrap();
        let store = PostgresStore::open(database.config()).await.unwrap();
        store.verify().await.unwrap();
        let found = versions(&config, &key()).await.unwrap();
        // `verify` has made the deployment's own space.
        assert_eq!((found.functions, found.users), (2, vec![(1, 12), (2, 1)]));
        for n in 0..12 {
            check_user(&store, n).await.commit(put("more", "new")).await.unwrap();
        }
        // A process of version 1 that still runs goes on.
        let tag = hex(tag_of("user-0").as_bytes());
        database.run("syntha_app", &old_commit(&tag, 1, 1, "late")).await.unwrap();
        user(&store, "young").await;
        assert_eq!(versions(&config, &key()).await.unwrap().behind(), 12);

        let mut told = 0;
        let migrated = migrate(&config, &key(), |_| told += 1).await.unwrap();
        assert_eq!((migrated.done, migrated.failed, told), (12, 0, 12));
        assert_eq!(versions(&config, &key()).await.unwrap().users, [(2, 14)]);
        let indices = database.number(INDICES).await.unwrap();
        assert_eq!(indices, if mode == Mode::Schema { 14 } else { 1 });
        store.verify().await.unwrap();
        for n in 0..12 {
            check_user(&store, n).await.commit(put("more", "newer")).await.unwrap();
        }
        let late = check_user(&store, 0).await.read(Keyspace::Context, &[id("late")]).await.unwrap().value;
        assert_eq!(late[0].as_ref().map(|record| &record.body[..]), Some(&b"v1"[..]));
        assert_eq!(migrate(&config, &key(), |_| {}).await.unwrap().done, 0);
        store.close().await.unwrap();
        database.remove().await.unwrap();
    }
}

/// Ended in the middle, begun again, and by two at once: everybody is migrated once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_goes_on_where_it_was_ended() {
    let database = old(Mode::Schema, 40).await;
    let config = owner(&database, Mode::Schema);
    install(&config, &key()).await.unwrap();
    let ended = tokio::spawn({
        let config = config.clone();
        async move { migrate(&config, &key(), |at| assert!(at.done < 5, "enough")).await }
    });
    assert!(ended.await.is_err());
    let left = versions(&config, &key()).await.unwrap().behind();
    assert!(left > 0 && left <= 36, "{left} are left");
    let key = key();
    let both = tokio::join!(migrate(&config, &key, |_| {}), migrate(&config, &key, |_| {}));
    let done = both.0.unwrap().done + both.1.unwrap().done;
    assert!(done <= left && done + 4 >= left, "{done} of {left}");
    assert_eq!(versions(&config, &key).await.unwrap().users, [(2, 40)]);
    assert_eq!(database.number(INDICES).await.unwrap(), 40);
    database.remove().await.unwrap();
}

/// Who can't be migrated now is passed over and named by tag, and served as before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_who_is_in_use_holds_nobody_up() {
    let database = old(Mode::Schema, 6).await;
    let config = owner(&database, Mode::Schema);
    install(&config, &key()).await.unwrap();
    let busy = tag_of("user-3");
    let mut holder = PgConnection::connect(&database.url("syntha_owner")).await.unwrap();
    let hold = format!("BEGIN; LOCK TABLE u_{busy}.user_deleted IN ROW EXCLUSIVE MODE");
    holder.execute(sqlx::AssertSqlSafe(hold)).await.unwrap();
    let migrated = migrate(&config, &key(), |_| {}).await.unwrap();
    assert_eq!((migrated.done, migrated.failed), (5, 1));
    assert_eq!(migrated.failures, [(Some(busy), ErrorKind::Busy)]);
    let store = PostgresStore::open(database.config()).await.unwrap();
    check_user(&store, 3).await.commit(put("more", "new")).await.unwrap();
    holder.execute("ROLLBACK").await.unwrap();
    assert_eq!(migrate(&config, &key(), |_| {}).await.unwrap().done, 1);
    store.close().await.unwrap();
    database.remove().await.unwrap();
}

/// A user whose tables nobody here knows is not touched.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_of_another_version_are_not_opened() {
    let database = database(Mode::Schema).await;
    let store = PostgresStore::open(database.config()).await.unwrap();
    user(&store, "alice").await;
    for format in [0, 3] {
        database.admin(&format!("UPDATE syntha.member SET format = {format}")).await.unwrap();
        let opened = store.open(tag_of("alice")).await.map(drop).map_err(|error| error.kind());
        assert_eq!(opened, Err(ErrorKind::Unsupported), "{format}");
    }
    store.close().await.unwrap();
    database.remove().await.unwrap();
}

/// Users write while their tables are migrated, and nothing of it is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_write_while_they_are_migrated() {
    let database = old(Mode::Schema, 30).await;
    let config = owner(&database, Mode::Schema).parallel(4);
    install(&config, &key()).await.unwrap();
    let store = Arc::new(PostgresStore::open(database.config()).await.unwrap());
    let writer = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            let mut users = Vec::new();
            for n in 0..30 {
                users.push(store.open(tag_of(&format!("user-{n}"))).await.unwrap());
            }
            for turn in 0..8 {
                for user in &users {
                    user.commit(put("turn", &turn.to_string())).await.unwrap();
                    let delete = super::batch().delete(Keyspace::Context, id("turn"));
                    user.commit(delete).await.unwrap();
                }
            }
        }
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    let migrated = migrate(&config, &key(), |_| {}).await.unwrap();
    writer.await.unwrap();
    assert_eq!((migrated.done, migrated.failed), (30, 0));
    for n in 0..30 {
        // One commit made the user, one deleted, 16 followed.
        assert_eq!(check_user(&store, n).await.state().await.unwrap().stamp.epoch.0, 18);
    }
    store.close().await.unwrap();
    database.remove().await.unwrap();
}
