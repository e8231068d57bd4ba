//! Takes what is in the log to the sinks, in its order.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use syntha_store::{Batch, ChainHead, Error, ErrorKind, RecordId, Result, Store, Timestamp};

use crate::cursor::{Cursor, OWED_MOST, Owed};
use crate::hub::Owner;
use crate::keeper::{Shipped, is_broken, is_gone, links, put_back};
use crate::leaf::LeafKind;
use crate::log::{Log, Logged};
use crate::sink::{AuditSink, DELIVERY_DEADLINE, Delivery, is_name};
use crate::store::AuditedStore;
use crate::user_store::put;

/// How many entries, and about how many bytes, one delivery has.
const ENTRIES_MOST: usize = 512;
const BYTES_MOST: usize = 4 * 1024 * 1024;
const LEAVES_PAGE: usize = 128;
/// How long all sinks have to take what has to be outside before it goes here.
const FLUSH_DEADLINE: Duration = Duration::from_secs(6);
const FLUSH_PAUSE: Duration = Duration::from_millis(50);

/// How far a sink is inside of a leaf with many links.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Partial {
    leaf: u64,
    chain: ChainHead,
}

/// Where a sink stands, beside its cursor.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    partial: Option<Partial>,
    owed: Vec<Owed>,
}

/// What one delivery holds, and where the sink stands after it.
#[derive(Default)]
struct Load {
    entries: Vec<Delivery>,
    counts: HashMap<Owner, u64>,
    leaf: u64,
    partial: Option<Partial>,
    owed: Vec<Owed>,
    bytes: usize,
}

impl Load {
    fn push(&mut self, entry: Delivery) {
        self.bytes = self.bytes.saturating_add(entry.bytes());
        self.entries.push(entry);
    }

    fn is_full(&self) -> bool {
        self.entries.len() >= ENTRIES_MOST || self.bytes >= BYTES_MOST
    }
}

impl<S: Store + ?Sized> AuditedStore<S> {
    /// Takes everything that is in the log to the sinks, one pass: a sink that fails is not tried again.
    ///
    /// # Errors
    ///
    /// `Tampered` if chains or log are not as they were written; as [`checkpoint`](Self::checkpoint). That a sink fails is no error.
    pub async fn shipped(&self) -> Result<Shipped> {
        self.log().await?;
        let passes = (0..self.keeper.sinks.len()).map(|sink| {
            let pass: Work<'_, Result<(u64, bool)>> = Box::pin(self.ship_all(sink));
            pass
        });
        let mut shipped = Shipped::default();
        for (sink, done) in self.keeper.sinks.iter().zip(all(passes.collect()).await) {
            let (links, took) = done?;
            shipped.links = shipped.links.saturating_add(links);
            if !took {
                shipped.failed.push(sink.name().to_owned());
            }
        }
        Ok(shipped)
    }

    /// How many links a sink took, and whether it took all.
    async fn ship_all(&self, sink: usize) -> Result<(u64, bool)> {
        let mut links = 0_u64;
        loop {
            match self.ship(sink).await? {
                Step::Done => return Ok((links, true)),
                Step::Took(more) => links = links.saturating_add(more),
                Step::Failed => return Ok((links, false)),
            }
        }
    }

    /// One delivery to a sink.
    pub(crate) async fn ship(&self, number: usize) -> Result<Step> {
        let Some(log) = self.log().await? else { return Ok(Step::Done) };
        let (Some(sink), Some(progress)) = (self.keeper.sinks.get(number), self.keeper.progress.get(number))
        else {
            return Ok(Step::Done);
        };
        if self.keeper.reads {
            return Ok(Step::Done);
        }
        let (sink, mut progress) = (&**sink, progress.lock().await);
        let stored = self.read_cursor(log, sink).await?;
        // A row that is none any more changes nothing of what is known here.
        let known = || Cursor { leaf: self.shared.hub.cursor(number), owed: progress.owed.clone() };
        let Cursor { leaf: cursor, owed } = stored.unwrap_or_else(known);
        let size = log.published();
        if cursor != self.shared.hub.cursor(number) {
            let left = count(log, cursor, self.shared.hub.seen()).await?;
            self.shared.hub.reset(number, cursor, left);
        }
        self.owe(number, &mut progress, owed);
        if let Some(step) = self.ship_owed(log, number, sink, cursor, &mut progress).await? {
            return Ok(step);
        }
        if cursor >= size {
            self.shared.hub.delivered(number, cursor, &HashMap::new());
            return Ok(Step::Done);
        }
        let load = self.load(log, cursor, size, &progress).await?;
        #[cfg(feature = "faults")]
        if self.shared.has(crate::Fault::CursorFirst) && load.leaf > cursor {
            self.write_cursor(log, sink, load.leaf, &load.owed).await?;
        }
        let delivered = tokio::time::timeout(DELIVERY_DEADLINE, sink.deliver(&load.entries)).await;
        if !matches!(delivered, Ok(Ok(()))) {
            return Ok(Step::Failed);
        }
        if load.leaf > cursor {
            self.write_cursor(log, sink, load.leaf, &load.owed).await?;
        }
        progress.partial = load.partial;
        self.shared.hub.delivered(number, load.leaf, &load.counts);
        self.owe(number, &mut progress, load.owed);
        Ok(Step::Took(load.counts.values().sum()))
    }

