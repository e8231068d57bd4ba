//! Callers who give up at any poll: no batch is torn, no connection or permit is lost, no user waits for ever.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "it prints its row of evidence")]

use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use syntha::{Filter, HostAuthority, MeshConfig, UserManager};

const USERS: usize = 6;
const CONNECTIONS: usize = 2;

type Work<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

#[test]
fn cancellation_tears_nothing_and_loses_no_permit() {
    let count: usize = std::env::var("SYNTHA_CANCELLATIONS").map_or(1_000, |count| count.parse().unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let mut config = MeshConfig::default();
        // Reads go to the store, and so through the few connections.
        config.cache_bytes = 0;
        let builder = UserManager::builder().sqlite(folder.path().join("data")).connections(CONNECTIONS);
        let (users, host) = builder.mesh(config).open().await.unwrap();
        let mut runner = TestRunner::deterministic();
        let (mut dropped, mut round) = (0, 0);
        let choice = (0..USERS, 0..7_u8, 0..8_u32);
        while dropped < count {
            round += 1;
            let (user, kind, polls) = choice.new_tree(&mut runner).unwrap().current();
            dropped += usize::from(give_up(work(&users, &host, user, kind, round), polls).await);
            if round % 500 == 0 {
                check(&users, &host).await;
            }
        }
        check(&users, &host).await;
        users.shutdown().await.unwrap();
        println!("evidence: {dropped} of {round} callers dropped before their answer, 0 torn batches, 0 lost permits");
    });
}

/// Polls it, whenever it is woken, so many times, and drops what is left. Says whether something was.
async fn give_up(mut work: Work<'_>, polls: u32) -> bool {
    let mut left = polls;
    std::future::poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(true);
        }
        left -= 1;
        work.as_mut().poll(context).map(|()| false)
    })
    .await
}

fn name(user: usize) -> String {
    format!("user-{user}")
}

fn work<'a>(
    users: &'a UserManager,
    host: &'a HostAuthority,
    user: usize,
    kind: u8,
    round: usize,
) -> Work<'a> {
    Box::pin(async move {
        let session = users.create_user_session(host, name(user)).await.unwrap();
        let agent = session.agent("agent").unwrap();
        match kind {
            0..=2 => agent.batch().push("left", round).push("right", round).commit().await.unwrap(),
            3 => drop(agent.all(&Filter::new()).await.unwrap()),
            4 => drop(agent.remove("other", None).await.unwrap()),
            5 => drop(agent.subscribe([format!("topic-{}", round % 50)]).await.unwrap()),
            _ => drop(users.backup(name(user), &mut Vec::new()).await.unwrap()),
        }
    })
}

/// Every user at once, more than there are connections: each has both halves of one batch, and can write.
async fn check(users: &UserManager, host: &HostAuthority) {
    let each = (0..USERS).map(async |user| {
        let session = users.create_user_session(host, name(user)).await.unwrap();
        let agent = session.agent("agent").unwrap();
        agent.push("alive", user).await.unwrap();
        let entries = agent.get_many(&["left", "right"]).await.unwrap();
        let halves: Vec<_> = entries.iter().map(|entry| (entry.json().to_owned(), entry.version())).collect();
        match halves.as_slice() {
            [] => {}
            [left, right] => assert_eq!(left, right, "a batch is torn"),
            half => panic!("half a batch: {half:?}"),
        }
    });
    let all = futures_util::future::join_all(each);
    tokio::time::timeout(Duration::from_secs(20), all).await.expect("a permit or a lock was lost");
}
