//! Syntha and the model, side by side: users, their handles, and what happens to whole users.

use std::io::Cursor;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use syntha::store::{MemoryStore, Store as _};
use syntha::{
    Agent, Filter, HostAuthority, InteractionLog, ManualClock, Mesh, MeshConfig, MeshError,
    MeshErrorKind as Kind, Session, Timestamp, UserManager,
};
use syntha_mesh::UndoOverwrites;
use syntha_tests::Server;

use crate::op::{AGENTS, Act, List, Op, THREADS, USERS};
use crate::reference::{Push, Reference};
use crate::reference_undo::Overwrites;
use crate::watching::Watching;

/// What was found wrong.
pub type Found<T = ()> = Result<T, String>;

pub enum Ground {
    /// Two handles of each user, neither of which has the user for itself.
    Memory(Arc<MemoryStore>),
    Sqlite(PathBuf),
    Server(Arc<Server>),
}

pub struct World {
    ground: Ground,
    config: MeshConfig,
    clock: Arc<ManualClock>,
    /// The wall clock, where nobody has set it back.
    time: u64,
    back: bool,
    manager: Option<(UserManager, HostAuthority)>,
    pub seats: Vec<Seat>,
    turn: usize,
    copies: usize,
}

/// A user: what Syntha has of it, and what the model says.
pub struct Seat {
    pub name: String,
    pub model: Reference,
    /// The newest version that was ever seen, in all lives of the user.
    pub newest: u64,
    /// The last commit that was seen of this life, and the latest time that one carried: the clock does not go behind it.
    epoch: u64,
    floor: u64,
    session: Option<Session>,
    second: Option<Mesh>,
    pub kept: Option<Kept>,
    pub watches: [Option<Watching>; 2],
    archive: Option<Archive>,
    pub again: Option<Push>,
}

#[derive(Clone)]
struct Archive {
    bytes: Vec<u8>,
    model: Reference,
    floor: u64,
}

/// A handle of an agent that is used later.
pub struct Kept {
    pub agent: Agent,
    pub mesh: Mesh,
    /// The life of the name that it is for, once it has met one.
    pub life: Option<u64>,
}

impl Seat {
    fn new(name: String, model: Reference) -> Self {
        Self {
            name,
            model,
            newest: 0,
            epoch: 0,
            floor: 0,
            session: None,
            second: None,
            kept: None,
            watches: [None, None],
            archive: None,
            again: None,
        }
    }
}

impl World {
    pub async fn new(ground: Ground, mut config: MeshConfig) -> Self {
        let time = 1_700_000_000_000;
        let clock = Arc::new(ManualClock::new(Timestamp(time)));
        config.clock = Arc::clone(&clock) as _;
        // Few enough that values are read from the store too.
        config.cache_bytes = 60;
        config.interactions = match ground {
            Ground::Memory(_) => InteractionLog::Writes,
            Ground::Sqlite(_) | Ground::Server(_) => InteractionLog::All,
        };
        // An agent's deletions by the minute are the conformance suite's.
        config.destructions_per_minute = u32::MAX;
        let overwrites = match ground {
            Ground::Memory(_) => Overwrites::All,
            Ground::Sqlite(_) | Ground::Server(_) => Overwrites::OfOthers,
        };
        config.undo_overwrites = match overwrites {
            Overwrites::All => UndoOverwrites::All,
            Overwrites::OfOthers => UndoOverwrites::OfOthers,
        };
        let first = || Reference::new(overwrites);
        let seats = (0..USERS).map(|n| Seat::new(format!("user-{n}"), first())).collect();
        let mut world =
            Self { ground, config, clock, time, back: false, manager: None, seats, turn: 0, copies: 0 };
        world.open().await;
        world
    }

    async fn open(&mut self) {
        let builder = UserManager::builder().mesh(self.config.clone());
        let builder = match &self.ground {
            Ground::Memory(store) => builder.store(Arc::clone(store) as _, store.deployment_key().clone()),
            // A read that is told moves a user's time on, which the model knows nothing of.
            Ground::Sqlite(folder) => builder.sqlite(folder).no_audit(),
            Ground::Server(server) => builder.postgres_with(server.postgres()).no_audit(),
        };
        self.manager = Some(builder.open().await.unwrap());
    }

