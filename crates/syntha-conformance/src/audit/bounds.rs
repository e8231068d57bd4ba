//! How much a trail grows by what others ask for.

use syntha_audit::Refusals;
use syntha_store::{
    Action, CreateMode, ErrorKind, Event, Keyspace, Rule, Scan, Timestamp, UserStore, UserTag, Verdict,
};

use super::{Trail, checks, events};
use crate::harness::Bed;
use crate::store::{batch, kind, put};

checks![audit_refused_sessions_are_bounded, audit_full_trail_refuses_its_user_alone];

/// Bytes and number of the links of the deployment's chain.
async fn deployment_links(bed: &Bed) -> (u64, usize) {
    let space = bed.bare().deployment().await.unwrap();
    let page = space.scan(Scan::records(Keyspace::Audit, 10_000).name("")).await.unwrap().value;
    assert!(!page.more);
    (page.records.iter().map(|(_, body)| body.as_ref().unwrap().len() as u64).sum(), page.records.len())
}

async fn audit_refused_sessions_are_bounded(bed: Bed) {
    let (refusals, space) = (bed.refusals(), bed.store().deployment().await.unwrap());
    space.commit(batch().events(events(&[super::event("a", "k")]))).await.unwrap();
    let refused = |user: u64, rule| {
        let event = Event::new(Timestamp(user), Action::OpenSession).on(format!("mallory-{user}").into());
        event.ended(Verdict::Denied, rule)
    };
    for _ in 0..3 {
        let (bytes, links) = deployment_links(&bed).await;
        let (mut counted, mut entries) = (0, 0);
        for part in 0..2 {
            // Of people who are there and who are not: an attacker can't see from the trail's work which is which.
            for user in 0..5_000 {
                let rule = (user % 3 == 0).then_some(Rule::Key);
                assert_eq!(refusals.take(refused(user, rule)), part == 0 && user == 0);
            }
            let told = refusals.drain();
            counted += told.iter().map(|event| event.count).sum::<u64>();
            entries += told.len();
            space.commit(batch().events(events(&told))).await.unwrap();
        }
        assert!(!refusals.end());
        assert_eq!(counted, 10_000, "nobody is left out");
        assert!(entries <= Refusals::NAMED + 4, "{entries} entries");
        let (grown, more) = deployment_links(&bed).await;
        assert_eq!(more - links, 2);
        assert!(grown - bytes < 8 * 1024, "{} bytes", grown - bytes);
    }
}

/// Bytes of a user's links, as they are stored.
async fn bytes(bed: &Bed, user: UserTag) -> u64 {
    let user = bed.bare().open(user).await.unwrap();
    let page = user.scan(Scan::records(Keyspace::Audit, 10_000).name("")).await.unwrap().value;
    assert!(!page.more);
    page.records.iter().map(|(_, body)| body.as_ref().unwrap().len() as u64).sum()
}

/// Fills a trail by turns of these. Says how often it was written.
async fn fill(handles: &[&dyn UserStore]) -> u64 {
    for written in 0..2_000 {
        let Some(handle) = handles.get(written % handles.len()) else { break };
        let told = batch().events(events(&[super::event("agent", "key")]));
        let next = if written % 3 == 0 { told } else { put(told, "key", "value") };
        match handle.commit(next).await {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::AuditUnavailable);
                assert!(error.is_full_trail(), "{error}");
                return written as u64;
            }
        }
    }
    panic!("the trail grows past its limit");
}

async fn audit_full_trail_refuses_its_user_alone(bed: Bed) {
    const LIMIT: u64 = 64 * 1024;
    let (one, other, tag) = (bed.limited(LIMIT), bed.limited(LIMIT), bed.tag("a"));
    let (first, _) = one.create(tag, put(batch(), "who", "a"), CreateMode::New).await.unwrap();
    let second = other.open(tag).await.unwrap();
    // By two processes in turn: each counts what the other wrote.
    assert!(fill(&[&*first, &*second]).await > 20);
    let there = bytes(&bed, tag).await;
    assert!(there <= LIMIT && there > LIMIT - 2 * 1024, "{there} bytes");
    let (trail, next) = (Trail::of(&bed, "a").await, || put(batch(), "key", "2"));
    for store in [&one, &other, &bed.limited(LIMIT)] {
        let user = store.open(tag).await.unwrap();
        // One that is shorter may still fit.
        let told = || batch().events(events(&[super::event("b", "k")]));
        let mut more = 0;
        while user.commit(told()).await.is_ok() || user.commit(next()).await.is_ok() {
            more += 1;
            assert!(more < 16, "the trail grows past its limit");
        }
        assert_eq!(kind(user.commit(told()).await), ErrorKind::AuditUnavailable);
        assert_eq!(kind(user.commit(next()).await), ErrorKind::AuditUnavailable);
        assert!(user.state().await.unwrap().chain.seq <= trail.last().seq + 8);
    }
    assert!(bytes(&bed, tag).await <= LIMIT);
    Trail::of(&bed, "a").await.assert_whole();
    // Nobody else's.
    let (user, _) = one.create(bed.tag("b"), put(batch(), "who", "b"), CreateMode::New).await.unwrap();
    user.commit(next()).await.unwrap();
    one.deployment().await.unwrap().commit(batch().events(events(&[super::event("a", "k")]))).await.unwrap();
    // Nor by whom the limit was raised, or to erase.
    bed.limited(2 * LIMIT).open(tag).await.unwrap().commit(next()).await.unwrap();
    assert!(one.erase(tag).await.unwrap().removed);
    let (again, _) = one.create(tag, put(batch(), "who", "a"), CreateMode::Recreate).await.unwrap();
    again.commit(next()).await.unwrap();
}
