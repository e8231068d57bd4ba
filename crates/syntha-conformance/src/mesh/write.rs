//! Writing, versions, batches, operation ids, several handles.

use std::collections::HashSet;
use std::task::Poll;
use std::time::Duration;

use serde_json::{Value, json};
use syntha_mesh::{ErrorKind, Expected, Filter};

use super::{assert_usage, checks, erase, keys, kind};
use crate::harness::{Bed, START};

checks![
    push_keeps_any_json,
    push_replaces_value_and_audience,
    push_keeps_created_and_raises_version,
    push_refuses_bad_names,
    push_value_limit_is_exact,
    push_audience_limit,
    push_many_agents_at_once,
    push_fails_when_the_commit_fails,
    get_many_in_order_of_keys,
    all_pages_are_complete,
    keys_by_prefix_and_topic,
    remove_says_whether_it_was_there,
    clear_counts_and_keeps_agents,
    stats_add_up,
    usage_is_exact,
    version_expected_is_compared,
    version_is_never_used_again,
    version_racing_writers_admit_one,
    version_is_one_writers,
    batch_is_whole_or_not_at_all,
    batch_refuses_a_key_twice,
    batch_is_never_seen_half,
    batch_of_a_caller_who_gives_up,
    operation_repeated_is_done_once,
    operation_of_another_agent_is_another,
    operation_id_is_bound_to_its_arguments,
    cache_of_any_size_reads_the_same,
    handles_see_each_others_writes,
    handles_answer_no_write_from_an_old_index,
    handles_see_each_others_deletes,
    handles_see_each_others_permissions,
    everything_survives_a_reopen,
    everything_survives_a_crash,
];

async fn push_keeps_any_json(bed: Bed) {
    let agent = bed.mesh("a").await.agent("ann").unwrap();
    let values = [
        json!(null),
        json!(true),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(0.1),
        json!(""),
        json!("\u{0}\u{7f}\u{e9}\u{1f600}\u{202e}"),
        json!([[], {}, [1, [2, [3]]]]),
        json!({ "": 1, "user_id": "bob", "deep": { "er": [null] } }),
        json!("x".repeat(200_000)),
    ];
    for (number, value) in values.iter().enumerate() {
        agent.push(format!("k{number}"), value).await.unwrap();
    }
    let again = bed.mesh("a").await.agent("ann").unwrap();
    for (number, value) in values.iter().enumerate() {
        for agent in [&agent, &again] {
            assert_eq!(agent.get::<Value>(format!("k{number}")).await.unwrap().as_ref(), Some(value));
        }
    }
}

async fn push_replaces_value_and_audience(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let (ann, ben) = (mesh.agent("ann").unwrap(), mesh.agent("ben").unwrap());
    ann.push("k", "one").topic("t").ttl(Duration::from_secs(1)).await.unwrap();
    ann.push("k", "two").agents(["ben"]).await.unwrap();
    let entry = ben.entry("k").await.unwrap().unwrap();
    assert_eq!((entry.json(), entry.expires(), entry.author()), ("\"two\"", None, Some("ann")));
    assert!(entry.audience().topics.is_empty());
    ben.push("k", "three").await.unwrap();
    assert_eq!(ann.entry("k").await.unwrap().unwrap().author(), Some("ben"));
    assert!(ann.entry("k").await.unwrap().unwrap().audience().everyone);
}

async fn push_keeps_created_and_raises_version(bed: Bed) {
    let agent = bed.mesh("a").await.agent("ann").unwrap();
    let first = agent.push("k", 1).await.unwrap().version;
    bed.clock().advance(Duration::from_secs(5));
    let second = agent.push("k", 2).await.unwrap().version;
    assert!(second > first);
    let entry = agent.entry("k").await.unwrap().unwrap();
    assert_eq!((entry.version(), entry.created(), entry.updated().0), (second, START, START.0 + 5_000));
}

