//! A folder to work in, whose secrets are looked for in everything that the program says.

use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

pub(crate) struct Place {
    folder: tempfile::TempDir,
    secrets: Vec<String>,
    environment: Vec<(String, String)>,
}

pub(crate) struct Said {
    pub(crate) ok: bool,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), secrets: Vec::new(), environment: Vec::new() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn set(&mut self, variable: &str, value: &str) {
        self.environment.retain(|(known, _)| known != variable);
        self.environment.push((variable.to_owned(), value.to_owned()));
    }

    pub(crate) fn unset(&mut self) {
        self.environment.clear();
    }

    /// A file with a passphrase in its first line.
    pub(crate) fn passphrase(&mut self, name: &str, passphrase: &str) -> String {
        self.secrets.push(passphrase.to_owned());
        let path = self.path(name);
        let mut file = std::fs::File::options();
        let mut file = file.write(true).create(true).truncate(true).mode(0o600).open(path).unwrap();
        file.write_all(format!("{passphrase}\nsecond line\n").as_bytes()).unwrap();
        self.text(name)
    }

    pub(crate) fn keep_secret(&mut self, secret: &str) {
        self.secrets.push(secret.to_owned());
    }

    /// The program in this folder, with what it is given as its input.
    pub(crate) fn run_with(&self, arguments: &[&str], input: &str) -> Said {
        let mut command = Command::new(env!("CARGO_BIN_EXE_syntha"));
        command.env_clear().current_dir(self.folder.path()).args(arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // One that ends without reading has closed it.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        self.heard(arguments, &child.wait_with_output().unwrap())
    }

    fn heard(&self, arguments: &[&str], output: &Output) -> Said {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let said = Said { ok: output.status.success(), out: text(&output.stdout), err: text(&output.stderr) };
        for secret in self.secrets() {
            assert!(
                !said.out.contains(&secret) && !said.err.contains(&secret),
                "{arguments:?} tells a secret"
            );
        }
        said
    }

    /// Passphrases, and the key of each key file that is there.
    fn secrets(&self) -> Vec<String> {
        let mut secrets = self.secrets.clone();
        for entry in std::fs::read_dir(self.folder.path()).unwrap() {
            let path = entry.unwrap().path();
            if let Ok(text) = std::fs::read_to_string(&path)
                && let Some(key) = text.strip_prefix("syntha-key-v1 ")
            {
                secrets.push(key.trim().to_owned());
            }
        }
        secrets
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Said {
        self.run_with(arguments, "")
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        self.json_with(arguments, "")
    }

    pub(crate) fn json_with(&self, arguments: &[&str], input: &str) -> Value {
        let said = self.run_with(&[&["--json"], arguments].concat(), input);
        assert!(said.ok, "{arguments:?}: {}", said.err);
        serde_json::from_str(&said.out).unwrap()
    }

    /// What it says when it refuses.
    pub(crate) fn fails(&self, arguments: &[&str]) -> String {
        self.fails_with(arguments, "")
    }

    pub(crate) fn fails_with(&self, arguments: &[&str], input: &str) -> String {
        let said = self.run_with(arguments, input);
        assert!(!said.ok, "{arguments:?} is not refused: {}", said.out);
        said.err
    }

    pub(crate) fn push(&self, user: &str, key: &str, value: &str) {
        self.json(&["push", "--user", user, "--agent", "a", key, value]);
    }

    pub(crate) fn get(&self, user: &str, key: &str) -> Value {
        self.json(&["get", "--user", user, "--agent", "a", key])["value"].clone()
    }
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    set_mode(to, 0o700);
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}
