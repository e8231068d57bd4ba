//! A pooler between here and the server: what it must keep together is asked of it before anything is done through it.
//!
//! A pooler that changes the server's connection between two messages is not only an error now and then. A statement's name, or none, means on each
//! server's connection what was said there last, perhaps by somebody else: the values of one call would meet the text of another one, and
//! `open_user` and `erase_user` both take one tag.

use std::sync::Arc;

use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor, Row};
use syntha_store::{Error, ErrorKind, Result};

use crate::config::Statements;
use crate::connections::Connections;
use crate::error::{Sent, corrupt, from_sqlx, is_lost};
use crate::statement::{Failed, Statement, Told, send};

/// A transaction of the client's.
pub(crate) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";
const COMMIT: &str = "COMMIT";
const ROLLBACK: &str = "ROLLBACK";

/// Sends a statement in a transaction, for which a pooler keeps to one connection of the server. The answer to its end is the acknowledgement: what
/// fails before that is asked for has not happened.
pub(crate) async fn in_transaction(
    connection: &mut PgConnection,
    statement: Statement,
) -> Result<Told, Failed> {
    let undone = |error| Failed { error, answered: false, undone: true };
    connection.execute(BEGIN).await.map_err(undone)?;
    match send(connection, statement, false).await {
        Ok(told) => {
            // INVARIANT: the statement has succeeded, so the server can't answer this with a silent rollback.
            let ended = connection.execute(COMMIT).await;
            ended.map(|_| told).map_err(|error| Failed { error, answered: true, undone: false })
        }
        Err(failed) => {
            if !is_lost(&failed.error) {
                // A connection on which this fails is found not to be clean.
                let _ = connection.execute(ROLLBACK).await;
            }
            Err(undone(failed.error))
        }
    }
}

/// Who of two asks, in turn. A pooler that takes the connection used last gives both the same one; one that takes them in order gives the first
/// asker, who asks twice running, a second one.
const TURNS: [Asker; 9] = {
    use Asker::{One, Other};
    [One, One, Other, One, Other, Other, One, One, Other]
};

#[derive(Clone, Copy)]
enum Asker {
    One,
    Other,
}

const PID: &str = "SELECT pg_backend_pid()";

/// Refuses a pooler that does not keep together what statements of this kind need.
pub(crate) async fn check(connections: &Arc<Connections>, statements: Statements) -> Result<&'static str> {
    let mut one = connections.own().await?;
    keeps_transactions(connections, &mut one).await?;
    if statements != Statements::Pooled {
        let mut other = connections.own().await?;
        let kept = match statements {
            Statements::Kept => keeps_names(&mut one, &mut other).await?,
            _ => keeps_connections(&mut one, &mut other).await?,
        };
        if !kept {
            // What was said under a name stays on the server's connections, whoever has them next.
            for connection in [&mut one, &mut other] {
                let _ = connection.execute("DEALLOCATE ALL").await;
            }
            return Err(lost());
        }
        let _ = other.close().await;
    }
    let _ = one.close().await;
    Ok("a pooler keeps together what belongs together")
}

pub(crate) const fn lost() -> Error {
    Error::new(
        ErrorKind::Refused,
        "a pooler changes the server's connection between two messages: open with Statements::Pooled, or connect directly",
    )
}

/// A transaction has one connection of the server from its beginning to its end.
async fn keeps_transactions(connections: &Arc<Connections>, connection: &mut PgConnection) -> Result<()> {
    if let Err(error) = connection.execute(BEGIN).await {
        // pgbouncer's word for it, when it pools by statement, is also its word for a server that is away. It ends the connection in both cases.
        let violates =
            error.as_database_error().is_some_and(|error| error.code().as_deref() == Some("08P01"));
        if violates {
            let mut other = connections.own().await?;
            pid(&mut other).await?;
            let _ = other.close().await;
            return Err(no_transactions());
        }
        return Err(from_sqlx(&error, Sent::Read));
    }
    let first = pid(connection).await?;
    let same = first == pid(connection).await? && first == pid(connection).await?;
    connection.execute(COMMIT).await.map_err(|error| from_sqlx(&error, Sent::Read))?;
    if same { Ok(()) } else { Err(no_transactions()) }
}

const fn no_transactions() -> Error {
    Error::new(
        ErrorKind::Refused,
        "the pooler takes no transactions: let it pool by transaction or by session",
    )
}

/// Each of the two has a connection of the server for itself.
async fn keeps_connections(one: &mut PgConnection, other: &mut PgConnection) -> Result<bool> {
    let (of_one, of_other) = (pid(one).await?, pid(other).await?);
    for turn in TURNS {
        let same = match turn {
            Asker::One => pid(one).await? == of_one,
            Asker::Other => pid(other).await? == of_other,
        };
        if !same {
            return Ok(false);
        }
    }
    Ok(of_one != of_other)
}

/// A statement that one of the two named is there when it is called, and is not the other's, which the driver gave the same name.
async fn keeps_names(one: &mut PgConnection, other: &mut PgConnection) -> Result<bool> {
    for turn in TURNS {
        let (found, sent) = match turn {
            Asker::One => (number(one, "SELECT 1::bigint").await, 1),
            Asker::Other => (number(other, "SELECT 2::bigint").await, 2),
        };
        match found {
            Ok(number) if number == sent => {}
            Ok(_) => return Ok(false),
            Err(sqlx::Error::Database(error)) if loses_names(error.code().as_deref()) => return Ok(false),
            Err(error) => return Err(from_sqlx(&error, Sent::Read)),
        }
    }
    Ok(true)
}

/// There is no statement of that name, or already one, or it takes other values.
fn loses_names(code: Option<&str>) -> bool {
    matches!(code, Some("26000" | "42P05" | "08P01"))
}

async fn number(connection: &mut PgConnection, text: &'static str) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(text).persistent(true).fetch_one(connection).await
}

async fn pid(connection: &mut PgConnection) -> Result<i32> {
    let row =
        sqlx::raw_sql(PID).fetch_one(connection).await.map_err(|error| from_sqlx(&error, Sent::Read))?;
    row.try_get(0).map_err(|_| corrupt())
}