    fn owe(&self, number: usize, progress: &mut Progress, owed: Vec<Owed>) {
        let counts: Vec<_> = owed.iter().map(|owed| (owed.owner, owed.links())).collect();
        self.shared.hub.owe(number, &counts);
        progress.owed = owed;
    }

    /// Tries to get links whose leaves the sink has, of one owner; `None` if there is nothing to get at present.
    async fn ship_owed(
        &self,
        log: &Log,
        number: usize,
        sink: &dyn AuditSink,
        cursor: u64,
        progress: &mut Progress,
    ) -> Result<Option<Step>> {
        let is_due = |owed: &&Owed| self.shared.hub.is_due(number, &owed.owner);
        let Some(due) = progress.owed.iter().find(is_due).copied() else { return Ok(None) };
        let mut load = Load::default();
        let mut found = Vec::new();
        let span = Span { owner: due.owner, begin: due.begin, end: due.end };
        let reached = match self.read_links(log, span, &load, &mut found).await {
            Ok(reached) => reached,
            Err(error) if self.are_lost(log, &due.owner, due.leaf, &error).await? => {
                found.clear();
                due.end
            }
            Err(_) => {
                self.shared.hub.put_off(number, &due.owner);
                return Ok(Some(Step::Took(0)));
            }
        };
        load.entries = found;
        if !load.entries.is_empty() {
            let delivered = tokio::time::timeout(DELIVERY_DEADLINE, sink.deliver(&load.entries)).await;
            if !matches!(delivered, Ok(Ok(()))) {
                return Ok(Some(Step::Failed));
            }
        }
        let mut owed = progress.owed.clone();
        if reached.seq >= due.end.seq {
            owed.retain(|owed| owed.owner != due.owner);
        } else if let Some(owed) = owed.iter_mut().find(|owed| owed.owner == due.owner) {
            owed.begin = reached;
        }
        self.write_cursor(log, sink, cursor, &owed).await?;
        self.owe(number, progress, owed);
        Ok(Some(Step::Took(reached.seq.saturating_sub(due.begin.seq))))
    }

    async fn load(&self, log: &Log, cursor: u64, size: u64, progress: &Progress) -> Result<Load> {
        let partial = progress.partial.filter(|partial| partial.leaf == cursor);
        let owed = progress.owed.clone();
        let mut load = Load { leaf: cursor, partial, owed, ..Load::default() };
        for leaf in log.leaves(cursor, size, LEAVES_PAGE).await? {
            if matches!(leaf.leaf.kind, LeafKind::Erased | LeafKind::Lost) {
                load.owed.retain(|owed| owed.owner != leaf.leaf.owner);
            }
            if leaf.leaf.kind == LeafKind::Head
                && leaf.from > 0
                && !self.load_links(log, &leaf, &mut load).await?
            {
                return Ok(load);
            }
            load.partial = None;
            let bytes = Bytes::copy_from_slice(&leaf.leaf.encode());
            load.push(Delivery::Leaf { index: leaf.index, leaf: bytes });
            load.leaf = leaf.index.saturating_add(1);
            if load.leaf == leaf.size
                && let Some(checkpoint) = log.checkpoint(leaf.checkpoint).await?
                && checkpoint.head.size == leaf.size
            {
                load.push(Delivery::Checkpoint { note: checkpoint.note, size: leaf.size });
            }
            if load.is_full() {
                break;
            }
        }
        Ok(load)
    }

