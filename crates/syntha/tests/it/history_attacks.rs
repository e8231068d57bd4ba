//! What an attacker's reading of the history, exports and imports found, each kept as a test.

use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use serde_json::value::RawValue;
use serde_json::{Value, json};
use syntha::store::{Batch, Keyspace, MemoryStore, RecordId, Store};
use syntha::{
    HostAuthority, InteractionLog, MeshConfig, MeshErrorKind, Message, Session, Timestamp, Topic, UserManager,
};

async fn users(log: InteractionLog) -> (UserManager, HostAuthority) {
    let mut config = MeshConfig::default();
    config.interactions = log;
    config.interactions_kept = 10;
    // One check lets more wait than production does.
    config.waiting_bytes = 256 << 20;
    // A debug build on a busy machine.
    config.deadline = std::time::Duration::from_secs(60);
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
    // The changes are large; then they are small, and what they change is large.
    for part in [&topics[..4_000], &topics[4_000..4_001]] {
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..70 {
            let (agent, topics) = (session.agent(format!("flood-{n}")).unwrap(), part.to_vec());
            tasks.spawn(async move { agent.subscribe(topics).await.map(drop) });
        }
        let other = session.agent("other").unwrap();
        tasks.spawn(async move { other.push("beside", 3).await.map(drop) });
        while let Some(done) = tasks.join_next().await {
            done.unwrap().unwrap();
        }
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

/// One thread's damaged record is an error to who writes that thread, not to who writes at the same moment.
#[tokio::test]
async fn a_damaged_thread_fails_no_other_write() {
    let store = Arc::new(MemoryStore::new().unwrap());
    let key = store.deployment_key().clone();
    let (users, host) = UserManager::builder().store(Arc::clone(&store) as _, key).open().await.unwrap();
    let session = users.create_user_session(&host, "alice").await.unwrap();
    session.push("first", 1).await.unwrap();
    let raw = store.open(users.tag("alice").unwrap()).await.unwrap();
    let id = RecordId::new("damaged", 0).unwrap();
    let batch = Batch::new(Timestamp(1)).unwrap().put(Keyspace::Threads, id, &b"{}"[..], &b"{}"[..]);
    raw.commit(batch).await.unwrap();
    let damaged = session.thread("damaged").unwrap();
    let sound = session.thread("sound").unwrap();
    let before = sound.append(Message::user("1"));
    let (pushed, refused) = (session.push("k", 1).into_future(), damaged.append(Message::user("x")));
    let (before, refused, pushed) = tokio::join!(before, refused, pushed);
    assert_eq!(refused.unwrap_err().kind(), MeshErrorKind::Storage);
    before.unwrap();
    pushed.unwrap();
}

/// What was redacted, and what was in a deleted thread, is in no file once that is acknowledged.
#[tokio::test]
async fn redacted_messages_are_in_no_file() {
    let (_folder, data) = crate::data();
    let mut config = MeshConfig::default();
    config.interactions = InteractionLog::All;
    let (users, host) = UserManager::builder().sqlite(&data).plain().mesh(config).open().await.unwrap();
    let session = users.create_user_session(&host, "alice").await.unwrap();
    let thread = session.agent("a").unwrap().thread("t").unwrap();
    let message = |canary: &str| {
        let long = format!("{canary}-{}", "x".repeat(20_000));
        Message::user(long).id(canary).metadata("m", canary)
    };
    for canary in ["canary-one", "canary-two"] {
        thread.append(message(canary)).await.unwrap();
    }
    thread.last(10).await.unwrap();
    assert!(holds(&data, "canary-one") && holds(&data, "canary-two"));
    assert!(session.redact_message("t", 1).await.unwrap());
    assert!(!holds(&data, "canary-one") && holds(&data, "canary-two"));
    assert!(thread.append(message("canary-one")).await.unwrap().duplicate);
    assert!(!holds(&data, "canary-one"));
    assert!(session.delete_thread("t").await.unwrap());
    assert!(!holds(&data, "canary-two"));
}

fn holds(path: &Path, canary: &str) -> bool {
    if path.is_dir() {
        return std::fs::read_dir(path).unwrap().any(|entry| holds(&entry.unwrap().path(), canary));
    }
    std::fs::read(path).unwrap().windows(canary.len()).any(|part| part == canary.as_bytes())
}

/// A reader who pages while the thread is deleted and made again for others never gets what is for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_thread_made_again_for_others_shows_its_reader_nothing() {
    let (_folder, data) = crate::data();
    for builder in [UserManager::builder().memory(), UserManager::builder().sqlite(&data)] {
        let (users, host) = builder.open().await.unwrap();
        let session = users.create_user_session(&host, "alice").await.unwrap();
        session.register_agent("reader").await.unwrap();
        let writer = {
            let session = session.clone();
            tokio::spawn(async move {
                let thread = session.thread("t").unwrap();
                for round in 0..200 {
                    let secret = round % 2 == 1;
                    // The reader may have made it for everyone.
                    while secret && !thread.create_for(["insider"]).await.unwrap() {
                        session.delete_thread("t").await.unwrap();
                    }
                    let text = if secret { "secret" } else { "public" };
                    thread.append_all((0..5).map(|_| Message::user(text))).await.unwrap();
                    session.delete_thread("t").await.unwrap();
                }
            })
        };
        let mut readers = Vec::new();
        for _ in 0..2 {
            let (agent, session) = (session.agent("reader").unwrap(), session.clone());
            let stop = writer.abort_handle();
            readers.push(tokio::spawn(async move {
                let (thread, mut seen) = (agent.thread("t").unwrap(), 0);
                while !stop.is_finished() {
                    let pages = [thread.last(3).await, thread.after(1, 3).await, thread.before(4, 2).await];
                    for message in pages.into_iter().flat_map(|page| page.unwrap().messages) {
                        assert_eq!(message.text().unwrap(), "public");
                        seen += 1;
                    }
                    assert!(thread.info().await.unwrap().is_none_or(|info| info.agents.is_none()));
                    let listed = agent.threads(None, 10).await.unwrap();
                    assert!(listed.iter().all(|info| info.agents.is_none()));
                    if let Some(message) = thread.message(2).await.unwrap() {
                        assert_eq!(message.text().unwrap(), "public");
                    }
                    if let Err(error) = thread.append(Message::user("public")).await {
                        assert_eq!(error.kind(), MeshErrorKind::Denied);
                    }
                    let _ = session.thread("t").unwrap().info().await.unwrap();
                }
                seen
            }));
        }
        for reader in readers {
            assert!(reader.await.unwrap() > 0);
        }
        writer.await.unwrap();
    }
}

/// Reads that could not be written down because too much was written at once are written down later.
#[tokio::test]
async fn a_flood_of_writes_loses_no_read_from_the_log() {
    let (users, host) = users(InteractionLog::All).await;
    let session = users.create_user_session(&host, "alice").await.unwrap();
    let reader = session.agent("reader").unwrap();
    reader.push("k", 1).await.unwrap();
    reader.get::<u8>("k").await.unwrap();
    let hostile = session.agent("flood").unwrap();
    let mut flood: Vec<_> = (0..17_000).map(|_| Box::pin(hostile.remove("absent", None))).collect();
    // The writer does not run before this task waits.
    let mut refused = 0;
    std::future::poll_fn(|cx| {
        for write in &mut flood {
            refused += u32::from(write.as_mut().poll(cx).is_ready());
        }
        std::task::Poll::Ready(())
    })
    .await;
    assert!(refused > 0, "the queue is not full");
    assert_eq!(session.interactions(None, 10).await.unwrap_err().kind(), MeshErrorKind::Busy);
    drop(flood);
    while session.push("later", 1).await.is_err() {
        tokio::task::yield_now().await;
    }
    let log = session.interactions(None, 10).await.unwrap();
    assert!(log.iter().any(|one| one.action == syntha::Action::Read), "{log:?}");
}

/// What little text says in millions of parts is refused before it is millions of parts.
#[tokio::test]
async fn a_line_with_too_many_names_is_refused() {
    let (users, host) = users(InteractionLog::Off).await;
    let session = users.create_user_session(&host, "alice").await.unwrap();
    let names = vec!["a"; 5_000];
    for line in [
        json!({ "thread": { "name": "t", "created": 1, "updated": 1, "last": 0, "agents": names } }),
        json!({ "entry": { "key": "k", "value": 1, "created": 1, "updated": 1, "audience": { "agents": names } } }),
        json!({ "entry": { "key": "k", "value": 1, "created": 1, "updated": 1, "audience": { "topics": names } } }),
        json!({ "agent": { "name": "a", "topics": names } }),
        json!({ "interaction": { "seq": 1, "at": 1, "do": "read", "on": names } }),
    ] {
        let text = format!("{{\"syntha-export\":1}}\n{line}\n");
        let error = import(&session, &text).await.unwrap_err();
        assert_eq!((error.line, error.error.kind()), (2, MeshErrorKind::Invalid));
    }
}
