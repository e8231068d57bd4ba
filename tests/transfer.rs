//! An export, imported and exported again, is the same file to the byte, at length.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "it prints its row of evidence")]

use std::io::Cursor;
use std::time::Duration;

use syntha::{Mesh, Message, MessageRole, UserManager};

#[tokio::test]
async fn transfer_is_equal_to_the_byte() {
    let count: u64 = std::env::var("SYNTHA_TRANSFER").map_or(600, |count| count.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let (users, host) = UserManager::builder().sqlite(folder.path().join("data")).open().await.unwrap();
    let from = users.create_user_session(&host, "from").await.unwrap();
    fill(&from, count).await;
    let to = users.create_user_session(&host, "to").await.unwrap();
    let first = export(&from).await;
    let report = to.import(Cursor::new(first.clone()), |_| {}).await.unwrap();
    assert_eq!((report.imported.entries, report.imported.messages), (count, count));
    let second = export(&to).await;
    assert_eq!(first.len(), second.len());
    assert!(first == second, "the exports differ");
    assert_eq!(from.usage().await.unwrap().1, to.usage().await.unwrap().1);
    println!(
        "evidence: {count} entries and {count} messages, {} bytes exported, imported and exported again, equal to the byte",
        first.len()
    );
    users.shutdown().await.unwrap();
}

async fn export(mesh: &Mesh) -> Vec<u8> {
    let mut bytes = Vec::new();
    mesh.export(&mut bytes, |_| {}).await.unwrap();
    bytes
}

async fn fill(mesh: &Mesh, count: u64) {
    let agents: Vec<_> = (0..4).map(|n| mesh.agent(format!("agent-{n}")).unwrap()).collect();
    for (n, agent) in agents.iter().enumerate() {
        agent.subscribe([format!("topic-{n}"), "all".to_owned()]).await.unwrap();
    }
    for from in (0..count).step_by(200) {
        let mut batch = agents[usize::try_from(from / 200 % 4).unwrap()].batch();
        for n in from..count.min(from + 200) {
            let value = serde_json::json!({ "n": n, "text": "x".repeat(usize::try_from(n % 50).unwrap()) });
            batch = batch.push_with(format!("key-{n}"), value, |push| match n % 5 {
                0 => push.topic(format!("topic-{}", n % 4)),
                1 => push.agents([format!("agent-{}", n % 4)]),
                2 => push.ttl(Duration::from_secs(86_400 + n)),
                3 => push.restricted(),
                _ => push,
            });
        }
        batch.commit().await.unwrap();
    }
    let roles = [MessageRole::User, MessageRole::Assistant, MessageRole::Tool, MessageRole::System];
    for from in (0..count).step_by(100) {
        let thread = agents[usize::try_from(from / 100 % 4).unwrap()]
            .thread(format!("thread-{}", from / 1_000))
            .unwrap();
        let messages = (from..count.min(from + 100)).map(|n| {
            let message = Message::new(roles[usize::try_from(n % 4).unwrap()], format!("message {n}"));
            if n % 3 == 0 { message.id(format!("id-{n}")).metadata("n", n) } else { message }
        });
        thread.append_all(messages).await.unwrap();
    }
}
