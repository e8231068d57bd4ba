use syntha_identity::syntha_store::UserId;
use syntha_identity::{Factor, Identity, Password};

async fn twice(identity: &Identity, user: &UserId, password: Password) {
    let _ = identity.accounts().set_password(user, password, Factor::Single).await;
    let _ = identity.accounts().set_password(user, password, Factor::Single).await;
}

fn main() {}
