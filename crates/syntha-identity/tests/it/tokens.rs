use std::time::Duration;

use syntha_identity::syntha_store::{Keyspace, Timestamp};
use syntha_identity::{
    ErrorKind, Fault, Identity, IdentityConfig, Scopes, Secret, TOKENS_MOST, TokenRequest,
};

use crate::bed::{Bed, Check, RIGHT, config, ensure, kind, user};
use crate::processes::Slow;

#[tokio::test]
async fn a_token_opens_what_it_says() {
    let bed = Bed::new().await;
    let alice = bed.user("alice").await;
    let request = TokenRequest::new(Scopes::READ | Scopes::WRITE).label("laptop").agent("writer");
    let (token, info) = bed.identity.tokens().create(&alice, &request).await.unwrap();
    assert!(token.expose().starts_with("syn_pat_"));
    assert_eq!(
        (info.label.as_str(), info.agent.as_deref(), info.last_used),
        ("laptop", Some("writer"), None)
    );
    assert_eq!(info.expires.0 - info.created.0, 90 * 24 * 60 * 60 * 1_000);
    let lease = bed.identity.authenticate(&Secret::parse(token.expose()).unwrap()).await.unwrap();
    lease.check().unwrap();
    assert_eq!((lease.user(), lease.agent()), (&alice, Some("writer")));
    assert_eq!((lease.scopes(), lease.id()), (Scopes::READ | Scopes::WRITE, info.id));
    assert_eq!(bed.identity.tokens().list(&alice).await.unwrap(), [info]);
    assert!(bed.identity.sessions().list(&alice).await.unwrap().is_empty());
    // A token is no session.
    let rotated = bed.identity.sessions().rotate(&token, None).await;
    assert_eq!(kind(rotated), Some(ErrorKind::Invalid));
    bed.identity.sessions().end(&token).await.unwrap();
    lease.check().unwrap();
}

#[tokio::test]
async fn requests_out_of_range_are_refused() {
    let bed = Bed::new().await;
    let alice = bed.user("alice").await;
    bed.identity.accounts().set_rights(&alice, Scopes::READ | Scopes::WRITE).await.unwrap();
    let read = || TokenRequest::new(Scopes::READ);
    let most = IdentityConfig::TOKEN_LIFETIME_MOST;
    for request in [
        read().lifetime(Duration::ZERO),
        read().lifetime(most + Duration::from_secs(1)),
        TokenRequest::new(Scopes::NONE),
        TokenRequest::new(Scopes::READ | Scopes::DELETE),
        read().label("x".repeat(129)),
        read().label("a\nb"),
        read().agent(""),
        read().agent("zero\u{200b}width"),
    ] {
        assert_eq!(kind(bed.identity.tokens().create(&alice, &request).await), Some(ErrorKind::Invalid));
    }
    let mut made = Vec::new();
    for _ in 0..TOKENS_MOST {
        made.push(bed.identity.tokens().create(&alice, &read().lifetime(most)).await.unwrap().1.id);
    }
    let over = bed.identity.tokens().create(&alice, &read()).await;
    assert_eq!(kind(over), Some(ErrorKind::LimitExceeded));
    bed.identity.tokens().revoke(&alice, made[0]).await.unwrap();
    bed.identity.tokens().create(&alice, &read()).await.unwrap();
    bed.identity.accounts().suspend(&alice).await.unwrap();
    assert_eq!(kind(bed.identity.tokens().create(&alice, &read()).await), Some(ErrorKind::Invalid));
}

