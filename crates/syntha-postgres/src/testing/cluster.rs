//! The server's programs: a cluster in a temporary folder, run by an account without rights.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::Arc;

use syntha_store::Result;

use super::failed;

/// How a server is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Open transactions are rolled back, connections ended.
    Fast,
    /// As by `kill -9`: nothing is written any more, and the next start recovers.
    Immediate,
}

impl Stop {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Immediate => "immediate",
        }
    }
}

/// A cluster that was made, and its server.
#[derive(Clone, Debug)]
pub(super) struct Cluster {
    place: Place,
    held: Arc<Held>,
}

/// Where the programs are, and where they work.
#[derive(Clone, Debug)]
struct Place {
    programs: PathBuf,
    folder: PathBuf,
    /// The size of a disk of its own, in MiB.
    disk: Option<u32>,
}

/// What keeps the server running: when the process ends, however that comes, it is let go of.
#[derive(Debug)]
enum Held {
    /// The other end stops the server when this one is closed.
    Alone(#[allow(dead_code, reason = "it is held, never read")] ChildStdin),
    /// A lock shared by the processes of a run. Their server is stopped when nobody has held it for a while.
    Shared(#[allow(dead_code, reason = "it is held, never read")] File),
}

/// The account that runs the server when the tests run as root: `nobody`, by number.
const NOBODY: u32 = 65_534;

/// Waits for the end of the process that started it.
const WATCH_PROCESS: &str = "read line; \"$0\" -D data -m immediate stop; cd /; rm -rf \"$1\"";
/// Waits until no process of the run has used the server for ten seconds.
const WATCH_RUN: &str = "idle=0; while [ $idle -lt 10 ]; do sleep 1; if flock -n -x users true; then idle=$((idle+1)); else idle=0; fi; done; \
    rm -f url; \"$0\" -D data -m immediate stop; cd /; rm -rf \"$1\"";

/// A small file system in memory that the server alone sees: the mount goes with its namespace. As root, and as somebody who is root in a
/// namespace only, where the server, which refuses root, gets a number of its own.
const ON_DISK_AS_ROOT: &str = "mount -t tmpfs -o size=$1m,mode=700,uid=65534,gid=65534 syntha disk && shift && \
    exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$@\"";
const ON_DISK: &str = "mount -t tmpfs -o size=$1m,mode=700 syntha disk && shift && \
    exec unshare --user --map-user=1000 --map-group=1000 \"$@\"";

impl Cluster {
    /// The cluster of the run of tests, or of this process where a run has no name.
    pub(super) fn of_the_run() -> Result<Self> {
        match std::env::var("NEXTEST_RUN_ID") {
            Ok(run) if Path::new("/usr/bin/flock").is_file() => {
                let run: String = run.chars().filter(char::is_ascii_alphanumeric).take(16).collect();
                Self::shared(PathBuf::from(format!("/tmp/sy-{run}")))
            }
            _ => Self::own(&[], None),
        }
    }

    /// A cluster of this process, with settings of its own, and a small disk in the folder `disk`.
    pub(super) fn own(settings: &[String], disk: Option<u32>) -> Result<Self> {
        let place = Place { programs: programs()?, folder: fresh_folder()?, disk };
        let held = Arc::new(Held::Alone(place.start(WATCH_PROCESS, settings)?));
        Ok(Self { place, held })
    }

    fn shared(folder: PathBuf) -> Result<Self> {
        let unmade = |error| failed("the folder of the run's server can't be made").with_source(error);
        std::fs::create_dir_all(&folder).map_err(unmade)?;
        // The server trusts whoever reaches its socket.
        std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o700)).map_err(unmade)?;
        let starting = locked(&folder.join("starting"))?;
        let users = File::options().create(true).append(true).open(folder.join("users")).map_err(unmade)?;
        users.lock_shared().map_err(unmade)?;
        let place = Place { programs: programs()?, folder, disk: None };
        let there = place.folder.join("url");
        if !there.is_file() {
            place.start(WATCH_RUN, &[])?;
            std::fs::write(&there, place.url()).map_err(unmade)?;
        }
        drop(starting);
        Ok(Self { place, held: Arc::new(Held::Shared(users)) })
    }

    /// With `%` in the place of the database.
    pub(super) fn url(&self) -> String {
        self.place.url()
    }

    pub(super) fn folder(&self) -> &Path {
        &self.place.folder
    }

    pub(super) fn disk(&self) -> PathBuf {
        self.place.folder.join("disk")
    }

    /// Where processes that share the cluster take turns; none if it is this process's alone.
    pub(super) fn lock_of_templates(&self) -> Option<PathBuf> {
        matches!(*self.held, Held::Shared(_)).then(|| self.place.folder.join("making"))
    }

    /// Stops or starts the server.
    pub(super) fn control(&self, words: &[&str]) -> Result<()> {
        if matches!(*self.held, Held::Shared(_)) {
            return Err(failed("other tests use this server: take one of your own"));
        }
        let mut command = self.place.command(&self.place.programs.join("pg_ctl"));
        run(
            command.args(["-D", "data", "-l", "log", "-w"]).args(words),
            "pg_ctl failed, see the server's log",
        )
    }

    pub(super) fn log(&self) -> Result<String> {
        let log = std::fs::read(self.place.folder.join("log"));
        let log = log.map_err(|error| failed("the server's log can't be read").with_source(error))?;
        Ok(String::from_utf8_lossy(&log).into_owned())
    }
}

impl Place {
    fn url(&self) -> String {
        format!("postgres://postgres@localhost/%?host={}", self.folder.display())
    }

    /// A program, as the account without rights.
    fn command(&self, program: &Path) -> Command {
        unprivileged(program, &self.folder)
    }

