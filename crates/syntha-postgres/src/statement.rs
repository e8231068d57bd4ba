//! Statements: a text that is the same for all users, its arguments, and what the server tells of one.

use std::pin::Pin;

use futures_core::Stream;
use sqlx::postgres::{PgArguments, PgConnection, PgRow};
use sqlx::query::Query;
use sqlx::{Arguments, Either, Encode, Executor, Postgres, Row, Type};
use syntha_store::Result;

use crate::error::{Sent, corrupt, from_sqlx};

/// What a statement does, for who counts them. A closed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Commit,
    Create,
    Open,
    State,
    Read,
    Scan,
    Changes,
    Fence,
    Erase,
    List,
    Other,
}

impl Kind {
    /// Their names, in their order.
    pub(crate) const NAMES: [&'static str; 11] =
        ["commit", "create", "open", "state", "read", "scan", "changes", "fence", "erase", "list", "other"];
}

/// A statement that gives one row.
#[derive(Clone)]
pub(crate) struct Statement {
    pub(crate) kind: Kind,
    text: &'static str,
    arguments: PgArguments,
    /// Its last column says whether it left the connection clean, see [`call!`].
    proves: bool,
    wrong: bool,
}

/// The text of a call of one of the functions. Its last column is the proof that the function left nothing behind: it is worked out after the
/// function has returned. It is in the same words as [`IS_CLEAN`], but for the transaction's time.
macro_rules! call {
    ($columns:literal, $function:literal) => {
        concat!(
            "SELECT ",
            $columns,
            ", current_user = session_user AND coalesce(current_setting('syntha.user', true), '') = ''
                AND current_setting('search_path') !~ '(^|[ ,])(u_|syntha_rows|pg_temp)' AS o_clean FROM syntha.",
            $function
        )
    };
}
pub(crate) use call;

/// What a connection must say that is not sure: that no transaction is open (its time would be an earlier statement's then), and that no setting
/// of a user's is left. It goes as one message of the simple protocol: in the other one, a statement's time is never its transaction's.
pub(crate) const IS_CLEAN: &str = "SELECT now() = statement_timestamp() AND current_user = session_user
    AND coalesce(current_setting('syntha.user', true), '') = '' AND current_setting('search_path') !~ '(^|[ ,])(u_|syntha_rows|pg_temp)'";

impl Statement {
    /// A call of a function, whose text [`call!`] made.
    pub(crate) fn call(kind: Kind, text: &'static str) -> Self {
        Self { kind, text, arguments: PgArguments::default(), proves: true, wrong: false }
    }

    /// Any other question.
    pub(crate) fn question(text: &'static str) -> Self {
        Self { kind: Kind::Other, text, arguments: PgArguments::default(), proves: false, wrong: false }
    }

    pub(crate) fn bind<'t, T: Encode<'t, Postgres> + Type<Postgres>>(mut self, value: T) -> Self {
        self.wrong |= self.arguments.add(value).is_err();
        self
    }

    fn query(self, keep: bool) -> Query<'static, Postgres, PgArguments> {
        sqlx::query_with(self.text, self.arguments).persistent(keep)
    }
}

/// An answer.
pub(crate) struct Told {
    pub(crate) row: PgRow,
    /// The connection is known to be clean.
    pub(crate) clean: bool,
}

/// No answer.
pub(crate) struct Failed {
    pub(crate) error: sqlx::Error,
    /// The row came, and then something else than the end.
    pub(crate) answered: bool,
    /// It was in a transaction whose end nobody has asked for: it has not happened.
    pub(crate) undone: bool,
}

impl Failed {
    /// What can have become of what was sent.
    pub(crate) const fn sent(&self, sent: Sent) -> Sent {
        if self.undone { Sent::Read } else { sent }
    }

    /// Whether the statement certainly changed nothing, or may be said twice, and another connection can be tried.
    pub(crate) fn may_repeat(&self, sent: Sent) -> bool {
        match (&self.error, self.sent(sent)) {
            (error, Sent::Read) => crate::error::is_lost(error),
            // The last bytes of what was sent are those that the server commits at. They found nobody.
            (sqlx::Error::Io(error), Sent::Write) => error.kind() == std::io::ErrorKind::BrokenPipe,
            // The server's last word was before the row, and it commits after the row: so the statement had not ended.
            (sqlx::Error::Database(error), Sent::Write) => {
                error.code().as_deref() == Some("57P01") && !self.answered
            }
            _ => false,
        }
    }
}

/// Sends a statement and reads its answer to the end.
pub(crate) async fn send(
    connection: &mut PgConnection,
    statement: Statement,
    keep: bool,
) -> Result<Told, Failed> {
    let proves = statement.proves;
    if statement.wrong {
        return Err(Failed {
            error: sqlx::Error::Encode("an argument is too long".into()),
            answered: false,
            undone: false,
        });
    }
    let mut row: Option<PgRow> = None;
    let mut answer = connection.fetch_many(statement.query(keep));
    loop {
        match std::future::poll_fn(|cx| Pin::new(&mut answer).poll_next(cx)).await {
            Some(Ok(Either::Right(next))) if row.is_none() => row = Some(next),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(Failed { error, answered: row.is_some(), undone: false }),
            None => break,
        }
    }
    let Some(row) = row else {
        return Err(Failed { error: sqlx::Error::RowNotFound, answered: false, undone: false });
    };
    let proof = row.len().checked_sub(1).filter(|_| proves).map(|last| row.try_get::<bool, _>(last));
    let clean = matches!(proof, Some(Ok(true)));
    Ok(Told { row, clean })
}

/// Runs a statement that gives one row, on a connection of one's own.
pub(crate) async fn one(connection: &mut PgConnection, statement: Statement, sent: Sent) -> Result<PgRow> {
    match send(connection, statement, false).await {
        Ok(told) => Ok(told.row),
        Err(Failed { error: sqlx::Error::RowNotFound, .. }) => Err(corrupt()),
        Err(failed) => Err(from_sqlx(&failed.error, sent)),
    }
}
