//! What the doctor finds, each thing once.

use serde_json::Value;

use crate::place::{Place, copy, set_mode};

/// The exit code is success, what was found, and the state of a check.
fn doctor(place: &Place, arguments: &[&str]) -> (bool, Value) {
    let said = place.run(&[&["--json"], arguments, &["doctor"]].concat());
    (said.ok, serde_json::from_str(&said.out).unwrap())
}

fn state(found: &Value, check: &str) -> String {
    let findings = found["findings"].as_array().unwrap();
    let finding = findings.iter().find(|finding| finding["check"] == *check);
    finding.map_or_else(|| "absent".to_owned(), |finding| finding["state"].as_str().unwrap().to_owned())
}

fn says(found: &Value, check: &str) -> String {
    let findings = found["findings"].as_array().unwrap();
    findings.iter().find(|finding| finding["check"] == *check).unwrap()["says"].as_str().unwrap().to_owned()
}

#[test]
fn sound_data_has_warnings_at_most() {
    let mut place = Place::new();
    place.json(&["user", "add", "alice"]);
    place.push("alice", "k", "1");
    place.json(&["user", "add", "bob"]);
    let (ok, found) = doctor(&place, &[]);
    assert!(ok, "{found}");
    for right in
        ["data folder", "sealing", "key file", "keystore", "opens", "engine", "erasures", "users' keys"]
    {
        assert_eq!(state(&found, right), "right", "{right}: {found}");
    }
    // All is in one folder here.
    assert_eq!(state(&found, "key apart"), "warning");
    assert_eq!(state(&found, "keystore apart"), "warning");
    let shown = place.run(&["doctor"]).out;
    assert!(shown.contains("0 failures, 4 warnings"), "{shown}");
    // On another file system both are right.
    if std::path::Path::new("/dev/shm").is_dir() {
        let apart = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = |name: &str| apart.path().join(name).to_str().unwrap().to_owned();
        place.json(&["keys", "new-key-file", &path("key")]);
        let (key, keystore) = (path("key"), path("keys"));
        let flags = ["--data", "apart", "--key-file", &key, "--keystore", &keystore];
        place.json(&[&flags[..], &["user", "list"]].concat());
        let (ok, found) = doctor(&place, &flags);
        let data = std::os::unix::fs::MetadataExt::dev(&place.path("apart").metadata().unwrap());
        let expected = if data == std::os::unix::fs::MetadataExt::dev(&apart.path().metadata().unwrap()) {
            "warning"
        } else {
            "right"
        };
        assert!(ok, "{found}");
        assert_eq!((&*state(&found, "key apart"), &*state(&found, "keystore apart")), (expected, expected));
    }
    let (ok, found) = doctor(&place, &[]);
    assert!(ok && state(&found, "audit trail") == "right", "{found}");
    assert_eq!((&*state(&found, "audit key apart"), &*state(&found, "audit anchor")), ("warning", "warning"));
    assert!(says(&found, "audit anchor").contains("no outside anchor"), "{found}");
    assert!(says(&found, "audit start").contains("leaves were read"), "{found}");
    place.json(&["--data", "untold", "--audit", "off", "user", "add", "alice"]);
    let (ok, found) = doctor(&place, &["--data", "untold"]);
    assert!(ok && state(&found, "audit trail") == "warning", "{found}");
    assert!(says(&found, "audit trail").contains("--audit buffered"), "{found}");
    assert_eq!(state(&found, "audit anchor"), "absent");
    let (ok, found) = doctor(&place, &["--data", "untold", "--audit", "off"]);
    assert!(ok && state(&found, "audit trail") == "right", "it is meant so: {found}");
    place.set("SYNTHA_PLAIN", "1");
    let (ok, found) = doctor(&place, &[]);
    assert!(!ok && says(&found, "opens").contains("is sealed"), "{found}");
    place.unset();
    place.json(&["--data", "open", "--plain", "user", "list"]);
    let (ok, found) = doctor(&place, &["--data", "open"]);
    assert!(ok && state(&found, "sealing") == "warning", "{found}");
    let (ok, found) = doctor(&place, &["--data", "nowhere"]);
    assert!(!ok && state(&found, "data folder") == "failure", "{found}");
    assert!(!place.path("nowhere").exists(), "it makes nothing");
}

