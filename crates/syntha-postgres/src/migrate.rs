//! One user's tables, from the version before to this one: each user in a transaction, many at once, again and again until it is done.

use std::collections::VecDeque;
use std::sync::Arc;

use sqlx::Connection;
use sqlx::Row;
use sqlx::postgres::PgConnection;
use syntha_store::{DeploymentKey, ErrorKind, Result, UserTag};
use tokio::sync::{Mutex, mpsc};

use crate::error::{Sent, corrupt, from_sqlx, is_lost};
use crate::install::{InstallConfig, VERSION, check, is_current};
use crate::rows::natural;

/// How a migration stands or ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Migrated {
    /// Users whose tables are of this version now and were not before.
    pub done: u64,
    /// Users who could not be brought to it, and why. They are served as before; run the migration again.
    pub failed: u64,
    /// The tags of the first hundred of these, for the operator; `None` is the deployment's own space.
    pub failures: Vec<(Option<UserTag>, ErrorKind)>,
}

/// Which versions there are in a database.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Versions {
    /// This build's.
    pub build: u64,
    /// That of the database's functions. [`install`](crate::install()) brings it to this build's.
    pub functions: u64,
    /// How many users have tables of each version, lowest first. The deployment's own space counts as one.
    pub users: Vec<(u64, u64)>,
}

impl Versions {
    /// How many users a [migration](migrate()) would work on.
    #[must_use]
    pub fn behind(&self) -> u64 {
        self.users.iter().filter(|(version, _)| *version < self.build).map(|(_, users)| users).sum()
    }
}

/// Which versions there are: of the functions, and of users' tables. It changes nothing.
///
/// # Errors
///
/// `Refused` for another deployment's key or a role that owns nothing; `Unsupported` for another mode, a newer version or a database that was not
/// installed; `Unavailable` if the server can't be reached.
pub async fn versions(config: &InstallConfig, key: &DeploymentKey) -> Result<Versions> {
    let mut connection = config.connect().await?;
    let functions = check(&mut connection, config.is_of(), key).await?;
    let rows = sqlx::query(
        "SELECT m.format, count(*) FROM syntha.member AS m WHERE m.present = 1 GROUP BY m.format ORDER BY m.format",
    )
    .persistent(false)
    .fetch_all(&mut connection)
    .await
    .map_err(|error| from_sqlx(&error, Sent::Read))?;
    let number =
        |row: &sqlx::postgres::PgRow, at: usize| row.try_get(at).map_err(|_| corrupt()).and_then(natural);
    let users = rows.iter().map(|row| Ok((number(row, 0)?, number(row, 1)?))).collect::<Result<_>>()?;
    let _ = connection.close().await;
    Ok(Versions { build: natural(VERSION)?, functions: natural(functions)?, users })
}

/// Brings the tables of every user to this version: each in a transaction of its own, [several at once](InstallConfig::parallel). The database
/// was [installed](crate::install()) with this version before. Users are served meanwhile and before; who can't be migrated now is passed over.
/// Whoever stops it, or runs it from several processes, loses nothing: it goes on with those that are left. `progress` is told after each user.
///
/// # Errors
///
/// As [`versions`], and `Unavailable` if the server goes away. What was done stays done.
pub async fn migrate(
    config: &InstallConfig,
    key: &DeploymentKey,
    mut progress: impl FnMut(&Migrated) + Send,
) -> Result<Migrated> {
    let mut connection = config.connect().await?;
    is_current(check(&mut connection, config.is_of(), key).await?)?;
    let source = Arc::new(Mutex::new(Source { connection, after: Vec::new(), next: VecDeque::new() }));
    let (tell, mut told) = mpsc::channel(1);
    // INVARIANT: the tasks end with this set, also when this call is dropped. Each transaction is one statement, so none is left open.
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..config.parallel {
        let (connection, source, tell) = (config.connect().await?, Arc::clone(&source), tell.clone());
        workers.spawn(work(connection, source, tell));
    }
    drop(tell);
    let mut migrated = Migrated::default();
    while let Some((tag, outcome)) = told.recv().await {
        match outcome {
            Ok(0) => continue,
            Ok(_) => migrated.done += 1,
            Err(kind) => {
                migrated.failed += 1;
                if migrated.failures.len() < FAILURES {
                    migrated.failures.push((UserTag::from_bytes(tag).ok(), kind));
                }
            }
        }
        progress(&migrated);
    }
    while let Some(worked) = workers.join_next().await {
        worked.map_err(|_| from_sqlx(&sqlx::Error::WorkerCrashed, Sent::Read))??;
    }
    Ok(migrated)
}

const FAILURES: usize = 100;
/// Tags that are read at once.
const PAGE: i64 = 256;

/// Who is left, in order of tags. Nobody comes twice.
struct Source {
    connection: PgConnection,
    after: Vec<u8>,
    next: VecDeque<[u8; 32]>,
}

impl Source {
    async fn next(&mut self) -> Result<Option<[u8; 32]>> {
        if self.next.is_empty() {
            let question = sqlx::query_scalar(
                "SELECT m.tag FROM syntha.member AS m
                 WHERE m.tag > $1 AND m.present = 1 AND m.format < $2 ORDER BY m.tag LIMIT $3",
            );
            let tags: Vec<Vec<u8>> = question
                .bind(&self.after)
                .bind(VERSION)
                .bind(PAGE)
                .persistent(false)
                .fetch_all(&mut self.connection)
                .await
                .map_err(|error| from_sqlx(&error, Sent::Read))?;
            for tag in tags {
                self.next.push_back(tag.as_slice().try_into().map_err(|_| corrupt())?);
                self.after = tag;
            }
        }
        Ok(self.next.pop_front())
    }
}

type Outcome = ([u8; 32], std::result::Result<i64, ErrorKind>);

async fn work(
    mut connection: PgConnection,
    source: Arc<Mutex<Source>>,
    tell: mpsc::Sender<Outcome>,
) -> Result<()> {
    loop {
        let Some(tag) = source.lock().await.next().await? else { break };
        let done = sqlx::query_scalar("SELECT o_done FROM syntha.migrate_user($1)")
            .bind(&tag[..])
            .fetch_one(&mut connection)
            .await;
        let outcome = match done {
            Ok(done) => Ok(done),
            Err(error) if is_lost(&error) => return Err(from_sqlx(&error, Sent::Read)),
            Err(error) => Err(from_sqlx(&error, Sent::Read).kind()),
        };
        if tell.send((tag, outcome)).await.is_err() {
            break;
        }
    }
    let _ = connection.close().await;
    Ok(())
}
