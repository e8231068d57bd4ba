//! Pushes one value after the other and says on standard output what was acknowledged. The suites `syncs` and `disk_full` watch it.

#![allow(clippy::print_stdout, reason = "standard output is how it acknowledges")]

use std::error::Error;
use std::io::Write;

use syntha::UserManager;
use syntha::sqlite::{Fault, SqliteConfig, Synchronous};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let config = SqliteConfig::new(arguments.next().ok_or("give a data folder")?);
    let config = match arguments.next().as_deref() {
        Some("full") => config,
        Some("normal") => config.synchronous(Synchronous::Normal),
        Some("skipped") => config.fault(Fault::SyncSkipped),
        _ => return Err("give full, normal or skipped".into()),
    };
    let count: u32 = arguments.next().ok_or("give a number of pushes")?.parse()?;
    let bytes: usize = arguments.next().ok_or("give the bytes of a value")?.parse()?;
    // What the trail's log writes beside would be counted for what is acknowledged.
    let (users, host) = UserManager::builder().sqlite_with(config).no_audit().open().await?;
    let session = users.create_user_session(&host, "writer").await?;
    let agent = session.agent("agent")?;
    for number in 0..count {
        match agent.push(format!("key-{number}"), "x".repeat(bytes)).await {
            Ok(_) => println!("ack {number}"),
            Err(error) => {
                println!("refused {number}: {error}");
                break;
            }
        }
        std::io::stdout().flush()?;
    }
    // What was acknowledged is readable, and goes on to be written once there is room.
    let found = session.entries(&syntha::Filter::new()).await?.len();
    println!("found {found}");
    if let Some(ballast) = arguments.next() {
        std::fs::remove_file(ballast)?;
    }
    agent.push("last", "x".repeat(bytes)).await?;
    println!("last written");
    users.shutdown().await?;
    Ok(())
}