/// A token ends at its expiry, whatever the clock does, and in use as well.
pub(crate) async fn an_expired_token_ends(fault: Option<Fault>) -> Check {
    let bed = Bed::faulty(fault).await;
    let alice = bed.user("alice").await;
    let request = TokenRequest::new(Scopes::READ).lifetime(Duration::from_secs(60));
    let (token, _) = bed.identity.tokens().create(&alice, &request).await.unwrap();
    let lease = bed.identity.authenticate(&token).await.unwrap();
    let before = bed.clock.clone();
    bed.advance(59);
    ensure(bed.identity.confirm(&lease).await.is_ok(), "it ended too soon")?;
    bed.advance(1);
    ensure(kind(lease.check()) == Some(ErrorKind::Denied), "a lease outlives its token")?;
    ensure(bed.identity.authenticate(&token).await.is_err(), "it holds after its expiry")?;
    // A commit carries the time; then the clock is put back, here and in a process that starts then.
    bed.identity.accounts().create(&user("bob"), Scopes::NONE).await.unwrap();
    before.jump(Timestamp(1_000_000_000_000));
    ensure(bed.identity.authenticate(&token).await.is_err(), "a clock that was put back revives it")?;
    let second = bed.second().await;
    ensure(second.authenticate(&token).await.is_err(), "a clock that was put back revives it elsewhere")
}

#[tokio::test]
async fn an_expired_token_is_refused_whatever_the_clock_says() {
    an_expired_token_ends(None).await.unwrap();
}

/// A token of which all but the first bytes of the hash are another's.
pub(crate) async fn a_look_alike_is_refused(fault: Option<Fault>) -> Check {
    let bed = Bed::faulty(fault).await;
    let alice = bed.user("alice").await;
    let request = TokenRequest::new(Scopes::READ);
    let (token, info) = bed.identity.tokens().create(&alice, &request).await.unwrap();
    // What stands in the record is changed behind the first byte of the hash.
    let space = syntha_identity::syntha_store::Store::deployment(&bed.stores[0]).await.unwrap();
    let scan = syntha_identity::syntha_store::Scan::records(Keyspace::Tokens, 10);
    let page = space.scan(scan).await.unwrap().value;
    let (head, body) = &page.records[0];
    let mut text = String::from_utf8(body.as_ref().unwrap().to_vec()).unwrap();
    let from = text.find("\"hash\":\"").unwrap() + 8;
    let other = if &text[from + 2..from + 4] == "00" { "11" } else { "00" };
    text.replace_range(from + 2..from + 4, other);
    let batch = syntha_identity::syntha_store::Batch::new(Timestamp(0)).unwrap();
    space.commit(batch.put(Keyspace::Tokens, head.id.clone(), "", text)).await.unwrap();
    ensure(bed.identity.authenticate(&token).await.is_err(), "another hash lets it in")?;
    ensure(bed.identity.tokens().list(&alice).await.unwrap()[0].id == info.id, "it is listed")
}

#[tokio::test]
async fn a_token_is_compared_whole() {
    a_look_alike_is_refused(None).await.unwrap();
}

/// Random tokens with right checksums: none is let in.
#[tokio::test]
async fn no_random_token_is_accepted() {
    let count = std::env::var("SYNTHA_TOKENS").ok().map_or(20_000, |text| text.parse().unwrap());
    let bed = Bed::new().await;
    let other = Bed::new().await;
    let (alice, mallory) = (bed.user("alice").await, other.user("mallory").await);
    bed.identity.tokens().create(&alice, &TokenRequest::new(Scopes::ALL)).await.unwrap();
    bed.login(&alice, RIGHT).await.unwrap();
    let mut accepted = 0;
    for n in 0..count {
        // Made by the same code in another deployment, so the form is right and the checksum holds.
        let (token, info) =
            other.identity.tokens().create(&mallory, &TokenRequest::new(Scopes::ALL)).await.unwrap();
        accepted += usize::from(bed.identity.authenticate(&token).await.is_ok());
        if n % 4_096 == 0 {
            assert_eq!(other.identity.authenticate(&token).await.unwrap().user(), &mallory);
        }
        other.identity.tokens().revoke(&mallory, info.id).await.unwrap();
    }
    assert_eq!(accepted, 0, "of {count}");
}

