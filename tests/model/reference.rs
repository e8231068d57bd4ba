//! What every answer about entries and agents must be, in the simplest form: maps, and no thought of speed.

use std::collections::{BTreeMap, BTreeSet};

use syntha::MeshErrorKind as Kind;

use crate::op::{AGENTS, KEYS, List, TOPICS};
use crate::reference_history::Talk;
use crate::reference_undo::{Kept, Overwrites};

pub type Name = &'static str;
/// An agent in one of its lives.
pub type Member = (Name, u64);
pub type Answer = Result<String, Kind>;

pub const GRACE: u64 = 60_000;
const DAY: u64 = 24 * 3_600_000;

#[derive(Clone, Debug, Default)]
pub struct Reference {
    pub agents: BTreeMap<Name, Bearer>,
    pub entries: BTreeMap<Name, Thing>,
    operations: BTreeMap<(Name, u8), Done>,
    pub threads: BTreeMap<Name, Talk>,
    /// What changed something, and what was read: each in its order.
    pub writes: Vec<Logged>,
    pub reads: Vec<Logged>,
    lives: u64,
    /// What agents removed, in its order.
    pub kept: Vec<Kept>,
    pub overwrites: Overwrites,
    /// The call that removes something keeps it here, and is a batch.
    pub acting: Option<usize>,
    pub batched: bool,
}

#[derive(Clone, Debug)]
pub struct Bearer {
    pub life: u64,
    pub topics: BTreeSet<Name>,
    pub post: Option<Vec<Name>>,
    pub read: Option<Vec<Name>>,
    pub admin: bool,
}

#[derive(Clone, Debug)]
pub struct Thing {
    pub value: String,
    /// 0 until it is known.
    pub version: u64,
    pub created: u64,
    pub updated: u64,
    pub expires: Option<u64>,
    pub author: Option<Member>,
    pub everyone: bool,
    pub agents: Vec<Member>,
    pub topics: Vec<Name>,
}

#[derive(Clone, Debug)]
struct Done {
    push: Push,
    version: u64,
    expires: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    pub at: u64,
    pub by: Option<Name>,
    pub action: Name,
    pub on: Vec<Name>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Push {
    pub by: Option<Name>,
    pub key: Name,
    pub value: String,
    pub restricted: bool,
    pub agents: Vec<Name>,
    pub topics: Vec<Name>,
    pub ttl: Option<u64>,
    pub expect: Expected,
    pub id: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    Anything,
    Absent,
    Version(u64),
}

impl Thing {
    pub fn lives(&self, now: u64) -> bool {
        self.expires.is_none_or(|at| now < at)
    }

    pub fn describe(&self, key: &str) -> String {
        let name = |member: &Member| member.0;
        format!(
            "{key}={} v{} {}-{} until {:?} by {:?} for {} {:?} {:?}\n",
            self.value,
            self.version,
            self.created,
            self.updated,
            self.expires,
            self.author.as_ref().map(name),
            self.everyone,
            self.agents.iter().map(name).collect::<Vec<_>>(),
            self.topics
        )
    }
}

impl Bearer {
    pub fn may_read(&self, topic: &str) -> bool {
        self.read.as_ref().is_none_or(|topics| topics.contains(&topic))
    }
}

impl Reference {
    pub fn new(overwrites: Overwrites) -> Self {
        Self { overwrites, ..Self::default() }
    }

    pub fn note(&mut self, at: u64, by: Option<Name>, action: Name, on: Vec<Name>) {
        self.writes.push(Logged { at, by, action, on });
    }

    pub fn note_read(&mut self, at: u64, by: Option<Name>, action: Name, on: Vec<Name>) {
        if !on.is_empty() {
            self.reads.push(Logged { at, by, action, on });
        }
    }

    pub fn life(&self, agent: &str) -> Option<u64> {
        self.agents.get(agent).map(|bearer| bearer.life)
    }

    pub fn is(&self, member: &Member) -> bool {
        self.life(member.0) == Some(member.1)
    }

    pub fn member(&mut self, name: Name) -> Member {
        if self.life(name).is_none() {
            self.lives += 1;
            let bearer =
                Bearer { life: self.lives, topics: BTreeSet::new(), post: None, read: None, admin: false };
            self.agents.insert(name, bearer);
        }
        (name, self.life(name).unwrap())
    }

