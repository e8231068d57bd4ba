//! Keys on the command line.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::place::{Place, set_mode};

const PASSPHRASE: &str = "correct horse battery";
const OTHER: &str = "another long passphrase";

#[test]
fn new_data_is_sealed_and_the_key_is_told_of_once() {
    let place = Place::new();
    let first = place.run(&["user", "add", "alice"]);
    assert!(first.ok);
    assert_eq!(first.err.matches("made the key file").count(), 2, "{}", first.err);
    for told in ["data.key", "data.keys", "data.audit.key"] {
        assert!(first.err.contains(&place.text(told)), "{told}: {}", first.err);
    }
    assert!(!place.run(&["user", "list"]).err.contains("key file"), "it is told once");
    let quickstart = place.run(&["quickstart"]);
    for told in ["sealed", &place.text("data.key"), &place.text("data.keys"), "nothing opens without them"] {
        assert!(quickstart.out.contains(told), "{}", quickstart.out);
    }
    // A backend beside it that is not sealed says that.
    let plain = place.run(&["--data", "open", "--plain", "--audit", "off", "quickstart"]);
    assert!(
        plain.ok && plain.out.contains("not sealed") && plain.out.contains("no audit trail"),
        "{}",
        plain.out
    );
    assert!(plain.err.is_empty(), "{}", plain.err);
    assert!(!place.path("open.key").exists() && !place.path("open.keys").exists());
}

#[test]
fn each_source_opens_what_it_sealed_and_no_other_does() {
    let mut place = Place::new();
    place.json(&["keys", "new-key-file", "one.key"]);
    place.json(&["keys", "new-key-file", "two.key"]);
    assert!(place.fails(&["keys", "new-key-file", "one.key"]).contains("is there already"));
    let passphrase = place.passphrase("passphrase", PASSPHRASE);
    let other = place.passphrase("other", OTHER);
    let key = "hsCGXTlt3nYJcBUAp0T1iMI9CiEmFlYdXpsTdPbv4Ug=";
    place.keep_secret(key);
    place.set("MY_KEY", key);
    place.set("MY_OTHER_KEY", &key.replace("hs", "Zs"));
    place.keep_secret(&key.replace("hs", "Zs"));
    for (data, right, wrong) in [
        ("file", ["--key-file", "one.key"], ["--key-file", "two.key"]),
        ("variable", ["--key-env", "MY_KEY"], ["--key-env", "MY_OTHER_KEY"]),
        ("passphrase-file", ["--passphrase-file", &passphrase], ["--passphrase-file", &other]),
    ] {
        let with = |source: [&str; 2], rest: &[&'static str]| {
            let data = ["--data".to_owned(), data.to_owned()];
            data.into_iter()
                .chain(source.map(str::to_owned))
                .chain(rest.iter().map(|one| (*one).to_owned()))
                .collect::<Vec<_>>()
        };
        let run = |source, rest: &[&'static str]| {
            let arguments = with(source, rest);
            place.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
        };
        assert!(run(right, &["user", "add", "alice"]).ok);
        assert!(run(right, &["push", "--user", "alice", "--agent", "a", "k", "1"]).ok);
        assert_eq!(run(right, &["get", "--user", "alice", "--agent", "a", "k"]).out, "1\n");
        for refused in [wrong, ["--key-file", "none.key"]] {
            let said = run(refused, &["get", "--user", "alice", "--agent", "a", "k"]);
            assert!(!said.ok && said.out.is_empty(), "{data} {refused:?}: {}", said.err);
        }
        let plain = place.fails(&["--data", data, "--plain", "user", "list"]);
        assert!(plain.contains("is sealed"), "{plain}");
        // None of them made a key file.
        assert!(!place.path(&format!("{data}.key")).exists());
    }
    // A key file that is named is not made: a name that was typed wrongly would seal the data with a key nobody knows of.
    let missing = place.fails(&["--data", "new", "--key-file", "none.key", "user", "list"]);
    assert!(missing.contains("there is no key file"), "{missing}");
    assert!(!place.path("none.key").exists());
}

