//! Imports. A file to import is hostile until read: it is opened read-only, its schema is not trusted, every name is parsed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use sqlx::sqlite::{SqliteConnectOptions, SqliteRow};
use sqlx::{ConnectOptions, Connection, Row, SqliteConnection};
use syntha::{
    AgentName, EntryKey, Expected, HostAuthority, MeshErrorKind, Session, Topic, UserId, UserManager,
};

use crate::{Answer, Result};

#[derive(Args)]
pub(crate) struct Import {
    /// What the file is
    #[arg(long, value_enum)]
    from: Source,
    /// The file
    file: PathBuf,
    /// The user to import into; for a Python database the user for rows that belong to nobody, which are skipped without it
    #[arg(long)]
    user: Option<String>,
    /// The thread to append a conversation to
    #[arg(long, required_if_eq("from", "chat-jsonl"))]
    thread: Option<String>,
    /// Also into users who are there already: only what they do not have is added
    #[arg(long)]
    into_existing: bool,
    /// For an export that is sealed: the file whose first line is its passphrase; `-` is the standard input
    #[arg(long, value_name = "FILE")]
    export_passphrase_file: Option<PathBuf>,
}

impl Import {
    pub(crate) fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Source {
    /// A database of the Python package `syntha` 0.2
    PythonSyntha,
    /// An export of a user's mesh
    Syntha,
    /// A conversation: one message a line, a JSON object with `role` and `content`
    ChatJsonl,
}

/// What a Python Syntha writes where topics had no subscriber. Such an entry is for nobody.
const NOBODY: &str = "__NO_SUBSCRIBERS__";

#[derive(Default)]
struct Report {
    imported: u64,
    already_there: u64,
    users: u64,
    routed: u64,
    skipped: BTreeMap<&'static str, u64>,
}

impl Report {
    fn skip(&mut self, why: &'static str) {
        *self.skipped.entry(why).or_default() += 1;
    }
}

struct Item {
    key: EntryKey,
    value: Value,
    everyone: bool,
    agents: Vec<AgentName>,
    ttl: Option<Duration>,
}

pub(crate) async fn run(import: Import, users: &UserManager, host: &HostAuthority) -> Result {
    let Import { file, user, into_existing, .. } = &import;
    if import.export_passphrase_file.is_some() && !matches!(import.from, Source::Syntha) {
        return Err("--export-passphrase-file is for an export: --from syntha".into());
    }
    match (import.from, &import.thread) {
        (Source::PythonSyntha, _) => {}
        (Source::Syntha, _) => {
            let passphrase = import.export_passphrase_file.as_deref();
            return crate::transfer::import(file, user.as_deref(), *into_existing, passphrase, users, host)
                .await;
        }
        (Source::ChatJsonl, thread) => {
            let thread = thread.as_deref().unwrap_or_default();
            return crate::transfer::import_chat(file, thread, user.as_deref(), *into_existing, users, host)
                .await;
        }
    }
    let mut db = open(&import.file).await?;
    let nobodys = import.user.as_deref().map(UserId::new).transpose()?;
    let mut report = Report::default();
    let ids: Vec<Option<String>> = sqlx::query_scalar(
        // Byte for byte, whatever collation the file gives its columns: two users never become one.
        "SELECT user_id COLLATE BINARY FROM context_items UNION SELECT user_id COLLATE BINARY FROM agent_topics
         UNION SELECT user_id COLLATE BINARY FROM agent_permissions ORDER BY 1",
    )
    .fetch_all(&mut db)
    .await?;
    let total = ids.len();
    for (number, id) in ids.into_iter().enumerate() {
        if number % 10 == 9 {
            eprintln!("importing user {} of {total}", number + 1);
        }
        let user = match (&id, &nobodys) {
            (None, Some(user)) => user.clone(),
            (None, None) => {
                skip_all(&mut db, None, "no-user", &mut report).await?;
                continue;
            }
            (Some(id), _) => match UserId::new(id.as_str()) {
                Ok(user) => user,
                Err(_) => {
                    skip_all(&mut db, Some(id), "bad-user", &mut report).await?;
                    continue;
                }
            },
        };
        let existing = match users.open(host, &user).await {
            Ok(session) => Some(session),
            Err(error) if error.kind() == syntha::ErrorKind::NotFound => None,
            Err(error) if error.kind() == syntha::ErrorKind::Erased => {
                skip_all(&mut db, id.as_deref(), "erased-user", &mut report).await?;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let session = match existing {
            Some(_) if !import.into_existing => {
                skip_all(&mut db, id.as_deref(), "existing-user", &mut report).await?;
                continue;
            }
            Some(session) => session,
            None => users.create_user_session(host, &user).await?,
        };
        user_rows(&mut db, id.as_deref(), &session, &mut report).await?;
        report.users += 1;
    }
    db.close().await?;
    Ok(answer(&report))
}

async fn open(file: &Path) -> Result<SqliteConnection> {
    let found = file.symlink_metadata().map_err(|error| format!("can't read {}: {error}", file.display()))?;
    if !found.is_file() {
        return Err(format!("{} is not a plain file", file.display()).into());
    }
    let log = PathBuf::from(format!("{}-journal", file.display()));
    if log.exists() || PathBuf::from(format!("{}-wal", file.display())).exists() {
        return Err(
            "the database was not closed: end the program that uses it, or copy it with VACUUM INTO".into()
        );
    }
    let options = SqliteConnectOptions::new()
        .filename(file)
        .read_only(true)
        .immutable(true)
        .foreign_keys(false)
        .pragma("trusted_schema", "OFF")
        .pragma("query_only", "ON")
        .pragma("cell_size_check", "ON")
        .disable_statement_logging();
    let mut db = options.connect().await.map_err(|_| "the file is not a SQLite database")?;
    for table in ["context_items", "agent_topics", "agent_permissions"] {
        let plain: bool = sqlx::query_scalar(
            // No view, no virtual table, no column that is computed.
            "SELECT EXISTS (SELECT 1 FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND name = ?1)
                AND NOT EXISTS (SELECT 1 FROM pragma_table_xinfo(?1) WHERE hidden <> 0)",
        )
        .bind(table)
        .fetch_one(&mut db)
        .await
        .map_err(|_| "the file is not a SQLite database")?;
        if !plain {
            return Err(
                format!("the file has no plain table `{table}`: it is no Python Syntha database").into()
            );
        }
    }
    Ok(db)
}

async fn skip_all(
    db: &mut SqliteConnection,
    id: Option<&str>,
    why: &'static str,
    report: &mut Report,
) -> Result<()> {
    let rows: i64 =
        sqlx::query_scalar("SELECT count(*) FROM context_items WHERE user_id COLLATE BINARY IS ?")
            .bind(id)
            .fetch_one(db)
            .await?;
    *report.skipped.entry(why).or_default() += rows.unsigned_abs();
    Ok(())
}

async fn user_rows(
    db: &mut SqliteConnection,
    id: Option<&str>,
    session: &Session,
    report: &mut Report,
) -> Result<()> {
    let rows =
        sqlx::query("SELECT agent_name, topics FROM agent_topics WHERE user_id COLLATE BINARY IS ?").bind(id);
    for row in rows.fetch_all(&mut *db).await? {
        match (agent(&row), topics(&row)) {
            (Some(agent), Some(topics)) => drop(session.register_agent_topics(agent, topics).await?),
            _ => report.skip("bad-agent-topics"),
        }
    }
    let rows = sqlx::query(
        "SELECT agent_name, allowed_topics FROM agent_permissions WHERE user_id COLLATE BINARY IS ?",
    )
    .bind(id);
    for row in rows.fetch_all(&mut *db).await? {
        match (agent(&row), topics(&row)) {
            // There an empty list means any topic.
            (Some(agent), Some(topics)) => {
                session.set_post_permissions(agent, Some(topics).filter(|topics| !topics.is_empty())).await?;
            }
            _ => report.skip("bad-permissions"),
        }
    }
    // The newest of several rows of one key comes last and wins.
    let rows = sqlx::query(
        "SELECT key, value, subscribers, ttl, created_at FROM context_items WHERE user_id COLLATE BINARY IS ? ORDER BY created_at, rowid",
    )
    .bind(id)
    .fetch_all(&mut *db)
    .await?;
    let mut items: BTreeMap<EntryKey, Item> = BTreeMap::new();
    for row in rows {
        match item(&row) {
            Ok(item) => {
                if items.insert(item.key.clone(), item).is_some() {
                    report.skip("older-duplicate");
                }
            }
            Err(why) => {
                // The newest row decides, also when it has expired: an older one does not come back.
                if why == "expired"
                    && let Ok(key) = row.try_get::<String, _>("key")
                    && items.remove(key.as_str()).is_some()
                {
                    report.skip("older-duplicate");
                }
                report.skip(why);
            }
        }
    }
    for item in items.into_values() {
        let mut push = session.push(item.key, &item.value).if_version(Expected::Absent);
        if !item.everyone {
            report.routed += 1;
            push = push.restricted().agents(&item.agents);
        }
        if let Some(ttl) = item.ttl {
            push = push.ttl(ttl);
        }
        match push.await {
            Ok(_) => report.imported += 1,
            Err(error) => match error.kind() {
                MeshErrorKind::Conflict => report.already_there += 1,
                MeshErrorKind::LimitExceeded => report.skip("too-large"),
                _ => return Err(error.into()),
            },
        }
    }
    Ok(())
}

fn item(row: &SqliteRow) -> std::result::Result<Item, &'static str> {
    let key: String = row.try_get("key").map_err(|_| "bad-name")?;
    let key = EntryKey::new(key).map_err(|_| "bad-name")?;
    let value: String = row.try_get("value").map_err(|_| "bad-value")?;
    let value = serde_json::from_str(&value).map_err(|_| "bad-value")?;
    let subscribers: Option<String> = row.try_get("subscribers").map_err(|_| "bad-subscribers")?;
    let subscribers: Vec<String> = match subscribers {
        None => Vec::new(),
        Some(text) => serde_json::from_str(&text).map_err(|_| "bad-subscribers")?,
    };
    let everyone = subscribers.is_empty();
    let named = subscribers.iter().filter(|name| *name != NOBODY).map(AgentName::try_from);
    let agents = named.collect::<std::result::Result<_, _>>().map_err(|_| "bad-subscribers")?;
    let ttl: Option<f64> = row.try_get("ttl").map_err(|_| "bad-ttl")?;
    let created: f64 = row.try_get("created_at").map_err(|_| "bad-time")?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let ttl = match ttl.map(|ttl| created + ttl - now) {
        None => None,
        // Thirty thousand years, or the infinity that the package writes, is never.
        Some(left) if left > 1e12 => None,
        Some(left) if left <= 0.0 => return Err("expired"),
        Some(left) => Some(Duration::try_from_secs_f64(left).map_err(|_| "bad-ttl")?),
    };
    Ok(Item { key, value, everyone, agents, ttl })
}

fn agent(row: &SqliteRow) -> Option<AgentName> {
    row.try_get::<String, _>(0).ok().and_then(|name| AgentName::new(name).ok())
}

fn topics(row: &SqliteRow) -> Option<Vec<Topic>> {
    let text: String = row.try_get(1).ok()?;
    let names: Vec<String> = serde_json::from_str(&text).ok()?;
    names.into_iter().map(|name| Topic::new(name).ok()).collect()
}

fn answer(report: &Report) -> Answer {
    let mut lines = vec![format!("imported {} entries of {} users", report.imported, report.users)];
    if report.already_there > 0 {
        lines.push(format!("{} entries were there already and stayed as they are", report.already_there));
    }
    if report.routed > 0 {
        lines.push(format!(
            "{} entries are for named agents: their topics are not in the file, only whom they reached",
            report.routed
        ));
    }
    lines.extend(report.skipped.iter().map(|(why, count)| format!("skipped {count}: {why}")));
    if report.skipped.contains_key("existing-user") {
        lines.push(
            "to add to users who are there already, or to go on after a stop, use --into-existing".into(),
        );
    }
    let value = json!({
        "imported": report.imported, "users": report.users, "already_there": report.already_there,
        "for_named_agents": report.routed, "skipped": report.skipped });
    Answer { lines, value }
}
