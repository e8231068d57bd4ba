//! How one process tells another that a user's data has moved on: a hint, never the truth.
//!
//! A notice is a keyed hash of the user's tag and nothing else, on one channel, so who may listen learns no user, key, topic or count of entries.
//! It is sent after the commit, in a transaction of its own, at most once in [`GATHER`] for all users together: inside the commit it would take a
//! lock that all commits of the server share. Whoever hears it asks the server where the data stands. Waiters look by themselves as well, so what is
//! lost costs a second at most.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use data_encoding::BASE64URL_NOPAD as CODE;
use event_listener::{Event, EventListener};
use parking_lot::Mutex;
use sqlx::Row;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use syntha_store::{DeploymentKey, Incarnation, Result};
use tokio::task::AbortHandle;

use crate::config::PostgresConfig;
use crate::connections::Connections;
use crate::error::Sent;
use crate::statement::Statement;

/// The one channel of a database.
const CHANNEL: &str = "syntha";
/// The least time between two notices of a process.
const GATHER: Duration = Duration::from_millis(20);
/// How long it counts that nobody listened.
const ALONE: Duration = Duration::from_secs(1);
/// How often a waiter looks by itself, with notices and without.
const LOOK_HEARING: Duration = Duration::from_secs(1);
const LOOK_DEAF: Duration = Duration::from_millis(100);
/// Others may not know yet that somebody listens. Longer than [`ALONE`].
const UNKNOWN: Duration = Duration::from_secs(2);
/// A listener that has heard nothing for so long calls itself, and must hear that soon.
const QUIET: Duration = Duration::from_secs(10);
const ECHO: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// More marks than this are not listed: everybody looks. A payload ends at 8,000 bytes.
const MARKS: usize = 256;

/// The hash of a user's tag that others hear.
type Mark = [u8; 16];

/// A store's side of it: who waits here, and what others are to be told.
pub(crate) struct Notices {
    connections: Arc<Connections>,
    key: Arc<DeploymentKey>,
    /// Where to listen; none if notices are off.
    listen_at: Option<PgConnectOptions>,
    name: String,
    bells: Mutex<HashMap<Mark, Weak<Bell>>>,
    outbox: Mutex<Outbox>,
    hearing: Mutex<Option<Instant>>,
    started: AtomicBool,
    listener: Mutex<Option<AbortHandle>>,
}

#[derive(Default)]
struct Outbox {
    marks: HashSet<Mark>,
    sending: bool,
    alone_until: Option<Instant>,
}

/// Wakes who waits for one user's data to move on.
pub(crate) struct Bell {
    event: Event,
    mark: Mark,
    notices: Arc<Notices>,
}

impl Bell {
    pub(crate) fn listen(&self) -> EventListener {
        self.event.listen()
    }

    /// A commit has happened, or may have.
    pub(crate) fn ring(&self) {
        self.event.notify(usize::MAX);
        self.notices.tell(self.mark);
    }

    /// Waits for a ring, and not longer than until it is time to look.
    pub(crate) async fn wait(&self, ring: EventListener) {
        self.notices.start();
        let _ = tokio::time::timeout(self.notices.look_every(), ring).await;
    }
}

impl Notices {
    pub(crate) fn new(connections: &Arc<Connections>, config: &PostgresConfig) -> Result<Arc<Self>> {
        // Others find out by this name that somebody listens, and this process that it is not itself.
        let name = format!("{LISTENER}{}", CODE.encode(&Incarnation::random()?.0.to_be_bytes()));
        let listen_at = config.listen_options()?.map(|options| options.application_name(&name));
        Ok(Arc::new(Self {
            connections: Arc::clone(connections),
            key: Arc::clone(&config.key.0),
            listen_at,
            name,
            bells: Mutex::default(),
            outbox: Mutex::default(),
            hearing: Mutex::default(),
            started: AtomicBool::new(false),
            listener: Mutex::default(),
        }))
    }

    pub(crate) const fn are_on(&self) -> bool {
        self.listen_at.is_some()
    }

    /// The bell of a user. All handles of a process share it.
    pub(crate) fn bell(self: &Arc<Self>, tag: &[u8; 32]) -> Arc<Bell> {
        let mark = self.key.notice(tag);
        let mut bells = self.bells.lock();
        if let Some(bell) = bells.get(&mark).and_then(Weak::upgrade) {
            return bell;
        }
        bells.retain(|_, bell| bell.strong_count() > 0);
        let bell = Arc::new(Bell { event: Event::new(), mark, notices: Arc::clone(self) });
        bells.insert(mark, Arc::downgrade(&bell));
        bell
    }

    /// Rings for a user who may have no handle here.
    pub(crate) fn ring(self: &Arc<Self>, tag: &[u8; 32]) {
        let mark = self.key.notice(tag);
        self.wake(&mark);
        self.tell(mark);
    }

