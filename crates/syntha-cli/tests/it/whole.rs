//! Archives, exports under a passphrase, copies of everything, and data that is sealed later.

use serde_json::json;

use crate::place::Place;
use crate::{collect, holds};

const PASSPHRASE: &str = "correct horse battery";

#[test]
fn an_erasure_gives_a_receipt() {
    let place = Place::new();
    for user in ["alice", "bob"] {
        place.json(&["user", "add", user]);
        place.push(user, "k", "1");
    }
    let receipt = place.json(&["user", "erase", "alice", "--yes"]);
    assert_eq!((&receipt["removed"], &receipt["sealed"]), (&json!(true), &json!(true)));
    assert!(receipt["keys"].as_u64().unwrap() >= 2 && receipt["at"].as_u64().unwrap() > 1_700_000_000_000);
    assert!(!receipt["covers"].as_array().unwrap().is_empty());
    assert!(!receipt["does_not_cover"].as_array().unwrap().is_empty());
    let said = place.run(&["user", "erase", "bob", "--yes"]).out;
    for told in ["the user is erased", "rows of keys", "at: ", "not reached", "copies of the keystore"] {
        assert!(said.contains(told), "{said}");
    }
    place.json(&["--data", "open", "--plain", "user", "add", "alice"]);
    assert_eq!(place.json(&["--data", "open", "user", "erase", "alice", "--yes"])["sealed"], false);
}

#[test]
fn a_sealed_archive_and_a_plain_one_are_not_mistaken() {
    let place = Place::new();
    place.json(&["user", "add", "alice"]);
    place.push("alice", "k", "\"canary-in-the-archive\"");
    place.json(&["user", "backup", "alice", "sealed"]);
    assert!(!holds(&std::fs::read(place.path("sealed")).unwrap(), "canary-in-the-archive"));
    place.json(&["--data", "open", "--plain", "user", "add", "alice"]);
    // The tags of two deployments differ, so the archive is one of this one, unsealed.
    place.json(&["unseal", "--yes"]);
    // A plain folder beside a keystore may have been put there by somebody else.
    let refused = place.fails(&["user", "backup", "alice", "plain"]);
    assert!(refused.contains("its keystore lies beside it"), "{refused}");
    place.json(&["--plain", "user", "backup", "alice", "plain"]);
    assert!(holds(&std::fs::read(place.path("plain")).unwrap(), "canary-in-the-archive"));
    let refused = place.fails(&["--plain", "user", "restore", "alice", "sealed", "--yes"]);
    assert!(refused.contains("is sealed"), "{refused}");
    std::fs::remove_dir_all(place.path("data.sealed")).unwrap();
    place.json(&["seal", "--yes", "--remove-old"]);
    let refused = place.fails(&["user", "restore", "alice", "plain", "--yes"]);
    assert!(refused.contains("not sealed"), "{refused}");
    place.json(&["user", "restore", "alice", "plain", "--yes", "--plain-archive"]);
    assert_eq!(place.get("alice", "k"), "canary-in-the-archive");
    place.json(&["user", "restore", "alice", "sealed", "--yes"]);
    assert_eq!(place.get("alice", "k"), "canary-in-the-archive");
}

#[test]
fn an_export_under_a_passphrase_is_imported_with_it() {
    let mut place = Place::new();
    place.json(&["user", "add", "alice"]);
    place.push("alice", "k", "\"canary-in-the-export\"");
    let file = place.passphrase("passphrase", PASSPHRASE);
    let wrong = place.passphrase("wrong", "not the right one at all");
    let export = ["export", "--user", "alice", "--export-passphrase-file"];
    assert_eq!(place.json(&[&export[..], &[&file, "sealed"]].concat())["entries"], 1);
    assert!(!holds(&std::fs::read(place.path("sealed")).unwrap(), "canary-in-the-export"));
    place.json(&["export", "--user", "alice", "open"]);
    let import = ["import", "--from", "syntha", "--user", "bob"];
    fn with<'a>(import: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
        [import, more].concat()
    }
    assert!(place.fails(&with(&import, &["sealed"])).contains("give its passphrase"));
    assert!(
        place.fails(&with(&import, &["open", "--export-passphrase-file", &file])).contains("is not sealed")
    );
    place.fails(&with(&import, &["sealed", "--export-passphrase-file", &wrong]));
    assert_eq!(place.json(&["user", "list"]).as_array().unwrap().len(), 1, "nobody was made");
    // One that was cut ends with an error.
    let whole = std::fs::read(place.path("sealed")).unwrap();
    std::fs::write(place.path("cut"), &whole[..whole.len() - 1]).unwrap();
    place.fails(&["import", "--from", "syntha", "--user", "carol", "cut", "--export-passphrase-file", &file]);
    let done = place.json_with(&with(&import, &["sealed", "--export-passphrase-file", "-"]), PASSPHRASE);
    assert_eq!(done["imported"]["entries"], 1);
    assert_eq!(place.get("bob", "k"), "canary-in-the-export");
}

