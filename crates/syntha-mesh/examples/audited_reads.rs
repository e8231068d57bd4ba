//! What the audit trail costs a cached read: nanoseconds for each policy, the least of ten rounds.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use syntha_audit::AuditedStore;
use syntha_mesh::{AuditPolicy, Mesh, MeshConfig, Opening};
use syntha_store::{Batch, CreateMode, MemoryStore, Store, Timestamp, UserId};

const READS: u32 = 4_000;

#[tokio::main(flavor = "current_thread")]
#[allow(clippy::print_stdout, reason = "the figures are what it is for")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    for policy in [AuditPolicy::Off, AuditPolicy::Writes, AuditPolicy::Buffered] {
        let memory = MemoryStore::new()?;
        let key = memory.deployment_key();
        let (tag, fingerprint) = (key.tag(&UserId::new("alice")?), key.fingerprint());
        let store = AuditedStore::new(Arc::new(memory), fingerprint)?;
        let (user, _) = store.create(tag, Batch::new(Timestamp(0))?, CreateMode::New).await?;
        let mut config = MeshConfig::default();
        config.audit = policy;
        let mesh = Mesh::open(user, Opening::new().exclusive(true).audited(true), config).await?;
        mesh.batch().push("one", 1).push("two", 2).commit().await?;
        let agent = mesh.agent("reader")?;
        for (what, keys) in [("the same entry", ["one", "one"]), ("two by turns", ["one", "two"])] {
            let mut least = f64::MAX;
            for _ in 0..10 {
                let start = Instant::now();
                for _ in 0..READS / 2 {
                    for key in keys {
                        black_box(agent.entry(black_box(key)).await?);
                    }
                }
                least = least.min(start.elapsed().as_secs_f64() * 1e9 / f64::from(READS));
                // The next round finds room.
                mesh.flush_audit().await?;
            }
            println!("{policy:?}, {what}: {least:.0} ns");
        }
    }
    Ok(())
}
