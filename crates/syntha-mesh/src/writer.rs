//! The user's writer: at most one commit in flight, everything that waits in one batch (group commit).
//!
//! It is a queue and a flag. The first operation spawns the task, which goes when the queue is empty. The task owns
//! the commit, so a caller who gives up never cancels one half-way.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use syntha_store::{Error as StoreError, ErrorKind as StoreErrorKind, Outcome};
use tokio::sync::oneshot;
use tracing::Instrument as _;

use crate::bounds::UnderWay;
use crate::change::{Answer, Caller, Change};
use crate::core::Core;
use crate::draft::{Draft, Overlay};
use crate::error::{Error, ErrorKind, Result};
use crate::events::{self, Doer};
use crate::fault::Fault;
use crate::guard::Guard;
use crate::history::{self, Lookup};
use crate::index::Index;
use crate::meters::Shed;

const BATCH_OPS: usize = 256;
const BATCH_BYTES: usize = 4 * 1024 * 1024;
const QUEUE_MOST: usize = 16_384;
const ATTEMPTS: usize = 64;
/// How often a commit is put off for others that are just arriving. Each turn is a few microseconds.
const GATHER_TURNS: usize = 64;
/// After so many turns in which nobody came, nobody is arriving. One is too few: another worker of the runtime may run this task before
/// the second of many callers is polled.
const CALM_TURNS: usize = 2;

const WAITING: u8 = 0;
const STARTED: u8 = 1;
const WITHDRAWN: u8 = 2;

#[derive(Debug, Default)]
pub(crate) struct Writer {
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Bytes of what waits, roughly.
    bytes: u64,
    running: bool,
    /// Nobody came while the last change was written, which was one alone: nobody writes beside whoever writes now.
    alone: bool,
}

#[derive(Debug)]
struct Waiting {
    change: Change,
    caller: Caller,
    /// The session that it was asked for in; `None` for what the mesh does by itself.
    guard: Option<Guard>,
    /// Its place among the user's calls, until it is answered.
    under_way: Option<UnderWay>,
    /// The store refused it already: it is still to be told to the audit trail and then answered.
    refused: Option<Error>,
    state: Arc<AtomicU8>,
    answer: oneshot::Sender<Result<Answer>>,
}

impl Writer {
    /// Whether a commit may be under way.
    pub(crate) fn is_busy(&self) -> bool {
        self.queue.lock().running
    }
}

impl Waiting {
    /// Answers it. Its place is free before the caller can take another.
    fn answer(self, answer: Result<Answer>) {
        drop(self.under_way);
        let _ = self.answer.send(answer);
    }

    /// Whose call it is, as the session stands now.
    ///
    /// INVARIANT: asked in the commit: a write that waited behind the end of its session, or behind a narrower one, is decided after it.
    fn caller_now(&self, core: &Core) -> Result<Caller> {
        let early = core.config.has(Fault::GuardIgnored) || core.config.has(Fault::SessionEarly);
        let Some(guard) = self.guard.as_ref().filter(|_| !early) else { return Ok(self.caller) };
        guard.check()?;
        let grants = self.caller.grants.common(guard.grants_for(self.change.agent()));
        Ok(Caller { grants, ..self.caller })
    }
}

/// Hands a change of the mesh's own to the user's writer and waits for its answer, at most the mesh's deadline.
pub(crate) async fn write(core: &Arc<Core>, change: Change) -> Result<Answer> {
    write_in(core, change, Caller::SELF, None).await
}

/// The same for a call in a session, which has to hold until the commit.
pub(crate) async fn write_in(
    core: &Arc<Core>,
    change: Change,
    caller: Caller,
    guard: Option<Guard>,
) -> Result<Answer> {
    let runtime = tokio::runtime::Handle::try_current().map_err(|source| {
        Error::new(ErrorKind::Invalid, "a mesh is written on a tokio runtime").with_source(source)
    })?;
    // What the mesh writes by itself is bounded where it comes from, and the host can always tighten a limit.
    let first = matches!(change, Change::Limits(_));
    let counted = guard.is_some() && !first;
    let under_way = match counted.then(|| core.enter()).transpose() {
        Ok(under_way) => under_way,
        Err(error) => {
            core.failed(&change, caller, &error);
            return Err(error);
        }
    };
    let bytes = change.bytes() as u64;
    let state = Arc::new(AtomicU8::new(WAITING));
    let (sender, answer) = oneshot::channel();
    let spawn = {
        let mut queue = core.writer.queue.lock();
        let room = core.config.waiting_bytes.saturating_sub(queue.bytes);
        let full = counted && !queue.waiting.is_empty() && bytes > room;
        if full || (!first && queue.waiting.len() >= QUEUE_MOST) {
            drop(queue);
            core.config.meters.shed(Shed::QueueFull);
            let error = Error::new(ErrorKind::Busy, "too many writes of this user wait already, try again");
            let error = error.after(crate::bounds::RETRY);
            core.failed(&change, caller, &error);
            return Err(error);
        }
        core.config.meters.waiting.increment(1.0);
        let (state, answer, refused) = (Arc::clone(&state), sender, None);
        queue.bytes = queue.bytes.saturating_add(bytes);
        let next = Waiting { change, caller, guard, under_way, refused, state, answer };
        if first {
            queue.waiting.push_front(next);
        } else {
            queue.waiting.push_back(next);
        }
        !std::mem::replace(&mut queue.running, true)
    };
    if spawn {
        let run = Run { core: Arc::clone(core), done: false };
        runtime.spawn(run.drain());
    }
    match tokio::time::timeout(core.config.deadline, answer).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) if state.load(Ordering::Acquire) == STARTED => Err(unknown()),
        Ok(Err(_)) => Err(busy()),
        Err(_) if withdraw(&state) => {
            core.config.meters.shed(Shed::Deadline);
            Err(busy())
        }
        Err(_) => Err(unknown()),
    }
}

