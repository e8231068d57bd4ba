//! What agents remove is kept in the commit that removes it, and brought back in one.

use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashSet;
use syntha_store::{Batch, Head, Keyspace, Op, RecordId, Timestamp};

use crate::change::Answer;
use crate::draft::{AGENT_TOPICS, Draft, Pending, after, record_id};
use crate::entry::{Entry, Member, Parts};
use crate::error::{Error, ErrorKind, Result};
use crate::fault::Fault;
use crate::names::Topic;
use crate::request::Doing;
use crate::undo::{Deed, UndoId, UndoOverwrites, Undone};
use crate::undo_lookup::Known;
use crate::undo_record::{
    ActBody, ActHead, Parted, Removed, Subscribed, Trace, act_record, corrupt, entries_name,
};

/// The most entries that one act keeps.
pub(crate) const UNDO_ENTRIES: usize = 10_000;
/// The most bytes of their keys and values: they have to go into one batch, and again when they come back.
pub(crate) const UNDO_BYTES: u64 = 32 << 20;
/// Acts of one batch that can be told apart by their numbers.
const ACTS_OF_BATCH: u64 = 256;

/// What a batch makes of what can be undone.
#[derive(Clone, Default)]
pub(crate) struct UndoOverlay {
    made: Vec<Act>,
    ops: Vec<Op>,
}

/// An act in the making.
#[derive(Clone)]
struct Act {
    number: u64,
    head: ActHead,
    body: ActBody,
    /// The entries' own heads and values.
    entries: Vec<(Bytes, Arc<str>)>,
}

