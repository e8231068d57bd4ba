//! Exports and imports.

use std::io::Cursor;
use std::time::Duration;

use syntha_mesh::{ErrorKind, Exported, Filter, InteractionLog, Mesh, Message, Topic};

use super::{assert_unseen, assert_usage, checks, keys, kind};
use crate::harness::Bed;

checks![
    export_import_gives_an_equal_mesh,
    export_is_of_one_commit,
    export_holds_one_user_alone,
    import_again_changes_nothing,
    import_goes_on_after_a_stop,
    import_keeps_what_is_there,
    import_brings_back_nothing_redacted,
    import_of_former_agents_is_for_nobody,
    import_refuses_what_is_no_export,
    import_keeps_audiences_and_expiry,
    chat_import_goes_on,
    chat_import_refuses_what_is_no_message,
];

async fn export(mesh: &Mesh) -> String {
    let mut bytes = Vec::new();
    let exported = mesh.export(&mut bytes, |_| {}).await.unwrap();
    let text = String::from_utf8(bytes).unwrap();
    assert_eq!(exported.lines() + 2, text.lines().count() as u64);
    text
}

async fn import(mesh: &Mesh, text: &str) -> Result<syntha_mesh::ImportReport, syntha_mesh::ImportError> {
    mesh.import(Cursor::new(text.to_owned()), |_| {}).await
}

/// A mesh with something of everything.
async fn full(bed: &Bed, user: &str) -> Mesh {
    let mesh = bed.mesh_with(user, |config| config.interactions = InteractionLog::Writes).await;
    let (ann, ben) = (mesh.agent("ann").unwrap(), mesh.agent("ben").unwrap());
    ann.subscribe(["news", "z"]).await.unwrap();
    mesh.set_post_permissions("ben", Some(vec![Topic::new("news").unwrap()])).await.unwrap();
    mesh.set_read_permissions("cat", Some(Vec::new())).await.unwrap();
    ann.push("all", serde_json::json!({ "b": [1, 2.5, null], "a": "\u{2028}\u{1F600}" })).await.unwrap();
    bed.clock().advance(Duration::from_secs(1));
    ann.push("for-ben", 1).agents(["ben"]).topic("z").await.unwrap();
    ben.push("news", 2).topic("news").ttl(Duration::from_secs(1_000)).await.unwrap();
    mesh.push("nobody", 3).restricted().await.unwrap();
    mesh.agent("old").unwrap().push("by-old", 4).agents(["old", "ann"]).await.unwrap();
    mesh.unregister_agent("old").await.unwrap();
    ann.push("gone", 5).ttl(Duration::from_secs(1)).await.unwrap();
    ann.thread("t").unwrap().append(Message::user("hello").id("m-1").metadata("n", 1)).await.unwrap();
    for n in 0..5 {
        ann.thread("t").unwrap().append(Message::assistant(n.to_string())).await.unwrap();
    }
    mesh.redact_message("t", 3).await.unwrap();
    mesh.redact_message("t", 6).await.unwrap();
    ben.thread("private").unwrap().create_for(["ann"]).await.unwrap();
    ben.thread("private")
        .unwrap()
        .append(Message::user(serde_json::json!([{ "type": "text" }])))
        .await
        .unwrap();
    mesh.thread("empty").unwrap().create().await.unwrap();
    bed.clock().advance(Duration::from_secs(5));
    mesh
}

