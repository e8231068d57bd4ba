use syntha::store::{Keyspace, RecordId, UserStore, UserTag};

async fn read(store: &dyn UserStore, user: UserTag, id: RecordId) {
    let _ = store.read(user, Keyspace::Context, &[id]).await;
}

fn main() {}
