//! Limits of what a user uses: exact, in the commit, whoever else writes.

use std::time::Duration;

use syntha_mesh::{
    Agent, Error, ErrorKind, Exceeded, Filter, Guard, Limit, Mesh, Message, ResourceLimits, UserLimits,
};

use super::{assert_usage, checks, keys, kind};
use crate::harness::Bed;

checks![
    limits_of_contexts_are_exact,
    limits_of_agents_are_exact,
    limits_of_topics_are_exact,
    limits_of_storage_are_exact_to_the_byte,
    limits_of_history_are_exact_to_the_byte,
    limits_of_values_are_exact_to_the_byte,
    limits_are_given_back_by_removals,
    limits_are_given_back_by_sweeps,
    limits_are_given_back_by_the_end_of_an_undo,
    limits_are_given_back_by_history,
    limits_are_given_back_by_topics,
    limits_below_usage_refuse_growth_alone,
    limits_count_a_batch_as_one,
    limits_hold_an_undo,
    limits_refuse_and_leave_nothing,
    limits_of_a_stale_handle_are_those_of_the_store,
    limits_admit_one_of_racing_writers,
    limits_admit_one_of_racing_handles,
    limits_hold_at_once_for_every_handle,
    limits_survive_a_reopen,
    limits_come_in_layers,
    limits_of_an_unknown_plan_admit_nothing,
    limits_are_set_by_the_host_alone,
    limits_are_no_agent,
    limits_of_calls_a_second,
    limits_of_sessions_count_what_is_open,
    limits_are_shown_with_what_is_used,
];

/// The user's mesh with limits of the deployment.
async fn limited(bed: &Bed, limits: ResourceLimits) -> Mesh {
    bed.mesh_with("a", |config| config.limits = limits).await
}

/// What stands against a call that must be refused.
#[track_caller]
fn exceeded<T>(result: Result<T, Error>) -> (Limit, u64, u64) {
    let Err(error) = result else { panic!("it succeeded, and should have been refused") };
    assert_eq!(error.kind(), ErrorKind::LimitExceeded, "{error}");
    let Exceeded { limit, most, used, .. } = error.exceeded().expect("a limit stands against it");
    assert!(!error.is_retryable() && error.to_string().contains(&most.to_string()));
    (limit, most, used)
}

async fn limits_of_contexts_are_exact(bed: Bed) {
    let mesh = limited(&bed, ResourceLimits::new().max_contexts(3)).await;
    let ann = mesh.agent("ann").unwrap();
    for key in ["k1", "k2", "k3"] {
        ann.push(key, 1).await.unwrap();
    }
    assert_eq!(exceeded(ann.push("k4", 1).await), (Limit::Contexts, 3, 3));
    assert_eq!(exceeded(mesh.push("k4", 1).await), (Limit::Contexts, 3, 3), "the host's own too");
    ann.push("k3", "longer than before").await.unwrap();
    assert!(mesh.remove("k1").await.unwrap());
    ann.push("k4", 1).await.unwrap();
    assert_eq!(exceeded(ann.push("k1", 1).await), (Limit::Contexts, 3, 3));
    assert_eq!(keys(&ann).await, ["k2", "k3", "k4"]);
    assert_usage(&mesh).await;
}

async fn limits_of_agents_are_exact(bed: Bed) {
    let mesh = limited(&bed, ResourceLimits::new().max_agents(2)).await;
    let (ann, cat) = (mesh.agent("ann").unwrap(), mesh.agent("cat").unwrap());
    ann.push("k", 1).agents(["ben"]).await.unwrap();
    let full = (Limit::Agents, 2, 2);
    assert_eq!(exceeded(ann.push("l", 1).agents(["cat"]).await), full);
    assert_eq!(exceeded(cat.push("l", 1).await), full);
    assert_eq!(exceeded(cat.subscribe(["t"]).await), full);
    assert_eq!(exceeded(mesh.register_agent("cat").await), full);
    assert_eq!(exceeded(mesh.set_trusted("cat", true).await), full);
    assert_eq!(exceeded(ann.thread("h").unwrap().create_for(["cat"]).await), full);
    assert_eq!(exceeded(cat.thread("h").unwrap().append(Message::user("hi")).await), full);
    assert_eq!(exceeded(ann.batch().push_with("l", 1, |push| push.agents(["cat"])).commit().await), full);
    assert_eq!(mesh.agents().await.unwrap().len(), 2);
    ann.push("l", 1).agents(["ann", "ben"]).await.unwrap();
    assert!(mesh.unregister_agent("ben").await.unwrap());
    cat.push("m", 1).await.unwrap();
    assert_usage(&mesh).await;
}

