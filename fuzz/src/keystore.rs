//! Keystores: rows that somebody changed lead to an error, and a deployment opens with the header that was written alone.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use syntha_encryption::{EncryptedStore, Kek, KeyCache, Keychain, Keystore, Mode, SecretKey};
use syntha_store::{
    Batch, CreateMode, Keyspace, MemoryStore, RecordId, Result, Scan, Store, Timestamp, UserId, UserTag,
};

use crate::{mutation, now};

struct World {
    data: Arc<MemoryStore>,
    user: UserTag,
    rows: Vec<(RecordId, Bytes)>,
}

fn kek() -> Kek {
    Kek::from_key(SecretKey::from_bytes(&std::array::from_fn(|n| n as u8)))
}

/// A sealed user with an entry, and the rows of the keystore.
static WORLD: LazyLock<World> = LazyLock::new(|| {
    now(async {
        let (data, keys) = (Arc::new(MemoryStore::new()?), Arc::new(MemoryStore::new()?));
        let key = data.deployment_key().clone();
        let keystore = Keystore::open(Arc::clone(&keys) as _).await?;
        let keychain = Keychain::create(keystore, &kek(), Mode::Sealed, &key, KeyCache::default()).await?;
        let store = EncryptedStore::new(Arc::clone(&data), &keychain)?;
        let user = key.tag(&UserId::new("alice").expect("an id"));
        let id = RecordId::new("name", 0)?;
        let first = Batch::new(Timestamp(1))?.put(Keyspace::Context, id, "head", "body");
        store.create(user, first, CreateMode::New).await?;
        let page = keys.deployment().await?.scan(Scan::records(Keyspace::Keys, 100)).await?.value;
        let rows = page.records.into_iter().map(|(head, body)| (head.id, body.unwrap_or_default())).collect();
        Ok::<_, syntha_store::Error>(World { data, user, rows })
    })
    .expect("a sealed user")
});

/// The entry's body, as it is read with some rows for a keystore.
fn read(rows: &[(RecordId, Bytes)]) -> Result<Option<Bytes>> {
    now(async {
        let keys = Arc::new(MemoryStore::new()?);
        let mut batch = Batch::new(Timestamp(1))?;
        for (id, body) in rows {
            batch = batch.put(Keyspace::Keys, id.clone(), "", body.clone());
        }
        keys.deployment().await?.commit(batch).await?;
        let keychain = Keychain::open(Keystore::open(keys).await?, &kek(), KeyCache::default()).await?;
        let store = EncryptedStore::new(Arc::clone(&WORLD.data), &keychain)?;
        let user = store.open(WORLD.user).await?;
        let read = user.read(Keyspace::Context, &[RecordId::new("name", 0)?]).await?;
        Ok(read.value.into_iter().next().flatten().map(|record| record.body.0.clone()))
    })
}

/// Opens with one row in whose place the bytes are, and with one that they change.
pub fn check(data: &[u8]) {
    let world = &*WORLD;
    let Some((which, script)) = data.split_first() else { return };
    let which = usize::from(*which) % world.rows.len();
    let others: Vec<_> = world.rows.iter().map(|(_, body)| &body[..]).collect();
    let changed = mutation::apply(script, &world.rows[which].1, &others);
    for body in [script.to_vec(), changed] {
        let mut rows = world.rows.clone();
        let same = rows[which].1 == body;
        rows[which].1 = body.into();
        match read(&rows) {
            // White space or the order of members may differ: then it says the same, and opens the same.
            Ok(read) => assert_eq!(read.as_deref(), Some(&b"body"[..])),
            Err(_) => assert!(!same, "what was written does not open"),
        }
    }
}

/// Each row, and scripts that change nothing.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let rows = WORLD.rows.iter().zip(0_u8..);
    rows.flat_map(|((_, body), number)| [vec![number], [&[number], &body[..]].concat()]).collect()
}
