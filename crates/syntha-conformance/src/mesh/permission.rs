//! Roles, grants, denials, narrowed handles, provenance, and what a session was given.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use syntha_mesh::{
    Act, Confirmation, CustomRole, Destruction, ErrorKind, Expected, Filter, Grant, Guard, KeyPrefix, Lapsed,
    Mesh, Message, Narrow, Resource, Revoker, Role, SessionGrants, Standing, ThreadId, Topic, WatchConfig,
};
use syntha_store::{Rule, Timestamp};

use super::{assert_unseen, checks, keys, kind};
use crate::harness::Bed;

checks![
    role_readonly_only_reads,
    role_default_deletes_nothing_of_others,
    role_moderator_manages_others,
    role_admin_deletes,
    role_custom_is_its_grants,
    role_survives_a_reopen,
    role_binds_other_handles_at_once,
    denial_beats_role_and_grant,
    grant_ends_with_its_time,
    grant_revoked_binds_what_waits,
    grant_overwrites_what_is_hidden,
    narrowed_handle_does_less,
    provenance_hides_untrusted_entries,
    session_grants_bind_every_handle,
    session_ended_binds_what_waits,
    session_of_one_agent_is_nobody_elses,
    session_holds_while_it_stands,
    destruction_is_limited_by_the_minute,
    destruction_waits_for_the_host,
];

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

fn on_topic(name: &str) -> Grant {
    Grant::topic(name).unwrap()
}

fn on_prefix(prefix: &str) -> Grant {
    Grant::prefix(prefix).unwrap()
}

fn key(name: &str) -> Resource {
    Resource::Key(name.try_into().unwrap())
}

/// Which rule decides, and how.
async fn rule(mesh: &Mesh, agent: &str, act: Act, on: &Resource) -> (bool, Rule) {
    let decision = mesh.explain(agent, act, on).await.unwrap();
    (decision.allowed, decision.rule)
}

async fn role_readonly_only_reads(bed: Bed) {
    let mesh = bed.mesh("a").await;
    mesh.push("k", 1).await.unwrap();
    let ann = mesh.agent("ann").unwrap();
    ann.push("own", 1).await.unwrap();
    mesh.thread("t").unwrap().append(Message::user("hello")).await.unwrap();
    mesh.set_role("ann", Role::Readonly).await.unwrap();
    assert_eq!(ann.get::<u8>("k").await.unwrap(), Some(1));
    assert_eq!(ann.thread("t").unwrap().last(9).await.unwrap().messages.len(), 1);
    assert_eq!(kind(ann.push("new", 1).await), ErrorKind::Denied);
    assert_eq!(kind(ann.batch().push("new", 1).commit().await), ErrorKind::Denied);
    assert_eq!(kind(ann.remove("own", None).await), ErrorKind::Denied);
    assert_eq!(kind(ann.remove("absent", None).await), ErrorKind::Denied);
    assert_eq!(kind(ann.subscribe(["t"]).await), ErrorKind::Denied);
    assert_eq!(kind(ann.unsubscribe(["t"]).await), ErrorKind::Denied);
    assert_eq!(kind(ann.thread("t").unwrap().append(Message::user("x")).await), ErrorKind::Denied);
    assert_eq!(kind(ann.thread("u").unwrap().create().await), ErrorKind::Denied);
    assert_eq!(keys(&ann).await, ["k", "own"]);
    assert_eq!(rule(&mesh, "ann", Act::Write, &key("new")).await, (false, Rule::Role));
    mesh.grant("ann", on_prefix("notes/").write()).await.unwrap();
    ann.push("notes/1", 1).await.unwrap();
    assert_eq!(kind(ann.push("note", 1).await), ErrorKind::Denied);
    assert_eq!(rule(&mesh, "ann", Act::Write, &key("notes/2")).await, (true, Rule::Grant));
    assert!(ann.remove("notes/1", None).await.expect("it is its own, and lies where it may write"));
}

