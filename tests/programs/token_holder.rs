//! Uses an access token in a process of its own until it holds no more. The other half of the suite `logins`.
//!
//! On standard output it says that it is in, and then when, in milliseconds since the Unix epoch, it last did something and when it was refused.

#![allow(clippy::print_stdout, reason = "standard output is how it tells what happened")]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use syntha::{MeshErrorKind, Secret};
use syntha_tests::Ground;

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn now() -> Result<u128> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())
}

#[tokio::main]
async fn main() -> Result {
    let mut arguments = std::env::args().skip(1);
    let ground = Ground::parse(&arguments.next().ok_or("say where the data is")?);
    let mut token = String::new();
    std::io::stdin().read_line(&mut token)?;
    let (users, _host) = ground.shared().open().await?;
    let session = users.enter(&Secret::parse(token.trim_end())?).await?;
    let agent = session.agent("holder")?;
    agent.push("k", 1).await?;
    println!("in");
    let mut last = now()?;
    let until = last + 60_000;
    let refused = loop {
        let at = now()?;
        match agent.get::<u8>("k").await {
            Ok(_) => last = at,
            Err(error) if matches!(error.kind(), MeshErrorKind::SessionEnded | MeshErrorKind::Gone) => {
                break now()?;
            }
            // Nobody could say for a while whether it holds.
            Err(error) if error.kind() == MeshErrorKind::Busy => {}
            // It ended in the middle of this call, which was refused: the next one says why.
            Err(error) if error.kind() == MeshErrorKind::Denied => {}
            Err(error) => return Err(error.into()),
        }
        if at > until {
            return Err("it still holds".into());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    println!("{last} {refused}");
    let again = users.enter(&Secret::parse(token.trim_end())?).await;
    println!("{}", if again.is_err() { "out" } else { "in" });
    users.shutdown().await?;
    Ok(())
}
