use syntha_encryption::{DataKey, Root, SecretBytes, SecretKey};

fn show(key: &SecretKey, bytes: &SecretBytes, data: &DataKey, root: &Root) {
    println!("{key:?}");
    println!("{bytes:?}");
    println!("{data:?}");
    println!("{root:?}");
    println!("{key}");
    println!("{bytes}");
    println!("{data}");
    println!("{root}");
}

fn main() {}
