//! A call that is denied stands in the trail, with its rule; and what `explain` says is what the call is answered.

use syntha_mesh::{
    Act, Agent, CustomRole, ErrorKind, Filter, Grant, Guard, KeyPrefix, MeshConfig, Message, Narrow,
    Resource, Role, SessionGrants, ThreadId, Topic,
};
use syntha_store::{Action, Event, Rule, Verdict};

use crate::bed::{Bed, Found};

fn key(name: &str) -> Resource {
    Resource::Key(name.try_into().unwrap())
}

fn topic(name: &str) -> Resource {
    Resource::Topic(Topic::new(name).unwrap())
}

fn thread(name: &str) -> Resource {
    Resource::Thread(ThreadId::new(name).unwrap())
}

/// Handles of one agent each, every one of them refused something for another reason.
async fn handles(bed: &Bed) -> Vec<Agent> {
    let mesh = &bed.mesh;
    let agent = |name: &str| mesh.agent(name).unwrap();
    mesh.push("open", 1).await.unwrap();
    mesh.push("heard", 1).topic("t").await.unwrap();
    mesh.push("hidden", 1).agents(["nobody"]).await.unwrap();
    mesh.push("secret/k", 1).await.unwrap();
    agent("writer").push("untrusted", 1).await.unwrap();
    mesh.thread("open").unwrap().append(Message::user(1)).await.unwrap();
    mesh.thread("hidden").unwrap().create_for(["nobody"]).await.unwrap();
    mesh.set_role("reader", Role::Readonly).await.unwrap();
    mesh.set_role("moderator", Role::Moderator).await.unwrap();
    mesh.set_role("admin", Role::Admin).await.unwrap();
    let grants = [Grant::prefix("o").unwrap().read().write(), Grant::topic("t").unwrap().read().post()];
    mesh.set_role("scribe", CustomRole::new("scribe", grants).unwrap()).await.unwrap();
    mesh.set_post_permissions("mute", Some(vec![])).await.unwrap();
    mesh.set_read_permissions("mute", Some(vec![])).await.unwrap();
    mesh.set_role("denied", Role::Admin).await.unwrap();
    mesh.deny("denied", Grant::prefix("secret/").unwrap().read().write()).await.unwrap();
    mesh.deny("denied", Grant::topic("t").unwrap().read().post()).await.unwrap();
    mesh.set_only_trusted("wary", true).await.unwrap();
    let names = ["plain", "reader", "moderator", "admin", "scribe", "mute", "denied", "wary"];
    let mut handles: Vec<_> = names.map(agent).into();
    for name in names {
        mesh.register_agent(name).await.unwrap();
        handles.push(agent(name).narrow(Narrow::new().prefixes([KeyPrefix::new("o").unwrap()])).unwrap());
        handles.push(agent(name).narrow(Narrow::new().acts([Act::Read])).unwrap());
        let session = mesh.guarded(Guard::new().0.with_grants(SessionGrants::READ));
        handles.push(session.agent(name).unwrap());
        let session = mesh.guarded(Guard::new().0.with_grants(SessionGrants::WRITE));
        handles.push(session.clone().agent(name).unwrap());
    }
    handles
}

type Done = Result<bool, syntha_mesh::Error>;

/// The call that does an act on something. Says whether it was done, or whether there was anything to see.
async fn call(agent: &Agent, act: Act, on: &Resource) -> Done {
    match (act, on) {
        (Act::Read, Resource::Key(key)) => agent.entry(key.as_str()).await.map(|found| found.is_some()),
        (Act::Write, Resource::Key(key)) => agent.push(key, 2).restricted().await.map(|_| true),
        (Act::Delete, Resource::Key(key)) => agent.remove(key, None).await,
        (Act::Write, Resource::Topic(topic)) => agent.push("own", 1).topic(topic).await.map(|_| true),
        (Act::Subscribe, Resource::Topic(topic)) => agent.subscribe([topic]).await.map(|_| true),
        (Act::Manage, Resource::Topic(topic)) => agent.subscribe_agent("nobody", [topic]).await.map(|_| true),
        (Act::Delete, Resource::Topic(topic)) => agent.delete_topic(topic).await.map(|_| true),
        (Act::Read, Resource::Thread(thread)) => {
            agent.thread(thread)?.last(1).await.map(|page| !page.messages.is_empty())
        }
        (Act::Write, Resource::Thread(thread)) => {
            agent.thread(thread)?.append(Message::user(2)).await.map(|_| true)
        }
        _ => agent.keys(&Filter::new()).await.map(|_| true),
    }
}

