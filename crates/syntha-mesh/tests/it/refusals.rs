//! What is refused, and what does nothing, is told too.

use syntha_mesh::{AuditPolicy, ErrorKind, Expected, Guard, MeshConfig, Message, Topic};
use syntha_store::{Action, Rule, Verdict};

use crate::bed::Bed;

#[tokio::test]
async fn each_refusal_has_its_event_and_its_rule() {
    let mut config = MeshConfig::default();
    config.value_bytes = 64;
    let bed = Bed::new(config).await;
    let (mesh, ann) = (&bed.mesh, bed.mesh.agent("ann").unwrap());
    mesh.set_post_permissions("ann", Some(vec![])).await.unwrap();
    mesh.set_read_permissions("ann", Some(vec![Topic::new("t").unwrap()])).await.unwrap();
    mesh.push("hidden", 1).restricted().await.unwrap();
    mesh.thread("closed").unwrap().create_for(["ben"]).await.unwrap();
    let before = bed.flushed().await.len();
    let stamp = bed.stamp().await;
    let kind = |error: syntha_mesh::Error| error.kind();
    assert_eq!(kind(ann.push("k", 1).topic("t").await.unwrap_err()), ErrorKind::Denied);
    assert_eq!(kind(ann.push("hidden", 1).await.unwrap_err()), ErrorKind::Denied);
    assert_eq!(kind(ann.push("long", "x".repeat(65)).await.unwrap_err()), ErrorKind::LimitExceeded);
    let closed = ann.thread("closed").unwrap();
    assert_eq!(kind(closed.append(Message::user("x")).await.unwrap_err()), ErrorKind::Denied);
    assert_eq!(kind(ann.subscribe(["u"]).await.unwrap_err()), ErrorKind::NotFound);
    let absent = ann.remove("k", Some(Expected::Version(syntha_store::Version(7)))).await;
    assert_eq!(kind(absent.unwrap_err()), ErrorKind::Conflict);
    assert_eq!(kind(mesh.delete_topic("none").await.unwrap_err()), ErrorKind::NotFound);
    assert!(!ann.remove("absent", None).await.unwrap());
    assert!(!mesh.redact_message("closed", 9).await.unwrap());
    let batch = ann.batch().push("fine", 1).push_with("k", 1, |push| push.topic("t"));
    assert_eq!(kind(batch.commit().await.unwrap_err()), ErrorKind::Denied);
    let events = bed.flushed().await.split_off(before);
    let told: Vec<_> = events.iter().map(|event| (event.action, event.verdict, event.rule)).collect();
    let expected = [
        (Action::Push, Verdict::Denied, Some(Rule::Post)),
        (Action::Push, Verdict::Denied, Some(Rule::Audience)),
        (Action::Push, Verdict::Denied, Some(Rule::Limit)),
        (Action::Append, Verdict::Denied, Some(Rule::Audience)),
        (Action::Subscribe, Verdict::Denied, Some(Rule::Subscribe)),
        (Action::Remove, Verdict::Failed, Some(Rule::Version)),
        (Action::DeleteTopic, Verdict::Nothing, None),
        (Action::Remove, Verdict::Nothing, None),
        (Action::Redact, Verdict::Nothing, None),
        (Action::Push, Verdict::Denied, Some(Rule::Post)),
        (Action::Push, Verdict::Denied, Some(Rule::Post)),
    ];
    assert_eq!(told, expected);
    let host = [Action::DeleteTopic, Action::Redact];
    assert!(events.iter().all(|event| event.agent.is_none() == host.contains(&event.action)));
    assert!(events.iter().all(|event| event.target.is_some()));
    assert_eq!(bed.stamp().await, stamp, "a refusal moved the data");
}

