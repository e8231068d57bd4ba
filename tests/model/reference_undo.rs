//! What every answer about what agents removed must be.

use std::collections::BTreeSet;

use syntha::MeshErrorKind as Kind;

use crate::reference::{Answer, GRACE, Member, Name, Reference, Thing};

const DAY: u64 = 24 * 3_600_000;

/// Which entries that an agent writes over are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overwrites {
    #[default]
    OfOthers,
    All,
}

/// What one call of an agent removed.
#[derive(Clone, Debug)]
pub struct Kept {
    by: Name,
    at: u64,
    until: u64,
    did: Name,
    pub on: Name,
    entries: Vec<Away>,
    parted: Vec<(Name, Thing)>,
    subscribers: Vec<Member>,
}

#[derive(Clone, Debug)]
struct Away {
    key: Name,
    thing: Thing,
    gone: bool,
    /// What was written over it.
    over: Option<Thing>,
}

impl Away {
    fn bytes(&self) -> u64 {
        (self.key.len() + self.thing.value.len()) as u64
    }
}

/// Whether what is there is what was written then, whoever it is for.
fn same(there: &Thing, was: &Thing) -> bool {
    let of = |thing: &Thing| (thing.author, thing.created, thing.updated, thing.value.clone());
    of(there) == of(was)
}

impl Reference {
    /// What this call removes is kept together.
    fn keep(&mut self, by: Name, did: Name, on: Name, now: u64) -> &mut Kept {
        let at = *self.acting.get_or_insert_with(|| {
            let did = if self.batched { "Batch" } else { did };
            let (entries, parted, subscribers) = (Vec::new(), Vec::new(), Vec::new());
            self.kept.push(Kept { by, at: now, until: now + DAY, did, on, entries, parted, subscribers });
            self.kept.len() - 1
        });
        &mut self.kept[at]
    }

    pub fn keep_entry(
        &mut self,
        by: Option<Name>,
        did: Name,
        on: Name,
        (key, thing): (Name, Thing),
        now: u64,
    ) {
        if let Some(by) = by.filter(|_| thing.lives(now)) {
            self.keep(by, did, on, now).entries.push(Away { key, thing, gone: false, over: None });
        }
    }

    pub fn keep_over(&mut self, by: Option<Name>, key: Name, old: Option<Thing>, new: &Thing, now: u64) {
        let Some((by, old)) = by.zip(old) else { return };
        let others = old.author.is_none() || old.author != new.author;
        if others || self.overwrites == Overwrites::All {
            let over = Some(new.clone());
            self.keep(by, "Overwrite", key, now).entries.push(Away { key, thing: old, gone: false, over });
        }
    }

    pub fn keep_parted(&mut self, by: Option<Name>, topic: Name, (key, thing): (Name, Thing), now: u64) {
        if let Some(by) = by.filter(|_| thing.lives(now)) {
            self.keep(by, "DeleteTopic", topic, now).parted.push((key, thing));
        }
    }

    pub fn keep_subscriber(&mut self, by: Option<Name>, topic: Name, member: Member, now: u64) {
        if let Some(by) = by {
            self.keep(by, "DeleteTopic", topic, now).subscribers.push(member);
        }
    }

    /// Which acts can be undone, the latest first.
    fn open(&self, now: u64) -> Vec<usize> {
        (0..self.kept.len()).rev().filter(|at| now < self.kept[*at].until).collect()
    }

    fn chosen(&self, which: usize, now: u64) -> Option<usize> {
        let open = self.open(now);
        open.get(which % open.len().max(1)).copied()
    }

    pub fn undo_list(&self, now: u64) -> String {
        let describe = |at: usize| {
            let Kept { by, at, until, did, on, entries, parted, subscribers } = &self.kept[at];
            let kept: Vec<_> = entries.iter().filter(|away| !away.gone).collect();
            let bytes: u64 = kept.iter().map(|away| away.bytes()).sum();
            let (parted, subscribers) = (parted.len(), subscribers.len());
            format!("{did} {on} by {by} {at}-{until}: {} {bytes} {parted} {subscribers}\n", kept.len())
        };
        self.open(now).into_iter().map(describe).collect()
    }