fn withdraw(state: &AtomicU8) -> bool {
    state.compare_exchange(WAITING, WITHDRAWN, Ordering::AcqRel, Ordering::Acquire).is_ok()
}

/// One life of the writer's task.
struct Run {
    core: Arc<Core>,
    done: bool,
}

impl Run {
    async fn drain(mut self) {
        loop {
            if !self.is_alone() {
                self.gather().await;
            }
            let taken = {
                let mut queue = self.core.writer.queue.lock();
                let before = queue.waiting.len();
                let (taken, withdrawn) = take(&mut queue);
                self.core.config.meters.waiting.decrement(count(before - queue.waiting.len()));
                if taken.is_empty() {
                    queue.running = false;
                    self.done = true;
                }
                drop(queue);
                withdrawn.iter().for_each(|one| self.core.failed(&one.change, one.caller, &busy()));
                if self.done {
                    return;
                }
                taken
            };
            commit_all(&self.core, taken).await;
        }
    }

    /// Whether waiting for others would only cost time.
    fn is_alone(&self) -> bool {
        let queue = self.core.writer.queue.lock();
        queue.alone && queue.waiting.len() <= 1
    }
}

impl Run {
    /// Lets those who are about to write do so first, and share the commit: as long as the queue grows.
    async fn gather(&self) {
        let (mut waiting, mut calm) = (1, 0);
        for _ in 0..GATHER_TURNS {
            tokio::task::yield_now().await;
            let now = self.core.writer.queue.lock().waiting.len();
            calm = if now > waiting { 0 } else { calm + 1 };
            if calm == CALM_TURNS {
                break;
            }
            waiting = waiting.max(now);
        }
    }
}

