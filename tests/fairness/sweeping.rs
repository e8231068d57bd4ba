//! What has expired goes by itself, of users who are open and of those who are not.

use std::sync::Arc;
use std::time::Duration;

use syntha::{Builder, HostAuthority, ManualClock, MeshConfig, Timestamp, UserManager};

use crate::memory::pass;
use crate::ordered::{Asked, Ordered};

const EVERY: Duration = Duration::from_secs(60);

fn on(store: &Ordered, clock: &Arc<ManualClock>) -> Builder {
    let mut mesh = MeshConfig::default();
    mesh.clock = Arc::clone(clock) as _;
    UserManager::builder().store(Arc::new(store.clone()), store.key()).mesh(mesh).sweep_every(EVERY)
}

async fn entries(users: &UserManager) -> u64 {
    users.totals().await.unwrap().entries
}

async fn write(users: &UserManager, host: &HostAuthority, names: &[&str], ttl: Duration) {
    for name in names {
        let session = users.create_user_session(host, *name).await.unwrap();
        session.push("stays", 1).await.unwrap();
        for n in 0..5 {
            session.push(format!("goes-{n}"), 1).ttl(ttl).await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn sweeper_deletes_what_expired_of_open_and_closed_users() {
    let (store, clock) = (Ordered::memory(), Arc::new(ManualClock::new(Timestamp(1_000_000))));
    let (users, host) = on(&store, &clock).idle_after(Duration::from_secs(100)).open().await.unwrap();
    let held = users.create_user_session(&host, "held").await.unwrap();
    held.push("goes", 1).ttl(Duration::from_secs(600)).await.unwrap();
    write(&users, &host, &["a", "b", "c"], Duration::from_secs(600)).await;
    assert_eq!(entries(&users).await, 19);
    // Everybody but one is closed by now, and nothing has expired.
    pass(&clock, Duration::from_secs(400)).await;
    assert_eq!(entries(&users).await, 19);
    // Within the grace after the expiry nothing goes.
    pass(&clock, Duration::from_secs(230)).await;
    assert_eq!(entries(&users).await, 19);
    pass(&clock, Duration::from_secs(180)).await;
    assert_eq!(entries(&users).await, 3);
    // Who was not open is not left open by it.
    let before = store.asked(Asked::Open).len();
    drop(users.open(&host, "a").await.unwrap());
    assert!(store.asked(Asked::Open).len() > before);
    users.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn sweeper_waits_while_the_clock_is_off() {
    let (store, clock) = (Ordered::memory(), Arc::new(ManualClock::new(Timestamp(1_000_000))));
    let (users, host) = on(&store, &clock).open().await.unwrap();
    write(&users, &host, &["a"], Duration::from_secs(600)).await;
    // A time server's mistake: a year ahead.
    clock.jump(Timestamp(1_000_000 + 365 * 24 * 3_600 * 1_000));
    pass(&clock, Duration::from_secs(300)).await;
    assert_eq!(entries(&users).await, 6);
    // It was put right, and what has expired since then goes.
    clock.jump(Timestamp(1_000_000 + 300_000));
    pass(&clock, Duration::from_secs(200)).await;
    assert_eq!(entries(&users).await, 6);
    pass(&clock, Duration::from_secs(400)).await;
    assert_eq!(entries(&users).await, 1);
    users.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn sweeper_holds_nobody_and_can_be_left_out() {
    let (store, clock) = (Ordered::memory(), Arc::new(ManualClock::new(Timestamp(1_000_000))));
    let (users, host) = on(&store, &clock).no_sweeper().open().await.unwrap();
    write(&users, &host, &["a"], Duration::from_secs(10)).await;
    pass(&clock, Duration::from_secs(600)).await;
    assert_eq!(entries(&users).await, 6);
    drop((users, host));
    // Nothing of the tasks keeps a deployment that everybody dropped: another one gets the store.
    for _ in 0..20 {
        let (users, host) = on(&store, &clock).open().await.unwrap();
        pass(&clock, Duration::from_secs(60)).await;
        drop((users, host));
    }
}

/// More users than one round looks at: the next round goes on with the others.
#[tokio::test(start_paused = true)]
async fn sweeper_comes_round_to_everybody() {
    let (store, clock) = (Ordered::memory(), Arc::new(ManualClock::new(Timestamp(1_000_000))));
    let (users, host) = on(&store, &clock).no_sweeper().open().await.unwrap();
    let names: Vec<_> = (0..400).map(|n| format!("user-{n}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    write(&users, &host, &names, Duration::from_secs(10)).await;
    drop((users, host));
    // Everybody is closed, and all is due.
    let (users, _host) = on(&store, &clock).open().await.unwrap();
    assert_eq!(entries(&users).await, 2_400);
    pass(&clock, Duration::from_secs(110)).await;
    let after_one = entries(&users).await;
    assert!(after_one > 400 && after_one < 2_400, "{after_one}");
    pass(&clock, Duration::from_secs(300)).await;
    assert_eq!(entries(&users).await, 400);
    users.shutdown().await.unwrap();
}