#[tokio::test]
async fn limits_are_told_and_who_may_not_set_them() {
    use syntha_mesh::{ResourceLimits, UserLimits};
    let bed = Bed::new(MeshConfig::default()).await;
    let limits = UserLimits::new().own(ResourceLimits::new().max_contexts(1));
    assert!(bed.mesh.set_limits(limits.clone()).await.unwrap());
    assert!(!bed.mesh.set_limits(limits).await.unwrap());
    let (guard, _) = Guard::new();
    let session = bed.mesh.guarded(guard.clone());
    let denied = session.set_limits(UserLimits::new()).await.unwrap_err();
    assert_eq!(denied.kind(), ErrorKind::Denied);
    let ann = session.agent("ann").unwrap();
    ann.push("k", 1).await.unwrap();
    assert_eq!(ann.push("l", 1).await.unwrap_err().kind(), ErrorKind::LimitExceeded);
    let events = bed.flushed().await;
    let told: Vec<_> = events.iter().map(|event| (event.action, event.verdict, event.rule)).collect();
    let expected = [
        (Action::SetLimits, Verdict::Done, None),
        (Action::SetLimits, Verdict::Nothing, None),
        (Action::SetLimits, Verdict::Denied, Some(Rule::Host)),
        (Action::Push, Verdict::Done, None),
        (Action::Push, Verdict::Denied, Some(Rule::Limit)),
    ];
    assert_eq!(told, expected);
    assert_eq!(events[2].session, guard.session());
}

#[tokio::test]
async fn an_undo_that_does_nothing_is_told() {
    let bed = Bed::new(MeshConfig::default()).await;
    let (mesh, ann) = (&bed.mesh, bed.mesh.agent("ann").unwrap());
    ann.push("k", 1).await.unwrap();
    ann.remove("k", None).await.unwrap();
    let act = mesh.undo_list(None, 9).await.unwrap().acts.remove(0);
    mesh.push("k", 2).await.unwrap();
    let before = bed.flushed().await.len();
    assert_eq!(mesh.undo(act.id).await.unwrap_err().kind(), ErrorKind::Conflict);
    let reader = mesh.guarded(Guard::new().0.with_grants(syntha_mesh::SessionGrants::READ));
    assert_eq!(reader.undo(act.id).await.unwrap_err().kind(), ErrorKind::Denied);
    assert_eq!(reader.undo_purge_all().await.unwrap_err().kind(), ErrorKind::Denied);
    assert!(mesh.undo_purge(act.id).await.unwrap());
    assert!(!mesh.undo_purge(act.id).await.unwrap());
    assert_eq!(mesh.undo(act.id).await.unwrap_err().kind(), ErrorKind::NotFound);
    let events = bed.flushed().await.split_off(before);
    let told: Vec<_> = events.iter().map(|event| (event.action, event.verdict, event.rule)).collect();
    let grants = Some(Rule::SessionGrants);
    let expected = [
        (Action::Undo, Verdict::Failed, Some(Rule::Version)),
        (Action::Undo, Verdict::Denied, grants),
        (Action::PurgeUndo, Verdict::Denied, grants),
        (Action::PurgeUndo, Verdict::Done, None),
        (Action::PurgeUndo, Verdict::Nothing, None),
        (Action::Undo, Verdict::Nothing, None),
    ];
    assert_eq!(told, expected);
}

