//! A shutdown ends what is under way, and says what it could not.

use std::time::Duration;

use syntha::{Fairness, MeshConfig, MeshErrorKind};

use crate::lines::{open, settle};
use crate::ordered::{Asked, Ordered};

#[tokio::test(start_paused = true)]
async fn shutdown_lets_writes_end_that_were_asked_for() {
    let store = Ordered::memory();
    let (users, host) = open(&store, Fairness::new(), MeshConfig::default()).await;
    let session = users.create_user_session(&host, "a").await.unwrap();
    session.push("first", 1).await.unwrap();
    store.hold();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..300 {
        let session = session.clone();
        tasks.spawn(async move { session.push(format!("key-{n}"), n).await.map(drop) });
    }
    settle().await;
    let ending = tokio::spawn(users.shutdown_within(Duration::from_secs(3)));
    settle().await;
    // Nothing new is taken on, and what is under way goes on.
    assert_eq!(session.push("late", 1).await.unwrap_err().kind(), MeshErrorKind::Gone);
    assert!(!ending.is_finished());
    store.let_go();
    assert!(ending.await.unwrap().is_complete());
    tasks.join_all().await.into_iter().for_each(|pushed| pushed.unwrap());
}

#[tokio::test(start_paused = true)]
async fn shutdown_says_whose_work_it_could_not_finish() {
    let store = Ordered::memory();
    let (users, host) = open(&store, Fairness::new(), MeshConfig::default()).await;
    let (stuck, well) = (
        users.create_user_session(&host, "stuck").await.unwrap(),
        users.create_user_session(&host, "well").await.unwrap(),
    );
    stuck.push("first", 1).await.unwrap();
    well.push("first", 1).await.unwrap();
    store.hold();
    let push = tokio::spawn({
        let stuck = stuck.clone();
        async move { stuck.push("k", 1).await.map(drop) }
    });
    settle().await;
    assert_eq!(store.asked(Asked::Commit), [store.tag("stuck")]);
    let begun = tokio::time::Instant::now();
    let shutdown = users.shutdown_within(Duration::from_secs(2)).await;
    assert!(begun.elapsed() <= Duration::from_secs(8));
    assert_eq!(shutdown.unfinished, [store.tag("stuck")]);
    assert!(!shutdown.is_complete());
    // Who waits is not told that nothing was written.
    assert_eq!(push.await.unwrap().unwrap_err().kind(), MeshErrorKind::Unknown);
    assert_eq!(stuck.value("first").await.unwrap_err().kind(), MeshErrorKind::Gone);
    assert_eq!(well.value("first").await.unwrap_err().kind(), MeshErrorKind::Gone);
}
