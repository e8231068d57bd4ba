//! Threads, messages, and the log of interactions.

use syntha_mesh::{
    Action, AgentName, ErrorKind, InteractionLog, Mesh, Message, MessagePage, MessageRole, Thread,
};

use super::{checks, erase, kind};
use crate::harness::Bed;

checks![
    history_keeps_messages_in_order,
    history_keeps_any_content,
    history_pages_both_ways,
    history_pages_stay_in_their_thread,
    history_pages_are_bounded_in_bytes,
    history_same_id_writes_nothing,
    history_id_is_bound_to_its_message,
    history_id_is_used_once_by_racing_writers,
    history_append_is_whole_or_not_at_all,
    history_many_agents_append_at_once,
    history_audience_is_whom_it_names,
    history_hidden_thread_is_not_appended_to,
    history_redacted_is_nowhere,
    history_redacted_stays_redacted_after_a_retry,
    history_deleted_thread_leaves_nothing,
    history_deleted_name_is_another_thread,
    history_usage_is_exact,
    history_limits_are_checked,
    history_survives_reopen_and_crash,
    history_of_two_handles_is_one,
    history_of_two_users_is_two,
    history_erased_is_gone,
    interactions_are_what_was_done,
    interactions_of_reads_are_written_down,
    interactions_are_trimmed,
    interactions_off_are_none,
];

fn texts(page: &MessagePage) -> Vec<String> {
    page.messages.iter().map(|message| message.text().unwrap()).collect()
}

fn places(page: &MessagePage) -> Vec<u64> {
    page.messages.iter().map(syntha_mesh::HistoryMessage::seq).collect()
}

async fn talk(thread: &Thread, count: u64) {
    for n in 1..=count {
        let appended = thread.append(Message::user(n.to_string())).await.unwrap();
        assert_eq!((appended.seq, appended.duplicate), (n, false));
    }
}

async fn history_keeps_messages_in_order(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let ann = mesh.agent("ann").unwrap();
    assert!(ann.thread("t").unwrap().info().await.unwrap().is_none());
    assert!(ann.thread("t").unwrap().last(5).await.unwrap().messages.is_empty());
    let thread = ann.thread("t").unwrap();
    let all = [
        Message::system("be kind"),
        Message::user("hello").id("m-1").metadata("lang", "en"),
        Message::assistant("hi"),
        Message::tool("42").metadata("tool_call_id", "c-1"),
    ];
    assert_eq!(
        thread.append_all(all).await.unwrap().iter().map(|one| one.seq).collect::<Vec<_>>(),
        [1, 2, 3, 4]
    );
    mesh.thread("t").unwrap().append(Message::user("from the host")).await.unwrap();
    let page = thread.last(10).await.unwrap();
    assert_eq!(texts(&page), ["be kind", "hello", "hi", "42", "from the host"]);
    let roles: Vec<_> = page.messages.iter().map(|message| message.role().name()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "tool", "user"]);
    let hello = &page.messages[1];
    assert_eq!((hello.id(), hello.agent(), hello.at()), (Some("m-1"), Some("ann"), crate::harness::START));
    assert_eq!(hello.metadata()["lang"], "en");
    assert_eq!(page.messages[4].agent(), None);
    let info = thread.info().await.unwrap().unwrap();
    assert_eq!((info.messages, info.last, info.agents), (5, 5, None));
    assert_eq!(thread.message(2).await.unwrap().unwrap().text().unwrap(), "hello");
    assert!(thread.message(0).await.unwrap().is_none() && thread.message(6).await.unwrap().is_none());
}

