//! The virtual environment that the peers live in.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::Result;
use super::account::Account;

const REQUIREMENTS: &str = include_str!("../../peers/requirements.txt");
/// The distribution's first: one that a version manager keeps in a home is often closed to other accounts.
const INTERPRETERS: &[&str] = &["/usr/bin/python3", "/usr/local/bin/python3"];
const PROBE: &str = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))";
const INSTALL: &str = "apt-get update && apt-get install -y python3 python3-venv util-linux strace";

/// Makes the environment if it isn't there with these very requirements, and gives its interpreter.
pub(crate) fn ready(account: &Account, folder: &Path, install: bool) -> Result<PathBuf> {
    if install {
        println!("installing Python, setpriv and strace");
        run(&["sh", "-c", INSTALL])?;
    }
    let python = folder.join("venv/bin/python");
    let stamp = folder.join("venv/requirements.txt");
    if std::fs::read_to_string(&stamp).is_ok_and(|text| text == REQUIREMENTS) {
        println!("the virtual environment in {} is there", folder.display());
    } else {
        make(account, folder)?;
        std::fs::write(&stamp, REQUIREMENTS)?;
    }
    account.output(&[text(&python), "-c".into(), "import areev, langgraph, syntha".into()]).map_err(
        |error| {
            format!(
                "{error}\nthe account must be able to read {}: work in a folder that others may enter, or set CARGO_TARGET_DIR",
                folder.display()
            )
        },
    )?;
    Ok(python)
}

fn make(account: &Account, folder: &Path) -> Result {
    let base = interpreter(account)?;
    println!("making a virtual environment of {base} in {}", folder.display());
    std::fs::create_dir_all(folder)?;
    let venv = text(&folder.join("venv"));
    let requirements = text(&account.add_program("requirements.txt", REQUIREMENTS.as_bytes())?);
    run(&[base, "-m", "venv", "--clear", &venv])?;
    let pip = format!("{venv}/bin/pip");
    // Wheels alone: no package's own code runs while it is installed.
    run(&[&pip, "install", "--quiet", "--only-binary", ":all:", "--no-deps", "--requirement", &requirements])
}

fn interpreter(account: &Account) -> Result<&'static str> {
    for path in INTERPRETERS {
        if account.output(&[(*path).into(), "-c".into(), PROBE.into()]).is_ok() {
            return Ok(path);
        }
    }
    Err(format!(
        "no Python from 3.10 on with venv that {} can run (looked at {}; as root this needs setpriv too): run `{INSTALL}`, or add --install",
        account.name(),
        INTERPRETERS.join(", ")
    )
    .into())
}

/// Runs a command whose files others may read, whatever the caller's mask is.
fn run(words: &[&str]) -> Result {
    let status = Command::new("sh").args(["-c", "umask 022; exec \"$@\"", "sh"]).args(words).status()?;
    if status.success() { Ok(()) } else { Err(format!("`{}` failed ({status})", words.join(" ")).into()) }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
