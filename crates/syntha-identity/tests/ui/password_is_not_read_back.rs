use syntha_identity::Password;

fn leak(password: &Password) -> &[u8] {
    password.as_bytes()
}

fn main() {}
