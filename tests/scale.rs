//! Many users of one process: none fails, none sees another, and what the process takes stays as it is.
//!
//! `SYNTHA_SCALE_USERS`, `SYNTHA_SCALE_ACTIVE`, `SYNTHA_SCALE_RATE` and `SYNTHA_SCALE_SECONDS` say how many, how many pieces of work all of them do in a second,
//! and for how long. From a minute on it is 10,000 users and 2,000 active ones, unless they say otherwise.
//!
//! The rate is the same for ten users as for thousands, and what an operation costs is processor time: so the figure holds on a machine that has
//! other things to do.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "a test prints its row of evidence")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use syntha::{Filter, HostAuthority, UserManager};
use tokio::task::JoinSet;

/// How many pieces of work a user does before another one is active instead.
const ROUNDS: u64 = 10;

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|number| number.parse().ok()).unwrap_or(otherwise)
}

fn status(field: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The processor time of this process, in the kernel's ticks.
fn ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // The name, which is the second field, may hold spaces.
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

struct Rates {
    operations: AtomicU64,
    foreign: AtomicU64,
    errors: AtomicU64,
}

/// One user's work of a moment: a session, a write, reads, and now and then a look at everything for what is another's.
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
    agent.push(format!("key-{}", round % 10), format!("{canary}{round}")).await?;
    for n in 0..3 {
        if let Some(entry) = agent.entry(format!("key-{}", (round + n) % 10)).await? {
            rates.foreign.fetch_add(u64::from(!entry.json().contains(&canary)), Ordering::Relaxed);
        }
    }
    let mut done = 4;
    if round.is_multiple_of(ROUNDS) {
        let all = agent.all(&Filter::new()).await?;
        let foreign = all.iter().filter(|entry| !entry.json().contains(&canary)).count() as u64;
        rates.foreign.fetch_add(foreign, Ordering::Relaxed);
        done += 1;
    }
    rates.operations.fetch_add(done, Ordering::Relaxed);
    Ok(())
}

/// What is driven: so many users, of whom so many are active, who do so many pieces of work in a second together.
#[derive(Clone, Copy)]
struct Load {
    count: u64,
    active: u64,
    rate: u64,
}

/// Drives it for a while; says how many operations were done, and how many ticks of the processor each took.
async fn run(
    users: &Arc<UserManager>,
    host: &Arc<HostAuthority>,
    load: Load,
    time: Duration,
    rates: &Arc<Rates>,
) -> (u64, f64) {
    let (before, used) = (rates.operations.load(Ordering::Relaxed), ticks());
    let end = Instant::now() + time;
    let every = Duration::from_secs(load.active) / u32::try_from(load.rate).unwrap();
    let mut tasks = JoinSet::new();
    for worker in 0..load.active {
        let (users, host, rates) = (Arc::clone(users), Arc::clone(host), Arc::clone(rates));
        tasks.spawn(async move {
            let mut random = fastrand::Rng::with_seed(worker);
            let mut round = 0_u64;
            let mut due = Instant::now() + every.mul_f64(random.f64());
            // Each worker has users of its own, so that so many are active.
            let own = load.count.div_ceil(load.active).max(1);
            let mut user = worker;
            while due < end {
                tokio::time::sleep_until(due.into()).await;
                // Who is late does not catch up: that would be another load.
                due = due.max(Instant::now() - every) + every;
                if round.is_multiple_of(ROUNDS) {
                    user = (worker + load.active * random.u64(..own)) % load.count;
                }
                if let Err(error) = work(&users, &host, user, round, &rates).await {
                    rates.errors.fetch_add(1, Ordering::Relaxed);
                    println!("an operation failed: {error:?}");
                }
                round += 1;
            }
        });
    }
    tasks.join_all().await;
    let done = rates.operations.load(Ordering::Relaxed) - before;
    (done, (ticks() - used) as f64 / done.max(1) as f64)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scale_keeps_users_apart_and_memory_flat() {
    let seconds = number("SYNTHA_SCALE_SECONDS", 5);
    let (many, busy, often) = if seconds >= 60 { (10_000, 2_000, 400) } else { (200, 40, 200) };
    let count = number("SYNTHA_SCALE_USERS", many);
    let active = number("SYNTHA_SCALE_ACTIVE", busy).min(count);
    let load = Load { count, active, rate: number("SYNTHA_SCALE_RATE", often).max(1) };
    // Who is active has a file open; the next ones come before all of the last are closed.
    let connections = usize::try_from(active + active / 4).unwrap().max(64);
    // Three of each open file, and some for the rest: the log, keys, the runtime.
    let (most_descriptors, most_threads) = (connections * 3 + 200, connections + 100);
    let folder = tempfile::tempdir().unwrap();
    let (users, host) = UserManager::builder()
        .sqlite(folder.path().join("data"))
        .connections(connections)
        .memory_budget(32 << 20)
        .idle_after(Duration::from_secs(2) + Duration::from_secs(active) / u32::try_from(load.rate).unwrap())
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
    let (ten, few) =
        (Load { count: 10, active: 10, ..load }, Duration::from_secs(seconds.div_ceil(10).max(2)));
    run(&users, &host, ten, Duration::from_secs(1), &rates).await;
    let (_, of_few) = run(&users, &host, ten, few, &rates).await;
    // Everybody is there once.
    let mut making = JoinSet::new();
    for worker in 0..16 {
        let (users, host, rates) = (Arc::clone(&users), Arc::clone(&host), Arc::clone(&rates));
        making.spawn(async move {
            for user in (worker..count).step_by(16) {
                // Sixteen make users at once, which all write the deployment's own space: some are told to try again.
                let mut tries = 0;
                while let Err(error) = work(&users, &host, user, 0, &rates).await {
                    tries += 1;
                    println!("a user could not be made: {error:?}");
                    if tries > 50 || !error.is_retryable() {
                        rates.errors.fetch_add(1, Ordering::Relaxed);
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        });
    }
    making.join_all().await;
    let (mut resident, mut fds, mut threads, mut done, mut costs) = (Vec::new(), 0, 0, 0, Vec::new());
    let (begun, part) = (Instant::now(), Duration::from_millis(seconds * 1_000 / 20));
    for _ in 0..20 {
        let (did, cost) = run(&users, &host, load, part, &rates).await;
        done += did;
        costs.push(cost);
        resident.push(status("VmRSS:"));
        fds = fds.max(descriptors());
        threads = threads.max(status("Threads:"));
    }
    let took = begun.elapsed().as_secs_f64();
    let (low, high) = (resident[10..].iter().min().unwrap(), resident[10..].iter().max().unwrap());
    let spread = (high - low) as f64 / *low as f64 * 100.0;
    // Of the first parts some is the filling of caches.
    let cost = costs[10..].iter().sum::<f64>() / (costs.len() - 10) as f64 / of_few * 100.0 - 100.0;
    let (errors, foreign) = (rates.errors.load(Ordering::Relaxed), rates.foreign.load(Ordering::Relaxed));
    println!(
        "evidence: {count} users, {active} active, {took:.0} s: {done} operations, {errors} errors, {foreign} foreign canaries, at most {fds} descriptors and {threads} threads, memory of the last half within {spread:.1} % of {} MiB, {:.0} operations a second, an operation costs {cost:+.0} % processor time against 10 users",
        low / 1024,
        done as f64 / took,
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
