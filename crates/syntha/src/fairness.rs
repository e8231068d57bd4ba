//! What many users share is given out in turns: the lines that they stand in, and how long these are.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::{Counter, Histogram, counter, histogram};
use syntha_store::{FairConfig, FairKey, FairPermit, FairQueue, OwnerGroups, Result, UserId};

/// How much is done at once for all users, and how long who waits for a turn waits. What is shared is given out by groups of owners, in a group
/// by users, and for a user in order; see `docs/fairness.md`. The defaults are for production.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Fairness {
    commits: usize,
    reads: usize,
    opens: usize,
    backups: usize,
    waiting: (usize, usize),
    deadline: Duration,
    #[cfg(feature = "faults")]
    fault: Option<syntha_store::FairFault>,
}

impl Fairness {
    /// 64 commits, 64 reads and 32 openings at once, 2 backups or restores; 4,096 of one user may wait in a line and 65,536 in all, for
    /// 5 seconds, and for a minute before a backup.
    pub const fn new() -> Self {
        Self {
            commits: 64,
            reads: 64,
            opens: 32,
            backups: 2,
            waiting: (4_096, 65_536),
            deadline: Duration::from_secs(5),
            #[cfg(feature = "faults")]
            fault: None,
        }
    }

    /// At most so many commits at once, 1 or more: one of each user.
    pub const fn commits(mut self, commits: usize) -> Self {
        self.commits = commits;
        self
    }

    /// At most so many reads at once of what is not in memory, 1 or more: 8 of each user.
    pub const fn reads(mut self, reads: usize) -> Self {
        self.reads = reads;
        self
    }

    /// At most so many users' data opened or made at once, 1 or more: 4 times one user's.
    pub const fn opens(mut self, opens: usize) -> Self {
        self.opens = opens;
        self
    }

    /// At most so many backups and restores at once, 1 or more: one of each user.
    pub const fn backups(mut self, backups: usize) -> Self {
        self.backups = backups;
        self
    }

    /// At most so many of one user wait in a line, and so many in all. Beyond that a call is refused at once as `Busy`; when all places are
    /// taken, the newest of the largest group's largest user is, as soon as somebody of a smaller one comes.
    pub const fn waiting(mut self, of_each: usize, in_all: usize) -> Self {
        self.waiting = (of_each, in_all);
        self
    }

    /// How long a call waits for its turn before it is refused as `Busy`.
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Plants a fault into every line.
    #[cfg(feature = "faults")]
    pub const fn fault(mut self, fault: syntha_store::FairFault) -> Self {
        self.fault = Some(fault);
        self
    }

    fn line(&self, permits: usize, each: usize) -> FairQueue {
        let config = FairConfig::new(permits).each(each).waiting(self.waiting.0, self.waiting.1);
        #[cfg(feature = "faults")]
        let config = match self.fault {
            Some(fault) => config.fault(fault),
            None => config,
        };
        FairQueue::new(config)
    }
}

impl Default for Fairness {
    fn default() -> Self {
        Self::new()
    }
}

pub(crate) type GroupOf = Arc<dyn Fn(&UserId) -> u64 + Send + Sync>;

/// How a deployment runs: what its users share, and what goes on beside them.
#[derive(Clone)]
pub(crate) struct Running {
    pub(crate) fairness: Fairness,
    pub(crate) groups: OwnerGroups,
    pub(crate) group_of: Option<GroupOf>,
    /// Bytes of cached values of all users.
    pub(crate) memory: usize,
    pub(crate) idle_after: Duration,
    /// How often expired data is looked for; `None`: never.
    pub(crate) sweep_every: Option<Duration>,
}

impl Default for Running {
    fn default() -> Self {
        Self {
            fairness: Fairness::new(),
            groups: OwnerGroups::new(),
            group_of: None,
            memory: 256 << 20,
            idle_after: Duration::from_secs(5 * 60),
            sweep_every: None,
        }
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running")
            .field("fairness", &self.fairness)
            .field("memory", &self.memory)
            .field("idle_after", &self.idle_after)
            .field("sweep_every", &self.sweep_every)
            .finish_non_exhaustive()
    }
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    Open,
    Commit,
    Read,
    Backup,
    /// Its line is in the accounts' own layer.
    #[cfg_attr(not(feature = "identity"), allow(dead_code, reason = "there are no accounts"))]
    Login,
}

