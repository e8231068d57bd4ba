//! What a watch never gives.

use std::fmt::Write as _;
use std::time::Duration;

use syntha_mesh::{Agent, Mesh, Topic, WatchConfig, WatchEvent};

use super::{View, begun, next};
use crate::harness::Bed;
use crate::mesh::checks;

checks![
    watch_gives_nothing_of_others,
    watch_follows_subscriptions_and_permissions,
    watch_follows_audiences,
    watch_decides_when_it_gives,
    watch_lagged_counts_its_own,
    watch_of_the_same_history_crosses_nothing,
    watch_shows_no_data,
];

/// Numbers that are the same in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % sides).unwrap()
    }

    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.roll(of.len() as u64)]
    }
}

const AGENTS: [&str; 3] = ["ann", "ben", "cat"];

const TOPICS: [&str; 3] = ["x", "y", "z"];

/// One random operation of the host, who may do everything.
async fn anything(dice: &mut Dice, bed: &Bed, mesh: &Mesh, n: usize) {
    let key = format!("k{}", dice.roll(6));
    let (agent, topic) = (dice.pick(&AGENTS), dice.pick(&TOPICS));
    match dice.roll(24) {
        0..=2 => drop(mesh.push(key, n).await.unwrap()),
        3..=6 => drop(mesh.push(key, n).topic(topic).await.unwrap()),
        7..=9 => drop(mesh.push(key, n).agents([agent]).await.unwrap()),
        10 => drop(mesh.push(key, n).restricted().await.unwrap()),
        11 => drop(mesh.push(key, n).topics(["x", topic]).agents([agent]).await.unwrap()),
        12 => drop(mesh.push(key, n).ttl(Duration::from_secs(30)).await.unwrap()),
        13..=14 => drop(mesh.remove(key).await.unwrap()),
        15..=16 => {
            let _ = mesh.agent(agent).unwrap().subscribe([topic]).await;
        }
        17..=18 => drop(mesh.agent(agent).unwrap().unsubscribe([topic]).await.unwrap()),
        19 => {
            let topics = [Topic::new(topic).unwrap(), Topic::new("x").unwrap()];
            mesh.set_read_permissions(agent, Some(topics.to_vec())).await.unwrap();
        }
        20 => mesh.set_read_permissions(agent, None).await.unwrap(),
        21 => {
            let _ = mesh.delete_topic(topic).await;
        }
        22 => bed.clock().advance(Duration::from_secs(20)),
        _ if dice.roll(4) == 0 => drop(mesh.clear().await.unwrap()),
        _ => drop(mesh.sweep().await.unwrap()),
    }
}

/// Whatever happens: what is given is what the agent could read at that moment, and in the end it knows all of that.
async fn watch_gives_nothing_of_others(bed: Bed) {
    for (round, alone) in [(0, true), (1, true), (2, false)] {
        let user = format!("user {round}");
        let here = if alone { bed.only_mesh(&user).await } else { bed.mesh(&user).await };
        let there = if alone { here.clone() } else { bed.mesh(&user).await };
        let mut dice = Dice(round);
        for agent in AGENTS {
            here.register_agent(agent).await.unwrap();
        }
        let mut readers = Vec::new();
        for (agent, changes) in AGENTS.iter().zip([1_024, 7, 3]) {
            let agent = here.agent(*agent).unwrap();
            let (watch, view) = begun(&agent, WatchConfig::new().changes(changes)).await;
            readers.push((agent, watch, view));
        }
        for n in 0..200 {
            let mesh = if dice.roll(2) == 0 { &here } else { &there };
            anything(&mut dice, &bed, mesh, n).await;
            for (agent, watch, view) in &mut readers {
                // Some read at once, some much later.
                for _ in 0..dice.roll(3) {
                    let time = if alone { Duration::ZERO } else { Duration::from_millis(5) };
                    let Ok(event) = tokio::time::timeout(time, watch.next()).await else { break };
                    assert_seen(agent, &event.unwrap().unwrap(), view).await;
                }
                if dice.roll(40) == 0 {
                    view.drain(&there, watch).await;
                    view.assert_equals(agent).await;
                }
            }
        }
        for (agent, watch, view) in &mut readers {
            view.drain(&here, watch).await;
            view.assert_equals(agent).await;
        }
    }
}