    /// Whether the store keeps names in an order of its own.
    pub const fn is_sealed(&self) -> bool {
        !matches!(self.ground, Ground::Memory(_))
    }

    /// The time as this user's mesh has it.
    pub fn now(&self, user: usize) -> u64 {
        let wall = self.time - if self.back { 30_000 } else { 0 };
        wall.max(self.seats[user].floor)
    }

    pub const fn users(&self) -> &UserManager {
        match &self.manager {
            Some((users, _)) => users,
            None => panic!("it is open"),
        }
    }

    pub const fn two_handles(&self) -> bool {
        matches!(self.ground, Ground::Memory(_))
    }

    pub fn logs_reads(&self) -> bool {
        self.config.interactions == InteractionLog::All
    }

    /// A handle of the user's: one and the other by turns, where there are two.
    pub async fn mesh(&mut self, user: usize) -> Found<Mesh> {
        let (users, host) = self.manager.as_ref().unwrap();
        let seat = &mut self.seats[user];
        if seat.session.is_none() {
            let session = users.create_user_session(host, seat.name.as_str()).await;
            seat.session = Some(session.map_err(|error| format!("no session: {error:?}"))?);
        }
        self.turn += 1;
        if let Ground::Memory(store) = &self.ground
            && self.turn.is_multiple_of(2)
        {
            if seat.second.is_none()
                && let Ok(store) = store.open(users.tag(seat.name.as_str()).unwrap()).await
            {
                let opened = Mesh::open(store, false, self.config.clone()).await;
                seat.second = Some(opened.map_err(|error| format!("no second handle: {error:?}"))?);
            }
            if let Some(second) = &seat.second {
                return Ok(second.clone());
            }
        }
        let mesh: &Mesh = seat.session.as_ref().unwrap();
        Ok(mesh.clone())
    }

    pub async fn apply(&mut self, op: &Op) -> Found {
        match op {
            Op::Turn(millis) => {
                self.flush().await?;
                self.clock.advance(Duration::from_millis(*millis));
                self.time += millis;
                for user in 0..USERS {
                    self.drain(user, false).await?;
                }
            }
            Op::Jump(back) => {
                self.flush().await?;
                self.back = *back;
                // What expired and was not followed by a commit may be seen again, and a watch that took it back does not give
                // it again: it is asked afresh.
                self.seats.iter_mut().for_each(|seat| seat.watches = [None, None]);
                self.clock.jump(Timestamp(self.time - if *back { 30_000 } else { 0 }));
                for user in 0..USERS {
                    self.drain(user, false).await?;
                }
            }
            Op::At(user, _, Act::End) => self.end_session(*user).await?,
            Op::Reopen(orderly) => self.reopen(*orderly).await?,
            Op::At(user, _, Act::Export) => self.copy(*user).await?,
            Op::At(user, _, Act::Audit) => self.audit(*user).await?,
            Op::At(user, _, act @ (Act::Backup | Act::Restore | Act::Erase)) => {
                self.whole(*user, act).await?;
                self.settle(*user).await?;
            }
            Op::At(user, actor, act) => {
                self.act(*user, *actor, act).await?;
                self.settle(*user).await?;
                self.drain(*user, matches!(act, Act::Drain | Act::Watch { .. })).await?;
            }
        }
        Ok(())
    }

    /// The host's view and the usage are the model's, and versions only rise.
    async fn settle(&mut self, user: usize) -> Found {
        let mesh = self.mesh(user).await?;
        let entries = mesh.entries(&Filter::new()).await.map_err(|error| format!("no entries: {error:?}"))?;
        let (stamp, usage) = mesh.usage().await.map_err(|error| format!("no usage: {error:?}"))?;
        let now = self.now(user);
        let seat = &mut self.seats[user];
        if stamp.epoch.0 > seat.epoch {
            (seat.epoch, seat.floor) = (stamp.epoch.0, now);
        }
        let mut newest = seat.newest;
        let live = seat.model.entries.iter().filter(|(_, thing)| thing.lives(now)).map(|(key, _)| *key);
        let (live, keys): (Vec<_>, Vec<_>) =
            (live.collect(), entries.iter().map(|entry| entry.key()).collect());
        same("the host's keys", &keys, &live)?;
        for entry in &entries {
            let thing = seat.model.entries.get_mut(entry.key()).unwrap();
            if thing.version == 0 {
                if entry.version().0 <= seat.newest {
                    return Err("a version was used again".to_owned());
                }
                thing.version = entry.version().0;
            }
            same("a version", &entry.version().0, &thing.version)?;
            newest = newest.max(thing.version);
        }
        seat.newest = newest;
        let usage = [usage.contexts, usage.agents, usage.context_bytes, usage.history_bytes];
        same("the usage", &usage, &seat.model.usage())
    }