/// If the task ends early (its runtime went away), nobody waits for it for ever and the next write starts another.
impl Drop for Run {
    fn drop(&mut self) {
        if !self.done {
            let mut queue = self.core.writer.queue.lock();
            queue.running = false;
            self.core.config.meters.waiting.decrement(count(queue.waiting.len()));
            queue.waiting.clear();
            queue.bytes = 0;
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "a queue has at most 16,384 places")]
const fn count(of: usize) -> f64 {
    of as f64
}

/// What goes into the next commit, and what nobody waits for any more.
fn take(queue: &mut Queue) -> (VecDeque<Waiting>, Vec<Waiting>) {
    let Queue { waiting, bytes: waiting_bytes, .. } = queue;
    let (mut taken, mut withdrawn, mut ops, mut bytes) = (VecDeque::new(), Vec::new(), 0_usize, 0_usize);
    while let Some(next) = waiting.front() {
        ops = ops.saturating_add(next.change.weight());
        let own = next.change.bytes();
        bytes = bytes.saturating_add(own);
        if !taken.is_empty() && (ops > BATCH_OPS || bytes > BATCH_BYTES) {
            break;
        }
        let Some(next) = waiting.pop_front() else { break };
        *waiting_bytes = waiting_bytes.saturating_sub(own as u64);
        if next.state.compare_exchange(WAITING, STARTED, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            taken.push_back(next);
        } else {
            withdrawn.push(next);
        }
    }
    (taken, withdrawn)
}

async fn commit_all(core: &Arc<Core>, mut waiting: VecDeque<Waiting>) {
    let (mut attempts, mut most) = (0, usize::MAX);
    while !waiting.is_empty() {
        match commit_some(core, &mut waiting, most).await {
            Ok(()) => attempts = 0,
            Err(error) if error.kind() == StoreErrorKind::Conflict && attempts < ATTEMPTS => {
                attempts += 1;
                core.config.meters.retries.increment(1);
                if let Err(error) = core.refresh().await {
                    return answer_all(core, waiting, error.into());
                }
            }
            // Changes that the store does not take together, or one that it does not take at all: each is answered alone.
            Err(error) if is_refusal(error.kind()) && most > 1 && waiting.len() > 1 => most = 1,
            Err(error) if is_refusal(error.kind()) => match waiting.pop_front() {
                // The next round tells it to the audit trail.
                Some(mut refused) if core.trail.is_some() && refused.refused.is_none() => {
                    refused.refused = Some(error.into());
                    waiting.push_front(refused);
                }
                Some(refused) => answer_all(core, VecDeque::from([refused]), error.into()),
                None => {}
            },
            Err(error) => {
                if error.kind() == StoreErrorKind::Gone {
                    core.retire();
                }
                return answer_all(core, waiting, error.into());
            }
        }
    }
}

/// Whether a batch failed for what is in it, or for what one of its changes needs to know: others are not concerned.
const fn is_refusal(kind: StoreErrorKind) -> bool {
    use StoreErrorKind as Kind;
    matches!(kind, Kind::Invalid | Kind::LimitExceeded | Kind::Corrupt | Kind::Unsupported)
}

/// Commits as much from the front as goes in one batch, at most so many, and answers it. On an error nothing was answered.
async fn commit_some(
    core: &Arc<Core>,
    waiting: &mut VecDeque<Waiting>,
    most: usize,
) -> Result<(), StoreError> {
    let _gate = core.gate.lock().await;
    // The user may have been restored while the gate was held: what waits was asked of the life before.
    if core.retired.load(Ordering::Acquire) {
        return Err(StoreError::new(StoreErrorKind::Gone, "the mesh was ended, open it again"));
    }
    let (mut drafted, mut since, mut time) = draft_now(core, waiting, most).await?;
    // A commit fails if the index was old. What is refused, and what changes nothing, is answered without one, so nothing else would notice.
    if !core.exclusive && !drafted.as_ref().is_ok_and(|drafted| drafted.batch.is_some()) {
        core.catch_up().await?;
        if core.index.read().stamp != since {
            (drafted, since, time) = draft_now(core, waiting, most).await?;
        }
    }
    let Drafted { answers, batch, mut overlay } = drafted?;
    let events = std::mem::take(&mut overlay.events);
    let flush = waiting.iter().take(answers.len()).any(|next| matches!(next.change, Change::Flush));
    let told = core.tell(events, flush, batch, (since, time))?;
    let (batch, taken) = (told.batch, told.taken);
    if core.config.has(Fault::AcknowledgedEarly) {
        answer_each(
            waiting,
            answers.iter().map(|answer| match answer {
                Ok(answer) => Ok(answer.clone()),
                Err(error) => Err(error.again()),
            }),
        );
    }
    if let Some(batch) = batch {
        let alone = batch.ops.is_empty();
        let (id, started) = (batch.id, Instant::now());
        let span = tracing::debug_span!("syntha_commit", changes = answers.len(), records = batch.ops.len());
        let committed = core.store.commit(batch).instrument(span).await;
        core.config.meters.committed(answers.len(), started);
        let stamp = match committed {
            Ok(commit) => {
                if core.trail.as_ref().is_some_and(|trail| trail.tighten(commit.trail_is_tight)) {
                    core.config.meters.tight.increment(1);
                }
                commit.stamp
            }
            Err(error) if error.kind() == StoreErrorKind::Unknown => {
                // INVARIANT: an outcome that can't be asked for is unknown too; nobody is told "nothing was written".
                let Ok(outcome) = core.store.outcome(id, since).await else { return Err(error) };
                match outcome {
                    Outcome::Committed(stamp) => stamp,
                    Outcome::Not => {
                        return Err(StoreError::new(
                            StoreErrorKind::Conflict,
                            "the commit did not happen, try again",
                        ));
                    }
                    _ => return Err(error),
                }
            }
            Err(error) => {
                if let (true, Some(trail)) = (error.is_full_trail(), &core.trail) {
                    trail.fill();
                    core.config.meters.full.increment(1);
                }
                return Err(error);
            }
        };
        if let Some(taken) = taken {
            taken.committed();
        }
        core.spent.lock().add(&overlay.destroyed, time);
        let mut index = core.index.write();
        // What is only told changes nothing, unless it was the first thing of a user at all. Otherwise a reader has found the commit already, and perhaps a later one of another handle.
        if index.stamp == since && !(alone && stamp == since) {
            let touched = core.watchers.any().then(|| overlay.touched());
            let settles = overlay.limits.is_some();
            #[cfg(feature = "faults")]
            core.handle(&index, &overlay);
            let change = |index: &mut Index| overlay.commit_to(index, stamp, time);
            core.watchers.around(&core.config, &mut index, touched, change);
            if settles {
                core.settle(&index);
            }
        }
    }
    {
        // Before anybody is answered, who would write again at once.
        let mut queue = core.writer.queue.lock();
        queue.alone = waiting.len() == 1 && queue.waiting.is_empty();
    }
    answer_each(waiting, answers);
    Ok(())
}

/// What the front of the queue makes of the index as it is, with its stamp and the time.
async fn draft_now(
    core: &Arc<Core>,
    waiting: &VecDeque<Waiting>,
    most: usize,
) -> Result<(Result<Drafted, StoreError>, syntha_store::Stamp, syntha_store::Timestamp), StoreError> {
    let lookup = history::look_up(core, waiting.iter().take(most).map(|next| &next.change)).await?;
    let index = core.index.read();
    // INVARIANT: the index of a mesh that was ended is empty, and says that nothing is used: nothing is committed on it.
    if core.retired.load(Ordering::Acquire) {
        return Err(StoreError::new(StoreErrorKind::Gone, "the mesh was ended, open it again"));
    }
    let now = core.now(&index);
    // A reader found another handle's commit meanwhile: what was looked up is of the one before.
    if lookup.at.is_some_and(|at| at != index.stamp) {
        return Err(moved_on());
    }
    Ok((draft(core, &index, &lookup, now, waiting.iter().take(most)), index.stamp, now))
}

fn answer_each(waiting: &mut VecDeque<Waiting>, answers: impl IntoIterator<Item = Result<Answer>>) {
    for answer in answers {
        let Some(done) = waiting.pop_front() else { break };
        // The caller may have gone; the write stands all the same.
        done.answer(answer);
    }
}

struct Drafted {
    answers: Vec<Result<Answer>>,
    batch: Option<syntha_store::Batch>,
    overlay: Overlay,
}

fn draft<'a>(
    core: &Core,
    index: &crate::index::Index,
    lookup: &Lookup,
    now: syntha_store::Timestamp,
    waiting: impl Iterator<Item = &'a Waiting>,
) -> Result<Drafted, StoreError> {
    let mut alone = (&Change::Flush, Caller::SELF);
    let mut draft = Draft::new(index, lookup, &core.config, now, core.trail.is_some());
    let spent = core.spent.lock();
    draft.spent = Some(&spent);
    #[cfg(feature = "faults")]
    if core.config.has(Fault::LimitPerHandle) {
        draft.handled = Some(*core.handled.lock());
    }
    let mut answers = Vec::new();
    for next in waiting {
        if !answers.is_empty() && draft.has_written(&next.change) {
            break;
        }
        answers.push(match &next.refused {
            Some(error) => {
                draft.caller = next.caller;
                draft.tell_refused(&next.change, error);
                Err(error.again())
            }
            None => match next.caller_now(core) {
                Ok(caller) => draft.apply(&next.change, caller),
                Err(error) => {
                    draft.caller = next.caller;
                    draft.tell_refused(&next.change, &error);
                    Err(error)
                }
            },
        });
        alone = (&next.change, next.caller);
    }
    match draft.finish() {
        Ok((batch, overlay)) => Ok(Drafted { answers, batch, overlay }),
        Err(error) if answers.len() == 1 => {
            let mut overlay = Overlay::default();
            if core.trail.is_some() {
                let doer = Doer { at: now, agent: None, session: alone.1.session };
                overlay.events = events::refused(doer, alone.0, &error);
            }
            Ok(Drafted { answers: vec![Err(error)], batch: None, overlay })
        }
        Err(error) => Err(StoreError::new(StoreErrorKind::Invalid, error.message())),
    }
}

fn answer_all(core: &Arc<Core>, waiting: VecDeque<Waiting>, error: Error) {
    let mut first = Some(error);
    for next in waiting {
        if let Some(error) = &first {
            core.failed(&next.change, next.caller, error);
        }
        let error = match first.take() {
            Some(error) => {
                let again = error.again();
                first = Some(again);
                error
            }
            None => unknown(),
        };
        next.answer(Err(error));
    }
}

const fn moved_on() -> StoreError {
    StoreError::new(StoreErrorKind::Conflict, "the user's data moved on, reload and try again")
}

fn busy() -> Error {
    Error::new(ErrorKind::Busy, "the write did not start in time, nothing was written, try again")
        .after(crate::bounds::RETRY)
}

const fn unknown() -> Error {
    Error::new(
        ErrorKind::Unknown,
        "whether the write happened is not known, try again with the same operation id",
    )
}
