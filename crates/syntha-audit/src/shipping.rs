//! Takes what is in the log to the sinks, in its order.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, Bytes};
use syntha_store::{Batch, ChainHead, Error, ErrorKind, RecordId, Result, Store, Timestamp};

use crate::hub::Owner;
use crate::keeper::{Shipped, is_broken, is_gone, links, put_back};
use crate::leaf::LeafKind;
use crate::log::{Log, Logged};
use crate::retention::floor;
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

/// What one delivery holds, and where the sink stands after it.
struct Load {
    entries: Vec<Delivery>,
    counts: HashMap<Owner, u64>,
    leaf: u64,
    partial: Option<Partial>,
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
        let (Some(sink), Some(partial)) = (self.keeper.sinks.get(number), self.keeper.partial.get(number))
        else {
            return Ok(Step::Done);
        };
        let mut partial = partial.lock().await;
        let cursor = read_cursor(log, &**sink).await?.unwrap_or_else(|| self.shared.hub.cursor(number));
        let size = log.published();
        if cursor != self.shared.hub.cursor(number) {
            let left = count(log, cursor, self.shared.hub.seen()).await?;
            self.shared.hub.reset(number, cursor, left);
        }
        if cursor >= size {
            self.shared.hub.delivered(number, cursor, &HashMap::new());
            return Ok(Step::Done);
        }
        let load = self.load(log, cursor, size, partial.filter(|partial| partial.leaf == cursor)).await?;
        #[cfg(feature = "faults")]
        if self.shared.has(crate::Fault::CursorFirst) && load.leaf > cursor {
            write_cursor(log, &**sink, load.leaf).await?;
        }
        let delivered = tokio::time::timeout(DELIVERY_DEADLINE, sink.deliver(&load.entries)).await;
        if !matches!(delivered, Ok(Ok(()))) {
            return Ok(Step::Failed);
        }
        if load.leaf > cursor {
            write_cursor(log, &**sink, load.leaf).await?;
        }
        *partial = load.partial;
        self.shared.hub.delivered(number, load.leaf, &load.counts);
        Ok(Step::Took(load.counts.values().sum()))
    }

    async fn load(&self, log: &Log, cursor: u64, size: u64, partial: Option<Partial>) -> Result<Load> {
        let mut load = Load { entries: Vec::new(), counts: HashMap::new(), leaf: cursor, partial, bytes: 0 };
        for leaf in log.leaves(cursor, size, LEAVES_PAGE).await? {
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
        let start = ChainHead { seq: leaf.from.saturating_sub(1), head: leaf.before };
        let begin = load.partial.map_or(start, |partial| partial.chain);
        let mut found = Vec::new();
        let chain = match self.read_links(leaf, begin, load, &mut found).await {
            Ok(chain) => chain,
            // Gone with an erasure or a prune, both of which the log names; or tampered with, and then the sink gets the leaf, and nothing
            // that it could take for the chain.
            Err(error) if is_gone(&error) || is_broken(&error) => {
                if !self.is_lost(log, leaf).await? {
                    if matches!(error.kind(), ErrorKind::Erased | ErrorKind::Gone) {
                        // The log is going to say so.
                        return Err(error);
                    }
                    self.shared.hub.condemn(&leaf.leaf.owner);
                }
                found.clear();
                leaf.leaf.chain
            }
            Err(error) => return Err(error),
        };
        let whole = chain.seq >= leaf.leaf.chain.seq;
        *load.counts.entry(leaf.leaf.owner).or_default() +=
            chain.seq.min(leaf.leaf.chain.seq).saturating_sub(begin.seq);
        #[cfg(feature = "faults")]
        if self.shared.has(crate::Fault::TailDropped) && found.len() > 1 {
            found.pop();
        }
        load.entries.append(&mut found);
        load.partial = (!whole).then_some(Partial { leaf: leaf.index, chain });
        Ok(whole)
    }

    /// Reads links up to where a leaf says, or until the load is full.
    async fn read_links(
        &self,
        leaf: &Logged,
        begin: ChainHead,
        load: &mut Load,
        found: &mut Vec<Delivery>,
    ) -> Result<ChainHead> {
        let (owner, end) = (leaf.leaf.owner, leaf.leaf.chain);
        let user = self.inner_of(&owner).await?;
        let mut chain = begin;
        if let Some(floor) = floor(&*user).await?
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
                if load.entries.len() + found.len() >= ENTRIES_MOST || load.bytes >= BYTES_MOST {
                    return Ok(chain);
                }
                chain = link.follow(chain)?.1;
                let (salt, details) = link.details.unzip();
                let link = Delivery::Link { owner, seq: chain.seq, text: link.text, salt, details };
                load.bytes = load.bytes.saturating_add(link.bytes());
                found.push(link);
            }
        }
        if chain.seq == end.seq && chain != end { Err(put_back()) } else { Ok(chain) }
    }

    /// Whether the log says that the links of a leaf are gone.
    async fn is_lost(&self, log: &Log, leaf: &Logged) -> Result<bool> {
        let erased = |at: crate::log::At| leaf.index < at.gone;
        Ok(log.at_of(&leaf.leaf.owner).await?.is_some_and(erased))
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
        let size = log.published();
        let mut takers = Vec::with_capacity(self.keeper.sinks.len());
        for sink in &self.keeper.sinks {
            let cursor = match read_cursor(log, &**sink).await? {
                Some(cursor) => cursor,
                None => {
                    write_cursor(log, &**sink, size).await?;
                    size
                }
            };
            takers.push((sink.name(), cursor, count(log, cursor, size).await?));
        }
        for (name, cursor, owners) in takers {
            self.shared.hub.add_taker(name, cursor, owners, size);
        }
        Ok(())
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
                if seq == 0 || at.filter(is_logged).is_some_and(|at| self.shared.hub.slowest() > at.index) {
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

async fn read_cursor(log: &Log, sink: &dyn AuditSink) -> Result<Option<u64>> {
    let record = log.record(cursor_id(sink)?).await?;
    record.map(|record| record.body.as_ref().try_get_u64().map_err(|_| crate::log::changed())).transpose()
}

async fn write_cursor(log: &Log, sink: &dyn AuditSink, cursor: u64) -> Result<()> {
    let mut batch = Batch::new(Timestamp(0))?;
    batch.ops.push(put(cursor_id(sink)?, Bytes::copy_from_slice(&cursor.to_be_bytes())));
    log.space.commit(batch).await.map(drop)
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
