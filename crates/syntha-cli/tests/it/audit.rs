//! `syntha audit`, as an operator and an auditor run it.

use serde_json::json;

use super::{json, syntha};

#[test]
fn a_trail_is_begun_shown_exported_and_verified_without_the_data() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let text = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    // Who says nothing has a trail in a new folder, and goes on with it.
    let first = syntha(&data, &["user", "add", "alice"]);
    let said = String::from_utf8(first.stderr).unwrap();
    assert!(first.status.success() && said.contains("data.audit.key, which signs the audit log"), "{said}");
    json(&data, &["push", "--user", "alice", "--agent", "scout", "plan", "1"]);
    json(&data, &["push", "--user", "alice", "--agent", "scout", "plan", "2"]);
    let shown = json(&data, &["audit", "show", "--user", "alice", "--action", "push"]);
    let entries = shown["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    assert_eq!((&entries[0]["by"], &entries[0]["on"]), (&json!("scout"), &json!("plan")));
    let csv = syntha(&data, &["audit", "show", "--user", "alice", "--agent", "scout", "--format", "csv"]);
    let csv = String::from_utf8(csv.stdout).unwrap();
    assert!(csv.starts_with("seq,at,do,is,"), "{csv}");
    assert!(csv.contains("\"push\""), "{csv}");
    assert!(!syntha(&data, &["audit", "show", "--user", "alice", "--action", "pushed"]).status.success());
    let verified = json(&data, &["audit", "verify", "--all", "--state"]);
    assert_eq!((&verified["verdict"], &verified["data"]), (&json!("clean"), &json!([])));

    let (trail, keys, known) = (text("trail"), text("keys"), text("known"));
    let checkpoint = json(&data, &["audit", "checkpoint"]);
    std::fs::write(&known, checkpoint["checkpoint"].as_str().unwrap()).unwrap();
    std::fs::write(&keys, json(&data, &["audit", "keys"])["keys"].as_str().unwrap()).unwrap();
    json(&data, &["audit", "export", "--all", "--redacted", &trail]);
    assert!(!syntha(&data, &["audit", "export", "--all", &trail]).status.success(), "nothing is overwritten");
    // The auditor has neither data nor keys.
    std::fs::rename(&data, folder.path().join("away")).unwrap();
    let of_file = ["audit", "verify", "--file", &trail, "--keys", &keys, "--known", &known];
    let report = json(&data, &of_file);
    assert_eq!(report["verdict"], "clean");
    assert!(report["users"].as_array().unwrap().iter().all(|user| user["anchored_to"] == user["to"]));
    // A line is taken out.
    let whole = std::fs::read_to_string(&trail).unwrap();
    let cut: Vec<_> =
        whole.lines().enumerate().filter(|(number, _)| *number != 2).map(|(_, line)| line).collect();
    std::fs::write(&trail, cut.join("\n") + "\n").unwrap();
    let found = syntha(&data, &[&["--json"], &of_file[..]].concat());
    assert!(!found.status.success());
    let found: serde_json::Value = serde_json::from_slice(&found.stdout).unwrap();
    assert_eq!(found["verdict"], "bad");
    assert!(!found["findings"].as_array().unwrap().is_empty());
    assert!(!data.exists(), "nothing is made where nothing was");
}

#[test]
fn data_without_a_trail_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    json(&data, &["--audit", "off", "user", "add", "alice"]);
    // A folder that is there stays as it is until it is asked.
    let refused = syntha(&data, &["audit", "verify", "--all"]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("no audit trail"));
    assert!(!data.with_file_name("data.audit.key").exists());
    json(&data, &["--audit", "strict", "push", "--user", "alice", "--agent", "a", "k", "1"]);
    let off = syntha(&data, &["--audit", "off", "push", "--user", "alice", "--agent", "a", "k", "2"]);
    assert!(!off.status.success(), "data that has a trail is not written past it");
    assert_eq!(json(&data, &["get", "--user", "alice", "--agent", "a", "k"])["value"], 1);
}