async fn role_default_deletes_nothing_of_others(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let (ann, ben) = (mesh.agent("ann").unwrap(), mesh.agent("ben").unwrap());
    ann.push("of-ann", 1).topic("t").await.unwrap();
    ben.subscribe(["t"]).await.unwrap();
    mesh.push("of-host", 1).await.unwrap();
    for key in ["of-ann", "of-host"] {
        assert_eq!(kind(ben.remove(key, None).await), ErrorKind::Denied);
        let version = mesh.value(key).await.unwrap().unwrap().version();
        assert_eq!(kind(ben.remove(key, Some(Expected::Version(version))).await), ErrorKind::Denied);
        assert_eq!(kind(ben.batch().push("b", 1).remove(key).commit().await), ErrorKind::Denied);
    }
    assert_eq!(kind(ben.delete_topic("t").await), ErrorKind::Denied);
    assert_eq!(kind(ben.delete_topic("absent").await), ErrorKind::Denied);
    assert_eq!(keys(&ben).await, ["of-ann", "of-host"]);
    mesh.grant("ben", on_prefix("of-").delete()).await.unwrap();
    mesh.grant("ben", on_topic("t").delete()).await.unwrap();
    assert!(ben.remove("of-host", None).await.unwrap());
    assert_eq!(ben.delete_topic("t").await.unwrap().entries_deleted, 1);
    ben.push("b", 1).await.unwrap();
    assert!(ben.remove("b", None).await.expect("its author may"));
}

async fn role_moderator_manages_others(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let (mod_, ann) = (mesh.agent("mod").unwrap(), mesh.agent("ann").unwrap());
    mesh.push("k", 1).topic("t").await.unwrap();
    mesh.set_role("ann", Role::Readonly).await.unwrap();
    assert_eq!(kind(mod_.subscribe_agent("ann", ["t"]).await), ErrorKind::Denied);
    mesh.set_role("mod", Role::Moderator).await.unwrap();
    assert_eq!(mod_.subscribe_agent("ann", ["t"]).await.unwrap().changed.len(), 1);
    assert_eq!(ann.get::<u8>("k").await.unwrap(), Some(1));
    assert_eq!(mod_.unsubscribe_agent("ann", ["t"]).await.unwrap().changed.len(), 1);
    assert_unseen(&ann, "k").await;
    assert_eq!(kind(mod_.subscribe_agent("nobody", ["t"]).await), ErrorKind::NotFound);
    assert_eq!(kind(mod_.delete_topic("t").await), ErrorKind::Denied);
    mesh.set_read_permissions("ann", Some(vec![])).await.unwrap();
    assert_eq!(kind(mod_.subscribe_agent("ann", ["t"]).await), ErrorKind::NotFound);
    mesh.set_read_permissions("ann", None).await.unwrap();
    mesh.set_role("mod", Role::Contributor).await.unwrap();
    mesh.grant("mod", on_topic("t").manage()).await.unwrap();
    assert_eq!(mod_.subscribe_agent("ann", ["t"]).await.unwrap().changed.len(), 1);
    assert_eq!(kind(mod_.subscribe_agent("ann", ["u"]).await), ErrorKind::Denied);
}

async fn role_admin_deletes(bed: Bed) {
    let mesh = bed.mesh("a").await;
    mesh.set_role("ann", Role::Admin).await.unwrap();
    let ann = mesh.agent("ann").unwrap();
    mesh.push("k", 1).topic("t").await.unwrap();
    mesh.push("hidden", 1).agents(["ben"]).await.unwrap();
    mesh.push("seen", 1).await.unwrap();
    assert!(ann.remove("seen", None).await.unwrap());
    assert!(!ann.remove("hidden", None).await.unwrap(), "it deletes what it sees");
    assert_eq!(ann.delete_topic("t").await.unwrap().entries_deleted, 1);
    mesh.push("k", 1).topic("t").await.unwrap();
    mesh.set_read_permissions("ann", Some(vec![])).await.unwrap();
    assert_eq!(kind(ann.delete_topic("t").await), ErrorKind::Denied);
    assert_eq!(mesh.size().await.unwrap(), 2);
}

