//! Writes, backs up, restores, erases and recreates one user until it is killed, and says on standard output what it is about
//! to do (`to`) and what was acknowledged (`now`). The other half of the suite `lives`.

#![allow(clippy::print_stdout, reason = "standard output is how it acknowledges")]

use std::error::Error;
use std::io::{Cursor, Write};

use syntha::sqlite::SqliteConfig;
use syntha::{HostAuthority, UserManager};
use syntha_tests::Ground;

const KEYS: u32 = 40;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let ground = Ground::parse(&arguments.next().ok_or("say where the data is")?);
    let mut number: u64 = arguments.next().ok_or("give a number to start from")?.parse()?;
    let builder = match (&ground, arguments.next().as_deref()) {
        (Ground::Folder(folder), Some("torn")) => {
            let config = SqliteConfig::new(folder).fault(syntha::sqlite::Fault::BatchTorn);
            // A seal refuses what is torn before it can be seen.
            UserManager::builder().sqlite_with(config).plain()
        }
        (ground, _) => ground.alone(),
    };
    let (users, host) = builder.open().await?;
    if users.open(&host, "victim").await.is_err() {
        // Erased, or never made.
        say("to empty");
        users.recreate("victim").await?;
        say("now empty");
    }
    loop {
        number += 1;
        let first = number;
        write(&users, &host, first).await?;
        let mut archive = Vec::new();
        users.backup("victim", &mut archive).await?;
        number += 1;
        write(&users, &host, number).await?;
        say(&format!("to {first}"));
        users.restore("victim", Cursor::new(archive.clone())).await?;
        say(&format!("now {first}"));
        say("to erased");
        users.erase("victim").await?;
        say("now erased");
        say("to empty");
        users.recreate("victim").await?;
        say("now empty");
    }
}

/// All keys with one value, in one batch.
async fn write(users: &UserManager, host: &HostAuthority, number: u64) -> Result<(), Box<dyn Error>> {
    let agent = users.open(host, "victim").await?.agent("writer")?;
    say(&format!("to {number}"));
    (0..KEYS).fold(agent.batch(), |batch, key| batch.push(format!("key-{key}"), number)).commit().await?;
    say(&format!("now {number}"));
    Ok(())
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // The reader may be gone; then so is this process, soon.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