    /// Whether an agent sees an entry, expiry aside.
    fn is_for(&self, thing: &Thing, agent: &str) -> bool {
        thing.everyone
            || self.agents.get(agent).is_some_and(|bearer| {
                thing.agents.iter().any(|(name, life)| *name == agent && *life == bearer.life)
                    || thing
                        .topics
                        .iter()
                        .any(|topic| bearer.topics.contains(topic) && bearer.may_read(topic))
            })
    }

    /// The entry under a key, if the actor sees it; the host sees everything.
    pub fn seen(&self, by: Option<Name>, key: &str, now: u64) -> Option<&Thing> {
        self.entries
            .get(key)
            .filter(|thing| thing.lives(now) && by.is_none_or(|agent| self.is_for(thing, agent)))
    }

    /// The entry under a key, if the actor may write over it or remove it.
    fn touchable(&self, by: Option<Name>, key: &str, now: u64) -> Option<&Thing> {
        self.entries.get(key).filter(|thing| {
            let wrote =
                || thing.author.as_ref().is_some_and(|author| Some(author.0) == by && self.is(author));
            thing.lives(now) && by.is_none_or(|agent| self.is_for(thing, agent) || wrote())
        })
    }

    pub fn list(&self, by: Option<Name>, list: &List, now: u64) -> Vec<Name> {
        let on = list.topic.map(|topic| TOPICS[topic]);
        let mut keys: Vec<_> = KEYS
            .into_iter()
            .filter(|key| key.starts_with(list.prefix) && list.after.is_none_or(|after| *key > KEYS[after]))
            .filter(|key| {
                self.seen(by, key, now).is_some_and(|thing| on.is_none_or(|on| thing.topics.contains(&on)))
            })
            .collect();
        keys.truncate(list.limit.unwrap_or(usize::MAX));
        keys
    }

    pub fn describe(&self, keys: &[Name]) -> String {
        keys.iter().map(|key| self.entries[key].describe(key)).collect()
    }

    /// Another call.
    const fn begin(&mut self) {
        if !self.batched {
            self.acting = None;
        }
    }

    fn is_admin(&self, agent: &str) -> bool {
        self.agents.get(agent).is_some_and(|bearer| bearer.admin)
    }

    /// `Ok(Some(version))` for an operation that was done before.
    pub fn push(&mut self, push: &Push, now: u64) -> Result<Option<u64>, Kind> {
        self.begin();
        if let Some(by) = push.by {
            let may = |allowed: &Vec<Name>| push.topics.iter().all(|topic| allowed.contains(topic));
            if !self.agents.get(by).and_then(|bearer| bearer.post.as_ref()).is_none_or(may) {
                return Err(Kind::Denied);
            }
        }
        let operation = push.id.map(|id| (push.by.unwrap_or(""), id));
        if let Some(done) =
            operation.and_then(|id| self.operations.get(&id)).filter(|done| now < done.expires)
        {
            return if done.push == *push { Ok(Some(done.version)) } else { Err(Kind::Invalid) };
        }
        let there = self.entries.get(push.key).filter(|thing| thing.lives(now)).cloned();
        if let Some(by) = push.by
            && there.is_some()
            && self.touchable(Some(by), push.key, now).is_none()
        {
            return Err(Kind::Denied);
        }
        check(push.expect, there.as_ref())?;
        let author = push.by.map(|by| self.member(by));
        let agents: Vec<_> = push.agents.iter().map(|name| self.member(name)).collect();
        let thing = Thing {
            value: push.value.clone(),
            version: 0,
            created: there.as_ref().map_or(now, |old| old.created),
            updated: now,
            expires: push.ttl.map(|ttl| now + ttl),
            author,
            everyone: !push.restricted && agents.is_empty() && push.topics.is_empty(),
            agents,
            topics: push.topics.clone(),
        };
        self.keep_over(push.by, push.key, there, &thing, now);
        self.entries.insert(push.key, thing);
        if let Some(id) = operation {
            self.operations.insert(id, Done { push: push.clone(), version: 0, expires: now + DAY });
        }
        self.note(now, push.by, "Push", vec![push.key]);
        Ok(None)
    }

    /// The version that a push was answered with.
    pub fn pushed(&mut self, push: &Push, version: u64) {
        self.entries.get_mut(push.key).unwrap().version = version;
        if let Some(id) = push.id {
            self.operations.get_mut(&(push.by.unwrap_or(""), id)).unwrap().version = version;
        }
    }

