//! Someone who writes a backend or a layer.

use syntha_store::{Batch, CreateMode, Image, Keyspace, MemoryStore, RecordId, Timestamp, UserId};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let key = MemoryStore::new()?.deployment_key().clone();
    let owner = *key.tag(&UserId::new("alice")?).as_bytes();
    let first = Batch::new(Timestamp(0))?.put(Keyspace::Context, RecordId::new("k", 0)?, "head", "body");
    let (image, commit) = Image::created(None, first, CreateMode::New)?;
    let bytes = image.ok_or("nothing to keep")?.encode(&owner)?;
    assert_eq!(Image::decode(bytes, &owner)?.stamp(), commit.stamp);
    Ok(())
}