#[test]
fn sealed_and_plain_are_not_mixed_up() {
    let place = Place::new();
    place.json(&["--plain", "user", "add", "alice"]);
    place.json(&["keys", "new-key-file", "one.key"]);
    for sealed in [&["--key-file", "one.key"][..], &["--keystore", "elsewhere"]] {
        let said = place.fails(&[sealed, &["user", "list"]].concat());
        assert!(said.contains("is not sealed"), "{said}");
    }
    assert_eq!(place.json(&["user", "list"])[0]["user"], "alice", "it is opened as it was made");
    assert_eq!(place.json(&["keys", "status"])["mode"], "plain");
    for command in [&["keys", "rotate", "--all"][..], &["keys", "rewrap", "--same-key"]] {
        assert!(place.fails(&[&["--plain"], command].concat()).contains("not sealed"));
    }
    for one in ["--keystore=k", "--values"] {
        assert!(place.fails(&["--data", "new", one, "--plain", "user", "list"]).contains("plain data"));
        assert!(!place.path("new").exists());
    }
}

#[test]
fn data_without_its_key_or_keystore_does_not_open() {
    let place = Place::new();
    place.json(&["--keystore", "kept", "user", "add", "alice"]);
    assert!(place.path("kept").is_dir() && !place.path("data.keys").exists());
    let missing = place.fails(&["user", "list"]);
    assert!(missing.contains("keystore is not there"), "{missing}");
    assert!(!place.path("data.keys").exists(), "a keystore is not made anew");
    place.json(&["--keystore", "kept", "user", "list"]);
    std::fs::rename(place.path("data.key"), place.path("moved.key")).unwrap();
    let missing = place.fails(&["--keystore", "kept", "user", "list"]);
    assert!(missing.contains("there is no key file"), "{missing}");
    assert!(!place.path("data.key").exists(), "a key is not made anew");
    place.json(&["--keystore", "kept", "--key-file", "moved.key", "user", "list"]);
    set_mode(&place.path("moved.key"), 0o644);
    let open = place.fails(&["--keystore", "kept", "--key-file", "moved.key", "user", "list"]);
    assert!(open.contains("chmod 600"), "{open}");
}

#[test]
fn one_key_is_named_and_a_flag_comes_before_the_environment_before_the_file() {
    let mut place = Place::new();
    for key in ["flag.key", "environment.key", "file.key"] {
        place.json(&["keys", "new-key-file", key]);
    }
    place.json(&["--data", "by-flag", "--key-file", "flag.key", "user", "list"]);
    place.json(&["--data", "by-environment", "--key-file", "environment.key", "user", "list"]);
    place.json(&["--data", "by-file", "--key-file", "file.key", "--keystore", "kept", "user", "list"]);
    std::fs::write(place.path("syntha.toml"), "key-file = \"file.key\"\nkeystore = \"kept\"\n").unwrap();
    place.json(&["--data", "by-file", "user", "list"]);
    place.set("SYNTHA_KEY_FILE", "environment.key");
    place.set("SYNTHA_KEYSTORE", &place.text("by-environment.keys"));
    place.json(&["--data", "by-environment", "user", "list"]);
    place.fails(&["--data", "by-flag", "user", "list"]);
    place.set("SYNTHA_KEYSTORE", &place.text("by-flag.keys"));
    place.json(&["--data", "by-flag", "--key-file", "flag.key", "user", "list"]);
    // Also one of another kind.
    place.set("MY_KEY", "hsCGXTlt3nYJcBUAp0T1iMI9CiEmFlYdXpsTdPbv4Ug=");
    place.json(&["--data", "new", "--keystore", "new.keys", "--key-env", "MY_KEY", "user", "list"]);
    place.json(&["--data", "open", "--plain", "user", "list"]);
    for two in [
        &["--key-file", "flag.key", "--key-env", "MY_KEY"][..],
        &["--key-file", "flag.key", "--plain"],
        &["--passphrase-file", "-", "--key-env", "MY_KEY"],
    ] {
        let said = place.fails(&[two, &["--data", "two", "user", "list"]].concat());
        assert!(said.contains("give one of them"), "{said}");
    }
    place.set("SYNTHA_PASSPHRASE_FILE", "-");
    assert!(place.fails(&["--data", "two", "user", "list"]).contains("give one of them"));
    place.unset();
    std::fs::write(place.path("syntha.toml"), "key-file = \"file.key\"\nplain = true\n").unwrap();
    assert!(place.fails(&["--data", "two", "user", "list"]).contains("give one of them"));
    assert!(!place.path("two").exists());
}

