//! An application, in memory and, with the default features, on SQLite.

use syntha::{Role, ToolHandler, UserManager};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    #[cfg(feature = "default")]
    let builder = UserManager::builder().sqlite(std::env::args().nth(1).ok_or("name a folder")?);
    #[cfg(not(feature = "default"))]
    let builder = UserManager::builder().memory();
    let (users, host) = builder.open().await?;
    let session = users.create_user_session(&host, "alice").await?;
    let agent = session.agent("Assistant")?;
    agent.push("plan", "ship").await?;
    assert_eq!(agent.get::<String>("plan").await?.as_deref(), Some("ship"));
    assert!(!ToolHandler::new(&agent, Role::Readonly).available_tools().is_empty());
    users.shutdown().await?;
    Ok(())
}
