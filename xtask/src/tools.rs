//! What the checks need beside a Rust toolchain.

use std::process::{Command, Stdio};

use crate::step::{Result, run};

struct Tool {
    name: &'static str,
    probe: &'static [&'static str],
    install: &'static [&'static str],
}

const TOOLS: &[Tool] = &[
    Tool {
        name: "rustfmt and clippy",
        probe: &["cargo", "clippy", "--version"],
        install: &["rustup", "component", "add", "rustfmt", "clippy"],
    },
    Tool {
        name: "cargo-nextest",
        probe: &["cargo", "nextest", "--version"],
        install: &["cargo", "install", "--locked", "cargo-nextest"],
    },
    Tool {
        // The first Python on the path need not be the system's, and one of them is enough.
        name: "python3 with the package cryptography, for the second implementation of the envelope",
        probe: &[
            "sh",
            "-c",
            "for python in python3 /usr/bin/python3; do $python -c 'import cryptography' && exit; done; exit 1",
        ],
        install: &[
            "sh",
            "-c",
            "(apt-get update && apt-get install -y python3-cryptography) || python3 -m pip install cryptography",
        ],
    },
    Tool {
        name: "PostgreSQL's server, for the tests on it",
        probe: &[
            "sh",
            "-c",
            "command -v initdb || ls /usr/lib/postgresql/*/bin/initdb || ls \"$(pg_config --bindir)/initdb\"",
        ],
        install: &["sh", "-c", "apt-get update && apt-get install -y postgresql"],
    },
    Tool {
        // The package starts a service, which the tests do not use.
        name: "pgbouncer, for the tests behind a pooler",
        probe: &["sh", "-c", "command -v pgbouncer || ls /usr/sbin/pgbouncer"],
        install: &[
            "sh",
            "-c",
            "apt-get update && apt-get install -y pgbouncer && { systemctl disable --now pgbouncer || true; }",
        ],
    },
    #[cfg(target_os = "linux")]
    Tool {
        name: "strace, which records system calls",
        probe: &["strace", "-V"],
        install: &["sh", "-c", "apt-get update && apt-get install -y strace"],
    },
    #[cfg(target_os = "linux")]
    Tool {
        name: "unshare, for a disk of the test's own",
        probe: &["unshare", "--version"],
        install: &["sh", "-c", "apt-get update && apt-get install -y util-linux"],
    },
];

/// Checks that a PostgreSQL server can be started.
pub(crate) fn check_postgres() -> Result {
    match TOOLS.iter().find(|tool| tool.name.starts_with("PostgreSQL")) {
        Some(tool) if !works(tool.probe) => Err(format!(
            "{} is missing: run `{}`, or name a server of your own in SYNTHA_POSTGRES_URL",
            tool.name,
            tool.install.join(" ")
        )
        .into()),
        _ => Ok(()),
    }
}

/// Checks that every tool is there; with `install`, installs what is not.
pub(crate) fn check(install: bool) -> Result {
    for tool in TOOLS {
        if works(tool.probe) {
            continue;
        }
        let how = tool.install.join(" ");
        if !install {
            return Err(
                format!("{} is missing: run `{how}`, or `cargo xtask ci --install`", tool.name).into()
            );
        }
        run(&format!("installing {}", tool.name), &mut command(tool.install)?)?;
    }
    Ok(())
}

fn works(probe: &[&str]) -> bool {
    command(probe).is_ok_and(|mut command| {
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    })
}

fn command(words: &[&str]) -> Result<Command> {
    let (program, arguments) = words.split_first().ok_or("an empty command")?;
    let mut command = Command::new(program);
    command.args(arguments);
    Ok(command)
}
