//! Delivery: at least once, bounded, and nobody waits for anybody.

use std::sync::Arc;
use std::time::{Duration, Instant};

use syntha_audit::{AuditSink, Background, Behaviour, DELIVERY_DEADLINE, Delivery, MemorySink};
use syntha_store::{ErrorKind, Store};

use crate::{LONG, Memory, batch, commits, create, tag, whole};

type Found = Result<(), String>;

/// Everything comes, although a sink refuses, or loses its answers, and the process goes in the middle.
async fn at_least_once(plant: impl Fn(crate::AuditedMemory) -> crate::AuditedMemory) -> Found {
    let bed = Memory::new();
    let sink = MemorySink::new("one");
    let store = plant(bed.open(&[&sink])).bounds(1_000_000, LONG);
    for number in 1..=3 {
        commits(&create(&store, number).await, 400).await;
    }
    store.checkpoint().await.unwrap();
    use Behaviour::{Fail, Take, TakeAndFail};
    sink.next([Take, TakeAndFail]);
    store.shipped().await.unwrap();
    assert!(sink.calls() > 0);
    drop(store);
    sink.next([Fail, TakeAndFail]);
    let store = plant(bed.open(&[&sink])).bounds(1_000_000, LONG);
    let user = store.open(tag(2)).await.map_err(|error| error.to_string())?;
    commits(&user, 3).await;
    store.checkpoint().await.unwrap();
    for _ in 0..3 {
        store.shipped().await.unwrap();
    }
    assert!(store.shipped().await.unwrap().failed.is_empty());
    if store.backlog().sinks != [("one".to_owned(), 0)] {
        return Err("something counts as not delivered".to_owned());
    }
    whole(&store, &sink, &bed.deployment(), &[1, 2, 3]).await
}

#[tokio::test]
async fn entries_come_at_least_once_across_a_restart() {
    at_least_once(|store| store).await.unwrap();
}

#[cfg(feature = "faults")]
#[tokio::test]
async fn planted_faults_of_delivery_are_found() {
    use syntha_audit::Fault;
    for fault in [Fault::CursorFirst, Fault::TailDropped, Fault::HeadsSwapped] {
        let found = at_least_once(|store| store.fault(fault)).await;
        assert!(found.is_err(), "{fault:?} was not found");
    }
}