async fn role_custom_is_its_grants(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let ann = mesh.agent("ann").unwrap();
    for (key, topic) in [("notes/1", None), ("other", None), ("on-t", Some("t")), ("on-u", Some("u"))] {
        let push = mesh.push(key, 1);
        if let Some(topic) = topic { push.topic(topic).await } else { push.await }.unwrap();
    }
    let grants = [on_prefix("notes/").read().write(), on_topic("t").read()];
    mesh.set_role("ann", CustomRole::new("scribe", grants).unwrap()).await.unwrap();
    assert_eq!(keys(&ann).await, ["notes/1"]);
    ann.subscribe(["t"]).await.unwrap();
    assert_eq!(keys(&ann).await, ["notes/1", "on-t"]);
    assert_eq!(kind(ann.subscribe(["u"]).await), ErrorKind::Denied);
    // What has no grant is refused by its name, there or not.
    for key in ["other", "on-u", "absent"] {
        assert_eq!(kind(ann.get::<u8>(key).await), ErrorKind::Denied);
        assert_eq!(kind(ann.push(key, 2).await), ErrorKind::Denied);
    }
    ann.push("notes/2", 2).await.unwrap();
    assert_eq!(kind(ann.push("notes/3", 2).topic("t").await), ErrorKind::Denied);
    assert_eq!(kind(ann.thread("x").unwrap().append(Message::user("x")).await), ErrorKind::Denied);
    assert_eq!(kind(ann.threads(None, 9).await), ErrorKind::Denied);
    assert_eq!(kind(ann.push("notes/4", 2).agents(["new"]).await), ErrorKind::Denied);
    assert_eq!(mesh.agents().await.unwrap().len(), 1);
    mesh.set_role("ann", CustomRole::new("nothing", []).unwrap()).await.unwrap();
    assert_eq!(kind(ann.keys(&Filter::new()).await), ErrorKind::Denied);
}

async fn role_survives_a_reopen(mut bed: Bed) {
    let mesh = bed.mesh("a").await;
    let role = CustomRole::new("scribe", [on_prefix("notes/").read()]).unwrap();
    mesh.set_role("ann", role).await.unwrap();
    let until = Timestamp(bed.clock_now() + 60_000);
    mesh.grant("ann", on_topic("t").read().post().until(until)).await.unwrap();
    mesh.deny("ann", Grant::threads().read()).await.unwrap();
    mesh.set_trusted("ann", true).await.unwrap();
    mesh.set_only_trusted("ann", true).await.unwrap();
    mesh.set_role("ben", Role::Readonly).await.unwrap();
    let before = mesh.permissions_of("ann").await.unwrap().unwrap();
    assert_eq!((before.role.name(), before.grants.len(), before.denials.len()), ("scribe", 1, 1));
    assert!(before.trusted && before.only_trusted);
    bed.reopen().await;
    let mesh = bed.mesh("a").await;
    assert_eq!(mesh.permissions_of("ann").await.unwrap().unwrap(), before);
    assert_eq!(kind(mesh.agent("ben").unwrap().push("k", 1).await), ErrorKind::Denied);
    assert!(mesh.permissions_of("nobody").await.unwrap().is_none());
    let mut export = Vec::new();
    mesh.export(&mut export, |_| {}).await.unwrap();
    let other = bed.mesh("b").await;
    other.import(&*export, |_| {}).await.unwrap();
    assert_eq!(other.permissions_of("ann").await.unwrap().unwrap(), before);
}

async fn role_binds_other_handles_at_once(bed: Bed) {
    let (one, other) = (bed.mesh("a").await, bed.mesh("a").await);
    let ann = other.agent("ann").unwrap();
    ann.push("k", 1).await.unwrap();
    one.set_role("ann", Role::Readonly).await.unwrap();
    assert_eq!(kind(ann.push("k", 2).await), ErrorKind::Denied);
    one.deny("ann", on_prefix("k").read()).await.unwrap();
    assert_eq!(kind(ann.get::<u8>("k").await), ErrorKind::Denied);
    assert!(keys(&ann).await.is_empty());
}

