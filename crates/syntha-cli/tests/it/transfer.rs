//! History, exports and imports on the command line.

use std::path::Path;

use serde_json::json;

use crate::{json, syntha};

fn fails(data: &Path, arguments: &[&str]) -> String {
    let output = syntha(data, arguments);
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_history_is_appended_shown_redacted_and_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    json(&data, &["user", "add", "alice"]);
    let append = |text: &str, id: &str| {
        json(
            &data,
            &["history", "append", "--user", "alice", "--agent", "a", "chat", "user", text, "--id", id],
        )
    };
    assert_eq!(append("hello", "m-1"), json!({ "seq": 1, "duplicate": false }));
    assert_eq!(append("hello", "m-1"), json!({ "seq": 1, "duplicate": true }));
    append("{\"type\":\"image\"}", "m-2");
    let show = |arguments: &[&str]| {
        json(&data, &[&["history", "show", "--user", "alice", "chat"], arguments].concat())
    };
    let page = show(&[]);
    assert_eq!(page["messages"][0]["content"], "hello");
    assert_eq!(page["messages"][1]["content"]["type"], "image");
    assert_eq!(show(&["--count", "1"])["more"], true);
    assert_eq!(show(&["--before", "2"])["messages"].as_array().unwrap().len(), 1);
    assert_eq!(json(&data, &["history", "redact", "--user", "alice", "chat", "1"])["redacted"], true);
    assert_eq!(show(&["--after", "0"])["messages"][0]["seq"], 2);
    assert_eq!(json(&data, &["history", "list", "--user", "alice"])[0]["messages"], 1);
    fails(&data, &["history", "delete", "--user", "alice", "chat"]);
    assert_eq!(json(&data, &["history", "delete", "--user", "alice", "chat", "--yes"])["deleted"], true);
    assert_eq!(json(&data, &["history", "list", "--user", "alice"]), json!([]));
}

#[test]
fn an_export_goes_on_after_a_stop_and_imports_into_an_equal_mesh() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    json(&data, &["user", "add", "alice"]);
    for n in 0..3 {
        json(&data, &["push", "--user", "alice", "--agent", "a", &format!("key-{n}"), "1", "--topic", "t"]);
    }
    json(&data, &["history", "append", "--user", "alice", "chat", "user", "hello"]);
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let exported = json(&data, &["export", "--user", "alice", &path("one")]);
    assert_eq!((&exported["entries"], &exported["messages"]), (&json!(3), &json!(1)));
    let one = std::fs::read(path("one")).unwrap();
    assert!(fails(&data, &["export", "--user", "alice", &path("one")]).contains("is there already"));
    // Stopped in the middle of a line; stopped at a state of the data that is past; longer than what comes.
    for left in
        [one[..one.len() / 2].to_vec(), [&one[..40], &b"other"[..]].concat(), [&one[..], &one[..]].concat()]
    {
        std::fs::write(path("two.unfinished"), left).unwrap();
        assert!(fails(&data, &["export", "--user", "alice", &path("two")]).contains("--resume"));
        json(&data, &["export", "--user", "alice", &path("two"), "--resume"]);
        assert_eq!(std::fs::read(path("two")).unwrap(), one);
        std::fs::remove_file(path("two")).unwrap();
    }
    let import = |file: &str, more: &[&str]| {
        json(&data, &[&["import", "--from", "syntha", "--user", "bob", file], more].concat())
    };
    std::fs::write(path("cut"), &one[..one.len() - 20]).unwrap();
    let why = fails(&data, &["import", "--from", "syntha", "--user", "bob", &path("cut")]);
    assert!(why.contains("line ") && why.contains("--into-existing"), "{why}");
    assert!(
        fails(&data, &["import", "--from", "syntha", "--user", "bob", &path("one")])
            .contains("--into-existing")
    );
    import(&path("one"), &["--into-existing"]);
    json(&data, &["export", "--user", "bob", &path("three")]);
    assert_eq!(std::fs::read(path("three")).unwrap(), one);
    // A link is not followed.
    std::os::unix::fs::symlink(path("one"), path("link.unfinished")).unwrap();
    fails(&data, &["export", "--user", "alice", &path("link"), "--resume"]);
    assert_eq!(std::fs::read(path("one")).unwrap(), one);
}

#[test]
fn a_conversation_is_imported_into_a_thread() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let file = folder.path().join("chat.jsonl");
    let file = file.to_str().unwrap();
    std::fs::write(
        file,
        "{\"role\":\"user\",\"content\":\"hi\"}\n{\"role\":\"assistant\",\"content\":\"hello\"}\n",
    )
    .unwrap();
    let import = ["import", "--from", "chat-jsonl", "--user", "alice", file];
    assert!(!syntha(&data, &import).status.success(), "it asks for the thread");
    let import = [&import[..], &["--thread", "support"]].concat();
    assert_eq!(json(&data, &import), json!({ "appended": 2, "present": 0 }));
    let again = [&import[..], &["--into-existing"]].concat();
    assert_eq!(json(&data, &again), json!({ "appended": 0, "present": 2 }));
    assert_eq!(
        json(&data, &["history", "show", "--user", "alice", "support"])["messages"][1]["role"],
        "assistant"
    );
}

/// An agent's text reaches the operator's terminal as text.
#[test]
fn what_a_model_wrote_does_not_steer_the_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    json(&data, &["user", "add", "alice"]);
    let text = "\u{1b}]0;x\u{7}\u{9b}2J\u{202e}evil\u{2028}\u{2066}";
    json(&data, &["history", "append", "--user", "alice", "--agent", "a", "chat", "user", text]);
    json(&data, &["push", "--user", "alice", "--agent", "a", "key\u{202e}", text]);
    for command in [
        &["history", "show", "--user", "alice", "chat"][..],
        &["--json", "history", "show", "--user", "alice", "chat"],
        &["get", "--user", "alice", "--agent", "a", "key\u{202e}"],
        &["list", "--user", "alice", "--agent", "a"],
        &["--json", "list", "--user", "alice", "--agent", "a"],
    ] {
        let output = syntha(&data, command);
        assert!(output.status.success());
        let shown = String::from_utf8(output.stdout).unwrap();
        let steers = |c: char| (c.is_control() && c != '\n') || "\u{202e}\u{2028}\u{2066}".contains(c);
        assert!(!shown.contains(steers), "{shown:?}");
    }
    let page = json(&data, &["history", "show", "--user", "alice", "chat"]);
    assert_eq!(page["messages"][0]["content"], text, "the value is the same");
}

/// An unfinished export that somebody else has prepared is not filled.
#[test]
fn an_export_is_not_written_into_a_file_with_another_name() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    json(&data, &["user", "add", "alice"]);
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("precious"), "precious").unwrap();
    std::fs::hard_link(path("precious"), path("out.unfinished")).unwrap();
    fails(&data, &["export", "--user", "alice", &path("out"), "--resume"]);
    assert_eq!(std::fs::read(path("precious")).unwrap(), b"precious");
    std::fs::remove_file(path("out.unfinished")).unwrap();
    std::fs::write(path("out.unfinished"), "").unwrap();
    json(&data, &["export", "--user", "alice", &path("out"), "--resume"]);
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(path("out")).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    assert!(!std::fs::exists(path("out.unfinished")).unwrap());
}
