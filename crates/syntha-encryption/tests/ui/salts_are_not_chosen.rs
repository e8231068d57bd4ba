use syntha_encryption::envelope::Salts;

fn main() {
    let _ = Salts(vec![[0; 24]].into_iter());
}
