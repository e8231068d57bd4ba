use syntha_identity::Secret;

fn leak(secret: &Secret) -> String {
    secret.to_string()
}

fn main() {}