#[tokio::test]
async fn handles_that_have_ended_are_told() {
    let bed = Bed::new(MeshConfig::default()).await;
    let (guard, revoker) = Guard::new();
    let number = guard.session();
    let session = bed.mesh.guarded(guard);
    let (ann, ben) = (session.agent("ann").unwrap(), bed.mesh.agent("ben").unwrap());
    ben.push("k", 1).await.unwrap();
    bed.mesh.unregister_agent("ben").await.unwrap();
    revoker.revoke();
    let before = bed.flushed().await.len();
    assert_eq!(ann.push("k", 1).await.unwrap_err().kind(), ErrorKind::SessionEnded);
    assert_eq!(ann.get::<u8>("k").await.unwrap_err().kind(), ErrorKind::SessionEnded);
    assert_eq!(ann.topics().await.unwrap_err().kind(), ErrorKind::SessionEnded);
    assert_eq!(session.sweep().await.unwrap_err().kind(), ErrorKind::SessionEnded);
    assert_eq!(ben.push("k", 1).await.unwrap_err().kind(), ErrorKind::Gone);
    assert_eq!(ben.get::<u8>("k").await.unwrap_err().kind(), ErrorKind::Gone);
    let events = bed.flushed().await.split_off(before);
    let told: Vec<_> = events.iter().map(|event| (event.action, event.rule, event.session)).collect();
    let (ended, agent) = (Some(Rule::Session), Some(Rule::Agent));
    let expected = [
        (Action::Push, ended, number),
        (Action::Read, ended, number),
        (Action::List, ended, number),
        (Action::Sweep, ended, number),
        (Action::Push, agent, None),
        (Action::Read, agent, None),
    ];
    assert_eq!(told, expected);
    assert!(events.iter().all(|event| event.verdict == Verdict::Denied));
}

#[tokio::test]
async fn repeated_refusals_are_one_event_with_a_count() {
    let bed = Bed::new(MeshConfig::default()).await;
    bed.mesh.set_post_permissions("ann", Some(vec![])).await.unwrap();
    let (before, ann) = (bed.events().await.len(), bed.mesh.agent("ann").unwrap());
    for _ in 0..100 {
        ann.push("k", 1).topic("t").await.unwrap_err();
    }
    ann.push("other", 1).topic("t").await.unwrap_err();
    let events = bed.flushed().await.split_off(before);
    let told: Vec<_> = events.iter().map(|event| (event.rule, event.count)).collect();
    assert_eq!(told, [(Some(Rule::Post), 100), (Some(Rule::Post), 1)]);
}

#[tokio::test]
async fn what_the_store_fails_at_is_told_once_it_works_again() {
    let bed = Bed::new(MeshConfig::default()).await;
    bed.store.fail(true);
    assert_eq!(bed.mesh.push("k", 1).await.unwrap_err().kind(), ErrorKind::AuditUnavailable);
    assert!(bed.events().await.is_empty());
    bed.store.fail(false);
    let events = bed.flushed().await;
    assert_eq!(events.len(), 1);
    assert_eq!((events[0].action, events[0].verdict), (Action::Push, Verdict::Failed));
}

#[tokio::test]
async fn the_policy_says_what_is_told() {
    for (policy, expected) in [
        (AuditPolicy::Off, &[][..]),
        (AuditPolicy::Writes, &[(Action::Push, Verdict::Done), (Action::Push, Verdict::Denied)]),
        (
            AuditPolicy::Buffered,
            &[
                (Action::Push, Verdict::Done),
                (Action::Read, Verdict::Done),
                (Action::Read, Verdict::Nothing),
                (Action::Push, Verdict::Denied),
                (Action::List, Verdict::Denied),
            ],
        ),
    ] {
        let mut config = MeshConfig::default();
        config.audit = policy;
        let bed = Bed::new(config).await;
        let ann = bed.mesh.agent("ann").unwrap();
        bed.mesh.push("k", 1).restricted().await.unwrap();
        bed.mesh.value("k").await.unwrap().unwrap();
        assert!(ann.get::<u8>("k").await.unwrap().is_none());
        ann.push("k", 1).await.unwrap_err();
        let (guard, revoker) = Guard::new();
        let session = bed.mesh.guarded(guard);
        revoker.revoke();
        session.agents().await.unwrap_err();
        let told: Vec<_> = bed.flushed().await.iter().map(|event| (event.action, event.verdict)).collect();
        assert_eq!(told, expected, "{policy:?}");
        // The chain has a link for each commit all the same.
        assert!(bed.links().await.len() >= 2);
    }
}
