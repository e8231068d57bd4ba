//! pgbouncer before the tests' server, on a socket in a temporary folder.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ChildStdin;
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnectOptions;
use syntha_store::Result;

use super::cluster::{fresh_folder, give_away, search_path, start_watch};
use super::failed;

/// For how long a client has a server's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// As long as it is connected.
    Session,
    /// For a transaction.
    Transaction,
    /// For a statement.
    Statement,
}

/// A pgbouncer that runs. It stops when it is dropped, or the process ends.
#[derive(Debug)]
pub struct TestPooler {
    folder: PathBuf,
    #[allow(dead_code, reason = "it is held, never read")]
    held: ChildStdin,
}

/// Starts it, waits for the end of who holds the other end, and cleans up.
const WATCH: &str = "\"$0\" -q pgbouncer.ini & read line; kill $!; wait; cd /; rm -rf \"$1\"";
/// The time that it has to be there.
const PATIENCE: Duration = Duration::from_secs(10);

impl TestPooler {
    pub(super) fn start(server: &PgConnectOptions, pooling: Pooling, servers: u32) -> Result<Self> {
        let program = program()?;
        let folder = fresh_folder()?;
        let unmade = |error| failed("pgbouncer's configuration can't be written").with_source(error);
        std::fs::write(folder.join("pgbouncer.ini"), configuration(&folder, server, pooling, servers))
            .map_err(unmade)?;
        std::fs::write(folder.join("users"), "\"syntha_app\" \"\"\n\"syntha_owner\" \"\"\n")
            .map_err(unmade)?;
        give_away(&folder)?;
        let held = start_watch(&folder, WATCH, &program)?;
        let pooler = Self { folder, held };
        pooler.wait()?;
        Ok(pooler)
    }

    /// The URL for a role in a database.
    #[must_use]
    pub fn url(&self, role: &str, database: &str) -> String {
        format!("postgres://{role}@localhost:6432/{database}?host={}", self.folder.display())
    }

    /// Until somebody answers at its socket.
    fn wait(&self) -> Result<()> {
        let (socket, start) = (self.folder.join(".s.PGSQL.6432"), Instant::now());
        while UnixStream::connect(&socket).is_err() {
            if start.elapsed() > PATIENCE {
                return Err(failed("pgbouncer did not start"));
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        Ok(())
    }
}

fn configuration(folder: &Path, server: &PgConnectOptions, pooling: Pooling, servers: u32) -> String {
    let mode = match pooling {
        Pooling::Session => "session",
        Pooling::Transaction => "transaction",
        Pooling::Statement => "statement",
    };
    let socket = server.get_socket().map(|path| path.display().to_string());
    let host = socket.unwrap_or_else(|| server.get_host().to_owned());
    format!(
        "[databases]\n* = host={host} port={}\n[pgbouncer]\nlisten_addr =\nlisten_port = 6432\nunix_socket_dir = {folder}\n\
         auth_type = trust\nauth_file = {folder}/users\nlogfile = {folder}/log\npool_mode = {mode}\ndefault_pool_size = {servers}\n\
         max_client_conn = 500\nserver_idle_timeout = 20\nquery_wait_timeout = 30\n",
        server.get_port(),
        folder = folder.display(),
    )
}

fn program() -> Result<PathBuf> {
    let mut folders = search_path();
    folders.extend(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders.into_iter().map(|folder| folder.join("pgbouncer")).find(|program| program.is_file()).ok_or_else(|| {
        failed("there is no pgbouncer here: install it (Debian: apt-get install pgbouncer, and stop the service that it starts)")
    })
}
