//! Reads are told through the buffer: with the next commit, within a second, and before a mesh goes.

use std::time::Duration;

use syntha_mesh::{ErrorKind, Filter, InteractionLog, MeshConfig, Message, WatchConfig, WatchEvent};
use syntha_store::{Action, Event, Timestamp, Verdict};

use crate::bed::{Bed, Found, is_note};

type Told = (Action, Verdict, bool, bool, u64);

/// What an event says, but for names: by an agent or not, of something or not.
fn told(event: &Event) -> Told {
    (event.action, event.verdict, event.agent.is_some(), event.target.is_some(), event.count)
}

const fn done(action: Action, agent: bool, target: bool, count: u64) -> Told {
    (action, Verdict::Done, agent, target, count)
}

pub(crate) async fn each_read_is_told(config: MeshConfig) -> Found {
    let bed = Bed::new(config).await;
    let (mesh, ann) = (&bed.mesh, bed.mesh.agent("ann").unwrap());
    mesh.push("a", "12345").await.unwrap();
    mesh.push("b", 1).topic("t").await.unwrap();
    mesh.push("hidden", 1).restricted().await.unwrap();
    ann.subscribe(["t"]).await.unwrap();
    ann.thread("c").unwrap().append_all([Message::user("x"), Message::user("y")]).await.unwrap();
    let (before, stamp) = (bed.events().await.len(), bed.stamp().await);

    let mut expected = Vec::new();
    ann.get::<String>("a").await.unwrap().unwrap();
    expected.push(done(Action::Read, true, true, 1));
    for unseen in ["hidden", "absent"] {
        assert!(ann.entry(unseen).await.unwrap().is_none());
        expected.push((Action::Read, Verdict::Nothing, true, true, 1));
    }
    assert_eq!(ann.get_many(&["a", "b", "hidden"]).await.unwrap().len(), 2);
    expected.extend([done(Action::Read, true, true, 1); 2]);
    ann.all(&Filter::new()).await.unwrap();
    expected.extend([done(Action::Read, true, true, 1); 2]);
    ann.entries(&Filter::new()).await.unwrap();
    expected.extend([done(Action::List, true, true, 1); 2]);
    ann.keys(&Filter::new().prefix("a")).await.unwrap();
    expected.push(done(Action::List, true, true, 1));
    ann.keys_by_topic().await.unwrap();
    // The first is like the one before.
    expected.pop();
    expected.extend([done(Action::List, true, true, 2), done(Action::List, true, true, 1)]);
    ann.keys(&Filter::new().prefix("z")).await.unwrap();
    expected.push((Action::List, Verdict::Nothing, true, false, 0));
    ann.topics().await.unwrap();
    expected.push(done(Action::List, true, true, 1));
    ann.discover().await.unwrap();
    expected.push(done(Action::List, true, false, 1));
    ann.threads(None, 10).await.unwrap();
    expected.pop();
    expected.push(done(Action::List, true, false, 2));
    let thread = ann.thread("c").unwrap();
    thread.info().await.unwrap().unwrap();
    expected.push(done(Action::List, true, true, 1));
    thread.last(10).await.unwrap();
    expected.push(done(Action::ReadThread, true, true, 2));
    thread.before(1, 10).await.unwrap();
    expected.push((Action::ReadThread, Verdict::Nothing, true, true, 0));
    thread.message(1).await.unwrap().unwrap();
    thread.after(1, 10).await.unwrap();
    expected.push(done(Action::ReadThread, true, true, 2));

    mesh.value("hidden").await.unwrap().unwrap();
    expected.push(done(Action::Read, false, true, 1));
    mesh.size().await.unwrap();
    mesh.stats().await.unwrap();
    mesh.topics().await.unwrap();
    mesh.agents().await.unwrap();
    mesh.usage().await.unwrap();
    mesh.threads(None, 10).await.unwrap();
    expected.push(done(Action::List, false, false, 6));
    mesh.subscribers("t").await.unwrap();
    expected.push(done(Action::List, false, true, 1));
    mesh.post_permissions("ann").await.unwrap();
    expected.push(done(Action::List, false, true, 1));
    mesh.entries(&Filter::new()).await.unwrap();
    expected.extend([done(Action::List, false, true, 1); 3]);
    mesh.interactions(None, 10).await.unwrap();
    expected.push((Action::ReadInteractions, Verdict::Nothing, false, false, 0));
    mesh.export(&mut Vec::new(), |_| {}).await.unwrap();
    expected.push(done(Action::Export, false, false, 5));

    if !bed.events().await[before..].is_empty() {
        return Err("a read was told in a commit of its own".to_owned());
    }
    let events = bed.flushed().await.split_off(before);
    let found: Vec<_> = events.iter().map(told).collect();
    if found != expected {
        return Err(format!("told: {found:#?}"));
    }
    if bed.stamp().await != stamp || mesh.usage().await.unwrap().0 != stamp {
        return Err("the flush moved the data".to_owned());
    }
    let version = mesh.value("a").await.unwrap().unwrap().version();
    if (events[0].version, events[0].bytes) != (Some(version.0), 7) {
        return Err("the version or the size is missing".to_owned());
    }
    Ok(())
}