#[test]
fn everything_is_copied_and_comes_back_with_the_key_alone() {
    let mut place = Place::new();
    for user in ["alice", "bob", "held"] {
        place.json(&["user", "add", user]);
        place.push(user, "k", &format!("\"canary-of-{user}\""));
    }
    place.json(&["user", "erase", "bob", "--yes"]);
    let file = place.passphrase("helds", PASSPHRASE);
    place.json(&["--user-passphrase-file", &file, "user", "hold-key", "held"]);
    let copied = place.json(&["backup", "--all", "copy"]);
    assert_eq!(
        (&copied["archives"], &copied["skipped"][0]["why"]),
        (&json!(1), &json!("locked")),
        "{copied}"
    );
    let mut files = Vec::new();
    collect(&place.path("copy"), &mut files);
    assert!(!files.is_empty() && files.iter().all(|(_, bytes)| !holds(bytes, "canary-of-")));
    assert!(files.iter().all(|(_, bytes)| !holds(bytes, "alice")));
    place.fails(&["restore", "--all", "copy"]);
    // Another machine: only the key and the copy.
    place.json(&["keys", "new-key-file", "other.key"]);
    place.fails(&["--data", "new", "--key-file", "other.key", "restore", "--all", "copy"]);
    place.fails(&["--data", "new", "--plain", "restore", "--all", "copy"]);
    place.fails(&["--data", "new", "restore", "--all", "copy"]);
    let there = ["--data", "new", "--key-file", "data.key"];
    let restored = place.json(&[&there[..], &["restore", "--all", "copy"]].concat());
    assert_eq!(restored["restored"], 1, "{restored}");
    let got = place.json(&[&there[..], &["get", "--user", "alice", "--agent", "a", "k"]].concat());
    assert_eq!(got["value"], "canary-of-alice");
    assert!(place.fails(&[&there[..], &["user", "add", "bob"]].concat()).contains("erased"));

    place.json(&["--data", "open", "--plain", "user", "add", "alice"]);
    assert_eq!(place.json(&["--data", "open", "backup", "--all", "open-copy"])["sealed"], false);
    assert!(place.run(&["--data", "open", "backup", "--all", "second"]).out.contains("not sealed"));
    place.json(&["--data", "again", "restore", "--all", "open-copy"]);
    assert_eq!(place.json(&["--data", "again", "user", "list"])[0]["user"], "alice");
}

#[test]
fn data_is_sealed_later_and_unsealed_again() {
    let place = Place::new();
    place.json(&["--plain", "user", "add", "alice"]);
    place.push("alice", "k", "\"canary-sealed-later\"");
    let tag = place.json(&["user", "list"])[0]["tag"].clone();
    assert!(place.fails(&["seal"]).contains("--yes"));
    assert!(place.fails(&["--plain", "seal", "--yes"]).contains("--plain"));
    assert!(!place.path("data.key").exists());
    let sealed = place.run(&["seal", "--yes"]);
    assert!(sealed.ok, "{}", sealed.err);
    for told in [&place.text("data.key"), &place.text("data.keys"), &place.text("data.plain")] {
        assert!(sealed.out.contains(told), "{}", sealed.out);
    }
    let canary = |folder: &str| {
        let mut files = Vec::new();
        collect(&place.path(folder), &mut files);
        files.iter().any(|(_, bytes)| holds(bytes, "canary-sealed-later"))
    };
    assert!(canary("data.plain") && !canary("data") && !canary("data.keys"));
    assert_eq!(place.get("alice", "k"), "canary-sealed-later");
    assert_eq!(place.json(&["user", "list"])[0]["tag"], tag);
    // What is there of the old data goes when it is asked for.
    place.json(&["seal", "--yes", "--remove-old"]);
    assert!(!place.path("data.plain").exists());
    assert!(place.fails(&["seal", "--yes"]).contains("sealed already"));
    place.json(&["keys", "new-key-file", "other.key"]);
    place.fails(&["--key-file", "other.key", "unseal", "--yes"]);
    assert!(place.fails(&["unseal"]).contains("--yes"));
    let unsealed = place.json(&["unseal", "--yes", "--remove-old"]);
    assert_eq!((&unsealed["users"], &unsealed["old"]), (&json!(1), &json!(null)), "{unsealed}");
    let stats = place.json(&["--plain", "stats", "--user", "alice"]);
    assert!(stats.to_string().contains('1'), "{stats}");
    assert!(canary("data"));
    assert_eq!(place.json(&["--plain", "keys", "status"])["mode"], "plain");
    assert!(place.path("data.key").exists(), "older archives need it");
    // With a key of one's own, nothing is made.
    place.json(&["--key-file", "other.key", "--keystore", "own", "seal", "--yes", "--remove-old"]);
    place.json(&["--key-file", "other.key", "--keystore", "own", "user", "list"]);
    assert!(place.fails(&["--data", "nowhere", "seal", "--yes"]).contains("no data"));
    assert!(!place.path("nowhere.key").exists());
}