#[test]
fn the_mode_is_chosen_when_data_is_made() {
    let place = Place::new();
    place.json(&["--data", "values", "--values", "user", "add", "alice"]);
    assert_eq!(place.json(&["--data", "values", "keys", "status"])["mode"], "values");
    place.json(&["--data", "values", "--values", "user", "list"]);
    place.json(&["user", "add", "alice"]);
    assert_eq!(place.json(&["keys", "status"])["mode"], "sealed");
    assert!(place.fails(&["--values", "user", "list"]).contains("for a new data folder"));
}

#[test]
fn passphrases_come_from_files_and_the_standard_input() {
    let mut place = Place::new();
    place.keep_secret(PASSPHRASE);
    place.keep_secret("ångström and more");
    let from_input = ["--passphrase-file", "-", "user", "list"];
    place.json_with(&from_input, &format!("{PASSPHRASE}\r\nmore\n"));
    place.json_with(&from_input, PASSPHRASE);
    assert!(place.fails_with(&from_input, OTHER).contains("key"));
    assert!(place.fails_with(&from_input, "").contains("no passphrase"));
    assert!(place.fails_with(&from_input, "\n").contains("no passphrase"));
    let too_long = "x".repeat(5_000);
    assert!(place.fails_with(&from_input, &too_long).contains("too long"));
    // The same letters, composed and not.
    let letters = ["--data", "letters", "--passphrase-file", "-", "user", "list"];
    place.json_with(&letters, "ångström and more");
    place.json_with(&letters, "a\u{30a}ngstro\u{308}m and more");
    let short = place.fails_with(&["--data", "new", "--passphrase-file", "-", "user", "list"], "short");
    assert!(short.contains("12"), "{short}");
    let file = place.passphrase("passphrase", PASSPHRASE);
    place.json(&["--passphrase-file", &file, "user", "list"]);
    set_mode(&place.path("passphrase"), 0o640);
    let open = place.fails(&["--passphrase-file", &file, "user", "list"]);
    assert!(open.contains("chmod 600"), "{open}");
    assert!(place.fails(&["--passphrase-file", ".", "user", "list"]).contains("no passphrase file"));
    assert!(place.fails(&["--passphrase-file", "none", "user", "list"]).contains("can't read"));
}

