fn make(mesh: syntha::ContextMesh) -> syntha::Session {
    syntha::Session { mesh }
}

fn main() {
    let _: syntha::Session = "alice".into();
}
