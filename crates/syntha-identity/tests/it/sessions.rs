use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use syntha_identity::syntha_store::Keyspace;
use syntha_identity::{
    ErrorKind, Factor, Fault, Identity, Lease, SESSIONS_MOST, Scopes, SessionRequest, TokenRequest,
};

use crate::bed::{Bed, Check, RIGHT, config, ensure, kind, password, user};
use crate::processes::Slow;

#[tokio::test]
async fn the_host_opens_a_session_for_whom_it_knows() {
    let bed = Bed::new().await;
    let alice = user("alice");
    bed.identity.accounts().create(&alice, Scopes::READ).await.unwrap();
    let opened = bed.identity.sessions().open(&alice, &SessionRequest::default()).await.unwrap();
    assert!(opened.secret.expose().starts_with("syn_ses_"));
    assert_eq!(opened.lease.scopes(), Scopes::READ);
    assert_eq!(bed.identity.hashing().hashed, 0);
    bed.identity.accounts().suspend(&alice).await.unwrap();
    let opened = bed.identity.sessions().open(&alice, &SessionRequest::default()).await;
    assert_eq!(kind(opened), Some(ErrorKind::Denied));
}

#[tokio::test]
async fn a_session_ends_unused_and_in_any_case() {
    let bed = Bed::new().await;
    let alice = bed.user("alice").await;
    let unused = bed.login(&alice, RIGHT).await.unwrap();
    let used = bed.login(&alice, RIGHT).await.unwrap();
    let second = bed.second().await;
    let there = second.authenticate(&used.secret).await.unwrap();
    for _ in 0..29 {
        bed.advance(60);
        bed.identity.confirm(&used.lease).await.unwrap();
    }
    bed.advance(60);
    assert_eq!(kind(unused.lease.check()), Some(ErrorKind::Denied));
    assert_eq!(kind(bed.identity.authenticate(&unused.secret).await), Some(ErrorKind::Denied));
    bed.identity.confirm(&used.lease).await.unwrap();
    // Used here, so it is not unused there.
    second.authenticate(&used.secret).await.unwrap();
    drop(there);
    // Twelve hours after the login it ends however much it is used.
    let mut minutes = 30;
    while bed.identity.confirm(&used.lease).await.is_ok() {
        bed.advance(60);
        minutes += 1;
    }
    assert_eq!(minutes, 12 * 60);
    assert_eq!(kind(bed.identity.authenticate(&used.secret).await), Some(ErrorKind::Denied));
}

#[tokio::test]
async fn a_request_may_ask_for_less_time_and_never_for_more() {
    let bed = Bed::new().await;
    let alice = bed.user("alice").await;
    let life = |lifetime| {
        let identity = bed.identity.clone();
        let (alice, request) = (alice.clone(), SessionRequest::default().lifetime(lifetime));
        async move { identity.sessions().open(&alice, &request).await.unwrap().lease.expires().0 }
    };
    let now = 1_000_000_000_000;
    assert_eq!(life(Duration::from_secs(60)).await, now + 60_000);
    assert_eq!(life(Duration::from_secs(86_400)).await, now + 43_200_000);
}

/// Each way to end a session ends it: here at the next call, elsewhere at the next refresh, and for good.
pub(crate) async fn revocations_end_sessions(fault: Option<Fault>) -> Check {
    for way in ["logout", "by id", "revoke all", "suspend", "password", "no password", "rights", "remove"] {
        let bed = Bed::of(2, fault).await;
        let alice = bed.user("alice").await;
        let bob = bed.user("bob").await;
        let opened = bed.login(&alice, RIGHT).await.unwrap();
        let others = [bed.login(&bob, RIGHT).await.unwrap().lease];
        let second = bed.second().await;
        let there = second.authenticate(&opened.secret).await.unwrap();
        let accounts = bed.identity.accounts();
        match way {
            "logout" => bed.identity.sessions().end(&opened.secret).await.map(|_| ()),
            "by id" => bed.identity.sessions().end_id(&alice, opened.lease.id()).await,
            "revoke all" => accounts.revoke_all(&alice).await,
            "suspend" => accounts.suspend(&alice).await,
            "password" => accounts.set_password(&alice, password(RIGHT), Factor::Single).await,
            "no password" => accounts.remove_password(&alice).await,
            "rights" => accounts.set_rights(&alice, Scopes::READ).await,
            _ => accounts.remove(&alice).await,
        }
        .unwrap();
        let denied = |lease: &Lease| kind(lease.check()) == Some(ErrorKind::Denied);
        ensure(denied(&opened.lease), &format!("{way}: a lease goes on in its own process"))?;
        second.refresh(std::slice::from_ref(&there)).await.unwrap();
        ensure(denied(&there), &format!("{way}: a lease goes on in another process"))?;
        for identity in [&bed.identity, &second] {
            let again = identity.authenticate(&opened.secret).await;
            ensure(again.is_err(), &format!("{way}: the id is let in again"))?;
        }
        if way == "suspend" {
            accounts.resume(&alice).await.unwrap();
            let again = bed.identity.authenticate(&opened.secret).await;
            ensure(again.is_err(), "a resumed account has its old sessions")?;
        }
        ensure(others[0].check().is_ok(), &format!("{way}: it ended another user's session"))?;
    }
    Ok(())
}

