//! Writes until it is killed, and says on standard output what was acknowledged. The other half of the suite `loss`.

#![allow(clippy::print_stdout, reason = "standard output is how it acknowledges")]

use std::io::Write;

use syntha::ContextMesh;
use syntha_tests::Ground;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let ground = Ground::parse(&std::env::args().nth(1).ok_or("say where the data is")?);
    let mut manager = None;
    let mesh = match ground {
        Ground::Folder(folder) => ContextMesh::open(folder, "victim").await?,
        Ground::Database(_) => {
            let (users, host) = manager.insert(ground.shared().open().await?);
            ContextMesh::clone(&*users.create_user_session(host, "victim").await?)
        }
    };
    let mut tasks = Vec::new();
    for number in 0..4_u32 {
        let agent = mesh.agent(format!("agent-{number}"))?;
        tasks.push(tokio::spawn(async move {
            let (left, right) = (format!("left-{number}"), format!("right-{number}"));
            let mut next = agent.get::<u64>(&left).await?.unwrap_or(0);
            loop {
                next += 1;
                agent.batch().push(left.as_str(), next).push(right.as_str(), next).commit().await?;
                acknowledge(number, next);
                if next.is_multiple_of(16) {
                    agent.remove(format!("gone-{number}"), None).await?;
                    agent.push(format!("gone-{number}"), next).await?;
                }
            }
            #[allow(unreachable_code, reason = "it names the task's error type")]
            Ok::<(), syntha::Error>(())
        }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(())
}

fn acknowledge(number: u32, value: u64) {
    let mut out = std::io::stdout().lock();
    // The reader may be gone; then so is this process, soon.
    let _ = writeln!(out, "{number} {value}").and_then(|()| out.flush());
}