/// Whether a rule hides what it refuses: the caller is told that there is nothing.
fn hides(act: Act, rule: Rule) -> bool {
    match act {
        Act::Read => matches!(rule, Rule::Audience | Rule::Provenance),
        Act::Delete => rule == Rule::Audience,
        _ => false,
    }
}

/// Does everything with every handle.
async fn check(config: fn() -> MeshConfig) -> Found<usize> {
    let mut refused = 0;
    let asked: Vec<(Act, Resource)> = ["open", "heard", "hidden", "secret/k", "untrusted", "absent"]
        .iter()
        .flat_map(|name| [Act::Read, Act::Write, Act::Delete].map(|act| (act, key(name))))
        .chain([Act::Write, Act::Subscribe, Act::Manage, Act::Delete].map(|act| (act, topic("t"))))
        .chain(
            ["open", "hidden", "absent"]
                .iter()
                .flat_map(|name| [Act::Read, Act::Write].map(|act| (act, thread(name)))),
        )
        .chain([(Act::Read, Resource::Mesh)])
        .collect();
    for place in 0..40 {
        let bed = Bed::new(config()).await;
        let agent = handles(&bed).await.swap_remove(place);
        for (act, on) in &asked {
            let decision = bed.mesh.explain_handle(&agent, *act, on).await.unwrap();
            // What is done would decide what comes after it.
            if decision.allowed && *act != Act::Read {
                continue;
            }
            let before = bed.flushed().await.len();
            let done = call(&agent, *act, on).await;
            let events = bed.flushed().await.split_off(before);
            let case = format!("{act:?} {on:?} by handle {place}: {decision:?} {done:?} {events:?}");
            if decision.allowed {
                if done.is_err() || events.iter().any(|event| event.verdict == Verdict::Denied) {
                    return Err(case);
                }
                continue;
            }
            refused += 1;
            let hidden = hides(*act, decision.rule);
            let answered = match &done {
                Ok(found) => hidden && !found,
                Err(error) => !hidden && matches!(error.kind(), ErrorKind::Denied | ErrorKind::NotFound),
            };
            let silent = decision.rule == Rule::Audience && hidden;
            let told = events.iter().any(|event| {
                let (verdict, rule) =
                    if silent { (Verdict::Nothing, None) } else { (Verdict::Denied, Some(decision.rule)) };
                event.verdict == verdict && event.rule == rule && event.agent.is_some()
            });
            if !answered || !told {
                return Err(case);
            }
        }
    }
    Ok(refused)
}

#[tokio::test]
async fn every_denied_call_is_told_with_its_rule() {
    let refused = check(MeshConfig::default).await.unwrap();
    assert!(refused > 400, "{refused}");
}

#[cfg(feature = "faults")]
#[tokio::test]
async fn a_mesh_that_decides_otherwise_is_found() {
    use syntha_mesh::Fault;
    let faults =
        [Fault::ReadNotRecorded, Fault::NarrowingIgnored, Fault::RoleWidens, Fault::ProvenanceIgnored];
    for (place, fault) in faults.into_iter().enumerate() {
        // `explain` has the fault too: what is found is that fewer are refused, or that one is not told.
        let found = match place {
            0 => check(|| MeshConfig::default().fault(Fault::ReadNotRecorded)).await,
            1 => check(|| MeshConfig::default().fault(Fault::NarrowingIgnored)).await,
            2 => check(|| MeshConfig::default().fault(Fault::RoleWidens)).await,
            _ => check(|| MeshConfig::default().fault(Fault::ProvenanceIgnored)).await,
        };
        let sound = check(MeshConfig::default).await.unwrap();
        assert!(
            found.is_err() || found.as_ref().is_ok_and(|refused| *refused < sound),
            "{fault:?}: {found:?}"
        );
    }
}

/// What an agent is refused by a rule of its own is told too: how much it deleted, and that the host said no.
#[tokio::test]
async fn what_is_deleted_too_often_is_told() {
    let mut config = MeshConfig::default();
    config.destructions_per_minute = 1;
    let bed = Bed::new(config).await;
    bed.mesh.set_role("admin", Role::Admin).await.unwrap();
    let admin = bed.mesh.agent("admin").unwrap();
    for name in ["a", "b"] {
        bed.mesh.push(name, 1).await.unwrap();
    }
    assert!(admin.remove("a", None).await.unwrap());
    assert_eq!(admin.remove("b", None).await.unwrap_err().kind(), ErrorKind::LimitExceeded);
    let told = |event: &Event| {
        event.action == Action::Remove && event.verdict == Verdict::Denied && event.rule == Some(Rule::Rate)
    };
    assert_eq!(bed.flushed().await.iter().filter(|event| told(event)).count(), 1);
}
