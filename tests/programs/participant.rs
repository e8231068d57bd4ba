//! One of several processes on one folder. The other half of the suite `processes`.
//!
//! It does a number of operations on a few users and keys, and writes down when each began and ended, in a file of its own that
//! survives its death. On standard output it says how far it is.

#![allow(clippy::print_stdout, reason = "standard output is how it tells how far it is")]

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use syntha::sqlite::{Fault, Mode, SqliteConfig};
use syntha::{Agent, Expected, MeshConfig, MeshErrorKind, Role, UserManager, Version};
use syntha_tests::Ground;

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const TASKS: u64 = 3;
const USERS: u64 = 2;
const KEYS: u64 = 3;

struct Log {
    file: File,
    done: AtomicU64,
}

#[tokio::main]
async fn main() -> Result {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().ok_or("give folder, log, number, operations and fault");
    let (ground, log) = (Ground::parse(&next()?), PathBuf::from(next()?));
    let (number, operations) = (next()?.parse::<u64>()?, next()?.parse::<u64>()?);
    let fault = match next()?.as_str() {
        "stale-bell" => Some(Fault::StaleBell),
        "ring-forgotten" => Some(Fault::RingForgotten),
        _ => None,
    };
    let builder = match (&ground, fault) {
        (Ground::Folder(folder), Some(fault)) => {
            let config = SqliteConfig::new(folder).mode(Mode::Shared).fault(fault);
            // A seal notices some of what a stale bell does.
            UserManager::builder().sqlite_with(config).plain()
        }
        (ground, _) => ground.shared(),
    };
    // Everybody removes what everybody wrote, as often as it comes.
    let mut mesh = MeshConfig::default();
    mesh.destructions_per_minute = u32::MAX;
    let (users, host) = builder.mesh(mesh).open().await?;
    let log = Arc::new(Log { file: File::create_new(log)?, done: AtomicU64::new(0) });
    let mut tasks = Vec::new();
    for task in 0..TASKS {
        let mut agents = Vec::new();
        for user in 0..USERS {
            let session = users.create_user_session(&host, format!("user-{user}")).await?;
            let name = format!("agent-{task}");
            session.set_role(name.as_str(), Role::Admin).await?;
            agents.push(session.agent(name)?);
        }
        let share = operations / TASKS + u64::from(task < operations % TASKS);
        tasks.push(tokio::spawn(work(Arc::clone(&log), agents, number * TASKS + task, share)));
    }
    for task in tasks {
        task.await??;
    }
    users.shutdown().await?;
    println!("end");
    Ok(())
}

/// Operations one after the other. `number` is given to no other task of the test.
async fn work(log: Arc<Log>, agents: Vec<Agent>, number: u64, operations: u64) -> Result {
    let mut random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut draw = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 11) % below
    };
    for n in 1..=operations {
        let (user, key, choice) = (draw(USERS), draw(KEYS), draw(100));
        let (agent, name) = (agents.get(usize::try_from(user)?).ok_or("no agent")?, format!("key-{key}"));
        let (id, value) = (number << 32 | n, number << 32 | n);
        let about = format!("{id} {user}/{key}");
        if choice < 55 {
            log.begin(&about, "get")?;
            let entry = agent.entry(&name).await?;
            let found =
                entry.map(|entry| Ok::<_, syntha_mesh::Error>((entry.value::<u64>()?, entry.version())));
            match found.transpose()? {
                Some((value, version)) => log.end(id, &format!("found {value} {}", version.0))?,
                None => log.end(id, "absent")?,
            }
            continue;
        }
        // What a compare-and-set builds on is an operation of its own, and not logged: it asserts nothing.
        let known = agent.entry(&name).await?.map(|entry| entry.version());
        let expected = known.map_or(Expected::Absent, Expected::Version);
        let of = known.unwrap_or(Version(0)).0;
        if choice < 75 {
            log.begin(&about, &format!("push {value}"))?;
            written(&log, id, agent.push(name, value).await.map(|pushed| Some(pushed.version)))?;
        } else if choice < 90 || known.is_none() {
            log.begin(&about, &format!("swap {value} {of}"))?;
            let pushed = agent.push(name, value).if_version(expected).await;
            written(&log, id, pushed.map(|pushed| Some(pushed.version)))?;
        } else {
            log.begin(&about, &format!("remove {of}"))?;
            let removed = agent.remove(name, Some(expected)).await;
            written(&log, id, removed.map(|removed| removed.then_some(Version(of))))?;
        }
    }
    Ok(())
}

fn written(log: &Log, id: u64, answer: syntha_mesh::Result<Option<Version>>) -> Result {
    match answer {
        Ok(Some(version)) => log.end(id, &format!("done {}", version.0)),
        Ok(None) => log.end(id, "refused"),
        Err(error) => match error.kind() {
            MeshErrorKind::Conflict | MeshErrorKind::NotFound => log.end(id, "refused"),
            // Nothing was written.
            MeshErrorKind::Busy => log.end(id, "busy"),
            // It is left open, as if this process had died.
            MeshErrorKind::Unknown => Ok(()),
            _ => Err(error.into()),
        },
    }
}

impl Log {
    fn begin(&self, about: &str, what: &str) -> Result {
        // INVARIANT: the time is taken before the operation begins, and its line is written before it does anything.
        self.line(&format!("begin {} {about} {what}\n", now()))
    }

    fn end(&self, id: u64, answer: &str) -> Result {
        self.line(&format!("end {} {id} {answer}\n", now()))?;
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        if done.is_multiple_of(8) {
            println!("{done}");
        }
        Ok(())
    }

    fn line(&self, line: &str) -> Result {
        // One call, so that lines of several tasks do not mix and a kill leaves whole ones.
        Ok((&self.file).write_all(line.as_bytes())?)
    }
}

/// Nanoseconds of the clock that all processes of a machine share.
fn now() -> i128 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
}
