//! Watches: what an agent is given, in which order, and when it ends.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use syntha_mesh::{
    Agent, Error, ErrorKind, Filter, Guard, Mesh, SystemClock, Topic, Watch, WatchConfig, WatchEvent,
};
use syntha_store::ImportMode;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{checks, erase, kind};
use crate::harness::Bed;

checks![
    watch_gives_a_snapshot_then_every_change,
    watch_gives_a_batch_whole,
    watch_gives_nothing_of_others,
    watch_follows_subscriptions_and_permissions,
    watch_follows_audiences,
    watch_says_what_was_removed,
    watch_says_what_expired,
    watch_decides_when_it_gives,
    watch_lagged_resumes,
    watch_lagged_counts_its_own,
    watch_reads_values_that_left_memory,
    watch_hears_other_handles,
    watch_waits_without_losing,
    watch_keeps_to_what_it_wants,
    watch_of_the_host_sees_everything,
    watch_of_the_same_history_crosses_nothing,
    watch_ends_with_its_session,
    watch_ends_with_its_agent,
    watch_ends_with_its_user,
    watch_dropped_is_forgotten,
    watch_shows_no_data,
];

const PATIENCE: Duration = Duration::from_secs(10);

/// What a reader knows, from nothing but what it was given.
#[derive(Default)]
struct View {
    known: BTreeMap<String, String>,
    /// Every value that was given, with its version.
    values: Vec<(u64, String)>,
    lagged: u64,
}

impl View {
    /// The event as text, and what it changes.
    fn take(&mut self, event: &WatchEvent) -> String {
        let entries = match event {
            WatchEvent::Snapshot(entries) => entries.as_slice(),
            WatchEvent::Put(entry) => std::slice::from_ref(entry),
            WatchEvent::Removed(key) => {
                assert!(self.known.remove(&**key).is_some(), "it was told of a key that it was never given");
                return format!("-{key}");
            }
            WatchEvent::Lagged { missed } => {
                assert!(*missed > 0);
                self.lagged += missed;
                return "lagged".to_owned();
            }
            _ => panic!("an event of a new kind"),
        };
        let mut text = Vec::new();
        for entry in entries {
            self.known.insert(entry.key().to_owned(), entry.json().to_owned());
            self.values.push((entry.version().0, entry.json().to_owned()));
            text.push(format!("{}={}", entry.key(), entry.json()));
        }
        text.join(" ")
    }

    /// Takes everything up to a change that is made for it now.
    async fn drain(&mut self, mesh: &Mesh, watch: &mut Watch) -> Vec<String> {
        let version = mesh.push("~end", 0).await.unwrap().version;
        let mut texts = Vec::new();
        loop {
            let event = next(watch).await.unwrap();
            let ends = matches!(&event, WatchEvent::Put(entry) if entry.version() == version);
            let text = self.take(&event);
            if ends {
                return texts;
            }
            if !text.contains("~end") {
                texts.push(text);
            }
        }
    }

    /// What the reader knows is what the agent would read.
    async fn assert_equals(&self, agent: &Agent) {
        let all = agent.all(&Filter::new()).await.unwrap();
        let all: BTreeMap<_, _> =
            all.iter().map(|entry| (entry.key().to_owned(), entry.json().to_owned())).collect();
        assert_eq!(self.known, all);
    }

    fn assert_in_order(&self) {
        assert!(self.values.is_sorted_by_key(|(version, _)| *version), "not in the order of the commits");
    }
}

async fn next(watch: &mut Watch) -> Result<WatchEvent, Error> {
    let next = tokio::time::timeout(PATIENCE, watch.next()).await;
    next.expect("nothing came").expect("the watch ended")
}

/// A watch whose snapshot was read.
async fn begun(agent: &Agent, config: WatchConfig) -> (Watch, View) {
    let (mut watch, mut view) = (agent.watch(config).await.unwrap(), View::default());
    view.take(&next(&mut watch).await.unwrap());
    (watch, view)
}

