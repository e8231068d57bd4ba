//! What a world does: operations with small names, the same for every user.

use proptest::prelude::*;

pub const USERS: usize = 6;
/// The agents; the actor after the last of them is the host.
pub const AGENTS: [&str; 3] = ["one", "three", "two"];
pub const HOST: usize = AGENTS.len();
pub const KEYS: [&str; 5] = ["a", "ab", "b", "shared/x", "shared/y"];
pub const TOPICS: [&str; 3] = ["blue", "green", "red"];
/// One name begins with another, and they stand side by side.
pub const THREADS: [&str; 3] = ["t", "t1", "u"];

/// Which of some names, a bit for each.
pub type Mask = u8;

#[derive(Clone, Debug)]
pub enum Op {
    /// A user, an actor of the user's, what it does.
    At(usize, usize, Act),
    /// Milliseconds that pass.
    Turn(u64),
    /// The wall clock is set 30 seconds back, or right again.
    Jump(bool),
    /// All ends and is opened again: in order, or as after a crash.
    Reopen(bool),
}

#[derive(Clone, Debug)]
pub enum Act {
    Push(PushOp),
    /// The last push with an operation id, once more.
    Again,
    Batch(Vec<(PushOp, bool)>),
    Get(usize),
    GetMany(Vec<usize>),
    All(List),
    Keys(List),
    Look,
    Remove(usize, Expect),
    Clear,
    Sweep,
    Register(usize),
    Unregister(usize),
    Subscribe(Mask),
    Unsubscribe(Mask),
    RegisterTopics(usize, Mask),
    Post(usize, Option<Mask>),
    Read(usize, Option<Mask>),
    DeleteTopic(usize),
    /// Whether an agent is an admin.
    Admin(usize, bool),
    UndoList,
    /// Of what can be undone, the latest first.
    Undo(usize),
    Purge(Option<usize>),
    Create(usize, Option<Mask>),
    Append(usize, Vec<Line>),
    Page {
        thread: usize,
        way: u8,
        seq: u64,
        count: usize,
    },
    Redact(usize, u64),
    DeleteThread(usize),
    Threads(Option<usize>, usize),
    Log(Option<u64>, usize),
    Watch {
        changes: usize,
        lazy: bool,
        prefix: bool,
        topic: Option<usize>,
    },
    Drain,
    /// Keeps this agent's handle as it is now.
    Keep,
    /// Does something with the handle that was kept.
    Kept(bool),
    Export,
    Backup,
    Restore,
    Erase,
    /// Ends the session, whose handles end with it.
    End,
    Audit,
}

#[derive(Clone, Debug)]
pub struct PushOp {
    pub key: usize,
    pub restricted: bool,
    pub agents: Mask,
    pub topics: Mask,
    pub ttl: Option<u64>,
    pub expect: Expect,
    pub size: u8,
    pub id: Option<u8>,
}

#[derive(Clone, Copy, Debug)]
pub enum Expect {
    Anything,
    Absent,
    /// The version that the key has.
    Current,
    Wrong,
}

#[derive(Clone, Debug)]
pub struct List {
    pub prefix: &'static str,
    pub topic: Option<usize>,
    pub after: Option<usize>,
    pub limit: Option<usize>,
}

#[derive(Clone, Debug)]
pub struct Line {
    pub role: u8,
    pub id: Option<u8>,
    pub text: u8,
    pub meta: bool,
}