async fn assert_seen(agent: &Agent, event: &WatchEvent, view: &mut View) {
    if let WatchEvent::Put(entry) = event {
        assert!(agent.entry(entry.key()).await.unwrap().is_some(), "it was given what it may not see");
    }
    view.take(event);
}

async fn watch_follows_subscriptions_and_permissions(bed: Bed) {
    let mesh = bed.only_mesh("a").await;
    let ann = mesh.agent("ann").unwrap();
    mesh.push("old", 1).topic("news").await.unwrap();
    mesh.push("older", 1).topic("other").await.unwrap();
    let (mut watch, mut view) = begun(&ann, WatchConfig::new()).await;
    assert!(view.known.is_empty());
    ann.subscribe(["news"]).await.unwrap();
    mesh.push("new", 2).topic("news").await.unwrap();
    mesh.push("unheard", 2).topic("other").await.unwrap();
    assert_eq!(view.drain(&mesh, &mut watch).await, ["old=1", "new=2"]);
    ann.unsubscribe(["news"]).await.unwrap();
    mesh.push("new", 3).topic("news").await.unwrap();
    let mut told = view.drain(&mesh, &mut watch).await;
    told.sort_unstable();
    assert_eq!(told, ["-new", "-old"]);
    ann.subscribe(["news"]).await.unwrap();
    assert_eq!(view.drain(&mesh, &mut watch).await, ["old=1", "new=3"]);
    mesh.set_read_permissions("ann", Some(vec![])).await.unwrap();
    let mut told = view.drain(&mesh, &mut watch).await;
    told.sort_unstable();
    assert_eq!(told, ["-new", "-old"]);
    mesh.set_read_permissions("ann", None).await.unwrap();
    assert_eq!(view.drain(&mesh, &mut watch).await, ["old=1", "new=3"]);
    mesh.register_agent_topics("ann", ["other"]).await.unwrap();
    view.drain(&mesh, &mut watch).await;
    view.assert_equals(&ann).await;
}

async fn watch_follows_audiences(bed: Bed) {
    let mesh = bed.only_mesh("a").await;
    let ann = mesh.agent("ann").unwrap();
    mesh.register_agent("ann").await.unwrap();
    let (mut watch, mut view) = begun(&ann, WatchConfig::new()).await;
    mesh.push("k", 1).agents(["ann"]).await.unwrap();
    assert_eq!(view.drain(&mesh, &mut watch).await, ["k=1"]);
    mesh.push("k", 2).agents(["ben"]).await.unwrap();
    assert_eq!(view.drain(&mesh, &mut watch).await, ["-k"]);
    mesh.push("k", 3).agents(["ben"]).await.unwrap();
    mesh.remove("k").await.unwrap();
    assert!(view.drain(&mesh, &mut watch).await.is_empty(), "what it could not see went unseen");
    mesh.push("k", 4).await.unwrap();
    assert_eq!(view.drain(&mesh, &mut watch).await, ["k=4"]);
}

async fn watch_decides_when_it_gives(bed: Bed) {
    // Alone, beside another handle, and beside one that writes more than a list of changes tells.
    for (user, alone, much) in [("a", true, false), ("b", false, false), ("c", false, true)] {
        let mesh = if alone { bed.only_mesh(user).await } else { bed.mesh(user).await };
        let other = if alone { mesh.clone() } else { bed.mesh(user).await };
        let ann = mesh.agent("ann").unwrap();
        ann.subscribe(["t"]).await.unwrap();
        let mut watch = ann.watch(WatchConfig::new()).await.unwrap();
        mesh.push("before", "secret").await.unwrap();
        mesh.push("before", "").restricted().await.unwrap();
        let mut view = View::default();
        view.take(&next(&mut watch).await.unwrap());
        mesh.push("restricted", "secret").await.unwrap();
        mesh.push("removed", "secret").await.unwrap();
        mesh.push("again", "secret").await.unwrap();
        mesh.push("topic", "secret").topic("t").await.unwrap();
        mesh.push("expired", "secret").ttl(Duration::from_secs(1)).await.unwrap();
        other.push("restricted", "").agents(["ben"]).await.unwrap();
        other.remove("removed").await.unwrap();
        other.remove("again").await.unwrap();
        other.push("again", "new").await.unwrap();
        if much {
            let batch = (0..100).fold(other.agent("host").unwrap().batch(), |batch, n| {
                batch.push(format!("much {n} {}", "x".repeat(40)), n)
            });
            batch.commit().await.unwrap();
        }
        other.set_read_permissions("ann", Some(vec![])).await.unwrap();
        bed.clock().advance(Duration::from_secs(1));
        view.drain(&other, &mut watch).await;
        assert!(!view.values.iter().any(|(_, value)| value.contains("secret")), "it was decided before");
        view.assert_equals(&ann).await;
    }
}

