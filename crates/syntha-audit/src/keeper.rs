//! What an audited store does beside its users' commits: it logs the chains that moved, and looks for those that moved unseen.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use syntha_store::{
    ChainHead, DEPLOYMENT_OWNER, Error, ErrorKind, Keyspace, Result, Scan, Store, UserStore, UserTag,
};
use tokio::sync::OnceCell;

use crate::hub::{Backlog, Candidate, Moved, Owner};
use crate::leaf::{Leaf, LeafKind};
use crate::link::{StoredLink, genesis};
use crate::log::{At, Checkpoint, Checks, Entry, LEAVES_MOST, Log, Opened, changed};
use crate::retention::{Floor, floor};
use crate::run;
use crate::signer::{Signer, rolled_back};
use crate::signer_keys::SignerKeys;
use crate::sink::AuditSink;
use crate::store::AuditedStore;
use crate::user_store::link_id;

/// How often a checkpoint is tried again because another process made one.
pub(crate) const TRIES: usize = 16;
/// How many links are read at a time.
pub(crate) const LINKS_PAGE: usize = 64;
/// How many users a sweep looks at before it lets others go first.
const USERS_PAGE: usize = 64;
/// How long the sinks have at the end.
const CLOSE_DEADLINE: Duration = Duration::from_secs(3);
/// How long one user's data has for one answer, and those that answer late or not at all have together before a checkpoint goes on without
/// them.
const LOOK_DEADLINE: Duration = Duration::from_secs(4);
const PATIENCE: Duration = Duration::from_secs(4);
const SWEEP_PAUSE: Duration = Duration::from_millis(5);

/// Who signs and who takes entries.
#[derive(Debug, Default)]
pub(crate) struct Keeper {
    pub(crate) signer: Option<Arc<dyn Signer>>,
    /// Another process signs; here the log is only read.
    pub(crate) reads: bool,
    pub(crate) sinks: Vec<Arc<dyn AuditSink>>,
    pub(crate) progress: Vec<tokio::sync::Mutex<crate::shipping::Progress>>,
    pub(crate) log: OnceCell<Log>,
    /// Runs that ended without a word, once looked for.
    pub(crate) ended: Mutex<Option<Vec<u64>>>,
}

/// What a pass over the sinks did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shipped {
    /// Links that were delivered, all sinks together.
    pub links: u64,
    /// The names of the sinks that did not take what there was.
    pub failed: Vec<String>,
}

impl<S: Store + ?Sized> AuditedStore<S> {
    /// Signs the log with this key. Without one there is no log, and chains are unanchored.
    #[must_use]
    pub fn signer(mut self, signer: Arc<dyn Signer>) -> Self {
        self.keeper.signer = Some(signer);
        self
    }

    /// Reads the log, and neither appends to it nor signs: beside a process that does both.
    #[must_use]
    pub const fn reading(mut self) -> Self {
        self.keeper.reads = true;
        self
    }

    /// Whether there is a signer, and so a log.
    #[must_use]
    pub const fn is_signed(&self) -> bool {
        self.keeper.signer.is_some()
    }

    /// Delivers to this sink, beside those that were named before. A sink that is new starts at the present end of the log.
    #[must_use]
    pub fn sink(mut self, sink: Arc<dyn AuditSink>) -> Self {
        self.keeper.sinks.push(sink);
        self.keeper.progress.push(tokio::sync::Mutex::default());
        self
    }

    /// How far every sink may be behind before operations are refused: so many entries (1 or more, of which a quarter may be one user's),
    /// or so long. 10,000 and 10 seconds unless set.
    #[must_use]
    pub fn bounds(self, entries: u64, age: Duration) -> Self {
        self.shared.hub.bound(crate::hub::Bounds { entries: entries.max(1), age });
        self
    }

