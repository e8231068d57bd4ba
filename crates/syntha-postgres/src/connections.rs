//! Connections: each is lent for one statement, and serves somebody else only when that has ended and left nothing.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgRow};
use sqlx::{ConnectOptions, Row};
use syntha_store::Result;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

#[cfg(feature = "faults")]
use crate::config::Fault;
use crate::config::{Mode, PostgresConfig, Statements};
use crate::error::{Sent, closed, from_sqlx, is_lost, unreachable};
use crate::meters::Meters;
use crate::pooler;
use crate::statement::{Failed, IS_CLEAN, Statement, Told, send};

/// A store's connections. Those that nobody uses wait in the order in which they were given back.
#[derive(Debug)]
pub(crate) struct Connections {
    options: PgConnectOptions,
    most: u32,
    patience: Duration,
    statements: Statements,
    mode: Mode,
    permits: Arc<Semaphore>,
    free: Mutex<Vec<Free>>,
    closed: AtomicBool,
    /// Raised when a connection is lost: the others may be as well, and are asked before they serve.
    losses: AtomicU64,
    pub(crate) meters: Meters,
    #[cfg(feature = "faults")]
    fault: Option<Fault>,
}

/// A connection was not used for so long that it is asked whether it still lives.
const STALE: Duration = Duration::from_secs(5);
/// What nobody uses for so long is closed.
const IDLE: Duration = Duration::from_secs(10 * 60);
/// A connection that is older, or has served more users by turns, makes place for another: the server's process keeps plans and the
/// descriptions of tables.
const LIFE: Duration = Duration::from_secs(30 * 60);
const TURNS: u32 = 1_000;
/// Whose connection was used so lately may come again, and the server's plans of one schema are of no use for another.
const WARM: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// A user's tag, to choose the connection by.
type Tag = [u8; 32];

#[derive(Debug)]
struct Free {
    connection: PgConnection,
    made: Instant,
    since: Instant,
    served: Option<Tag>,
    turns: u32,
    losses: u64,
}

impl Connections {
    pub(crate) fn new(config: &PostgresConfig) -> Result<Self> {
        Ok(Self {
            options: config.options()?,
            most: config.connections,
            patience: config.acquire,
            statements: config.statements,
            mode: config.mode,
            permits: Arc::new(Semaphore::new(config.connections as usize)),
            free: Mutex::default(),
            closed: AtomicBool::new(false),
            losses: AtomicU64::new(0),
            meters: Meters::default(),
            #[cfg(feature = "faults")]
            fault: config.fault,
        })
    }

