//! The inventory of what is stored: every column of a fresh file is in it, and the page that publishes it says the same.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use sqlx::ConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;
use syntha::UserManager;
use syntha_encryption::inventory::{AROUND, LINK, PARTS, Part, PartRow, RECORD, Row, USER};

/// The tables and columns of a file.
async fn columns(file: &Path) -> Vec<(String, String)> {
    let mut db = SqliteConnectOptions::new().filename(file).read_only(true).connect().await.unwrap();
    sqlx::query_as(
        "SELECT m.name, c.name FROM sqlite_schema AS m JOIN pragma_table_info(m.name) AS c
         WHERE m.type = 'table' ORDER BY m.name, c.cid",
    )
    .fetch_all(&mut db)
    .await
    .unwrap()
}

/// What the inventory says that a file has.
fn known() -> Vec<(String, String)> {
    let of = |table: &'static str, rows: &'static [Row]| {
        rows.iter().map(move |row| (table.to_owned(), row.what.to_owned()))
    };
    of("link", LINK).chain(of("record", RECORD)).chain(of("user", USER)).collect()
}

fn databases(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            databases(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "db") {
            found.push(path);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_column_of_a_fresh_file_is_in_the_inventory() {
    let folder = tempfile::tempdir().unwrap();
    let (users, host) = UserManager::builder().sqlite(folder.path().join("data")).open().await.unwrap();
    let session = users.create_user_session(&host, "alice").await.unwrap();
    session.agent("agent").unwrap().push("key", 1).await.unwrap();
    users.shutdown().await.unwrap();
    let mut files = Vec::new();
    databases(folder.path(), &mut files);
    assert_eq!(files.len(), 3, "a user, the deployment and the keystore: {files:?}");
    for file in files {
        assert_eq!(columns(&file).await, known(), "{}", file.display());
    }
}

/// The page's tables, line by line.
fn tables() -> Vec<String> {
    let mut lines = vec!["| keyspace | name | head | body |".to_owned(), "|---|---|---|---|".to_owned()];
    let both = |row: &PartRow| format!("{} / {}", row.sealed.name(), row.values.name());
    for rows in PARTS.chunks(Part::ALL.len()) {
        let cells: Vec<_> = rows.iter().map(both).collect();
        lines.push(format!("| {} | {} |", rows.first().unwrap().space.name(), cells.join(" | ")));
    }
    for (table, rows) in [
        ("column of a user", USER),
        ("column of a record", RECORD),
        ("column of a link", LINK),
        ("what else", AROUND),
    ] {
        lines.push(format!("| {table} | `sealed` | `values` | what it tells | the cost of hiding it |"));
        lines.push("|---|---|---|---|---|".to_owned());
        let code = if table == "what else" { "" } else { "`" };
        for row in rows {
            let Row { what, tells, cost, .. } = row;
            let (sealed, values) = (row.sealed.name(), row.values.name());
            lines.push(format!("| {code}{what}{code} | {sealed} | {values} | {tells} | {cost} |"));
        }
    }
    lines
}

#[test]
fn the_published_table_is_the_inventory() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/what-stays-visible.md");
    let page = std::fs::read_to_string(page).unwrap();
    let published: Vec<_> = page.lines().filter(|line| line.starts_with('|')).collect();
    let wanted = tables();
    for (published, wanted) in published.iter().zip(&wanted) {
        assert_eq!(published, wanted, "docs/what-stays-visible.md differs from the inventory");
    }
    assert_eq!(
        published.len(),
        wanted.len(),
        "docs/what-stays-visible.md has other rows:\n{}",
        wanted.join("\n")
    );
}
