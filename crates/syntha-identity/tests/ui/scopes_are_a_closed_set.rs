use syntha_identity::Scopes;

fn widen() -> Scopes {
    Scopes(0xff)
}

fn main() {}
