//! Writes until it is killed, and says on standard output what was acknowledged. The other half of the suite `kills`.

#![allow(clippy::print_stdout, reason = "standard output is how it acknowledges")]

use std::io::Write;

use syntha_postgres::syntha_store::{DeploymentKey, Keyspace, Store, UserId};
use syntha_postgres::{Mode, PostgresConfig, PostgresStore, Statements};
use syntha_postgres_tests::{id, pair};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Result {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().ok_or("give a URL")?;
    let mode = if arguments.next().as_deref() == Some("rls") { Mode::Rls } else { Mode::Schema };
    let statements =
        if arguments.next().as_deref() == Some("pooled") { Statements::Pooled } else { Statements::Kept };
    let config =
        PostgresConfig::new(url, DeploymentKey::from_bytes([7; 32])).mode(mode).statements(statements);
    let store = std::sync::Arc::new(PostgresStore::open(config.connections(3)).await?);
    let mut tasks = Vec::new();
    for number in 0..4_u32 {
        let store = std::sync::Arc::clone(&store);
        tasks.push(tokio::spawn(async move { write(&store, number).await }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(())
}

async fn write(store: &PostgresStore, number: u32) -> Result {
    let name = format!("user-{number}");
    let user = store.open(store.deployment_key().tag(&UserId::new(&name)?)).await?;
    let read = user.read(Keyspace::Context, &[id("left")]).await?.value;
    let last = read
        .first()
        .and_then(Option::as_ref)
        .and_then(|record| std::str::from_utf8(&record.body).ok()?.rsplit_once(':')?.1.parse::<u64>().ok());
    let mut next = last.unwrap_or(0);
    loop {
        next += 1;
        user.commit(pair(&name, next)).await?;
        let mut out = std::io::stdout().lock();
        // The reader may be gone; then so is this process, soon.
        let _ = writeln!(out, "{number} {next}").and_then(|()| out.flush());
    }
}