#[tokio::test]
async fn a_revocation_is_seen_at_the_next_call() {
    revocations_end_sessions(None).await.unwrap();
}

#[tokio::test]
async fn ending_twice_is_as_once() {
    let bed = Bed::new().await;
    let alice = bed.user("alice").await;
    let opened = bed.login(&alice, RIGHT).await.unwrap();
    bed.identity.sessions().end(&opened.secret).await.unwrap();
    bed.identity.sessions().end(&opened.secret).await.unwrap();
    let again = bed.identity.sessions().end_id(&alice, opened.lease.id()).await;
    assert_eq!(kind(again), Some(ErrorKind::NotFound));
    // One user's call does not end another's session.
    let (bob, other) = (bed.user("bob").await, bed.login(&alice, RIGHT).await.unwrap());
    let ended = bed.identity.sessions().end_id(&bob, other.lease.id()).await;
    assert_eq!(kind(ended), Some(ErrorKind::NotFound));
    other.lease.check().unwrap();
}

#[tokio::test]
async fn a_rotated_session_has_a_new_id_and_no_longer_life() {
    let bed = Bed::of(3, None).await;
    let alice = bed.user("alice").await;
    let request = SessionRequest::default().scopes(Scopes::READ).agent("reader");
    let opened = bed.identity.sessions().open(&alice, &request).await.unwrap();
    let second = bed.second().await;
    let there = second.authenticate(&opened.secret).await.unwrap();
    bed.advance(60);
    let wider = Some(Scopes::READ | Scopes::WRITE);
    let next = bed.identity.sessions().rotate(&opened.secret, wider).await.unwrap();
    assert_eq!(next.lease.scopes(), Scopes::READ | Scopes::WRITE);
    assert_eq!((next.lease.expires(), next.lease.agent()), (opened.lease.expires(), Some("reader")));
    next.lease.check().unwrap();
    assert_eq!(kind(opened.lease.check()), Some(ErrorKind::Denied));
    assert_eq!(kind(bed.identity.authenticate(&opened.secret).await), Some(ErrorKind::Denied));
    second.refresh(std::slice::from_ref(&there)).await.unwrap();
    assert_eq!(kind(there.check()), Some(ErrorKind::Denied));
    second.authenticate(&next.secret).await.unwrap();
    // The old id rotates no more, and neither does what is over.
    let again = bed.identity.sessions().rotate(&opened.secret, None).await;
    assert_eq!(kind(again), Some(ErrorKind::Denied));
    bed.identity.accounts().set_rights(&alice, Scopes::READ).await.unwrap();
    let again = bed.identity.sessions().rotate(&next.secret, Some(Scopes::ALL)).await;
    assert_eq!(kind(again), Some(ErrorKind::Denied));
    // Never wider than the account.
    let opened = bed.identity.sessions().open(&alice, &SessionRequest::default()).await.unwrap();
    let next = bed.identity.sessions().rotate(&opened.secret, Some(Scopes::ALL)).await.unwrap();
    assert_eq!(next.lease.scopes(), Scopes::READ);
    assert_eq!(bed.identity.sessions().list(&alice).await.unwrap().last().unwrap().id, next.lease.id());
}

#[tokio::test]
async fn one_id_is_rotated_once() {
    let bed = Bed::new().await;
    let alice = bed.user("alice").await;
    let opened = bed.login(&alice, RIGHT).await.unwrap();
    let second = bed.second().await;
    let (one, two) = tokio::join!(
        bed.identity.sessions().rotate(&opened.secret, None),
        second.sessions().rotate(&opened.secret, None),
    );
    let kinds = [kind(one), kind(two)];
    assert!(kinds.contains(&None) && kinds.contains(&Some(ErrorKind::Denied)), "{kinds:?}");
    assert_eq!(bed.count(Keyspace::Sessions).await, 1);
}