    /// The links that a leaf is the first to name; whether those are all of them.
    async fn load_links(&self, log: &Log, leaf: &Logged, load: &mut Load) -> Result<bool> {
        let (owner, end) = (leaf.leaf.owner, leaf.leaf.chain);
        let start = ChainHead { seq: leaf.from.saturating_sub(1), head: leaf.before };
        let begin = load.partial.map_or(start, |partial| partial.chain);
        let mut count = |links| *load.counts.entry(owner).or_default() += links;
        // What comes before these has not come.
        if let Some(owed) = load.owed.iter_mut().find(|owed| owed.owner == owner) {
            (owed.end, owed.leaf) = (end, leaf.index);
            count(end.seq.saturating_sub(begin.seq));
            return Ok(true);
        }
        let mut found = Vec::new();
        let chain = match self.read_links(log, Span { owner, begin, end }, load, &mut found).await {
            Ok(chain) => chain,
            Err(error) if self.are_lost(log, &owner, leaf.index, &error).await? => {
                found.clear();
                end
            }
            Err(_) if load.owed.len() < OWED_MOST => {
                load.owed.push(Owed { owner, begin, end, leaf: leaf.index });
                *load.counts.entry(owner).or_default() += end.seq.saturating_sub(begin.seq);
                return Ok(true);
            }
            Err(error) => return Err(error),
        };
        let whole = chain.seq >= end.seq;
        *load.counts.entry(owner).or_default() += chain.seq.min(end.seq).saturating_sub(begin.seq);
        #[cfg(feature = "faults")]
        if self.shared.has(crate::Fault::TailDropped) && found.len() > 1 {
            found.pop();
        }
        load.bytes = load.bytes.saturating_add(found.iter().map(Delivery::bytes).sum());
        load.entries.append(&mut found);
        load.partial = (!whole).then_some(Partial { leaf: leaf.index, chain });
        Ok(whole)
    }

    /// Whether links are not there any more, as opposed to not at present. Gone with an erasure or a prune, both of which the log names; or
    /// tampered with, and then the sink gets the leaf, and nothing that it could take for the chain.
    async fn are_lost(&self, log: &Log, owner: &Owner, leaf: u64, error: &Error) -> Result<bool> {
        if !is_gone(error) && !is_broken(error) {
            return Ok(false);
        }
        if self.is_lost(log, owner, leaf).await? {
            return Ok(true);
        }
        if matches!(error.kind(), ErrorKind::Erased | ErrorKind::Gone) {
            // The log is going to say so.
            return Ok(false);
        }
        self.shared.hub.condemn(owner);
        Ok(true)
    }

    /// Reads links until the load is full. Gives where it came to.
    async fn read_links(
        &self,
        log: &Log,
        span: Span,
        load: &Load,
        found: &mut Vec<Delivery>,
    ) -> Result<ChainHead> {
        let Span { owner, begin, end } = span;
        let user = self.inner_of(&owner).await?;
        let (mut chain, mut bytes) = (begin, load.bytes);
        // INVARIANT: links that a sink has not are passed over only where the log says that they went.
        if let Some(floor) = self.pruned(log, &owner, &*user).await?
            && floor.before().seq > chain.seq
        {
            chain = floor.before();
        }
        while chain.seq < end.seq {
            let page = links(&*user, chain.seq, end.seq).await?;
            if page.is_empty() {
                return Err(put_back());
            }
            for link in page {
                if load.entries.len() + found.len() >= ENTRIES_MOST || bytes >= BYTES_MOST {
                    return Ok(chain);
                }
                chain = link.follow(chain)?.1;
                let (salt, details) = link.details.unzip();
                let link = Delivery::Link { owner, seq: chain.seq, text: link.text, salt, details };
                bytes = bytes.saturating_add(link.bytes());
                found.push(link);
            }
        }
        if chain.seq == end.seq && chain != end { Err(put_back()) } else { Ok(chain) }
    }

    /// Whether the log says that the links of a leaf are gone.
    async fn is_lost(&self, log: &Log, owner: &Owner, leaf: u64) -> Result<bool> {
        let erased = |at: crate::log::At| leaf < at.gone;
        Ok(log.at_of(owner).await?.is_some_and(erased))
    }

    /// Where each sink stands. One that is new starts here.
    pub(crate) async fn start_sinks(&self, log: &Log) -> Result<()> {
        let mut names = std::collections::HashSet::new();
        if !self.keeper.sinks.iter().all(|sink| is_name(sink.name()) && names.insert(sink.name())) {
            return Err(Error::new(
                ErrorKind::Invalid,
                "audit sinks have different names of 1 to 64 letters, digits, `-`, `_` and `.`",
            ));
        }
        if self.keeper.reads {
            return Ok(());
        }
        let size = log.published();
        let mut takers = Vec::with_capacity(self.keeper.sinks.len());
        for sink in &self.keeper.sinks {
            let cursor = self.begin_sink(log, &**sink, size).await?;
            takers.push((sink.name(), cursor, count(log, cursor, size).await?));
        }
        for (name, cursor, owners) in takers {
            self.shared.hub.add_taker(name, cursor, owners, size);
        }
        Ok(())
    }

