//! A service with many users: the second sample of Syntha's specification.

use serde_json::json;
use syntha::UserManager;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "data".to_owned());
    let (users, host) = UserManager::builder().sqlite(folder).open().await?;
    // `host` is the proof that this process has authenticated the user.
    let session = users.create_user_session(&host, "user123").await?;
    session.agent("Researcher")?.push("report", json!({ "pages": 12 })).await?;
    let report = session.agent("Writer")?.get::<serde_json::Value>("report").await?;
    assert_eq!(report, Some(json!({ "pages": 12 })));
    users.shutdown().await?;
    Ok(())
}