async fn denial_beats_role_and_grant(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let ann = mesh.agent("ann").unwrap();
    mesh.set_role("ann", Role::Admin).await.unwrap();
    mesh.grant("ann", on_prefix("").read().write().delete()).await.unwrap();
    mesh.grant("ann", on_topic("t").read().post().manage().delete()).await.unwrap();
    mesh.push("secret/k", 1).await.unwrap();
    mesh.push("k", 1).topic("t").await.unwrap();
    ann.subscribe(["t"]).await.unwrap();
    mesh.deny("ann", on_prefix("secret/").read().write().delete()).await.unwrap();
    mesh.deny("ann", on_topic("t").read().post()).await.unwrap();
    for name in ["secret/k", "secret/absent"] {
        assert_eq!(kind(ann.get::<u8>(name).await), ErrorKind::Denied);
        assert_eq!(kind(ann.push(name, 2).await), ErrorKind::Denied);
        assert_eq!(kind(ann.remove(name, None).await), ErrorKind::Denied);
        assert_eq!(rule(&mesh, "ann", Act::Read, &key(name)).await, (false, Rule::Denial));
    }
    assert_unseen(&ann, "k").await;
    assert!(ann.discover().await.unwrap().is_empty());
    assert_eq!(kind(ann.subscribe(["t"]).await), ErrorKind::NotFound);
    assert_eq!(kind(ann.push("new", 1).topic("t").await), ErrorKind::Denied);
    assert_eq!(kind(ann.delete_topic("t").await), ErrorKind::Denied);
    assert_eq!(kind(ann.subscribe_agent("ann2", ["t"]).await), ErrorKind::Denied);
    mesh.lift("ann", on_topic("t").read().post()).await.unwrap();
    assert_eq!(ann.get::<u8>("k").await.unwrap(), Some(1));
}

async fn grant_ends_with_its_time(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let ann = mesh.agent("ann").unwrap();
    mesh.set_role("ann", Role::Readonly).await.unwrap();
    let until = Timestamp(bed.clock_now() + 1_000);
    mesh.grant("ann", on_prefix("k").write().until(until)).await.unwrap();
    ann.push("k1", 1).await.unwrap();
    bed.clock().advance(Duration::from_millis(999));
    ann.push("k2", 1).await.unwrap();
    bed.clock().advance(Duration::from_millis(1));
    assert_eq!(kind(ann.push("k3", 1).await), ErrorKind::Denied);
    assert_eq!(rule(&mesh, "ann", Act::Write, &key("k3")).await, (false, Rule::Role));
    mesh.grant("ann", on_prefix("k").write()).await.unwrap();
    ann.push("k3", 1).await.unwrap();
}

/// A call that waits behind the one which takes its right away is decided after it, not when it was made.
async fn grant_revoked_binds_what_waits(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let ann = mesh.agent("ann").unwrap();
    mesh.set_role("ann", Role::Readonly).await.unwrap();
    mesh.grant("ann", on_prefix("").write()).await.unwrap();
    ann.push("k", 1).await.unwrap();
    let (revoked, pushed) =
        tokio::join!(mesh.revoke("ann", on_prefix("").write()), async { ann.push("k", 2).await });
    revoked.unwrap();
    assert_eq!(kind(pushed), ErrorKind::Denied);
    assert_eq!(keys(&ann).await, ["k"]);
    // Another handle takes it away: this one's index does not know of it before the commit.
    mesh.grant("ann", on_prefix("").write()).await.unwrap();
    ann.push("k", 3).await.unwrap();
    let other = bed.mesh("a").await;
    other.revoke("ann", on_prefix("").write()).await.unwrap();
    assert_eq!(kind(ann.push("new", 2).await), ErrorKind::Denied);
}

