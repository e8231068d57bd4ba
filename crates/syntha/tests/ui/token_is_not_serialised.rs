fn write<T: serde::Serialize>(_: T) {}

fn main() {
    let token = syntha::Secret::parse("syn_pat_").unwrap();
    write(token);
}
