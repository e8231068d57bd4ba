//! What every answer about threads must be.

use std::collections::BTreeMap;

use syntha::MeshErrorKind as Kind;

use crate::op::{Line, Mask, THREADS, names};
use crate::reference::{Answer, Member, Name, Reference};

pub const ROLES: [Name; 4] = ["system", "user", "assistant", "tool"];

#[derive(Clone, Debug)]
pub struct Talk {
    by: Option<Member>,
    /// `None` for everyone.
    agents: Option<Vec<Member>>,
    created: u64,
    updated: u64,
    last: u64,
    messages: BTreeMap<u64, Said>,
    /// Where a message of the id is, and what it says unless it was redacted.
    ids: BTreeMap<u8, (u64, Option<(u8, String)>)>,
}

#[derive(Clone, Debug)]
struct Said {
    role: u8,
    by: Option<Name>,
    at: u64,
    id: Option<u8>,
    body: String,
}

pub fn content(user: usize, line: &Line) -> String {
    format!("{user} says {}", "ha".repeat(usize::from(line.text)))
}

pub fn message_id(id: u8) -> String {
    format!("message-{id}")
}

fn body(user: usize, line: &Line) -> String {
    let metadata = if line.meta { ",\"metadata\":{\"n\":1}" } else { "" };
    format!("{{\"content\":\"{}\"{metadata}}}", content(user, line))
}

impl Talk {
    pub fn bytes(&self, name: &str) -> u64 {
        let bytes = |said: &Said| said.body.len() + said.id.map_or(0, |id| message_id(id).len());
        (name.len() + self.messages.values().map(bytes).sum::<usize>()) as u64
    }

    fn describe(&self, name: &str) -> String {
        let names = |agents: &Vec<Member>| agents.iter().map(|member| member.0).collect::<Vec<_>>();
        format!(
            "{name} {} {} last {} {}-{} for {:?}\n",
            self.messages.len(),
            self.bytes(name),
            self.last,
            self.created,
            self.updated,
            self.agents.as_ref().map(names)
        )
    }
}

impl Said {
    fn describe(&self, seq: u64) -> String {
        let id = self.id.map(message_id);
        format!(
            "{seq} {} by {:?} at {} id {id:?} {}\n",
            ROLES[usize::from(self.role)],
            self.by,
            self.at,
            self.body
        )
    }
}

impl Reference {
    fn hears(&self, by: Option<Name>, talk: &Talk) -> bool {
        by.is_none_or(|agent| {
            talk.agents.as_ref().is_none_or(|agents| {
                agents.iter().chain(&talk.by).any(|member| member.0 == agent && self.is(member))
            })
        })
    }

    fn make(&mut self, by: Option<Name>, agents: Option<Vec<Name>>, now: u64) -> Talk {
        let by = by.map(|by| self.member(by));
        let agents = agents.map(|agents| agents.into_iter().map(|name| self.member(name)).collect());
        Talk {
            by,
            agents,
            created: now,
            updated: now,
            last: 0,
            messages: BTreeMap::new(),
            ids: BTreeMap::new(),
        }
    }

    pub fn create(&mut self, by: Option<Name>, thread: Name, agents: Option<Vec<Name>>, now: u64) -> Answer {
        match self.threads.get(thread) {
            Some(talk) if !self.hears(by, talk) => Err(Kind::Denied),
            Some(_) => Ok("false".to_owned()),
            None => {
                let talk = self.make(by, agents, now);
                self.threads.insert(thread, talk);
                self.note(now, by, "CreateThread", vec![thread]);
                Ok("true".to_owned())
            }
        }
    }