async fn grant_overwrites_what_is_hidden(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let (ann, ben) = (mesh.agent("ann").unwrap(), mesh.agent("ben").unwrap());
    ann.push("notes/k", 1).agents(["ann"]).await.unwrap();
    mesh.set_role("ben", Role::Admin).await.unwrap();
    assert_eq!(kind(ben.push("notes/k", 2).await), ErrorKind::Denied);
    mesh.grant("ben", on_prefix("notes/").read().write()).await.unwrap();
    assert!(ben.get::<u8>("notes/k").await.unwrap().is_none(), "a grant opens nobody's mail");
    assert_eq!(rule(&mesh, "ben", Act::Read, &key("notes/k")).await, (false, Rule::Audience));
    ben.push("notes/k", 2).await.unwrap();
    assert_eq!(ann.get::<u8>("notes/k").await.unwrap(), Some(2));
}

async fn narrowed_handle_does_less(bed: Bed) {
    let mesh = bed.mesh("a").await;
    mesh.set_role("ann", Role::Admin).await.unwrap();
    let ann = mesh.agent("ann").unwrap();
    mesh.push("notes/1", 1).await.unwrap();
    mesh.push("other", 1).await.unwrap();
    mesh.push("on-t", 1).topic("t").await.unwrap();
    ann.subscribe(["t", "u"]).await.unwrap();
    let notes = ann.narrow(Narrow::new().prefixes([KeyPrefix::new("notes/").unwrap()])).unwrap();
    assert_eq!(keys(&notes).await, ["notes/1"]);
    assert_eq!(kind(notes.get::<u8>("other").await), ErrorKind::Denied);
    assert_eq!(kind(notes.push("other", 2).await), ErrorKind::Denied);
    assert_eq!(kind(notes.remove("other", None).await), ErrorKind::Denied);
    assert_eq!(kind(notes.delete_topic("t").await), ErrorKind::Denied);
    assert_eq!(kind(notes.thread("x").unwrap().append(Message::user("x")).await), ErrorKind::Denied);
    assert_eq!(kind(notes.thread("x").unwrap().last(1).await), ErrorKind::Denied);
    notes.clone().push("notes/2", 2).await.unwrap();
    // Narrowed again, to more: it does not get it back.
    let wider = notes.narrow(Narrow::new().prefixes([KeyPrefix::new("").unwrap()])).unwrap();
    assert_eq!(keys(&wider).await, ["notes/1", "notes/2"]);
    assert_eq!(kind(wider.push("other", 2).await), ErrorKind::Denied);
    let reader = notes.narrow(Narrow::new().acts([Act::Read])).unwrap();
    assert_eq!(kind(reader.push("notes/3", 3).await), ErrorKind::Denied);
    assert_eq!(kind(reader.subscribe(["t"]).await), ErrorKind::Denied);
    assert_eq!(reader.name(), "ann");
    let topics = ann.narrow(Narrow::new().topics([topic("u")])).unwrap();
    assert_unseen(&topics, "on-t").await;
    assert_eq!(kind(topics.push("k", 1).topic("t").await), ErrorKind::Denied);
    assert_eq!(kind(topics.delete_topic("t").await), ErrorKind::Denied);
    topics.push("k", 1).topic("u").await.unwrap();
    let thread = ann.narrow(Narrow::new().threads([ThreadId::new("x").unwrap()])).unwrap();
    thread.thread("x").unwrap().append(Message::user("x")).await.unwrap();
    assert_eq!(kind(thread.thread("y").unwrap().append(Message::user("x")).await), ErrorKind::Denied);
    assert_eq!(ann.get::<u8>("other").await.unwrap(), Some(1), "the handle that it came from is as it was");
    let decision = mesh.explain_handle(&reader, Act::Write, &key("notes/3")).await.unwrap();
    assert_eq!((decision.allowed, decision.rule), (false, Rule::Narrowed));
}

