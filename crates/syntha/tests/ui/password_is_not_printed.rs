fn main() {
    let password = syntha::Password::new("a sentence of several words").unwrap();
    println!("{password}");
}