pub fn names(all: &[&'static str], mask: Mask) -> Vec<&'static str> {
    all.iter().enumerate().filter(|(place, _)| mask >> place & 1 == 1).map(|(_, name)| *name).collect()
}

fn mask() -> impl Strategy<Value = Mask> {
    0..8_u8
}

/// None in most cases.
fn few() -> impl Strategy<Value = Mask> {
    prop_oneof![2 => Just(0), 1 => 1..8_u8]
}

fn expect() -> impl Strategy<Value = Expect> {
    prop_oneof![
        6 => Just(Expect::Anything),
        1 => Just(Expect::Absent),
        2 => Just(Expect::Current),
        1 => Just(Expect::Wrong),
    ]
}

fn push() -> impl Strategy<Value = PushOp> {
    let ttl = prop_oneof![3 => Just(None), 1 => (1..20_u64).prop_map(|seconds| Some(seconds * 1_000))];
    let id = prop_oneof![4 => Just(None), 1 => (0..3_u8).prop_map(Some)];
    (0..KEYS.len(), prop::bool::weighted(0.1), few(), few(), ttl, expect(), 0..30_u8, id).prop_map(
        |(key, restricted, agents, topics, ttl, expect, size, id)| PushOp {
            key,
            restricted,
            agents,
            topics,
            ttl,
            expect,
            size,
            id,
        },
    )
}

fn list() -> impl Strategy<Value = List> {
    let prefix = prop_oneof![2 => Just(""), 1 => Just("a"), 1 => Just("shared/")];
    let (topic, after) = (prop::option::weighted(0.2, 0..3_usize), prop::option::weighted(0.2, 0..5_usize));
    (prefix, topic, after, prop::option::weighted(0.3, 0..4_usize))
        .prop_map(|(prefix, topic, after, limit)| List { prefix, topic, after, limit })
}

fn line() -> impl Strategy<Value = Line> {
    (0..4_u8, prop::option::weighted(0.4, 0..4_u8), 0..3_u8, prop::bool::weighted(0.3))
        .prop_map(|(role, id, text, meta)| Line { role, id, text, meta })
}

fn act() -> impl Strategy<Value = Act> {
    let (key, agent, topic, thread) = (0..KEYS.len(), 0..AGENTS.len(), 0..TOPICS.len(), 0..THREADS.len());
    let page = (thread.clone(), 0..4_u8, 0..8_u64, 0..5_usize);
    let changes = prop_oneof![1..5_usize, Just(100)];
    let watch = (changes, any::<bool>(), prop::bool::weighted(0.2), prop::option::weighted(0.2, 0..3_usize));
    let entries = prop_oneof![
        24 => push().prop_map(Act::Push),
        3 => Just(Act::Again),
        5 => prop::collection::vec((push(), prop::bool::weighted(0.3)), 0..5).prop_map(Act::Batch),
        12 => key.clone().prop_map(Act::Get),
        3 => prop::collection::vec(key.clone(), 0..4).prop_map(Act::GetMany),
        6 => list().prop_map(Act::All),
        4 => list().prop_map(Act::Keys),
        4 => Just(Act::Look),
        7 => (key, expect()).prop_map(|(key, expect)| Act::Remove(key, expect)),
        1 => Just(Act::Clear),
        2 => Just(Act::Sweep),
    ];
    let agents = prop_oneof![
        2 => agent.clone().prop_map(Act::Register),
        3 => agent.clone().prop_map(Act::Unregister),
        6 => mask().prop_map(Act::Subscribe),
        4 => mask().prop_map(Act::Unsubscribe),
        2 => (agent.clone(), mask()).prop_map(|(agent, topics)| Act::RegisterTopics(agent, topics)),
        2 => (agent.clone(), prop::option::of(mask())).prop_map(|(agent, topics)| Act::Post(agent, topics)),
        2 => (agent.clone(), prop::option::of(mask())).prop_map(|(agent, topics)| Act::Read(agent, topics)),
        2 => topic.prop_map(Act::DeleteTopic),
        1 => (agent, any::<bool>()).prop_map(|(agent, admin)| Act::Admin(agent, admin)),
        1 => Just(Act::UndoList),
        4 => (0..4_usize).prop_map(Act::Undo),
        1 => prop::option::weighted(0.7, 0..4_usize).prop_map(Act::Purge),
        2 => Just(Act::Keep),
        3 => any::<bool>().prop_map(Act::Kept),
    ];
    let history = prop_oneof![
        3 => (thread.clone(), prop::option::weighted(0.7, mask())).prop_map(|(t, agents)| Act::Create(t, agents)),
        12 => (thread.clone(), prop::collection::vec(line(), 0..4)).prop_map(|(t, lines)| Act::Append(t, lines)),
        10 => page.prop_map(|(thread, way, seq, count)| Act::Page { thread, way, seq, count }),
        4 => (thread.clone(), 0..6_u64).prop_map(|(thread, seq)| Act::Redact(thread, seq)),
        1 => thread.clone().prop_map(Act::DeleteThread),
        3 => (prop::option::of(thread), 0..4_usize).prop_map(|(after, limit)| Act::Threads(after, limit)),
    ];
    let rest = prop_oneof![
        3 => (prop::option::of(0..20_u64), 0..9_usize).prop_map(|(before, limit)| Act::Log(before, limit)),
        6 => watch.prop_map(|(changes, lazy, prefix, topic)| Act::Watch { changes, lazy, prefix, topic }),
        4 => Just(Act::Drain),
        2 => Just(Act::Export),
        1 => Just(Act::Backup),
        1 => Just(Act::Restore),
        1 => Just(Act::Erase),
        1 => Just(Act::End),
        4 => Just(Act::Audit),
    ];
    prop_oneof![7 => entries, 3 => agents, 3 => history, 2 => rest]
}

pub fn op() -> impl Strategy<Value = Op> {
    // One user has half of it, so that much comes together.
    let user = prop_oneof![1 => Just(0), 1 => 0..USERS];
    let actor = prop_oneof![4 => 0..AGENTS.len(), 1 => Just(HOST)];
    prop_oneof![
        60 => (user, actor, act()).prop_map(|(user, actor, act)| Op::At(user, actor, act)),
        4 => prop_oneof![
            6 => 1..9_000_u64,
            2 => Just(1_000),
            1 => Just(70_000),
            1 => Just(25 * 3_600_000),
        ].prop_map(Op::Turn),
        2 => any::<bool>().prop_map(Op::Jump),
        1 => any::<bool>().prop_map(Op::Reopen),
    ]
}
