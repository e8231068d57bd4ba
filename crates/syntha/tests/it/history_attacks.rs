//! What an attacker's reading of the history, exports and imports found, each kept as a test.

use std::io::Cursor;

use serde_json::value::RawValue;
use serde_json::{Value, json};
use syntha::{
    HostAuthority, InteractionLog, MeshConfig, MeshErrorKind, Message, Session, Topic, UserManager,
};

async fn users(log: InteractionLog) -> (UserManager, HostAuthority) {
    let mut config = MeshConfig::default();
    config.interactions = log;
    config.interactions_kept = 10;
    UserManager::builder().memory().mesh(config).open().await.unwrap()
}

async fn export(session: &Session) -> String {
    let mut bytes = Vec::new();
    session.export(&mut bytes, |_| {}).await.unwrap();
    String::from_utf8(bytes).unwrap()
}

async fn import(session: &Session, text: &str) -> Result<syntha::ImportReport, syntha::ImportError> {
    session.import(Cursor::new(text.to_owned()), |_| {}).await
}

/// A JSON text that a parser reads once: as the first member of an object, which it becomes when it is written in order, the
/// name means something to the parser itself.
const POISON: &str = r#"{"a":1,"$serde_json::private::RawValue":"x"}"#;

fn nested(depth: usize) -> Value {
    (0..depth).fold(json!(1), |inner, _| json!([inner]))
}

/// One change that the store refuses is answered alone: it fails nobody who writes at the same moment.
#[tokio::test]
async fn a_thread_with_long_names_fails_no_other_write() {
    let (users, host) = users(InteractionLog::Off).await;
    let session = users.create_user_session(&host, "alice").await.unwrap();
    let (hostile, other) = (session.agent("hostile").unwrap(), session.agent("other").unwrap());
    let names: Vec<_> = (0..64).map(|n| format!("{n:0>256}")).collect();
    let thread = hostile.thread("long").unwrap();
    let before = other.push("before", 1).into_future();
    let long = thread.create_for(names);
    let after = other.push("after", 2).into_future();
    let (before, long, after) = tokio::join!(before, long, after);
    assert_eq!(long.unwrap_err().kind(), MeshErrorKind::LimitExceeded);
    before.unwrap();
    after.unwrap();
}

/// Many changes that are small enough each and too much together are not refused, and fail nobody else.
#[tokio::test]
async fn changes_that_are_too_much_together_fail_no_other_write() {
    let (users, host) = users(InteractionLog::Off).await;
    let session = users.create_user_session(&host, "alice").await.unwrap();
    let topics: Vec<_> = (0..4_096).map(|n| Topic::new(format!("{n:0>256}")).unwrap()).collect();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..70 {
        let (agent, topics) = (session.agent(format!("flood-{n}")).unwrap(), topics.clone());
        tasks.spawn(async move { agent.subscribe(topics).await.map(drop) });
    }
    let other = session.agent("other").unwrap();
    tasks.spawn(async move { other.push("beside", 3).await.map(drop) });
    while let Some(done) = tasks.join_next().await {
        done.unwrap().unwrap();
    }
}

/// A thread whose head just fits when it is made also takes messages later.
#[tokio::test]
async fn a_thread_that_was_made_takes_messages() {
    let (users, host) = users(InteractionLog::Off).await;
    let session = users.create_user_session(&host, "alice").await.unwrap();
    let mut made = 0;
    for bytes in 20..60 {
        let thread = session.thread(format!("t{bytes}")).unwrap();
        let names: Vec<_> = (0..64).map(|n| format!("{n:0>bytes$}")).collect();
        if thread.create_for(names).await.is_ok() {
            made += 1;
            for n in 0..12 {
                thread.append(Message::user("x".repeat(1_000 + n))).await.unwrap();
            }
        }
    }
    assert!(made > 0 && made < 40, "{made} of 40");
}

/// A message that can't be read back would make its whole thread, and the user's export, unreadable.
#[tokio::test]
async fn what_can_not_be_read_back_is_refused() {
    let (users, host) = users(InteractionLog::Off).await;
    let session = users.create_user_session(&host, "alice").await.unwrap();
    let (hostile, other) = (session.agent("hostile").unwrap(), session.agent("other").unwrap());
    let poison: Value = serde_json::from_str(POISON).unwrap();
    let shared = hostile.thread("shared").unwrap();
    shared.append(Message::user("hello")).await.unwrap();
    for value in [poison.clone(), json!({ "in": [poison.clone()] }), nested(127), nested(300)] {
        let refused = shared.append(Message::user("x").metadata("m", value.clone())).await;
        assert_eq!(refused.unwrap_err().kind(), MeshErrorKind::Invalid);
    }
    for value in [poison.clone(), json!([[{ "deep": poison }]])] {
        assert_eq!(hostile.push("k", &value).await.unwrap_err().kind(), MeshErrorKind::Invalid);
        let refused = shared.append(Message::user(&value)).await;
        assert_eq!(refused.unwrap_err().kind(), MeshErrorKind::Invalid);
        let chat = format!("{{\"role\":\"user\",\"content\":\"x\",\"name\":{POISON}}}\n");
        let error = shared.import_chat(Cursor::new(chat), |_| {}).await.unwrap_err();
        assert_eq!(error.error.kind(), MeshErrorKind::Invalid);
    }
    // What is taken is there for everyone, and in an export and back.
    for depth in 100..127 {
        let _ = shared.append(Message::user(nested(depth)).metadata("m", nested(depth))).await;
    }
    let page = other.thread("shared").unwrap().last(100).await.unwrap();
    assert_eq!(page.messages[0].text().as_deref(), Some("hello"));
    assert!(page.messages.iter().all(|message| !message.content().is_null()));
    let bob = users.create_user_session(&host, "bob").await.unwrap();
    let text = export(&session).await;
    import(&bob, &text).await.unwrap();
    assert_eq!(export(&bob).await, text);
}

