//! The table over a mesh: what opaque records can't show.

mod audience;
mod history;
mod isolation;
mod limits;
mod permission;
mod time;
mod transfer;
mod undo;
mod watch;
mod write;

use syntha_mesh::{Agent, Filter, Mesh};
use syntha_store::Store;

use crate::harness::Check;
pub(crate) use crate::store::checks;

/// All checks over a mesh on a store.
#[must_use]
pub fn mesh_checks() -> Vec<Check> {
    let watch = watch::watch_checks();
    [
        write::CHECKS,
        time::CHECKS,
        audience::CHECKS,
        permission::CHECKS,
        undo::CHECKS,
        isolation::CHECKS,
        history::CHECKS,
        transfer::CHECKS,
        limits::CHECKS,
        &watch,
    ]
    .concat()
}

/// The keys that an agent sees.
async fn keys(agent: &Agent) -> Vec<String> {
    agent.keys(&Filter::new()).await.unwrap().iter().map(ToString::to_string).collect()
}

/// The kind of an error, of what must fail.
fn kind<T>(result: Result<T, syntha_mesh::Error>) -> syntha_mesh::ErrorKind {
    match result {
        Ok(_) => panic!("it succeeded, and should have been refused"),
        Err(error) => error.kind(),
    }
}

/// An entry must be nowhere that an agent can look.
async fn assert_unseen(agent: &Agent, key: &str) {
    assert!(agent.entry(key).await.unwrap().is_none());
    assert!(agent.get_many(&[key]).await.unwrap().is_empty());
    assert!(!keys(agent).await.iter().any(|seen| seen == key));
    assert!(!agent.all(&Filter::new()).await.unwrap().iter().any(|entry| entry.key() == key));
    assert!(!agent.keys_by_topic().await.unwrap().iter().any(|(seen, _)| **seen == *key));
}

/// Usage as a recount of what is stored would give it.
async fn assert_usage(mesh: &Mesh) {
    let usage = mesh.usage().await.unwrap().1;
    let stats = mesh.stats().await.unwrap();
    let kept = mesh.undo_list(None, 1_000).await.unwrap().acts;
    let (entries, mut bytes) =
        kept.iter().fold((0, 0), |(entries, bytes), act| (entries + act.entries, bytes + act.bytes));
    assert_eq!((usage.contexts, usage.agents), (stats.entries + entries, stats.agents));
    assert_eq!(stats.kept, entries);
    if stats.expired == 0 {
        for entry in mesh.entries(&Filter::new()).await.unwrap() {
            let value = mesh.value(entry.key()).await.unwrap().unwrap();
            bytes += (value.key().len() + value.json().len()) as u64;
        }
        assert_eq!(usage.context_bytes, bytes);
    }
}

async fn erase(store: &dyn Store, user: syntha_store::UserTag) {
    assert!(store.erase(user).await.unwrap().removed);
}
