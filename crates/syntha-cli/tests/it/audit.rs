//! `syntha audit`, as an operator and an auditor run it.

use serde_json::json;

use super::{json, syntha};

#[test]
fn a_trail_is_begun_shown_exported_and_verified_without_the_data() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let text = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    json(&data, &["--audit", "buffered", "push", "--user", "alice", "--agent", "scout", "plan", "1"]);
    // Who says nothing goes on with the trail.
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
    json(&data, &["user", "add", "alice"]);
    let refused = syntha(&data, &["audit", "verify", "--all"]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("no audit trail"));
    json(&data, &["--audit", "strict", "push", "--user", "alice", "--agent", "a", "k", "1"]);
    let off = syntha(&data, &["--audit", "off", "push", "--user", "alice", "--agent", "a", "k", "2"]);
    assert!(!off.status.success(), "data that has a trail is not written past it");
    assert_eq!(json(&data, &["get", "--user", "alice", "--agent", "a", "k"])["value"], 1);
}
