//! The account and the folder in which peers run: never root, and nothing that matters in reach.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::Result;

/// The number that Linux distributions give to nobody.
const NOBODY: u32 = 65534;
/// Seconds, more than any round takes, so that a program that hangs ends.
const LIMIT_S: &str = "600";
const HOME: &str = "home";

/// A fresh folder, and how a program is run that may write there alone.
pub(crate) struct Account {
    folder: TempDir,
    drops: bool,
}

impl Account {
    pub(crate) fn new() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("syntha-peers-").tempdir()?;
        // The account owns folders within alone, so that it can't put anything in the way of what this process writes.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
        let account = Self { drops: folder.path().metadata()?.uid() == 0, folder };
        account.make_folder(HOME)?;
        Ok(account)
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A folder within, of the account.
    pub(crate) fn make_folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.path().join(name);
        std::fs::create_dir(&path)?;
        self.give(&path)?;
        Ok(path)
    }

    /// Puts a program into the folder, that the account may read and run but not change.
    pub(crate) fn add_program(&self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        let path = self.path().join(name);
        std::fs::write(&path, bytes)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        Ok(path)
    }

    fn give(&self, path: &Path) -> Result {
        if self.drops {
            chown(path, Some(NOBODY), Some(NOBODY))?;
        }
        Ok(())
    }

    /// What the account is, for the report.
    pub(crate) fn name(&self) -> String {
        if self.drops { format!("account {NOBODY}") } else { "the caller's account, not root".into() }
    }

    /// Runs a program as the account, with nothing of this process's environment, and gives what it printed.
    pub(crate) fn output(&self, words: &[String]) -> Result<String> {
        let id = NOBODY.to_string();
        let mut command = Command::new("timeout");
        command.args(["--kill-after=5", LIMIT_S]);
        if self.drops {
            command.args([
                "setpriv",
                "--reuid",
                &id,
                "--regid",
                &id,
                "--clear-groups",
                "--no-new-privs",
                "--",
            ]);
        }
        let home = self.path().join(HOME);
        command.args(words).current_dir(&home).stdin(Stdio::null());
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LANG", "C.UTF-8");
        command.env("HOME", &home).env("TMPDIR", &home);
        let output = command.output().map_err(|error| format!("can't start `timeout`: {error}"))?;
        if output.status.code() == Some(124) {
            return Err(format!("`{}` took longer than {LIMIT_S} s", words.join(" ")).into());
        }
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            return Err(format!("`{}` failed ({}): {}", words.join(" "), output.status, text.trim()).into());
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}
