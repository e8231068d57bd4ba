use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;
use syntha_store::{DeploymentKey, Error, ErrorKind, Result};

/// How users' data is kept apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// A schema for each user. The default.
    #[default]
    Schema,
    /// Shared tables with row-level security.
    Rls,
}

impl Mode {
    /// Its name, as the database keeps it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Schema => "schema",
            Self::Rls => "rls",
        }
    }
}

/// Whether the server keeps the text of a statement for the next time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Statements {
    /// It does: one round trip an operation. The texts are the same for all users and hold nothing of anybody. The default.
    #[default]
    Kept,
    /// It does not: two round trips an operation. Not through a pooler that changes the server's connection in between, which is refused.
    Unnamed,
    /// It does not, and each operation is in a transaction of the client's: four round trips. For poolers that pool by transaction and keep no
    /// statements, as pgbouncer before 1.21.
    Pooled,
}

/// Where and how a [`PostgresStore`](crate::PostgresStore) keeps its data.
#[derive(Clone, Debug)]
#[must_use]
pub struct PostgresConfig {
    url: Secret,
    pub(crate) key: Key,
    pub(crate) mode: Mode,
    pub(crate) connections: u32,
    pub(crate) acquire: Duration,
    pub(crate) statements: Statements,
    notifications: bool,
    listen_url: Option<Secret>,
    #[cfg(feature = "faults")]
    pub(crate) unverified: bool,
    #[cfg(feature = "faults")]
    pub(crate) fault: Option<Fault>,
}

/// What is wrong on purpose in how connections are used.
#[cfg(feature = "faults")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Nobody looks at a connection that is given back.
    ReleasedUnchecked,
    /// A read begins a transaction and leaves it open, and nobody looks at the connection that is given back.
    TransactionLeft,
}

/// A URL may hold a password.
#[derive(Clone)]
pub(crate) struct Secret(pub(crate) Arc<str>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[derive(Clone)]
pub(crate) struct Key(pub(crate) Arc<DeploymentKey>);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

impl PostgresConfig {
    /// A store in the database of a URL, as `postgres://syntha_app@host/database`, with the key that users' tags are derived with. The
    /// role is the application's: it owns nothing.
    pub fn new(url: impl Into<String>, key: DeploymentKey) -> Self {
        Self {
            url: Secret(url.into().into()),
            key: Key(Arc::new(key)),
            mode: Mode::default(),
            connections: 10,
            acquire: Duration::from_secs(10),
            statements: Statements::default(),
            notifications: true,
            listen_url: None,
            #[cfg(feature = "faults")]
            unverified: false,
            #[cfg(feature = "faults")]
            fault: None,
        }
    }

    /// How users' data is kept apart. It must be what the database was [installed](crate::install()) with.
    pub const fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// The most connections, at least 1; 10 if not set.
    pub const fn connections(mut self, connections: u32) -> Self {
        self.connections = if connections == 0 { 1 } else { connections };
        self
    }

    /// How long an operation waits for a connection before it is `Busy`; 10 seconds if not set.
    pub const fn acquire_timeout(mut self, timeout: Duration) -> Self {
        self.acquire = timeout;
        self
    }

    /// Whether the server keeps the texts of statements.
    pub const fn statements(mut self, statements: Statements) -> Self {
        self.statements = statements;
        self
    }

    /// Whether processes tell each other of commits with `NOTIFY`, so that a watch in another process wakes within some hundredths of a second. If
    /// not, each waiter asks the server every 100 ms. On if not set. What is told names no user; a store that waits for nothing doesn't listen.
    pub const fn notifications(mut self, notifications: bool) -> Self {
        self.notifications = notifications;
        self
    }

    /// The URL to listen at, if the store's own leads to a pooler in transaction mode, which takes no `LISTEN`: that of the server itself, with the
    /// same database and role. It is used for one connection.
    pub fn listen_url(mut self, url: impl Into<String>) -> Self {
        self.listen_url = Some(Secret(url.into().into()));
        self
    }

    /// Opens whatever it finds: for databases that were broken on purpose.
    #[cfg(feature = "faults")]
    pub const fn unverified(mut self) -> Self {
        self.unverified = true;
        self
    }

    /// Plants a fault.
    #[cfg(feature = "faults")]
    pub const fn fault(mut self, fault: Fault) -> Self {
        self.fault = Some(fault);
        self
    }

    /// Whether the walls are looked at when it opens.
    #[cfg(feature = "faults")]
    pub(crate) const fn verifies(&self) -> bool {
        !self.unverified
    }

    /// Whether the walls are looked at when it opens.
    #[cfg(not(feature = "faults"))]
    #[allow(clippy::unused_self, reason = "a build with planted faults asks it")]
    pub(crate) const fn verifies(&self) -> bool {
        true
    }

    pub(crate) fn options(&self) -> Result<PgConnectOptions> {
        options(&self.url)
    }

    /// How the listener connects, if there is one.
    pub(crate) fn listen_options(&self) -> Result<Option<PgConnectOptions>> {
        // Behind a pooler that changes connections, a listener would hear nothing.
        let own = (self.statements != Statements::Pooled).then_some(&self.url);
        let url = self.listen_url.as_ref().or(own).filter(|_| self.notifications);
        url.map(options).transpose()
    }
}

/// How every connection is made. Statements hold names and values; nothing of them goes to a log.
pub(crate) fn options(url: &Secret) -> Result<PgConnectOptions> {
    let parsed: Result<PgConnectOptions, sqlx::Error> = url.0.parse();
    // INVARIANT: the parser's own text can hold parts of the URL, so it is not taken over.
    let wrong = |_| {
        Error::new(
            ErrorKind::Invalid,
            "the server's URL is not understood, write postgres://role@host/database",
        )
    };
    let parsed = parsed.map_err(wrong)?;
    // No number with a fraction is ever asked for, and a pooler would refuse the setting.
    Ok(parsed.application_name("syntha").extra_float_digits(None).disable_statement_logging())
}
