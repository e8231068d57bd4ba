use syntha_identity::Secret;

fn keep(secret: &Secret) -> Secret {
    secret.clone()
}

fn main() {}
