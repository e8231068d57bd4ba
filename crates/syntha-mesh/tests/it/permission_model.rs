//! What an agent may do, compared with a second account of it: this one follows `docs/permissions.md` paragraph by paragraph and shares nothing
//! with the mesh but names. `SYNTHA_PERMISSION_CASES` says how many questions are asked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use syntha_mesh::{
    Act, Agent, CustomRole, Decision, Grant, Guard, KeyPrefix, ManualClock, Mesh, MeshConfig, Message,
    Narrow, Resource, Role, SessionGrants, ThreadId, Topic,
};
use syntha_store::{Batch, CreateMode, MemoryStore, Rule, Store, Timestamp, UserId};

const KEYS: [&str; 5] = ["a", "a/1", "a/b/1", "ab", "c"];
const PREFIXES: [&str; 5] = ["", "a", "a/", "a/b/", "c"];
const TOPICS: [&str; 3] = ["t", "tt", "u"];
const THREADS: [&str; 4] = ["open", "of me", "of other", "absent"];
const NOW: u64 = 1_700_000_000_000;

/// SplitMix64 (Steele, Lea, Flood 2014): the same cases for the same seed.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, most: u64) -> u64 {
        self.next() % most
    }

    /// Once in so many times.
    fn one_in(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }

    fn some<T: Copy>(&mut self, from: &[T]) -> Vec<T> {
        from.iter().copied().filter(|_| self.one_in(2)).collect()
    }
}

/// What a grant or a denial is on.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Topic(&'static str),
    Prefix(&'static str),
    Threads,
}

/// A grant or a denial: its letters are r, w (post), m, d.
#[derive(Clone, Debug)]
struct Card {
    place: Place,
    letters: Vec<char>,
    ends: Option<u64>,
}

impl Card {
    fn roll(dice: &mut Dice) -> Self {
        let place = match dice.below(5) {
            0 | 1 => Place::Topic(dice.pick(&TOPICS)),
            2 | 3 => Place::Prefix(dice.pick(&PREFIXES)),
            _ => Place::Threads,
        };
        let mut letters = dice.some(&['r', 'w', 'm', 'd']);
        if letters.is_empty() {
            letters.push('r');
        }
        let ends = dice.one_in(3).then(|| if dice.one_in(2) { NOW } else { NOW + 1 });
        Self { place, letters, ends }
    }

    fn grant(&self) -> Grant {
        let mut grant = match self.place {
            Place::Topic(topic) => Grant::topic(topic).unwrap(),
            Place::Prefix(prefix) => Grant::prefix(prefix).unwrap(),
            Place::Threads => Grant::threads(),
        };
        for letter in &self.letters {
            grant = match letter {
                'r' => grant.read(),
                'w' => grant.write(),
                'm' => grant.manage(),
                _ => grant.delete(),
            };
        }
        self.ends.map_or(grant.clone(), |at| grant.until(Timestamp(at)))
    }

    /// Whether its time has not come.
    fn stands(&self) -> bool {
        self.ends.is_none_or(|at| NOW < at)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    Host,
    Me,
    /// An agent that had my name before.
    Former,
    Other,
}

#[derive(Clone, Debug)]
struct Paper {
    key: &'static str,
    by: By,
    trusted: bool,
    everyone: bool,
    me: bool,
    topics: Vec<&'static str>,
}

#[derive(Clone, Debug)]
enum Hat {
    None,
    Standard(Role),
    Custom(Vec<Card>),
}

/// What a handle is narrowed to, once.
#[derive(Clone, Debug, Default)]
struct Fence {
    acts: Option<Vec<Act>>,
    prefixes: Option<Vec<&'static str>>,
    topics: Option<Vec<&'static str>>,
    threads: Option<Vec<&'static str>>,
}

impl Fence {
    fn roll(dice: &mut Dice) -> Self {
        Self {
            acts: dice.one_in(3).then(|| dice.some(&Act::ALL)),
            prefixes: dice.one_in(3).then(|| dice.some(&PREFIXES)),
            topics: dice.one_in(3).then(|| dice.some(&TOPICS)),
            threads: dice.one_in(3).then(|| dice.some(&THREADS)),
        }
    }

