use syntha::{Secret, Session};

fn make(id: Secret, session: Session) -> syntha::LoggedIn {
    syntha::LoggedIn { id, session }
}

fn main() {
    let _ = make;
}