    fn wake(&self, mark: &Mark) {
        let bell = self.bells.lock().get(mark).and_then(Weak::upgrade);
        if let Some(bell) = bell {
            bell.event.notify(usize::MAX);
        }
    }

    pub(crate) fn wake_all(&self) {
        let bells: Vec<_> = self.bells.lock().values().filter_map(Weak::upgrade).collect();
        for bell in bells {
            bell.event.notify(usize::MAX);
        }
    }

    /// Ends the listener and wakes who waits: the store was closed.
    pub(crate) fn close(&self) {
        if let Some(listener) = self.listener.lock().take() {
            listener.abort();
        }
        *self.hearing.lock() = None;
        self.wake_all();
    }

    fn look_every(&self) -> Duration {
        let hearing = *self.hearing.lock();
        if hearing.is_some_and(|since| since.elapsed() > UNKNOWN) { LOOK_HEARING } else { LOOK_DEAF }
    }
}

/// What tells other processes.
impl Notices {
    fn tell(self: &Arc<Self>, mark: Mark) {
        if !self.are_on() {
            return;
        }
        {
            let mut outbox = self.outbox.lock();
            if outbox.alone_until.is_some_and(|until| Instant::now() < until) {
                return;
            }
            outbox.marks.insert(mark);
            if std::mem::replace(&mut outbox.sending, true) {
                return;
            }
        }
        // INVARIANT: whoever set `sending` sends, or says that nobody does.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(Arc::clone(self).send())),
            Err(_) => *self.outbox.lock() = Outbox::default(),
        }
    }

    async fn send(self: Arc<Self>) {
        // If the task ends early (its runtime went away), the next ring starts another.
        let mut sending = Sending { notices: &self, ended: false };
        let mut asked: Option<Instant> = None;
        loop {
            if asked.is_none_or(|at| at.elapsed() > ALONE) {
                if !self.has_listeners().await {
                    return sending.end(Some(Instant::now() + ALONE));
                }
                asked = Some(Instant::now());
            }
            let marks = std::mem::take(&mut self.outbox.lock().marks);
            if !marks.is_empty() && self.notify(&payload(&marks)).await.is_ok() {
                self.connections.meters.notices_sent.increment(1);
            }
            tokio::time::sleep(GATHER).await;
            if sending.end_if_empty() {
                return;
            }
        }
    }

    /// Whether another process listens. One that can't be asked about may.
    async fn has_listeners(&self) -> bool {
        let question = Statement::question(
            "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_stat_activity AS a
                WHERE a.datname = current_database() AND starts_with(a.application_name, $1) AND a.application_name <> $2)",
        );
        let row = self.connections.one(question.bind(LISTENER).bind(&self.name), Sent::Read).await;
        row.map_or(true, |row| row.try_get(0).unwrap_or(true))
    }

    /// It need not survive a crash of the server, so it waits for no disk.
    async fn notify(&self, payload: &str) -> Result<()> {
        let statement = Statement::question(
            "SELECT set_config('synchronous_commit', 'off', true), pg_catalog.pg_notify($1, $2)::text",
        );
        self.connections.one(statement.bind(CHANNEL).bind(payload), Sent::Read).await.map(drop)
    }
}

/// How a listener's connection is called. The rest of the name is random.
const LISTENER: &str = "syntha listener ";

/// INVARIANT: under the outbox's lock, nothing waits in it that nobody sends.
struct Sending<'a> {
    notices: &'a Notices,
    ended: bool,
}

impl Sending<'_> {
    fn end(&mut self, alone_until: Option<Instant>) {
        *self.notices.outbox.lock() = Outbox { alone_until, ..Outbox::default() };
        self.ended = true;
    }

    fn end_if_empty(&mut self) -> bool {
        let mut outbox = self.notices.outbox.lock();
        self.ended = outbox.marks.is_empty();
        outbox.sending = !self.ended;
        self.ended
    }
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.notices.outbox.lock().sending = false;
        }
    }
}

/// What hears other processes.
impl Notices {
    /// Starts to listen, at the first wait.
    fn start(self: &Arc<Self>) {
        let Some(options) = &self.listen_at else { return };
        if self.started.swap(true, Ordering::AcqRel) || self.connections.check_open().is_err() {
            return;
        }
        let task = tokio::spawn(listen(Arc::downgrade(self), options.clone()));
        *self.listener.lock() = Some(task.abort_handle());
    }

    fn heard(&self, payload: &str) {
        self.connections.meters.notices_heard.increment(1);
        match payload.strip_prefix(LIST).map(marks) {
            Some(Some(marks)) => marks.iter().for_each(|mark| self.wake(mark)),
            None if payload.starts_with(CALL) => {}
            // Everybody, or something that this version does not understand.
            _ => self.wake_all(),
        }
    }

