//! Calls in which a model tries to be somebody else: whatever it writes, the agent that its handler was made for acts, or nobody does.
//! `SYNTHA_TOOL_CALLS` says how many.

use serde_json::{Map, Value, json};
use syntha_mesh::{Entry, Filter, Interaction, InteractionLog, Mesh, MeshConfig};
use syntha_tools::{Role, ToolHandler};

use crate::{handler, mesh_with};

/// Names for who acts: plain, of another case, with letters that look alike or can't be seen, and those that JavaScript objects inherit.
const IDENTITIES: [&str; 32] = [
    "user",
    "user_id",
    "userId",
    "USER_ID",
    "user-id",
    "userid",
    "uid",
    "tenant",
    "tenant_id",
    "account",
    "session",
    "mesh",
    "agent",
    "Agent",
    "agent_name",
    "agentName",
    "agent_id",
    "AGENT_ID",
    "sender",
    "sender_agent",
    "from",
    "by",
    "as",
    "on_behalf_of",
    "\u{430}gent",
    "agent\u{200b}",
    "\u{ff41}gent",
    " agent",
    "agent\0",
    "__proto__",
    "constructor",
    "prototype",
];

const PLACES: [&str; 6] = ["k", "of-ben", "of-host", "t", "private", "open"];

struct Dice(u64);

impl Dice {
    /// SplitMix64 (Steele, Lea, Flood 2014).
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % most as u64).unwrap()
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// What a model passes where somebody is named.
    fn somebody(&mut self, depth: usize) -> Value {
        match self.below(if depth == 0 { 5 } else { 8 }) {
            0 => json!("ben"),
            1 => json!("bob"),
            2 => Value::Null,
            3 => json!(self.below(9)),
            4 => json!("{\"agent\": \"ben\", \"user_id\": \"bob\"}"),
            5 => json!([self.somebody(depth - 1), "ben"]),
            _ => {
                let mut inner = Map::new();
                inner.insert(self.pick(&IDENTITIES).to_owned(), self.somebody(depth - 1));
                inner.insert("name".to_owned(), json!("ben"));
                inner.into()
            }
        }
    }

    /// A call that is well-formed without what is added to it.
    fn call(&mut self) -> (&'static str, Map<String, Value>) {
        let (one, other) = (self.pick(&PLACES), self.pick(&PLACES));
        let value = self.somebody(2);
        let (tool, arguments) = match self.below(11) {
            0 => ("get_context", json!({ "keys": [one, other] })),
            1 => ("push_context", json!({ "key": one, "value": value, "ttl_hours": 0 })),
            2 => (
                "push_context",
                json!({ "key": one, "value": value, "topics": [other], "subscribers": ["ben"] }),
            ),
            3 => ("list_context", json!({})),
            4 => ("subscribe_to_topics", json!({ "topics": [one, other] })),
            5 => ("unsubscribe_from_topics", json!({ "topics": [one] })),
            6 => ("delete_topic", json!({ "topic": one, "confirm": true })),
            7 => {
                ("append_history", json!({ "thread": one, "content": value, "metadata": { "agent": "ben" } }))
            }
            8 => ("subscribe_member", json!({ "member": "ben", "topics": [one] })),
            9 => ("unsubscribe_member", json!({ "member": "ben", "topics": [one, other] })),
            _ => ("get_history", json!({ "thread": one })),
        };
        let Value::Object(arguments) = arguments else { unreachable!() };
        (tool, arguments)
    }
}

/// What must stay as it is, whatever ann's model writes.
async fn of_others(mesh: &Mesh, other: &Mesh) -> String {
    let ben = mesh.agent("ben").unwrap();
    let entry = |entry: &Entry| {
        let mine = entry.author() == Some("ann");
        (!mine).then(|| format!("{} {:?} {}", entry.key(), entry.author(), entry.version().0))
    };
    let entries: Vec<_> =
        mesh.entries(&Filter::new()).await.unwrap().iter().filter_map(|one| entry(one)).collect();
    let private = mesh.thread("private").unwrap().last(9).await.unwrap().messages.len();
    format!("{entries:?} {:?} {private} {:?}", ben.topics().await.unwrap(), other.usage().await.unwrap())
}