    /// Makes the cluster, and starts its server and who stops it.
    fn start(&self, watch: &str, settings: &[String]) -> Result<ChildStdin> {
        give_away(&self.folder)?;
        let pg_ctl = self.programs.join("pg_ctl");
        let held = start_watch(&self.folder, watch, &pg_ctl)?;
        run(
            self.command(&self.programs.join("initdb")).args([
                "-D",
                "data",
                "-U",
                "postgres",
                "--auth=trust",
                "--no-sync",
                "--encoding=UTF8",
                "--locale=C",
            ]),
            "initdb failed",
        )?;
        self.configure(settings)?;
        let words = ["-D", "data", "-l", "log", "-w", "start"];
        match self.disk {
            None => run(self.command(&pg_ctl).args(words), "pg_ctl could not start the server")?,
            Some(mib) => {
                self.make_disk()?;
                let failure = "no disk of its own: it needs util-linux, and root or user namespaces (sysctl user.max_user_namespaces)";
                run(on_disk(&self.folder).arg(mib.to_string()).arg(&pg_ctl).args(words), failure)?;
            }
        }
        Ok(held)
    }

    fn configure(&self, settings: &[String]) -> Result<()> {
        let failed = |error| failed("the server's configuration can't be written").with_source(error);
        let path = self.folder.join("data/postgresql.conf");
        let mut file = File::options().append(true).open(path).map_err(failed)?;
        let fsync = if std::env::var_os("SYNTHA_POSTGRES_FSYNC").is_some() { "on" } else { "off" };
        let folder = self.folder.display();
        let mut text = format!(
            "unix_socket_directories='{folder}'\nlisten_addresses=''\nfsync={fsync}\nmax_connections=200\nshared_buffers=32MB\nlog_parameter_max_length=0\n"
        );
        for setting in settings {
            text.push_str(setting);
            text.push('\n');
        }
        file.write_all(text.as_bytes()).map_err(failed)
    }

    fn make_disk(&self) -> Result<()> {
        let disk = self.folder.join("disk");
        std::fs::create_dir(&disk)
            .map_err(|error| failed("no folder can be made for the disk").with_source(error))
    }
}

/// What mounts the disk and runs what follows without rights.
fn on_disk(folder: &Path) -> Command {
    let mut command = Command::new("unshare");
    quiet(&mut command, folder);
    if is_root() {
        command.args(["--mount", "sh", "-c", ON_DISK_AS_ROOT, "sh"]);
    } else {
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", ON_DISK, "sh"]);
    }
    command
}

/// A folder in `/tmp`: a socket's path has at most 107 bytes, so it is not where a long TMPDIR says.
pub(super) fn fresh_folder() -> Result<PathBuf> {
    let made = tempfile::Builder::new().prefix("sy-").tempdir_in("/tmp");
    Ok(made.map_err(|error| failed("no folder can be made in /tmp").with_source(error))?.keep())
}

/// Makes a folder the unprivileged account's, where there is one.
pub(super) fn give_away(folder: &Path) -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    std::os::unix::fs::chown(folder, Some(NOBODY), Some(NOBODY))
        .map_err(|error| failed("a folder of the tests' servers can't be given away").with_source(error))
}

/// A program that works in a folder, without rights, and says nothing.
pub(super) fn unprivileged(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    quiet(&mut command, folder);
    if is_root() {
        command.gid(NOBODY).uid(NOBODY);
    }
    command
}

fn quiet(command: &mut Command, folder: &Path) {
    command.current_dir(folder).env_clear().env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").env("LC_ALL", "C");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
}

/// A shell that runs a text with a program and the folder as its arguments, and whose input ends with this process.
pub(super) fn start_watch(folder: &Path, text: &str, program: &Path) -> Result<ChildStdin> {
    // A process group of its own: what ends the tests' group does not end who cleans up after them.
    let mut watch = unprivileged(Path::new("/bin/sh"), folder)
        .args(["-c", text])
        .arg(program)
        .arg(folder)
        .stdin(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|error| failed("the watcher of a server can't be started").with_source(error))?;
    watch.stdin.take().ok_or_else(|| failed("the watcher of a server has no input"))
}

fn run(command: &mut Command, text: &'static str) -> Result<()> {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err(failed(text)),
        Err(error) => Err(failed(text).with_source(error)),
    }
}

/// A file that this process has alone until it is dropped.
pub(super) fn locked(path: &Path) -> Result<File> {
    let failed = |error| failed("a lock of the tests' server can't be taken").with_source(error);
    let file = File::options().create(true).append(true).open(path).map_err(failed)?;
    file.lock().map_err(failed)?;
    Ok(file)
}

/// The folder of the server's programs.
fn programs() -> Result<PathBuf> {
    let has_both = |folder: &Path| folder.join("initdb").is_file() && folder.join("postgres").is_file();
    let mut folders = search_path();
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output() {
        folders.push(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    }
    if let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql") {
        let mut versions: Vec<_> = versions.flatten().map(|entry| entry.path().join("bin")).collect();
        versions.sort();
        folders.extend(versions.into_iter().rev());
    }
    folders.into_iter().find(|folder| has_both(folder)).ok_or_else(|| {
        failed(
            "there is no PostgreSQL server here: install it (Debian: apt-get install postgresql), or set SYNTHA_POSTGRES_URL",
        )
    })
}

/// The folders of `PATH`.
pub(super) fn search_path() -> Vec<PathBuf> {
    std::env::var_os("PATH").iter().flat_map(std::env::split_paths).collect()
}

/// Whether the process is root's.
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|about| about.uid() == 0)
}