async fn history_keeps_any_content(mut bed: Bed) {
    let contents = [
        serde_json::json!([{ "type": "text", "text": "x" }, { "type": "image_url", "image_url": { "url": "u" } }]),
        serde_json::json!(null),
        serde_json::json!({ "b": 1, "a": [1.5, "\u{1F600}", "\u{2028}\n"] }),
        serde_json::json!(""),
    ];
    for content in &contents {
        let thread = bed.mesh("a").await.thread("t").unwrap();
        thread.append(Message::new(MessageRole::Tool, content)).await.unwrap();
    }
    bed.reopen().await;
    let page = bed.mesh("a").await.thread("t").unwrap().last(10).await.unwrap();
    let found: Vec<_> = page.messages.iter().map(syntha_mesh::HistoryMessage::content).collect();
    assert_eq!(found, contents);
}

async fn history_pages_both_ways(bed: Bed) {
    let thread = bed.mesh("a").await.thread("t").unwrap();
    talk(&thread, 10).await;
    for size in 1..12 {
        let (mut up, mut after) = (Vec::new(), 0);
        loop {
            let page = thread.after(after, size).await.unwrap();
            up.extend(places(&page));
            assert_eq!(page.more, *up.last().unwrap() < 10);
            after = *up.last().unwrap();
            if !page.more {
                break;
            }
        }
        assert_eq!(up, (1..=10).collect::<Vec<_>>());
        let (mut down, mut before) = (Vec::new(), u64::MAX);
        loop {
            let page = thread.before(before, size).await.unwrap();
            down.splice(0..0, places(&page));
            before = down[0];
            if !page.more {
                break;
            }
        }
        assert_eq!(down, up);
        let last = thread.last(size).await.unwrap();
        assert_eq!(places(&last), up[up.len().saturating_sub(size)..]);
        assert_eq!(last.more, size < 10);
    }
    assert_eq!(kind(thread.last(0).await), ErrorKind::Invalid);
    assert_eq!(kind(thread.after(0, 1_001).await), ErrorKind::Invalid);
}

async fn history_pages_stay_in_their_thread(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let names = ["t", "t\u{1F600}", "ta", "s", "t ", "tb"];
    for name in names {
        for n in 0..3 {
            mesh.thread(name).unwrap().append(Message::user(format!("{name}-{n}"))).await.unwrap();
        }
    }
    for name in names {
        let thread = mesh.thread(name).unwrap();
        let own: Vec<_> = (0..3).map(|n| format!("{name}-{n}")).collect();
        assert_eq!(texts(&thread.last(100).await.unwrap()), own);
        assert_eq!(texts(&thread.after(0, 100).await.unwrap()), own);
        assert_eq!(texts(&thread.after(2, 100).await.unwrap()), own[2..]);
        assert_eq!(texts(&thread.before(3, 100).await.unwrap()), own[..2]);
        assert!(thread.after(3, 100).await.unwrap().messages.is_empty());
    }
    // The order is the store's own, and the same for pages of any size.
    let whole: Vec<_> = mesh.threads(None, 100).await.unwrap();
    let whole: Vec<_> = whole.iter().map(|info| info.thread.to_string()).collect();
    for size in 1..=7 {
        let (mut listed, mut after) = (Vec::new(), None);
        loop {
            let page = mesh.threads(after.as_deref(), size).await.unwrap();
            let Some(last) = page.last() else { break };
            after = Some(last.thread.to_string());
            listed.extend(page.iter().map(|info| info.thread.to_string()));
        }
        assert_eq!(listed, whole, "pages of {size}");
    }
    let (mut found, mut expected) = (whole, names.map(str::to_owned).to_vec());
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
}

async fn history_pages_are_bounded_in_bytes(bed: Bed) {
    let thread = bed.mesh("a").await.thread("t").unwrap();
    let large = "x".repeat(1_000_000);
    for _ in 0..9 {
        thread.append(Message::user(&large)).await.unwrap();
    }
    let (mut seen, mut after) = (0, 0);
    loop {
        let page = thread.after(after, 1_000).await.unwrap();
        assert!(!page.messages.is_empty() && page.messages.len() <= 4, "a page has at most 4 MiB");
        seen += page.messages.len();
        after = page.messages.last().unwrap().seq();
        if !page.more {
            break;
        }
    }
    assert_eq!(seen, 9);
    assert_eq!(places(&thread.last(1_000).await.unwrap()), [6, 7, 8, 9]);
}

