//! Reads and writes for several users of an audited folder until it is killed, and says on standard output what was acknowledged.
//! The other half of the suite `audit_kills`.

#![allow(clippy::print_stdout, reason = "standard output is how it acknowledges")]

use std::io::Write;
use std::sync::Arc;

use syntha::sqlite::{SqliteConfig, SqliteStore};
use syntha::trail::{AuditedStore, Fault};
use syntha::{AuditPolicy, HostAuthority, Session, UserManager};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const USERS: usize = 4;
/// With one more read, 64 events a commit.
const KEYS: usize = 56;
const READS: usize = 7;

#[tokio::main]
async fn main() -> Result {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("give a data folder")?;
    let (users, host) = match arguments.next().as_deref() {
        None | Some("whole") => {
            UserManager::builder().sqlite(folder).audit(AuditPolicy::Buffered).open().await?
        }
        Some("link-missing") => linkless(folder).await?,
        Some(_) => return Err("there is no such fault".into()),
    };
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..USERS {
        let session = users.create_user_session(&host, format!("user-{number}")).await?;
        tasks.spawn(work(session, number));
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

/// A deployment whose changes are committed without their links.
async fn linkless(folder: String) -> Result<(UserManager, HostAuthority)> {
    let store = SqliteStore::open(SqliteConfig::new(folder)).await?;
    let key = store.deployment_key().clone();
    let audited = AuditedStore::new(Arc::new(store), key.fingerprint())?.fault(Fault::LinkMissing);
    Ok(UserManager::builder().store(Arc::new(audited), key).open().await?)
}

async fn work(session: Session, number: usize) -> Result {
    let agent = session.agent("agent")?;
    let mut next = agent.get::<u64>("key-0").await?.unwrap_or(0);
    loop {
        next += 1;
        for key in 0..READS {
            agent.get::<u64>(format!("key-{key}")).await?;
        }
        let batch = (0..KEYS).fold(agent.batch(), |batch, key| batch.push(format!("key-{key}"), next));
        batch.commit().await?;
        let entry = agent.entry("key-0").await?.ok_or("what was written is not there")?;
        acknowledge(number, next, entry.version().0);
    }
}

fn acknowledge(number: usize, value: u64, version: u64) {
    let mut out = std::io::stdout().lock();
    // The reader may be gone; then so is this process, soon.
    let _ = writeln!(out, "{number} {value} {version}").and_then(|()| out.flush());
}
