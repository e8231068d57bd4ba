use std::sync::Arc;
use std::task::Poll;

use syntha_identity::syntha_store::Keyspace;
use syntha_identity::{ErrorKind, Fault, Reason, SessionRequest, Source};

use crate::bed::{Bed, Check, RIGHT, WRONG, ensure, kind, password, user};

/// Guesses at one account from many sources and, every other one, from another process.
pub(crate) async fn guesses_are_bounded(fault: Option<Fault>, guesses: usize) -> Check {
    let bed = Bed::faulty(fault).await;
    let alice = bed.user("alice").await;
    let second = bed.second().await;
    let before = bed.identity.hashing().hashed;
    for n in 0..guesses {
        let identity = if n % 2 == 0 { &bed.identity } else { &second };
        let source = Source::new(format!("source {}", n % 1_000));
        let login = identity.login(&alice, password(WRONG), &source, &SessionRequest::default()).await;
        ensure(login.is_err(), "a wrong password was let in")?;
        // Slowly, so that waits are over: eighteen hours in all.
        bed.clock.advance(std::time::Duration::from_millis(64_800_000 / guesses as u64));
    }
    let looked_at = bed.identity.hashing().hashed + second.hashing().hashed - before;
    ensure(looked_at >= 40, &format!("only {looked_at} guesses were looked at, so nothing is shown"))?;
    ensure(looked_at <= 100, &format!("{looked_at} guesses were looked at"))
}

/// A hundred thousand guesses from a thousand sources; so many that each is quick.
#[tokio::test]
async fn a_hundred_guesses_at_most_are_looked_at() {
    let guesses = std::env::var("SYNTHA_GUESSES").ok().map_or(100_000, |text| text.parse().unwrap());
    guesses_are_bounded(None, guesses).await.unwrap();
}

#[tokio::test]
async fn a_success_ends_the_count_and_a_throttled_one_is_told_so() {
    let bed = Bed::new().await;
    let alice = bed.user("alice").await;
    for _ in 0..4 {
        for _ in 0..4 {
            assert_eq!(kind(bed.login(&alice, WRONG).await), Some(ErrorKind::Denied));
        }
        bed.login(&alice, RIGHT).await.unwrap();
    }
    for _ in 0..5 {
        bed.login(&alice, WRONG).await.unwrap_err();
    }
    let error = bed.login(&alice, RIGHT).await.unwrap_err();
    assert_eq!((error.kind(), error.retry_after().unwrap().as_millis()), (ErrorKind::Throttled, 1_000));
    assert!(error.is_retryable());
    assert_eq!(bed.told.lock().last().unwrap().reason, Some(Reason::Throttled));
    bed.clock.advance(error.retry_after().unwrap());
    bed.login(&alice, RIGHT).await.unwrap();
}

#[tokio::test]
async fn a_source_that_fails_often_waits_whomever_it_tries() {
    let bed = Bed::new().await;
    let alice = bed.user("alice").await;
    let bad = Source::new("bad");
    let mut throttled = 0;
    for n in 0..200 {
        let (name, request) = (user(&format!("name {n}")), SessionRequest::default());
        let login = bed.identity.login(&name, password(WRONG), &bad, &request).await;
        throttled += usize::from(kind(login) == Some(ErrorKind::Throttled));
    }
    assert_eq!(throttled, 150);
    let request = SessionRequest::default();
    let login = bed.identity.login(&alice, password(RIGHT), &bad, &request).await;
    assert_eq!(kind(login), Some(ErrorKind::Throttled));
    bed.login(&alice, RIGHT).await.unwrap();
}

#[tokio::test]
async fn waiting_ones_write_and_hash_nothing() {
    let bed = Bed::new().await;
    let alice = bed.user("alice").await;
    for _ in 0..6 {
        bed.login(&alice, WRONG).await.unwrap_err();
    }
    let (stored, hashed) = (bed.dump().await, bed.identity.hashing().hashed);
    for _ in 0..20 {
        assert_eq!(kind(bed.login(&alice, WRONG).await), Some(ErrorKind::Throttled));
    }
    assert_eq!(bed.dump().await, stored);
    assert_eq!(bed.identity.hashing().hashed, hashed);
}

#[tokio::test]
async fn a_cancelled_guess_is_counted() {
    let bed = Bed::new().await;
    let alice = bed.user("alice").await;
    for _ in 0..5 {
        // As far as it comes without waiting, which is to the hash; then nobody waits for it.
        let mut login = Box::pin(bed.login(&alice, WRONG));
        let _ = std::future::poll_fn(|context| Poll::Ready(login.as_mut().poll(context).is_ready())).await;
    }
    assert_eq!(kind(bed.login(&alice, RIGHT).await), Some(ErrorKind::Throttled));
}

#[tokio::test]
async fn unknown_names_fill_a_table_of_fixed_size() {
    let bed = Bed::of(2, None).await;
    let identity = Arc::new(&bed.identity);
    for n in 0..500 {
        let source = Source::new(format!("source {n}"));
        let name = user(&format!("made up {n}"));
        identity.login(&name, password(WRONG), &source, &SessionRequest::default()).await.unwrap_err();
    }
    let throttle: Vec<_> =
        bed.dump().await.into_iter().filter(|(space, _)| *space == Keyspace::Throttle).collect();
    assert!(throttle.len() <= 1_000);
    assert!(throttle.iter().all(|(_, bytes)| !String::from_utf8_lossy(bytes).contains("made up")));
    assert_eq!(bed.count(Keyspace::Accounts).await, 0);
}
