//! The cached values of all users fit into one budget: the largest of the group that holds the most shrinks first, and meshes that nobody uses
//! are closed.

use std::sync::Arc;
use std::time::Duration;

use syntha::{Fairness, ManualClock, MeshConfig, Session, Timestamp, UserManager};

use crate::lines::settle;
use crate::ordered::{Asked, Ordered};

const FLOOR: usize = 64 * 1024;

async fn fill(session: &Session, kib: usize) {
    for n in 0..kib {
        session.push(format!("key-{n}"), "x".repeat(1_000)).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn memory_budget_is_kept_by_the_group_that_holds_the_most() {
    let budget = 4 << 20;
    let (users, host) = UserManager::builder()
        .memory()
        .memory_budget(budget)
        .owner_groups(|user| u64::from(user.as_str().bytes().next().unwrap()))
        .open()
        .await
        .unwrap();
    let quiet = users.create_user_session(&host, "quiet").await.unwrap();
    fill(&quiet, 500).await;
    let own = quiet.cached_bytes();
    assert!(own >= 500_000);
    let mut flood = Vec::new();
    for n in 0..20 {
        let session = users.create_user_session(&host, format!("flood-{n}")).await.unwrap();
        fill(&session, 400).await;
        settle_memory(&users).await;
        flood.push(session);
    }
    let (used, limit) = users.cached_bytes();
    assert_eq!(limit, budget);
    assert!(used <= budget, "{used} of {budget}");
    // Nobody of another group lost anything by it, and of the flood's each has its floor.
    assert_eq!(quiet.cached_bytes(), own);
    for session in &flood {
        assert!(session.cached_bytes() >= FLOOR - 2_000, "{}", session.cached_bytes());
    }
    // All sums are right: what is told is what there is.
    let sum: usize = flood.iter().chain([&quiet]).map(|session| session.cached_bytes()).sum();
    assert_eq!(used, sum);
    // What is not in memory is read again.
    for session in &flood {
        assert_eq!(session.value("key-0").await.unwrap().unwrap().json().len(), 1_002);
    }
    settle_memory(&users).await;
    drop(flood);
    users.erase("quiet").await.unwrap();
    assert!(users.cached_bytes().0 < budget);
    // A budget below what the floors are together is no endless work.
    let (few, host) = UserManager::builder().memory().memory_budget(1_000).open().await.unwrap();
    let session = few.create_user_session(&host, "one").await.unwrap();
    fill(&session, 200).await;
    settle_memory(&few).await;
    // One group's floors together are no more than its part of the budget.
    assert!(session.cached_bytes() <= 1_000);
}

/// The budget's task has run.
async fn settle_memory(users: &UserManager) {
    for _ in 0..100 {
        tokio::task::yield_now().await;
        let (used, limit) = users.cached_bytes();
        if used <= limit {
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn idle_meshes_are_closed_and_used_ones_are_not() {
    let (store, clock) = (Ordered::memory(), Arc::new(ManualClock::new(Timestamp(1_000_000))));
    let mut mesh = MeshConfig::default();
    mesh.clock = Arc::clone(&clock) as _;
    let idle = Duration::from_secs(300);
    let (users, host) = UserManager::builder()
        .store(Arc::new(store.clone()), store.key())
        .mesh(mesh)
        .fairness(Fairness::new())
        .idle_after(idle)
        .open()
        .await
        .unwrap();
    let held = users.create_user_session(&host, "held").await.unwrap();
    held.push("k", 1).await.unwrap();
    let gone = users.create_user_session(&host, "gone").await.unwrap();
    gone.push("k", 1).await.unwrap();
    drop(gone);
    let opened = async |name: &str| {
        let before = store.asked(Asked::Open).len();
        drop(users.open(&host, name).await.unwrap());
        store.asked(Asked::Open).len() > before
    };
    // Nobody was away for long enough.
    pass(&clock, Duration::from_secs(200)).await;
    assert!(!opened("gone").await);
    // Asked for meanwhile, so not yet.
    pass(&clock, Duration::from_secs(200)).await;
    assert!(!opened("gone").await);
    pass(&clock, Duration::from_secs(400)).await;
    assert!(opened("gone").await);
    assert!(!opened("held").await);
    held.push("k", 2).await.unwrap();
}

/// Lets time pass, on both clocks.
pub(crate) async fn pass(clock: &ManualClock, by: Duration) {
    let steps = u32::try_from(by.as_secs() / 10).unwrap();
    for _ in 0..steps {
        clock.advance(by / steps);
        tokio::time::sleep(by / steps).await;
    }
    settle().await;
}