/// Taking rights from an account takes them from its tokens, in use or not.
pub(crate) async fn rights_bound_tokens(fault: Option<Fault>) -> Check {
    let bed = Bed::faulty(fault).await;
    let alice = bed.user("alice").await;
    let second = bed.second().await;
    let (token, _) = bed.identity.tokens().create(&alice, &TokenRequest::new(Scopes::ALL)).await.unwrap();
    let here = bed.identity.authenticate(&token).await.unwrap();
    let there = second.authenticate(&token).await.unwrap();
    bed.identity.accounts().set_rights(&alice, Scopes::READ).await.unwrap();
    ensure(here.scopes() == Scopes::READ && here.check().is_ok(), "a lease here keeps what was taken")?;
    second.refresh(std::slice::from_ref(&there)).await.unwrap();
    ensure(there.scopes() == Scopes::READ && there.check().is_ok(), "a lease there keeps what was taken")?;
    let anew = bed.identity.authenticate(&token).await.unwrap();
    ensure(anew.scopes() == Scopes::READ, "a token has more than its account")?;
    // What is given back is not given to a lease that lost it.
    bed.identity.accounts().set_rights(&alice, Scopes::ALL).await.unwrap();
    second.refresh(std::slice::from_ref(&there)).await.unwrap();
    ensure(there.scopes() == Scopes::READ, "a lease became wider")
}

#[tokio::test]
async fn a_token_is_worth_what_its_account_may() {
    rights_bound_tokens(None).await.unwrap();
}

#[tokio::test]
async fn a_suspension_stops_tokens_until_it_is_lifted() {
    let bed = Bed::new().await;
    let alice = bed.user("alice").await;
    let (token, _) = bed.identity.tokens().create(&alice, &TokenRequest::new(Scopes::READ)).await.unwrap();
    let lease = bed.identity.authenticate(&token).await.unwrap();
    bed.identity.accounts().suspend(&alice).await.unwrap();
    assert_eq!(kind(lease.check()), Some(ErrorKind::Denied));
    assert_eq!(kind(bed.identity.authenticate(&token).await), Some(ErrorKind::Denied));
    bed.identity.accounts().resume(&alice).await.unwrap();
    bed.identity.authenticate(&token).await.unwrap();
    assert_eq!(kind(lease.check()), Some(ErrorKind::Denied), "what ended stays ended");
    // A password change leaves tokens, a revocation of all does not.
    bed.identity.accounts().remove_password(&alice).await.unwrap();
    bed.identity.authenticate(&token).await.unwrap();
    bed.identity.accounts().revoke_all(&alice).await.unwrap();
    assert_eq!(kind(bed.identity.authenticate(&token).await), Some(ErrorKind::Denied));
}

/// A note of the last use, held back while the token is revoked elsewhere, brings nothing back.
pub(crate) async fn a_late_note_revives_nothing(fault: Option<Fault>) -> Check {
    let bed = Bed::faulty(fault).await;
    let alice = bed.user("alice").await;
    let slow = Slow::over(&bed.stores[0]).await;
    let other = Identity::open(vec![slow.clone()], config(&bed.clock, fault)).await.unwrap();
    let (token, info) = bed.identity.tokens().create(&alice, &TokenRequest::new(Scopes::READ)).await.unwrap();
    bed.advance(61);
    slow.hold();
    let authenticate = other.authenticate(&token);
    let revoke = async {
        slow.held().await;
        bed.identity.tokens().revoke(&alice, info.id).await.unwrap();
        slow.go();
    };
    let _ = tokio::join!(authenticate, revoke);
    ensure(bed.identity.authenticate(&token).await.is_err(), "a late note brought a token back")
}

#[tokio::test]
async fn a_note_of_use_brings_back_nothing() {
    a_late_note_revives_nothing(None).await.unwrap();
}

#[tokio::test]
async fn the_last_use_is_noted_once_a_minute() {
    let bed = Bed::new().await;
    let alice = bed.user("alice").await;
    let (token, info) = bed.identity.tokens().create(&alice, &TokenRequest::new(Scopes::READ)).await.unwrap();
    let stored = bed.dump().await;
    for _ in 0..59 {
        bed.identity.authenticate(&token).await.unwrap();
        bed.advance(1);
    }
    assert_eq!(bed.dump().await, stored);
    bed.advance(1);
    bed.identity.authenticate(&token).await.unwrap();
    let used = bed.identity.tokens().list(&alice).await.unwrap()[0].last_used.unwrap();
    assert_eq!(used.0 - info.created.0, 60_000);
}
