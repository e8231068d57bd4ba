//! Who may do what: one function, for reads under the index's lock and for writes inside their commit.
//!
//! It looks at nothing but its arguments. In this order: what the session was given, what the handle was narrowed to, what is denied to
//! the agent, what its role or a grant gives, and then whom the thing is for and who wrote it. The first that refuses is the rule.

use syntha_store::{Rule, Timestamp};

use crate::config::MeshConfig;
use crate::entry::{Entry, Parts};
use crate::error::{Error, ErrorKind};
use crate::fault::Fault;
use crate::grant::{Effects, Grant, Scope};
use crate::names::{EntryKey, ThreadId, Topic};
use crate::narrow::Narrowed;
use crate::role::{AgentRole, Role};
use crate::roster::AgentState;
use crate::session_grants::SessionGrants;
use crate::thread::ThreadState;

/// What is done. A closed set for decisions; what the audit trail calls an operation is finer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Act {
    /// Read an entry or a thread; hear a topic.
    Read,
    /// Push an entry, post to a topic, append to a thread.
    Write,
    /// Subscribe to a topic, or unsubscribe.
    Subscribe,
    /// Change others' subscriptions to a topic.
    Manage,
    /// Remove an entry, delete a topic.
    Delete,
    /// Make agents.
    Create,
    /// Change what agents may do. The host's alone.
    Permit,
    /// Export the whole mesh. The host's alone.
    Export,
    /// Bring back what an agent removed. The host's alone.
    Undo,
}

impl Act {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Read,
        Self::Write,
        Self::Subscribe,
        Self::Manage,
        Self::Delete,
        Self::Create,
        Self::Permit,
        Self::Export,
        Self::Undo,
    ];

    /// What a session must have been given for it.
    const fn needs(self) -> SessionGrants {
        match self {
            Self::Read => SessionGrants::READ,
            Self::Write | Self::Subscribe | Self::Manage | Self::Undo => SessionGrants::WRITE,
            Self::Delete => SessionGrants::DELETE,
            Self::Create | Self::Permit => SessionGrants::CREATE_AGENTS,
            Self::Export => SessionGrants::EXPORT,
        }
    }

    /// Its bit in a set. Agents are made by writes that name them, so it is no act of its own to whoever narrows a handle.
    pub(crate) const fn bit(self) -> u16 {
        match self {
            Self::Create => Self::Write.bit(),
            act => 1 << act as u16,
        }
    }
}

/// To what something is done, where the host asks.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Resource {
    /// The mesh as a whole: to list, to watch, to make agents.
    Mesh,
    /// The entry under a key, whether or not there is one.
    Key(EntryKey),
    /// A topic.
    Topic(Topic),
    /// A thread, whether or not it is there.
    Thread(ThreadId),
}

/// To what something is done, with what is known of it.
#[derive(Clone, Copy)]
pub(crate) enum On<'a> {
    Mesh,
    /// A key without an entry, or before it is known whether it has one.
    Key(&'a str),
    Entry(&'a Entry),
    Topic(&'a str),
    /// Threads as such.
    Threads,
    /// A thread; `None` where it is not there, or before that is known.
    Thread(&'a str, Option<&'a ThreadState>),
}

/// Whether something may be done, and what decided it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[must_use]
pub struct Decision {
    /// Whether it may be done.
    pub allowed: bool,
    /// The rule that refused it, or the one that allowed it.
    pub rule: Rule,
    /// It takes away what is not the agent's own.
    pub(crate) destructive: bool,
}

const fn allow(rule: Rule) -> Decision {
    Decision { allowed: true, rule, destructive: false }
}

const fn deny(rule: Rule) -> Decision {
    Decision { allowed: false, rule, destructive: false }
}

/// Who asks.
#[derive(Clone, Copy)]
pub(crate) struct Principal<'a> {
    /// `None` for the host.
    pub(crate) agent: Option<&'a str>,
    pub(crate) grants: SessionGrants,
    pub(crate) narrowed: Option<&'a Narrowed>,
}

/// What is known at the moment of the decision.
#[derive(Clone, Copy)]
pub(crate) struct Known<'a> {
    /// The agent's record; `None` for one that is not registered.
    pub(crate) own: Option<&'a AgentState>,
    pub(crate) now: &'a dyn Fn() -> Timestamp,
    /// The agent has used up what it may delete for now.
    pub(crate) spent: bool,
    /// The host confirmed it, or need not.
    pub(crate) confirmed: bool,
    /// Asked for planted faults alone.
    pub(crate) config: &'a MeshConfig,
}