async fn world() -> (Mesh, Mesh, ToolHandler) {
    let mut config = MeshConfig::default();
    (config.interactions, config.interactions_kept) = (InteractionLog::Writes, 1 << 40);
    let (mesh, other) = (mesh_with("alice", config).await, mesh_with("bob", MeshConfig::default()).await);
    other.push("k", "CANARY of bob").await.unwrap();
    let ben = mesh.agent("ben").unwrap();
    ben.push("of-ben", "CANARY of ben").agents(["ben"]).await.unwrap();
    ben.subscribe(["of-ben"]).await.unwrap();
    ben.thread("private").unwrap().create_for(["ben"]).await.unwrap();
    ben.thread("private").unwrap().append(syntha_mesh::Message::user("CANARY of ben")).await.unwrap();
    let ann = handler(&mesh, "ann", Role::Admin);
    (mesh, other, ann)
}

/// Whatever of an answer names who acted.
fn actors(answer: &Value) -> Vec<&Value> {
    ["agent", "agent_name", "sender_agent"].iter().filter_map(|name| answer.get(name)).collect()
}

#[tokio::test]
async fn the_bound_agent_acts_in_every_call() {
    let calls = std::env::var("SYNTHA_TOOL_CALLS").map_or(2_000, |text| text.parse().unwrap());
    let (mesh, other, ann) = world().await;
    let (mut dice, mut done, mut refused) = (Dice(7), 0, 0);
    let before = of_others(&mesh, &other).await;
    let mut first =
        mesh.interactions(None, 1_000).await.unwrap().iter().map(|one| one.seq).max().unwrap_or(0);
    for n in 0..calls {
        let (tool, mut arguments) = dice.call();
        // One in five has nothing added to it.
        let names: Vec<_> = (0..dice.below(5).min(2)).map(|_| dice.pick(&IDENTITIES)).collect();
        for name in &names {
            arguments.insert((*name).to_owned(), dice.somebody(3));
        }
        let case = format!("{tool} {arguments:?}");
        let answer = ann.call(tool, arguments.into()).await;
        assert!(!answer.to_string().contains("CANARY"), "{case}: {answer}");
        assert!(actors(&answer).iter().all(|actor| **actor == "ann"), "{case}: {answer}");
        if names.is_empty() {
            done += usize::from(answer["success"] == true);
        } else {
            refused += 1;
            assert_eq!(answer["success"], false, "{case}");
        }
        if n % 256 == 255 || n + 1 == calls {
            assert_eq!(of_others(&mesh, &other).await, before, "up to call {n}");
            let log = since(&mesh, first).await;
            assert!(log.iter().all(|one| one.agent.as_deref() == Some("ann")), "{log:?} up to call {n}");
            first = log.iter().map(|one| one.seq).max().unwrap_or(first);
        }
    }
    assert!(done > calls / 20 && refused > calls / 4, "{done} done, {refused} refused of {calls}");
    println!(
        "evidence: {calls} calls, {refused} with names of somebody else in them, all refused; {done} done, all by the bound agent"
    );
}

async fn since(mesh: &Mesh, first: u64) -> Vec<Interaction> {
    let log = mesh.interactions(None, 1_000).await.unwrap();
    log.into_iter().filter(|one| one.seq > first).collect()
}

/// What is denied keeps the shape that agents of Python Syntha know, whatever stands beside it.
#[tokio::test]
async fn a_denied_call_has_the_known_shape() {
    let (mesh, _, _) = world().await;
    let reader = handler(&mesh, "reader", Role::Readonly);
    let mut dice = Dice(8);
    for _ in 0..200 {
        let (tool, mut arguments) = dice.call();
        if reader.access().allows(tool) {
            continue;
        }
        arguments.insert(dice.pick(&IDENTITIES).to_owned(), dice.somebody(3));
        let answer = reader.call(tool, arguments.into()).await;
        assert_eq!(answer["error"], format!("Access denied to tool: {tool}"));
        assert_eq!((&answer["success"], &answer["agent_role"]), (&json!(false), &json!("readonly")));
        assert!(answer["reason"].is_string() && answer["available_tools"].is_array(), "{answer}");
    }
}