#[test]
fn a_folder_is_sealed_unsealed_copied_and_restored_with_its_trail() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let text = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    json(&data, &["--plain", "--audit", "strict", "user", "add", "alice"]);
    json(&data, &["push", "--user", "alice", "--agent", "a", "k", "1"]);
    let keys = json(&data, &["audit", "keys"])["keys"].as_str().unwrap().to_owned();
    std::fs::write(text("keys"), &keys).unwrap();
    let pushes = |data: &std::path::Path, flags: &[&str]| {
        let show = ["audit", "show", "--user", "alice", "--action", "push"];
        json(data, &[flags, &show].concat())["entries"].as_array().unwrap().len()
    };
    let clean = |data: &std::path::Path, flags: &[&str]| {
        let verified = json(data, &[flags, &["audit", "verify", "--all", "--state"]].concat());
        let users = verified["users"].as_array().unwrap();
        assert!(users.iter().all(|user| user["anchored_to"] == user["to"]), "{verified}");
        assert_eq!((&verified["verdict"], &verified["data"]), (&json!("clean"), &json!([])));
    };
    let sealed = json(&data, &["seal", "--yes", "--remove-old"]);
    let of_before = ["audit", "verify", "--file", sealed["trail"].as_str().unwrap(), "--keys", &text("keys")];
    assert_eq!(json(&data, &of_before)["verdict"], "clean");
    clean(&data, &[]);
    json(&data, &["push", "--user", "alice", "--agent", "a", "k", "2"]);
    assert_eq!(pushes(&data, &[]), 2);
    assert_ne!(json(&data, &["audit", "keys"])["keys"], keys.as_str());

    json(&data, &["backup", "--all", &text("copy")]);
    let new = folder.path().join("new");
    let restored = json(&new, &["--key-file", &text("data.key"), "restore", "--all", &text("copy")]);
    assert_eq!((&restored["restored"], &restored["audited"]), (&json!(1), &json!(true)));
    let flags = ["--key-file", &text("data.key")];
    clean(&new, &flags);
    assert_eq!(pushes(&new, &flags), 2);
    assert!(new.with_file_name("new.audit.key").exists());

    json(&data, &["unseal", "--yes"]);
    clean(&data, &["--plain"]);
    let shown = json(&data, &["--plain", "audit", "show", "--user", "alice"]);
    let closed = shown["entries"].as_array().unwrap().iter().filter(|entry| entry["details"] == "closed");
    assert!(closed.count() > 0, "{shown}");
    assert_eq!(pushes(&data, &["--plain"]), 1, "what was told before it was sealed");
}