async fn push_refuses_bad_names(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let agent = mesh.agent("ann").unwrap();
    agent.push("kept", 1).await.unwrap();
    for bad in ["", "a\nb", "a\u{0}", "e\u{301}", &"x".repeat(257)] {
        assert_eq!(kind(agent.push(bad, 1).await), ErrorKind::Invalid);
        assert_eq!(kind(agent.push("k", 1).topic(bad).await), ErrorKind::Invalid);
        assert_eq!(kind(agent.push("k", 1).agents([bad]).await), ErrorKind::Invalid);
        assert_eq!(kind(agent.subscribe([bad]).await), ErrorKind::Invalid);
        assert_eq!(kind(mesh.agent(bad)), ErrorKind::Invalid);
    }
    for bad in ["zero\u{200b}width", "bidi\u{202e}", "soft\u{ad}hyphen", "un\u{378}assigned"] {
        assert_eq!(kind(mesh.agent(bad)), ErrorKind::Invalid, "rule 35");
    }
    agent.push("x".repeat(256), 1).await.unwrap();
    assert_eq!(mesh.size().await.unwrap(), 2);
}

async fn push_value_limit_is_exact(bed: Bed) {
    let mesh = bed.mesh_with("a", |config| config.value_bytes = 100).await;
    let agent = mesh.agent("ann").unwrap();
    agent.push("k", "x".repeat(98)).await.unwrap();
    assert_eq!(kind(agent.push("k", "x".repeat(99)).await), ErrorKind::LimitExceeded);
    assert_eq!(agent.get::<String>("k").await.unwrap().unwrap().len(), 98);
}

async fn push_audience_limit(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let agent = mesh.agent("ann").unwrap();
    let many = |count: usize| (0..count).map(|n| format!("t{n}")).collect::<Vec<_>>();
    agent.push("k", 1).topics(many(64)).await.unwrap();
    assert_eq!(kind(agent.push("k", 2).topics(many(65)).await), ErrorKind::LimitExceeded);
    let long: Vec<_> = (0..20).map(|n| format!("{}{n}", "t".repeat(250))).collect();
    assert_eq!(kind(agent.push("k", 2).topics(long).await), ErrorKind::LimitExceeded);
    assert_eq!(mesh.value("k").await.unwrap().unwrap().json(), "1");
}

async fn push_many_agents_at_once(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..64 {
        let agent = mesh.agent(format!("agent-{n}")).unwrap();
        tasks.spawn(async move { agent.push(format!("key-{n}"), n).await.unwrap() });
    }
    tasks.join_all().await;
    let again = bed.mesh("a").await;
    for n in 0..64 {
        let reader = again.agent("reader").unwrap();
        assert_eq!(reader.get::<i32>(format!("key-{n}")).await.unwrap(), Some(n));
    }
    assert_eq!((again.size().await.unwrap(), again.agents().await.unwrap().len()), (64, 64));
}

async fn push_fails_when_the_commit_fails(bed: Bed) {
    let mesh = bed.only_mesh("a").await;
    let agent = mesh.agent("ann").unwrap();
    agent.push("k", 1).await.unwrap();
    erase(&*bed.store(), bed.tag("a")).await;
    assert_eq!(kind(agent.push("k", 2).await), ErrorKind::Gone);
    assert_eq!(kind(agent.push("other", 2).await), ErrorKind::Gone);
}

async fn get_many_in_order_of_keys(bed: Bed) {
    let agent = bed.mesh("a").await.agent("ann").unwrap();
    for key in ["b", "a", "c"] {
        agent.push(key, key).await.unwrap();
    }
    let found = agent.get_many(&["c", "absent", "a", "c"]).await.unwrap();
    assert_eq!(found.iter().map(|entry| entry.key()).collect::<Vec<_>>(), ["c", "a", "c"]);
}

async fn all_pages_are_complete(bed: Bed) {
    let mesh = bed.mesh_with("a", |config| config.cache_bytes = 100).await;
    let agent = mesh.agent("ann").unwrap();
    for n in 0..23 {
        agent.push(format!("key-{n:02}"), n).await.unwrap();
    }
    for size in [1, 2, 7, 23, 100] {
        let (mut found, mut after) = (Vec::new(), String::new());
        loop {
            let page = agent.all(&Filter::new().after(&*after).limit(size)).await.unwrap();
            let Some(last) = page.last() else { break };
            assert!(page.len() <= size);
            last.key().clone_into(&mut after);
            found.extend(page.iter().map(|entry| entry.value::<i32>().unwrap()));
        }
        assert_eq!(found, (0..23).collect::<Vec<_>>());
    }
}

