//! Logins over several processes: what one revokes, the others refuse within a second.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and prints its row of evidence"
)]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use syntha::postgres::Mode;
use syntha::{Scopes, Secret, TokenRequest};
use syntha_tests::{Ground, Server, modes};

/// A process that uses a token.
struct Holder {
    child: Child,
    says: BufReader<ChildStdout>,
}

impl Holder {
    fn start(ground: &Ground, token: &Secret) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_syntha-token-holder"))
            .arg(ground.argument())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        writeln!(child.stdin.take().unwrap(), "{}", token.expose()).unwrap();
        let says = BufReader::new(child.stdout.take().unwrap());
        Self { child, says }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.says.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}

fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_in_one_process_ends_what_others_hold_within_a_second() {
    let folder = tempfile::tempdir().unwrap();
    let longest = run(&Ground::Folder(folder.path().join("data"))).await;
    println!("evidence: 4 ways to revoke, what another process held ended at most {longest} ms after it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_on_postgres_ends_what_other_processes_hold_within_a_second() {
    for mode in modes(Mode::Rls) {
        let server = Server::start(mode, |builder| builder).await;
        let longest = run(&server.ground()).await;
        println!(
            "evidence: PostgreSQL ({mode:?}), 4 ways to revoke, what another process held ended at most {longest} ms after it"
        );
    }
}

/// Says how long it took at most, in milliseconds.
async fn run(ground: &Ground) -> u128 {
    let (users, _host) = ground.shared().open().await.unwrap();
    let accounts = users.accounts();
    let mut longest = 0;
    for (round, way) in ["token", "all", "suspend", "erase"].into_iter().enumerate() {
        let user = format!("user-{round}");
        accounts.create(user.as_str(), Scopes::ALL).await.unwrap();
        let (token, info) =
            accounts.create_token(user.as_str(), &TokenRequest::new(Scopes::ALL)).await.unwrap();
        let mut holder = Holder::start(ground, &token);
        assert_eq!(holder.line(), "in");
        match way {
            "token" => accounts.revoke_token(user.as_str(), info.id).await.unwrap(),
            "all" => accounts.revoke_all(user.as_str()).await.unwrap(),
            "suspend" => accounts.suspend(user.as_str()).await.unwrap(),
            _ => drop(users.erase(user.as_str()).await.unwrap()),
        }
        let revoked = now();
        let line = holder.line();
        let (last, _) = line.split_once(' ').unwrap_or_else(|| panic!("{way}: {line:?}"));
        let after = last.parse::<u128>().unwrap().saturating_sub(revoked);
        assert!(after <= 1_000, "{way}: it held {after} ms longer");
        assert_eq!(holder.line(), "out", "{way}");
        longest = longest.max(after);
    }
    users.shutdown().await.unwrap();
    longest
}
