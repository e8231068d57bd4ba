//! One of several processes that write, erase, recreate, back up and restore the same user of one folder, until it is killed.
//! The other half of the suite `rivals`. It ends by itself, with an error, if it finds what should not be.

#![allow(clippy::print_stdout, reason = "standard output is how it tells that it lives")]

use std::io::Cursor;

use syntha::sqlite::{Fault, Mode, SqliteConfig};
use syntha::{ErrorKind, Filter, HostAuthority, MeshErrorKind, Session, UserManager};
use syntha_tests::Ground;

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const KEYS: usize = 12;

#[tokio::main]
async fn main() -> Result {
    let mut arguments = std::env::args().skip(1);
    let ground = Ground::parse(&arguments.next().ok_or("say where the data is")?);
    let number = arguments.next().ok_or("give a number")?.parse::<u64>()?;
    let builder = match (&ground, arguments.next().as_deref()) {
        (Ground::Folder(folder), Some("torn")) => {
            let config = SqliteConfig::new(folder).mode(Mode::Shared).fault(Fault::BatchTorn);
            // A seal refuses what is torn before it can be seen.
            UserManager::builder().sqlite_with(config).plain()
        }
        (ground, _) => ground.shared(),
    };
    let (users, host) = builder.open().await?;
    let mut random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for n in 0.. {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let step = match (random >> 11) % 10 {
            0 => allowed(users.erase("victim").await, &[ErrorKind::NotFound])?,
            1 | 2 => allowed(users.recreate("victim").await, &[ErrorKind::AlreadyExists, ErrorKind::Erased])?,
            3 => archive(&users).await?,
            _ => live(&users, &host, number << 32 | n).await?,
        };
        println!("{}", if step { "done" } else { "in vain" });
    }
    Ok(())
}

/// Whether it was done. It may fail in some ways because of what others do.
fn allowed<T>(answer: syntha::Result<T>, kinds: &[ErrorKind]) -> Result<bool> {
    match answer {
        Err(error) if !kinds.contains(&error.kind()) => Err(error.into()),
        answer => Ok(answer.is_ok()),
    }
}

/// A backup and its restore, over whatever others did in between.
async fn archive(users: &UserManager) -> Result<bool> {
    let mut archive = Vec::new();
    // The user may be erased, or changed by another process in the middle.
    let ended = [ErrorKind::NotFound, ErrorKind::Erased, ErrorKind::Gone];
    if let Err(error) = users.backup("victim", &mut archive).await {
        return allowed(Err::<(), _>(error), &ended);
    }
    // An erasure in between took the archive's key with it.
    let gone = [ErrorKind::NotFound, ErrorKind::Erased, ErrorKind::Gone, ErrorKind::Denied];
    allowed(users.restore("victim", Cursor::new(archive)).await, &gone)
}

/// Writes all keys in one batch, and reads them: either of this batch or of a later one, and all alike.
async fn live(users: &UserManager, host: &HostAuthority, value: u64) -> Result<bool> {
    let session = match users.create_user_session(host, "victim").await {
        Ok(session) => session,
        Err(error) => return allowed(Err::<(), _>(error), &[ErrorKind::Erased, ErrorKind::Gone]),
    };
    match write_and_read(&session, value).await {
        Err(error) => match error.downcast_ref::<syntha_mesh::Error>().map(syntha_mesh::Error::kind) {
            // Another process ended the life, or wrote for long.
            Some(MeshErrorKind::Gone | MeshErrorKind::Busy | MeshErrorKind::Conflict) => Ok(false),
            _ => Err(error),
        },
        Ok(()) => Ok(true),
    }
}

async fn write_and_read(session: &Session, value: u64) -> Result {
    let agent = session.agent("agent")?;
    let batch = (0..KEYS).fold(agent.batch(), |batch, key| batch.push(format!("key-{key}"), value));
    batch.commit().await?;
    let entries = agent.all(&Filter::new()).await?;
    let values =
        entries.iter().map(|entry| entry.value::<u64>()).collect::<std::result::Result<Vec<_>, _>>()?;
    // The life goes on, so what was written in it is there, or something later.
    if values.len() != KEYS || values.iter().any(|found| Some(found) != values.first()) {
        return Err(format!("a mixture, or a lost write: {values:?}").into());
    }
    Ok(())
}