async fn keys_by_prefix_and_topic(bed: Bed) {
    let agent = bed.mesh("a").await.agent("ann").unwrap();
    agent.subscribe(["t", "u"]).await.unwrap();
    agent.push("a/1", 1).await.unwrap();
    agent.push("a/2", 1).topic("t").await.unwrap();
    agent.push("a/3", 1).topics(["t", "u"]).await.unwrap();
    agent.push("b/1", 1).topic("u").await.unwrap();
    let listed = async |filter: Filter| -> Vec<String> {
        agent.keys(&filter).await.unwrap().iter().map(ToString::to_string).collect()
    };
    assert_eq!(listed(Filter::new().prefix("a/")).await, ["a/1", "a/2", "a/3"]);
    assert_eq!(listed(Filter::new().topic("u")).await, ["a/3", "b/1"]);
    assert_eq!(listed(Filter::new().prefix("a/").topic("u")).await, ["a/3"]);
    assert_eq!(listed(Filter::new().prefix("a/").after("a/1").limit(1)).await, ["a/2"]);
    assert!(listed(Filter::new().prefix("c")).await.is_empty());
    let topics = agent.keys_by_topic().await.unwrap();
    assert_eq!(topics[2].1.iter().map(|topic| &**topic).collect::<Vec<_>>(), ["t", "u"]);
}

async fn remove_says_whether_it_was_there(bed: Bed) {
    let agent = bed.mesh("a").await.agent("ann").unwrap();
    let version = agent.push("k", 1).await.unwrap().version;
    assert!(!agent.remove("absent", None).await.unwrap());
    agent.push("k", 2).await.unwrap();
    assert_eq!(kind(agent.remove("k", Some(version.into())).await), ErrorKind::Conflict);
    assert!(agent.remove("k", None).await.unwrap());
    assert!(!agent.remove("k", None).await.unwrap());
    assert!(keys(&bed.mesh("a").await.agent("ann").unwrap()).await.is_empty());
}

async fn clear_counts_and_keeps_agents(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let agent = mesh.agent("ann").unwrap();
    agent.subscribe(["t"]).await.unwrap();
    for n in 0..5 {
        agent.push(format!("k{n}"), n).topic("t").await.unwrap();
    }
    assert_eq!(mesh.clear().await.unwrap(), 5);
    assert_eq!(mesh.clear().await.unwrap(), 0);
    for mesh in [mesh, bed.mesh("a").await] {
        assert_eq!((mesh.size().await.unwrap(), mesh.agents().await.unwrap().len()), (0, 1));
        assert_eq!(mesh.agent("ann").unwrap().topics().await.unwrap().len(), 1);
        assert_usage(&mesh).await;
    }
}

async fn stats_add_up(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let agent = mesh.agent("ann").unwrap();
    agent.push("everyone", 1).await.unwrap();
    agent.push("topic", 1).topic("t").await.unwrap();
    agent.push("named", 1).agents(["ben"]).await.unwrap();
    agent.push("brief", 1).ttl(Duration::from_secs(1)).await.unwrap();
    agent.subscribe(["s"]).await.unwrap();
    bed.clock().advance(Duration::from_secs(1));
    let stats = mesh.stats().await.unwrap();
    assert_eq!((stats.entries, stats.active, stats.expired), (4, 3, 1));
    assert_eq!((stats.global, stats.private, stats.topics), (1, 1, 2));
    assert_eq!((stats.agents, stats.agents_with_topics), (2, 1));
    assert_eq!(mesh.size().await.unwrap(), 3);
}

async fn usage_is_exact(mut bed: Bed) {
    let mesh = bed.mesh("a").await;
    let agent = mesh.agent("ann").unwrap();
    for n in 0..60_usize {
        let key = format!("k{}", n * 7 % 13);
        match n % 5 {
            0..=2 => {
                agent.push(key, "x".repeat(n * 3)).topic(format!("t{}", n % 3)).await.unwrap();
            }
            3 => {
                agent.remove(key, None).await.unwrap();
            }
            // A key that is hidden by now is refused, and the pair with it.
            _ => drop(agent.batch().push(&*key, n).push("pair", n).commit().await),
        }
        if n % 20 == 19 {
            mesh.delete_topic("t1").await.unwrap();
            mesh.unregister_agent(format!("agent-{n}")).await.unwrap();
        }
        assert_usage(&mesh).await;
    }
    bed.reopen().await;
    assert_usage(&bed.mesh("a").await).await;
}

