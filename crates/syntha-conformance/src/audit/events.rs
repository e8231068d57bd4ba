//! What was done, as a trail says it in full.

use bytes::Bytes;
use data_encoding::HEXLOWER;
use syntha_audit::link::Kind;
use syntha_store::{
    CreateMode, ErrorKind, Event, Expect, ImportMode, Keyspace, Rule, Scan, Subject, UserTag, Verdict,
    decode_events,
};

use super::{Trail, checks, event, events, filled};
use crate::harness::Bed;
use crate::store::{SPACE, batch, id, kind, put};

checks![
    audit_events_land_in_their_link,
    audit_events_alone_raise_no_epoch,
    audit_tells_no_name,
    audit_details_open_as_long_as_the_user_is,
];

/// Details as a layer that seals opens them, or as they are, with the names that `of` has in the place of their keyed hashes.
async fn opened(bed: &Bed, tag: UserTag, trail: &Trail, details: &Bytes, of: &[Event]) -> Vec<Event> {
    if let Some(opened) = bed.open_details(tag, details).await {
        return opened.unwrap();
    }
    let mut found = decode_events(details).unwrap();
    for (event, named) in found.iter_mut().zip(of) {
        for (shown, name) in
            [(&mut event.agent, named.agent.as_ref()), (&mut event.target, named.target.as_ref())]
        {
            let tag = name.map(|name| HEXLOWER.encode(&trail.short(b's', &[name.text().as_bytes()])));
            assert_eq!(shown.take(), tag.map(|tag| Subject::Tag(tag.into())), "a keyed hash stands for it");
            *shown = name.cloned();
        }
    }
    found
}

async fn audit_events_land_in_their_link(bed: Bed) {
    let tag = bed.tag("a");
    let one = [event("maker", "who")];
    let first = put(batch(), "who", "a").events(events(&one));
    let (user, _) = bed.store().create(tag, first, CreateMode::New).await.unwrap();
    let three = [
        event("agent", "k"),
        event("agent", "k").ended(Verdict::Denied, Some(Rule::Audience)),
        event("other", "k").count(7).session(Some(3)),
    ];
    user.commit(put(batch(), "k", "1").events(events(&three))).await.unwrap();
    user.commit(put(batch(), "k", "2")).await.unwrap();
    user.commit(batch().events(events(&one))).await.unwrap();
    let many: Vec<_> = (0..200).map(|n| event(&format!("agent-{n}"), "k")).collect();
    user.commit(batch().events(events(&many))).await.unwrap();
    let trail = Trail::of(&bed, "a").await;
    trail.assert_whole();
    for (at, of) in [&one[..], &three, &[], &one, &many].into_iter().enumerate() {
        assert_eq!(trail.links[at].events as usize, of.len());
        match &trail.stored[at].details {
            None => assert!(of.is_empty()),
            Some((_, details)) => assert_eq!(opened(&bed, tag, &trail, details, of).await, of),
        }
    }
    // Neither under the same salt, nor of the same bytes.
    let details: Vec<_> = trail.stored.iter().filter_map(|stored| stored.details.clone()).collect();
    assert_ne!(details[0].0, details[2].0);
    // What is of one user opens as no other's.
    if bed.open_details(tag, &details[0].1).await.is_some() {
        assert_ne!(details[0].1, details[2].1);
        bed.user("b").await;
        let foreign = bed.open_details(bed.tag("b"), &details[0].1).await.unwrap();
        assert_eq!(kind(foreign), ErrorKind::Tampered);
    }
}