impl Draft<'_> {
    /// Whether what is taken away here is kept: what an agent takes, not what the host does.
    pub(crate) fn keeps(&self, who: Option<Doing<'_>>) -> bool {
        who.is_some() && !self.config.undo_window.is_zero() && !self.config.has(Fault::UndoNothingKept)
    }

    /// Whether an entry is kept that an agent writes over.
    pub(crate) fn keeps_over(&self, old: &Entry, new: &Entry) -> bool {
        match self.config.undo_overwrites {
            UndoOverwrites::None => false,
            UndoOverwrites::OfOthers => old.author.is_none() || old.author != new.author,
            UndoOverwrites::All => true,
        }
    }

    /// An entry as it was, with its value; an error before anything is changed if it can't be kept.
    pub(crate) fn kept(&self, entry: &Arc<Entry>) -> Result<Arc<Entry>> {
        let (entries, bytes) = self
            .acting
            .and_then(|at| self.overlay.undo.made.get(at))
            .map_or((0, 0), |act| (act.entries.len(), act.head.bytes));
        check_room(entries + 1, bytes + entry.bytes())?;
        let known = self.lookup.undo.values.get(&entry.key).filter(|known| known.version == entry.version);
        known.cloned().ok_or(UNKNOWN)
    }

    /// Keeps an entry that goes, as [`kept`](Self::kept) gave it. Usage counts it on.
    pub(crate) fn keep(
        &mut self,
        who: Doing<'_>,
        (did, on): (Deed, &Arc<str>),
        entry: &Entry,
        over: Option<Trace>,
    ) -> Result<()> {
        let (head, value) = (entry.encode_head()?, entry.value.clone().ok_or(UNKNOWN)?);
        let act = self.act(who, did, on)?;
        act.head.entries += 1;
        act.head.bytes += entry.bytes();
        let (key, bytes, expires) = (Arc::clone(&entry.key), entry.bytes(), entry.expires);
        act.body.entries.push(Removed { key, bytes, expires, gone: false, over });
        act.entries.push((head, value));
        if !self.config.has(Fault::UndoUncounted) {
            self.overlay.usage.contexts += 1;
            self.overlay.usage.context_bytes += bytes;
        }
        Ok(())
    }

    /// Keeps that an entry was on a topic.
    pub(crate) fn keep_parted(&mut self, who: Doing<'_>, topic: &Topic, entry: &Entry) -> Result<()> {
        let act = self.act(who, Deed::DeleteTopic, topic.shared())?;
        act.head.parted += 1;
        let (key, was, to) = (Arc::clone(&entry.key), Trace::of(entry), entry.audience.agents.clone());
        act.body.parted.push(Parted { key, was, to });
        Ok(())
    }

    /// Keeps that an agent was subscribed.
    pub(crate) fn keep_subscribed(
        &mut self,
        who: Doing<'_>,
        (did, on): (Deed, &Arc<str>),
        (agent, incarnation): (&Arc<str>, u64),
        topics: &[Arc<str>],
    ) -> Result<()> {
        let act = self.act(who, did, on)?;
        act.head.subscribers += 1;
        let agent = Member { name: Arc::clone(agent), incarnation };
        act.body.subscriptions.push(Subscribed { agent, topics: topics.to_vec() });
        Ok(())
    }

    /// The act that this call does; it begins with the first thing that is kept.
    fn act(&mut self, who: Doing<'_>, did: Deed, on: &Arc<str>) -> Result<&mut Act> {
        let at = match self.acting {
            Some(at) => at,
            None => {
                let at = self.overlay.undo.made.len();
                // INVARIANT: a commit has one version, so these numbers are used once.
                let number = self.version.0.checked_mul(ACTS_OF_BATCH).map(|first| first + at as u64);
                let number = number.filter(|_| (at as u64) < ACTS_OF_BATCH).ok_or(UNKNOWN)?;
                let incarnation = self.agent(who.agent.as_str()).map_or(0, |own| own.incarnation);
                let by = Member { name: Arc::clone(who.agent.shared()), incarnation };
                let (until, did) =
                    (after(self.now, self.config.undo_window), if who.batch { Deed::Batch } else { did });
                let head = ActHead::new(by, self.now, until, did, Arc::clone(on));
                let (body, entries) = (ActBody::default(), Vec::new());
                self.overlay.undo.made.push(Act { number, head, body, entries });
                self.acting = Some(at);
                at
            }
        };
        self.overlay.undo.made.get_mut(at).ok_or(UNKNOWN)
    }

    /// Adds what is kept, and what no longer is, to the batch.
    pub(crate) fn finish_undo(&mut self, mut batch: Batch) -> Result<Batch> {
        let undo = std::mem::take(&mut self.overlay.undo);
        for act in undo.made {
            batch = batch.op(put_act(act.number, &act.head, &act.body)?);
            for (at, ((head, value), entry)) in act.entries.into_iter().zip(&act.body.entries).enumerate() {
                batch = batch.op(Op::Put {
                    space: Keyspace::Undo,
                    id: RecordId::new(entries_name(act.number), at as u64 + 1)?,
                    head,
                    body: Bytes::copy_from_slice(value.as_bytes()),
                    expires: Some(entry.expires.map_or(act.head.until, |at| at.min(act.head.until))),
                });
            }
        }
        batch.ops.extend(undo.ops);
        Ok(batch)
    }

    pub(crate) fn undo(&mut self, id: UndoId) -> Result<Answer> {
        let lookup = self.lookup;
        let known = lookup.undo.acts.get(&id.0);
        let known = known.filter(|known| self.now < known.head.until || self.config.has(Fault::UndoEndless));
        let Some(Known { head, body: Some(body), entries }) = known else {
            return Err(Error::new(
                ErrorKind::NotFound,
                "there is nothing to undo under that id, or its time is over",
            ));
        };
        let mut undone = Undone { on: Some(Arc::clone(&head.on)), ..Undone::default() };
        let kept = || body.entries.iter().zip(1_u64..).filter(|(entry, _)| !entry.gone);
        // All or nothing: whatever fails does so before the first change.
        let mut back = Vec::with_capacity(body.entries.len());
        for (entry, number) in kept() {
            if entry.expires.is_some_and(|at| at <= self.now) {
                continue;
            }
            if let Some(there) = self.live(&entry.key)
                && !entry.over.as_ref().is_some_and(|over| self.is_still(&there, over))
                && !self.config.has(Fault::UndoOverNewer)
            {
                return Err(TAKEN.final_());
            }
            let (head, text) = entries.get(&number).ok_or(corrupt())?;
            back.push(self.restored(entry, head, text)?);
        }
        for (entry, _) in kept() {
            self.release(1, entry.bytes);
        }
        undone.expired = (body.entries.len() - back.len()) as u64;
        for pending in back {
            undone.entries += 1;
            undone.keys.push(Arc::clone(&pending.entry.key));
            self.put(pending);
        }
        for parted in &body.parted {
            let rejoined = self.rejoin(parted, &head.on);
            *(if rejoined { &mut undone.rejoined } else { &mut undone.left }) += 1;
        }
        for lost in &body.subscriptions {
            let again = self.subscribe_again(lost);
            *(if again { &mut undone.subscribers } else { &mut undone.left }) += 1;
        }
        self.forget(id.0)?;
        Ok(Answer::Undone(Box::new(undone)))
    }

    /// The entry of a kept record.
    fn restored(&self, removed: &Removed, head: &Bytes, text: &Bytes) -> Result<Pending> {
        let id = record_id(&removed.key)?;
        let stored = Head::new(id, head.clone(), self.version, self.version, removed.expires);
        let text = std::str::from_utf8(text).map_err(|_| corrupt())?;
        let mut entry = Entry::decode(&stored)?.with_value(Some(text.into()));
        if entry.size as usize != text.len() {
            return Err(corrupt().into());
        }
        let mut head = Some(head.clone());
        if self.config.has(Fault::UndoForgetsAudience) {
            (entry.audience, entry.author, head) =
                (Parts { everyone: true, ..Parts::default() }.into(), None, None);
        }
        Ok(Pending { entry: Arc::new(entry), head, head_only: false })
    }

    /// Whether an entry is the one that was written then.
    fn is_still(&self, there: &Arc<Entry>, was: &Trace) -> bool {
        let known = self.lookup.undo.values.get(&there.key);
        known.is_some_and(|known| known.version == there.version && Trace::of(known) == *was)
    }

    /// Puts an entry on the topic again, if it is still the one that was on it and is for nobody else.
    fn rejoin(&mut self, parted: &Parted, topic: &Arc<str>) -> bool {
        let Some(there) = self.live(&parted.key) else { return false };
        let mut parts = Parts::clone(&there.audience);
        let same = !parts.everyone && parts.agents == parted.to;
        if !same || !self.is_still(&there, &parted.was) {
            return false;
        }
        if parts.topics.contains(topic) {
            return true;
        }
        let mut entry = there.with_value(there.value.clone());
        parts.topics.push(Arc::clone(topic));
        // As every audience is stored.
        parts.topics.sort_unstable();
        (entry.audience, entry.version) = (parts.into(), self.version);
        let pending = Pending { entry: Arc::new(entry), head: None, head_only: true };
        self.put_head(pending);
        true
    }

    /// Gives an agent its subscriptions again, if it is still the one that had them.
    fn subscribe_again(&mut self, lost: &Subscribed) -> bool {
        let own = self.agent(&lost.agent.name);
        let Some(mut state) = own.filter(|own| own.incarnation == lost.agent.incarnation).cloned() else {
            return false;
        };
        let own: HashSet<_> = state.topics.iter().cloned().collect();
        state.topics.extend(lost.topics.iter().filter(|topic| !own.contains(*topic)).cloned());
        if state.topics.len() > AGENT_TOPICS {
            return false;
        }
        state.topics.sort_unstable();
        self.set_agent(&lost.agent.name, Some(state));
        true
    }

    /// Deletes what one act keeps, or all of them. Says how many acts that were.
    pub(crate) fn purge_undo(&mut self, id: Option<UndoId>) -> Result<u64> {
        let lookup = self.lookup;
        for (number, known) in &lookup.undo.acts {
            self.release(known.head.entries, known.head.bytes);
            if id.is_some() {
                self.forget(*number)?;
            }
        }
        if id.is_none() && !lookup.undo.acts.is_empty() {
            self.overlay.undo.ops.push(Op::Clear { space: Keyspace::Undo });
        }
        Ok(lookup.undo.acts.len() as u64)
    }

    /// Deletes acts that are over, and entries of others that expired. Says how many acts and entries that were.
    pub(crate) fn sweep_undo(&mut self, over: impl Fn(Timestamp) -> bool) -> Result<u64> {
        let (lookup, mut count) = (self.lookup, 0);
        for (number, Known { head, body, .. }) in &lookup.undo.acts {
            if over(head.until) {
                count += 1 + head.entries;
                self.release(head.entries, head.bytes);
                self.forget(*number)?;
                continue;
            }
            let (mut head, mut body) = (head.clone(), body.clone().ok_or(UNKNOWN)?);
            for (entry, place) in body.entries.iter_mut().zip(1_u64..) {
                if entry.gone || !entry.expires.is_some_and(&over) {
                    continue;
                }
                entry.gone = true;
                count += 1;
                head.entries = head.entries.saturating_sub(1);
                head.bytes = head.bytes.saturating_sub(entry.bytes);
                self.release(1, entry.bytes);
                let id = RecordId::new(entries_name(*number), place)?;
                self.overlay.undo.ops.push(Op::Delete { space: Keyspace::Undo, id });
            }
            self.overlay.undo.ops.push(put_act(*number, &head, &body)?);
        }
        Ok(count)
    }

    /// What is no longer kept no longer counts.
    fn release(&mut self, entries: u64, bytes: u64) {
        if !self.config.has(Fault::UndoUncounted) {
            let usage = &mut self.overlay.usage;
            usage.contexts = usage.contexts.saturating_sub(entries);
            usage.context_bytes = usage.context_bytes.saturating_sub(bytes);
        }
    }

    fn forget(&mut self, number: u64) -> Result<()> {
        let (space, name) = (Keyspace::Undo, entries_name(number));
        let ops = &mut self.overlay.undo.ops;
        ops.push(Op::Delete { space, id: act_record(number)? });
        ops.push(Op::DeleteName { space, name });
        Ok(())
    }

    pub(crate) fn clear_undo(&mut self) {
        self.overlay.undo.ops.push(Op::Clear { space: Keyspace::Undo });
    }
}

/// What one act may keep.
pub(crate) fn check_room(entries: usize, bytes: u64) -> Result<()> {
    if entries > UNDO_ENTRIES || bytes > UNDO_BYTES {
        return Err(Error::new(
            ErrorKind::LimitExceeded,
            "that is more than can be kept for an undo, do it in parts or let the host do it",
        ));
    }
    Ok(())
}

fn put_act(number: u64, head: &ActHead, body: &ActBody) -> Result<Op> {
    let expires = Some(body.ends(head.until));
    Ok(Op::Put {
        space: Keyspace::Undo,
        id: act_record(number)?,
        head: head.encode()?,
        body: body.encode()?,
        expires,
    })
}

const UNKNOWN: Error =
    Error::new(ErrorKind::Storage, "a value was not looked up, this is a defect in Syntha");
const TAKEN: Error = Error::new(
    ErrorKind::Conflict,
    "something else is under a key that would come back, remove it first; nothing was changed, and all is kept",
);