async fn provenance_hides_untrusted_entries(mut bed: Bed) {
    let mesh = bed.mesh("a").await;
    let web = mesh.agent("web").unwrap();
    mesh.set_trusted("clerk", true).await.unwrap();
    mesh.set_only_trusted("boss", true).await.unwrap();
    web.push("plan", "injected").await.unwrap();
    web.push("mail", "injected").agents(["boss"]).await.unwrap();
    mesh.agent("clerk").unwrap().push("report", 1).await.unwrap();
    mesh.push("of-host", 1).await.unwrap();
    for _ in 0..2 {
        let mesh = bed.mesh("a").await;
        let boss = mesh.agent("boss").unwrap();
        assert_eq!(keys(&boss).await, ["of-host", "report"]);
        assert_unseen(&boss, "plan").await;
        assert_unseen(&boss, "mail").await;
        assert_eq!(keys(&mesh.agent("web").unwrap()).await, ["of-host", "plan", "report"]);
        assert!(!mesh.value("plan").await.unwrap().unwrap().is_trusted());
        assert_eq!(rule(&mesh, "boss", Act::Read, &key("plan")).await, (false, Rule::Provenance));
        bed.reopen().await;
    }
    let mesh = bed.mesh("a").await;
    let (web, boss) = (mesh.agent("web").unwrap(), mesh.agent("boss").unwrap());
    // Who writes over it takes its trust away, and trust that is given later is of later entries.
    web.push("report", "injected").await.unwrap();
    mesh.set_trusted("web", true).await.unwrap();
    assert_unseen(&boss, "report").await;
    web.push("report", "fine").await.unwrap();
    assert_eq!(boss.get::<String>("report").await.unwrap().unwrap(), "fine");
    boss.push("plan", "own").await.expect("what it can't see for its provenance, it may replace");
}

async fn session_grants_bind_every_handle(bed: Bed) {
    let mesh = bed.mesh("a").await;
    mesh.push("k", 1).await.unwrap();
    let given = |grants| mesh.guarded(Guard::new().0.with_grants(grants));
    let (read, write) = (SessionGrants::READ, SessionGrants::WRITE);
    let reader = given(read);
    // A session in a session, with more: it has no more.
    let inner = reader.guarded(Guard::new().0.with_grants(SessionGrants::ALL));
    for session in [reader.clone(), reader, inner] {
        let ann = session.agent("ann").unwrap();
        assert_eq!(ann.get::<u8>("k").await.unwrap(), Some(1));
        assert_eq!(kind(ann.push("k", 2).await), ErrorKind::Denied);
        assert_eq!(kind(ann.clone().subscribe(["t"]).await), ErrorKind::Denied);
        assert_eq!(kind(ann.thread("t").unwrap().append(Message::user("x")).await), ErrorKind::Denied);
        assert_eq!(kind(session.push("k", 2).await), ErrorKind::Denied);
        assert_eq!(kind(session.remove("k").await), ErrorKind::Denied);
        assert_eq!(kind(session.clear().await), ErrorKind::Denied);
        assert_eq!(kind(session.register_agent("ben").await), ErrorKind::Denied);
        assert_eq!(kind(session.set_role("ann", Role::Admin).await), ErrorKind::Denied);
        assert_eq!(kind(session.export(&mut Vec::new(), |_| {}).await), ErrorKind::Denied);
    }
    let writer = given(write);
    assert_eq!(kind(writer.value("k").await), ErrorKind::Denied);
    assert_eq!(kind(writer.agent("ann").unwrap().get::<u8>("k").await), ErrorKind::Denied);
    assert_eq!(kind(writer.agent("ann").unwrap().push("k", 2).await), ErrorKind::Denied, "it makes no agent");
    mesh.register_agent("ann").await.unwrap();
    writer.agent("ann").unwrap().push("k", 2).await.unwrap();
    assert_eq!(kind(writer.agent("ann").unwrap().push("m", 2).agents(["new"]).await), ErrorKind::Denied);
    assert_eq!(kind(writer.agent("ann").unwrap().remove("k", None).await), ErrorKind::Denied);
    assert_eq!(kind(writer.delete_thread("t").await), ErrorKind::Denied);
    writer.push("k", 3).await.unwrap();
    let both = given(read | write | SessionGrants::CREATE_AGENTS);
    both.agent("cid").unwrap().push("m", 1).agents(["new"]).await.unwrap();
    assert_eq!(kind(both.agent("cid").unwrap().remove("m", None).await), ErrorKind::Denied);
    assert_eq!(kind(both.unregister_agent("cid").await), ErrorKind::Denied);
    given(read | SessionGrants::EXPORT).export(&mut Vec::new(), |_| {}).await.unwrap();
    assert!(given(SessionGrants::DELETE).remove("k").await.unwrap());
}