async fn limits_of_topics_are_exact(bed: Bed) {
    let mesh = limited(&bed, ResourceLimits::new().max_topics(2)).await;
    let (ann, other) = (mesh.agent("ann").unwrap(), bed.mesh("a").await);
    ann.push("k", 1).topic("t1").await.unwrap();
    ann.subscribe(["t1", "t2"]).await.unwrap();
    let full = (Limit::Topics, 2, 2);
    assert_eq!(exceeded(ann.push("l", 1).topics(["t1", "t3"]).await), full);
    assert_eq!(exceeded(ann.subscribe(["t3"]).await), full);
    ann.push("l", 1).topics(["t1", "t2"]).await.unwrap();
    ann.unsubscribe(["t2"]).await.unwrap();
    assert_eq!(exceeded(ann.subscribe(["t3"]).await), full, "an entry is for it");
    ann.push("l", 1).topic("t1").await.unwrap();
    ann.subscribe(["t3"]).await.unwrap();
    // Another handle without limits changes what is counted.
    other.agent("ben").unwrap().push("m", 1).topic("t4").await.unwrap();
    other.register_agent_topics("ann", ["t1"]).await.unwrap();
    assert_eq!(exceeded(ann.push("n", 1).topic("t5").await), full);
    mesh.delete_topic("t1").await.unwrap();
    ann.push("n", 1).topic("t5").await.unwrap();
    assert_eq!(exceeded(ann.push("o", 1).topic("t6").await), full);
    mesh.clear().await.unwrap();
    ann.push("o", 1).topics(["t6", "t7"]).await.unwrap();
    assert_eq!(exceeded(ann.push("p", 1).topic("t8").await), full);
}

/// A value whose entry under a key of one byte has so many bytes.
fn sized(bytes: usize) -> String {
    "x".repeat(bytes - 3)
}

async fn limits_of_storage_are_exact_to_the_byte(bed: Bed) {
    let mesh = limited(&bed, ResourceLimits::new().storage_limit_bytes(100)).await;
    let ann = mesh.agent("ann").unwrap();
    ann.push("k", sized(60)).await.unwrap();
    assert_eq!(exceeded(ann.push("l", sized(41)).await), (Limit::Storage, 100, 60));
    ann.push("l", sized(40)).await.unwrap();
    assert_eq!(exceeded(ann.push("l", sized(41)).await), (Limit::Storage, 100, 100));
    ann.push("l", sized(39)).await.unwrap();
    let thread = ann.thread("h").unwrap();
    assert!(thread.create().await.unwrap(), "the one byte of its name");
    assert_eq!(exceeded(thread.append(Message::user("")).await).0, Limit::Storage);
    assert_eq!(exceeded(ann.thread("i").unwrap().create().await).0, Limit::Storage);
    ann.push("k", sized(61)).await.map(drop).unwrap_err();
    assert_usage(&mesh).await;
    assert_eq!(mesh.usage_report().await.unwrap().of(Limit::Storage).unwrap().remaining(), Some(0));
}

async fn limits_of_history_are_exact_to_the_byte(bed: Bed) {
    let say = async |mesh: &Mesh, count: usize| -> Result<(), Error> {
        let thread = mesh.agent("ann").unwrap().thread("talk").unwrap();
        for n in 0..count {
            thread.append(Message::user("hello").id(format!("{n}"))).await?;
        }
        Ok(())
    };
    let measure = bed.mesh("measured").await;
    say(&measure, 3).await.unwrap();
    let bytes = measure.usage().await.unwrap().1.history_bytes;
    for (limits, limit) in [
        (ResourceLimits::new().max_history_bytes(bytes), Limit::History),
        (ResourceLimits::new().storage_limit_bytes(bytes), Limit::Storage),
    ] {
        let user = limit.name();
        let mesh = bed.mesh_with(user, |config| config.limits = limits).await;
        say(&mesh, 3).await.unwrap();
        assert_eq!(exceeded(say(&mesh, 4).await), (limit, bytes, bytes));
        let one_less = limits.with(limit, Some(bytes - 1));
        let tight = bed.mesh_with(&format!("{user}-less"), |config| config.limits = one_less).await;
        assert_eq!(exceeded(say(&tight, 3).await).0, limit);
        say(&tight, 2).await.unwrap();
        assert_eq!(
            tight.agent("ann").unwrap().thread("talk").unwrap().last(9).await.unwrap().messages.len(),
            2
        );
    }
}