const LINES: [(Line, &str); 5] = [
    (Line::Open, "open"),
    (Line::Commit, "commit"),
    (Line::Read, "read"),
    (Line::Backup, "backup"),
    (Line::Login, "login"),
];

/// The lines of one deployment.
#[derive(Clone)]
pub(crate) struct Lines {
    opens: FairQueue,
    commits: FairQueue,
    reads: FairQueue,
    backups: FairQueue,
    pub(crate) groups: OwnerGroups,
    deadline: Duration,
    commit_deadline: Duration,
    meters: Arc<Meters>,
}

/// Taken from the recorder that is installed when the deployment is opened.
struct Meters {
    waits: [Counter; LINES.len()],
    seconds: [Histogram; LINES.len()],
    sheds: [Counter; LINES.len()],
}

/// How long a backup or a restore waits for its turn.
const BACKUP_DEADLINE: Duration = Duration::from_secs(60);

impl Lines {
    /// `patience`: how long a write may take before its caller is answered.
    pub(crate) fn new(running: &Running, patience: Duration) -> Self {
        let fairness = &running.fairness;
        Self {
            opens: fairness.line(fairness.opens, 4),
            commits: fairness.line(fairness.commits, 1),
            reads: fairness.line(fairness.reads, 8),
            backups: fairness.line(fairness.backups, 1),
            groups: running.groups.clone(),
            deadline: fairness.deadline,
            // INVARIANT: who waits for a commit that did not begin is told so, and not that nobody knows.
            commit_deadline: fairness.deadline.min(patience / 2),
            meters: Arc::new(Meters {
                waits: LINES.map(|(_, name)| counter!("syntha_turns_waited_total", "line" => name)),
                seconds: LINES.map(|(_, name)| histogram!("syntha_turn_wait_seconds", "line" => name)),
                sheds: LINES.map(|(_, name)| counter!("syntha_turns_refused_total", "line" => name)),
            }),
        }
    }

    /// How a user stands in every line.
    pub(crate) fn key(&self, user: syntha_store::UserTag) -> FairKey {
        self.groups.key(user.as_bytes())
    }

    /// Waits for the user's turn. `Busy` if too many wait, or if it does not come in time.
    pub(crate) async fn turn(&self, line: Line, key: FairKey) -> Result<FairPermit> {
        let queue = match line {
            Line::Open => &self.opens,
            Line::Commit => &self.commits,
            Line::Read => &self.reads,
            // Nobody asks for a login's turn here.
            Line::Backup | Line::Login => &self.backups,
        };
        match queue.try_acquire(key) {
            Some(permit) => Ok(permit),
            // It is rare, and larger.
            None => Box::pin(self.wait(line, queue, key)).await,
        }
    }

    async fn wait(&self, line: Line, queue: &FairQueue, key: FairKey) -> Result<FairPermit> {
        let (acquire, since) = (queue.acquire(key), Instant::now());
        let deadline = match line {
            Line::Backup => BACKUP_DEADLINE,
            Line::Commit => self.commit_deadline,
            _ => self.deadline,
        };
        if acquire.waits()
            && let Some(waits) = self.meters.waits.get(line as usize)
        {
            waits.increment(1);
        }
        let turn = match tokio::time::timeout(deadline, acquire).await {
            Ok(turn) => turn,
            Err(_) => Err(queue.busy()),
        };
        if let Some(seconds) = self.meters.seconds.get(line as usize) {
            seconds.record(since.elapsed());
        }
        if turn.is_err() {
            self.refused(line);
        }
        turn
    }

    /// Counts a call that was sent away.
    pub(crate) fn refused(&self, line: Line) {
        if let Some(sheds) = self.meters.sheds.get(line as usize) {
            sheds.increment(1);
        }
    }

    /// Takes over how many logins have waited since the start.
    #[cfg(feature = "identity")]
    pub(crate) fn logins_waited(&self, count: u64) {
        if let Some(waits) = self.meters.waits.get(Line::Login as usize) {
            waits.absolute(count);
        }
    }
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines")
            .field("opens", &self.opens)
            .field("commits", &self.commits)
            .field("reads", &self.reads)
            .field("backups", &self.backups)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_the_numbers_of_the_variants() {
        for (place, (line, _)) in LINES.iter().enumerate() {
            assert_eq!(*line as usize, place);
        }
    }
}
