//! The lines before the store: commits, reads, openings and backups.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use syntha::store::{FairFault, UserTag};
use syntha::{ErrorKind, Fairness, HostAuthority, MeshConfig, MeshErrorKind, Session, UserManager};
use tokio::task::JoinSet;

use crate::ordered::{Asked, Ordered};

/// Everything that can go on without the store's answer has gone on.
pub(crate) async fn settle() {
    for _ in 0..3_000 {
        tokio::task::yield_now().await;
    }
}

/// One of each at a time, so that there is an order.
fn one_by_one(fault: Option<FairFault>) -> Fairness {
    let fairness = Fairness::new().commits(1).reads(1).opens(1).backups(1).deadline(Duration::from_secs(600));
    match fault {
        Some(fault) => fairness.fault(fault),
        None => fairness,
    }
}

pub(crate) async fn open(
    store: &Ordered,
    fairness: Fairness,
    mesh: MeshConfig,
) -> (UserManager, HostAuthority) {
    UserManager::builder()
        .store(Arc::new(store.clone()), store.key())
        .mesh(mesh)
        .fairness(fairness)
        // The names of one group begin with its letter.
        .owner_groups(|user| u64::from(user.as_str().bytes().next().unwrap()))
        .open()
        .await
        .unwrap()
}

fn patient() -> MeshConfig {
    let mut mesh = MeshConfig::default();
    mesh.deadline = Duration::from_secs(600);
    mesh
}

/// Sessions of users who have written once.
async fn sessions(
    users: &UserManager,
    host: &HostAuthority,
    names: impl IntoIterator<Item = String>,
) -> Vec<Session> {
    let mut sessions = Vec::new();
    for name in names {
        let session = users.create_user_session(host, name).await.unwrap();
        session.push("first", "x".repeat(100)).await.unwrap();
        sessions.push(session);
    }
    sessions
}

/// How many others came before the one, of those that were not under way already.
fn before(asked: &[UserTag], one: UserTag) -> usize {
    asked.iter().position(|tag| *tag == one).unwrap().saturating_sub(1)
}

/// How many commits of a flood of pushes come before the one push of another.
async fn commits_before(store: Ordered, floods: usize, pushes: usize, fault: Option<FairFault>) -> usize {
    let (users, host) = open(&store, one_by_one(fault), patient()).await;
    let flood = sessions(&users, &host, (0..floods).map(|n| format!("flood-{n}"))).await;
    let quiet = sessions(&users, &host, ["quiet".to_owned()]).await;
    store.hold();
    let mut tasks = JoinSet::new();
    for n in 0..pushes {
        let session = flood[n % floods].clone();
        tasks.spawn(async move { session.push(format!("key-{n}"), n).await.map(drop) });
    }
    settle().await;
    let session = quiet[0].clone();
    tasks.spawn(async move { session.push("mine", 1).await.map(drop) });
    settle().await;
    store.let_go();
    tasks.join_all().await.into_iter().for_each(|pushed| pushed.unwrap());
    let asked = store.asked(Asked::Commit);
    drop((flood, quiet, host));
    users.shutdown().await.unwrap();
    before(&asked, store.tag("quiet"))
}

#[tokio::test]
async fn fairness_of_commits_behind_a_thousand_pushes_of_one_user() {
    assert!(commits_before(Ordered::memory(), 1, 1_000, None).await <= 1);
    let folder = tempfile::tempdir().unwrap();
    let sqlite = Ordered::sqlite(&folder.path().join("data")).await;
    let behind = commits_before(sqlite, 1, 1_000, None).await;
    assert!(behind <= 1, "{behind}");
}

/// Median and 99th percentile of pushes, in microseconds.
fn spread(mut times: Vec<u128>) -> (u128, u128) {
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

/// The order is what is promised; how long it takes is shown, on sealed and audited files.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fairness_behind_a_flood_by_order_and_by_the_clock() {
    let pushes =
        std::env::var("SYNTHA_FAIR_PUSHES").ok().and_then(|count| count.parse().ok()).unwrap_or(1_000);
    let folder = tempfile::tempdir().unwrap();
    let (users, host) = UserManager::builder().sqlite(folder.path().join("sealed")).open().await.unwrap();
    let both = sessions(&users, &host, ["flood".to_owned(), "quiet".to_owned()]).await;
    let (mut alone, mut beside, mut flooded) = (Vec::new(), Vec::new(), 0_u64);
    for round in 0..6 {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for n in 0..if round % 2 == 0 { 0 } else { 100 } {
            let (session, stop) = (both[0].clone(), Arc::clone(&stop));
            tasks.spawn(async move {
                let mut done = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    session.push(format!("key-{n}"), done).await.unwrap();
                    done += 1;
                }
                done
            });
        }
        for n in 0..pushes / 5 {
            let since = Instant::now();
            both[1].push("mine", n).await.unwrap();
            if round % 2 == 0 { &mut alone } else { &mut beside }.push(since.elapsed().as_micros());
        }
        stop.store(true, Ordering::Relaxed);
        flooded += tasks.join_all().await.into_iter().sum::<u64>();
    }
    assert!(flooded > 0);
    drop((both, host));
    users.shutdown().await.unwrap();
    let sqlite = Ordered::sqlite(&folder.path().join("data")).await;
    let behind = commits_before(sqlite, 1, pushes, None).await;
    assert!(behind <= 1, "{behind}");
    let ((half, most), (half_beside, most_beside)) = (spread(alone), spread(beside));
    println!(
        "evidence: a push behind {pushes} of another user: {behind} more commits before it; beside {flooded} pushes of 100 tasks of another user median {half_beside} µs and p99 {most_beside} µs, alone {half} µs and {most} µs"
    );
}

