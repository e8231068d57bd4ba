//! Accounts, tokens, logins and permissions from the command line.

use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde_json::{Value, json};

use crate::{json, syntha};

fn write(path: &Path, text: &str) {
    use std::io::Write;
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

fn fails(data: &Path, arguments: &[&str]) -> String {
    let output = syntha(data, arguments);
    assert!(!output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn path(file: &Path) -> &str {
    file.to_str().unwrap()
}

#[test]
fn a_token_opens_its_own_users_data_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let token = folder.path().join("token");
    for user in ["alice", "bob"] {
        json(&data, &["account", "add", user]);
        json(&data, &["push", "--user", user, "--agent", "a", "who", user]);
    }
    let made = json(&data, &["token", "create", "--user", "alice", "--agent", "a", "--may", "read,write"]);
    assert_eq!(made["agent"], "a");
    write(&token, made["token"].as_str().unwrap());
    let with = |arguments: &[&str]| json(&data, &[&["--token-file", path(&token)], arguments].concat());
    assert_eq!(with(&["get", "who"])["value"], "alice");
    assert_eq!(with(&["get", "--agent", "a", "who"])["value"], "alice");
    with(&["push", "note", "1"]);
    assert_eq!(with(&["list"]), json!(["note", "who"]));
    let refused = |arguments: &[&str]| fails(&data, &[&["--token-file", path(&token)], arguments].concat());
    assert!(refused(&["get", "--user", "bob", "--agent", "a", "who"]).contains("not both"));
    assert!(refused(&["get", "--agent", "b", "who"]).contains("session"));
    // What is the operator's.
    for arguments in [
        &["user", "list"][..],
        &["user", "erase", "bob", "--yes"],
        &["account", "list"],
        &["token", "list", "--user", "alice"],
        &["permissions", "show", "--user", "alice", "--agent", "a"],
        &["audit", "show", "--deployment"],
        &["quickstart"],
        &["keys", "status"],
    ] {
        assert!(refused(arguments).contains("operator"), "{arguments:?}");
    }
    let id = made["id"].as_str().unwrap();
    let listed = json(&data, &["token", "list", "--user", "alice"]);
    assert_eq!(listed[0]["id"], id);
    assert!(!listed.to_string().contains(made["token"].as_str().unwrap()));
    json(&data, &["token", "revoke", "--user", "alice", id]);
    refused(&["get", "who"]);
    assert_eq!(json(&data, &["audit", "verify", "--all", "--state"])["verdict"], "clean");
}

#[test]
fn a_password_logs_in_until_the_account_is_suspended() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let (password, session) = (folder.path().join("password"), folder.path().join("session"));
    write(&password, "a password of several words\n");
    json(&data, &["account", "add", "alice", "--may", "read,write,create-agents"]);
    let login = ["login", "--user", "alice", "--password-file", path(&password)];
    let refused = fails(&data, &login);
    json(&data, &["account", "password", "alice", "--password-file", path(&password)]);
    let made = json(&data, &login);
    write(&session, made["session"].as_str().unwrap());
    json(&data, &["--token-file", path(&session), "push", "--agent", "a", "k", "1"]);
    assert_eq!(json(&data, &["--token-file", path(&session), "get", "--agent", "a", "k"])["value"], 1);
    let shown = json(&data, &["account", "show", "alice"]);
    assert_eq!(
        (&shown["suspended"], &shown["may"]),
        (&json!(false), &json!(["read", "write", "create-agents"]))
    );
    assert_eq!(shown["sessions"][0]["id"], made["id"]);
    json(&data, &["user", "suspend", "alice"]);
    assert_eq!(fails(&data, &login), refused, "one answer, whatever the reason");
    fails(&data, &["--token-file", path(&session), "get", "--agent", "a", "k"]);
    json(&data, &["user", "resume", "alice"]);
    json(&data, &login);
    assert_eq!(json(&data, &["account", "list"])[0]["user"], "alice");
    write(&password, "short\n");
    assert!(
        fails(&data, &["account", "password", "alice", "--password-file", path(&password)]).contains("15")
    );
    json(&data, &["user", "erase", "alice", "--yes"]);
    assert_eq!(json(&data, &["account", "list"]), json!([]));
}

#[test]
fn permissions_are_granted_revoked_and_explained() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    json(&data, &["user", "add", "alice"]);
    let run = |arguments: &[&str]| -> Value {
        let (name, rest) = arguments.split_first().unwrap();
        json(&data, &[&["permissions", name, "--user", "alice", "--agent", "reader"], rest].concat())
    };
    run(&["role", "readonly"]);
    let write = ["explain", "write", "--key", "notes/1"];
    assert_eq!(run(&write), json!({ "allowed": false, "rule": "role" }));
    run(&["grant", "--prefix", "notes/", "--may", "read,write"]);
    assert_eq!(run(&write), json!({ "allowed": true, "rule": "grant" }));
    json(&data, &["push", "--user", "alice", "--agent", "reader", "notes/1", "1"]);
    run(&["deny", "--prefix", "notes/", "--may", "write"]);
    assert_eq!(run(&write), json!({ "allowed": false, "rule": "denial" }));
    fails(&data, &["push", "--user", "alice", "--agent", "reader", "notes/1", "2"]);
    run(&["lift", "--prefix", "notes/", "--may", "write"]);
    run(&["revoke", "--prefix", "notes/", "--may", "write"]);
    assert_eq!(run(&write), json!({ "allowed": false, "rule": "role" }));
    let shown = run(&["show"]);
    assert_eq!(shown["role"], json!({ "standard": "readonly" }));
    assert_eq!(shown["grants"], json!([{ "on": { "prefix": "notes/" }, "may": ["read"] }]));
    assert!(
        fails(&data, &["permissions", "grant", "--user", "alice", "--agent", "a", "--may", "read"])
            .contains("--topic")
    );
}

/// The program removes nothing as an agent, so a service does.
#[test]
fn what_an_agent_removed_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    json(&data, &["user", "add", "alice"]);
    json(&data, &["push", "--user", "alice", "--agent", "a", "note", "1"]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (users, host) = syntha::UserManager::builder().sqlite(&data).open().await.unwrap();
        let session = users.open(&host, "alice").await.unwrap();
        session.agent("a").unwrap().remove("note", None).await.unwrap();
        drop((session, host));
        users.shutdown().await.unwrap();
    });
    let listed = json(&data, &["undo", "list", "--user", "alice"]);
    assert_eq!((&listed[0]["agent"], &listed[0]["on"]), (&json!("a"), &json!("note")));
    let id = listed[0]["id"].as_str().unwrap();
    assert_eq!(
        json(&data, &["undo", "show", "--user", "alice", id]),
        json!([{ "key": "note", "state": "kept" }])
    );
    assert_eq!(json(&data, &["undo", "apply", "--user", "alice", id])["entries"], 1);
    assert_eq!(json(&data, &["get", "--user", "alice", "--agent", "a", "note"])["value"], 1);
    assert!(fails(&data, &["undo", "purge", "--user", "alice"]).contains("--yes"));
    assert_eq!(json(&data, &["undo", "list", "--user", "alice"]), json!([]));
}
