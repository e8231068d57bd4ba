use syntha_encryption::{DataKey, Root, SecretBytes, SecretKey};

fn write(key: &SecretKey, bytes: &SecretBytes, data: &DataKey, root: &Root) {
    let _ = serde_json::to_string(key);
    let _ = serde_json::to_string(bytes);
    let _ = serde_json::to_string(data);
    let _ = serde_json::to_string(root);
}

fn main() {}