#[tokio::test]
async fn fairness_of_commits_behind_a_group_of_600_users() {
    assert!(commits_before(Ordered::memory(), 600, 600, None).await <= 1);
    let folder = tempfile::tempdir().unwrap();
    let sqlite = Ordered::sqlite(&folder.path().join("data")).await;
    assert!(commits_before(sqlite, 60, 60, None).await <= 1);
}

#[tokio::test]
async fn unfair_commits_are_found() {
    for fault in [FairFault::FirstComeFirstServed, FairFault::GroupsIgnored] {
        let behind = commits_before(Ordered::memory(), 100, 100, Some(fault)).await;
        assert!(behind > 90, "nobody noticed {fault:?}: {behind}");
    }
}

/// How many reads of one user's flood come before the one of another.
async fn reads_before(store: Ordered, fault: Option<FairFault>) -> usize {
    let mut mesh = patient();
    // Nothing is in memory.
    mesh.cache_bytes = 0;
    let (users, host) = open(&store, one_by_one(fault), mesh).await;
    let both = sessions(&users, &host, ["flood".to_owned(), "quiet".to_owned()]).await;
    store.hold();
    let mut tasks = JoinSet::new();
    for n in 0..101 {
        let session = both[n / 100].clone();
        tasks.spawn(async move { session.value("first").await.map(drop) });
        settle().await;
    }
    store.let_go();
    tasks.join_all().await.into_iter().for_each(|read| read.unwrap());
    let asked = store.asked(Asked::Read);
    assert_eq!(asked.len(), 101);
    before(&asked, store.tag("quiet"))
}

#[tokio::test]
async fn fairness_of_reads_behind_a_hundred_of_one_user() {
    assert!(reads_before(Ordered::memory(), None).await <= 1);
    let folder = tempfile::tempdir().unwrap();
    assert!(reads_before(Ordered::sqlite(&folder.path().join("data")).await, None).await <= 1);
    let behind = reads_before(Ordered::memory(), Some(FairFault::FirstComeFirstServed)).await;
    assert!(behind > 90, "nobody noticed: {behind}");
}

/// How many openings of a group's users come before the one of another.
async fn opens_before(store: Ordered, fault: Option<FairFault>) -> usize {
    let names = || (0..100).map(|n| format!("flood-{n}")).chain(["quiet".to_owned()]);
    let (users, host) = open(&store, one_by_one(fault), patient()).await;
    drop(sessions(&users, &host, names()).await);
    drop((users, host));
    // Nobody is open now.
    let (users, host) = open(&store, one_by_one(fault), patient()).await;
    let (users, host) = (Arc::new(users), Arc::new(host));
    store.hold();
    let mut tasks = JoinSet::new();
    for name in names() {
        let (users, host) = (Arc::clone(&users), Arc::clone(&host));
        tasks.spawn(async move { users.open(&host, name).await.map(drop) });
        settle().await;
    }
    store.let_go();
    tasks.join_all().await.into_iter().for_each(|opened| opened.unwrap());
    before(&store.asked(Asked::Open), store.tag("quiet"))
}

#[tokio::test]
async fn fairness_of_openings_behind_a_group() {
    assert!(opens_before(Ordered::memory(), None).await <= 1);
    let folder = tempfile::tempdir().unwrap();
    assert!(opens_before(Ordered::sqlite(&folder.path().join("data")).await, None).await <= 1);
    let behind = opens_before(Ordered::memory(), Some(FairFault::GroupsIgnored)).await;
    assert!(behind > 90, "nobody noticed: {behind}");
}

#[tokio::test]
async fn fairness_of_backups_behind_a_group() {
    let store = Ordered::memory();
    let (users, host) = open(&store, one_by_one(None), patient()).await;
    let names: Vec<_> = (0..20).map(|n| format!("flood-{n}")).chain(["quiet".to_owned()]).collect();
    drop(sessions(&users, &host, names.clone()).await);
    let users = Arc::new(users);
    store.hold();
    let mut tasks = JoinSet::new();
    for name in names {
        let users = Arc::clone(&users);
        tasks.spawn(async move { users.backup(name, &mut Vec::new()).await.map(drop) });
        settle().await;
    }
    store.let_go();
    tasks.join_all().await.into_iter().for_each(|done| done.unwrap());
    assert!(before(&store.asked(Asked::Snapshot), store.tag("quiet")) <= 1);
}

