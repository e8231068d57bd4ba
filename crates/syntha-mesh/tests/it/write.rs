use std::collections::HashSet;
use std::time::Duration;

use syntha_mesh::{ErrorKind, Expected, Filter};

use crate::Bed;

#[tokio::test]
async fn racing_writers_of_one_version_admit_one() {
    let bed = Bed::new().await;
    let ann = bed.mesh.agent("ann").unwrap();
    let first = ann.push("counter", 0).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..32 {
        let agent = if n % 2 == 0 { ann.clone() } else { bed.again().await.agent("ann").unwrap() };
        tasks.spawn(async move { agent.push("counter", n).if_version(first.version).await });
    }
    let results = tasks.join_all().await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    for error in results.into_iter().filter_map(Result::err) {
        assert_eq!(error.kind(), ErrorKind::Conflict);
    }
}

#[tokio::test]
async fn two_writers_of_one_key_never_share_a_version() {
    let bed = Bed::new().await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..64 {
        let ann = bed.mesh.agent("ann").unwrap();
        tasks.spawn(async move { ann.push("key", n).await.unwrap().version });
    }
    let versions: HashSet<_> = tasks.join_all().await.into_iter().collect();
    assert_eq!(versions.len(), 64);
}

#[tokio::test]
async fn a_batch_happens_whole_or_not_at_all() {
    let bed = Bed::new().await;
    let ann = bed.mesh.agent("ann").unwrap();
    ann.push("old", 1).await.unwrap();
    ann.batch().push("a", 1).push("b", 2).remove("old").commit().await.unwrap();
    assert_eq!(ann.keys(&Filter::new()).await.unwrap().len(), 2);
    let failed =
        ann.batch().push("c", 3).push_with("a", 9, |push| push.if_version(Expected::Absent)).commit().await;
    assert_eq!(failed.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(ann.get::<u8>("c").await.unwrap(), None);
    let twice = ann.batch().push("d", 1).push("d", 2).commit().await.unwrap_err();
    assert_eq!(twice.kind(), ErrorKind::Invalid);
    assert_eq!(ann.batch().commit().await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(bed.again().await.size().await.unwrap(), 2);
}

#[tokio::test]
async fn bad_input_is_refused_and_loses_nothing() {
    let bed = Bed::with(|config| config.value_bytes = 100).await;
    let ann = bed.mesh.agent("ann").unwrap();
    ann.push("kept", 1).await.unwrap();
    for key in ["", "a\nb", "e\u{301}", &"x".repeat(257)] {
        assert_eq!(ann.push(key, 1).await.unwrap_err().kind(), ErrorKind::Invalid);
    }
    assert_eq!(bed.mesh.agent("zero\u{200B}width").unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(ann.push("big", "x".repeat(99)).await.unwrap_err().kind(), ErrorKind::LimitExceeded);
    ann.push("fits", "x".repeat(98)).await.unwrap();
    let many: Vec<_> = (0..65).map(|n| format!("topic-{n}")).collect();
    assert_eq!(ann.push("wide", 1).topics(many).await.unwrap_err().kind(), ErrorKind::LimitExceeded);
    let long: Vec<_> = (0..20).map(|n| format!("{}{n}", "t".repeat(250))).collect();
    assert_eq!(ann.push("wide", 1).topics(long).await.unwrap_err().kind(), ErrorKind::LimitExceeded);
    assert_eq!(bed.mesh.size().await.unwrap(), 2);
}

#[tokio::test]
async fn usage_counts_keys_and_values() {
    let bed = Bed::new().await;
    let ann = bed.mesh.agent("ann").unwrap();
    ann.push("key", "12345").await.unwrap();
    ann.push("key", "123").await.unwrap();
    ann.push("other", 7).await.unwrap();
    let usage = bed.mesh.usage().await.unwrap().1;
    assert_eq!((usage.contexts, usage.context_bytes, usage.agents), (2, 3 + 5 + 5 + 1, 1));
    ann.remove("key", None).await.unwrap();
    assert_eq!(bed.again().await.usage().await.unwrap().1.context_bytes, 6);
    assert_eq!(bed.mesh.clear().await.unwrap(), 1);
    assert_eq!(bed.mesh.usage().await.unwrap().1.context_bytes, 0);
}

#[tokio::test]
async fn values_out_of_the_cache_are_read_again() {
    let bed = Bed::with(|config| config.cache_bytes = 1_000).await;
    let ann = bed.mesh.agent("ann").unwrap();
    for n in 0..50_u32 {
        ann.push(format!("key-{n:02}"), vec![n; 40]).await.unwrap();
    }
    for round in 0..3 {
        for n in (0..50_u32).rev() {
            assert_eq!(
                ann.get::<Vec<u32>>(format!("key-{n:02}")).await.unwrap(),
                Some(vec![n; 40]),
                "{round}"
            );
        }
    }
    assert_eq!(ann.all(&Filter::new().prefix("key-1")).await.unwrap().len(), 10);
}

#[tokio::test]
async fn another_handles_commits_are_seen() {
    let bed = Bed::new().await;
    let other = bed.again().await;
    let (here, there) = (bed.mesh.agent("ann").unwrap(), other.agent("ann").unwrap());
    for n in 0..20 {
        there.push("a", n).ttl(Duration::from_secs(60)).await.unwrap();
        assert_eq!(here.get::<i32>("a").await.unwrap(), Some(n));
        here.remove("a", None).await.unwrap();
        assert_eq!(there.get::<i32>("a").await.unwrap(), None);
    }
}

/// Drops a push after each number of polls. Whatever was dropped happened whole or not at all, and the writer goes on.
#[tokio::test]
async fn a_caller_who_gives_up_tears_nothing() {
    let bed = Bed::new().await;
    let ann = bed.mesh.agent("ann").unwrap();
    for round in 0..200_u32 {
        let mut push = std::pin::pin!(ann.batch().push("left", round).push("right", round).commit());
        for _ in 0..round % 4 {
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            if push.as_mut().poll(&mut context).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    ann.push("after", 1).await.unwrap();
    let (left, right) = (ann.get::<u32>("left").await.unwrap(), ann.get::<u32>("right").await.unwrap());
    assert!(left.is_some() && left == right);
    assert_eq!(bed.again().await.agent("ann").unwrap().get::<u32>("left").await.unwrap(), left);
}