#[tokio::test]
async fn each_read_has_its_event() {
    each_read_is_told(MeshConfig::default()).await.unwrap();
}

#[tokio::test]
async fn many_entries_are_named_up_to_64() {
    let bed = Bed::new(MeshConfig::default()).await;
    let mut batch = bed.mesh.batch();
    for number in 0..100 {
        batch = batch.push(format!("key {number:02}"), "12");
    }
    batch.commit().await.unwrap();
    bed.mesh.agent("ann").unwrap().all(&Filter::new()).await.unwrap();
    let events = bed.flushed().await.split_off(100);
    assert_eq!(events.len(), 65);
    assert!(events[..64].iter().all(|event| event.count == 1 && event.target.is_some() && event.bytes == 4));
    assert_eq!((events[64].count, events[64].target.as_ref(), events[64].bytes), (36, None, 36 * 4));
}

#[tokio::test]
async fn reads_go_with_the_next_commit() {
    let bed = Bed::new(MeshConfig::default()).await;
    bed.mesh.push("k", 1).await.unwrap();
    for _ in 0..3 {
        bed.mesh.agent("ann").unwrap().get::<u8>("k").await.unwrap().unwrap();
    }
    let commits = bed.store.commits();
    bed.mesh.push("k", 2).await.unwrap();
    assert_eq!(bed.store.commits(), commits + 1);
    let (link, events) = bed.links().await.pop().unwrap();
    let actions: Vec<_> = events.iter().map(|event| (event.action, event.count)).collect();
    assert_eq!(actions, [(Action::Read, 3), (Action::Push, 1)]);
    assert!(!is_note(&link));
}

#[tokio::test(start_paused = true)]
async fn reads_wait_a_second_at_most() {
    let bed = Bed::new(MeshConfig::default()).await;
    bed.mesh.push("k", 1).await.unwrap();
    let before = bed.links().await.len();
    for _ in 0..10 {
        bed.mesh.value("k").await.unwrap().unwrap();
        tokio::time::sleep(Duration::from_millis(99)).await;
    }
    assert_eq!(bed.links().await.len(), before, "a flush before its time");
    tokio::time::sleep(Duration::from_millis(20)).await;
    let links = bed.links().await;
    assert_eq!(links.len(), before + 1);
    let (link, events) = links.last().unwrap();
    assert!(is_note(link) && link.changes.is_empty());
    assert_eq!(events.iter().map(|event| event.count).sum::<u64>(), 10);
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    assert_eq!(bed.links().await.len(), before + 1, "a flush of nothing");
}