#[tokio::test]
async fn the_oldest_session_makes_place_for_a_new_one() {
    let bed = Bed::new().await;
    let alice = bed.user("alice").await;
    let mut opened = Vec::new();
    for _ in 0..=SESSIONS_MOST {
        opened.push(bed.identity.sessions().open(&alice, &SessionRequest::default()).await.unwrap());
    }
    assert_eq!(bed.count(Keyspace::Sessions).await, SESSIONS_MOST);
    assert_eq!(kind(bed.identity.authenticate(&opened[0].secret).await), Some(ErrorKind::Denied));
    assert_eq!(kind(opened[0].lease.check()), Some(ErrorKind::Denied));
    bed.identity.authenticate(&opened[1].secret).await.unwrap();
    assert_eq!(bed.identity.sessions().list(&alice).await.unwrap().len(), SESSIONS_MOST);
}

#[tokio::test]
async fn a_lease_that_was_not_confirmed_is_refused_until_it_is() {
    let bed = Bed::new().await;
    let alice = bed.user("alice").await;
    let opened = bed.login(&alice, RIGHT).await.unwrap();
    bed.advance(1);
    opened.lease.check().unwrap();
    bed.clock.advance(Duration::from_millis(1));
    let error = opened.lease.check().unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Stale, true));
    bed.identity.confirm(&opened.lease).await.unwrap();
    opened.lease.check().unwrap();
    // While the store does not answer, nothing is confirmed.
    bed.advance(2);
    syntha_identity::syntha_store::Store::close(&bed.stores[0]).await.unwrap();
    assert_eq!(kind(bed.identity.confirm(&opened.lease).await), Some(ErrorKind::Unavailable));
    assert_eq!(kind(opened.lease.check()), Some(ErrorKind::Stale));
}

#[tokio::test]
async fn an_end_calls_what_hangs_on_it_once() {
    let bed = Bed::new().await;
    let alice = bed.user("alice").await;
    let opened = bed.login(&alice, RIGHT).await.unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    let hook = |lease: &Lease| {
        let calls = Arc::clone(&calls);
        lease.on_end(move || {
            calls.fetch_add(1, Ordering::SeqCst);
        });
    };
    hook(&opened.lease);
    hook(&opened.lease.clone());
    let second = bed.second().await;
    let there = second.authenticate(&opened.secret).await.unwrap();
    hook(&there);
    assert_eq!(calls.load(Ordering::SeqCst), 0);
    bed.identity.accounts().suspend(&alice).await.unwrap();
    assert_eq!(calls.load(Ordering::SeqCst), 2, "here, without any call on the lease");
    second.refresh(std::slice::from_ref(&there)).await.unwrap();
    assert_eq!(calls.load(Ordering::SeqCst), 3);
    hook(&opened.lease);
    assert_eq!(calls.load(Ordering::SeqCst), 4, "at once when it has ended");
    let _ = opened.lease.check();
    bed.identity.accounts().suspend(&alice).await.unwrap();
    assert_eq!(calls.load(Ordering::SeqCst), 4);
}

/// A revocation between the read and the hand-out of a lease is not missed.
#[tokio::test]
async fn a_revocation_half_way_through_is_seen() {
    let bed = Bed::new().await;
    let alice = bed.user("alice").await;
    let slow = Slow::over(&bed.stores[0]).await;
    let identity = Identity::open(vec![slow.clone()], config(&bed.clock, None)).await.unwrap();
    let (token, info) = identity.tokens().create(&alice, &TokenRequest::new(Scopes::READ)).await.unwrap();
    bed.advance(61);
    // The note of its use is held, after the record was found good and before the lease is known.
    slow.hold();
    let (lease, ()) = tokio::join!(identity.authenticate(&token), async {
        slow.held().await;
        identity.tokens().revoke(&alice, info.id).await.unwrap();
        slow.go();
    });
    match lease {
        Ok(lease) => assert_eq!(kind(lease.check()), Some(ErrorKind::Denied)),
        Err(error) => assert_eq!(error.kind(), ErrorKind::Denied),
    }
}

#[tokio::test]
async fn many_leases_are_refreshed_with_few_reads() {
    let bed = Bed::of(3, None).await;
    let mut leases = Vec::new();
    for n in 0..700 {
        let user = user(&format!("user {n}"));
        bed.identity.accounts().create(&user, Scopes::READ).await.unwrap();
        leases.push(bed.identity.sessions().open(&user, &SessionRequest::default()).await.unwrap().lease);
    }
    let second = bed.second().await;
    for n in (0..700).step_by(7) {
        second.accounts().suspend(&user(&format!("user {n}"))).await.unwrap();
    }
    bed.advance(2);
    bed.identity.refresh(&leases).await.unwrap();
    for (n, lease) in leases.iter().enumerate() {
        assert_eq!(lease.check().is_ok(), n % 7 != 0, "{n}");
    }
}
