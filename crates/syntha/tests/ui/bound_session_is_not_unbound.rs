use syntha::Session;

fn widen(mut session: Session) {
    session.agent = None;
    let _ = session;
}

fn main() {}