    fn narrow(&self) -> Narrow {
        let mut to = Narrow::new();
        if let Some(acts) = &self.acts {
            to = to.acts(acts.iter().copied());
        }
        if let Some(list) = &self.prefixes {
            to = to.prefixes(list.iter().map(|name| KeyPrefix::new(name).unwrap()));
        }
        if let Some(list) = &self.topics {
            to = to.topics(list.iter().map(|name| Topic::new(name).unwrap()));
        }
        if let Some(list) = &self.threads {
            to = to.threads(list.iter().map(|name| ThreadId::new(name).unwrap()));
        }
        to
    }

    /// Paragraph 2.
    fn leaves(&self, act: Act, on: On) -> bool {
        // Agents are made by the writes that name them.
        let act = if act == Act::Create { Act::Write } else { act };
        if let Some(acts) = &self.acts
            && !acts.iter().any(|one| *one == act || (act == Act::Write && *one == Act::Create))
        {
            return false;
        }
        match on {
            On::Mesh => true,
            On::Key(key) => {
                self.prefixes.as_ref().is_none_or(|list| list.iter().any(|prefix| key.starts_with(prefix)))
            }
            On::Topic(topic) => {
                let deletes_elsewhere = act == Act::Delete && self.prefixes.is_some();
                !deletes_elsewhere && self.topics.as_ref().is_none_or(|list| list.contains(&topic))
            }
            On::Thread(thread) => match &self.threads {
                Some(list) => list.contains(&thread),
                None => self.prefixes.is_none() && self.topics.is_none(),
            },
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum On {
    Mesh,
    Key(&'static str),
    Topic(&'static str),
    Thread(&'static str),
}

impl On {
    fn resource(self) -> Resource {
        match self {
            Self::Mesh => Resource::Mesh,
            Self::Key(key) => Resource::Key(key.try_into().unwrap()),
            Self::Topic(topic) => Resource::Topic(topic.try_into().unwrap()),
            Self::Thread(thread) => Resource::Thread(thread.try_into().unwrap()),
        }
    }

    /// The acts that it has.
    fn acts(self) -> &'static [Act] {
        match self {
            Self::Mesh => &[Act::Read, Act::Write, Act::Subscribe, Act::Create, Act::Permit, Act::Export],
            Self::Key(_) => &[Act::Read, Act::Write, Act::Delete],
            Self::Topic(_) => &[Act::Read, Act::Write, Act::Subscribe, Act::Manage, Act::Delete],
            Self::Thread(_) => &[Act::Read, Act::Write],
        }
    }

    fn all() -> Vec<Self> {
        let mut all = vec![Self::Mesh];
        all.extend(KEYS.map(Self::Key));
        all.extend(TOPICS.map(Self::Topic));
        all.extend(THREADS.map(Self::Thread));
        all
    }
}

/// Everything that decides what "me" may do.
#[derive(Clone, Debug)]
struct World {
    session: Vec<(SessionGrants, &'static str)>,
    fences: Vec<Fence>,
    registered: bool,
    hat: Hat,
    grants: Vec<Card>,
    denials: Vec<Card>,
    post: Option<Vec<&'static str>>,
    read: Option<Vec<&'static str>>,
    subscribed: Vec<&'static str>,
    only_trusted: bool,
    papers: Vec<Paper>,
}

const SESSION: [(SessionGrants, &str); 5] = [
    (SessionGrants::READ, "read"),
    (SessionGrants::WRITE, "write"),
    (SessionGrants::CREATE_AGENTS, "create agents"),
    (SessionGrants::EXPORT, "export"),
    (SessionGrants::DELETE, "delete"),
];

impl World {
    fn roll(dice: &mut Dice) -> Self {
        let registered = !dice.one_in(12);
        let cards =
            |dice: &mut Dice, most| (0..dice.below(most)).map(|_| Card::roll(dice)).collect::<Vec<_>>();
        let hat = match dice.below(7) {
            0 => Hat::None,
            1 => Hat::Standard(Role::Readonly),
            2 => Hat::Standard(Role::Contributor),
            3 => Hat::Standard(Role::Moderator),
            4 => Hat::Standard(Role::Admin),
            _ => Hat::Custom(cards(dice, 6)),
        };
        let mut papers = Vec::new();
        for key in KEYS {
            if dice.one_in(4) {
                continue;
            }
            let by = dice.pick(&[By::Host, By::Me, By::Former, By::Other]);
            let everyone = dice.one_in(3);
            papers.push(Paper {
                key,
                by: if registered { by } else { By::Other },
                trusted: dice.one_in(2),
                everyone,
                me: registered && !everyone && dice.one_in(3),
                topics: if everyone { Vec::new() } else { dice.some(&TOPICS) },
            });
        }
        let mut world = Self {
            session: if dice.one_in(4) { dice.some(&SESSION) } else { SESSION.to_vec() },
            fences: (0..dice.below(6).saturating_sub(3)).map(|_| Fence::roll(dice)).collect(),
            registered,
            hat,
            grants: cards(dice, 5),
            denials: if dice.one_in(2) { cards(dice, 4) } else { Vec::new() },
            post: dice.one_in(4).then(|| dice.some(&TOPICS)),
            read: dice.one_in(4).then(|| dice.some(&TOPICS)),
            subscribed: dice.some(&TOPICS),
            only_trusted: dice.one_in(4),
            papers,
        };
        if !registered {
            (world.hat, world.grants, world.denials) = (Hat::None, Vec::new(), Vec::new());
            (world.post, world.read, world.subscribed) = (None, None, Vec::new());
            world.only_trusted = false;
        }
        world
    }

    /// The same thing, in a mesh. The handles are the host's and the agent's.
    async fn build(&self, mut config: MeshConfig) -> (Mesh, Agent) {
        let memory = MemoryStore::new().unwrap();
        let tag = memory.deployment_key().tag(&UserId::new("alice").unwrap());
        let first = Batch::new(Timestamp(1)).unwrap();
        let (store, _) = memory.create(tag, first, CreateMode::New).await.unwrap();
        config.clock = Arc::new(ManualClock::new(Timestamp(NOW)));
        let mesh = Mesh::open(store, true, config).await.unwrap();
        mesh.register_agent("other").await.unwrap();
        // Twice: what was before me, and what I and the others wrote.
        for former in [true, false] {
            for paper in self.papers.iter().filter(|paper| (paper.by == By::Former) == former) {
                if paper.trusted && paper.by != By::Host {
                    let name = if paper.by == By::Other { "other" } else { "me" };
                    mesh.set_trusted(name, true).await.unwrap();
                }
                let (me, other) = (mesh.agent("me").unwrap(), mesh.agent("other").unwrap());
                let mut push = match paper.by {
                    By::Host => mesh.push(paper.key, 1),
                    By::Me | By::Former => me.push(paper.key, 1),
                    By::Other => other.push(paper.key, 1),
                };
                if !paper.everyone {
                    push = push.restricted().topics(paper.topics.iter().copied());
                }
                if paper.me {
                    push = push.agents(["me"]);
                }
                push.await.unwrap();
                for name in ["me", "other"] {
                    if paper.trusted && mesh.agents().await.unwrap().iter().any(|there| **there == *name) {
                        mesh.set_trusted(name, false).await.unwrap();
                    }
                }
            }
            if former {
                mesh.unregister_agent("me").await.unwrap();
            }
        }
        mesh.thread("open").unwrap().append(Message::user(1)).await.unwrap();
        mesh.agent("other").unwrap().thread("of other").unwrap().create_for(["other"]).await.unwrap();
        if self.registered {
            mesh.agent("me").unwrap().thread("of me").unwrap().create_for(["other"]).await.unwrap();
            mesh.agent("me").unwrap().subscribe(self.subscribed.iter().copied()).await.unwrap();
            match &self.hat {
                Hat::None => {}
                Hat::Standard(role) => mesh.set_role("me", *role).await.unwrap(),
                Hat::Custom(cards) => {
                    let role = CustomRole::new("own", cards.iter().map(Card::grant)).unwrap();
                    mesh.set_role("me", role).await.unwrap();
                }
            }
            for card in &self.grants {
                mesh.grant("me", card.grant()).await.unwrap();
            }
            for card in &self.denials {
                mesh.deny("me", card.grant()).await.unwrap();
            }
            let list = |names: &Option<Vec<&'static str>>| {
                names.as_ref().map(|names| names.iter().map(|name| Topic::new(name).unwrap()).collect())
            };
            mesh.set_post_permissions("me", list(&self.post)).await.unwrap();
            mesh.set_read_permissions("me", list(&self.read)).await.unwrap();
            mesh.set_only_trusted("me", self.only_trusted).await.unwrap();
        }
        let given = self.session.iter().fold(SessionGrants::NONE, |all, (one, _)| all | *one);
        let mut agent = mesh.guarded(Guard::new().0.with_grants(given)).agent("me").unwrap();
        for fence in &self.fences {
            agent = agent.narrow(fence.narrow()).unwrap();
        }
        (mesh, agent)
    }

    /// A grant that is given again holds up to the new moment: the last card on a place decides for each of its letters.
    fn granted(&self, letter: char, on: impl Fn(Place) -> bool) -> bool {
        let mut places: Vec<Place> = Vec::new();
        for card in self.grants.iter().rev().filter(|card| card.letters.contains(&letter)) {
            if !places.contains(&card.place) {
                places.push(card.place);
                // Each change throws out what has expired, and nothing that has not.
                if card.stands() && on(card.place) {
                    return true;
                }
            }
        }
        match &self.hat {
            Hat::Custom(cards) => {
                cards.iter().any(|card| card.letters.contains(&letter) && card.stands() && on(card.place))
            }
            _ => false,
        }
    }

    fn denied(&self, letters: &[char], on: impl Fn(Place) -> bool) -> bool {
        self.denials.iter().any(|card| on(card.place) && letters.iter().any(|one| card.letters.contains(one)))
    }

    /// The letters of the role, of the four.
    fn role(&self) -> &'static str {
        match self.hat {
            Hat::None | Hat::Standard(Role::Contributor) => "rws",
            Hat::Standard(Role::Readonly) => "r",
            Hat::Standard(Role::Moderator) => "rwsm",
            Hat::Standard(_) => "rwsmd",
            Hat::Custom(_) => "",
        }
    }

    /// By a role's letter, else by one of the grant's letters.
    fn by(&self, role: char, grant: &[char], on: impl Fn(Place) -> bool + Copy) -> Option<Rule> {
        if self.role().contains(role) {
            Some(Rule::Role)
        } else {
            grant.iter().any(|letter| self.granted(*letter, on)).then_some(Rule::Grant)
        }
    }

    /// Whether I am subscribed to a topic and may hear it.
    fn hears(&self, topic: &'static str) -> bool {
        self.subscribed.contains(&topic) && self.says(Act::Read, On::Topic(topic)).0
    }

    fn says(&self, act: Act, on: On) -> (bool, Rule) {
        // 1.
        let need = match act {
            Act::Read => "read",
            Act::Delete => "delete",
            Act::Create | Act::Permit => "create agents",
            Act::Export => "export",
            _ => "write",
        };
        if !self.session.iter().any(|(_, name)| *name == need) {
            return (false, Rule::SessionGrants);
        }
        if act == Act::Permit || act == Act::Export {
            return (false, Rule::Host);
        }
        // 2.
        if !self.fences.iter().all(|fence| fence.leaves(act, on)) {
            return (false, Rule::Narrowed);
        }
        let place = move |place: Place| match (place, on) {
            (Place::Topic(of), On::Topic(topic)) => of == topic,
            (Place::Prefix(prefix), On::Key(key)) => key.starts_with(prefix),
            (Place::Threads, On::Thread(_)) => true,
            _ => false,
        };
        // 3.
        if let On::Topic(topic) = on {
            let (list, rule) =
                if act == Act::Write { (&self.post, Rule::Post) } else { (&self.read, Rule::Subscribe) };
            if list.as_ref().is_some_and(|list| !list.contains(&topic)) {
                return (false, rule);
            }
        }
        let letters: &[char] = match (act, on) {
            (Act::Read | Act::Subscribe, _) => &['r'],
            (Act::Write, _) => &['w'],
            (Act::Manage, _) => &['m', 'r'],
            (Act::Delete, On::Topic(_)) => &['d', 'r'],
            (Act::Delete, _) => &['d', 'w'],
            _ => &[],
        };
        if self.denied(letters, place) {
            return (false, Rule::Denial);
        }
        // 4.
        let right = match (act, on) {
            (Act::Read, On::Mesh) => self.by('r', &['r'], |_| true),
            (Act::Write, On::Mesh) => self.by('w', &['w'], |_| true),
            (Act::Subscribe, On::Mesh) => self.by('s', &['r'], |place| matches!(place, Place::Topic(_))),
            (Act::Create, On::Mesh) => self.by('w', &[], |_| false),
            (Act::Read, _) => self.by('r', &['r'], place),
            (Act::Write, _) => self.by('w', &['w'], place),
            (Act::Subscribe, On::Topic(_)) => self.by('s', &['r'], place),
            (Act::Manage, On::Topic(_)) => self.by('m', &['m'], place),
            (Act::Delete, On::Topic(_)) => self.by('d', &['d'], place),
            (Act::Delete, On::Key(_)) => self.by('w', &['w', 'd'], place),
            _ => None,
        };
        let plain = right.map_or((false, Rule::Role), |rule| (true, rule));
        match on {
            On::Key(key) => match self.papers.iter().find(|paper| paper.key == key) {
                None => plain,
                Some(paper) => self.of_paper(act, paper, right, place),
            },
            On::Thread("of other") if right.is_some() => (false, Rule::Audience),
            On::Thread("of me") if right.is_some() && !self.registered => plain,
            _ => plain,
        }
    }

    fn of_paper(
        &self,
        act: Act,
        paper: &Paper,
        right: Option<Rule>,
        place: impl Fn(Place) -> bool + Copy,
    ) -> (bool, Rule) {
        // 5.
        let named = paper.everyone || (paper.me && paper.by != By::Former);
        let heard = paper.topics.iter().any(|topic| self.hears(topic));
        let mine = paper.by == By::Me;
        if act == Act::Read {
            let rule = match (right, heard) {
                (Some(rule), true) => rule,
                (Some(rule), false) if named => rule,
                (Some(_), false) => return (false, Rule::Audience),
                (None, true) => Rule::Grant,
                (None, false) => return (false, Rule::Role),
            };
            // 6. What I can't ask for by its key says nothing of itself.
            let hidden = self.only_trusted && paper.by != By::Host && !paper.trusted;
            return match (hidden, right) {
                (false, _) => (true, rule),
                (true, Some(_)) => (false, Rule::Provenance),
                (true, None) => (false, Rule::Role),
            };
        }
        let Some(right) = right else { return (false, Rule::Role) };
        let reaches = named || heard || mine;
        if act == Act::Write {
            return match (reaches, self.granted('w', place)) {
                (true, _) => (true, right),
                (false, true) => (true, Rule::Grant),
                (false, false) => (false, Rule::Audience),
            };
        }
        if mine {
            (true, Rule::Author)
        } else if self.granted('d', place) {
            (true, Rule::Grant)
        } else if !reaches {
            (false, Rule::Audience)
        } else if self.role().contains('d') {
            (true, Rule::Role)
        } else {
            (false, Rule::Author)
        }
    }
}

async fn ask(mesh: &Mesh, agent: &Agent, act: Act, on: On) -> Decision {
    mesh.explain_handle(agent, act, &on.resource()).await.unwrap()
}

/// What is allowed, of everything that can be asked.
async fn allowed(mesh: &Mesh, agent: &Agent) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for on in On::all() {
        for act in Act::ALL {
            if ask(mesh, agent, act, on).await.allowed {
                found.insert(format!("{act:?} {on:?}"));
            }
        }
    }
    found
}

fn cases() -> u64 {
    std::env::var("SYNTHA_PERMISSION_CASES").map_or(20_000, |text| text.parse().unwrap())
}

fn seed() -> u64 {
    std::env::var("SYNTHA_PERMISSION_SEED").map_or(1, |text| text.parse().unwrap())
}

/// How often each answer was right.
type Said = BTreeMap<(bool, Rule), u64>;

/// Asks so many questions. What differs is an error.
async fn compare(cases: u64, config: fn() -> MeshConfig) -> Result<Said, String> {
    let (mut asked, mut said) = (0, Said::new());
    let mut dice = Dice(seed());
    while asked < cases {
        let world = World::roll(&mut dice);
        let (mesh, agent) = world.build(config()).await;
        for on in On::all() {
            for act in Act::ALL {
                let decision = ask(&mesh, &agent, act, on).await;
                let got = (decision.allowed, decision.rule);
                if on.acts().contains(&act) {
                    let expected = world.says(act, on);
                    if got != expected {
                        return Err(format!("{act:?} {on:?}: {got:?}, not {expected:?}, in {world:#?}"));
                    }
                    *said.entry(expected).or_insert(0) += 1;
                    asked += 1;
                } else if decision.allowed {
                    return Err(format!("{act:?} {on:?}: {got:?} in {world:#?}"));
                }
            }
        }
    }
    Ok(said)
}

#[tokio::test]
async fn decisions_are_the_models() {
    let said = compare(cases(), MeshConfig::default).await.unwrap();
    // The cases meet every rule that `explain` can name.
    for rule in [
        Rule::SessionGrants,
        Rule::Host,
        Rule::Narrowed,
        Rule::Post,
        Rule::Subscribe,
        Rule::Denial,
        Rule::Role,
        Rule::Audience,
        Rule::Author,
        Rule::Provenance,
    ] {
        assert!(said.get(&(false, rule)).is_some_and(|count| *count > 20), "{rule:?} in {said:?}");
    }
    for rule in [Rule::Role, Rule::Grant, Rule::Author] {
        assert!(said.get(&(true, rule)).is_some_and(|count| *count > 20), "{rule:?} in {said:?}");
    }
    println!(
        "evidence: {} decisions, all as the second account of the rules has them",
        said.values().sum::<u64>()
    );
}

#[cfg(feature = "faults")]
#[tokio::test]
async fn decisions_that_are_not_the_models_are_found() {
    use syntha_mesh::Fault;
    let broken: [fn() -> MeshConfig; 6] = [
        || MeshConfig::default().fault(Fault::RoleWidens),
        || MeshConfig::default().fault(Fault::NarrowingIgnored),
        || MeshConfig::default().fault(Fault::ExpiredGrantHonoured),
        || MeshConfig::default().fault(Fault::ProvenanceIgnored),
        || MeshConfig::default().fault(Fault::HiddenOverwritten),
        || MeshConfig::default().fault(Fault::GrantsLost),
    ];
    for (place, config) in broken.into_iter().enumerate() {
        assert!(compare(20_000, config).await.is_err(), "fault {place}");
    }
}

#[tokio::test]
async fn a_denial_allows_nothing() {
    let mut dice = Dice(seed() + 1);
    for _ in 0..cases() / 500 {
        let world = World { registered: true, ..World::roll(&mut dice) };
        let (mesh, agent) = world.build(MeshConfig::default()).await;
        let before = allowed(&mesh, &agent).await;
        mesh.deny("me", Card::roll(&mut dice).grant()).await.unwrap();
        let after = allowed(&mesh, &agent).await;
        assert!(after.is_subset(&before), "{:?} in {world:#?}", after.difference(&before));
    }
}

#[tokio::test]
async fn a_child_exceeds_no_parent() {
    let mut dice = Dice(seed() + 2);
    let mut less = 0;
    for _ in 0..cases() / 500 {
        let world = World::roll(&mut dice);
        let (mesh, agent) = world.build(MeshConfig::default()).await;
        let parent = allowed(&mesh, &agent).await;
        let child = agent.narrow(Fence::roll(&mut dice).narrow()).unwrap();
        let (child, grandchild) = (
            allowed(&mesh, &child).await,
            allowed(&mesh, &child.narrow(Fence::roll(&mut dice).narrow()).unwrap()).await,
        );
        assert!(child.is_subset(&parent) && grandchild.is_subset(&child), "{world:#?}");
        less += u64::from(child.len() < parent.len());
    }
    assert!(less > 5, "narrowing took something away {less} times");
}