async fn limits_of_values_are_exact_to_the_byte(bed: Bed) {
    let mesh = limited(&bed, ResourceLimits::new().max_value_bytes(100)).await;
    let ann = mesh.agent("ann").unwrap();
    ann.push("k", "x".repeat(98)).await.unwrap();
    let (limit, most, used) = exceeded(ann.push("k", "x".repeat(99)).await);
    assert!((limit, most) == (Limit::Value, 100) && (101..=101).contains(&used));
    assert_eq!(exceeded(ann.batch().push("k", "x".repeat(5_000)).commit().await).0, Limit::Value);
    let thread = ann.thread("h").unwrap();
    thread.append(Message::user("x".repeat(100 - r#"{"content":""}"#.len()))).await.unwrap();
    assert_eq!(exceeded(thread.append(Message::user("x".repeat(100))).await), (Limit::Value, 100, 114));
    // A limit of the user's own may be higher than the deployment's, and lower.
    let own = |bytes| UserLimits::new().own(ResourceLimits::new().max_value_bytes(bytes));
    mesh.set_limits(own(200)).await.unwrap();
    ann.push("k", "x".repeat(198)).await.unwrap();
    assert_eq!(exceeded(ann.push("k", "x".repeat(199)).await), (Limit::Value, 200, 201));
    mesh.set_limits(own(10)).await.unwrap();
    assert_eq!(exceeded(ann.push("k", "x".repeat(9)).await), (Limit::Value, 10, 11));
    assert_eq!(ann.get::<String>("k").await.unwrap().unwrap().len(), 198);
}

/// Whether one more entry fits, which is taken away again.
async fn fits(mesh: &Mesh) -> bool {
    match mesh.push("probe", 1).await {
        Ok(_) => mesh.remove("probe").await.unwrap(),
        result => {
            exceeded(result);
            false
        }
    }
}

async fn limits_are_given_back_by_removals(bed: Bed) {
    let mesh = limited(&bed, ResourceLimits::new().max_contexts(2).storage_limit_bytes(20)).await;
    mesh.push("k", 1).await.unwrap();
    mesh.push("l", 1).await.unwrap();
    assert!(!fits(&mesh).await);
    mesh.remove("k").await.unwrap();
    assert!(fits(&mesh).await);
    mesh.push("k", sized(18)).await.unwrap();
    assert!(!fits(&mesh).await);
    mesh.clear().await.unwrap();
    assert_eq!(mesh.usage().await.unwrap().1.contexts, 0);
    mesh.push("k", sized(20)).await.unwrap();
    assert!(!fits(&mesh).await);
    assert_usage(&mesh).await;
}

async fn limits_are_given_back_by_sweeps(bed: Bed) {
    let mesh = limited(&bed, ResourceLimits::new().max_contexts(1).storage_limit_bytes(10)).await;
    mesh.push("k", sized(10)).ttl(Duration::from_secs(1)).await.unwrap();
    bed.clock().advance(Duration::from_secs(2));
    assert_eq!(mesh.size().await.unwrap(), 0);
    assert!(!fits(&mesh).await, "what is stored counts until it is swept");
    mesh.push("k", sized(9)).ttl(Duration::from_secs(1)).await.unwrap();
    bed.clock().advance(Duration::from_secs(3_600));
    assert_eq!(mesh.sweep().await.unwrap().deleted, 1);
    let usage = mesh.usage().await.unwrap().1;
    assert_eq!((usage.contexts, usage.context_bytes), (0, 0));
    mesh.push("l", sized(10)).await.unwrap();
    assert!(!fits(&mesh).await);
}

async fn limits_are_given_back_by_the_end_of_an_undo(bed: Bed) {
    let mesh = limited(&bed, ResourceLimits::new().max_contexts(1)).await;
    let ann = mesh.agent("ann").unwrap();
    ann.push("k", 1).await.unwrap();
    assert!(ann.remove("k", None).await.unwrap(), "what takes away is never refused");
    assert!(!fits(&mesh).await, "what is kept for an undo counts");
    let kept = mesh.undo_list(None, 10).await.unwrap().acts;
    mesh.undo(kept[0].id).await.unwrap();
    assert_eq!((keys(&ann).await, fits(&mesh).await), (vec!["k".to_owned()], false));
    ann.remove("k", None).await.unwrap();
    mesh.undo_purge_all().await.unwrap();
    assert!(fits(&mesh).await);
    ann.push("k", 1).await.unwrap();
    ann.remove("k", None).await.unwrap();
    bed.clock().advance(Duration::from_secs(25 * 3_600));
    assert!(!fits(&mesh).await, "it is there until it is swept");
    mesh.sweep().await.unwrap();
    assert!(fits(&mesh).await);
    assert_usage(&mesh).await;
}

async fn limits_are_given_back_by_history(bed: Bed) {
    let mesh = limited(&bed, ResourceLimits::new().max_history_bytes(200)).await;
    let thread = mesh.thread("talk").unwrap();
    let long = || Message::user("x".repeat(80));
    let first = thread.append(long()).await.unwrap();
    thread.append(long()).await.unwrap();
    assert_eq!(exceeded(thread.append(long()).await).0, Limit::History);
    assert!(mesh.redact_message("talk", first.seq).await.unwrap());
    thread.append(long()).await.unwrap();
    assert_eq!(exceeded(mesh.thread("other").unwrap().append(long()).await).0, Limit::History);
    assert!(mesh.threads(None, 9).await.unwrap().len() == 1, "a refused append makes no thread");
    assert!(mesh.delete_thread("talk").await.unwrap());
    assert_eq!(mesh.usage().await.unwrap().1.history_bytes, 0);
    mesh.thread("other").unwrap().append_all([long(), long()]).await.unwrap();
    assert_eq!(exceeded(mesh.thread("other").unwrap().append(long()).await).0, Limit::History);
}

async fn limits_are_given_back_by_topics(bed: Bed) {
    let mesh = limited(&bed, ResourceLimits::new().max_topics(1).max_contexts(2)).await;
    let ann = mesh.agent("ann").unwrap();
    ann.push("k", 1).topic("t").await.unwrap();
    ann.push("l", 1).topic("t").await.unwrap();
    assert_eq!(exceeded(ann.push("m", 1).await).0, Limit::Contexts);
    mesh.delete_topic("t").await.unwrap();
    ann.push("k", 1).topic("u").await.unwrap();
    ann.push("l", 1).await.unwrap();
    assert!(mesh.unregister_agent("ann").await.unwrap());
    assert_eq!(exceeded(mesh.push("l", 1).topic("t").await).0, Limit::Topics);
    mesh.push("k", 1).await.unwrap();
    mesh.push("l", 1).topic("t").await.unwrap();
    assert_usage(&mesh).await;
}

async fn limits_below_usage_refuse_growth_alone(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let ann = mesh.agent("ann").unwrap();
    for key in ["a", "b", "c", "d"] {
        ann.push(key, sized(10)).await.unwrap();
    }
    let own = ResourceLimits::new().max_contexts(2).storage_limit_bytes(25).max_agents(0);
    assert!(mesh.set_limits(UserLimits::new().own(own)).await.unwrap());
    assert_eq!(exceeded(ann.push("e", 1).await), (Limit::Contexts, 2, 4));
    assert_eq!(exceeded(ann.push("a", sized(11)).await), (Limit::Storage, 25, 40));
    ann.push("a", sized(10)).await.unwrap();
    ann.push("a", sized(9)).await.unwrap();
    ann.batch().remove("a").push("e", sized(9)).commit().await.map(drop).unwrap_err();
    assert_eq!(ann.get::<String>("a").await.unwrap(), Some(sized(9)));
    for key in ["a", "b", "c"] {
        mesh.remove(key).await.unwrap();
    }
    ann.push("e", sized(15)).await.unwrap();
    assert_eq!(exceeded(ann.push("d", sized(11)).await), (Limit::Storage, 25, 25));
    assert_usage(&mesh).await;
}

async fn limits_count_a_batch_as_one(bed: Bed) {
    let mesh = limited(&bed, ResourceLimits::new().max_contexts(2)).await;
    mesh.push("k1", 1).await.unwrap();
    mesh.push("k2", 1).await.unwrap();
    mesh.batch().push("k3", 1).remove("k1").commit().await.unwrap();
    mesh.batch().remove("k2").push("k4", 1).push("k3", 2).commit().await.unwrap();
    let over = mesh.batch().remove("k3").push("k5", 1).push("k6", 1).commit().await;
    assert_eq!(exceeded(over), (Limit::Contexts, 2, 2));
    let found = mesh.entries(&Filter::new()).await.unwrap();
    assert_eq!(found.iter().map(|entry| entry.key()).collect::<Vec<_>>(), ["k3", "k4"]);
    assert_usage(&mesh).await;
}

async fn limits_hold_an_undo(bed: Bed) {
    let mesh = limited(&bed, ResourceLimits::new().max_topics(1)).await;
    let ann = mesh.agent("ann").unwrap();
    ann.push("k", 1).topic("t").await.unwrap();
    ann.remove("k", None).await.unwrap();
    ann.push("l", 1).topic("u").await.unwrap();
    let kept = mesh.undo_list(None, 10).await.unwrap().acts;
    assert_eq!(exceeded(mesh.undo(kept[0].id).await), (Limit::Topics, 1, 1));
    assert_eq!(mesh.undo_list(None, 10).await.unwrap().acts.len(), 1);
    mesh.remove("l").await.unwrap();
    assert_eq!(mesh.undo(kept[0].id).await.unwrap().entries, 1);
    assert_usage(&mesh).await;
}

async fn limits_refuse_and_leave_nothing(bed: Bed) {
    let mesh = limited(&bed, ResourceLimits::new().max_contexts(1).max_history_bytes(10)).await;
    mesh.push("k", 1).await.unwrap();
    let before = (mesh.usage().await.unwrap().1, mesh.stats().await.unwrap());
    let (new, id) = (mesh.agent("new").unwrap(), "once");
    exceeded(new.push("l", 1).agents(["newer"]).topic("t").operation(id).await);
    exceeded(new.thread("long").unwrap().append(Message::user("too long")).await);
    exceeded(new.batch().push("k", 2).push("l", 1).commit().await);
    assert_eq!((mesh.usage().await.unwrap().1, mesh.stats().await.unwrap()), before);
    assert!(mesh.threads(None, 9).await.unwrap().is_empty() && mesh.agents().await.unwrap().is_empty());
    // One that is refused spoils nobody else's commit, and its id is not used up.
    let (fine, over) = (mesh.agent("ann").unwrap(), mesh.agent("ben").unwrap());
    let (fine, over) = tokio::join!(async { fine.push("k", 2).await }, async { over.push("l", 1).await });
    fine.unwrap();
    exceeded(over);
    assert_eq!(mesh.agents().await.unwrap().len(), 1);
    mesh.remove("k").await.unwrap();
    new.push("l", 1).agents(["newer"]).topic("t").operation(id).await.unwrap();
    assert_usage(&mesh).await;
}

async fn limits_of_a_stale_handle_are_those_of_the_store(bed: Bed) {
    let limits = ResourceLimits::new().max_contexts(2).max_agents(2).max_topics(2).storage_limit_bytes(100);
    let (one, two) = (limited(&bed, limits).await, limited(&bed, limits).await);
    one.agent("ann").unwrap().push("k", sized(50)).topic("t").await.unwrap();
    two.agent("ben").unwrap().push("l", sized(49)).topic("u").await.unwrap();
    // The first handle has not looked since.
    assert_eq!(exceeded(one.push("m", 1).await), (Limit::Contexts, 2, 2));
    one.remove("k").await.unwrap();
    assert_eq!(exceeded(two.register_agent("cat").await), (Limit::Agents, 2, 2));
    one.push("m", sized(30)).await.unwrap();
    assert_eq!(exceeded(two.push("m", sized(52)).await), (Limit::Storage, 100, 79));
    two.remove("m").await.unwrap();
    assert_eq!(exceeded(one.push("m", 1).topics(["v", "w"]).await).0, Limit::Topics);
    one.push("m", 1).topics(["u", "w"]).await.unwrap();
    assert_usage(&two).await;
}

/// All push at once, each under a key of its own: how many got in.
async fn race(agents: Vec<Agent>) -> usize {
    let mut tasks = tokio::task::JoinSet::new();
    for (n, agent) in agents.into_iter().enumerate() {
        tasks.spawn(async move {
            match agent.push(format!("raced-{n}"), 1).await {
                Ok(_) => 1,
                result => {
                    assert_eq!(exceeded(result), (Limit::Contexts, 10, 10));
                    0
                }
            }
        });
    }
    tasks.join_all().await.into_iter().sum()
}

async fn limits_admit_one_of_racing_writers(bed: Bed) {
    let mesh = limited(&bed, ResourceLimits::new().max_contexts(10).max_agents(1)).await;
    for n in 0..9 {
        mesh.agent("ann").unwrap().push(format!("k{n}"), 1).await.unwrap();
    }
    assert_eq!(race(vec![mesh.agent("ann").unwrap(); 100]).await, 1);
    assert_eq!(mesh.usage().await.unwrap().1.contexts, 10);
    assert_usage(&mesh).await;
}

async fn limits_admit_one_of_racing_handles(bed: Bed) {
    let limits = ResourceLimits::new().max_contexts(10);
    let (one, two) = (limited(&bed, limits).await, limited(&bed, limits).await);
    for n in 0..9 {
        one.agent("ann").unwrap().push(format!("k{n}"), 1).await.unwrap();
    }
    let agents = (0..100).map(|n| if n % 2 == 0 { &one } else { &two }.agent("ann").unwrap()).collect();
    assert_eq!(race(agents).await, 1);
    assert_eq!(two.usage().await.unwrap().1.contexts, 10);
    assert_usage(&one).await;
}

async fn limits_hold_at_once_for_every_handle(bed: Bed) {
    let (one, two) = (bed.mesh("a").await, bed.mesh("a").await);
    two.push("k", 1).await.unwrap();
    let none = UserLimits::new().own(ResourceLimits::new().max_contexts(1).max_value_bytes(5));
    assert!(one.set_limits(none.clone()).await.unwrap());
    assert!(!one.set_limits(none.clone()).await.unwrap(), "it is there already");
    assert_eq!(exceeded(two.push("l", 1).await), (Limit::Contexts, 1, 1));
    assert_eq!(exceeded(two.push("k", "12345").await).0, Limit::Value);
    // Raised by one, it is in the next call of the other or the one after: a text that was cut is stored by neither.
    let more = UserLimits::new().own(ResourceLimits::new().max_value_bytes(50));
    one.set_limits(more).await.unwrap();
    if let Err(error) = two.push("k", "x".repeat(48)).await {
        assert!(error.is_retryable() && error.retry_after() == Some(Duration::ZERO));
        two.push("k", "x".repeat(48)).await.unwrap();
    }
    assert_eq!(two.value("k").await.unwrap().unwrap().json(), format!("\"{}\"", "x".repeat(48)));
    one.set_limits(none.clone()).await.unwrap();
    assert_eq!(two.usage_report().await.unwrap().given, none);
    assert!(two.set_limits(UserLimits::new()).await.unwrap());
    one.push("l", 1).await.unwrap();
    assert_eq!(one.usage_report().await.unwrap().given, UserLimits::new());
}

async fn limits_survive_a_reopen(mut bed: Bed) {
    let given = UserLimits::new().own(ResourceLimits::new().max_contexts(2).max_topics(1));
    {
        let mesh = bed.mesh("a").await;
        mesh.set_limits(given.clone()).await.unwrap();
        mesh.push("k", 1).topic("t").await.unwrap();
    }
    for _ in 0..2 {
        bed.reopen().await;
        let mesh = bed.mesh("a").await;
        assert_eq!(mesh.usage_report().await.unwrap().given, given);
        assert_eq!(exceeded(mesh.push("l", 1).topic("u").await), (Limit::Topics, 1, 1));
        mesh.push("l", 1).await.unwrap();
        assert_eq!(exceeded(mesh.push("m", 1).await), (Limit::Contexts, 2, 2));
    }
    bed.crash().await;
    assert_eq!(exceeded(bed.mesh("a").await.push("m", 1).await), (Limit::Contexts, 2, 2));
}

async fn limits_come_in_layers(bed: Bed) {
    let mesh = bed
        .mesh_with("a", |config| {
            config.limits = ResourceLimits::new().max_contexts(1).max_agents(1);
            let free = ResourceLimits::new().max_contexts(2).max_topics(0);
            config.plans.insert("free".try_into().unwrap(), free);
        })
        .await;
    let most = async |limit| mesh.usage_report().await.unwrap().of(limit).unwrap().most;
    assert_eq!((most(Limit::Contexts).await, most(Limit::Topics).await), (Some(1), None));
    mesh.set_limits(UserLimits::new().plan("free").unwrap()).await.unwrap();
    assert_eq!((most(Limit::Contexts).await, most(Limit::Topics).await), (Some(2), Some(0)));
    let own = ResourceLimits::new().max_topics(u64::MAX).max_agents(2);
    mesh.set_limits(UserLimits::new().plan("free").unwrap().own(own)).await.unwrap();
    assert_eq!((most(Limit::Contexts).await, most(Limit::Topics).await), (Some(2), None));
    let ann = mesh.agent("ann").unwrap();
    ann.push("k", 1).agents(["ben"]).await.unwrap();
    ann.push("l", 1).topic("t").await.unwrap();
    assert_eq!(exceeded(ann.push("m", 1).await), (Limit::Contexts, 2, 2));
}

async fn limits_of_an_unknown_plan_admit_nothing(bed: Bed) {
    let mesh = bed.mesh("a").await;
    let ann = mesh.agent("ann").unwrap();
    ann.push("k", "12").await.unwrap();
    ann.push("l", 1).await.unwrap();
    mesh.set_limits(UserLimits::new().plan("gone").unwrap()).await.unwrap();
    for result in [
        ann.push("m", 1).await.map(drop),
        ann.push("k", "123").await.map(drop),
        ann.subscribe(["t"]).await.map(drop),
        ann.thread("h").unwrap().create().await.map(drop),
        mesh.register_agent("ben").await.map(drop),
    ] {
        let error = result.unwrap_err();
        assert!(error.kind() == ErrorKind::LimitExceeded && error.exceeded().is_none(), "{error}");
        assert!(error.to_string().contains("plan"));
    }
    assert!(!mesh.usage_report().await.unwrap().plan_is_known);
    assert_eq!(ann.get::<String>("k").await.unwrap().unwrap(), "12");
    ann.push("k", "1").await.unwrap();
    ann.remove("l", None).await.unwrap();
    mesh.set_limits(UserLimits::new()).await.unwrap();
    ann.push("m", 1).await.unwrap();
}

async fn limits_are_set_by_the_host_alone(bed: Bed) {
    let mesh = limited(&bed, ResourceLimits::new().max_contexts(1)).await;
    let session = mesh.guarded(Guard::new().0);
    assert_eq!(
        kind(session.set_limits(UserLimits::new().own(ResourceLimits::unlimited())).await),
        ErrorKind::Denied
    );
    assert_eq!(session.usage_report().await.unwrap().given, UserLimits::new());
    mesh.set_role("boss", syntha_mesh::Role::Admin).await.unwrap();
    let boss = session.agent("boss").unwrap();
    boss.push("k", 1).await.unwrap();
    assert_eq!(exceeded(boss.push("l", 1).await), (Limit::Contexts, 1, 1));
    // Their record is under no name that a call takes.
    assert_eq!(kind(mesh.unregister_agent("\0limits").await), ErrorKind::Invalid);
    assert_eq!(kind(mesh.agent("\0limits")), ErrorKind::Invalid);
}

async fn limits_are_no_agent(bed: Bed) {
    let mesh = bed.mesh("a").await;
    mesh.set_limits(UserLimits::new().own(ResourceLimits::new().max_agents(1))).await.unwrap();
    let again = bed.mesh("a").await;
    for mesh in [&mesh, &again] {
        assert!(mesh.agents().await.unwrap().is_empty());
        let stats = mesh.stats().await.unwrap();
        assert_eq!((stats.agents, stats.topics, mesh.usage().await.unwrap().1.agents), (0, 0, 0));
    }
    again.agent("ann").unwrap().push("k", 1).await.unwrap();
    let mut text = Vec::new();
    again.export(&mut text, |_| {}).await.unwrap();
    assert!(!String::from_utf8(text.clone()).unwrap().contains("limits"));
    let copy = bed.mesh("b").await;
    copy.import(&text[..], |_| {}).await.unwrap();
    assert_eq!(copy.usage_report().await.unwrap().given, UserLimits::new());
    assert!(again.unregister_agent("ann").await.unwrap() && again.clear().await.unwrap() == 1);
    assert_eq!(again.usage_report().await.unwrap().of(Limit::Agents).unwrap().most, Some(1));
}

async fn limits_of_calls_a_second(bed: Bed) {
    let mesh = limited(&bed, ResourceLimits::new().max_operations_per_second(4)).await;
    let (one, two) = (mesh.guarded(Guard::new().0), mesh.guarded(Guard::new().0));
    let ann = one.agent("ann").unwrap();
    ann.push("k", 1).await.unwrap();
    ann.entry("k").await.unwrap();
    two.entries(&Filter::new()).await.unwrap();
    ann.get_many(&["k"]).await.unwrap();
    for result in [
        ann.push("k", 2).await.map(drop),
        ann.entry("k").await.map(drop),
        two.value("k").await.map(drop),
        two.remove("k").await.map(drop),
        ann.keys(&Filter::new()).await.map(drop),
        ann.thread("h").unwrap().last(1).await.map(drop),
    ] {
        let error = result.unwrap_err();
        assert!(error.kind() == ErrorKind::Busy && error.is_retryable(), "{error}");
        assert_eq!(error.exceeded().unwrap().limit, Limit::Operations);
        assert_eq!(error.retry_after(), Some(Duration::from_millis(250)));
    }
    one.usage_report().await.unwrap();
    one.usage().await.unwrap();
    bed.clock().advance(Duration::from_millis(250));
    ann.push("k", 3).await.unwrap();
    assert_eq!(kind(ann.entry("k").await), ErrorKind::Busy);
    // Another user is not slowed.
    let other =
        bed.mesh_with("b", |config| config.limits = ResourceLimits::new().max_operations_per_second(4)).await;
    other.push("k", 1).await.unwrap();
    bed.clock().advance(Duration::from_secs(1));
    assert_eq!(ann.get::<u64>("k").await.unwrap(), Some(3));
}

async fn limits_of_sessions_count_what_is_open(bed: Bed) {
    let mesh = limited(&bed, ResourceLimits::new().max_sessions(2)).await;
    let open = || mesh.seat().map(|seat| mesh.guarded(Guard::new().0.seated(seat)));
    let (one, two) = (open().unwrap(), open().unwrap());
    assert_eq!(exceeded(open()), (Limit::Sessions, 2, 2));
    let ann = one.agent("ann").unwrap();
    drop(one);
    assert_eq!(exceeded(open()), (Limit::Sessions, 2, 2), "a handle of it is there");
    drop(ann);
    let three = open().unwrap();
    assert_eq!(mesh.usage_report().await.unwrap().of(Limit::Sessions).unwrap().used, Some(2));
    drop(three);
    let (guard, revoker) = Guard::new();
    let ended = mesh.guarded(guard.seated(mesh.seat().unwrap()));
    assert_eq!(exceeded(open()), (Limit::Sessions, 2, 2));
    revoker.revoke();
    let four = open().expect("what has ended does not count, whoever holds it");
    drop((two, four, ended, revoker));
    assert_eq!(mesh.usage_report().await.unwrap().of(Limit::Sessions).unwrap().used, Some(0));
}

async fn limits_are_shown_with_what_is_used(bed: Bed) {
    let limits = ResourceLimits::new().max_contexts(3).max_agents(5).max_topics(9).storage_limit_mb(1);
    let mesh = limited(&bed, limits).await;
    let ann = mesh.agent("ann").unwrap();
    ann.push("k", sized(10)).topics(["t", "u"]).await.unwrap();
    ann.subscribe(["u", "v"]).await.unwrap();
    ann.thread("talk").unwrap().create().await.unwrap();
    let report = mesh.guarded(Guard::new().0).usage_report().await.unwrap();
    let of = |limit| {
        let one = report.of(limit).unwrap();
        (one.used, one.most, one.remaining())
    };
    assert_eq!(of(Limit::Contexts), (Some(1), Some(3), Some(2)));
    assert_eq!(of(Limit::Agents), (Some(1), Some(5), Some(4)));
    assert_eq!(of(Limit::Topics), (Some(3), Some(9), Some(6)));
    assert_eq!(of(Limit::Storage), (Some(14), Some(1_000_000), Some(999_986)));
    assert_eq!(of(Limit::History), (Some(4), None, None));
    assert_eq!(of(Limit::Value), (None, Some(1 << 20), None));
    assert_eq!(of(Limit::Operations), (None, None, None));
    assert_eq!(report.limits.len(), Limit::ALL.len());
}