#[tokio::test(start_paused = true)]
async fn four_thousand_reads_do_not_wait() {
    let bed = Bed::new(MeshConfig::default()).await;
    let start = tokio::time::Instant::now();
    for number in 0..4_000 {
        assert!(bed.mesh.value(&format!("absent {number}")).await.unwrap().is_none());
    }
    let mut turns = 0;
    while bed.count(Action::Read, Verdict::Nothing).await < 4_000 {
        turns += 1;
        assert!(turns < 10_000, "nobody flushes");
        tokio::task::yield_now().await;
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
}

/// While few wait, their order is kept; while many do, a read that waits already is counted. Never past a commit.
#[tokio::test]
async fn many_reads_of_few_entries_are_counted() {
    let bed = Bed::new(MeshConfig::default()).await;
    bed.mesh.batch().push("a", 1).push("b", 2).commit().await.unwrap();
    let (before, both) = (bed.events().await.len(), ["a", "b"]);
    for key in both.into_iter().cycle().take(20) {
        bed.mesh.value(key).await.unwrap().unwrap();
    }
    let few = bed.flushed().await.split_off(before);
    assert_eq!(few.iter().map(|event| event.count).collect::<Vec<_>>(), [1; 20]);

    let before = before + few.len();
    for number in 0..64 {
        assert!(bed.mesh.value(&format!("absent {number}")).await.unwrap().is_none());
    }
    for key in both.into_iter().cycle().take(1_000) {
        bed.mesh.value(key).await.unwrap().unwrap();
    }
    bed.mesh.push("c", 1).await.unwrap();
    bed.mesh.value("a").await.unwrap().unwrap();
    bed.mesh.push("a", 2).await.unwrap();
    bed.mesh.value("a").await.unwrap().unwrap();
    let many = bed.flushed().await.split_off(before);
    let reads = many.iter().filter(|event| told(event) != (Action::Read, Verdict::Nothing, false, true, 1));
    let found: Vec<_> = reads.map(|event| (event.action, event.count, event.bytes)).collect();
    let (read, push) = (|count| (Action::Read, count, count), (Action::Push, 1, 1));
    assert_eq!(found, [read(500), read(500), push, read(1), push, read(1)]);
}

#[tokio::test]
async fn a_flush_is_nothing_new_to_other_handles() {
    let bed = Bed::new(MeshConfig::default()).await;
    let other = Bed::another(&bed.store, MeshConfig::default()).await;
    bed.mesh.push("k", 1).await.unwrap();
    other.value("k").await.unwrap().unwrap();
    let stamp = bed.stamp().await;
    bed.mesh.value("k").await.unwrap().unwrap();
    other.flush_audit().await.unwrap();
    bed.mesh.flush_audit().await.unwrap();
    assert_eq!(bed.stamp().await, stamp);
    assert!(bed.store.inner.is_at(stamp), "a handle would look for news");
    assert_eq!((other.usage().await.unwrap().0, bed.mesh.usage().await.unwrap().0), (stamp, stamp));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_handles_lose_no_event() {
    let bed = Bed::new(MeshConfig::default()).await;
    let other = Bed::another(&bed.store, MeshConfig::default()).await;
    bed.mesh.push("k", 1).await.unwrap();
    let work = |mesh: syntha_mesh::Mesh, name: &'static str| async move {
        for number in 0..50 {
            mesh.push(format!("{name} {number}"), number).await.unwrap();
            mesh.value("k").await.unwrap().unwrap();
            mesh.flush_audit().await.unwrap();
        }
    };
    let (one, two) = (tokio::spawn(work(bed.mesh.clone(), "one")), tokio::spawn(work(other.clone(), "two")));
    one.await.unwrap();
    two.await.unwrap();
    assert_eq!(bed.count(Action::Read, Verdict::Done).await, 100);
    assert_eq!(bed.count(Action::Push, Verdict::Done).await, 101);
}

#[tokio::test]
async fn a_mesh_that_goes_tells_what_waits() {
    for retires in [true, false] {
        let bed = Bed::new(MeshConfig::default()).await;
        bed.mesh.push("k", 1).await.unwrap();
        let going = Bed::another(&bed.store, MeshConfig::default()).await;
        going.value("k").await.unwrap().unwrap();
        if retires {
            assert!(going.retire());
            assert_eq!(going.value("k").await.unwrap_err().kind(), ErrorKind::Gone);
        }
        drop(going);
        let mut turns = 0;
        while bed.count(Action::Read, Verdict::Done).await == 0 {
            turns += 1;
            assert!(turns < 10_000, "the read was lost");
            tokio::task::yield_now().await;
        }
        assert_eq!(bed.count(Action::Read, Verdict::Done).await, 1);
    }
}

#[tokio::test]
async fn what_a_watch_gives_is_told() {
    let bed = Bed::new(MeshConfig::default()).await;
    let ann = bed.mesh.agent("ann").unwrap();
    bed.mesh.push("a", 1).await.unwrap();
    bed.mesh.push("hidden", 1).restricted().await.unwrap();
    let mut watch = ann.watch(WatchConfig::new()).await.unwrap();
    assert!(matches!(watch.next().await, Some(Ok(WatchEvent::Snapshot(entries))) if entries.len() == 1));
    bed.mesh.push("b", 1).await.unwrap();
    assert!(matches!(watch.next().await, Some(Ok(WatchEvent::Put(_)))));
    bed.mesh.remove("b").await.unwrap();
    assert!(matches!(watch.next().await, Some(Ok(WatchEvent::Removed(_)))));
    let events = bed.flushed().await;
    let by_ann: Vec<_> = events.iter().filter(|event| event.agent.is_some()).map(told).collect();
    let read = done(Action::Read, true, true, 1);
    assert_eq!(by_ann, [done(Action::Watch, true, false, 1), read, read]);
}

#[tokio::test]
async fn the_host_tells_of_its_own() {
    let bed = Bed::new(MeshConfig::default()).await;
    let (guard, revoker) = syntha_mesh::Guard::new();
    let number = guard.session();
    let session = bed.mesh.guarded(guard);
    session.note_event(Event::new(Timestamp(5), Action::OpenSession)).await.unwrap();
    revoker.revoke();
    session.note_event(Event::new(Timestamp(9), Action::EndSession)).await.unwrap();
    bed.mesh.note_event(Event::new(Timestamp(10), Action::Backup)).await.unwrap();
    let events = bed.flushed().await;
    let told: Vec<_> = events.iter().map(|event| (event.action, event.session, event.at)).collect();
    let expected =
        [(Action::OpenSession, number, 5), (Action::EndSession, number, 9), (Action::Backup, None, 10)];
    assert_eq!(told, expected);
}

#[tokio::test]
async fn the_log_of_interactions_is_read_by_number() {
    let mut config = MeshConfig::default();
    config.interactions = InteractionLog::Writes;
    let bed = Bed::new(config).await;
    bed.mesh.push("k", 1).await.unwrap();
    bed.mesh.push("k", 2).await.unwrap();
    bed.mesh.interactions(None, 10).await.unwrap();
    let read = bed.flushed().await.pop().unwrap();
    assert_eq!(told(&read), done(Action::ReadInteractions, false, false, 2));
}