/// Who is sent away is told when to come back, and nothing is lost: what was acknowledged is there, and what was refused is not.
#[tokio::test]
async fn fairness_sheds_with_a_hint_and_loses_nothing() {
    let store = Ordered::memory();
    let fairness = one_by_one(None).waiting(4, 8);
    let (users, host) = open(&store, fairness, patient()).await;
    let flood = sessions(&users, &host, (0..30).map(|n| format!("flood-{n}"))).await;
    let quiet = sessions(&users, &host, ["quiet".to_owned()]).await;
    store.hold();
    let mut tasks = JoinSet::new();
    for (n, session) in flood.iter().chain(&quiet).enumerate() {
        let session = session.clone();
        tasks.spawn(async move { (n, session.push("second", n).await) });
        settle().await;
    }
    store.let_go();
    let mut answers = tasks.join_all().await;
    answers.sort_by_key(|(n, _)| *n);
    let mut refused = 0;
    for ((n, answer), session) in answers.iter().zip(flood.iter().chain(&quiet)) {
        let kept = session.value("second").await.unwrap().is_some();
        assert_eq!(kept, answer.is_ok(), "push {n}");
        if let Err(error) = answer {
            refused += 1;
            assert_eq!(error.kind(), MeshErrorKind::Busy);
            assert!(error.is_retryable());
            let source = std::error::Error::source(error).unwrap();
            let source = source.downcast_ref::<syntha::store::Error>().unwrap();
            assert_eq!(source.retry_after(), Some(Duration::from_secs(1)));
        }
    }
    // One is under way and eight wait: the last to come is of the smaller crowd, and is let in.
    assert_eq!((refused, answers[30].1.is_ok()), (31 - 9, true));
    // The same refusal by the manager's own calls, once there are no places at all.
    let none = Ordered::memory();
    let (users, host) = open(&none, one_by_one(None).waiting(0, 0), patient()).await;
    drop(sessions(&users, &host, ["flood".to_owned(), "quiet".to_owned()]).await);
    drop((users, host));
    let (users, host) = open(&none, one_by_one(None).waiting(0, 0), patient()).await;
    let (users, host) = (Arc::new(users), Arc::new(host));
    none.hold();
    let first = tokio::spawn({
        let (users, host) = (Arc::clone(&users), Arc::clone(&host));
        async move { users.open(&host, "flood").await.map(drop) }
    });
    settle().await;
    let error = users.open(&host, "quiet").await.unwrap_err();
    assert_eq!((error.kind(), error.retry_after()), (ErrorKind::Busy, Some(Duration::from_secs(1))));
    none.let_go();
    first.await.unwrap().unwrap();
}

/// Callers who go at any moment leave every line as it was.
#[tokio::test]
async fn fairness_survives_cancellation() {
    let store = Ordered::memory();
    let mut mesh = patient();
    mesh.cache_bytes = 0;
    let (users, host) = open(&store, one_by_one(None), mesh).await;
    let names = (0..8).map(|n| format!("{n}"));
    let sessions = sessions(&users, &host, names).await;
    let mut random = 7_u64;
    for round in 0..200_u64 {
        let mut tasks = JoinSet::new();
        for session in &sessions {
            let session = session.clone();
            tasks.spawn(async move {
                let _ = session.push("k", round).await;
            });
            let session = session_of(&sessions, round).clone();
            tasks.spawn(async move {
                let _ = session.value("first").await;
            });
        }
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        for _ in 0..(random >> 33) % 40 {
            tokio::task::yield_now().await;
        }
        tasks.shutdown().await;
    }
    // With one permit of each, one that was lost would stop everything.
    for session in &sessions {
        session.push("k", "last").await.unwrap();
        assert_eq!(session.value("k").await.unwrap().unwrap().json(), "\"last\"");
    }
}

fn session_of(sessions: &[Session], round: u64) -> &Session {
    &sessions[usize::try_from(round).unwrap() % sessions.len()]
}

/// Who waited for a commit that did not begin is told that nothing was written, with the defaults of everything.
#[tokio::test(start_paused = true)]
async fn fairness_tells_who_waited_that_nothing_was_written() {
    let store = Ordered::memory();
    let (users, host) = open(&store, Fairness::new().commits(1), MeshConfig::default()).await;
    let both = sessions(&users, &host, ["stuck".to_owned(), "quiet".to_owned()]).await;
    store.hold();
    let stuck = tokio::spawn({
        let session = both[0].clone();
        async move { session.push("second", 1).await.map(drop) }
    });
    settle().await;
    assert_eq!(store.asked(Asked::Commit), [store.tag("stuck")]);
    assert_eq!(both[1].push("second", 1).await.unwrap_err().kind(), MeshErrorKind::Busy);
    assert_eq!(stuck.await.unwrap().unwrap_err().kind(), MeshErrorKind::Unknown);
    store.let_go();
    settle().await;
    assert!(both[1].value("second").await.unwrap().is_none());
    assert!(both[0].value("second").await.unwrap().is_some());
}