/// Reads on in a task, which waits when this returns.
async fn waiting(mut watch: Watch) -> JoinHandle<(Watch, Option<Result<WatchEvent, Error>>)> {
    let (sender, waits) = oneshot::channel();
    let mut sender = Some(sender);
    let task = tokio::spawn(async move {
        let event = {
            let mut next = pin!(watch.next());
            let poll = poll_fn(|cx| {
                let poll = next.as_mut().poll(cx);
                if poll.is_pending()
                    && let Some(sender) = sender.take()
                {
                    let _ = sender.send(());
                }
                poll
            });
            poll.await
        };
        (watch, event)
    });
    tokio::time::timeout(PATIENCE, waits).await.unwrap().expect("it did not wait");
    task
}

/// A watch that waits ends with an error of this kind, once.
async fn assert_ends(task: JoinHandle<(Watch, Option<Result<WatchEvent, Error>>)>, why: ErrorKind) {
    let (mut watch, event) = tokio::time::timeout(PATIENCE, task).await.expect("it sleeps on").unwrap();
    assert_eq!(kind(event.expect("it ended without an error")), why);
    assert!(watch.next().await.is_none() && watch.next().await.is_none());
}

async fn watch_gives_a_snapshot_then_every_change(bed: Bed) {
    let mesh = bed.only_mesh("a").await;
    let (ann, ben) = (mesh.agent("ann").unwrap(), mesh.agent("ben").unwrap());
    for key in ["b", "a", "c"] {
        ann.push(key, key).await.unwrap();
    }
    ann.push("hidden", 1).agents(["ben"]).await.unwrap();
    let mut watch = ann.watch(WatchConfig::new()).await.unwrap();
    let mut view = View::default();
    let first = next(&mut watch).await.unwrap();
    assert!(matches!(first, WatchEvent::Snapshot(_)));
    assert_eq!(view.take(&first), r#"a="a" b="b" c="c""#);
    let mut told = Vec::new();
    for n in 0..60 {
        let key = ["a", "b", "new"][n % 3];
        ben.push(key, n).await.unwrap();
        told.push(format!("{key}={n}"));
        ben.push("hidden", n).agents(["ben"]).await.unwrap();
    }
    assert_eq!(view.drain(&mesh, &mut watch).await, told);
    view.assert_equals(&ann).await;
    view.values.drain(..3);
    view.assert_in_order();
    let mut later = mesh.agent("cat").unwrap().watch(WatchConfig::new()).await.unwrap();
    let mut view = View::default();
    view.take(&next(&mut later).await.unwrap());
    view.assert_equals(&mesh.agent("cat").unwrap()).await;
}

async fn watch_gives_a_batch_whole(bed: Bed) {
    let mesh = bed.only_mesh("a").await;
    let ann = mesh.agent("ann").unwrap();
    let (mut watch, mut view) = begun(&ann, WatchConfig::new()).await;
    let mut batch = ann.batch();
    for n in 0..20 {
        batch = batch.push(format!("k{n:02}"), n);
    }
    batch.commit().await.unwrap();
    let mut told = view.drain(&mesh, &mut watch).await;
    told.sort_unstable();
    assert_eq!(told, (0..20).map(|n| format!("k{n:02}={n}")).collect::<Vec<_>>());
    view.assert_in_order();
}

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
        for n in 0..250 {
            let mesh = if dice.roll(2) == 0 { &here } else { &there };
            anything(&mut dice, &bed, mesh, n).await;
            for (agent, watch, view) in &mut readers {
                // Some read at once, some much later.
                for _ in 0..dice.roll(3) {
                    let Ok(event) = tokio::time::timeout(Duration::ZERO, watch.next()).await else { break };
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

async fn watch_says_what_was_removed(bed: Bed) {
    let mesh = bed.only_mesh("a").await;
    let ann = mesh.agent("ann").unwrap();
    ann.subscribe(["t"]).await.unwrap();
    for key in ["a", "b", "c"] {
        ann.push(key, 1).await.unwrap();
    }
    mesh.push("t", 1).topic("t").await.unwrap();
    mesh.push("both", 1).topic("t").agents(["ann"]).await.unwrap();
    let (mut watch, mut view) = begun(&ann, WatchConfig::new()).await;
    mesh.remove("a").await.unwrap();
    ann.batch().remove("b").push("c", 2).commit().await.unwrap();
    let mut told = view.drain(&mesh, &mut watch).await;
    told.sort_unstable();
    assert_eq!(told, ["-a", "-b", "c=2"]);
    mesh.delete_topic("t").await.unwrap();
    let mut told = view.drain(&mesh, &mut watch).await;
    told.sort_unstable();
    assert_eq!(told, ["-t", "both=1"]);
    mesh.push("queued", 1).await.unwrap();
    mesh.clear().await.unwrap();
    mesh.push("c", 3).await.unwrap();
    let told = view.drain(&mesh, &mut watch).await;
    assert!(!told.contains(&"queued=1".to_owned()), "it was given what was removed already");
    assert_eq!(told.last().unwrap(), "c=3");
    view.assert_equals(&ann).await;
}

async fn watch_says_what_expired(bed: Bed) {
    let mesh = bed.only_mesh("a").await;
    let ann = mesh.agent("ann").unwrap();
    ann.push("early", 1).ttl(Duration::from_secs(5)).await.unwrap();
    let (mut watch, mut view) = begun(&ann, WatchConfig::new()).await;
    ann.push("late", 1).ttl(Duration::from_secs(10)).await.unwrap();
    assert_eq!(view.drain(&mesh, &mut watch).await, ["late=1"]);
    ann.push("unread", 1).ttl(Duration::from_secs(5)).await.unwrap();
    bed.clock().advance(Duration::from_secs(5));
    assert_eq!(view.drain(&mesh, &mut watch).await, ["-early"]);
    ann.push("late", 2).await.unwrap();
    bed.clock().advance(Duration::from_secs(100));
    assert_eq!(view.drain(&mesh, &mut watch).await, ["-late", "late=2"]);
    assert!(mesh.sweep().await.unwrap().deleted > 0);
    assert!(view.drain(&mesh, &mut watch).await.is_empty(), "a sweep takes what was gone");
    // With a clock that goes by itself, nothing else must happen.
    let mesh = bed.mesh_with("b", |config| config.clock = Arc::new(SystemClock)).await;
    let ann = mesh.agent("ann").unwrap();
    let (mut watch, mut view) = begun(&ann, WatchConfig::new()).await;
    ann.push("short", 1).ttl(Duration::from_millis(200)).await.unwrap();
    assert_eq!(view.take(&next(&mut watch).await.unwrap()), "short=1");
    assert_eq!(view.take(&next(&mut watch).await.unwrap()), "-short");
}

async fn watch_decides_when_it_gives(bed: Bed) {
    for alone in [true, false] {
        let user = if alone { "a" } else { "b" };
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
        other.set_read_permissions("ann", Some(vec![])).await.unwrap();
        bed.clock().advance(Duration::from_secs(1));
        view.drain(&other, &mut watch).await;
        assert!(!view.values.iter().any(|(_, value)| value.contains("secret")), "it was decided before");
        view.assert_equals(&ann).await;
    }
}

async fn watch_lagged_resumes(bed: Bed) {
    let mesh = bed.only_mesh("a").await;
    let ann = mesh.agent("ann").unwrap();
    for (config, lost) in [(WatchConfig::new().changes(4), 42), (WatchConfig::new().bytes(1_000), 42)] {
        mesh.clear().await.unwrap();
        mesh.push("first", 0).await.unwrap();
        mesh.push("stays", 0).await.unwrap();
        let (mut watch, mut view) = begun(&ann, config).await;
        mesh.remove("first").await.unwrap();
        for n in 0..40 {
            mesh.push(format!("k{n}"), "x".repeat(100)).await.unwrap();
        }
        mesh.remove("k7").await.unwrap();
        assert!(matches!(next(&mut watch).await.unwrap(), WatchEvent::Lagged { missed } if missed == lost));
        mesh.push("k8", 8).await.unwrap();
        view.drain(&mesh, &mut watch).await;
        assert_eq!((view.known.len(), view.lagged), (41, 0));
        view.assert_equals(&ann).await;
        view.values.drain(..2);
        view.assert_in_order();
        // And again, without having read what was due.
        for n in 0..100 {
            mesh.push(format!("k{}", n % 10), format!("{n:100}")).await.unwrap();
            if n == 50 {
                view.take(&next(&mut watch).await.unwrap());
            }
        }
        view.drain(&mesh, &mut watch).await;
        assert!(view.lagged > 0);
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

async fn watch_reads_values_that_left_memory(bed: Bed) {
    let mesh = bed.mesh_with("a", |config| config.cache_bytes = 0).await;
    let (ann, other) = (mesh.agent("ann").unwrap(), bed.mesh("a").await);
    for n in 0..30 {
        other.push(format!("k{n:02}"), n).topic("t").await.unwrap();
    }
    let (mut watch, mut view) = begun(&ann, WatchConfig::new()).await;
    ann.subscribe(["t"]).await.unwrap();
    assert_eq!(
        view.drain(&other, &mut watch).await,
        (0..30).map(|n| format!("k{n:02}={n}")).collect::<Vec<_>>()
    );
    other.push("k00", 100).topic("t").await.unwrap();
    assert_eq!(view.drain(&other, &mut watch).await, ["k00=100"]);
    view.assert_equals(&ann).await;
}

/// Nobody asks the watching handle anything: it looks for itself.
async fn watch_hears_other_handles(bed: Bed) {
    let (here, there) = (bed.mesh("a").await, bed.mesh("a").await);
    let ann = here.agent("ann").unwrap();
    there.register_agent("ann").await.unwrap();
    let (watch, mut view) = begun(&ann, WatchConfig::new()).await;
    let mut watch = Some(watch);
    let there_ann = there.agent("ann").unwrap();
    there.push("news", 0).topic("t").await.unwrap();
    for step in 0..7 {
        let task = waiting(watch.take().unwrap()).await;
        let told = match step {
            0 => {
                there.push("k", 1).await.unwrap();
                "k=1"
            }
            1 => {
                there.push("k", 2).restricted().await.unwrap();
                "-k"
            }
            2 => {
                there_ann.subscribe(["t"]).await.unwrap();
                "news=0"
            }
            3 => {
                there.remove("news").await.unwrap();
                "-news"
            }
            4 => {
                there.push("k", 3).await.unwrap();
                "k=3"
            }
            5 => {
                there.clear().await.unwrap();
                "-k"
            }
            _ => {
                here.push("own", 1).await.unwrap();
                "own=1"
            }
        };
        let (again, event) = tokio::time::timeout(PATIENCE, task).await.expect("it sleeps on").unwrap();
        assert_eq!(view.take(&event.unwrap().unwrap()), told);
        watch = Some(again);
    }
    let mut watch = watch.unwrap();
    // More than a change log holds: then it compares.
    for n in 0..300 {
        let mut batch = there.batch();
        for m in 0..20 {
            batch = batch.push(format!("k{}", (n * 20 + m) % 500), n);
        }
        batch.commit().await.unwrap();
    }
    there.remove("k3").await.unwrap();
    view.drain(&there, &mut watch).await;
    view.assert_equals(&ann).await;
}

/// A reader that gives up waiting again and again misses nothing.
async fn watch_waits_without_losing(bed: Bed) {
    let mesh = bed.only_mesh("a").await;
    let ann = mesh.agent("ann").unwrap();
    let mut watch = ann.watch(WatchConfig::new()).await.unwrap();
    let writer = tokio::spawn(async move {
        for n in 0..200 {
            mesh.push("k", n).await.unwrap();
        }
    });
    let mut values = Vec::new();
    while values.last() != Some(&199) {
        let Ok(event) = tokio::time::timeout(Duration::ZERO, watch.next()).await else {
            tokio::task::yield_now().await;
            continue;
        };
        match event.unwrap().unwrap() {
            WatchEvent::Snapshot(entries) => {
                values.extend(entries.iter().map(|one| one.value::<i32>().unwrap()))
            }
            WatchEvent::Put(entry) => values.push(entry.value::<i32>().unwrap()),
            other => panic!("{other:?}"),
        }
    }
    writer.await.unwrap();
    assert!(values.windows(2).all(|pair| pair[1] == pair[0] + 1), "{values:?}");
}

async fn watch_keeps_to_what_it_wants(bed: Bed) {
    let mesh = bed.only_mesh("a").await;
    let ann = mesh.agent("ann").unwrap();
    ann.subscribe(["x", "y"]).await.unwrap();
    mesh.push("plan/old", 0).topic("x").await.unwrap();
    mesh.push("else", 0).topic("x").await.unwrap();
    let topic = Topic::new("x").unwrap();
    let mut watch = ann.watch(WatchConfig::new().prefix("plan/").topic(&topic)).await.unwrap();
    let mut view = View::default();
    assert_eq!(view.take(&next(&mut watch).await.unwrap()), "plan/old=0");
    mesh.push("else", 1).topic("x").await.unwrap();
    mesh.push("plan/a", 1).topic("x").await.unwrap();
    mesh.push("plan/b", 1).topic("y").await.unwrap();
    mesh.push("plan/old", 1).topic("y").await.unwrap();
    mesh.push("plan/c", 1).topics(["x", "y"]).await.unwrap();
    for told in ["plan/a=1", "-plan/old", "plan/c=1"] {
        assert_eq!(view.take(&next(&mut watch).await.unwrap()), told);
    }
    for config in [
        WatchConfig::new().changes(0),
        WatchConfig::new().changes(65_537),
        WatchConfig::new().bytes(0),
        WatchConfig::new().bytes((64 << 20) + 1),
    ] {
        assert_eq!(kind(ann.watch(config).await), ErrorKind::Invalid);
    }
}

async fn watch_of_the_host_sees_everything(bed: Bed) {
    let mesh = bed.only_mesh("a").await;
    let ann = mesh.agent("ann").unwrap();
    ann.push("old", 1).restricted().await.unwrap();
    let (mut watch, mut view) = (mesh.watch(WatchConfig::new()).await.unwrap(), View::default());
    assert_eq!(view.take(&next(&mut watch).await.unwrap()), "old=1");
    ann.push("k", 1).agents(["ben"]).await.unwrap();
    ann.push("t", 1).topic("t").await.unwrap();
    mesh.remove("old").await.unwrap();
    assert_eq!(view.drain(&mesh, &mut watch).await, ["k=1", "t=1", "-old"]);
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

async fn watch_ends_with_its_session(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let ((guard, revoker), (inner, _)) = (Guard::new(), Guard::new());
    let session = mesh.guarded(guard);
    let mut tasks = Vec::new();
    for mesh in [session.clone(), session.guarded(inner)] {
        let (watch, _) = begun(&mesh.agent("ann").unwrap(), WatchConfig::new()).await;
        tasks.push(waiting(watch).await);
        let mut watch = mesh.watch(WatchConfig::new()).await.unwrap();
        next(&mut watch).await.unwrap();
        tasks.push(waiting(watch).await);
    }
    let (mut queued, _) = begun(&session.agent("ann").unwrap(), WatchConfig::new()).await;
    let mut unread = session.agent("ann").unwrap().watch(WatchConfig::new()).await.unwrap();
    let (mut free, mut view) = begun(&mesh.agent("ann").unwrap(), WatchConfig::new()).await;
    revoker.revoke();
    for task in tasks {
        assert_ends(task, ErrorKind::SessionEnded).await;
    }
    mesh.push("k", 1).await.unwrap();
    for watch in [&mut queued, &mut unread] {
        assert_eq!(kind(next(watch).await), ErrorKind::SessionEnded);
        assert!(watch.next().await.is_none());
    }
    assert_eq!(kind(session.watch(WatchConfig::new()).await), ErrorKind::SessionEnded);
    assert_eq!(view.take(&next(&mut free).await.unwrap()), "k=1");
}

async fn watch_ends_with_its_agent(bed: Bed) {
    let (here, there) = (bed.mesh("a").await, bed.mesh("a").await);
    for mesh in [&here, &there] {
        here.register_agent("ann").await.unwrap();
        let ann = here.agent("ann").unwrap();
        let (watch, _) = begun(&ann, WatchConfig::new()).await;
        let (mut queued, _) = begun(&ann, WatchConfig::new()).await;
        here.push("k", 1).await.unwrap();
        let (waits, _) = begun(&ann, WatchConfig::new()).await;
        let task = waiting(waits).await;
        drop(watch);
        assert!(mesh.agents().await.unwrap().len() == 1 && mesh.unregister_agent("ann").await.unwrap());
        assert_ends(task, ErrorKind::Gone).await;
        // The next bearer of the name is another.
        mesh.register_agent("ann").await.unwrap();
        mesh.push("mail", 1).agents(["ann"]).await.unwrap();
        assert_eq!(kind(next(&mut queued).await), ErrorKind::Gone);
        let successor = here.agent("ann").unwrap();
        let (_watch, view) = begun(&successor, WatchConfig::new()).await;
        assert!(view.known.contains_key("mail"));
        here.unregister_agent("ann").await.unwrap();
    }
}

async fn watch_ends_with_its_user(bed: Bed) {
    for (user, how) in [("a", "erase"), ("b", "restore"), ("c", "retire"), ("d", "retire alone")] {
        let mesh = if how == "retire alone" { bed.only_mesh(user).await } else { bed.mesh(user).await };
        let ann = mesh.agent("ann").unwrap();
        ann.push("k", "secret").await.unwrap();
        let (watch, _) = begun(&ann, WatchConfig::new()).await;
        let (mut queued, _) = begun(&ann, WatchConfig::new()).await;
        let mut unread = ann.watch(WatchConfig::new()).await.unwrap();
        let task = waiting(watch).await;
        match how {
            "erase" => erase(&*bed.store(), bed.tag(user)).await,
            "restore" => {
                let mut snapshot = bed.open(user).await.snapshot().await.unwrap();
                bed.store().import(bed.tag(user), &mut *snapshot, ImportMode::Replace).await.unwrap();
            }
            _ => assert!(mesh.retire()),
        }
        assert_ends(task, ErrorKind::Gone).await;
        for watch in [&mut queued, &mut unread] {
            assert_eq!(kind(next(watch).await), ErrorKind::Gone);
            assert!(watch.next().await.is_none());
        }
    }
}

async fn watch_dropped_is_forgotten(bed: Bed) {
    let opened = bed.mesh_with("a", |config| config.watches = 3).await;
    let ann = opened.agent("ann").unwrap();
    let mut watches = Vec::new();
    for _ in 0..3 {
        watches.push(ann.watch(WatchConfig::new()).await.unwrap());
    }
    assert_eq!(kind(ann.watch(WatchConfig::new()).await), ErrorKind::LimitExceeded);
    assert_eq!(kind(opened.watch(WatchConfig::new()).await), ErrorKind::LimitExceeded);
    for _ in 0..20 {
        watches.pop();
        let (watch, _) = begun(&ann, WatchConfig::new()).await;
        watches.push(watch);
    }
    drop(watches);
    // A watch is a handle of the mesh, and what looks for changes on its behalf is none.
    let mesh = bed.only_mesh("b").await;
    let watch = mesh.watch(WatchConfig::new()).await.unwrap();
    assert!(mesh.is_shared());
    drop(watch);
    assert!(!mesh.is_shared());
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