/// The number under a key, as the host sees it.
async fn value(mesh: &Mesh, key: &str) -> u8 {
    mesh.value(key).await.unwrap().unwrap().value().unwrap()
}

/// Says yes, and ends a session meanwhile.
#[derive(Debug)]
struct Ending(Mutex<Option<Revoker>>);

impl Confirmation for Ending {
    fn confirm(&self, _: &Destruction) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        if let Some(revoker) = self.0.lock().unwrap().take() {
            revoker.revoke();
        }
        Box::pin(std::future::ready(true))
    }
}

/// A call that was on its way when its session ended is refused in the commit.
async fn session_ended_binds_what_waits(bed: Bed) {
    let (guard, revoker) = Guard::new();
    let ending = Arc::new(Ending(Mutex::new(Some(revoker))));
    let mesh = bed.mesh_with("a", |config| config.confirmation = Some(ending)).await;
    mesh.push("k", 1).await.unwrap();
    mesh.set_role("ann", Role::Admin).await.unwrap();
    let ann = mesh.guarded(guard).agent("ann").unwrap();
    assert_eq!(kind(ann.remove("k", None).await), ErrorKind::SessionEnded);
    assert_eq!(value(&mesh, "k").await, 1);
}

async fn session_of_one_agent_is_nobody_elses(bed: Bed) {
    let mesh = bed.mesh("a").await;
    mesh.push("k", 1).await.unwrap();
    let bound = mesh.guarded(Guard::new().0.only("ann".try_into().unwrap()));
    // A session in it is bound as well, and one that is for another agent is for nobody.
    let inner = bound.guarded(Guard::new().0);
    let nobody = bound.guarded(Guard::new().0.only("ben".try_into().unwrap()));
    for session in [&bound, &inner] {
        let ann = session.agent("ann").unwrap();
        ann.push("of ann", 1).await.unwrap();
        assert_eq!(ann.get::<u8>("k").await.unwrap(), Some(1));
        let mut watch = ann.watch(WatchConfig::new()).await.unwrap();
        watch.next().await.unwrap().unwrap();
    }
    for session in [&bound, &inner, &nobody] {
        let ben = session.agent("ben").unwrap();
        assert_eq!(kind(ben.push("of ben", 1).await), ErrorKind::Denied);
        assert_eq!(kind(ben.get::<u8>("k").await), ErrorKind::Denied);
        assert_eq!(kind(ben.watch(WatchConfig::new()).await), ErrorKind::Denied);
        assert_eq!(kind(ben.thread("t").unwrap().append(Message::user("x")).await), ErrorKind::Denied);
        assert_eq!(kind(session.push("k", 2).await), ErrorKind::Denied);
        assert_eq!(kind(session.value("k").await), ErrorKind::Denied);
        assert_eq!(kind(session.watch(WatchConfig::new()).await), ErrorKind::Denied);
        assert_eq!(kind(session.register_agent("cid").await), ErrorKind::Denied);
        assert_eq!(kind(session.set_role("ann", Role::Admin).await), ErrorKind::Denied);
        assert_eq!(kind(session.export(&mut Vec::new(), |_| {}).await), ErrorKind::Denied);
    }
    assert_eq!(kind(nobody.agent("ann").unwrap().get::<u8>("k").await), ErrorKind::Denied);
    assert_eq!(value(&mesh, "k").await, 1);
}

/// What a session hangs on, as it stands.
struct Hook(Mutex<Result<SessionGrants, Lapsed>>);

impl Standing for Hook {
    fn ask(&self) -> Result<SessionGrants, Lapsed> {
        *self.0.lock().unwrap()
    }
}