    /// Closes what nobody has used for long, as long as the store is there.
    pub(crate) fn tend(self: &Arc<Self>) {
        let connections = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(IDLE / 10).await;
                let Some(connections) = Weak::upgrade(&connections) else { return };
                if connections.check_open().is_err() {
                    return;
                }
                let mut free = connections.free.lock();
                let before = free.len();
                free.retain(|free| free.since.elapsed() < IDLE);
                connections.meters.idle(-count(before - free.len()));
            }
        });
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) { Err(closed()) } else { Ok(()) }
    }

    /// Refuses what comes from now on, waits for what is under way, and closes every connection.
    pub(crate) async fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let _ = self.permits.acquire_many(self.most).await;
        self.permits.close();
        let free = std::mem::take(&mut *self.free.lock());
        self.meters.idle(-count(free.len()));
        for free in free {
            let _ = sqlx::Connection::close(free.connection).await;
        }
    }

    /// Runs a statement that gives one row and is nobody's.
    pub(crate) async fn one(self: &Arc<Self>, statement: Statement, sent: Sent) -> Result<PgRow> {
        self.run(None, statement, sent).await
    }

    /// Runs a statement of a user's that gives one row.
    pub(crate) async fn of_user(
        self: &Arc<Self>,
        user: &Tag,
        statement: Statement,
        sent: Sent,
    ) -> Result<PgRow> {
        self.run(Some(*user), statement, sent).await
    }

    async fn run(self: &Arc<Self>, user: Option<Tag>, statement: Statement, sent: Sent) -> Result<PgRow> {
        let lent = self.lend(user).await?;
        Running { work: Some(Box::pin(lent.run(statement, sent))) }.await
    }

    async fn lend(self: &Arc<Self>, user: Option<Tag>) -> Result<Lent> {
        self.check_open()?;
        let deadline = Instant::now() + self.patience;
        let permit = self.permit(deadline).await?;
        self.check_open()?;
        let mut lent = Lent {
            pool: Arc::clone(self),
            _permit: permit,
            user,
            held: None,
            fresh: false,
            _counted: self.meters.in_use(),
        };
        while let Some(mut free) = self.take(user) {
            let unsure = free.since.elapsed() > STALE || free.losses != self.losses.load(Ordering::Acquire);
            if !unsure || is_clean(&mut free.connection).await {
                lent.held = Some(free);
                return Ok(lent);
            }
        }
        lent.renew(deadline).await?;
        Ok(lent)
    }

    async fn permit(&self, deadline: Instant) -> Result<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Ok(permit);
        }
        let waiting = self.meters.waiting();
        let permit = Arc::clone(&self.permits).acquire_owned();
        let permit = tokio::time::timeout_at(deadline.into(), permit).await;
        drop(waiting);
        match permit {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) => Err(closed()),
            Err(_) => Err(from_sqlx(&sqlx::Error::PoolTimedOut, Sent::Read)),
        }
    }

    /// The connection that served this user last, or another; none if a new one is better.
    fn take(&self, user: Option<Tag>) -> Option<Free> {
        let mut free = self.free.lock();
        let before = free.len();
        free.retain(|free| free.made.elapsed() < LIFE && free.turns < TURNS);
        self.meters.idle(-count(before - free.len()));
        let last = free.len().checked_sub(1)?;
        let own = user.and_then(|user| free.iter().rposition(|free| free.served == Some(user)));
        let at = match (own, self.mode) {
            (Some(own), _) => own,
            (None, Mode::Schema) if user.is_some() => {
                // Plans are made for one schema: so users spread over the connections.
                let lent = (self.most as usize).saturating_sub(self.permits.available_permits());
                let oldest = free.first()?;
                let warm = oldest.served.is_some() && oldest.since.elapsed() < WARM;
                if warm && lent + last < self.most as usize {
                    return None;
                }
                0
            }
            (None, _) => last,
        };
        self.meters.idle(-1.0);
        Some(free.remove(at))
    }

    /// Connects, and waits for a server that is starting.
    async fn connect(&self, deadline: Instant) -> Result<Free> {
        let mut pause = FIRST_PAUSE;
        loop {
            let losses = self.losses.load(Ordering::Acquire);
            let connected = tokio::time::timeout_at(deadline.into(), self.options.connect()).await;
            let error = match connected {
                Ok(Ok(connection)) => {
                    self.meters.opened.increment(1);
                    let now = Instant::now();
                    return Ok(Free { connection, made: now, since: now, served: None, turns: 0, losses });
                }
                Ok(Err(error)) if is_starting(&error) => error,
                Ok(Err(error)) => return Err(from_sqlx(&error, Sent::Read)),
                Err(_) => return Err(unreachable()),
            };
            if Instant::now() + pause >= deadline {
                return Err(from_sqlx(&error, Sent::Read));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// A connection of one's own, which is closed at the end: for what takes a transaction.
    pub(crate) async fn own(self: &Arc<Self>) -> Result<PgConnection> {
        let mut lent = self.lend(None).await?;
        lent.held.take().map(|free| free.connection).ok_or_else(closed)
    }
}

/// Whether a server that can't be reached may be there in a moment.
fn is_starting(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => error.kind() == std::io::ErrorKind::ConnectionRefused,
        sqlx::Error::Database(error) => matches!(error.code().as_deref(), Some("53300" | "57P03")),
        _ => false,
    }
}

/// Asks a connection whether it lives, holds no transaction and keeps nothing of a user.
async fn is_clean(connection: &mut PgConnection) -> bool {
    let row = sqlx::raw_sql(IS_CLEAN).fetch_one(connection).await;
    row.and_then(|row| row.try_get(0)).unwrap_or(false)
}

/// A lent connection. If the runtime ends before the statement has, it is closed: what it was doing must not meet the next holder.
struct Lent {
    pool: Arc<Connections>,
    _permit: OwnedSemaphorePermit,
    user: Option<Tag>,
    held: Option<Free>,
    /// It was made for this statement.
    fresh: bool,
    _counted: crate::meters::InUse,
}

impl Lent {
    async fn renew(&mut self, deadline: Instant) -> Result<()> {
        self.held = None;
        self.held = Some(self.pool.connect(deadline).await?);
        self.fresh = true;
        Ok(())
    }

    async fn run(mut self, statement: Statement, sent: Sent) -> Result<PgRow> {
        #[cfg(feature = "faults")]
        self.leave_transaction(sent).await;
        let again = (!self.fresh).then(|| statement.clone());
        let mut told = self.send(statement).await;
        if let (Some(statement), Err(failed)) = (again, &told) {
            // The server has ended the connection while it rested. Nobody is told if nothing can have happened.
            if failed.may_repeat(sent) {
                self.renew(Instant::now() + self.pool.patience).await?;
                told = self.send(statement).await;
            }
        }
        match told {
            Ok(Told { row, clean: true }) => {
                self.give_back();
                Ok(row)
            }
            Ok(Told { row, clean: false }) => {
                self.give_back_if_clean().await;
                Ok(row)
            }
            Err(failed) => {
                if !is_lost(&failed.error) {
                    self.give_back_if_clean().await;
                }
                Err(from_sqlx(&failed.error, failed.sent(sent)))
            }
        }
    }

    async fn send(&mut self, statement: Statement) -> Result<Told, Failed> {
        let since = Instant::now();
        let Some(free) = &mut self.held else {
            return Err(Failed { error: sqlx::Error::PoolClosed, answered: false, undone: true });
        };
        let kind = statement.kind;
        let told = match self.pool.statements {
            Statements::Kept => send(&mut free.connection, statement, true).await,
            Statements::Unnamed => send(&mut free.connection, statement, false).await,
            Statements::Pooled => pooler::in_transaction(&mut free.connection, statement).await,
        };
        self.pool.meters.statement(kind, since);
        if told.as_ref().is_err_and(|failed| is_lost(&failed.error)) {
            self.pool.losses.fetch_add(1, Ordering::AcqRel);
            self.pool.meters.lost.increment(1);
        }
        told
    }

    #[cfg(feature = "faults")]
    async fn leave_transaction(&mut self, sent: Sent) {
        if let (Some(Fault::TransactionLeft), Sent::Read, Some(free)) =
            (self.pool.fault, sent, &mut self.held)
        {
            let _ = sqlx::Executor::execute(&mut free.connection, pooler::BEGIN).await;
        }
    }

    async fn give_back_if_clean(mut self) {
        #[cfg(feature = "faults")]
        if self.pool.fault.is_some() {
            return self.give_back();
        }
        let Some(free) = &mut self.held else { return };
        if is_clean(&mut free.connection).await {
            self.give_back();
        } else {
            self.pool.meters.unclean.increment(1);
        }
    }

    fn give_back(mut self) {
        let Some(mut free) = self.held.take() else { return };
        if self.user.is_some() && free.served != self.user {
            free.served = self.user;
            free.turns += 1;
        }
        free.since = Instant::now();
        self.pool.meters.idle(1.0);
        self.pool.free.lock().push(free);
    }
}

/// A statement under way. A caller who goes leaves it to a task of its own, so that it is brought to its end and its connection can be used
/// again. Nobody else pays for a task.
struct Running {
    work: Option<Pin<Box<dyn Future<Output = Result<PgRow>> + Send>>>,
}

impl Future for Running {
    type Output = Result<PgRow>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(work) = &mut self.work else { return Poll::Ready(Err(closed())) };
        let poll = work.as_mut().poll(cx);
        if poll.is_ready() {
            self.work = None;
        }
        poll
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(work) = self.work.take() else { return };
        // Without a runtime the work is dropped, which closes the connection.
        if let (false, Ok(runtime)) = (std::thread::panicking(), tokio::runtime::Handle::try_current()) {
            drop(runtime.spawn(work));
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "there are not so many connections")]
const fn count(of: usize) -> f64 {
    of as f64
}