    /// Everything that anybody can ask.
    async fn audit(&mut self, user: usize) -> Found {
        let all = || List { prefix: "", topic: None, after: None, limit: None };
        for actor in 0..=AGENTS.len() {
            for act in [Act::All(all()), Act::Keys(all()), Act::Look, Act::Threads(None, 9), Act::UndoList] {
                self.act(user, actor, &act).await?;
            }
            for thread in 0..THREADS.len() {
                self.act(user, actor, &Act::Page { thread, way: 2, seq: 0, count: 900 }).await?;
            }
        }
        self.act(user, 0, &Act::Log(None, 900)).await?;
        self.settle(user).await
    }

    /// Export, import into a user of its own: the copy is what the model says, and gives the same export.
    async fn copy(&mut self, user: usize) -> Found {
        self.log(user).await?;
        self.settle(user).await?;
        let first = export(&self.mesh(user).await?).await?;
        self.copies += 1;
        let model = self.seats[user].model.copied(self.now(user));
        let entries = model.entries.len() as u64;
        self.seats.push(Seat::new(format!("copy-{}", self.copies), model));
        let copy = self.seats.len() - 1;
        let mesh = self.mesh(copy).await?;
        let report = mesh.import(Cursor::new(first.clone()), |_| {}).await;
        let report = report.map_err(|error| format!("no import: {error:?}"))?;
        same("the imported entries", &report.imported.entries, &entries)?;
        let second = export(&self.mesh(copy).await?).await?;
        if first != second {
            return Err("the export of an import differs".to_owned());
        }
        self.settle(copy).await?;
        self.audit(copy).await?;
        let name = self.seats.pop().unwrap().name;
        self.users().erase(name).await.map(drop).map_err(|error| format!("no erasure: {error:?}"))
    }

    async fn whole(&mut self, user: usize, act: &Act) -> Found {
        // Reads that wait are in no archive.
        self.log(user).await?;
        self.settle(user).await?;
        let name = self.seats[user].name.clone();
        let old = [self.mesh(user).await?, self.mesh(user).await?];
        match act {
            Act::Backup => {
                let mut bytes = Vec::new();
                let written = self.users().backup(name, &mut bytes).await;
                written.map_err(|error| format!("no backup: {error:?}"))?;
                if self.seats[user].epoch == 0 {
                    // A user who had not written has data now, of its first commit, though not all handles know it yet.
                    (self.seats[user].epoch, self.seats[user].floor) = (1, self.now(user));
                }
                let (model, floor) = (self.seats[user].model.clone(), self.seats[user].floor);
                self.seats[user].archive = Some(Archive { bytes, model, floor });
                return Ok(());
            }
            Act::Restore => {
                let Some(Archive { bytes, model, floor }) = self.seats[user].archive.clone() else {
                    return Ok(());
                };
                // The model's archive is the whole truth.
                let how = syntha::Restore::new().archived_permissions();
                let restored = self.users().restore_with(name, Cursor::new(bytes), how).await;
                restored.map_err(|error| format!("no restore: {error:?}"))?;
                self.seats[user].model = model;
                self.seats[user].floor = floor;
            }
            _ => {
                self.users().erase(name.as_str()).await.map_err(|error| format!("no erasure: {error:?}"))?;
                self.users().recreate(name).await.map_err(|error| format!("no recreation: {error:?}"))?;
                let overwrites = self.seats[user].model.overwrites;
                self.seats[user].model = Reference::new(overwrites);
                // The name's next life counts its versions from the start, under another incarnation.
                (self.seats[user].newest, self.seats[user].epoch, self.seats[user].floor) = (0, 0, 0);
                // An archive of an earlier life is another test's matter.
                self.seats[user].archive = None;
            }
        }
        self.forget(user, true).await?;
        let usage = self.mesh(user).await?.usage().await;
        let epoch = usage.map_err(|error| format!("no usage: {error:?}"))?.0.epoch.0;
        let now = self.now(user);
        let seat = &mut self.seats[user];
        seat.epoch = epoch;
        if matches!(act, Act::Erase) && epoch > 0 {
            // The new life's data was made at once.
            seat.floor = now;
        }
        for old in old {
            let late = old.push("late", 1).await.map(drop).map_err(|error| error.kind());
            same("a late write", &late, &Err(Kind::Gone))?;
            let read = old.entries(&Filter::new()).await.map(drop).map_err(|error| error.kind());
            same("a late read", &read, &Err(Kind::Gone))?;
        }
        Ok(())
    }