#[test]
fn a_pruned_trail_verifies() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    json(&data, &["--audit", "strict", "user", "add", "alice"]);
    for value in ["1", "2", "3"] {
        json(&data, &["push", "--user", "alice", "--agent", "a", "k", value]);
    }
    assert_eq!(json(&data, &["audit", "prune", "alice", "3", "--yes"])["first"], 3);
    let verified = json(&data, &["audit", "verify", "--user", "alice", "--state"]);
    assert_eq!((&verified["verdict"], &verified["data"]), (&json!("clean"), &json!([])));
    assert_eq!(verified["users"][0]["from"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trail_is_read_beside_its_holder() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    json(&data, &["--audit", "strict", "user", "add", "alice"]);
    json(&data, &["push", "--user", "alice", "--agent", "a", "k", "1"]);
    let (users, _host) = syntha::UserManager::builder().sqlite(&data).open().await.unwrap();
    let trail = folder.path().join("trail").to_str().unwrap().to_owned();
    let run = |arguments: &[&str]| json(&data, arguments);
    assert_eq!(run(&["audit", "show", "--user", "alice", "--action", "push"])["entries"][0]["on"], "k");
    assert_eq!(run(&["audit", "verify", "--all", "--state"])["verdict"], "clean");
    assert_eq!(run(&["audit", "export", "--all", &trail])["trails"], 2);
    assert!(!run(&["audit", "keys"])["keys"].as_str().unwrap().is_empty());
    for refused in [&["audit", "checkpoint"][..], &["audit", "rotate-signer"]] {
        let refused = syntha(&data, refused);
        assert!(!refused.status.success());
        assert!(String::from_utf8_lossy(&refused.stderr).contains("process"), "it names the holder");
    }
    users.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_deployments_row_that_was_changed_is_found() {
    use sqlx::{ConnectOptions, Connection, Executor};
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    for user in ["alice", "bob"] {
        json(&data, &["--plain", "--audit", "strict", "user", "add", user]);
    }
    let verify = ["--plain", "audit", "verify", "--all", "--state"];
    assert_eq!(json(&data, &verify)["data"], json!([]));
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(data.join("deployment.db"));
    let mut db = options.connect().await.unwrap();
    // The directory: bob is gone from it.
    let gone = "DELETE FROM record WHERE space = 7 AND body LIKE '%bob%'";
    assert_eq!(db.execute(gone).await.unwrap().rows_affected(), 1);
    db.close().await.unwrap();
    let found = syntha(&data, &[&["--json"], &verify[..]].concat());
    assert!(!found.status.success());
    let found: serde_json::Value = serde_json::from_slice(&found.stdout).unwrap();
    assert_eq!(found["verdict"], "clean", "the chain is whole");
    let data = found["data"].as_array().unwrap();
    assert_eq!(
        (data.len(), &data[0]["user"], &data[0]["difference"]),
        (1, &json!("deployment"), &json!("Deleted"))
    );
}

#[test]
fn the_deployments_trail_is_pruned() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    for user in ["alice", "bob", "carol"] {
        json(&data, &["--audit", "strict", "user", "add", user]);
    }
    let prune = ["audit", "prune", "--deployment", "--before", "5"];
    assert!(!syntha(&data, &prune).status.success(), "not without --yes");
    for wrong in [&["audit", "prune", "--yes", "--before", "5"][..], &["audit", "prune", "alice", "--yes"]] {
        assert!(!syntha(&data, wrong).status.success(), "{wrong:?}");
    }
    let pruned = json(&data, &[&prune[..], &["--yes"]].concat());
    assert_eq!((&pruned["removed"], &pruned["first"]), (&json!(4), &json!(5)));
    let verified = json(&data, &["audit", "verify", "--all", "--state"]);
    assert_eq!((&verified["verdict"], &verified["data"]), (&json!("clean"), &json!([])));
    assert_eq!(json(&data, &["audit", "show", "--deployment"])["entries"][0]["seq"], 5);
}

#[tokio::test]
async fn the_doctor_tells_of_a_trail_before_it_is_full() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let size = |arguments: &[&str]| {
        let said = syntha(&data, &[&["--plain", "--json"], arguments, &["doctor"]].concat());
        let found: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
        let findings = found["findings"].as_array().unwrap();
        findings.iter().find(|finding| finding["check"] == "audit size").unwrap().clone()
    };
    let flags = ["--audit", "strict", "--audit-limit", "65536"];
    let add = ["--plain", "user", "add", "alice"];
    json(&data, &[&flags[..], &add].concat());
    assert_eq!(size(&flags)["state"], "right");
    let audit = syntha::Audit::default().trail_limit(64 * 1024);
    let (users, host) =
        syntha::UserManager::builder().sqlite(&data).plain().audit(audit).open().await.unwrap();
    let alice = syntha::UserId::new("alice").unwrap();
    let agent = users.open(&host, "alice").await.unwrap().agent("a").unwrap();
    while !users.audit().unwrap().size(&alice).await.unwrap().is_some_and(|size| size.is_tight()) {
        agent.push("k", 1).await.unwrap();
    }
    users.shutdown().await.unwrap();
    let told = size(&flags);
    assert_eq!(told["state"], "warning");
    assert!(told["says"].as_str().unwrap().contains("alice has "), "{told}");
    assert_eq!(size(&[])["state"], "right", "with the limit that there is without a word");
    assert_eq!(size(&["--audit-limit", "65536"])["state"], "warning", "the limit alone");
}

