//! The tools for the conversation history.

use serde_json::{Value, json};
use syntha_mesh::{Fault, Mesh, MeshConfig, Message};
use syntha_tools::{Level, REPLY_BYTES, Role, ToolHandler};

use crate::{handler, mesh, mesh_of, mesh_with};

async fn append(tools: &ToolHandler, thread: &str, content: &str) -> Value {
    tools.call("append_history", json!({ "thread": thread, "content": content })).await
}

async fn get(tools: &ToolHandler, arguments: Value) -> Value {
    tools.call("get_history", arguments).await
}

fn seqs(answer: &Value) -> Vec<u64> {
    let messages = answer["messages"].as_array().unwrap();
    messages.iter().map(|message| message["seq"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn both_answer_as_documented() {
    let mesh = mesh().await;
    let (ann, ben) = (handler(&mesh, "ann", Role::Contributor), handler(&mesh, "ben", Level::Readonly));
    assert_eq!(get(&ben, json!({})).await["threads"], json!([]));
    let first = json!({ "thread": "chat", "content": "42", "message_id": "m1", "metadata": { "user": "x" } });
    let appended = ann.call("append_history", first.clone()).await;
    let message = "The message is appended.";
    let expected = json!({ "success": true, "thread": "chat", "seq": 1, "duplicate": false, "agent": "ann",
                           "message": message });
    assert_eq!(appended, expected);
    let again = ann.call("append_history", first).await;
    assert_eq!(
        (&again["success"], &again["seq"], &again["duplicate"]),
        (&true.into(), &1.into(), &true.into())
    );
    let other =
        ann.call("append_history", json!({ "thread": "chat", "content": "43", "message_id": "m1" })).await;
    assert_eq!(other["success"], false, "an id is one message's");
    let structure = json!([{ "type": "text", "text": "hi" }]);
    ann.call("append_history", json!({ "thread": "chat", "role": "user", "content": structure })).await;
    ann.call("append_history", json!({ "thread": "chat", "role": "tool", "content": { "rain": true } }))
        .await;
    mesh.thread("chat").unwrap().append(Message::system("Be brief.")).await.unwrap();

    let read = get(&ben, json!({ "thread": "chat" })).await;
    assert_eq!(seqs(&read), [1, 2, 3, 4]);
    assert_eq!((&read["more"], &read["thread"], read.get("omitted")), (&json!(false), &json!("chat"), None));
    let said = |n: usize, name: &str| read["messages"][n][name].clone();
    assert_eq!([said(0, "content"), said(1, "content")], [json!("42"), structure], "text stays text");
    assert_eq!([said(0, "role"), said(1, "role"), said(2, "role")], ["assistant", "user", "tool"]);
    assert_eq!([said(0, "metadata"), said(1, "metadata")], [json!({ "user": "x" }), Value::Null]);
    assert_eq!([said(2, "agent"), said(3, "agent")], [json!("ann"), Value::Null], "the host is no agent");
    assert!(said(0, "at").as_u64().unwrap() > 0);
    let list = get(&ben, json!({})).await;
    assert_eq!(list["threads"][0]["thread"], "chat");
    assert_eq!((&list["threads"][0]["messages"], &list["more"]), (&json!(4), &json!(false)));
    let denied = append(&ben, "chat", "x").await;
    assert_eq!(denied["reason"], "The level readonly does not have it.");
}

#[tokio::test]
async fn pages_go_both_ways() {
    let mesh = mesh().await;
    let ann = handler(&mesh, "ann", Role::Contributor);
    let messages = (1..=250).map(|n| Message::user(n.to_string()));
    mesh.thread("chat").unwrap().append_all(messages).await.unwrap();
    assert_eq!(seqs(&get(&ann, json!({ "thread": "chat" })).await), (231..=250).collect::<Vec<_>>());
    let before = get(&ann, json!({ "thread": "chat", "before": 231, "limit": 100 })).await;
    assert_eq!((seqs(&before), &before["more"]), ((131..=230).collect(), &json!(true)));
    let before = get(&ann, json!({ "thread": "chat", "before": 4 })).await;
    assert_eq!((seqs(&before), &before["more"]), (vec![1, 2, 3], &json!(false)));
    let after = get(&ann, json!({ "thread": "chat", "after": 0, "limit": 2 })).await;
    assert_eq!((seqs(&after), &after["more"]), (vec![1, 2], &json!(true)));
    let end = get(&ann, json!({ "thread": "chat", "after": u64::MAX })).await;
    assert_eq!((seqs(&end), &end["more"], &end["success"]), (vec![], &json!(false), &json!(true)));
}

#[tokio::test]
async fn wrong_arguments_are_refused_in_words() {
    let mesh = mesh().await;
    let ann = handler(&mesh, "ann", Role::Admin);
    append(&ann, "chat", "x").await;
    let long = "x".repeat(257);
    let many: serde_json::Map<_, _> = (0..17).map(|n| (n.to_string(), json!(n))).collect();
    let cases = [
        ("append_history", json!({ "thread": "chat", "content": "x", "role": "system" }), "role system"),
        (
            "append_history",
            json!({ "thread": "chat", "content": "x", "role": "System" }),
            "assistant, user or tool",
        ),
        ("append_history", json!({ "thread": "chat", "content": "x", "role": 1 }), "Wrong arguments"),
        ("append_history", json!({ "thread": "chat" }), "missing field `content`"),
        ("append_history", json!({ "content": "x" }), "missing field `thread`"),
        ("append_history", json!({ "thread": "chat", "content": null }), "text, an object or a list"),
        ("append_history", json!({ "thread": "chat", "content": 1 }), "text, an object or a list"),
        ("append_history", json!({ "thread": "", "content": "x" }), ""),
        ("append_history", json!({ "thread": long, "content": "x" }), ""),
        ("append_history", json!({ "thread": "chat", "content": "x", "message_id": "" }), ""),
        ("append_history", json!({ "thread": "chat", "content": "x", "metadata": [1] }), "Wrong arguments"),
        ("append_history", json!({ "thread": "chat", "content": "x", "metadata": many }), "at most 16"),
        ("append_history", json!({ "thread": "chat", "content": "x".repeat(2 << 20) }), ""),
        ("append_history", json!({ "thread": "chat", "content": "x", "seq": 7 }), "unknown field `seq`"),
        ("append_history", json!({ "thread": "chat", "content": "x", "agent": "ben" }), "act as yourself"),
        ("get_history", json!({ "thread": "chat", "User_Id": "bob" }), "act as yourself"),
        ("get_history", json!({ "thread": "chat", "limit": 0 }), "1 to 100"),
        ("get_history", json!({ "thread": "chat", "limit": 101 }), "1 to 100"),
        ("get_history", json!({ "thread": "chat", "before": -1 }), "Wrong arguments"),
        ("get_history", json!({ "thread": "chat", "before": 2, "after": 1 }), "not both"),
        ("get_history", json!({ "after": 1 }), "name the thread"),
        ("get_history", json!({ "thread": "a\nb" }), ""),
        ("get_history", json!({ "threads": ["chat"] }), "unknown field `threads`"),
    ];
    for (tool, arguments, text) in cases {
        let answer = ann.call(tool, arguments).await;
        let error = answer["error"].as_str().unwrap();
        assert!(answer["success"] == false && error.contains(text), "{answer}");
    }
    assert_eq!(seqs(&get(&ann, json!({ "thread": "chat" })).await), [1], "nothing was written");
    assert_eq!(mesh.threads(None, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_answer_is_bounded_and_a_reader_gets_on() {
    let mesh = mesh().await;
    let ann = handler(&mesh, "ann", Role::Contributor);
    for n in 0..30 {
        // Backslashes: twice as long where they are written as JSON.
        let content = if n == 13 { "x".repeat(200_000) } else { "\\".repeat(2_000) };
        append(&ann, "chat", &content).await;
    }
    let last = get(&ann, json!({ "thread": "chat", "limit": 30 })).await;
    let (newest, left) = (seqs(&last), last["omitted"].as_u64().unwrap());
    assert!(last.to_string().len() <= REPLY_BYTES && newest.len() > 10);
    assert_eq!((newest.last(), newest.len() as u64 + left), (Some(&30), 30), "the newest stay");
    assert!(
        last["more"] == true && last["message"].as_str().unwrap().contains(&format!("{left} were left out"))
    );
    for (first, place) in [
        (json!({ "thread": "chat", "after": 0, "limit": 30 }), "after"),
        (json!({ "thread": "chat", "limit": 30 }), "before"),
    ] {
        let (mut found, mut arguments) = (Vec::new(), first);
        loop {
            let page = get(&ann, arguments.clone()).await;
            assert!(page.to_string().len() <= REPLY_BYTES);
            let messages = page["messages"].as_array().unwrap();
            for message in messages {
                assert_eq!(message.get("content").is_none(), message["seq"] == 14, "{place}");
                assert_eq!(message.get("content_omitted").is_some(), message["seq"] == 14);
            }
            let seqs = seqs(&page);
            arguments[place] = if place == "after" { *seqs.last().unwrap() } else { seqs[0] }.into();
            found.extend(seqs);
            if page["more"] == false {
                break;
            }
        }
        found.sort_unstable();
        assert_eq!(found, (1..=30).collect::<Vec<_>>(), "{place}");
    }
    for n in 0..120 {
        append(&ann, &format!("{}{n:03}", "\"".repeat(253)), "x").await;
    }
    let list = get(&ann, json!({ "limit": 100 })).await;
    assert!(list.to_string().len() <= REPLY_BYTES);
    let names: Vec<_> =
        list["threads"].as_array().unwrap().iter().map(|one| one["thread"].as_str().unwrap()).collect();
    assert!(names.len() > 50 && list["more"] == true && !names.contains(&"chat"), "the newest stay");
    assert_eq!(list["message"], "You can see 121 threads.");
}

/// What ben gets to see of threads that are not for him.
async fn leak(fault: Option<Fault>) -> Option<String> {
    let mut config = MeshConfig::default();
    if let Some(fault) = fault {
        config = config.fault(fault);
    }
    let mesh = mesh_with("alice", config).await;
    let (ann, ben) = (handler(&mesh, "ann", Role::Admin), handler(&mesh, "ben", Role::Admin));
    let hidden = mesh.agent("ann").unwrap().thread("plan").unwrap();
    hidden.create_for(["ann"]).await.unwrap();
    append(&ann, "plan", "CANARY").await;
    append(&ann, "open", "seen").await;
    append(&ann, "z", "of another thread").await;
    assert!(get(&ann, json!({ "thread": "plan" })).await.to_string().contains("CANARY"));
    let refused = append(&ben, "plan", "mine").await;
    assert_eq!((&refused["success"], refused.to_string().contains("CANARY")), (&json!(false), false));
    let list = get(&ben, json!({})).await;
    if list.to_string().contains("plan") || list["message"] != "You can see 2 threads." {
        return Some(list.to_string());
    }
    for page in [json!({}), json!({ "before": 100 }), json!({ "after": 0 })] {
        let asked = |thread: &str| {
            let mut asked = page.clone();
            asked["thread"] = thread.into();
            asked
        };
        let hidden = get(&ben, asked("plan")).await.to_string();
        let absent = get(&ben, asked("plum")).await.to_string().replace("plum", "plan");
        if hidden != absent {
            return Some(hidden);
        }
        let own = get(&ben, asked("open")).await;
        if seqs(&own) != [1] || own["messages"][0]["content"] != "seen" {
            return Some(own.to_string());
        }
    }
    None
}

#[tokio::test]
async fn hidden_and_absent_threads_are_one_answer() {
    assert_eq!(leak(None).await, None);
    assert!(leak(Some(Fault::ThreadAudienceIgnored)).await.unwrap().contains("CANARY"));
    assert!(leak(Some(Fault::HistoryAcrossThreads)).await.is_some());
}

/// The same agent, thread and message id for two users.
#[tokio::test]
async fn two_users_with_the_same_names_never_meet() {
    let (alice, bob) = (mesh_of("alice").await, mesh_of("bob").await);
    let tools = |mesh: &Mesh| handler(mesh, "ann", Role::Admin);
    let (alices, bobs) = (tools(&alice), tools(&bob));
    for (tools, own) in [(&alices, "of alice"), (&bobs, "of bob")] {
        let message = json!({ "thread": "chat", "content": own, "message_id": "m1" });
        let appended = tools.call("append_history", message).await;
        assert_eq!((&appended["seq"], &appended["duplicate"]), (&json!(1), &json!(false)), "{appended}");
    }
    append(&alices, "only of alice", "x").await;
    for (tools, own, threads) in [(&alices, "of alice", 2), (&bobs, "of bob", 1)] {
        let read = get(tools, json!({ "thread": "chat" })).await;
        assert_eq!((seqs(&read), &read["messages"][0]["content"]), (vec![1], &json!(own)));
        assert_eq!(get(tools, json!({})).await["threads"].as_array().unwrap().len(), threads);
    }
    let foreign = get(&bobs, json!({ "thread": "only of alice" })).await;
    assert_eq!((&foreign["messages"], &foreign["more"]), (&json!([]), &json!(false)));
}
