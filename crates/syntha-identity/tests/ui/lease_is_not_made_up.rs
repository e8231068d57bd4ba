use syntha_identity::{Lease, Scopes};

fn forge(lease: &Lease) -> Lease {
    lease.clone().with_scopes(Scopes::ALL)
}

fn from_nothing() -> Lease {
    Lease::default()
}

fn main() {}