    pub fn remove(&mut self, by: Option<Name>, key: Name, expect: Expected, now: u64) -> Result<bool, Kind> {
        self.begin();
        let there = self.touchable(by, key, now);
        if let (Some(by), Some(thing)) = (by, there)
            && !self.is_admin(by)
            && !thing.author.as_ref().is_some_and(|author| author.0 == by && self.is(author))
        {
            return Err(Kind::Denied);
        }
        check(expect, there)?;
        let found = there.is_some();
        if found {
            let thing = self.entries.remove(key).unwrap();
            self.keep_entry(by, "Remove", key, (key, thing), now);
            self.note(now, by, "Remove", vec![key]);
        }
        Ok(found)
    }

    /// Pushes, and removals (`true`), all or none.
    pub fn batch(&mut self, changes: &[(Push, bool)], now: u64) -> Answer {
        let mut keys = BTreeSet::new();
        self.begin();
        self.batched = true;
        for (push, removes) in changes {
            if !keys.insert(push.key) {
                return Err(Kind::Invalid);
            }
            if *removes {
                self.remove(push.by, push.key, Expected::Anything, now)?;
            } else {
                self.push(push, now)?;
            }
        }
        self.batched = false;
        if keys.is_empty() { Err(Kind::Invalid) } else { Ok("committed".to_owned()) }
    }

    pub fn clear(&mut self, now: u64) -> u64 {
        let count = self.entries.len() as u64;
        self.entries.clear();
        self.kept.clear();
        if count > 0 {
            self.note(now, None, "Clear", Vec::new());
        }
        count
    }

    pub fn sweep(&mut self, now: u64) -> u64 {
        let before = self.entries.len() + self.operations.len();
        self.entries.retain(|_, thing| thing.expires.is_none_or(|at| at + GRACE > now));
        self.operations.retain(|_, done| done.expires + GRACE > now);
        (before - self.entries.len() - self.operations.len()) as u64 + self.sweep_kept(now)
    }

    pub fn register(&mut self, name: Name, now: u64) -> bool {
        let new = self.life(name).is_none();
        self.member(name);
        if new {
            self.note(now, None, "Register", vec![name]);
        }
        new
    }

    pub fn unregister(&mut self, name: Name, now: u64) -> bool {
        let there = self.agents.remove(name).is_some();
        if there {
            self.note(now, None, "Unregister", vec![name]);
        }
        there
    }

    pub fn subscribe(&mut self, name: Name, topics: Vec<Name>, replace: bool, now: u64) -> Answer {
        self.member(name);
        let bearer = self.agents.get_mut(name).unwrap();
        if !topics.iter().all(|topic| bearer.may_read(topic)) {
            return Err(Kind::NotFound);
        }
        let (known, new): (Vec<Name>, Vec<Name>) =
            topics.iter().copied().partition(|topic| bearer.topics.contains(topic));
        if replace {
            bearer.topics.clear();
        }
        bearer.topics.extend(&topics);
        let answer = format!("{new:?} {known:?} {:?}", bearer.topics.iter().collect::<Vec<_>>());
        self.note(now, Some(name), "Subscribe", topics);
        Ok(answer)
    }

    pub fn unsubscribe(&mut self, name: Name, topics: Vec<Name>, now: u64) -> Answer {
        let mut own = self.agents.get(name).map(|bearer| bearer.topics.clone()).unwrap_or_default();
        let (had, not): (Vec<Name>, Vec<Name>) = topics.iter().copied().partition(|topic| own.remove(topic));
        let answer = format!("{had:?} {not:?} {:?}", own.iter().collect::<Vec<_>>());
        if let Some(bearer) = self.agents.get_mut(name) {
            bearer.topics = own;
        }
        self.note(now, Some(name), "Unsubscribe", topics);
        Ok(answer)
    }

    pub fn permit(&mut self, name: Name, now: u64, set: impl FnOnce(&mut Bearer)) -> Answer {
        self.member(name);
        set(self.agents.get_mut(name).unwrap());
        self.note(now, None, "Permit", vec![name]);
        Ok("permitted".to_owned())
    }

