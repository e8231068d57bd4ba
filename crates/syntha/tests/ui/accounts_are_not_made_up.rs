use syntha::Session;

fn admin(session: &Session) {
    // A session's user administers no accounts.
    let _ = session.accounts();
}

fn main() {}