    /// Reads that wait are written down now, and not at a time that nobody knows.
    async fn flush(&mut self) -> Found {
        for user in 0..USERS {
            if self.logs_reads() && self.seats[user].session.is_some() {
                let log = self.mesh(user).await?.interactions(None, 1).await;
                log.map_err(|error| format!("no log: {error:?}"))?;
                self.settle(user).await?;
            }
        }
        Ok(())
    }

    async fn end_session(&mut self, user: usize) -> Found {
        // One of the two is the session's.
        let handles = [self.mesh(user).await?, self.mesh(user).await?];
        let agents = handles.each_ref().map(|mesh| mesh.agent("late").unwrap());
        drop(handles);
        let seat = &mut self.seats[user];
        if let Some(session) = &seat.session {
            session.end();
        }
        self.forget(user, false).await?;
        let mut ended = 0;
        for agent in agents {
            let late = agent.all(&Filter::new()).await.map(drop).map_err(|error| error.kind());
            if self.two_handles() && late.is_ok() {
                continue;
            }
            same("a handle of a session that has ended", &late, &Err(Kind::SessionEnded))?;
            let late = agent.push("late", 1).await.map(drop).map_err(|error| error.kind());
            same("a write of a session that has ended", &late, &Err(Kind::SessionEnded))?;
            ended += 1;
        }
        if ended == 0 { Err("no handle ended with its session".to_owned()) } else { Ok(()) }
    }

    /// Lets all handles of a user go. Watches of a life that is over say so.
    async fn forget(&mut self, user: usize, over: bool) -> Found {
        let seat = &mut self.seats[user];
        (seat.session, seat.second, seat.kept, seat.again) = (None, None, None, None);
        for mut watching in std::mem::take(&mut seat.watches).into_iter().flatten() {
            if over {
                watching.ends().await?;
            }
        }
        Ok(())
    }

    async fn reopen(&mut self, orderly: bool) -> Found {
        self.flush().await?;
        for user in 0..USERS {
            self.log(user).await?;
            self.forget(user, false).await?;
        }
        let (users, host) = self.manager.take().unwrap();
        drop(host);
        if orderly {
            users.shutdown().await.unwrap();
        } else {
            drop(users);
        }
        if let Ground::Memory(store) = &mut self.ground {
            *store = Arc::new(store.reopen());
        }
        self.open().await;
        Ok(())
    }

    pub async fn end(mut self) -> Found {
        for user in 0..USERS {
            self.drain(user, true).await?;
            self.audit(user).await?;
        }
        self.reopen(true).await?;
        for user in 0..USERS {
            self.audit(user).await?;
            self.forget(user, false).await?;
        }
        self.manager.take().unwrap().0.shutdown().await.map_err(|error| format!("no end: {error:?}"))
    }

    pub async fn drain(&mut self, user: usize, lazy: bool) -> Found {
        let (now, idle) = (self.now(user), self.two_handles());
        let seat = &mut self.seats[user];
        for slot in seat.watches.iter_mut() {
            let Some(watching) = slot.as_mut().filter(|watching| lazy || !watching.lazy) else { continue };
            if !watching.drain(&seat.model, now, idle).await? {
                *slot = None;
            }
        }
        Ok(())
    }
}

pub async fn export(mesh: &Mesh) -> Found<Vec<u8>> {
    let mut bytes = Vec::new();
    mesh.export(&mut bytes, |_| {}).await.map_err(|error: MeshError| format!("no export: {error:?}"))?;
    Ok(bytes)
}

pub fn same<T: PartialEq + std::fmt::Debug>(what: &str, got: &T, expected: &T) -> Found {
    if got == expected { Ok(()) } else { Err(format!("{what}: Syntha says {got:?}, the model {expected:?}")) }
}
