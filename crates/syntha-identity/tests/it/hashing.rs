use std::task::Poll;
use std::time::Duration;

use syntha_identity::{
    ErrorKind, Fault, HashingCost, Identity, Reason, Scopes, SessionRequest, Source, TokenRequest,
};

use crate::bed::{Bed, Check, RIGHT, WRONG, ensure, kind, login, password, user};

/// Long enough that nothing ends by itself while a test looks.
fn costly() -> HashingCost {
    HashingCost::new(32 * 1024, 3, 1).unwrap()
}

async fn with(permits: usize, cost: HashingCost, fault: Option<Fault>) -> Bed {
    Bed::with(1, fault, |config| config.hashing(cost).hashing_at_once(permits)).await
}

/// Polls a login once, which brings it to the hash or into the queue, and gives it up.
async fn give_up(identity: &Identity, name: &str) {
    let user = user(name);
    let mut attempt = Box::pin(login(identity, &user, WRONG));
    let _ = std::future::poll_fn(|context| Poll::Ready(attempt.as_mut().poll(context).is_ready())).await;
}

/// Who gives up frees no memory, so no more may run for it.
pub(crate) async fn permits_stay_with_the_work(fault: Option<Fault>) -> Check {
    let bed = with(1, costly(), fault).await;
    for n in 0..12 {
        give_up(&bed.identity, &format!("name {n}")).await;
        tokio::task::yield_now().await;
    }
    // Until one that waits its turn is done, all others are.
    let last = login(&bed.identity, &user("last"), WRONG).await;
    ensure(last.is_err(), "a wrong password was let in")?;
    let load = bed.identity.hashing();
    ensure(load.hashed >= 2, "nothing was hashed")?;
    ensure(load.peak == 1, &format!("{} ran at once with one permit", load.peak))
}

#[tokio::test]
async fn a_hash_keeps_its_permit_when_nobody_waits() {
    permits_stay_with_the_work(None).await.unwrap();
}

/// While many logins of one source wait, one of another comes after one or two of them, whoever is named.
pub(crate) async fn a_flood_waits_behind_itself(fault: Option<Fault>) -> Check {
    let bed = with(1, HashingCost::weak(), fault).await;
    let order = std::sync::Arc::new(parking_lot::Mutex::new(Vec::new()));
    let mut tasks = tokio::task::JoinSet::new();
    let mut attempt = |number: usize, name: String, source: &str| {
        let (identity, order, source) = (bed.identity.clone(), order.clone(), Source::new(source));
        tasks.spawn(async move {
            let request = SessionRequest::default();
            let answer = identity.login(&user(&name), password(WRONG), &source, &request).await;
            order.lock().push(number);
            kind(answer)
        });
    };
    // One of them is of the same user as the one that comes from elsewhere.
    (0..40).for_each(|number| attempt(number, format!("name {number}"), "flood"));
    attempt(1_000, "name 39".into(), "elsewhere");
    let answers = tasks.join_all().await;
    ensure(answers.iter().all(|kind| *kind == Some(ErrorKind::Denied)), "a login was not looked at")?;
    let order = order.lock();
    let place = order.iter().position(|number| *number == 1_000).unwrap();
    // Those that were under way when it came, and one at each of two turns.
    ensure(place <= 1 + 4 + 2, &format!("{place} logins of another source were before it"))
}

#[tokio::test]
async fn one_source_waits_behind_another_no_longer_than_for_itself() {
    a_flood_waits_behind_itself(None).await.unwrap();
}

#[tokio::test]
async fn more_than_the_queue_holds_is_busy_at_once() {
    let bed = with(1, HashingCost::weak(), None).await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..200 {
        let identity = bed.identity.clone();
        tasks.spawn(async move { kind(login(&identity, &user(&format!("name {n}")), WRONG).await).unwrap() });
    }
    let answers = tasks.join_all().await;
    let busy = answers.iter().filter(|kind| **kind == ErrorKind::Busy).count();
    let denied = answers.iter().filter(|kind| **kind == ErrorKind::Denied).count();
    let throttled = answers.iter().filter(|kind| **kind == ErrorKind::Throttled).count();
    // One that runs, four that are looked at and 128 that wait, but for those of one source too many; more if one was done before the last
    // was begun. What comes of those is the throttle's.
    assert!(busy >= 50 && denied >= 5 && busy + denied + throttled == 200, "{busy} busy, {denied} denied");
    let load = bed.identity.hashing();
    assert_eq!((load.running, load.waiting, load.peak), (0, 0, 1));
    assert!(bed.told.lock().iter().any(|event| event.reason == Some(Reason::Busy)));
}

#[tokio::test(start_paused = true)]
async fn a_login_waits_two_seconds_and_is_not_counted() {
    let bed = with(1, HashingCost::new(256 * 1024, 4, 1).unwrap(), None).await;
    give_up(&bed.identity, "first").await;
    let second = user("second");
    for _ in 0..7 {
        let mut waits = Box::pin(login(&bed.identity, &second, WRONG));
        let done = std::future::poll_fn(|context| Poll::Ready(waits.as_mut().poll(context).is_ready())).await;
        assert!(!done);
        tokio::time::advance(Duration::from_millis(2_001)).await;
        let error = waits.await.unwrap_err();
        assert_eq!((error.kind(), error.retry_after()), (ErrorKind::Busy, Some(Duration::from_secs(2))));
    }
}

/// The peak of this process's memory, in KiB.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_logins_at_once_take_the_memory_of_the_permits() {
    const PERMITS: usize = 2;
    let cost = HashingCost::default();
    let bed = with(PERMITS, cost, None).await;
    let alice = user("alice");
    bed.identity.accounts().create(&alice, Scopes::ALL).await.unwrap();
    let (token, _) = bed.identity.tokens().create(&alice, &TokenRequest::new(Scopes::READ)).await.unwrap();
    let before = peak_kib();
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..2_000 {
        let identity = bed.identity.clone();
        tasks.spawn(async move {
            let source = Source::new(format!("source {n}"));
            let name = user(&format!("name {n}"));
            kind(identity.login(&name, password(RIGHT), &source, &SessionRequest::default()).await).unwrap()
        });
    }
    // Who is in already is not held up.
    let mut slowest = Duration::ZERO;
    for _ in 0..200 {
        let start = std::time::Instant::now();
        bed.identity.authenticate(&token).await.unwrap().check().unwrap();
        slowest = slowest.max(start.elapsed());
        tokio::task::yield_now().await;
    }
    let answers = tasks.join_all().await;
    assert!(answers.iter().all(|kind| matches!(kind, ErrorKind::Busy | ErrorKind::Denied)));
    let grown = peak_kib() - before;
    let load = bed.identity.hashing();
    assert!(load.peak <= PERMITS && load.hashed >= 8, "{load:?}");
    // What the permits may take and a tenth, and the tasks themselves.
    let bound = PERMITS as u64 * u64::from(cost.m_kib) * 11 / 10 + 2_000 * 8;
    assert!(grown <= bound, "{grown} KiB, {bound} were expected at most; the slowest read took {slowest:?}");
}