#[test]
fn keys_are_shown_and_rotated() {
    let place = Place::new();
    for user in ["alice", "bob"] {
        place.json(&["user", "add", user]);
        place.push(user, "k", "1");
        place.push(user, "l", "2");
    }
    place.json(&["user", "add", "carol"]);
    let status = |arguments: &[&str]| place.json(&[&["keys", "status"], arguments].concat());
    let of = |status: &serde_json::Value, user: &str| {
        let owners = status["owners"].as_array().unwrap();
        owners.iter().find(|owner| owner["user"] == *user).unwrap().clone()
    };
    let before = status(&["--count"]);
    assert_eq!(before["keks"][0]["users"], 2, "{before}");
    assert_eq!(before["keks"][0]["kek"], before["current"]);
    assert_eq!(of(&before, "alice")["epochs"], json!([1]));
    assert!(of(&before, "alice")["records"]["1"].as_u64().unwrap() >= 2);
    assert!(of(&before, "carol")["says"].as_str().unwrap().contains("not written"));
    let shown = place.run(&["keys", "status", "--count"]).out;
    assert!(shown.contains("alice") && shown.contains("mode: sealed"), "{shown}");

    let rotated = place.json(&["keys", "rotate", "--user", "alice"]);
    assert_eq!(rotated["epoch"], 2);
    assert!(rotated["sealed"].as_u64().unwrap() >= 2);
    let all = place.json(&["keys", "rotate", "--all"]);
    assert_eq!((&all["rotated"], &all["without_data"]), (&json!(2), &json!(1)), "{all}");
    assert_eq!(place.json(&["keys", "rotate", "--deployment"])["epoch"], 2);
    let after = status(&["--count"]);
    assert_eq!(of(&after, "alice")["epochs"], json!([3]));
    assert_eq!(of(&after, "bob")["epochs"], json!([2]));
    assert_eq!(of(&after, "(the deployment)")["epochs"], json!([2]));
    assert_eq!(of(&after, "bob")["records"].as_object().unwrap().len(), 1);
    assert_eq!(status(&["--user", "bob"])["owners"].as_array().unwrap().len(), 1);
    assert_eq!((place.get("alice", "k"), place.get("bob", "l")), (json!(1), json!(2)));
    assert!(
        place.fails(&["keys", "rotate", "--user", "alice", "--back"]).contains("no rotation is under way")
    );
    assert!(place.fails(&["keys", "rotate", "--user", "nobody"]).contains("no such user"));
    place.fails(&["keys", "rotate"]);
    place.fails(&["keys", "rotate", "--all", "--back"]);
}

/// A rotation that was stopped is told of, turned back, and gone on with.
#[tokio::test]
async fn a_rotation_that_was_stopped_is_found_and_ended() {
    let place = Place::new();
    place.json(&["user", "add", "alice"]);
    place.push("alice", "k", "1");
    for back in [true, false] {
        let (users, host) = syntha::UserManager::builder().sqlite(place.path("data")).open().await.unwrap();
        let stop = tokio::sync::Notify::new();
        let ended = tokio::select! {
            biased;
            () = stop.notified() => false,
            _ = users.rotate_keys("alice", |_| stop.notify_one()) => true,
        };
        assert!(!ended);
        users.shutdown().await.unwrap();
        drop(host);
        let status = place.json(&["keys", "status", "--user", "alice"]);
        assert_eq!(status["owners"][0]["epochs"].as_array().unwrap().len(), 2, "{status}");
        let doctor = place.run(&["doctor"]);
        assert!(doctor.ok && doctor.out.contains("goes on: alice"), "{}", doctor.out);
        // The number of a key that was given up is not used again.
        let more = if back { &["--back"][..] } else { &[] };
        place.json(&[&["keys", "rotate", "--user", "alice"], more].concat());
        let status = place.json(&["keys", "status", "--user", "alice"]);
        assert_eq!(status["owners"][0]["epochs"], json!([if back { 1 } else { 3 }]), "{status}");
        assert_eq!(place.get("alice", "k"), 1);
    }
}

#[test]
fn another_key_takes_over() {
    let mut place = Place::new();
    place.json(&["user", "add", "alice"]);
    place.push("alice", "k", "1");
    let missing = place.fails(&["keys", "rewrap", "--new-key-file", "new.key"]);
    assert!(missing.contains("new-key-file new.key"), "{missing}");
    place.json(&["keys", "new-key-file", "new.key"]);
    place.fails(&["keys", "rewrap"]);
    let said = place.run(&["keys", "rewrap", "--new-key-file", "new.key"]);
    assert!(said.ok && said.out.contains("the former key may go"), "{} {}", said.out, said.err);
    // Once more, as after a stop of which nobody knows how far it came.
    place.json(&["keys", "rewrap", "--new-key-file", "new.key"]);
    assert!(place.fails(&["user", "list"]).contains("key"));
    std::fs::remove_file(place.path("data.key")).unwrap();
    let new = ["--key-file", "new.key"];
    place.json(&[&new[..], &["get", "--user", "alice", "--agent", "a", "k"]].concat());

    let passphrase = place.passphrase("passphrase", PASSPHRASE);
    place.json(&[&new[..], &["keys", "rewrap", "--new-passphrase-file", &passphrase]].concat());
    place.fails(&[&new[..], &["user", "list"]].concat());
    // The present one, then the new one.
    place.keep_secret(OTHER);
    let both = format!("{PASSPHRASE}\n{OTHER}\n");
    let rewrap = ["--passphrase-file", "-", "keys", "rewrap", "--new-passphrase-file", "-"];
    let done = place.json_with(&rewrap, &both);
    assert_eq!(done["finished"], true);
    place.fails(&["--passphrase-file", &passphrase, "user", "list"]);
    place.json_with(&["--passphrase-file", "-", "keys", "rewrap", "--same-key"], OTHER);
    let got =
        place.json_with(&["--passphrase-file", "-", "get", "--user", "alice", "--agent", "a", "k"], OTHER);
    assert_eq!(got["value"], 1);
    let status = place.json_with(&["--passphrase-file", "-", "keys", "status"], OTHER);
    assert_eq!(status["keks"].as_array().unwrap().len(), 1, "{status}");
    assert_eq!(status["change_under_way"], false);
    // Nobody takes the data over without its key.
    let wrong = ["--key-file", "new.key", "keys", "rewrap", "--new-key-file", "new.key"];
    assert!(place.fails(&wrong).contains("key"));
}