/// Whether a principal may do something.
#[inline]
pub(crate) fn decide(who: &Principal<'_>, act: Act, on: On<'_>, known: &Known<'_>) -> Decision {
    // By far the most frequent question, with the answer that all the rules give it: an agent that was given nothing and denied
    // nothing reads what is for everyone.
    if let (Act::Read, On::Entry(entry), Some(_), None) = (act, on, who.agent, who.narrowed)
        && entry.audience.everyone
        && who.grants.has(SessionGrants::READ)
        && known.own.is_none_or(|own| own.standing.is_none())
    {
        return allow(Rule::Role);
    }
    decide_by_rules(who, act, on, known)
}

fn decide_by_rules(who: &Principal<'_>, act: Act, on: On<'_>, known: &Known<'_>) -> Decision {
    if !who.grants.has(act.needs()) {
        return deny(Rule::SessionGrants);
    }
    let Some(agent) = who.agent else { return allow(Rule::Host) };
    if matches!(act, Act::Permit | Act::Export | Act::Undo) {
        return deny(Rule::Host);
    }
    if who.narrowed.is_some_and(|to| !to.leaves(act, on)) && !known.config.has(Fault::NarrowingIgnored) {
        return deny(Rule::Narrowed);
    }
    if let Some(rule) = known.own.and_then(|own| own.denies(act, on)) {
        return deny(rule);
    }
    let right = known.right(act, on);
    let hears = |topic: &str| {
        known.own.is_some_and(|own| own.is_subscribed(topic))
            && decide(who, Act::Read, On::Topic(topic), known).allowed
    };
    match on {
        On::Entry(entry) => known.entry(agent, act, entry, right, hears),
        On::Thread(_, Some(state)) if right.is_some() => {
            let own = known.own.map(|own| own.incarnation);
            if state.is_for(agent, own) { decided(right) } else { deny(Rule::Audience) }
        }
        On::Topic(_) if act == Act::Delete => known.destroys(right.unwrap_or(Rule::Role), right.is_some()),
        _ => decided(right),
    }
}

fn decided(right: Option<Rule>) -> Decision {
    right.map_or(deny(Rule::Role), allow)
}