async fn export_import_gives_an_equal_mesh(mut bed: Bed) {
    let mesh = full(&bed, "a").await;
    let first = export(&mesh).await;
    let copy = bed.mesh("b").await;
    let report = import(&copy, &first).await.unwrap();
    assert_eq!(report.present, Exported::default());
    assert_eq!(export(&copy).await, first);
    assert_usage(&copy).await;
    let (from, to) = (mesh.usage().await.unwrap().1, copy.usage().await.unwrap().1);
    assert_eq!((from.history_bytes, from.agents), (to.history_bytes, to.agents));
    for agent in ["ann", "ben", "cat", "eve"] {
        let (one, two) = (mesh.agent(agent).unwrap(), copy.agent(agent).unwrap());
        assert_eq!(keys(&one).await, keys(&two).await, "{agent}");
        let texts = |entries: Vec<std::sync::Arc<syntha_mesh::Entry>>| {
            entries
                .iter()
                .map(|entry| format!("{} {} {:?}", entry.key(), entry.json(), entry.author()))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            texts(one.all(&Filter::new()).await.unwrap()),
            texts(two.all(&Filter::new()).await.unwrap()),
        );
        let threads = async |agent: &syntha_mesh::Agent| {
            let mut threads = agent.threads(None, 10).await.unwrap();
            threads.sort_unstable_by(|one, other| one.thread.cmp(&other.thread));
            threads
        };
        assert_eq!(threads(&one).await, threads(&two).await);
    }
    // A message's id is known in the copy, and places that were redacted stay empty.
    let thread = copy.agent("ann").unwrap().thread("t").unwrap();
    let again = thread.append(Message::user("hello").id("m-1").metadata("n", 1)).await.unwrap();
    assert!(again.duplicate);
    assert_eq!(thread.append(Message::user("next")).await.unwrap().seq, 7);
    bed.reopen().await;
    assert_eq!(export(&bed.mesh("a").await).await, first);
}

async fn export_is_of_one_commit(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let agent = mesh.agent("ann").unwrap();
    // Threads whose names come in another order than they were made, and in whichever order a store keeps them.
    let threads: Vec<_> = ["c", "b", "d", "a"].map(|name| agent.thread(name).unwrap()).into();
    let writer = tokio::spawn(async move {
        for n in 0_u32.. {
            let batch = agent.batch().push("left", n).push("right", n);
            if batch.commit().await.is_err() {
                break;
            }
            for thread in &threads {
                if n < 300 && thread.append(Message::user(n)).await.is_err() {
                    return;
                }
            }
            tokio::task::yield_now().await;
        }
    });
    for _ in 0..30 {
        let text = export(&mesh).await;
        let value = |key: &str| {
            let line = text.lines().find(|line| line.contains(&format!("\"key\":\"{key}\"")))?;
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            line["entry"]["value"].as_u64()
        };
        assert_eq!(value("left"), value("right"));
        // Each thread, by name, has the messages that its line says, and no more of any thread than were appended in turn.
        let mut lasts = std::collections::BTreeMap::new();
        let (mut name, mut messages) = (String::new(), 0);
        for line in text.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            if let Some(thread) = line.get("thread") {
                assert_eq!(lasts.get(&name).copied().unwrap_or(0), messages);
                (name, messages) = (thread["name"].as_str().unwrap().to_owned(), 0);
                assert!(lasts.last_key_value().is_none_or(|(last, _)| *last < name));
                lasts.insert(name.clone(), thread["last"].as_u64().unwrap());
            } else if let Some(message) = line.get("message") {
                messages += 1;
                assert_eq!(message["seq"].as_u64(), Some(messages));
            }
        }
        assert_eq!(lasts.get(&name).copied().unwrap_or(0), messages);
        let last = |name: &str| lasts.get(name).copied().unwrap_or(0);
        let order = [last("c"), last("b"), last("d"), last("a")];
        assert!(order.is_sorted_by(|one, next| one >= next) && order[0] - order[3] <= 1, "{order:?}");
    }
    writer.abort();
}

async fn export_holds_one_user_alone(bed: Bed) {
    for user in ["a", "b"] {
        let mesh = bed.mesh(user).await;
        let agent = mesh.agent("agent").unwrap();
        agent.push("key", format!("CANARY-{user}")).topic("topic").await.unwrap();
        agent.thread("t").unwrap().append(Message::user(format!("CANARY-{user}"))).await.unwrap();
    }
    let text = export(&bed.mesh("a").await).await;
    assert!(text.contains("CANARY-a") && !text.contains("CANARY-b"));
    import(&bed.mesh("c").await, &text).await.unwrap();
    assert!(!export(&bed.mesh("b").await).await.contains("CANARY-a"));
}

async fn import_again_changes_nothing(bed: Bed) {
    let text = export(&full(&bed, "a").await).await;
    let copy = bed.mesh("b").await;
    let first = import(&copy, &text).await.unwrap();
    let stamp = copy.usage().await.unwrap();
    let again = import(&copy, &text).await.unwrap();
    assert_eq!((again.imported, again.present), (Exported::default(), first.imported));
    assert_eq!(copy.usage().await.unwrap(), stamp, "nothing was written");
    assert_eq!(export(&copy).await, text);
}

