fn main() {
    let _ = syntha::UserTag([0; 32]);
    let _: syntha::UserTag = [0_u8; 32].into();
}