impl Known<'_> {
    /// What gives the agent an act on something, whoever it is for: its role, or a grant.
    fn right(&self, act: Act, on: On<'_>) -> Option<Rule> {
        let standing = self.own.and_then(|own| own.standing.as_deref());
        let role = standing.and_then(|standing| standing.role.as_ref());
        let standard = match role {
            None => Some(Role::default()),
            Some(AgentRole::Standard(Role::Readonly)) if self.config.has(Fault::RoleWidens) => {
                Some(Role::default())
            }
            Some(AgentRole::Standard(role)) => Some(*role),
            Some(AgentRole::Custom(_)) => None,
        };
        let needs = match (act, on) {
            (Act::Read, _) => Effects::READ,
            (Act::Write, _) | (Act::Subscribe, On::Topic(_) | On::Mesh) | (Act::Create, On::Mesh) => {
                Effects::WRITE
            }
            (Act::Manage, On::Topic(_)) => Effects::MANAGE,
            (Act::Delete, On::Topic(_)) => Effects::DELETE,
            // What it wrote itself; what is another's is looked at when that is known.
            (Act::Delete, On::Key(_) | On::Entry(_)) => Effects::WRITE,
            _ => return None,
        };
        if standard.is_some_and(|role| role.effects().has(needs)) {
            return Some(Rule::Role);
        }
        let needs = match (act, on) {
            (Act::Subscribe, _) => Effects::READ,
            (Act::Delete, On::Key(_) | On::Entry(_)) => Effects::WRITE.and(Effects::DELETE),
            (Act::Create, _) => return None,
            _ => needs,
        };
        self.is_granted(act, on, needs).then_some(Rule::Grant)
    }

    /// Whether a grant that holds gives one of the effects.
    fn is_granted(&self, act: Act, on: On<'_>, any: Effects) -> bool {
        let Some(standing) = self.own.and_then(|own| own.standing.as_deref()) else { return false };
        let of_role = match &standing.role {
            Some(AgentRole::Custom(role)) => role.grants(),
            _ => &[],
        };
        standing.grants.iter().chain(of_role).any(|grant| {
            grant.effects.meets(any)
                && grant.covers(act, on)
                && (grant.holds(self.now) || self.config.has(Fault::ExpiredGrantHonoured))
        })
    }

    fn entry(
        &self,
        agent: &str,
        act: Act,
        entry: &Entry,
        right: Option<Rule>,
        hears: impl Fn(&str) -> bool,
    ) -> Decision {
        let life = self.own.map(|own| own.incarnation);
        let on = On::Entry(entry);
        if act == Act::Read {
            let by_name = entry.audience.names(agent, life) || self.config.has(Fault::AudienceIgnored);
            let admitted = right.filter(|_| by_name).or_else(|| {
                let heard = entry.audience.topics.iter().any(|topic| hears(topic));
                heard.then(|| right.unwrap_or(Rule::Grant))
            });
            let withheld = self.only_trusted()
                && entry.untrusted_author().is_some()
                && !self.config.has(Fault::ProvenanceIgnored);
            return match (admitted, right) {
                (Some(rule), _) if !withheld => allow(rule),
                // As for a key that has no entry.
                (_, None) => deny(Rule::Role),
                (None, _) => deny(Rule::Audience),
                (Some(_), _) => deny(Rule::Provenance),
            };
        }
        let Some(right) = right else { return deny(Rule::Role) };
        let own = entry.is_by(agent, life);
        let sees = || {
            own || entry.audience.names(agent, life) || entry.audience.topics.iter().any(|topic| hears(topic))
        };
        match act {
            Act::Write if sees() => allow(right),
            Act::Write if self.is_granted(act, on, Effects::WRITE) => allow(Rule::Grant),
            Act::Write if self.config.has(Fault::HiddenOverwritten) => allow(right),
            Act::Delete if own => allow(Rule::Author),
            Act::Delete if self.is_granted(act, on, Effects::DELETE) => self.destroys(Rule::Grant, true),
            Act::Delete if sees() => {
                let admin = self.own.is_some_and(|own| own.role() == Some(Role::Admin));
                self.destroys(if admin { Rule::Role } else { Rule::Author }, admin)
            }
            _ => deny(Rule::Audience),
        }
    }

    /// Something that takes away what is not the agent's own.
    const fn destroys(&self, rule: Rule, may: bool) -> Decision {
        match () {
            () if !may => deny(rule),
            () if self.spent => deny(Rule::Rate),
            () if !self.confirmed => deny(Rule::Confirmation),
            () => Decision { allowed: true, rule, destructive: true },
        }
    }

    fn only_trusted(&self) -> bool {
        self.own.and_then(|own| own.standing.as_deref()).is_some_and(|standing| standing.only_trusted)
    }
}

impl AgentState {
    /// The rule by which something is denied to the agent, whatever its role and grants.
    fn denies(&self, act: Act, on: On<'_>) -> Option<Rule> {
        if let On::Topic(topic) = on {
            let (list, rule) =
                if act == Act::Write { (&self.post, Rule::Post) } else { (&self.read, Rule::Subscribe) };
            if list.as_ref().is_some_and(|list| !list.iter().any(|own| **own == *topic)) {
                return Some(rule);
            }
        }
        let standing = self.standing.as_deref().filter(|standing| !standing.denials.is_empty())?;
        let denied = match (act, on) {
            (Act::Read | Act::Subscribe, _) => Effects::READ,
            (Act::Write, _) => Effects::WRITE,
            (Act::Manage, _) => Effects::READ.and(Effects::MANAGE),
            (Act::Delete, On::Topic(_)) => Effects::READ.and(Effects::DELETE),
            (Act::Delete, _) => Effects::WRITE.and(Effects::DELETE),
            _ => return None,
        };
        let covers = |denial: &&Grant| denial.effects.meets(denied) && denial.is_on(on);
        standing.denials.iter().find(covers).map(|_| Rule::Denial)
    }
}

