use syntha_identity::{Accounts, Lease};

fn from_a_lease(lease: &Lease) -> Accounts<'_> {
    lease.accounts()
}

fn from_nothing() -> Accounts<'static> {
    Accounts(())
}

fn main() {}