async fn version_expected_is_compared(bed: Bed) {
    let agent = bed.mesh("a").await.agent("ann").unwrap();
    let first = agent.push("k", 1).if_version(Expected::Absent).await.unwrap().version;
    assert_eq!(kind(agent.push("k", 2).if_version(Expected::Absent).await), ErrorKind::Conflict);
    let second = agent.push("k", 2).if_version(first).await.unwrap().version;
    assert_eq!(kind(agent.push("k", 3).if_version(first).await), ErrorKind::Conflict);
    assert_eq!(kind(agent.push("absent", 3).if_version(first).await), ErrorKind::Conflict);
    assert_eq!(agent.get::<u8>("k").await.unwrap(), Some(2));
    agent.push("k", 3).if_version(second).await.unwrap();
}

async fn version_is_never_used_again(mut bed: Bed) {
    let mut seen = HashSet::new();
    for _ in 0..3 {
        let mesh = bed.mesh("a").await;
        let agent = mesh.agent("ann").unwrap();
        for n in 0..4 {
            assert!(seen.insert(agent.push("k", n).await.unwrap().version));
            agent.remove("k", None).await.unwrap();
            assert!(seen.insert(agent.push("k", n).await.unwrap().version));
            mesh.clear().await.unwrap();
        }
        bed.reopen().await;
    }
}

async fn version_racing_writers_admit_one(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let first = mesh.agent("ann").unwrap().push("k", 0).await.unwrap().version;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 1..33 {
        let mesh = if n % 2 == 0 { mesh.clone() } else { bed.mesh("a").await };
        let agent = mesh.agent("ann").unwrap();
        tasks.spawn(async move { agent.push("k", n).if_version(first).await });
    }
    let results = tasks.join_all().await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    for error in results.into_iter().filter_map(Result::err) {
        assert_eq!(error.kind(), ErrorKind::Conflict);
    }
}

async fn version_is_one_writers(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..32 {
        let agent = mesh.agent("ann").unwrap();
        tasks.spawn(async move { agent.push("k", n).await.unwrap().version });
    }
    assert_eq!(tasks.join_all().await.into_iter().collect::<HashSet<_>>().len(), 32);
}

async fn batch_is_whole_or_not_at_all(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let agent = mesh.agent("ann").unwrap();
    agent.push("old", 1).await.unwrap();
    agent.batch().push("a", 1).push("b", 2).remove("old").commit().await.unwrap();
    assert_eq!(keys(&agent).await, ["a", "b"]);
    let torn = agent.batch().push("c", 3).remove("b");
    let torn = torn.push_with("a", 9, |push| push.if_version(Expected::Absent)).commit().await;
    assert_eq!(kind(torn), ErrorKind::Conflict);
    agent.push("later", 1).await.unwrap();
    for mesh in [mesh, bed.mesh("a").await] {
        assert_eq!(keys(&mesh.agent("ann").unwrap()).await, ["a", "b", "later"]);
        assert_usage(&mesh).await;
    }
}

async fn batch_refuses_a_key_twice(bed: Bed) {
    let agent = bed.mesh("a").await.agent("ann").unwrap();
    assert_eq!(kind(agent.batch().push("k", 1).push("k", 2).commit().await), ErrorKind::Invalid);
    assert_eq!(kind(agent.batch().push("k", 1).remove("k").commit().await), ErrorKind::Invalid);
    assert_eq!(kind(agent.batch().commit().await), ErrorKind::Invalid);
    let large = (0..257).fold(agent.batch(), |batch, n| batch.push(format!("k{n}"), n));
    assert_eq!(kind(large.commit().await), ErrorKind::LimitExceeded);
    assert!(keys(&agent).await.is_empty());
}