async fn history_same_id_writes_nothing(mut bed: Bed) {
    let message = || Message::user("hello").id("m-1").metadata("n", 1);
    for round in 0..3 {
        let mesh = bed.mesh("a").await;
        let thread = mesh.agent("ann").unwrap().thread("t").unwrap();
        let before = mesh.usage().await.unwrap();
        let appended = thread.append(message()).await.unwrap();
        assert_eq!((appended.seq, appended.duplicate), (1, round > 0));
        if round > 0 {
            assert_eq!(mesh.usage().await.unwrap(), before);
        }
        let twice = thread.append_all([message(), message()]).await.unwrap();
        assert!(twice.iter().all(|one| one.duplicate && one.seq == 1));
        assert_eq!(thread.last(10).await.unwrap().messages.len(), 1);
        // The id of one thread is nothing to another.
        let other = mesh.thread(format!("other-{round}")).unwrap();
        assert!(!other.append(message()).await.unwrap().duplicate);
        bed.reopen().await;
    }
    // Within one append.
    let thread = bed.mesh("a").await.thread("pair").unwrap();
    let pair = thread.append_all([message(), message(), Message::user("next")]).await.unwrap();
    assert_eq!(
        pair.iter().map(|one| (one.seq, one.duplicate)).collect::<Vec<_>>(),
        [(1, false), (1, true), (2, false)]
    );
}

async fn history_id_is_bound_to_its_message(bed: Bed) {
    let thread = bed.mesh("a").await.thread("t").unwrap();
    thread.append(Message::user("one").id("m")).await.unwrap();
    for other in [
        Message::user("two").id("m"),
        Message::assistant("one").id("m"),
        Message::user("one").metadata("x", 1).id("m"),
    ] {
        assert_eq!(kind(thread.append(other).await), ErrorKind::Invalid);
    }
    assert_eq!(thread.last(10).await.unwrap().messages.len(), 1);
}

async fn history_id_is_used_once_by_racing_writers(bed: Bed) {
    let (one, two) = (bed.mesh("a").await, bed.mesh("a").await);
    for round in 0..10 {
        let mut tasks = Vec::new();
        for n in 0..8 {
            let thread = if n % 2 == 0 { &one } else { &two }.thread("t").unwrap();
            tasks.push(tokio::spawn(async move {
                thread.append(Message::user("same").id(format!("m-{round}"))).await.unwrap()
            }));
        }
        let mut new = 0;
        for task in tasks {
            let appended = task.await.unwrap();
            assert_eq!(appended.seq, round + 1);
            new += u32::from(!appended.duplicate);
        }
        assert_eq!(new, 1);
    }
    assert_eq!(one.thread("t").unwrap().last(100).await.unwrap().messages.len(), 10);
}

async fn history_append_is_whole_or_not_at_all(bed: Bed) {
    let mesh = bed.mesh_with("a", |config| config.value_bytes = 100).await;
    let thread = mesh.agent("ann").unwrap().thread("t").unwrap();
    thread.append(Message::user("first").id("m")).await.unwrap();
    let before = mesh.usage().await.unwrap();
    for bad in [Message::user("x".repeat(200)), Message::user("another").id("m"), Message::user("x").id("")] {
        let refused = thread.append_all([Message::user("good").id("new"), bad]).await;
        assert!(matches!(kind(refused), ErrorKind::LimitExceeded | ErrorKind::Invalid));
    }
    assert_eq!(mesh.usage().await.unwrap(), before);
    assert_eq!(texts(&thread.last(10).await.unwrap()), ["first"]);
    assert!(!thread.append(Message::user("good").id("new")).await.unwrap().duplicate);
    // A refused first append makes neither thread nor agent.
    let refused =
        mesh.agent("eve").unwrap().thread("new").unwrap().append(Message::user("x".repeat(200))).await;
    assert_eq!(kind(refused), ErrorKind::LimitExceeded);
    assert!(mesh.thread("new").unwrap().info().await.unwrap().is_none());
    assert!(!mesh.agents().await.unwrap().iter().any(|name| &**name == "eve"));
}

