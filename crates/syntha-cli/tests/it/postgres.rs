//! The program on a PostgreSQL server.

use syntha_postgres::Mode;
use syntha_postgres::testing::{TestDatabase, TestServer};

use crate::place::{Place, set_mode};

/// A database that nobody has installed anything in; it goes with the value.
struct Server(Option<TestDatabase>, tokio::runtime::Runtime);

impl Server {
    fn new(mode: Mode) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let database = runtime.block_on(async {
            let database = TestServer::get().await.unwrap().database(mode).await.unwrap();
            let statements = "DROP SCHEMA IF EXISTS syntha_rows CASCADE; DROP SCHEMA syntha CASCADE";
            database.admin(statements).await.unwrap();
            database
        });
        Self(Some(database), runtime)
    }

    fn url(&self, role: &str) -> String {
        self.0.as_ref().unwrap().url(role)
    }

    /// A folder whose programs have the database in their environment.
    fn place(&self, mode: &str) -> Place {
        let mut place = Place::new();
        place.set("SYNTHA_POSTGRES", &self.url("syntha_app"));
        place.set("SYNTHA_POSTGRES_MODE", mode);
        place
    }

    fn install(&self, place: &mut Place) {
        place.json(&["postgres", "install", "--postgres-owner", &self.url("syntha_owner")]);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(database) = self.0.take() {
            drop(self.1.block_on(database.remove()));
        }
    }
}

#[test]
fn a_database_is_prepared_used_copied_and_restored() {
    for (mode, name) in [(Mode::Schema, "schema"), (Mode::Rls, "rls")] {
        let server = Server::new(mode);
        let mut place = server.place(name);
        assert!(place.fails(&["user", "list"]).contains("syntha postgres install"));
        assert!(place.fails(&["doctor"]).is_empty(), "what it found is its answer");
        server.install(&mut place);
        server.install(&mut place);
        place.json(&["quickstart"]);
        place.json(&["user", "add", "carol"]);
        place.push("carol", "k", "1");
        assert_eq!(place.get("carol", "k"), 1);
        assert_eq!(place.json(&["audit", "verify", "--all", "--state"])["verdict"], "clean");
        place.json(&["keys", "rotate", "--user", "carol"]);
        place.json(&["account", "add", "carol"]);
        place.json(&["user", "backup", "carol", "archive"]);
        place.push("carol", "k", "2");
        place.json(&["user", "restore", "carol", "archive", "--yes"]);
        assert_eq!(place.get("carol", "k"), 1);
        assert!(!place.path("data").exists(), "nothing went into a folder");
        let found = place.json(&["doctor"]);
        assert_eq!(found["failures"], 0, "{found}");
        place.json(&["backup", "--all", "copy"]);
        place.json(&["user", "erase", "bob", "--yes"]);
        // Into another database, with the same key.
        let other = Server::new(mode);
        place.set("SYNTHA_POSTGRES", &other.url("syntha_app"));
        let owner = other.url("syntha_owner");
        let flags = ["--state-folder", "state-2", "--key-file", "state/data.key"];
        assert!(
            place
                .fails(&[&flags[..], &["restore", "--all", "copy"]].concat())
                .contains("SYNTHA_POSTGRES_OWNER")
        );
        let report =
            place.json(&[&flags[..], &["--postgres-owner", &owner, "restore", "--all", "copy"]].concat());
        assert_eq!(report["restored"], 3, "{report}");
        let listed = place.json(&[&flags[..], &["user", "list"]].concat());
        assert_eq!(listed.as_array().unwrap().len(), 3);
    }
}

#[test]
fn a_plain_folder_moves_into_a_sealed_database() {
    let server = Server::new(Mode::Rls);
    let mut place = Place::new();
    let plain = |arguments: &[&'static str]| [&["--plain"], arguments].concat();
    place.json(&plain(&["user", "add", "alice"]));
    place.json(&plain(&["push", "--user", "alice", "--agent", "a", "k", "1"]));
    place.json(&plain(&["backup", "--all", "copy"]));
    assert!(place.fails(&["restore", "--all", "copy", "--seal"]).contains("syntha seal"));
    place.set("SYNTHA_POSTGRES", &server.url("syntha_app"));
    place.set("SYNTHA_POSTGRES_MODE", "rls");
    place.set("SYNTHA_POSTGRES_OWNER", &server.url("syntha_owner"));
    assert_eq!(place.json(&["restore", "--all", "copy", "--seal"])["sealed"], true);
    assert_eq!(place.get("alice", "k"), 1);
    assert!(place.fails(&["--plain", "user", "list"]).contains("sealed"));
    assert_eq!(place.json(&["audit", "verify", "--all", "--state"])["verdict"], "clean");
}

#[test]
fn a_password_is_kept_out_of_sight() {
    let mut place = Place::new();
    let url = "postgres://app:hunter2@127.0.0.1:1/x";
    place.keep_secret("hunter2");
    let refused = place.fails(&["--postgres", url, "user", "list"]);
    assert!(refused.contains("command line"), "{refused}");
    assert!(place.fails(&["--postgres-owner", url, "postgres", "install"]).contains("command line"));
    place.set("SYNTHA_POSTGRES", url);
    place.set("SYNTHA_POSTGRES_OWNER", url);
    for arguments in
        [&["--help"][..], &["postgres", "install"], &["user", "list"], &["doctor"], &["--json", "quickstart"]]
    {
        place.run(arguments);
    }
    place.unset();
    std::fs::write(place.path("syntha.toml"), format!("postgres = \"{url}\"\nplain = \"{url}\"\n")).unwrap();
    assert!(place.fails(&["user", "list"]).contains("line 2"));
    std::fs::write(place.path("syntha.toml"), format!("postgres = \"{url}\"\n")).unwrap();
    set_mode(&place.path("syntha.toml"), 0o644);
    assert!(place.fails(&["user", "list"]).contains("chmod 600"));
    set_mode(&place.path("syntha.toml"), 0o600);
    assert!(place.fails(&["user", "list"]).contains("syntha postgres install"));
}

#[test]
fn places_and_roles_are_chosen_by_name() {
    let mut place = Place::new();
    assert!(
        place
            .fails(&["--data", "d", "--postgres", "postgres://a@b/c", "user", "list"])
            .contains("one of them")
    );
    // A layer above wins: the folder here, though the variable names a database.
    place.set("SYNTHA_POSTGRES", "postgres://a@127.0.0.1:1/c");
    place.json(&["--data", "d", "user", "list"]);
    assert!(place.fails(&["seal", "--yes"]).contains("syntha restore"));
    assert!(place.fails(&["bench", "--seconds", "1"]).contains("--data"));
    place.unset();
    let roles = place.run(&["postgres", "roles", "--database", "shop", "--postgres-role", "shop_app"]).out;
    assert!(roles.contains("CREATE DATABASE shop OWNER syntha_owner;"), "{roles}");
    assert!(roles.contains("GRANT CONNECT ON DATABASE shop TO shop_app;"), "{roles}");
    assert!(place.fails(&["postgres", "roles", "--database", "x; DROP"]).contains("lower-case"));
}
