//! Someone who runs the storage alone, where no server is.

use syntha_postgres::syntha_store::{DeploymentKey, ErrorKind};
use syntha_postgres::{Mode, PostgresConfig, PostgresStore};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).ok_or("name a folder")?;
    let key = DeploymentKey::generate()?;
    for (url, expected) in [
        ("no url".to_owned(), ErrorKind::Invalid),
        (format!("postgres://app@localhost/syntha?host={folder}"), ErrorKind::Unavailable),
    ] {
        let config = PostgresConfig::new(url, key.clone()).mode(Mode::Rls);
        let error = PostgresStore::open(config).await.err().ok_or("there is no server, and it opened")?;
        assert_eq!(error.kind(), expected, "{error}");
    }
    Ok(())
}