/// With every sink failing, not one operation more than the bound is taken; once one is back, nothing is missing.
async fn bounded(behaviour: Behaviour) {
    const BOUND: u64 = 200;
    let bed = Memory::new();
    let sinks = [MemorySink::new("one"), MemorySink::new("two")];
    for sink in &sinks {
        sink.behave(behaviour);
    }
    let store = Arc::new(bed.open(&[&sinks[0], &sinks[1]]).bounds(BOUND, LONG));
    let numbers: Vec<u8> = (1..=20).collect();
    let mut taken = 0;
    for number in &numbers {
        match store.create(tag(*number), batch("first"), syntha_store::CreateMode::New).await {
            Ok((user, _)) => taken += 1 + commits(&user, 30).await,
            Err(error) => assert_eq!(error.kind(), ErrorKind::AuditUnavailable),
        }
        store.checkpoint().await.unwrap();
        if number % 8 == 0 {
            let begun = tokio::time::Instant::now();
            assert_eq!(store.shipped().await.unwrap().failed.len(), 2);
            // The clock stands still but for what waits: both sinks at once, once each.
            assert!(begun.elapsed() <= DELIVERY_DEADLINE + Duration::from_millis(10));
        }
    }
    assert_eq!(taken, BOUND);
    // Another process counts what waits before it takes anything.
    let again = bed.open(&[&sinks[0], &sinks[1]]).bounds(BOUND, LONG);
    let user = again.open(tag(1)).await.unwrap();
    assert_eq!(commits(&user, 3).await, 0);
    drop((user, again));
    // One that is back is enough to go on; the other one is not waited for.
    sinks[0].behave(Behaviour::Take);
    store.shipped().await.unwrap();
    let user = store.open(tag(1)).await.unwrap();
    assert_eq!(commits(&user, 10).await, 10);
    store.checkpoint().await.unwrap();
    store.shipped().await.unwrap();
    sinks[1].behave(Behaviour::Take);
    store.shipped().await.unwrap();
    assert_eq!(store.backlog().sinks, [("one".to_owned(), 0), ("two".to_owned(), 0)]);
    let made: Vec<u8> = store.list(None, 100).await.unwrap().iter().map(|tag| tag.as_bytes()[0]).collect();
    for sink in &sinks {
        whole(&*store, sink, &bed.deployment(), &made).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_taken_past_the_bound() {
    for behaviour in [Behaviour::Fail, Behaviour::Block, Behaviour::TakeAndFail] {
        bounded(behaviour).await;
    }
}

#[tokio::test]
async fn racing_commits_do_not_pass_the_bound() {
    let bed = Memory::new();
    let sink = MemorySink::new("one");
    sink.behave(Behaviour::Fail);
    let store = Arc::new(bed.open(&[&sink]).bounds(60, LONG));
    let mut tasks = Vec::new();
    for number in 1..=8 {
        let user = create(&store, number).await;
        tasks.push(tokio::spawn(async move { commits(&user, 40).await }));
    }
    let mut taken = 8;
    for task in tasks {
        taken += task.await.unwrap();
    }
    assert_eq!(taken, 60);
}

#[tokio::test]
async fn entries_that_wait_too_long_refuse_too() {
    let bed = Memory::new();
    let sink = MemorySink::new("one");
    sink.behave(Behaviour::Fail);
    let store = bed.open(&[&sink]).bounds(1_000_000, Duration::from_millis(50));
    let user = create(&store, 1).await;
    store.checkpoint().await.unwrap();
    tokio::time::sleep(Duration::from_millis(60)).await;
    assert_eq!(user.commit(batch("late")).await.unwrap_err().kind(), ErrorKind::AuditUnavailable);
    sink.behave(Behaviour::Take);
    store.shipped().await.unwrap();
    user.commit(batch("now")).await.unwrap();
}

/// Who fills the backlog is refused, and the others are not.
async fn flooder(plant: impl Fn(crate::AuditedMemory) -> crate::AuditedMemory) -> Found {
    let bed = Memory::new();
    let sink = MemorySink::new("one");
    sink.behave(Behaviour::Fail);
    let store = plant(bed.open(&[&sink])).bounds(400, LONG);
    let flooder = create(&store, 1).await;
    let other = create(&store, 2).await;
    let flood = 1 + commits(&flooder, 1_000).await;
    store.checkpoint().await.unwrap();
    let others = commits(&other, 50).await;
    if (flood, others) == (100, 50) { Ok(()) } else { Err(format!("{flood} of one, {others} of the other")) }
}

#[tokio::test]
async fn a_flooder_is_refused_first() {
    flooder(|store| store).await.unwrap();
    #[cfg(feature = "faults")]
    assert!(flooder(|store| store.fault(syntha_audit::Fault::FlooderTaken)).await.is_err());
}

async fn until(what: impl Fn() -> bool) {
    for _ in 0..2_000 {
        if what() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it did not come to that in 20 seconds");
}

#[tokio::test]
async fn the_background_logs_and_ships_and_ends_with_the_store() {
    let bed = Memory::new();
    let (sink, blocked) = (MemorySink::new("one"), MemorySink::new("blocked"));
    blocked.behave(Behaviour::Block);
    let store = Arc::new(bed.open(&[&sink, &blocked]));
    let background: Background = store.spawn_background();
    let user = create(&store, 1).await;
    let begun = Instant::now();
    assert_eq!(commits(&user, 200).await, 200);
    // A blocked sink holds up no commit: 200 of them take no 2 seconds' deadline each.
    assert!(begun.elapsed() < Duration::from_secs(60));
    until(|| sink.taken().iter().filter(|entry| matches!(entry, Delivery::Link { .. })).count() == 201).await;
    until(|| matches!(sink.taken().last(), Some(Delivery::Checkpoint { .. }))).await;
    whole(&*store, &sink, &bed.deployment(), &[1]).await.unwrap();
    blocked.behave(Behaviour::Take);
    until(|| !blocked.taken().is_empty()).await;
    drop((user, store));
    tokio::time::timeout(Duration::from_secs(30), background.ended()).await.unwrap();
}

#[tokio::test]
async fn sinks_without_a_log_or_a_name_are_refused() {
    let bed = Memory::new();
    for names in [vec![""], vec!["a b"], vec!["one", "one"]] {
        let sinks: Vec<_> = names.iter().map(|name| MemorySink::new(name)).collect();
        let store = bed.open(&sinks.iter().collect::<Vec<_>>());
        let made = store.create(tag(1), batch("first"), syntha_store::CreateMode::New).await;
        assert_eq!(made.unwrap_err().kind(), ErrorKind::Invalid);
    }
    let bare = syntha_audit::AuditedStore::new(
        Arc::new(syntha_store::MemoryStore::new().unwrap()),
        bed.deployment(),
    );
    let bare = bare.unwrap().sink(Arc::new(MemorySink::new("one")) as Arc<dyn AuditSink>);
    assert_eq!(bare.open(tag(1)).await.unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn a_commit_whose_end_nobody_saw_is_logged() {
    let bed = Memory::new();
    let sink = MemorySink::new("one");
    let store = bed.open(&[&sink]);
    let user = create(&store, 1).await;
    store.checkpoint().await.unwrap();
    // The caller goes at each point at which it waits.
    for steps in 0..8 {
        let mut commit = Box::pin(user.commit(batch("dropped")));
        for _ in 0..steps {
            let done = std::future::poll_fn(|context| {
                std::task::Poll::Ready(commit.as_mut().poll(context).is_ready())
            });
            if done.await {
                break;
            }
        }
        drop(commit);
    }
    store.checkpoint().await.unwrap();
    store.shipped().await.unwrap();
    assert_eq!(store.backlog().unlogged, 0);
    whole(&store, &sink, &bed.deployment(), &[1]).await.unwrap();
}

#[tokio::test]
async fn what_another_process_delivered_counts_as_delivered() {
    let bed = Memory::new();
    let sink = MemorySink::new("one");
    let (first, second) = (bed.open(&[&sink]), bed.open(&[&sink]));
    let user = create(&first, 1).await;
    second.open(tag(1)).await.unwrap();
    commits(&user, 9).await;
    first.checkpoint().await.unwrap();
    second.checkpoint().await.unwrap();
    assert_eq!(first.backlog().sinks, [("one".to_owned(), 10)]);
    assert_eq!(second.shipped().await.unwrap().links, 10);
    assert_eq!(first.shipped().await.unwrap().links, 0);
    assert_eq!(first.backlog().sinks, [("one".to_owned(), 0)]);
    whole(&first, &sink, &bed.deployment(), &[1]).await.unwrap();
}

/// Counts events of the sink's target.
#[cfg(feature = "tracing")]
struct Counter(Arc<std::sync::atomic::AtomicU64>);

#[cfg(feature = "tracing")]
impl tracing::Subscriber for Counter {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == "syntha::audit"
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        assert!(event.metadata().fields().field("entry").is_some());
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[cfg(feature = "tracing")]
#[tokio::test]
async fn entries_are_events_of_tracing() {
    let count = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let _guard = tracing::subscriber::set_default(Counter(Arc::clone(&count)));
    let bed = Memory::new();
    let store = bed.open(&[]).sink(Arc::new(syntha_audit::TracingSink::new("events")));
    commits(&create(&store, 1).await, 4).await;
    store.checkpoint().await.unwrap();
    assert_eq!(store.shipped().await.unwrap().links, 5);
    // The links, a leaf and a checkpoint.
    assert_eq!(count.load(std::sync::atomic::Ordering::Relaxed), 7);
}