    pub fn delete_topic(&mut self, by: Option<Name>, topic: Name, now: u64) -> Answer {
        self.begin();
        if by.is_some_and(|by| !self.is_admin(by) || !self.agents[by].may_read(topic)) {
            return Err(Kind::Denied);
        }
        let (mut deleted, mut kept, mut subscribers, mut found) = (0, 0, 0, false);
        let on: Vec<_> = KEYS
            .into_iter()
            .filter(|key| self.entries.get(key).is_some_and(|thing| thing.topics.contains(&topic)))
            .collect();
        for key in on {
            found = true;
            let thing = self.entries.get_mut(key).unwrap();
            let lives = u64::from(thing.lives(now));
            if thing.agents.is_empty() && thing.topics.len() == 1 {
                deleted += lives;
                let thing = self.entries.remove(key).unwrap();
                self.keep_entry(by, "DeleteTopic", topic, (key, thing), now);
            } else {
                kept += lives;
                let was = thing.clone();
                self.keep_parted(by, topic, (key, was), now);
                let thing = self.entries.get_mut(key).unwrap();
                thing.topics.retain(|other| *other != topic);
                thing.version = 0;
            }
        }
        for member in self.losing(topic) {
            subscribers += 1;
            self.agents.get_mut(member.0).unwrap().topics.remove(topic);
            self.keep_subscriber(by, topic, member, now);
        }
        if !found && subscribers == 0 {
            return Err(Kind::NotFound);
        }
        self.note(now, by, "DeleteTopic", vec![topic]);
        Ok(format!("{deleted} {kept} {subscribers}"))
    }

    /// Topics that somebody is subscribed to or an entry is on, the most popular first.
    pub fn topics(&self, by: Option<Name>, now: u64) -> String {
        let mut found = Vec::new();
        for topic in TOPICS {
            let hears =
                |name: &Name| self.agents.get(name).is_some_and(|bearer| bearer.topics.contains(topic));
            let subscribers: Vec<_> = AGENTS.into_iter().filter(hears).collect();
            let on = self.entries.values().any(|thing| thing.lives(now) && thing.topics.contains(&topic));
            let own = by.and_then(|name| self.agents.get(name));
            if (on || !subscribers.is_empty()) && own.is_none_or(|own| own.may_read(topic)) {
                found.push((topic, subscribers));
            }
        }
        found.sort_by_key(|(topic, subscribers)| (usize::MAX - subscribers.len(), *topic));
        format!("{found:?}")
    }

    pub fn stats(&self, now: u64) -> String {
        let live: Vec<_> = self.entries.values().filter(|thing| thing.lives(now)).collect();
        let count = |passes: fn(&Thing) -> bool| live.iter().filter(|thing| passes(thing)).count();
        let topics: Vec<_> = TOPICS
            .into_iter()
            .filter(|topic| {
                live.iter().any(|thing| thing.topics.contains(topic))
                    || self.agents.values().any(|bearer| bearer.topics.contains(topic))
            })
            .collect();
        format!(
            "{} {} {} {} {} {} {} {} {}",
            self.entries.len(),
            live.len(),
            self.entries.len() - live.len(),
            count(|thing| thing.everyone),
            count(|thing| !thing.agents.is_empty() && thing.topics.is_empty()),
            topics.len(),
            self.agents.len(),
            self.agents.values().filter(|bearer| !bearer.topics.is_empty()).count(),
            self.bytes()
        )
    }

    fn bytes(&self) -> u64 {
        let there: u64 = self.entries.iter().map(|(key, thing)| (key.len() + thing.value.len()) as u64).sum();
        there + self.kept().1
    }

    /// Entries, agents, bytes of entries, bytes of history.
    pub fn usage(&self) -> [u64; 4] {
        let history = self.threads.iter().map(|(name, talk)| talk.bytes(name)).sum();
        [self.entries.len() as u64 + self.kept().0, self.agents.len() as u64, self.bytes(), history]
    }

    /// What an export leaves out is not in it, and what it forgets is forgotten.
    pub fn copied(&self, now: u64) -> Self {
        let mut copy = self.clone();
        copy.entries.retain(|_, thing| thing.lives(now));
        copy.entries.values_mut().for_each(|thing| thing.version = 0);
        copy.operations.clear();
        copy.kept.clear();
        copy
    }
}

fn check(expect: Expected, there: Option<&Thing>) -> Result<(), Kind> {
    let holds = match expect {
        Expected::Anything => true,
        Expected::Absent => there.is_none(),
        Expected::Version(version) => there.is_some_and(|thing| thing.version == version),
    };
    if holds { Ok(()) } else { Err(Kind::Conflict) }
}