async fn import_goes_on_after_a_stop(mut bed: Bed) {
    let mesh = full(&bed, "a").await;
    // More than one commit of lines.
    let thread = mesh.thread("long").unwrap();
    for from in [0, 200] {
        thread.append_all((from..from + 200).map(Message::user)).await.unwrap();
    }
    let text = export(&mesh).await;
    let lines: Vec<_> = text.lines().collect();
    let mut cut = 1;
    while cut < lines.len() {
        let part = lines[..cut].join("\n") + "\n{\"half";
        let error = import(&bed.mesh("b").await, &part).await.unwrap_err();
        assert_eq!((error.error.kind(), error.line), (ErrorKind::Invalid, cut as u64 + 1));
        if cut % 100 < 40 {
            bed.reopen().await;
        }
        cut += 61;
    }
    let report = import(&bed.mesh("b").await, &text).await.unwrap();
    assert!(report.present.messages >= 200, "it went on, and did not begin again");
    assert_eq!(export(&bed.mesh("b").await).await, text);
}

async fn import_keeps_what_is_there(bed: Bed) {
    let text = export(&full(&bed, "a").await).await;
    let copy = bed.mesh("b").await;
    copy.agent("ann").unwrap().push("all", "mine").await.unwrap();
    let report = import(&copy, &text).await.unwrap();
    assert_eq!((report.present.entries, report.present.agents), (1, 1));
    assert_eq!(copy.value("all").await.unwrap().unwrap().json(), "\"mine\"");
    assert!(
        copy.agent("ann").unwrap().topics().await.unwrap().is_empty(),
        "an agent keeps its subscriptions"
    );
    let other = bed.mesh("c").await;
    bed.clock().advance(Duration::from_secs(1));
    other.thread("t").unwrap().append(Message::user("mine")).await.unwrap();
    let error = import(&other, &text).await.unwrap_err();
    assert_eq!(error.error.kind(), ErrorKind::Conflict);
    assert_eq!(other.thread("t").unwrap().last(9).await.unwrap().messages.len(), 1);
}

async fn import_brings_back_nothing_redacted(bed: Bed) {
    let mesh = full(&bed, "a").await;
    let text = export(&mesh).await;
    mesh.redact_message("t", 1).await.unwrap();
    mesh.remove("all").await.unwrap();
    import(&mesh, &text).await.unwrap();
    let thread = mesh.thread("t").unwrap();
    assert!(thread.message(1).await.unwrap().is_none());
    assert_eq!(thread.info().await.unwrap().unwrap().messages, 3);
    assert!(mesh.value("all").await.unwrap().is_some(), "an entry is no message: it comes back");
}

async fn import_of_former_agents_is_for_nobody(bed: Bed) {
    let text = export(&full(&bed, "a").await).await;
    assert!(text.contains("{\"former\":\"old\"}"));
    let copy = bed.mesh("b").await;
    copy.register_agent("old").await.unwrap();
    import(&copy, &text).await.unwrap();
    assert_unseen(&copy.agent("old").unwrap(), "by-old").await;
    assert_eq!(copy.agent("ann").unwrap().get::<u8>("by-old").await.unwrap(), Some(4));
}

async fn import_refuses_what_is_no_export(bed: Bed) {
    let text = export(&full(&bed, "a").await).await;
    let changed = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1)
    };
    let without =
        |part: &str| text.lines().filter(|line| !line.contains(part)).collect::<Vec<_>>().join("\n");
    let bad = [
        String::new(),
        "{}\n".into(),
        "not json\n".into(),
        changed("{\"syntha-export\":1}\n", ""),
        changed("{\"syntha-export\":1}", "{\"syntha-export\":2}"),
        without("\"end\""),
        without("\"hello\""),
        without("\"thread\":{\"name\":\"t\""),
        changed("\"key\":\"all\"", "\"key\":\"a\\nll\""),
        changed("\"key\":\"all\"", "\"key\":\"all\",\"user\":\"b\""),
        changed("\"name\":\"ann\"", "\"name\":\"a\\u200bnn\""),
        changed("\"seq\":1", "\"seq\":0"),
        changed("\"seq\":1", "\"seq\":99"),
        changed("\"role\":\"user\"", "\"role\":\"root\""),
        text.clone() + "{\"syntha-export\":1}\n",
    ];
    for (n, bad) in bad.iter().enumerate() {
        let copy = bed.mesh(&format!("copy-{n}")).await;
        let error = import(&copy, bad).await.unwrap_err();
        assert_eq!(error.error.kind(), ErrorKind::Invalid, "{n}");
        assert!(!format!("{error} {error:?}").contains("hello"), "an error holds nothing of the file");
    }
    let small = bed.mesh_with("small", |config| config.value_bytes = 10).await;
    assert_eq!(import(&small, &text).await.unwrap_err().error.kind(), ErrorKind::LimitExceeded);
}