/// A change of the key that was stopped: both keys are needed, and the same command ends it.
#[tokio::test]
async fn a_change_of_the_key_that_was_stopped_is_ended() {
    let place = Place::new();
    for user in ["alice", "bob", "carol"] {
        place.json(&["user", "add", user]);
        place.push(user, "k", "1");
    }
    place.json(&["keys", "new-key-file", "new.key"]);
    let (users, host) = syntha::UserManager::builder().sqlite(place.path("data")).open().await.unwrap();
    let stop = tokio::sync::Notify::new();
    let new = syntha::Kek::file(place.path("new.key"));
    let ended = tokio::select! {
        biased;
        () = stop.notified() => false,
        _ = users.change_key(&new, |_| stop.notify_one()) => true,
    };
    assert!(!ended);
    users.shutdown().await.unwrap();
    drop(host);
    for alone in [&[][..], &["--key-file", "new.key"]] {
        place.fails(&[alone, &["user", "list"]].concat());
    }
    let done = place.json(&["keys", "rewrap", "--new-key-file", "new.key"]);
    assert_eq!(done["finished"], true);
    assert!(done["keys"].as_u64().unwrap() > 0, "it went on: {done}");
    place.fails(&["user", "list"]);
    let got = place.json(&["--key-file", "new.key", "get", "--user", "carol", "--agent", "a", "k"]);
    assert_eq!(got["value"], 1);
}

#[cfg(feature = "vault")]
#[test]
fn a_vault_is_named_whole() {
    let place = Place::new();
    let vault = ["--vault", "http://127.0.0.1:1", "--vault-key", "k"];
    assert!(place.fails(&[&vault[..], &["user", "list"]].concat()).contains("--vault-token-file"));
    std::fs::write(place.path("token"), "a-token").unwrap();
    set_mode(&place.path("token"), 0o600);
    std::fs::write(place.path("syntha.toml"), "vault-token-file = \"token\"\n").unwrap();
    let said = place.fails(&[&vault[..], &["user", "list"]].concat());
    assert!(said.contains("key service"), "{said}");
    assert!(!place.path("data").exists() && !place.path("data.key").exists());
    let two = place.fails(&[&vault[..], &["--key-file", "one.key", "user", "list"]].concat());
    assert!(two.contains("give one of them"), "{two}");
}