async fn history_many_agents_append_at_once(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let mut tasks = Vec::new();
    for n in 0..64 {
        let thread = mesh.agent(format!("agent-{n}")).unwrap().thread(format!("t-{}", n % 2)).unwrap();
        tasks.push(tokio::spawn(async move { thread.append(Message::user(n.to_string())).await.unwrap() }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    for name in ["t-0", "t-1"] {
        let page = mesh.thread(name).unwrap().last(100).await.unwrap();
        assert_eq!(places(&page), (1..=32).collect::<Vec<_>>());
        let mut said: Vec<u32> = texts(&page).iter().map(|text| text.parse().unwrap()).collect();
        said.sort_unstable();
        said.dedup();
        assert_eq!(said.len(), 32);
    }
}

async fn seen(mesh: &Mesh, agent: &str) -> Vec<String> {
    let agent = mesh.agent(agent).unwrap();
    let listed = agent.threads(None, 100).await.unwrap();
    for info in &listed {
        assert!(!agent.thread(&*info.thread).unwrap().last(10).await.unwrap().messages.is_empty());
    }
    let mut listed: Vec<_> = listed.iter().map(|info| info.thread.to_string()).collect();
    listed.sort_unstable();
    listed
}

async fn history_audience_is_whom_it_names(mut bed: Bed) {
    let mesh = bed.mesh("a").await;
    let ann = mesh.agent("ann").unwrap();
    assert!(ann.thread("private").unwrap().create_for(["ben"]).await.unwrap());
    assert!(!ann.thread("private").unwrap().create().await.unwrap(), "it keeps its audience");
    assert!(mesh.thread("host").unwrap().create_for(Vec::<AgentName>::new()).await.unwrap());
    for (name, thread) in
        [("private", ann.thread("private")), ("host", mesh.thread("host")), ("all", ann.thread("all"))]
    {
        thread.unwrap().append(Message::user(name)).await.unwrap();
    }
    for _ in 0..2 {
        let mesh = bed.mesh("a").await;
        assert_eq!(seen(&mesh, "ann").await, ["all", "private"]);
        assert_eq!(seen(&mesh, "ben").await, ["all", "private"]);
        assert_eq!(seen(&mesh, "eve").await, ["all"]);
        assert_eq!(mesh.threads(None, 10).await.unwrap().len(), 3);
        bed.reopen().await;
    }
    // A name that is registered again is another agent.
    let mesh = bed.mesh("a").await;
    mesh.unregister_agent("ben").await.unwrap();
    mesh.register_agent("ben").await.unwrap();
    assert_eq!(seen(&mesh, "ben").await, ["all"]);
}

async fn history_hidden_thread_is_not_appended_to(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let ann = mesh.agent("ann").unwrap();
    ann.thread("hidden").unwrap().create_for(["ann"]).await.unwrap();
    ann.thread("hidden").unwrap().append(Message::user("secret").id("m")).await.unwrap();
    let eve = mesh.agent("eve").unwrap();
    let answers = async |name: &str| {
        let thread = eve.thread(name).unwrap();
        format!(
            "{:?} {:?} {:?} {:?} {:?} {:?}",
            thread.info().await.unwrap(),
            thread.last(5).await.unwrap(),
            thread.after(0, 5).await.unwrap(),
            thread.before(9, 5).await.unwrap(),
            thread.message(1).await.unwrap(),
            eve.threads(None, 5).await.unwrap(),
        )
    };
    assert_eq!(answers("hidden").await, answers("absent").await);
    let hidden = eve.thread("hidden").unwrap();
    assert_eq!(kind(hidden.append(Message::user("secret").id("m")).await), ErrorKind::Denied);
    assert_eq!(kind(hidden.create().await), ErrorKind::Denied);
    assert_eq!(texts(&ann.thread("hidden").unwrap().last(5).await.unwrap()), ["secret"]);
}

async fn history_redacted_is_nowhere(mut bed: Bed) {
    let mesh = bed.mesh("a").await;
    let thread = mesh.agent("ann").unwrap().thread("t").unwrap();
    for n in 1..=3 {
        thread.append(Message::user(format!("CANARY-{n}")).id(format!("m-{n}"))).await.unwrap();
    }
    assert!(mesh.redact_message("t", 2).await.unwrap());
    assert!(!mesh.redact_message("t", 2).await.unwrap());
    assert!(!mesh.redact_message("t", 9).await.unwrap());
    assert!(!mesh.redact_message("absent", 1).await.unwrap());
    for _ in 0..2 {
        let mesh = bed.mesh("a").await;
        let thread = mesh.agent("ann").unwrap().thread("t").unwrap();
        assert_eq!(texts(&thread.last(10).await.unwrap()), ["CANARY-1", "CANARY-3"]);
        assert_eq!(places(&thread.after(1, 10).await.unwrap()), [3]);
        assert_eq!(places(&thread.before(3, 10).await.unwrap()), [1]);
        assert!(thread.message(2).await.unwrap().is_none());
        let info = thread.info().await.unwrap().unwrap();
        assert_eq!((info.messages, info.last), (2, 3));
        bed.reopen().await;
    }
    for (file, bytes) in bed.files().await {
        let found = bytes.windows(8).any(|window| window == b"CANARY-2");
        assert!(!found, "{file} still holds what was redacted");
    }
    assert_eq!(bed.mesh("a").await.thread("t").unwrap().append(Message::user("4")).await.unwrap().seq, 4);
}

async fn history_redacted_stays_redacted_after_a_retry(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let thread = mesh.thread("t").unwrap();
    let message = || Message::user("said").id("m");
    thread.append(message()).await.unwrap();
    mesh.redact_message("t", 1).await.unwrap();
    for again in [message(), Message::user("guessed").id("m")] {
        let again = thread.append(again).await.unwrap();
        assert_eq!((again.seq, again.duplicate), (1, true));
    }
    assert!(thread.last(5).await.unwrap().messages.is_empty());
}

async fn history_deleted_thread_leaves_nothing(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let ann = mesh.agent("ann").unwrap();
    let clean = mesh.usage().await.unwrap().1;
    for n in 0..5 {
        ann.thread("t")
            .unwrap()
            .append(Message::user(format!("CANARY-{n}")).id(format!("m-{n}")))
            .await
            .unwrap();
        ann.thread("u").unwrap().append(Message::user("kept").id(format!("m-{n}"))).await.unwrap();
    }
    assert!(mesh.delete_thread("t").await.unwrap());
    assert!(!mesh.delete_thread("t").await.unwrap());
    assert!(ann.thread("t").unwrap().info().await.unwrap().is_none());
    assert!(ann.thread("t").unwrap().last(5).await.unwrap().messages.is_empty());
    assert_eq!(seen(&mesh, "ann").await, ["u"]);
    for (file, bytes) in bed.files().await {
        assert!(!bytes.windows(7).any(|window| window == b"CANARY-"), "{file} still holds a deleted thread");
    }
    assert!(mesh.delete_thread("u").await.unwrap());
    assert_eq!(mesh.usage().await.unwrap().1.history_bytes, clean.history_bytes);
}

async fn history_deleted_name_is_another_thread(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let ann = mesh.agent("ann").unwrap();
    ann.thread("t").unwrap().create_for(["ben"]).await.unwrap();
    ann.thread("t").unwrap().append(Message::user("old").id("m")).await.unwrap();
    // At once, so that a writer could take them in one batch.
    let (deleted, appended) = tokio::join!(mesh.delete_thread("t"), async {
        tokio::task::yield_now().await;
        mesh.thread("t").unwrap().append(Message::user("new").id("m")).await
    });
    assert!(deleted.unwrap());
    assert!(!appended.unwrap().duplicate);
    mesh.push("later", 1).await.unwrap();
    let thread = mesh.agent("eve").unwrap().thread("t").unwrap();
    assert_eq!(texts(&thread.last(5).await.unwrap()), ["new"], "it is for everyone now");
    assert_eq!(thread.info().await.unwrap().unwrap().last, 1);
}

async fn history_usage_is_exact(mut bed: Bed) {
    let recount = async |mesh: &Mesh| {
        let mut bytes = 0;
        for info in mesh.threads(None, 100).await.unwrap() {
            let mut own = info.thread.len() as u64;
            for message in mesh.thread(&*info.thread).unwrap().last(1_000).await.unwrap().messages {
                let metadata = if message.metadata().is_empty() {
                    0
                } else {
                    ",\"metadata\":".len() + serde_json::to_string(message.metadata()).unwrap().len()
                };
                own += ("{\"content\":}".len() + message.content_json().len() + metadata) as u64;
                own += message.id().map_or(0, str::len) as u64;
            }
            assert_eq!(info.bytes, own);
            bytes += own;
        }
        assert_eq!(mesh.usage().await.unwrap().1.history_bytes, bytes);
        bytes
    };
    let mesh = bed.mesh("a").await;
    for n in 0..6 {
        let thread = mesh.thread(format!("t-{}", n % 2)).unwrap();
        let message = Message::user("x".repeat(n * 10)).metadata("n", n);
        thread.append(if n % 3 == 0 { message.id(format!("id-{n}")) } else { message }).await.unwrap();
    }
    let full = recount(&mesh).await;
    mesh.redact_message("t-0", 2).await.unwrap();
    let less = recount(&mesh).await;
    assert!(less < full);
    bed.reopen().await;
    let mesh = bed.mesh("a").await;
    assert_eq!(recount(&mesh).await, less);
    mesh.delete_thread("t-0").await.unwrap();
    assert!(recount(&mesh).await < less);
    mesh.delete_thread("t-1").await.unwrap();
    assert_eq!(recount(&mesh).await, 0);
}

async fn history_limits_are_checked(bed: Bed) {
    let mesh = bed.mesh_with("a", |config| config.value_bytes = 1_000).await;
    let thread = mesh.agent("ann").unwrap().thread("t").unwrap();
    let frame = "{\"content\":\"\"}".len();
    thread.append(Message::user("x".repeat(1_000 - frame))).await.unwrap();
    assert_eq!(kind(thread.append(Message::user("x".repeat(1_001 - frame))).await), ErrorKind::LimitExceeded);
    thread.append_all((0..256).map(Message::user)).await.unwrap();
    assert_eq!(kind(thread.append_all((0..257).map(Message::user)).await), ErrorKind::LimitExceeded);
    assert_eq!(kind(thread.append_all([]).await), ErrorKind::Invalid);
    let names = |count: u32| (0..count).map(|n| format!("agent-{n}"));
    assert!(mesh.thread("wide").unwrap().create_for(names(64)).await.unwrap());
    let too_wide = mesh.thread("wider").unwrap();
    assert_eq!(kind(too_wide.create_for(names(65)).await), ErrorKind::LimitExceeded);
    for bad in ["", "a\nb", "e\u{301}", &"x".repeat(257)] {
        assert_eq!(kind(mesh.thread(bad)), ErrorKind::Invalid);
    }
    assert_eq!(kind(thread.append(Message::user("x").id("y".repeat(129))).await), ErrorKind::Invalid);
    assert_eq!(thread.info().await.unwrap().unwrap().messages, 257);
}

async fn history_survives_reopen_and_crash(mut bed: Bed) {
    let mesh = bed.mesh("a").await;
    talk(&mesh.agent("ann").unwrap().thread("t").unwrap(), 5).await;
    drop(mesh);
    bed.reopen().await;
    let thread = bed.mesh("a").await.agent("ann").unwrap().thread("t").unwrap();
    assert_eq!(places(&thread.last(10).await.unwrap()), [1, 2, 3, 4, 5]);
    assert_eq!(thread.append(Message::user("6")).await.unwrap().seq, 6);
    drop(thread);
    bed.crash().await;
    let thread = bed.mesh("a").await.thread("t").unwrap();
    assert_eq!(texts(&thread.last(10).await.unwrap()), ["1", "2", "3", "4", "5", "6"]);
}

async fn history_of_two_handles_is_one(bed: Bed) {
    let (one, two) = (bed.mesh("a").await, bed.mesh("a").await);
    for n in 0..20 {
        let (writer, reader) = if n % 2 == 0 { (&one, &two) } else { (&two, &one) };
        let appended = writer.thread("t").unwrap().append(Message::user(n.to_string())).await.unwrap();
        assert_eq!(appended.seq, n + 1);
        assert_eq!(
            reader.thread("t").unwrap().last(1).await.unwrap().messages[0].text().unwrap(),
            n.to_string()
        );
    }
    one.redact_message("t", 20).await.unwrap();
    assert_eq!(places(&two.thread("t").unwrap().last(1).await.unwrap()), [19]);
    one.delete_thread("t").await.unwrap();
    assert!(two.thread("t").unwrap().info().await.unwrap().is_none());
    assert_eq!(two.thread("t").unwrap().append(Message::user("again")).await.unwrap().seq, 1);
    assert_eq!(texts(&one.thread("t").unwrap().last(5).await.unwrap()), ["again"]);
}

async fn history_of_two_users_is_two(bed: Bed) {
    let (ann, ben) = (bed.mesh("a").await, bed.mesh("b").await);
    for (mesh, name) in [(&ann, "a"), (&ben, "b")] {
        let thread = mesh.agent("agent").unwrap().thread("t").unwrap();
        for n in 0..3 {
            let appended =
                thread.append(Message::user(format!("{name}-{n}")).id(format!("m-{n}"))).await.unwrap();
            assert!(!appended.duplicate, "the other user's message of that id is nothing to this one");
        }
    }
    ann.redact_message("t", 2).await.unwrap();
    assert_eq!(texts(&ben.thread("t").unwrap().last(9).await.unwrap()), ["b-0", "b-1", "b-2"]);
    assert_eq!(texts(&ann.thread("t").unwrap().last(9).await.unwrap()), ["a-0", "a-2"]);
    ann.delete_thread("t").await.unwrap();
    assert_eq!(ben.threads(None, 9).await.unwrap().len(), 1);
    assert_eq!(ben.thread("t").unwrap().last(9).await.unwrap().messages.len(), 3);
}

async fn history_erased_is_gone(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let thread = mesh.thread("t").unwrap();
    thread.append(Message::user("CANARY-erased")).await.unwrap();
    erase(&*bed.store(), bed.tag("a")).await;
    assert_eq!(kind(thread.append(Message::user("late")).await), ErrorKind::Gone);
    assert_eq!(kind(thread.last(5).await), ErrorKind::Gone);
    for (file, bytes) in bed.files().await {
        assert!(
            !bytes.windows(13).any(|window| window == b"CANARY-erased"),
            "{file} still holds the history"
        );
    }
}

async fn interactions_are_what_was_done(mut bed: Bed) {
    let mesh = bed.mesh_with("a", |config| config.interactions = InteractionLog::Writes).await;
    let ann = mesh.agent("ann").unwrap();
    ann.push("k", 1).await.unwrap();
    ann.subscribe(["news"]).await.unwrap();
    ann.batch().push("x", 1).push("y", 2).commit().await.unwrap();
    assert!(!ann.remove("absent", None).await.unwrap());
    assert!(mesh.remove("k").await.unwrap());
    ann.thread("t").unwrap().append(Message::user("hi").id("m")).await.unwrap();
    ann.thread("t").unwrap().append(Message::user("hi").id("m")).await.unwrap();
    mesh.redact_message("t", 1).await.unwrap();
    assert_eq!(kind(ann.push("", 1).await), ErrorKind::Invalid);
    ann.get::<u8>("x").await.unwrap();
    let expected = [
        (8, Action::Redact, None, "t"),
        (7, Action::Append, Some("ann"), "t"),
        (6, Action::Remove, None, "k"),
        (5, Action::Push, Some("ann"), "y"),
        (4, Action::Push, Some("ann"), "x"),
        (3, Action::Subscribe, Some("ann"), "news"),
        (2, Action::Push, Some("ann"), "k"),
    ];
    let check = async |mesh: &Mesh| {
        let log = mesh.interactions(None, 100).await.unwrap();
        let found: Vec<_> = log.iter().map(|one| (one.action, one.agent.as_deref(), &*one.on[0])).collect();
        assert_eq!(found, expected.map(|(_, action, agent, on)| (action, agent, on)));
        assert!(log.iter().all(|one| one.at == crate::harness::START));
        assert!(log.windows(2).all(|pair| pair[0].seq == pair[1].seq + 1));
        assert_eq!(mesh.interactions(Some(log[2].seq), 2).await.unwrap(), log[3..5]);
    };
    check(&mesh).await;
    let other = bed.mesh_with("a", |config| config.interactions = InteractionLog::Writes).await;
    check(&other).await;
    other.push("host", 1).await.unwrap();
    mesh.remove("host").await.unwrap();
    let last: Vec<_> = mesh.interactions(None, 2).await.unwrap().iter().map(|one| one.action).collect();
    assert_eq!(last, [Action::Remove, Action::Push], "two handles write one log");
    bed.reopen().await;
    assert_eq!(bed.mesh("a").await.interactions(None, 100).await.unwrap().len(), 9);
    assert!(bed.mesh("b").await.interactions(None, 100).await.unwrap().is_empty());
}

async fn interactions_of_reads_are_written_down(bed: Bed) {
    let mesh = bed.mesh_with("a", |config| config.interactions = InteractionLog::All).await;
    let ann = mesh.agent("ann").unwrap();
    ann.push("k", 1).await.unwrap();
    let epoch = mesh.usage().await.unwrap().0.epoch;
    for _ in 0..300 {
        ann.entry("k").await.unwrap().unwrap();
    }
    ann.get_many(&["k", "absent"]).await.unwrap();
    assert!(ann.entry("absent").await.unwrap().is_none());
    ann.thread("t").unwrap().append(Message::user("hi")).await.unwrap();
    ann.thread("t").unwrap().last(5).await.unwrap();
    let log = mesh.interactions(None, 1_000).await.unwrap();
    let count = |action| log.iter().filter(|one| one.action == action).count();
    assert_eq!((count(Action::Read), count(Action::ReadThread), count(Action::Push)), (301, 1, 1));
    assert!(mesh.usage().await.unwrap().0.epoch > epoch);
    assert!(log.iter().all(|one| one.agent.as_deref() == Some("ann")));
}

async fn interactions_are_trimmed(bed: Bed) {
    let configure = |config: &mut syntha_mesh::MeshConfig| {
        config.interactions = InteractionLog::Writes;
        config.interactions_kept = 10;
    };
    let mesh = bed.mesh_with("a", configure).await;
    for n in 0..6 {
        let batch = (0..100).fold(mesh.batch(), |batch, key| batch.push(format!("{n}-{key}"), 1));
        batch.commit().await.unwrap();
    }
    let log = mesh.interactions(None, 1_000).await.unwrap();
    assert!((10..=266).contains(&log.len()), "{}", log.len());
    assert_eq!(log[0].seq, 600);
    assert_eq!(&*log[0].on[0], mesh.interactions(None, 1).await.unwrap()[0].on[0].as_ref());
}

async fn interactions_off_are_none(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let ann = mesh.agent("ann").unwrap();
    ann.push("k", 1).await.unwrap();
    ann.entry("k").await.unwrap();
    assert!(mesh.interactions(None, 10).await.unwrap().is_empty());
}
