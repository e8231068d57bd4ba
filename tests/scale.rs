//! Many users of one process: none fails, none sees another, and what the process takes stays as it is.
//!
//! `SYNTHA_SCALE_USERS`, `SYNTHA_SCALE_ACTIVE` and `SYNTHA_SCALE_SECONDS` say how many, and for how long. From a minute on it is 10,000 users and 2,000
//! active ones, unless they say otherwise.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a test prints its row of evidence")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use syntha::{Filter, HostAuthority, UserManager};
use tokio::task::JoinSet;

/// How often a user does something before another one is active instead.
const ROUNDS: u64 = 10;

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|number| number.parse().ok()).unwrap_or(otherwise)
}

fn status(field: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

struct Rates {
    operations: AtomicU64,
    foreign: AtomicU64,
    errors: AtomicU64,
}

/// One user's work of a moment: a session, writes, reads, and a look at everything for what is another's.
async fn work(
    users: &UserManager,
    host: &HostAuthority,
    user: u64,
    round: u64,
    rates: &Rates,
) -> syntha::Result<()> {
    let session = users.create_user_session(host, format!("user-{user}")).await?;
    let agent = session.agent("a")?;
    let canary = format!("canary-{user}-");
    for n in 0..4 {
        agent.push(format!("key-{}", (round + n) % 10), format!("{canary}{round}-{n}")).await?;
    }
    for n in 0..10 {
        if let Some(entry) = agent.entry(format!("key-{n}")).await? {
            rates.foreign.fetch_add(u64::from(!entry.json().contains(&canary)), Ordering::Relaxed);
        }
    }
    let all = agent.all(&Filter::new()).await?;
    let foreign = all.iter().filter(|entry| !entry.json().contains(&canary)).count() as u64;
    rates.foreign.fetch_add(foreign, Ordering::Relaxed);
    rates.operations.fetch_add(16, Ordering::Relaxed);
    Ok(())
}

/// Runs so many workers over users at random, so long; says how many operations were done.
async fn run(
    users: &Arc<UserManager>,
    host: &Arc<HostAuthority>,
    count: u64,
    active: u64,
    time: Duration,
    rates: &Arc<Rates>,
) -> u64 {
    let (before, stop) = (rates.operations.load(Ordering::Relaxed), Arc::new(AtomicBool::new(false)));
    let mut tasks = JoinSet::new();
    for worker in 0..active {
        let (users, host, rates, stop) =
            (Arc::clone(users), Arc::clone(host), Arc::clone(rates), Arc::clone(&stop));
        tasks.spawn(async move {
            let mut random = worker.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut round = 0;
            while !stop.load(Ordering::Relaxed) {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                // Each worker stays with users of its own for a while, so that so many are active.
                let user = (worker + active * (random % count.div_ceil(active).max(1))) % count;
                for _ in 0..ROUNDS {
                    if let Err(error) = work(&users, &host, user, round, &rates).await {
                        rates.errors.fetch_add(1, Ordering::Relaxed);
                        println!("an operation failed: {error:?}");
                    }
                    round += 1;
                }
            }
        });
    }
    tokio::time::sleep(time).await;
    stop.store(true, Ordering::Relaxed);
    tasks.join_all().await;
    rates.operations.load(Ordering::Relaxed) - before
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scale_keeps_users_apart_and_memory_flat() {
    let seconds = number("SYNTHA_SCALE_SECONDS", 5);
    let (many, busy) = if seconds >= 60 { (10_000, 2_000) } else { (200, 40) };
    let count = number("SYNTHA_SCALE_USERS", many);
    let active = number("SYNTHA_SCALE_ACTIVE", busy).min(count);
    let connections = if count >= 2_000 { 512 } else { 64 };
    // Three of each open file, and some for the rest: the log, keys, the runtime.
    let (most_descriptors, most_threads) = (connections * 3 + 200, connections + 100);
    let folder = tempfile::tempdir().unwrap();
    let (users, host) = UserManager::builder()
        .sqlite(folder.path().join("data"))
        .connections(connections)
        .memory_budget(32 << 20)
        .idle_after(Duration::from_secs(2))
        .sweep_every(Duration::from_secs(1))
        .open()
        .await
        .unwrap();
    let (users, host) = (Arc::new(users), Arc::new(host));
    let rates = Arc::new(Rates {
        operations: AtomicU64::new(0),
        foreign: AtomicU64::new(0),
        errors: AtomicU64::new(0),
    });
    // The cost of an operation with ten users, before there are more.
    let few = seconds.div_ceil(5).max(1);
    run(&users, &host, 10, 10, Duration::from_secs(1), &rates).await;
    let of_few = run(&users, &host, 10, 10, Duration::from_secs(few), &rates).await / few;
    // Everybody is there once.
    let mut making = JoinSet::new();
    for worker in 0..16 {
        let (users, host, rates) = (Arc::clone(&users), Arc::clone(&host), Arc::clone(&rates));
        making.spawn(async move {
            for user in (worker..count).step_by(16) {
                if work(&users, &host, user, 0, &rates).await.is_err() {
                    rates.errors.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }
    making.join_all().await;
    let (mut resident, mut fds, mut threads, mut done) = (Vec::new(), 0, 0, 0);
    let (begun, part) = (Instant::now(), Duration::from_millis(seconds * 1_000 / 20));
    for _ in 0..20 {
        done += run(&users, &host, count, active, part, &rates).await;
        resident.push(status("VmRSS:"));
        fds = fds.max(descriptors());
        threads = threads.max(status("Threads:"));
    }
    let took = begun.elapsed().as_secs_f64();
    let (low, high) = (resident[10..].iter().min().unwrap(), resident[10..].iter().max().unwrap());
    let spread = (high - low) as f64 / *low as f64 * 100.0;
    let cost = took / done.max(1) as f64 * of_few as f64 * 100.0 - 100.0;
    let (errors, foreign) = (rates.errors.load(Ordering::Relaxed), rates.foreign.load(Ordering::Relaxed));
    println!(
        "evidence: {count} users, {active} active, {took:.0} s: {done} operations, {errors} errors, {foreign} foreign canaries, at most {fds} descriptors and {threads} threads, memory of the last half within {spread:.1} % of {} MiB, an operation costs {cost:+.0} % against 10 users",
        low / 1024
    );
    assert_eq!((errors, foreign), (0, 0));
    assert!(done > 0);
    assert!(fds <= most_descriptors && threads <= most_threads, "{fds} descriptors, {threads} threads");
    assert!(users.cached_bytes().0 <= users.cached_bytes().1);
    // In a few seconds caches still fill.
    assert!(spread <= if seconds >= 60 { 15.0 } else { 50.0 }, "{resident:?}");
    drop(host);
    Arc::into_inner(users).unwrap().shutdown().await.unwrap();
}