async fn import_keeps_audiences_and_expiry(bed: Bed) {
    let text = export(&full(&bed, "a").await).await;
    let copy = bed.mesh("b").await;
    import(&copy, &text).await.unwrap();
    assert_unseen(&copy.agent("eve").unwrap(), "nobody").await;
    assert_unseen(&copy.agent("eve").unwrap(), "for-ben").await;
    assert_eq!(keys(&copy.agent("ben").unwrap()).await, ["all", "for-ben"]);
    assert!(copy.agent("ann").unwrap().entry("news").await.unwrap().is_some());
    bed.clock().advance(Duration::from_secs(996));
    assert_unseen(&copy.agent("ann").unwrap(), "news").await;
    let late = import(&bed.mesh("c").await, &text).await.unwrap();
    assert_eq!(late.expired, 1);
    assert_unseen(&bed.mesh("c").await.agent("ann").unwrap(), "news").await;
}

const CHAT: &str = "{\"role\":\"developer\",\"content\":\"be kind\"}\n\
    {\"role\":\"user\",\"content\":\"hi\",\"name\":\"Ann\"}\n\n\
    {\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"c\"}]}\n\
    {\"role\":\"tool\",\"content\":\"42\",\"tool_call_id\":\"c\"}\n\
    {\"role\":\"user\",\"content\":\"hi\",\"name\":\"Ann\"}\n";

async fn chat_import_goes_on(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let thread = mesh.agent("ann").unwrap().thread("chat").unwrap();
    let read = async |text: String| thread.import_chat(Cursor::new(text), |_| {}).await;
    let cut = CHAT.find("{\"role\":\"tool\"").unwrap();
    let error = read(CHAT[..cut + 5].to_owned()).await.unwrap_err();
    assert_eq!((error.line, error.error.kind()), (5, ErrorKind::Invalid));
    let report = read(CHAT[..cut].to_owned()).await.unwrap();
    assert_eq!((report.appended, report.present), (3, 0));
    let report = read(CHAT.to_owned()).await.unwrap();
    assert_eq!((report.lines, report.appended, report.present), (6, 2, 3));
    let report = read(CHAT.to_owned()).await.unwrap();
    assert_eq!((report.appended, report.present), (0, 5));
    let page = thread.last(10).await.unwrap();
    let roles: Vec<_> = page.messages.iter().map(|message| message.role().name()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "tool", "user"]);
    assert_eq!(page.messages[1].metadata()["name"], "Ann");
    assert_eq!(page.messages[2].metadata()["tool_calls"][0]["id"], "c");
    assert!(page.messages[2].content().is_null());
    // Another file with the same line is another conversation.
    let report = read("{\"role\":\"user\",\"content\":\"hi\"}\n".to_owned()).await.unwrap();
    assert_eq!(report.appended, 1);
}

async fn chat_import_refuses_what_is_no_message(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let thread = mesh.thread("chat").unwrap();
    for bad in ["[]", "{}", "x", "{\"role\":\"root\",\"content\":\"x\"}", "{\"role\":1,\"content\":\"x\"}"] {
        let text = format!("{{\"role\":\"user\",\"content\":\"SECRET\"}}\n{bad}\n");
        let error = thread.import_chat(Cursor::new(text), |_| {}).await.unwrap_err();
        assert_eq!((error.line, error.error.kind()), (2, ErrorKind::Invalid));
        assert!(!format!("{error} {error:?}").contains("SECRET"));
    }
    assert_eq!(kind(thread.last(0).await), ErrorKind::Invalid);
    assert!(thread.info().await.unwrap().is_none(), "nothing of a refused commit is there");
}