    /// INVARIANT: whatever was missed in between, who waits looks now.
    fn set_hearing(&self, hearing: bool) {
        *self.hearing.lock() = hearing.then(Instant::now);
        self.wake_all();
    }
}

impl Drop for Notices {
    fn drop(&mut self) {
        if let Some(listener) = self.listener.lock().take() {
            listener.abort();
        }
    }
}

impl fmt::Debug for Notices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Notices")
    }
}

/// Listens as long as the store is there, and begins anew when the connection is lost.
async fn listen(notices: Weak<Notices>, options: PgConnectOptions) {
    let mut pause = FIRST_PAUSE;
    loop {
        let since = Instant::now();
        let lost = hear(&notices, &options).await;
        let Some(notices) = notices.upgrade() else { return };
        if notices.connections.check_open().is_err() {
            return;
        }
        if since.elapsed() > LONGEST_PAUSE {
            pause = FIRST_PAUSE;
        }
        if lost.is_err() {
            notices.connections.meters.deaf.increment(1);
        }
        notices.set_hearing(false);
        drop(notices);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Listens on one connection until it is lost, or is one that hears nothing, as through a pooler.
async fn hear(notices: &Weak<Notices>, options: &PgConnectOptions) -> Result<(), sqlx::Error> {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .max_lifetime(None)
        .idle_timeout(None)
        .acquire_timeout(QUIET)
        .connect_with(options.clone())
        .await?;
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.ignore_pool_close_event(true);
    listener.eager_reconnect(false);
    listener.listen(CHANNEL).await?;
    call(notices, &mut listener).await?;
    notices.upgrade().ok_or(sqlx::Error::PoolClosed)?.set_hearing(true);
    loop {
        match tokio::time::timeout(QUIET, listener.try_recv()).await {
            Ok(Ok(Some(notice))) => {
                notices.upgrade().ok_or(sqlx::Error::PoolClosed)?.heard(notice.payload());
            }
            Ok(Ok(None)) => return Err(sqlx::Error::PoolClosed),
            Ok(Err(error)) => return Err(error),
            Err(_) => call(notices, &mut listener).await?,
        }
    }
}

/// Calls the own listener over another connection, and waits until it is heard.
async fn call(notices: &Weak<Notices>, listener: &mut PgListener) -> Result<(), sqlx::Error> {
    let gone = || sqlx::Error::PoolClosed;
    let call = {
        let notices = notices.upgrade().ok_or_else(gone)?;
        let random = Incarnation::random().map_err(|_| gone())?;
        let call = format!("{CALL}{}", CODE.encode(&random.0.to_be_bytes()));
        notices.notify(&call).await.map_err(|_| gone())?;
        call
    };
    let echo = async {
        loop {
            match listener.try_recv().await? {
                Some(notice) if notice.payload() == call => return Ok(()),
                Some(notice) => notices.upgrade().ok_or_else(gone)?.heard(notice.payload()),
                None => return Err(gone()),
            }
        }
    };
    tokio::time::timeout(ECHO, echo).await.map_err(|_| gone())?
}

/// How payloads begin: a list of marks, everybody, a listener that calls itself.
const LIST: &str = "1";
const EVERYBODY: &str = "*";
const CALL: &str = "?";

fn payload(marks: &HashSet<Mark>) -> String {
    if marks.len() > MARKS {
        return EVERYBODY.to_owned();
    }
    // In an order that says nothing of who came first.
    let mut sorted: Vec<_> = marks.iter().collect();
    sorted.sort_unstable();
    let mut payload = String::from(LIST);
    for mark in sorted {
        CODE.encode_append(mark, &mut payload);
    }
    payload
}

/// The marks of a list, if it is one.
fn marks(list: &str) -> Option<Vec<Mark>> {
    let chunks = list.as_bytes().chunks(CODE.encode_len(size_of::<Mark>()));
    chunks.map(|chunk| CODE.decode(chunk).ok()?.try_into().ok()).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn a_payload_lists_marks_and_fits() {
        let set: HashSet<Mark> = (0..MARKS).map(|n| (n as u128).to_be_bytes()).collect();
        let payload = payload(&set);
        assert!(payload.len() < 8_000, "{}", payload.len());
        let read = marks(payload.strip_prefix(LIST).unwrap()).unwrap();
        assert_eq!(read.into_iter().collect::<HashSet<_>>(), set);
    }

    #[test]
    fn too_many_marks_are_everybody() {
        let set: HashSet<Mark> = (0..=MARKS).map(|n| (n as u128).to_be_bytes()).collect();
        assert_eq!(payload(&set), EVERYBODY);
    }

    #[test]
    fn a_damaged_list_is_no_list() {
        for bad in ["x", "AAAAAAAAAAAAAAAAAAAAA", "!!!!!!!!!!!!!!!!!!!!!!"] {
            assert_eq!(marks(bad), None, "{bad}");
        }
    }
}