async fn audit_events_alone_raise_no_epoch(bed: Bed) {
    let user = filled(&bed, "a").await;
    let (before, raw) = (user.state().await.unwrap(), Trail::of(&bed, "a").await);
    let alone = || batch().events(events(&[event("agent", "k")]));
    for n in 1..4 {
        let commit = user.commit(alone()).await.unwrap();
        assert_eq!((commit.stamp, commit.chain.seq), (before.stamp, before.chain.seq + n));
    }
    let trail = Trail::of(&bed, "a").await;
    let last = trail.last();
    assert_eq!((last.kind, last.events, last.usage, last.note), (Kind::Note, 1, None, None));
    assert!(last.changes.is_empty());
    assert_eq!((trail.state.note, trail.state.stamp), (raw.state.note, raw.state.stamp));
    trail.assert_whole();
    // Who knew the state before knows it still.
    user.commit(put(batch(), "k", "3").expect(Expect::Stamp(before.stamp))).await.unwrap();
    let stale = Expect::Stamp(before.stamp);
    assert_eq!(kind(user.commit(alone().expect(stale)).await), ErrorKind::Conflict);
    let absent = Expect::Version { space: SPACE, id: id("k"), version: None };
    assert_eq!(kind(user.commit(alone().expect(absent)).await), ErrorKind::Conflict);
    assert_eq!(kind(user.commit(batch().events(events(&[]))).await), ErrorKind::Invalid);
    // The deployment's own space takes them too.
    let deployment = bed.store().deployment().await.unwrap();
    let before = deployment.state().await.unwrap();
    let commit = deployment.commit(alone()).await.unwrap();
    assert_eq!(commit.stamp, before.stamp);
    assert!(commit.chain.seq > before.chain.seq);
}

async fn audit_tells_no_name(bed: Bed) {
    const CANARY: &str = "CANARY-of-the-trail";
    let user = bed.user("a").await;
    let named = |what: &str| format!("{CANARY}-{what}");
    let next = put(batch(), &named("name"), &named("value")).put(
        Keyspace::Agents,
        id(&named("agent")),
        named("head"),
        named("body"),
    );
    user.commit(next.events(events(&[event(&named("agent"), &named("name"))]))).await.unwrap();
    user.commit(batch().events(events(&[event(&named("agent"), &named("name"))]))).await.unwrap();
    let bare = bed.bare().open(bed.tag("a")).await.unwrap();
    let page = bare.scan(Scan::records(Keyspace::Audit, 1_000)).await.unwrap().value;
    assert!(page.records.len() > 3);
    for (head, body) in page.records {
        for part in [head.id.name(), &head.head, &body.unwrap()] {
            let found = part.windows(CANARY.len()).any(|window| window == CANARY.as_bytes());
            assert!(!found, "a record of the trail shows a name or value");
        }
    }
}

async fn audit_details_open_as_long_as_the_user_is(bed: Bed) {
    let (tag, of) = (bed.tag("a"), [event("agent", "k")]);
    let user = bed.user("a").await;
    user.commit(put(batch(), "k", "1").events(events(&of))).await.unwrap();
    user.commit(batch().events(events(&of))).await.unwrap();
    let mut snapshot = user.snapshot().await.unwrap();
    bed.store().import(tag, &mut *snapshot, ImportMode::Replace).await.unwrap();
    let trail = Trail::of(&bed, "a").await;
    trail.assert_whole();
    let mut details = Vec::new();
    for at in [1, 2] {
        let of_link = trail.stored[at].details.clone().unwrap().1;
        assert_eq!(opened(&bed, tag, &trail, &of_link, &of).await, of);
        details.push(of_link);
    }
    bed.store().erase(tag).await.unwrap();
    assert_eq!(kind(bed.bare().open(tag).await), ErrorKind::Erased);
    for of_link in &details {
        let opens = bed.open_details(tag, of_link).await;
        assert!(opens.is_none_or(|opens| kind(opens) == ErrorKind::KeyRefused));
    }
    bed.store().create(tag, put(batch(), "who", "a"), CreateMode::Recreate).await.unwrap();
    for of_link in &details {
        let opens = bed.open_details(tag, of_link).await;
        assert!(opens.is_none_or(|opens| kind(opens) == ErrorKind::Tampered));
    }
    assert_ne!(Trail::of(&bed, "a").await.key, trail.key, "what stood for a name stands for nothing now");
}