#[test]
fn a_lost_signing_key_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let path = |name: &str| folder.path().join(name);
    let text = |name: &str| path(name).to_str().unwrap().to_owned();
    let push = |value: &str| syntha(&data, &["push", "--user", "alice", "--agent", "a", "k", value]);
    let said = |output: &std::process::Output| String::from_utf8_lossy(&output.stderr).into_owned();
    json(&data, &["user", "add", "alice"]);
    assert!(push("1").status.success());
    let old_keys = json(&data, &["audit", "keys"])["keys"].as_str().unwrap().to_owned();
    std::fs::write(text("keys"), &old_keys).unwrap();
    // The data as it was before the checkpoint that is kept elsewhere.
    crate::place::copy(&data, &path("older"));
    assert!(push("2").status.success());
    let checkpoint = json(&data, &["audit", "checkpoint"]);
    std::fs::write(text("known"), checkpoint["checkpoint"].as_str().unwrap()).unwrap();
    let replace = |flags: &[&str]| syntha(&data, &[&["--json", "audit", "replace-signer"], flags].concat());
    let known = ["--known", &text("known"), "--keys", &text("keys"), "--yes"];
    let refused = replace(&known);
    assert!(!refused.status.success() && said(&refused).contains("no key of an audit log is missing"));

    std::fs::rename(path("data.audit.key"), path("lost")).unwrap();
    let refused = push("3");
    assert!(!refused.status.success() && said(&refused).contains("replace it if it is lost"));
    let refused = replace(&[]);
    assert!(!refused.status.success() && said(&refused).contains("--yes"), "{}", said(&refused));
    // Data that was put back meanwhile is not vouched for by who knows better.
    std::fs::rename(&data, path("newer")).unwrap();
    std::fs::rename(path("older"), &data).unwrap();
    let refused = replace(&known);
    assert!(!refused.status.success() && said(&refused).contains("does not go on from the known checkpoint"));
    assert!(!path("data.audit.key").exists(), "nothing is made");
    std::fs::rename(&data, path("older")).unwrap();
    std::fs::rename(path("newer"), &data).unwrap();

    let replaced = replace(&known);
    assert!(replaced.status.success(), "{}", said(&replaced));
    let replaced: serde_json::Value = serde_json::from_slice(&replaced.stdout).unwrap();
    assert_eq!(replaced["known"], true);
    let new_keys = replaced["keys"].as_str().unwrap().to_owned();
    assert_ne!(new_keys, old_keys);
    assert!(push("3").status.success());
    let verified = json(&data, &["audit", "verify", "--all", "--state"]);
    assert_eq!((&verified["verdict"], &verified["data"]), (&json!("clean"), &json!([])));
    let told = json(&data, &["audit", "show", "--deployment", "--action", "replace-signer"]);
    assert_eq!(told["entries"].as_array().unwrap().len(), 1);

    // An auditor goes on from the old key and the old checkpoint, once the new key was told.
    json(&data, &["audit", "export", "--all", &text("trail")]);
    let verify = |keys: &str| {
        std::fs::write(text("both"), keys).unwrap();
        let of_file =
            ["--json", "audit", "verify", "--file", &text("trail"), "--keys", &text("both"), "--known"];
        syntha(&data, &[&of_file[..], &[&text("known")]].concat())
    };
    assert!(verify(&(old_keys.clone() + &new_keys)).status.success());
    assert!(!verify(&old_keys).status.success(), "the new key is none of those that are known");
    // Without a checkpoint from elsewhere it is done too, and says so.
    std::fs::remove_file(path("data.audit.key")).unwrap();
    let replaced = syntha(&data, &["audit", "replace-signer", "--yes"]);
    let told = String::from_utf8(replaced.stdout).unwrap();
    assert!(replaced.status.success() && told.contains("no checkpoint was known"), "{told}");
    assert_eq!(json(&data, &["audit", "verify", "--all"])["verdict"], "clean");

    // Data without a trail gets none this way.
    let bare = path("bare");
    json(&bare, &["--audit", "off", "user", "add", "alice"]);
    assert!(!syntha(&bare, &["audit", "replace-signer", "--yes"]).status.success());
    assert!(!path("bare.audit.key").exists());
}
