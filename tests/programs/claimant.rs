//! One of two processes whose writers race for a user's last place. The other half of the suite `limits`.
//!
//! On standard input come rounds, `ROUND KIND`; for each, fifty tasks push at once, and standard output says `ROUND` and how many got in.

#![allow(clippy::print_stdout, reason = "standard output is how it answers")]

use std::io::BufRead;

use syntha::{HostAuthority, MeshErrorKind, UserManager};
use syntha_tests::Ground;

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const TASKS: usize = 50;
/// How often the folder is opened again that is busy.
const TRIES: u32 = 20;

#[tokio::main]
async fn main() -> Result {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().ok_or("say where the data is, and a name");
    let (ground, name) = (Ground::parse(&next()?), next()?);
    let (users, host) = open(&ground).await?;
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (round, kind) = line.split_once(' ').ok_or("a line is a round and a kind")?;
        let session = users.open(&host, format!("user-{round}")).await?;
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..TASKS {
            let agent = if kind == "agents" { format!("{name}-{task}") } else { "ann".to_owned() };
            let (agent, key) = (session.agent(agent)?, format!("{name}-{task:02}"));
            let topic = (kind == "topics").then(|| format!("{name}-{task}"));
            tasks.spawn(async move {
                loop {
                    let push = agent.push(key.as_str(), "x".repeat(40)).topics(topic.as_deref());
                    match push.await {
                        // On a busy machine: nothing was written.
                        Err(error) if error.kind() == MeshErrorKind::Busy => {
                            tokio::time::sleep(error.retry_after().unwrap_or_default()).await;
                        }
                        pushed => return pushed,
                    }
                }
            });
        }
        let (mut admitted, mut refused) = (0, 0);
        while let Some(pushed) = tasks.join_next().await {
            match pushed? {
                Ok(_) => admitted += 1,
                Err(error) if error.exceeded().is_some_and(|over| over.limit.name() == kind) => refused += 1,
                // Whether it is there, the count of what is stored says.
                Err(error) if error.kind() == MeshErrorKind::Unknown => {}
                Err(error) => return Err(error.into()),
            }
        }
        println!("{round} {admitted} {refused}");
    }
    users.shutdown().await?;
    Ok(())
}

/// Opens the data, also where others are slow to let go of a file.
async fn open(ground: &Ground) -> Result<(UserManager, HostAuthority)> {
    let mut tries = 0;
    loop {
        match ground.shared().open().await {
            Err(error) if error.is_retryable() && tries < TRIES => tries += 1,
            opened => return Ok(opened?),
        }
    }
}