async fn session_holds_while_it_stands(bed: Bed) {
    let mesh = bed.mesh("a").await;
    mesh.push("k", 1).await.unwrap();
    let hook = Arc::new(Hook(Mutex::new(Ok(SessionGrants::ALL))));
    let session = mesh.guarded(Guard::new().0.while_standing(Arc::clone(&hook) as _));
    let ann = session.guarded(Guard::new().0).agent("ann").unwrap();
    let says = |says| *hook.0.lock().unwrap() = says;
    ann.push("m", 1).await.unwrap();
    says(Ok(SessionGrants::READ));
    assert_eq!(kind(ann.push("m", 2).await), ErrorKind::Denied);
    assert_eq!(ann.get::<u8>("m").await.unwrap(), Some(1));
    says(Err(Lapsed::Unconfirmed));
    assert_eq!(kind(ann.get::<u8>("m").await), ErrorKind::Busy);
    assert_eq!(kind(session.push("m", 2).await), ErrorKind::Busy);
    says(Ok(SessionGrants::ALL));
    ann.push("m", 3).await.unwrap();
    says(Err(Lapsed::Ended));
    assert_eq!(kind(ann.push("m", 4).await), ErrorKind::SessionEnded);
    assert_eq!(kind(ann.get::<u8>("m").await), ErrorKind::SessionEnded);
    assert_eq!(kind(session.value("m").await), ErrorKind::SessionEnded);
    assert_eq!(value(&mesh, "m").await, 3);
}

async fn destruction_is_limited_by_the_minute(bed: Bed) {
    let mesh = bed.mesh_with("a", |config| config.destructions_per_minute = 3).await;
    mesh.set_role("ann", Role::Admin).await.unwrap();
    let ann = mesh.agent("ann").unwrap();
    for n in 0..8 {
        mesh.push(format!("k{n}"), 1).await.unwrap();
    }
    let batch = ann.batch().remove("k0").remove("k1").remove("k2").remove("k3");
    assert_eq!(kind(batch.commit().await), ErrorKind::LimitExceeded);
    assert_eq!(mesh.size().await.unwrap(), 8, "it is whole or not at all");
    for n in 0..3 {
        assert!(ann.remove(format!("k{n}"), None).await.unwrap());
    }
    assert_eq!(kind(ann.remove("k3", None).await), ErrorKind::LimitExceeded);
    ann.push("own", 1).await.unwrap();
    assert!(ann.remove("own", None).await.expect("its own does not count"));
    bed.clock().advance(Duration::from_secs(59));
    assert_eq!(kind(ann.remove("k3", None).await), ErrorKind::LimitExceeded);
    bed.clock().advance(Duration::from_secs(1));
    assert!(ann.remove("k3", None).await.unwrap());
}

/// Says yes to what starts so.
#[derive(Debug)]
struct Only(&'static str);

impl Confirmation for Only {
    fn confirm(&self, what: &Destruction) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        let name = match what {
            Destruction::Topic { topic, .. } => topic,
            Destruction::Entry { key, .. } => key,
            _ => return Box::pin(async { false }),
        };
        let yes = name.starts_with(self.0);
        Box::pin(async move { yes })
    }
}

async fn destruction_waits_for_the_host(bed: Bed) {
    let mesh = bed.mesh_with("a", |config| config.confirmation = Some(Arc::new(Only("yes")))).await;
    mesh.set_role("ann", Role::Admin).await.unwrap();
    let ann = mesh.agent("ann").unwrap();
    for key in ["yes", "no"] {
        mesh.push(key, 1).topic(key).await.unwrap();
        mesh.push(format!("{key}-all"), 1).await.unwrap();
    }
    assert_eq!(kind(ann.delete_topic("no").await), ErrorKind::Denied);
    assert_eq!(kind(ann.remove("no-all", None).await), ErrorKind::Denied);
    assert_eq!(kind(ann.batch().remove("yes-all").remove("no-all").commit().await), ErrorKind::Denied);
    assert_eq!(mesh.size().await.unwrap(), 4);
    assert_eq!(ann.delete_topic("yes").await.unwrap().entries_deleted, 1);
    assert!(ann.remove("yes-all", None).await.unwrap());
    ann.push("no-own", 1).await.unwrap();
    assert!(ann.remove("no-own", None).await.expect("nobody is asked for what is its own"));
    mesh.delete_topic("no").await.expect("the host asks itself nothing");
}