#[test]
fn a_user_holds_the_keys() {
    let mut place = Place::new();
    for user in ["alice", "bob"] {
        place.json(&["user", "add", user]);
        place.push(user, "k", "1");
    }
    let right = place.passphrase("alices", PASSPHRASE);
    let wrong = place.passphrase("bobs", OTHER);
    let with = |file: &str, command: &[&str]| {
        place.run(&[&["--json", "--user-passphrase-file", file], command].concat())
    };
    assert!(place.fails(&["user", "hold-key", "alice"]).contains("--user-passphrase-file"));
    place.json(&["user", "add", "carol"]);
    for (user, told) in [("carol", "has not written"), ("nobody", "no such user")] {
        let said = with(&right, &["user", "hold-key", user]);
        assert!(!said.ok && said.err.contains(told), "{}", said.err);
    }
    assert!(with(&right, &["user", "unlock-test", "nobody"]).err.contains("no such user"));
    assert!(with(&right, &["user", "hold-key", "alice"]).ok);
    // Each derivation of a key takes its time: the first ones are tried without a passphrase alone.
    for (command, unlocks) in [
        (&["list", "--user", "alice", "--agent", "a"][..], false),
        (&["topics", "--user", "alice"], false),
        (&["stats", "--user", "alice"], false),
        (&["history", "list", "--user", "alice"], false),
        (&["push", "--user", "alice", "--agent", "a", "k", "2"], true),
        (&["get", "--user", "alice", "--agent", "a", "k"], true),
        (&["user", "backup", "alice", "archive"], true),
        (&["export", "--user", "alice", "export"], true),
        (&["keys", "rotate", "--user", "alice"], true),
    ] {
        let locked = place.fails(command);
        assert!(locked.contains("unlock it"), "{command:?}: {locked}");
        assert!(!place.path("archive").exists() && !place.path("export").exists());
        if unlocks {
            let unlocked = with(&right, command);
            assert!(unlocked.ok, "{command:?}: {}", unlocked.err);
        }
        let _ = std::fs::remove_file(place.path("export"));
        let _ = std::fs::remove_file(place.path("archive"));
    }
    assert!(!with(&wrong, &["get", "--user", "alice", "--agent", "a", "k"]).ok);
    assert_eq!(place.get("bob", "k"), 1, "nobody else is locked");
    let all = place.json(&["keys", "rotate", "--all"]);
    assert_eq!((&all["rotated"], &all["locked"]), (&json!(1), &json!(["alice"])));
    assert!(place.run(&["keys", "rotate", "--all"]).out.contains("not rotated: alice"));
    let status = place.json(&["keys", "status", "--count"]);
    assert_eq!(status["holders"], 1);
    assert!(with(&right, &["user", "unlock-test", "alice"]).ok);
    assert!(!with(&wrong, &["user", "unlock-test", "alice"]).ok);
    assert!(!with(&right, &["user", "unlock-test", "bob"]).ok, "bob holds none");
    assert!(!with(&right, &["user", "list"]).ok, "it is for a command about one user");
    let from_input = ["--user-passphrase-file", "-", "get", "--user", "alice", "--agent", "a", "k"];
    assert_eq!(place.json_with(&from_input, PASSPHRASE)["value"], 2);
    assert!(!with(&wrong, &["user", "give-back-key", "alice"]).ok);
    assert!(place.fails(&["user", "give-back-key", "alice"]).contains("--user-passphrase-file"));
    assert!(with(&right, &["user", "give-back-key", "alice"]).ok);
    assert_eq!(place.get("alice", "k"), 2);
}

/// While it waits for a passphrase, the process has no core files, and on Linux nobody attaches to it.
#[cfg(target_os = "linux")]
#[test]
fn the_program_leaves_no_core_file() {
    let place = Place::new();
    let mut child = Command::new(env!("CARGO_BIN_EXE_syntha"))
        .args(["--passphrase-file", "-", "user", "list"])
        .current_dir(place.path("."))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let limits = format!("/proc/{}/limits", child.id());
    let mut seen = String::new();
    // It is hardened before it reads anything; until it runs, the limits are the test's own.
    for _ in 0..1_000 {
        let text = std::fs::read_to_string(&limits).unwrap();
        seen = text.lines().find(|line| line.starts_with("Max core file size")).unwrap().to_owned();
        if seen.split_whitespace().skip(4).take(2).all(|limit| limit == "0") {
            break;
        }
        std::thread::yield_now();
    }
    assert!(seen.split_whitespace().skip(4).take(2).all(|limit| limit == "0"), "{seen}");
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert!(!child.wait().unwrap().success());
}