    pub fn undo(&mut self, which: usize, now: u64) -> Answer {
        let Some(at) = self.chosen(which, now) else { return Ok("nothing".to_owned()) };
        let Kept { on, entries, parted, subscribers, .. } = self.kept[at].clone();
        let comes = |away: &&Away| !away.gone && away.thing.lives(now);
        for away in entries.iter().filter(comes) {
            let there = self.entries.get(away.key).filter(|there| there.lives(now));
            if there.is_some_and(|there| !away.over.as_ref().is_some_and(|over| same(there, over))) {
                return Err(Kind::Conflict);
            }
        }
        let back: Vec<_> = entries.iter().filter(comes).cloned().collect();
        let expired = entries.len() - back.len();
        for Away { key, mut thing, .. } in back.iter().cloned() {
            thing.version = 0;
            self.entries.insert(key, thing);
        }
        let (mut rejoined, mut again, mut left) = (0, 0, 0);
        for (key, was) in parted {
            let there = self.entries.get_mut(key).filter(|there| {
                there.lives(now) && !there.everyone && there.agents == was.agents && same(there, &was)
            });
            let Some(there) = there else {
                left += 1;
                continue;
            };
            rejoined += 1;
            if !there.topics.contains(&on) {
                there.topics.push(on);
                there.topics.sort_unstable();
                there.version = 0;
            }
        }
        for member in subscribers {
            if self.is(&member) {
                self.agents.get_mut(member.0).unwrap().topics.insert(on);
                again += 1;
            } else {
                left += 1;
            }
        }
        self.kept.remove(at);
        let mut named: Vec<_> = back.iter().map(|away| away.key).collect();
        if !named.contains(&on) {
            named.push(on);
        }
        self.note(now, None, "Undo", named);
        Ok(format!("{} {expired} {rejoined} {again} {left}", back.len()))
    }

    pub fn purge(&mut self, which: Option<usize>, now: u64) -> Answer {
        let count = match which {
            // Also what is over and not swept yet.
            None => std::mem::take(&mut self.kept).len(),
            Some(which) => match self.chosen(which, now) {
                None => return Ok("nothing".to_owned()),
                Some(at) => {
                    self.kept.remove(at);
                    1
                }
            },
        };
        Ok(count.to_string())
    }

    /// How many acts and entries of them were swept.
    pub fn sweep_kept(&mut self, now: u64) -> u64 {
        let (over, mut count) = (|at: u64| at + GRACE <= now, 0);
        self.kept.retain_mut(|kept| {
            let ends = over(kept.until);
            for away in kept.entries.iter_mut().filter(|away| !away.gone) {
                away.gone = ends || away.thing.expires.is_some_and(over);
                count += u64::from(away.gone);
            }
            count += u64::from(ends);
            !ends
        });
        count
    }

    /// How many entries are kept, and their bytes.
    pub fn kept(&self) -> (u64, u64) {
        let kept = self.kept.iter().flat_map(|kept| &kept.entries).filter(|away| !away.gone);
        kept.fold((0, 0), |(count, bytes), away| (count + 1, bytes + away.bytes()))
    }

    pub fn set_admin(&mut self, name: Name, admin: bool, now: u64) -> Answer {
        self.permit(name, now, |bearer| bearer.admin = admin)
    }

    /// Topics that agents lose with one: in order of their names, as the program has them in none.
    pub fn losing(&self, topic: Name) -> BTreeSet<Member> {
        let loses = |name: &&Name| self.agents[*name].topics.contains(topic);
        self.agents.keys().filter(loses).map(|name| (*name, self.agents[name].life)).collect()
    }
}