    /// Where a sink stands. One that was begun and of which the data says nothing that counts gets everything again.
    async fn begin_sink(&self, log: &Log, sink: &dyn AuditSink, size: u64) -> Result<u64> {
        let stored = self.read_cursor(log, sink).await?;
        let memory = log.signer.sinks().await?;
        let is_begun = memory.is_some_and(|memory| memory.knows(sink.name()));
        #[cfg(feature = "faults")]
        let is_begun = is_begun && !self.shared.has(crate::Fault::CursorBelieved);
        if let (true, Some(cursor)) = (is_begun, &stored) {
            return Ok(cursor.leaf);
        }
        let leaf = match (stored, log.record(cursor_id(sink)?).await?) {
            _ if is_begun => 0,
            (Some(cursor), _) => cursor.leaf,
            // Of a build that wrote nothing but the number, which this one can do once.
            (None, Some(row)) => <[u8; 8]>::try_from(&row.body[..]).map_or(0, u64::from_be_bytes),
            (None, None) => size,
        };
        // INVARIANT: it is remembered first. A row without that memory would be believed if it went.
        log.signer.turn().await?.begin_sink(sink.name()).await?;
        self.write_cursor(log, sink, leaf, &[]).await?;
        Ok(leaf)
    }

    /// The key of what the data says of sinks; a fixed one where the signer keeps none, which authenticates nothing.
    async fn cursor_key(&self, log: &Log) -> Result<[u8; 32]> {
        Ok(log.signer.sinks().await?.map_or([0; 32], |memory| *memory.key()))
    }

    /// How far a sink was told, if the data says so.
    async fn read_cursor(&self, log: &Log, sink: &dyn AuditSink) -> Result<Option<Cursor>> {
        let Some(record) = log.record(cursor_id(sink)?).await? else { return Ok(None) };
        Ok(Cursor::decode(&record.body, &self.cursor_key(log).await?, sink.name()).ok())
    }

    async fn write_cursor(&self, log: &Log, sink: &dyn AuditSink, leaf: u64, owed: &[Owed]) -> Result<()> {
        let cursor = Cursor { leaf, owed: owed.to_vec() };
        let row = cursor.encode(&self.cursor_key(log).await?, sink.name());
        let mut batch = Batch::new(Timestamp(0))?;
        batch.ops.push(put(cursor_id(sink)?, row));
        log.space.commit(batch).await.map(drop)
    }

    /// Logs and ships until every sink has an owner's chain up to a link.
    ///
    /// # Errors
    ///
    /// `AuditUnavailable` if that takes too long.
    pub(crate) async fn flush(&self, log: &Log, owner: &Owner, seq: u64) -> Result<()> {
        let work = async {
            loop {
                self.checkpoint().await?;
                self.shipped().await?;
                let at = log.at_of(owner).await?;
                let is_logged = |at: &crate::log::At| at.chain.seq >= seq && !at.erased;
                let hub = &self.shared.hub;
                let is_taken = |at: crate::log::At| hub.slowest() > at.index && !hub.owes(owner);
                if seq == 0 || at.filter(is_logged).is_some_and(is_taken) {
                    return Ok(());
                }
                tokio::time::sleep(FLUSH_PAUSE).await;
            }
        };
        tokio::time::timeout(FLUSH_DEADLINE, work).await.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::AuditUnavailable,
                "the audit sinks did not take the user's entries in time: look after them, and try again",
            ))
        })
    }
}

/// Links of an owner: after one, up to another.
#[derive(Clone, Copy, Debug)]
struct Span {
    owner: Owner,
    begin: ChainHead,
    end: ChainHead,
}

/// How a delivery went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// There was nothing.
    Done,
    /// So many links were taken, and perhaps there are more.
    Took(u64),
    /// The sink failed.
    Failed,
}

/// How many links of whom leaves are the first to name.
async fn count(log: &Log, mut from: u64, size: u64) -> Result<HashMap<Owner, u64>> {
    let mut owners = HashMap::new();
    while from < size {
        let leaves = log.leaves(from, size, 1_024).await?;
        from = from.saturating_add(leaves.len() as u64);
        for leaf in leaves.iter().filter(|leaf| leaf.links() > 0) {
            *owners.entry(leaf.leaf.owner).or_default() += leaf.links();
        }
    }
    Ok(owners)
}

fn cursor_id(sink: &dyn AuditSink) -> Result<RecordId> {
    RecordId::new([b"sink".as_slice(), sink.name().as_bytes()].concat(), 0)
}

type Work<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Runs all at once, and gives what each came to, in their order.
async fn all<T: Send>(mut works: Vec<Work<'_, T>>) -> Vec<T> {
    let mut done: Vec<Option<T>> = works.iter().map(|_| None).collect();
    poll_fn(|context| {
        let mut is_waiting = false;
        for (work, done) in works.iter_mut().zip(&mut done) {
            if done.is_none() {
                match work.as_mut().poll(context) {
                    Poll::Ready(value) => *done = Some(value),
                    Poll::Pending => is_waiting = true,
                }
            }
        }
        if is_waiting { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    done.into_iter().flatten().collect()
}