impl Grant {
    fn is_on(&self, on: On<'_>) -> bool {
        match (&self.scope, on) {
            (Scope::Topic(own), On::Topic(topic)) => **own == *topic,
            (Scope::Prefix(prefix), On::Key(key)) => key.starts_with(&**prefix),
            (Scope::Prefix(prefix), On::Entry(entry)) => entry.key.starts_with(&**prefix),
            (Scope::Threads, On::Threads | On::Thread(..)) => true,
            _ => false,
        }
    }

    /// As [`is_on`](Self::is_on); a call on the mesh as a whole needs a grant on anything in it.
    fn covers(&self, act: Act, on: On<'_>) -> bool {
        match on {
            On::Mesh if act == Act::Subscribe => matches!(self.scope, Scope::Topic(_)),
            On::Mesh => true,
            on => self.is_on(on),
        }
    }
}

impl Parts {
    /// Whether an agent in a life of its name is in the audience, topics aside.
    pub(crate) fn names(&self, agent: &str, life: Option<u64>) -> bool {
        self.everyone
            || life.is_some_and(|life| {
                self.agents.iter().any(|member| member.incarnation == life && *member.name == *agent)
            })
    }
}

impl Decision {
    /// What the host is answered whose session has every grant.
    pub(crate) const fn of_the_host() -> Self {
        allow(Rule::Host)
    }

    /// Whether what was refused looks as if it were not there: decided by the thing itself, not by its name.
    pub(crate) const fn hides(self) -> bool {
        matches!(self.rule, Rule::Audience | Rule::Provenance)
    }

    /// Says yes, or why not.
    pub(crate) const fn require(self, act: Act, on: On<'_>) -> Result<(), Error> {
        if self.allowed { Ok(()) } else { Err(self.refusal(act, on)) }
    }

    /// The refusal that the caller gets. Its text names no one and nothing.
    pub(crate) const fn refusal(self, act: Act, on: On<'_>) -> Error {
        use ErrorKind::{Denied, LimitExceeded, NotFound};
        let no_topic = "there is no such topic for this agent";
        let (kind, text) = match (self.rule, on) {
            (Rule::SessionGrants, _) => (Denied, "this session was not given that, ask for one that was"),
            (Rule::Narrowed, _) => (Denied, "this handle was narrowed to less than that"),
            (Rule::Denial | Rule::Subscribe, On::Topic(_)) if matches!(act, Act::Read | Act::Subscribe) => {
                (NotFound, no_topic)
            }
            (Rule::Role, On::Topic(_)) if matches!(act, Act::Read) => (NotFound, no_topic),
            (Rule::Subscribe | Rule::Denial, _) => (Denied, "the host denied that to this agent"),
            (Rule::Post, _) => (Denied, "this agent may not post to that topic"),
            (Rule::Audience, On::Thread(..)) => {
                (Denied, "the name is taken by a thread that this agent can't see")
            }
            (Rule::Audience, _) => (Denied, "the key is taken by an entry that this agent can't see"),
            (Rule::Author, _) => (
                Denied,
                "the entry was written by another, ask the host to grant delete on a prefix of its key",
            ),
            (Rule::Rate, _) => (LimitExceeded, "this agent has deleted much lately, wait a minute"),
            (Rule::Confirmation, _) => (Denied, "the host did not confirm that"),
            (Rule::Host, _) => (Denied, "only the host may do that"),
            (_, On::Topic(_)) => match act {
                Act::Delete => {
                    (Denied, "this agent may not delete the topic, ask the host to grant delete on the topic")
                }
                Act::Manage => (
                    Denied,
                    "this agent may not do that for others, ask the host to grant manage on the topic",
                ),
                Act::Subscribe => {
                    (Denied, "this agent may not subscribe to that, ask the host to grant read on the topic")
                }
                _ => {
                    (Denied, "this agent may not post to that topic, ask the host to grant post on the topic")
                }
            },
            (_, On::Key(_) | On::Entry(_)) => match act {
                Act::Read => {
                    (Denied, "this agent may not read that key, ask the host to grant read on a prefix of it")
                }
                _ => (
                    Denied,
                    "this agent may not write that key, ask the host to grant write on a prefix of it",
                ),
            },
            (_, On::Threads | On::Thread(..)) => {
                (Denied, "this agent may not do that with threads, ask the host to grant it on threads")
            }
            (_, On::Mesh) => (Denied, "this agent's role does not have that, ask the host for a grant"),
        };
        Error::new(kind, text).by(self.rule)
    }
}