#[test]
fn what_is_open_or_missing_is_a_failure() {
    let place = Place::new();
    place.json(&["user", "add", "bob"]);
    place.push("bob", "k", "1");
    copy(&place.path("data.keys"), &place.path("old.keys"));
    place.json(&["user", "add", "alice"]);
    place.push("alice", "k", "1");
    // A keystore of before alice was made.
    let (ok, found) = doctor(&place, &["--keystore", "old.keys"]);
    assert!(!ok, "{found}");
    assert!(says(&found, "users' keys").contains("alice") && !says(&found, "users' keys").contains("bob"));
    for (check, path, mode) in
        [("data folder", "data", 0o700), ("keystore", "data.keys", 0o700), ("key file", "data.key", 0o600)]
    {
        set_mode(&place.path(path), mode | 0o044);
        let (ok, found) = doctor(&place, &[]);
        assert!(!ok && state(&found, check) == "failure", "{check}: {found}");
        set_mode(&place.path(path), mode);
    }
    std::fs::hard_link(place.path("data.key"), place.path("link")).unwrap();
    let (ok, found) = doctor(&place, &[]);
    assert!(!ok && says(&found, "key file").contains("second name"), "{found}");
    std::fs::remove_file(place.path("link")).unwrap();
    place.json(&["keys", "new-key-file", "other.key"]);
    let (ok, found) = doctor(&place, &["--key-file", "other.key"]);
    assert!(!ok && state(&found, "opens") == "failure", "{found}");
    for gone in ["data.key", "data.keys", "data.audit.key"] {
        std::fs::rename(place.path(gone), place.path("moved")).unwrap();
        let (ok, found) = doctor(&place, &[]);
        assert!(!ok && state(&found, "opens") == "failure", "{gone}: {found}");
        assert!(!place.path(gone).exists(), "it makes nothing");
        std::fs::rename(place.path("moved"), place.path(gone)).unwrap();
    }
    assert!(doctor(&place, &[]).0);
}

/// An erasure that can't be ended leaves data behind, which is told until it is.
#[test]
fn data_of_an_erased_user_is_a_failure() {
    let place = Place::new();
    place.json(&["user", "add", "alice"]);
    place.push("alice", "k", "1");
    let tag = place.json(&["user", "list"])[0]["tag"].as_str().unwrap().to_owned();
    let file = find(&place.path("data"), &format!("{tag}.db")).unwrap();
    std::fs::hard_link(&file, place.path("second-name")).unwrap();
    let (ok, found) = doctor(&place, &[]);
    assert!(!ok && state(&found, "engine") == "failure", "{found}");
    place.fails(&["user", "erase", "alice", "--yes"]);
    let (ok, found) = doctor(&place, &[]);
    assert!(!ok && says(&found, "erasures").contains(&tag), "{found}");
    std::fs::remove_file(place.path("second-name")).unwrap();
    let (ok, found) = doctor(&place, &[]);
    assert!(ok && state(&found, "erasures") == "right" && !file.exists(), "{found}");
}

fn find(folder: &std::path::Path, name: &str) -> Option<std::path::PathBuf> {
    std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find_map(|path| if path.is_dir() { find(&path, name) } else { path.ends_with(name).then_some(path) })
}

#[tokio::test]
async fn it_looks_beside_a_holder() {
    let place = Place::new();
    let mesh = syntha::ContextMesh::open(place.path("data"), "alice").await.unwrap();
    mesh.push("k", 1).await.unwrap();
    let (ok, found) = doctor(&place, &[]);
    assert!(ok && state(&found, "holder") == "right", "{found}");
}