    /// Logs every chain that moved and signs the log. If nothing moved, it is the last checkpoint.
    ///
    /// # Errors
    ///
    /// `Invalid` without a signer; `NotFound` if the log is [only read](Self::reading) and has none; `Tampered` if the log does not go on
    /// from where it was last signed, or from what a sink has; `KeyRefused` and `KeyUnavailable` from the signer; `Busy` if other processes
    /// append all the time. One user's data that is not as it was or can't be read is no error, but in the [backlog](Self::backlog).
    pub async fn checkpoint(&self) -> Result<Checkpoint> {
        let log = self.log().await?.ok_or_else(no_signer)?;
        if self.keeper.reads {
            return log.last().await?.ok_or_else(none_yet);
        }
        let made = self.checkpoint_over(log).await;
        self.shared.hub.log_fails(made.is_err());
        made
    }

    async fn checkpoint_over(&self, log: &Log) -> Result<Checkpoint> {
        let mut swept = None;
        loop {
            let (waiting, overflow, taken) = self.shared.hub.waiting(LEAVES_MOST);
            if let (true, Some(made)) = (overflow, swept.take()) {
                // All that was found can't be read at present.
                self.shared.hub.overflowed();
                return Ok(made);
            }
            // Whose chain is broken or can't be read is told of by the backlog, and does not hold up the others.
            if overflow && let Err(error) = self.sweep(log).await {
                self.shared.hub.overflowed();
                return Err(error);
            }
            let made = self.append(log, Some(taken), || self.entries(log, &waiting)).await?;
            if waiting.len() < LEAVES_MOST && !overflow && !self.shared.hub.is_over() {
                return Ok(made);
            }
            swept = overflow.then_some(made);
        }
    }