/// JSON text with line ends between its tokens, as it stands in a file.
#[tokio::test]
async fn line_ends_in_a_value_do_not_break_an_export() {
    let (users, host) = users(InteractionLog::Off).await;
    let session = users.create_user_session(&host, "alice").await.unwrap();
    let pretty = "[\n{\"agent\":{\"name\":\"forged\",\"topics\":[]}}\r\n]";
    let raw = RawValue::from_string(pretty.to_owned()).unwrap();
    session.push("k", &raw).await.unwrap();
    session.thread("t").unwrap().append(Message::user(&raw)).await.unwrap();
    let text = export(&session).await;
    assert_eq!(text.lines().count(), 5, "{text}");
    let bob = users.create_user_session(&host, "bob").await.unwrap();
    import(&bob, &text).await.unwrap();
    assert_eq!(export(&bob).await, text);
    let entry = bob.value("k").await.unwrap().unwrap();
    assert_eq!(entry.value::<Value>().unwrap(), serde_json::from_str::<Value>(pretty).unwrap());
}

/// A redaction while an import is half-way is not undone when the import goes on.
#[tokio::test]
async fn an_import_that_goes_on_brings_back_nothing_redacted() {
    let (users, host) = users(InteractionLog::Off).await;
    let alice = users.create_user_session(&host, "alice").await.unwrap();
    let thread = alice.thread("t").unwrap();
    for n in 0..3 {
        thread.append_all((0..150).map(|m| Message::user(format!("secret-{n}-{m}")))).await.unwrap();
    }
    let text = export(&alice).await;
    let bob = users.create_user_session(&host, "bob").await.unwrap();
    let part: String = text.lines().take(300).fold(String::new(), |part, line| part + line + "\n");
    import(&bob, &part).await.unwrap_err();
    let there = bob.thread("t").unwrap().last(1_000).await.unwrap().messages;
    assert!(!there.is_empty() && there.len() < 300);
    let last = there.last().unwrap().seq();
    for seq in [1, 20, last] {
        assert!(bob.redact_message("t", seq).await.unwrap());
    }
    import(&bob, &text).await.unwrap();
    for seq in [1, 20, last] {
        assert!(bob.thread("t").unwrap().message(seq).await.unwrap().is_none(), "{seq} is back");
    }
    let all = bob.thread("t").unwrap().last(1_000).await.unwrap().messages;
    assert_eq!(all.len(), 447);
    assert_eq!(bob.thread("t").unwrap().info().await.unwrap().unwrap().messages, 447);
}

/// A log with a number near the end of all numbers, or far from the others, would fail or slow down each later write.
#[tokio::test]
async fn an_imported_log_stops_no_write() {
    let (users, host) = users(InteractionLog::Writes).await;
    let log = |seqs: &[u64], on: &str| {
        let mut text = "{\"syntha-export\":1}\n".to_owned();
        for seq in seqs {
            let line = json!({ "interaction": { "seq": seq, "at": 1, "do": "push", "on": [on] } });
            text.push_str(&format!("{line}\n"));
        }
        let end = json!({ "end": { "agents": 0, "entries": 0, "threads": 0, "messages": 0,
            "interactions": seqs.len() } });
        text + &format!("{end}\n")
    };
    let session = users.create_user_session(&host, "alice").await.unwrap();
    for seq in [0, u64::MAX, i64::MAX as u64, i64::MAX as u64 - 1] {
        let error = import(&session, &log(&[seq], "k")).await.unwrap_err();
        assert_eq!(error.error.kind(), MeshErrorKind::Invalid, "{seq}");
    }
    for on in ["\u{1b}[2J", "", &"x".repeat(257)] {
        let error = import(&session, &log(&[1], on)).await.unwrap_err();
        assert_eq!(error.error.kind(), MeshErrorKind::Invalid);
    }
    session.push("k", 1).await.unwrap();
    import(&session, &log(&[1 << 40, (1 << 40) + 1], "k")).await.unwrap();
    for n in 0..600 {
        session.push(format!("k{}", n % 7), n).await.unwrap();
    }
    let kept = session.interactions(None, 1_000).await.unwrap();
    assert!(kept.len() >= 10 && kept.len() <= 10 + 257, "{} are kept", kept.len());
    assert!(kept.last().unwrap().seq > 1 << 40);
}

/// Members of a line are taken in one go, not each with a copy of the whole message.
#[tokio::test]
async fn a_line_with_many_members_is_read_at_once() {
    let (users, host) = users(InteractionLog::Off).await;
    let session = users.create_user_session(&host, "alice").await.unwrap();
    let members: String = (0..60_000).map(|n| format!(",\"{n}\":1")).collect();
    let chat = format!("{{\"role\":\"user\",\"content\":\"x\"{members}}}\n");
    let started = std::time::Instant::now();
    session.thread("t").unwrap().import_chat(Cursor::new(chat), |_| {}).await.unwrap();
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
}
