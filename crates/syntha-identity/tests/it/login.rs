use syntha_identity::syntha_store::{Keyspace, Verdict};
use syntha_identity::{
    ErrorKind, Factor, Fault, HashingCost, Identity, Reason, Scopes, SecretKind, SessionRequest, TokenRequest,
};

use crate::bed::{Bed, Check, RIGHT, WRONG, config, ensure, home, kind, opened, password, user};

#[tokio::test]
async fn the_right_password_opens_a_session() {
    let bed = Bed::new().await;
    let alice = bed.user("alice").await;
    let request = SessionRequest::default().scopes(Scopes::READ).agent("reader");
    let opened = bed.identity.login(&alice, password(RIGHT), &home(), &request).await.unwrap();
    opened.lease.check().unwrap();
    assert_eq!(opened.lease.user(), &alice);
    assert_eq!((opened.lease.scopes(), opened.lease.agent()), (Scopes::READ, Some("reader")));
    assert_eq!(opened.lease.kind(), SecretKind::Session);
    let again = bed.identity.authenticate(&opened.secret).await.unwrap();
    assert_eq!((again.scopes(), again.agent(), again.user()), (Scopes::READ, Some("reader"), &alice));
}

/// The four of them: who is not there, who types it wrong, who is suspended, who has none.
async fn refused(bed: &Bed) -> [(syntha_identity::syntha_store::UserId, &'static str, Reason); 4] {
    let wrong = bed.user("wrong").await;
    let suspended = bed.user("suspended").await;
    bed.identity.accounts().suspend(&suspended).await.unwrap();
    let none = user("none");
    bed.identity.accounts().create(&none, Scopes::ALL).await.unwrap();
    [
        (user("unknown"), RIGHT, Reason::UnknownUser),
        (wrong, WRONG, Reason::WrongPassword),
        (suspended, RIGHT, Reason::Suspended),
        (none, RIGHT, Reason::NoPassword),
    ]
}

#[tokio::test]
async fn all_refusals_are_one_answer() {
    let bed = Bed::new().await;
    let mut answers = Vec::new();
    for (user, typed, reason) in refused(&bed).await {
        let error = bed.login(&user, typed).await.unwrap_err();
        answers.push((error.kind(), error.to_string(), format!("{error:?}"), error.retry_after()));
        let told = bed.told.lock().last().cloned().unwrap();
        assert_eq!((told.verdict, told.reason, told.user), (Verdict::Denied, Some(reason), Some(user)));
    }
    assert_eq!(answers[0].0, ErrorKind::Denied);
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
}

/// Each refusal hashes once, counts once, and writes records of the same size.
pub(crate) async fn refusals_are_the_same_work(fault: Option<Fault>) -> Check {
    let bed = Bed::faulty(fault).await;
    let mut seen = Vec::new();
    for (user, typed, _) in refused(&bed).await {
        let (hashed, records) = (bed.identity.hashing().hashed, bed.dump().await);
        bed.login(&user, typed).await.unwrap_err();
        let after = bed.dump().await;
        let written: Vec<_> = after
            .iter()
            .filter(|record| !records.contains(record))
            .map(|(space, bytes)| (*space, bytes.len()))
            .collect();
        seen.push((bed.identity.hashing().hashed - hashed, after.len() - records.len(), written));
    }
    // The source has one record for all of them.
    let counts: Vec<_> = seen.iter().map(|(hashed, _, written)| (*hashed, written.clone())).collect();
    ensure(counts[0].0 == 1, "nothing was hashed")?;
    ensure(seen[1..].iter().all(|(_, new, _)| *new == 1), "another number of records is new")?;
    ensure(counts.iter().all(|count| *count == counts[0]), &format!("they differ: {counts:?}"))
}

#[tokio::test]
async fn all_refusals_are_one_work() {
    refusals_are_the_same_work(None).await.unwrap();
}

#[tokio::test]
async fn a_password_is_one_text_in_all_its_forms() {
    let bed = Bed::new().await;
    let alice = bed.user("alice").await;
    let (composed, decomposed) =
        ("caf\u{e9} caf\u{e9} caf\u{e9} caf\u{e9}", "cafe\u{301} cafe\u{301} cafe\u{301} cafe\u{301}");
    bed.identity.accounts().set_password(&alice, password(composed), Factor::Single).await.unwrap();
    bed.login(&alice, decomposed).await.unwrap();
    assert_eq!(kind(bed.login(&alice, RIGHT).await), Some(ErrorKind::Denied));
}

/// The cost that the password of the only account is kept at.
async fn kept(bed: &Bed) -> String {
    let records = bed.dump().await;
    let (_, record) = records.iter().find(|(space, _)| *space == Keyspace::Accounts).unwrap();
    let text = String::from_utf8_lossy(record).into_owned();
    let from = text.find("m=").unwrap();
    let pepper = text.find("\"pepper\":").unwrap() + 9;
    format!("{} {}", &text[from..from + 12], &text[pepper..=pepper])
}

#[tokio::test]
async fn a_login_renews_what_is_below_the_policy() {
    let bed = Bed::new().await;
    let alice = bed.user("alice").await;
    assert_eq!(kept(&bed).await, "m=64,t=1,p=1 0");
    let stronger = HashingCost::new(7_168, 5, 1).unwrap();
    let config = || config(&bed.clock, None).hashing(stronger).pepper(1, &[1; 32]).unwrap();
    let identity = Identity::open(opened(&bed.stores).await, config()).await.unwrap();
    let login = |identity: Identity, typed| {
        let alice = alice.clone();
        async move { identity.login(&alice, password(typed), &home(), &SessionRequest::default()).await }
    };
    // A wrong one renews nothing.
    login(identity.clone(), WRONG).await.unwrap_err();
    assert_eq!(kept(&bed).await, "m=64,t=1,p=1 0");
    let opened_one = login(identity.clone(), RIGHT).await.unwrap();
    opened_one.lease.check().unwrap();
    assert_eq!(kept(&bed).await, "m=7168,t=5,p 1");
    // And another pepper later; the old one is still known.
    let next =
        Identity::open(opened(&bed.stores).await, config().pepper(2, &[2; 32]).unwrap()).await.unwrap();
    login(next.clone(), RIGHT).await.unwrap();
    assert_eq!(kept(&bed).await, "m=7168,t=5,p 2");
    let hashed = next.hashing().hashed;
    login(next.clone(), RIGHT).await.unwrap();
    assert_eq!(next.hashing().hashed, hashed + 1);
    // What is taken without the pepper is worth nothing: neither without one nor with another.
    for guess in [config(), crate::bed::config(&bed.clock, None).pepper(2, &[3; 32]).unwrap()] {
        let thief = Identity::open(opened(&bed.stores).await, guess.hashing(stronger)).await.unwrap();
        assert_eq!(kind(login(thief, RIGHT).await), Some(ErrorKind::Denied));
    }
    login(next, RIGHT).await.unwrap();
}

#[tokio::test]
async fn a_session_that_was_logged_in_for_is_not_opened_after_a_suspension() {
    // Suspended while the password was looked at: many times, at whatever moment it falls.
    for round in 0..40 {
        let bed = Bed::new().await;
        let alice = bed.user("alice").await;
        let (identity, user) = (bed.identity.clone(), alice.clone());
        let login = tokio::spawn(async move { crate::bed::login(&identity, &user, RIGHT).await });
        for _ in 0..round {
            tokio::task::yield_now().await;
        }
        bed.identity.accounts().suspend(&alice).await.unwrap();
        match login.await.unwrap() {
            Ok(opened) => assert_eq!(kind(opened.lease.check()), Some(ErrorKind::Denied)),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Denied),
        }
    }
}

#[tokio::test]
async fn who_holds_a_token_or_session_is_not_locked_out() {
    let bed = Bed::new().await;
    let alice = bed.user("alice").await;
    let opened = bed.login(&alice, RIGHT).await.unwrap();
    let (token, _) = bed.identity.tokens().create(&alice, &TokenRequest::new(Scopes::READ)).await.unwrap();
    for _ in 0..200 {
        bed.login(&alice, WRONG).await.unwrap_err();
    }
    assert_eq!(kind(bed.login(&alice, RIGHT).await), Some(ErrorKind::Throttled));
    opened.lease.check().unwrap();
    bed.identity.authenticate(&opened.secret).await.unwrap().check().unwrap();
    bed.identity.authenticate(&token).await.unwrap().check().unwrap();
    bed.identity.accounts().forgive(&alice).await.unwrap();
    // The source is still the attacker's.
    let elsewhere = syntha_identity::Source::new("elsewhere");
    bed.identity.login(&alice, password(RIGHT), &elsewhere, &SessionRequest::default()).await.unwrap();
}