async fn batch_is_never_seen_half(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let writer = mesh.agent("ann").unwrap();
    writer.batch().push("left", 0).push("right", 0).commit().await.unwrap();
    let reader = bed.mesh("a").await.agent("ann").unwrap();
    let writes = tokio::spawn(async move {
        for n in 1..40 {
            writer.batch().push("left", n).push("right", n).commit().await.unwrap();
        }
    });
    while !writes.is_finished() {
        for agent in [&reader, &mesh.agent("ben").unwrap()] {
            let seen = agent.all(&Filter::new()).await.unwrap();
            let versions: HashSet<_> = seen.iter().map(|entry| entry.version()).collect();
            assert_eq!((seen.len(), versions.len()), (2, 1));
        }
        tokio::task::yield_now().await;
    }
    writes.await.unwrap();
}

async fn batch_of_a_caller_who_gives_up(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let agent = mesh.agent("ann").unwrap();
    for round in 0..40_u32 {
        let mut push = std::pin::pin!(agent.batch().push("left", round).push("right", round).commit());
        for _ in 0..round % 4 {
            let poll = std::future::poll_fn(|context| Poll::Ready(push.as_mut().poll(context).is_ready()));
            if poll.await {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    agent.push("after", 1).await.unwrap();
    let (left, right) = (agent.get::<u32>("left").await.unwrap(), agent.get::<u32>("right").await.unwrap());
    assert!(left.is_some() && left == right);
    assert_eq!(bed.mesh("a").await.agent("ann").unwrap().get::<u32>("right").await.unwrap(), left);
}

async fn operation_repeated_is_done_once(mut bed: Bed) {
    let agent = bed.mesh("a").await.agent("ann").unwrap();
    let first = agent.push("k", 1).operation("op").await.unwrap().version;
    agent.push("k", 2).await.unwrap();
    assert_eq!(agent.push("k", 1).operation("op").await.unwrap().version, first);
    assert_eq!(agent.get::<u8>("k").await.unwrap(), Some(2), "the retry wrote nothing");
    bed.reopen().await;
    let agent = bed.mesh("a").await.agent("ann").unwrap();
    assert_eq!(agent.push("k", 1).operation("op").await.unwrap().version, first);
    bed.clock().advance(Duration::from_secs(24 * 3600));
    agent.push("k", 9).operation("op").await.expect("an id is free again after 24 hours");
}

async fn operation_of_another_agent_is_another(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let (ann, ben) = (mesh.agent("ann").unwrap(), mesh.agent("ben").unwrap());
    ann.push("k", 1).operation("op").await.unwrap();
    ben.push("k", 2).operation("op").await.unwrap();
    mesh.push("k", 3).operation("op").await.unwrap();
    assert_eq!(ann.get::<u8>("k").await.unwrap(), Some(3));
}

async fn operation_id_is_bound_to_its_arguments(bed: Bed) {
    let agent = bed.mesh("a").await.agent("ann").unwrap();
    agent.push("k", 1).operation("op").await.unwrap();
    assert_eq!(kind(agent.push("k", 2).operation("op").await), ErrorKind::Invalid);
    assert_eq!(kind(agent.push("other", 1).operation("op").await), ErrorKind::Invalid);
    assert_eq!(kind(agent.push("k", 1).topic("t").operation("op").await), ErrorKind::Invalid);
    assert_eq!(agent.get::<u8>("k").await.unwrap(), Some(1));
}

async fn cache_of_any_size_reads_the_same(bed: Bed) {
    for size in [0, 1_000, 1 << 20] {
        let mesh = bed.mesh_with("a", |config| config.cache_bytes = size).await;
        let agent = mesh.agent("ann").unwrap();
        for n in 0..30_u32 {
            agent.push(format!("k{n}"), vec![n; 40]).await.unwrap();
        }
        for n in (0..30_u32).chain((0..30).rev()) {
            assert_eq!(agent.get::<Vec<u32>>(format!("k{n}")).await.unwrap(), Some(vec![n; 40]));
        }
        assert_eq!(agent.all(&Filter::new().prefix("k1")).await.unwrap().len(), 11);
    }
}

async fn handles_see_each_others_writes(bed: Bed) {
    let (here, there) = (bed.mesh("a").await, bed.mesh("a").await);
    let (here, there) = (here.agent("ann").unwrap(), there.agent("ann").unwrap());
    for n in 0..20 {
        there.push("k", n).ttl(Duration::from_secs(60)).await.unwrap();
        assert_eq!(here.get::<i32>("k").await.unwrap(), Some(n));
        here.push("k", -n).await.unwrap();
        assert_eq!(there.get::<i32>("k").await.unwrap(), Some(-n));
    }
}

async fn handles_answer_no_write_from_an_old_index(bed: Bed) {
    let (one, two) = (bed.mesh("a").await, bed.mesh("a").await);
    for n in 0..10 {
        let (writer, other) = if n % 2 == 0 { (&one, &two) } else { (&two, &one) };
        writer.push("k", n).await.unwrap();
        assert!(other.remove("k").await.unwrap(), "what is there can be removed");
        other.push("k", n).await.unwrap();
        assert_eq!(kind(writer.push("k", n).if_version(Expected::Absent).await), ErrorKind::Conflict);
        assert!(writer.remove("k").await.unwrap());
        other.push("k", n).if_version(Expected::Absent).await.expect("what is gone is absent");
        let ann = other.agent("ann").unwrap();
        ann.subscribe(["t"]).await.unwrap();
        assert_eq!(writer.delete_topic("t").await.unwrap().subscribers, 1);
        other.clear().await.unwrap();
        assert_eq!(writer.clear().await.unwrap(), 0);
    }
}

async fn handles_see_each_others_deletes(bed: Bed) {
    let (here, there) = (bed.mesh("a").await, bed.mesh("a").await);
    let (ann, ben) = (here.agent("ann").unwrap(), there.agent("ben").unwrap());
    for n in 0..5 {
        ann.push("k", n).await.unwrap();
        ann.push("t", n).topic("t").await.unwrap();
        assert_eq!(ben.get::<i32>("k").await.unwrap(), Some(n));
        ann.remove("k", None).await.unwrap();
        assert_eq!(ben.get::<i32>("k").await.unwrap(), None);
        ben.subscribe(["t"]).await.unwrap();
        here.delete_topic("t").await.unwrap();
        assert!(keys(&ben).await.is_empty());
        ann.push("k", n).await.unwrap();
        here.clear().await.unwrap();
        assert_eq!(there.size().await.unwrap(), 0);
    }
}

async fn handles_see_each_others_permissions(bed: Bed) {
    let (here, there) = (bed.mesh("a").await, bed.mesh("a").await);
    let agent = there.agent("ann").unwrap();
    agent.push("k", 1).topic("t").await.unwrap();
    agent.subscribe(["t"]).await.unwrap();
    here.set_read_permissions("ann", Some(vec![])).await.unwrap();
    assert_eq!(agent.get::<u8>("k").await.unwrap(), None);
    here.set_post_permissions("ann", Some(vec![])).await.unwrap();
    assert_eq!(kind(agent.push("new", 1).topic("t").await), ErrorKind::Denied);
}

async fn fill(bed: &Bed) {
    let mesh = bed.mesh("a").await;
    let agent = mesh.agent("ann").unwrap();
    agent.push("k", 1).topic("t").ttl(Duration::from_secs(60)).await.unwrap();
    agent.push("gone", 1).await.unwrap();
    agent.subscribe(["t"]).await.unwrap();
    mesh.set_post_permissions("ben", Some(vec![])).await.unwrap();
    agent.remove("gone", None).await.unwrap();
    agent.batch().push("left", "x").push("right", "x").commit().await.unwrap();
}

async fn assert_filled(bed: &Bed) {
    let mesh = bed.mesh("a").await;
    let agent = mesh.agent("ann").unwrap();
    assert_eq!(keys(&agent).await, ["k", "left", "right"]);
    let entry = agent.entry("k").await.unwrap().unwrap();
    assert_eq!((entry.json(), entry.author()), ("1", Some("ann")));
    assert_eq!(entry.expires().unwrap().0, START.0 + 60_000);
    assert_eq!(mesh.post_permissions("ben").await.unwrap().as_deref(), Some(&[][..]));
    assert_usage(&mesh).await;
    bed.clock().advance(Duration::from_secs(60));
    assert_eq!(keys(&agent).await, ["left", "right"]);
}

async fn everything_survives_a_reopen(mut bed: Bed) {
    fill(&bed).await;
    bed.reopen().await;
    assert_filled(&bed).await;
}

async fn everything_survives_a_crash(mut bed: Bed) {
    fill(&bed).await;
    bed.crash().await;
    assert_filled(&bed).await;
}