    /// Appends what is gathered while nobody else appends.
    pub(crate) async fn append<F>(
        &self,
        log: &Log,
        taken: Option<std::time::Instant>,
        gather: impl Fn() -> F + Send,
    ) -> Result<Checkpoint>
    where
        F: Future<Output = Result<Vec<Entry>>> + Send,
    {
        if self.keeper.reads {
            return Err(only_read());
        }
        for _ in 0..TRIES {
            let mut turn = log.turn(self.compares()).await?;
            self.take_in(log, turn.size()).await?;
            let entries = gather().await?;
            if let (true, Some(last)) = (entries.is_empty(), turn.last()) {
                return Ok(last);
            }
            match turn.append(&entries).await {
                Ok((checkpoint, leaves)) => {
                    self.shared.hub.logged(&leaves, taken);
                    self.shared.hub.saw(checkpoint.head.size);
                    return Ok(checkpoint);
                }
                Err(error) if error.kind() == ErrorKind::Conflict => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::new(ErrorKind::Busy, "other processes sign the audit log all the time, try again"))
    }

    /// Takes in what another process appended.
    pub(crate) async fn take_in(&self, log: &Log, size: u64) -> Result<()> {
        let mut seen = self.shared.hub.seen();
        while seen < size {
            let leaves = log.leaves(seen, size, 1_024).await?;
            self.shared.hub.logged(&leaves, None);
            seen = seen.saturating_add(leaves.len() as u64);
            self.shared.hub.saw(seen);
        }
        Ok(())
    }

    async fn entries(&self, log: &Log, waiting: &[Candidate]) -> Result<Vec<Entry>> {
        let mut entries = Vec::with_capacity(waiting.len());
        let mut patience = PATIENCE;
        for candidate in waiting {
            let at = log.at(&candidate.owner)?;
            if patience.is_zero() && !is_at_hand(candidate, at) {
                // Data that answers late holds up one checkpoint for so long, and the next one goes on here.
                continue;
            }
            let begun = tokio::time::Instant::now();
            let entry = self.candidate(log, candidate, at).await;
            if entry.is_err() {
                patience = patience.saturating_sub(begun.elapsed());
            }
            match entry {
                Ok((_, Some(entry))) => {
                    // A chain that was pruned before this log began: the log says from where on there is something.
                    if entry.from > 1 && entry.at.is_none_or(|at| at.erased) {
                        let chain = ChainHead { seq: entry.from, head: entry.before };
                        let leaf = Leaf::new(LeafKind::Floor, candidate.owner, entry.leaf.life, chain);
                        entries.push(Entry { leaf, from: 0, before: [0; 32], at: entry.at });
                    }
                    entries.push(entry);
                }
                Ok((moved, None)) => self.shared.hub.settled(candidate, moved),
                // One chain that was tampered with, or can't be read, does not keep those of others out of the log.
                Err(error) if is_broken(&error) => self.shared.hub.condemn(&candidate.owner),
                Err(_) => self.shared.hub.hold(&candidate.owner),
            }
        }
        #[cfg(feature = "faults")]
        if self.shared.has(crate::Fault::HeadsSwapped)
            && let [first, second, ..] = entries.as_mut_slice()
        {
            std::mem::swap(&mut first.leaf.chain.head, &mut second.leaf.chain.head);
        }
        Ok(entries)
    }

    /// Where a chain that moved stands, and its leaf if the log has none of that yet.
    async fn candidate(
        &self,
        log: &Log,
        candidate: &Candidate,
        at: Option<At>,
    ) -> Result<(Option<Moved>, Option<Entry>)> {
        let moved = match self.is_present(candidate, at).await? {
            Some(moved) => Some(moved),
            None => self.look(log, &candidate.owner, at).await?,
        };
        match moved {
            Some(moved) => Ok((Some(moved), self.entry(&candidate.owner, moved, at).await?)),
            None => Ok((at.map(|at| Moved { life: at.life, chain: at.chain }), None)),
        }
    }

    /// Where a chain moved to, if it is known and in the present life. Another one may be from before an erasure that another process logged.
    async fn is_present(&self, candidate: &Candidate, at: Option<At>) -> Result<Option<Moved>> {
        let Some(moved) = candidate.moved else { return Ok(None) };
        #[cfg(feature = "faults")]
        if self.shared.has(crate::Fault::LifeIgnored) {
            return Ok(Some(moved));
        }
        let life = match at {
            Some(at) => at.life,
            None => match self.inner_of(&candidate.owner).await {
                Ok(user) => answer(user.state()).await?.stamp.incarnation,
                Err(error) if is_gone(&error) => return Ok(None),
                Err(error) => return Err(error),
            },
        };
        Ok(Some(moved).filter(|moved| moved.life == life))
    }

    /// A leaf for a chain that moved; `None` if the log has it.
    async fn entry(&self, owner: &Owner, moved: Moved, at: Option<At>) -> Result<Option<Entry>> {
        let start = match at {
            Some(at) if at.erased && at.life == moved.life => return Ok(None),
            Some(at) if !at.erased && at.chain.seq >= moved.chain.seq => {
                if at.chain.seq == moved.chain.seq && at.chain.head != moved.chain.head {
                    return Err(rolled_back());
                }
                return Ok(None);
            }
            Some(at) if !at.erased => at.chain,
            _ => match self.inner_of(owner).await {
                Ok(user) => self.start(&*user, owner).await?,
                Err(error) if is_gone(&error) => return Ok(None),
                Err(error) => return Err(error),
            },
        };
        let leaf = Leaf::new(LeafKind::Head, *owner, moved.life, moved.chain);
        Ok(Some(Entry { leaf, from: start.seq.saturating_add(1), before: start.head, at }))
    }

    /// Where a chain that was pruned begins, which the log has to say before anything goes. A prune that was cut off has not come to it.
    ///
    /// # Errors
    ///
    /// `Tampered` for one that the log does not know of.
    pub(crate) async fn pruned(
        &self,
        log: &Log,
        owner: &Owner,
        user: &dyn UserStore,
    ) -> Result<Option<Floor>> {
        let Some(floor) = floor(user).await? else { return Ok(None) };
        #[cfg(feature = "faults")]
        if self.shared.has(crate::Fault::FloorBelieved) {
            return Ok(Some(floor));
        }
        let is_logged = log.allows_floor(owner, floor.start()).await?;
        if is_logged { Ok(Some(floor)) } else { Err(put_back()) }
    }

    /// Where an owner's chain begins that the log does not know: at its genesis, or where it was pruned.
    pub(crate) async fn start(&self, user: &dyn UserStore, owner: &Owner) -> Result<ChainHead> {
        let genesis = ChainHead { seq: 0, head: genesis(&self.shared.deployment, owner) };
        Ok(floor(user).await?.map_or(genesis, |floor| floor.before()))
    }

    pub(crate) async fn inner_of(&self, owner: &Owner) -> Result<Arc<dyn UserStore>> {
        if *owner == DEPLOYMENT_OWNER {
            return self.inner.deployment().await;
        }
        answer(self.inner.open(UserTag::from_bytes(*owner)?)).await
    }

    /// Looks at an owner's chain: where it ends, if it is past where it was logged.
    async fn look(&self, log: &Log, owner: &Owner, at: Option<At>) -> Result<Option<Moved>> {
        match self.inner_of(owner).await {
            Ok(user) => self.compare(log, owner, &*user, at).await,
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Compares an owner's chain with where it was logged last, and marks it if it has moved since.
    pub(crate) async fn inspect(&self, owner: &Owner, user: &dyn UserStore) -> Result<bool> {
        let Some(log) = self.log().await? else { return Ok(false) };
        let at = log.at_of(owner).await?;
        let Some(moved) = self.compare(log, owner, user, at).await? else { return Ok(false) };
        let known = at.filter(|at| !at.erased).map_or(0, |at| at.chain.seq);
        self.shared.hub.found(owner, moved, moved.chain.seq.saturating_sub(known));
        Ok(true)
    }

    /// `at` was read before the chain is, so whatever happens in between only makes the chain longer; another life is another matter, and
    /// is asked for again.
    async fn compare(
        &self,
        log: &Log,
        owner: &Owner,
        user: &dyn UserStore,
        mut at: Option<At>,
    ) -> Result<Option<Moved>> {
        for _ in 0..TRIES {
            let compared = self.extends(log, owner, user, at).await;
            let now = if compared.is_err() { log.at_of(owner).await? } else { at };
            if now == at {
                return compared;
            }
            at = now;
        }
        Err(Error::new(ErrorKind::Busy, "the user is written, erased or restored all the time, try again"))
    }

    async fn extends(
        &self,
        log: &Log,
        owner: &Owner,
        user: &dyn UserStore,
        at: Option<At>,
    ) -> Result<Option<Moved>> {
        let state = answer(user.state()).await?;
        let (life, chain) = (state.stamp.incarnation, state.chain);
        let logged = match at {
            Some(at) if at.erased && at.life == life => return Err(put_back()),
            Some(at) if !at.erased => Some(at.chain),
            _ => None,
        };
        if let Some(logged) = logged
            && (chain.seq < logged.seq || (chain.seq == logged.seq && chain.head != logged.head))
        {
            // A store that syncs no commit can lose some that the log has.
            let may_be_lost = chain.seq < logged.seq && !self.inner.capabilities().durable;
            return Err(if may_be_lost { put_back_or_lost() } else { put_back() });
        }
        if logged.is_some() {
            self.pruned(log, owner, user).await?;
        }
        if logged == Some(chain) || chain.seq == 0 {
            return Ok(None);
        }
        let mut before = match logged {
            Some(logged) => logged,
            None => self.start(user, owner).await?,
        };
        while before.seq < chain.seq {
            let links = links(user, before.seq, chain.seq).await?;
            if links.is_empty() {
                return Err(put_back());
            }
            for link in links {
                before = link.follow(before).map_err(|_| put_back())?.1;
            }
        }
        if before != chain {
            return Err(put_back());
        }
        Ok(Some(Moved { life, chain }))
    }

    /// Looks at every chain for what moved unseen, such as before a crash. Gives how many did. Long for many users: it lets others go first.
    ///
    /// # Errors
    ///
    /// `Tampered` if a chain does not go on from where it was last logged, else what kept a user's data from being looked at, once all others
    /// were; as [`checkpoint`](Self::checkpoint).
    pub async fn catch_up(&self) -> Result<u64> {
        let ended = self.find_ended().await?;
        let (found, wrong) = match self.log().await? {
            Some(log) => self.sweep(log).await?,
            None => (0, None),
        };
        if let Some(space) = self.space().await? {
            // INVARIANT: the record of this run says that a chain is still to be looked at, before those of others go.
            if self.shared.hub.holds() && !self.keeper.reads {
                self.shared.begin().await?;
            }
            run::remove(&**space, &ended).await?;
        }
        wrong.map_or(Ok(found), Err)
    }

    /// How many chains moved, and what was wrong with the last one that can't be logged, if there was one.
    async fn sweep(&self, log: &Log) -> Result<(u64, Option<Error>)> {
        let mut found = u64::from(self.inspect(&DEPLOYMENT_OWNER, &*log.space).await?);
        let (mut after, mut broken, mut failing) = (None, None, None);
        loop {
            let users = self.inner.list(after, USERS_PAGE).await?;
            for user in users.iter().filter(|user| self.is_chained(**user)) {
                let looked = match answer(self.inner.open(*user)).await {
                    Ok(inner) => self.inspect(user.as_bytes(), &*inner).await,
                    Err(error) => Err(error),
                };
                match looked {
                    Ok(moved) => found += u64::from(moved),
                    Err(error) if is_gone(&error) => {}
                    Err(error) if is_broken(&error) => {
                        self.shared.hub.condemn(user.as_bytes());
                        broken = Some(error);
                    }
                    Err(error) => {
                        self.shared.hub.hold(user.as_bytes());
                        failing = Some(error);
                    }
                }
            }
            if users.len() < USERS_PAGE {
                return Ok((found, broken.or(failing)));
            }
            after = users.last().copied();
            tokio::time::sleep(SWEEP_PAUSE).await;
        }
    }

    /// Whether a process ended without closing the deployment, and nobody has [caught up](Self::catch_up) since. Where several processes
    /// share it, one that is silent for 30 seconds has ended.
    ///
    /// # Errors
    ///
    /// From the store below.
    pub async fn was_unclean(&self) -> Result<bool> {
        Ok(!self.find_ended().await?.is_empty())
    }

    /// The same, but for those of which [`told_unclean`](Self::told_unclean) was said.
    ///
    /// # Errors
    ///
    /// As [`was_unclean`](Self::was_unclean).
    pub async fn has_untold(&self) -> Result<bool> {
        Ok(!self.untold().await?.is_empty())
    }

    /// The trail was told of the processes that ended without closing the deployment.
    ///
    /// # Errors
    ///
    /// As [`was_unclean`](Self::was_unclean).
    pub async fn told_unclean(&self) -> Result<()> {
        let untold = self.untold().await?;
        match self.space().await? {
            Some(space) => run::mark(&**space, &untold).await,
            None => Ok(()),
        }
    }

    async fn untold(&self) -> Result<Vec<u64>> {
        let Some(space) = self.space().await? else { return Ok(Vec::new()) };
        run::ended(&**space, self.shared.run, self.inner.capabilities().exclusive, true).await
    }

    pub(crate) async fn find_ended(&self) -> Result<Vec<u64>> {
        let Some(space) = self.space().await? else { return Ok(Vec::new()) };
        let alone = self.inner.capabilities().exclusive;
        let ended = run::ended(&**space, self.shared.run, alone, false).await?;
        *self.keeper.ended.lock() = Some(ended.clone());
        Ok(ended)
    }

    /// Makes a new signing key, for all checkpoints after the present one. Gives the signed note by which the old key names it; the list of
    /// keys holds it too.
    ///
    /// # Errors
    ///
    /// As [`checkpoint`](Self::checkpoint).
    pub async fn rotate_signer(&self) -> Result<String> {
        self.checkpoint().await?;
        let log = self.log().await?.ok_or_else(no_signer)?;
        if self.keeper.reads {
            return Err(only_read());
        }
        log.turn(self.compares()).await?.rotate().await
    }

    /// The keys that checkpoints are verified with.
    ///
    /// # Errors
    ///
    /// `Invalid` without a signer; as [`Signer::keys`].
    pub async fn signer_keys(&self) -> Result<SignerKeys> {
        self.keeper.signer.as_ref().ok_or_else(no_signer)?.keys().await
    }

    /// How far those who take entries are behind.
    #[must_use]
    pub fn backlog(&self) -> Backlog {
        let anchored = self.keeper.sinks.iter().any(|sink| sink.is_outside());
        Backlog { anchored, ..self.shared.hub.backlog() }
    }

    /// The last checkpoint, if there is one.
    ///
    /// # Errors
    ///
    /// As [`checkpoint`](Self::checkpoint).
    pub async fn last_checkpoint(&self) -> Result<Option<Checkpoint>> {
        self.log().await?.ok_or_else(no_signer)?.last().await
    }

    /// The leaf that last said where an owner's chain ends, and its index.
    ///
    /// # Errors
    ///
    /// As [`checkpoint`](Self::checkpoint).
    pub async fn last_leaf(&self, owner: &[u8; 32]) -> Result<Option<(u64, Leaf)>> {
        let log = self.log().await?.ok_or_else(no_signer)?;
        let Some(at) = log.at_of(owner).await? else { return Ok(None) };
        Ok(Some((at.index, at.leaf(*owner))))
    }

    /// A leaf of the log.
    ///
    /// # Errors
    ///
    /// `Tampered` if it is not there; as [`checkpoint`](Self::checkpoint).
    pub async fn leaf(&self, index: u64) -> Result<Leaf> {
        let log = self.log().await?.ok_or_else(no_signer)?;
        let leaves = log.leaves(index, index.saturating_add(1), 1).await?;
        leaves.first().map(|leaf| leaf.leaf).ok_or_else(changed)
    }

    /// The proof (RFC 6962, section 2.1.1) that the log of `size` leaves holds the leaf `index`.
    ///
    /// # Errors
    ///
    /// `Invalid` for a leaf past the size; as [`checkpoint`](Self::checkpoint).
    pub async fn inclusion(&self, index: u64, size: u64) -> Result<Vec<[u8; 32]>> {
        self.log().await?.ok_or_else(no_signer)?.inclusion(index, size).await
    }

    /// The proof (RFC 6962, section 2.1.2) that the log of `size` leaves extends that of `from`.
    ///
    /// # Errors
    ///
    /// As [`checkpoint`](Self::checkpoint).
    pub async fn consistency(&self, from: u64, size: u64) -> Result<Vec<[u8; 32]>> {
        let log = self.log().await?.ok_or_else(no_signer)?;
        log.consistency(from, size, &std::collections::HashMap::new()).await
    }

    pub(crate) fn compares(&self) -> bool {
        #[cfg(feature = "faults")]
        return !self.shared.has(crate::Fault::LastSizeIgnored);
        #[cfg(not(feature = "faults"))]
        true
    }

    fn authenticates(&self) -> bool {
        #[cfg(feature = "faults")]
        return !self.shared.has(crate::Fault::IndexBelieved);
        #[cfg(not(feature = "faults"))]
        true
    }

    /// What opening the log took; `None` if it is not open.
    #[must_use]
    pub fn opened(&self) -> Option<Opened> {
        self.keeper.log.get().map(Log::opened)
    }

    /// Keeps the log's index in the data, if that is due. Says whether it did.
    pub(crate) async fn keep_index(&self, ending: bool) -> Result<bool> {
        match self.keeper.log.get() {
            Some(log) if !self.keeper.reads => log.keep_index(ending).await,
            _ => Ok(false),
        }
    }

    /// The deployment's own space, for this layer's records; `None` if there is none and none may be made.
    pub(crate) async fn space(&self) -> Result<Option<&Arc<dyn UserStore>>> {
        let open = || async {
            match self.inner.deployment().await {
                Ok(space) => Ok(Some(space)),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
            }
        };
        Ok(self.shared.space.get_or_try_init(open).await?.as_ref())
    }

    /// The log, opened and compared at first use; `None` without a signer.
    pub(crate) async fn log(&self) -> Result<Option<&Log>> {
        let Some(signer) = &self.keeper.signer else {
            let none = self.keeper.sinks.is_empty();
            return if none { Ok(None) } else { Err(no_signer()) };
        };
        let open = || async {
            let Some(space) = self.space().await? else {
                return Err(Error::new(ErrorKind::NotFound, "there is no deployment, so no audit log"));
            };
            if signer.origin() != crate::signer::origin(&self.shared.deployment) {
                return Err(Error::new(
                    ErrorKind::KeyRefused,
                    "the signer is of another deployment's audit log",
                ));
            }
            let deployment = self.shared.deployment;
            let checks = Checks { compares: self.compares(), authenticates: self.authenticates() };
            let log = Log::open(Arc::clone(space), Arc::clone(signer), deployment, checks).await?;
            #[cfg(feature = "faults")]
            if self.shared.has(crate::Fault::LeavesForgotten) {
                log.forget();
            }
            self.shared.hub.saw(log.published());
            if self.compares() {
                self.check_sinks(&log).await?;
            }
            self.start_sinks(&log).await?;
            self.shared.hub.turn_on();
            Ok(log)
        };
        self.keeper.log.get_or_try_init(open).await.map(Some)
    }

    /// Compares the log with what sinks have of it: they may remember more than the signer, which was put back with the data.
    async fn check_sinks(&self, log: &Log) -> Result<()> {
        for sink in self.keeper.sinks.iter().filter(|_| !self.keeper.reads) {
            // One that can't look is one that can't tell: it fails at its deliveries too, and that is bounded.
            let asked = tokio::time::timeout(crate::DELIVERY_DEADLINE, sink.last_checkpoint()).await;
            if let Ok(Ok(Some(note))) = asked {
                log.check_outside(&note).await?;
            }
        }
        Ok(())
    }

    /// A last checkpoint, a last pass over the sinks, and the end of this run's record.
    pub(crate) async fn finish(&self) -> Result<()> {
        if self.shared.hub.is_closed() {
            return Ok(());
        }
        self.shared.hub.close();
        if self.keeper.log.initialized() && !self.keeper.reads {
            self.checkpoint().await?;
            // What is not taken now is taken when the store is opened again.
            let _ = tokio::time::timeout(CLOSE_DEADLINE, self.shipped()).await;
            // Without it the next start reads more.
            let _ = tokio::time::timeout(CLOSE_DEADLINE, self.keep_index(true)).await;
        }
        // A chain that could not be looked at to the end is looked for by the next run.
        if self.shared.has_begun()
            && let Some(space) = self.space().await?
        {
            let own = [run::number(self.shared.run)];
            if self.shared.hub.holds() {
                run::mark(&**space, &own).await?;
            } else {
                run::remove(&**space, &own).await?;
            }
        }
        Ok(())
    }
}

/// Links of a chain after one, at most a page, none past `last`.
pub(crate) async fn links(user: &dyn UserStore, after: u64, last: u64) -> Result<Vec<StoredLink>> {
    let scan = Scan::records(Keyspace::Audit, LINKS_PAGE).name(Bytes::new()).from(link_id(after)?);
    let mut links = Vec::new();
    for (head, body) in answer(user.scan(scan)).await?.value.records {
        if head.id.seq() > last {
            break;
        }
        links.push(StoredLink::decode(&body.unwrap_or_default())?);
    }
    Ok(links)
}

/// Whether a chain is not what it was.
pub(crate) fn is_broken(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Tampered | ErrorKind::Corrupt)
}

/// Whether a user's data is not there any more, or not in this life.
pub(crate) fn is_gone(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Erased | ErrorKind::Gone)
}

pub(crate) const fn no_signer() -> Error {
    Error::new(ErrorKind::Invalid, "the audit log needs a signer, and sinks need the log")
}

const fn only_read() -> Error {
    Error::new(ErrorKind::Refused, "another process signs the audit log, which is only read here")
}

/// Whether a candidate takes no look at its user's data.
fn is_at_hand(candidate: &Candidate, at: Option<At>) -> bool {
    at.zip(candidate.moved).is_some_and(|(at, moved)| at.life == moved.life)
}

/// What data answers, if it does so in time.
pub(crate) async fn answer<T>(asked: impl Future<Output = Result<T>> + Send) -> Result<T> {
    tokio::time::timeout(LOOK_DEADLINE, asked).await.unwrap_or_else(|_| {
        Err(Error::new(ErrorKind::Busy, "the user's data does not answer in time, try again"))
    })
}

const fn none_yet() -> Error {
    Error::new(ErrorKind::NotFound, "the audit log has no checkpoint yet, try again")
}

const fn put_back_or_lost() -> Error {
    Error::new(
        ErrorKind::Tampered,
        "the user's data is older than the audit log: it was put back, or power failed, which takes commits that this store does not sync; erase the user, and restore an archive",
    )
}

pub(crate) const fn put_back() -> Error {
    Error::new(
        ErrorKind::Tampered,
        "the user's audit trail does not go on from where it was logged: the data was put back or changed, verify it",
    )
}