    pub fn append(
        &mut self,
        user: usize,
        by: Option<Name>,
        thread: Name,
        lines: &[Line],
        now: u64,
    ) -> Answer {
        if lines.is_empty() {
            return Err(Kind::Invalid);
        }
        let mut talk = match self.threads.get(thread) {
            Some(talk) if !self.hears(by, talk) => return Err(Kind::Denied),
            Some(talk) => talk.clone(),
            None => self.make(by, None, now),
        };
        let mut answer = String::new();
        let before = talk.last;
        for line in lines {
            let says = (line.role, body(user, line));
            if let Some((seq, known)) = line.id.and_then(|id| talk.ids.get(&id)) {
                if known.as_ref().is_some_and(|known| *known != says) {
                    return Err(Kind::Invalid);
                }
                answer += &format!("{seq} true ");
                continue;
            }
            talk.last += 1;
            talk.updated = now;
            if let Some(id) = line.id {
                talk.ids.insert(id, (talk.last, Some(says.clone())));
            }
            talk.messages.insert(talk.last, Said { role: line.role, by, at: now, id: line.id, body: says.1 });
            answer += &format!("{} false ", talk.last);
        }
        if talk.last > before {
            by.map(|by| self.member(by));
            self.note(now, by, "Append", vec![thread]);
        }
        self.threads.insert(thread, talk);
        Ok(answer)
    }

    pub fn redact(&mut self, thread: Name, seq: u64, now: u64) -> bool {
        let Some(talk) = self.threads.get_mut(thread) else { return false };
        let Some(said) = talk.messages.remove(&seq) else { return false };
        if let Some(id) = said.id {
            talk.ids.insert(id, (seq, None));
        }
        talk.updated = now;
        self.note(now, None, "Redact", vec![thread]);
        true
    }

    pub fn delete_thread(&mut self, thread: Name, now: u64) -> bool {
        let there = self.threads.remove(thread).is_some();
        if there {
            self.note(now, None, "DeleteThread", vec![thread]);
        }
        there
    }

    /// The last messages (0), those before a place (1), those after (2), or one (3).
    pub fn page(
        &mut self,
        by: Option<Name>,
        thread: Name,
        way: u8,
        seq: u64,
        count: usize,
        now: u64,
    ) -> Answer {
        let count = if way == 3 { 1 } else { count };
        if count == 0 {
            return Err(Kind::Invalid);
        }
        let Some(talk) = self.threads.get(thread).filter(|talk| self.hears(by, talk)) else {
            return Ok(if way == 3 { String::new() } else { "false".to_owned() });
        };
        let place = |at: &u64| match way {
            0 => true,
            1 => *at < seq,
            2 => *at > seq,
            _ => *at == seq,
        };
        let mut found: Vec<_> = talk.messages.iter().filter(|(at, _)| place(at)).collect();
        let more = found.len() > count;
        if way < 2 {
            found.drain(..found.len().saturating_sub(count));
        }
        found.truncate(count);
        let text: String = found.iter().map(|(at, said)| said.describe(**at)).collect();
        // To look for one message is to read the page that begins there.
        let read =
            if way == 3 { seq > 0 && talk.messages.keys().any(|at| *at >= seq) } else { !found.is_empty() };
        if read {
            self.note_read(now, by, "ReadThread", vec![thread]);
        }
        Ok(if way == 3 { text } else { format!("{text}{more}") })
    }

    pub fn threads(&self, by: Option<Name>, after: Option<Name>, limit: usize) -> Answer {
        if limit == 0 {
            return Err(Kind::Invalid);
        }
        let found = THREADS.into_iter().filter(|name| after.is_none_or(|after| *name > after));
        let found = found.filter_map(|name| Some((name, self.threads.get(name)?)));
        let found = found.filter(|(_, talk)| self.hears(by, talk)).take(limit);
        Ok(found.map(|(name, talk)| talk.describe(name)).collect())
    }

    pub fn info(&self, by: Option<Name>, thread: Name) -> String {
        let talk = self.threads.get(thread).filter(|talk| self.hears(by, talk));
        talk.map_or_else(String::new, |talk| talk.describe(thread))
    }
}

pub fn agents_of(mask: Option<Mask>) -> Option<Vec<Name>> {
    mask.map(|mask| names(&crate::op::AGENTS, mask))
}