/// How long a queue is says nothing of what others are told.
async fn watch_lagged_counts_its_own(bed: Bed) {
    let mesh = bed.only_mesh("a").await;
    let (ann, host) = (mesh.agent("ann").unwrap(), mesh.agent("host").unwrap());
    mesh.register_agent("ann").await.unwrap();
    let (mut watch, mut view) = begun(&ann, WatchConfig::new().changes(3)).await;
    for n in 0..50 {
        host.push("k", n).agents(["host"]).await.unwrap();
        host.push("l", n).topic("t").await.unwrap();
        host.remove("l", None).await.unwrap();
        host.subscribe([format!("t{n}")]).await.unwrap();
    }
    ann.push("own", 1).await.unwrap();
    assert_eq!(view.drain(&mesh, &mut watch).await, ["own=1"]);
}

/// The same operations give the same keys and versions, so that only the user tells the values apart.
async fn watch_of_the_same_history_crosses_nothing(bed: Bed) {
    let mut readers = Vec::new();
    for user in ["alice", "bob"] {
        let mesh = bed.mesh_with(user, |config| config.cache_bytes = 0).await;
        let agent = mesh.agent("agent").unwrap();
        agent.subscribe(["t"]).await.unwrap();
        agent.push("old", user).await.unwrap();
        agent.push("news", user).topic("u").await.unwrap();
        let (watch, view) = begun(&agent, WatchConfig::new()).await;
        readers.push((user, mesh, agent, watch, view));
    }
    for n in 0..10 {
        for (user, _, agent, ..) in &readers {
            agent.push(format!("k{}", n % 3), format!("{user}-{n}")).topic("t").await.unwrap();
        }
    }
    readers[0].2.subscribe(["u"]).await.unwrap();
    readers[1].2.remove("old", None).await.unwrap();
    readers[1].2.subscribe(["u"]).await.unwrap();
    for (user, mesh, agent, watch, view) in &mut readers {
        view.drain(mesh, watch).await;
        view.assert_equals(agent).await;
        assert!(view.values.len() > 3);
        assert!(view.values.iter().all(|(_, value)| value == "0" || value[1..].starts_with(*user)));
        assert_eq!(view.known.contains_key("old"), *user == "alice");
    }
}

async fn watch_shows_no_data(bed: Bed) {
    let mesh = bed.mesh("CANARY-user").await;
    let ann = mesh.agent("CANARY-agent").unwrap();
    ann.push("CANARY-key", "CANARY-value").topic("CANARY-topic").agents(["CANARY-agent"]).await.unwrap();
    let config = WatchConfig::new().prefix("CANARY").topic(&Topic::new("CANARY-topic").unwrap());
    let mut text = format!("{config:?}");
    let mut watch = ann.watch(config).await.unwrap();
    let _ = write!(text, "{watch:?}");
    for step in 0..3 {
        let event = next(&mut watch).await.unwrap();
        let _ = write!(text, "{event:?}");
        if step == 0 {
            ann.push("CANARY-key", "CANARY-other")
                .topic("CANARY-topic")
                .agents(["CANARY-agent"])
                .await
                .unwrap();
        } else {
            ann.remove("CANARY-key", None).await.unwrap();
        }
    }
    mesh.retire();
    let error = next(&mut watch).await.unwrap_err();
    let _ = write!(text, "{error:?} {error}");
    assert!(!text.contains("CANARY"), "{text}");
}
