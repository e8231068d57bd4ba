//! `vectors.json`, against the code.
//!
//! `SYNTHA_BLESS=envelope` adds what the generator has and the file has not. What the file has is never changed.

use std::path::PathBuf;

use serde_json::Value;
use syntha_encryption::{DataKey, Purpose, Root, SecretKey, padding};
use syntha_store::{ErrorKind, Keyspace};

use crate::case::{array, associated_data, bytes, hex, open, seal, with};
use crate::golden;

pub(crate) fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("envelope/vectors.json")
}

fn stored() -> Value {
    serde_json::from_str(&std::fs::read_to_string(path()).unwrap()).unwrap()
}

fn list<'a>(vectors: &'a Value, name: &str) -> &'a [Value] {
    let list = vectors[name].as_array().unwrap();
    assert!(!list.is_empty(), "no vectors of {name}");
    list
}

/// One vector a line, so that a change shows what it changes.
fn text(vectors: &Value) -> String {
    let lists = vectors.as_object().unwrap().iter().map(|(name, list)| {
        let lines: Vec<_> = list.as_array().unwrap().iter().map(|vector| format!("    {vector}")).collect();
        format!("  \"{name}\": [\n{}\n  ]", lines.join(",\n"))
    });
    format!("{{\n{}\n}}\n", lists.collect::<Vec<_>>().join(",\n"))
}

#[test]
fn the_file_is_what_the_generator_makes() {
    let made = golden::make();
    if std::env::var("SYNTHA_BLESS").is_ok_and(|what| what == "envelope") {
        if path().exists() {
            for (name, old) in stored().as_object().unwrap() {
                for vector in old.as_array().unwrap() {
                    assert!(list(&made, name).contains(vector), "a vector was changed or lost: {vector}");
                }
            }
        }
        std::fs::write(path(), text(&made)).unwrap();
    }
    let stored = stored();
    for (name, made) in made.as_object().unwrap() {
        assert_eq!(stored[name].as_array().unwrap().len(), made.as_array().unwrap().len(), "{name}");
        for (stored, made) in list(&stored, name).iter().zip(made.as_array().unwrap()) {
            assert_eq!(stored, made);
        }
    }
}

#[test]
fn what_is_sealed_is_the_file_byte_for_byte() {
    for vector in list(&stored(), "sealed") {
        let name = &vector["name"];
        assert_eq!(hex(associated_data(vector)), vector["associated_data"], "{name}");
        assert_eq!(hex(seal(vector).unwrap()), vector["sealed"], "{name}");
        assert_eq!(hex(open(vector).unwrap()), vector["content"], "{name}");
    }
}

#[test]
fn what_was_changed_is_refused() {
    let stored = stored();
    for vector in list(&stored, "refused") {
        let of = list(&stored, "sealed").iter().find(|sealed| sealed["name"] == vector["of"]).unwrap();
        let changed = with(of, &vector["with"]);
        assert_ne!(&changed, of, "{vector}");
        let refused = open(&changed).map(|_| ()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Tampered, "{vector}");
    }
}

#[test]
fn keys_names_and_padding_are_those_of_the_file() {
    let stored = stored();
    for vector in list(&stored, "subkeys") {
        let key = DataKey::new(&SecretKey::from_bytes(&array(&vector["key"])), 1).unwrap();
        let purpose = Purpose::ALL.into_iter().find(|purpose| vector["purpose"] == purpose.name()).unwrap();
        assert_eq!(hex(key.subkey(purpose).as_bytes()), vector["subkey"], "{vector}");
    }
    for vector in list(&stored, "roots") {
        let root = Root::new(&SecretKey::from_bytes(&array(&vector["root"])));
        assert_eq!(hex(root.archive_key().as_bytes()), vector["archive_key"]);
    }
    for vector in list(&stored, "details_keys") {
        let root = Root::new(&SecretKey::from_bytes(&array(&vector["root"])));
        assert_eq!(hex(root.details_key().as_bytes()), vector["details_key"]);
    }
    for vector in list(&stored, "names") {
        let root = Root::new(&SecretKey::from_bytes(&array(&vector["root"])));
        let space = Keyspace::from_code(vector["space"].as_u64().unwrap().try_into().unwrap()).unwrap();
        let name = root.stored_name(space, vector["name"].as_str().unwrap().as_bytes());
        assert_eq!(hex(name), vector["stored"], "{vector}");
    }
    for vector in list(&stored, "padding") {
        let (content, padded) = (bytes(&vector["content"]), bytes(&vector["padded"]));
        let mut made = content.clone();
        padding::pad(&mut made, 0).unwrap();
        assert_eq!(made, padded);
        assert_eq!(padding::unpad(&padded).unwrap(), content);
    }
    for vector in list(&stored, "not_padded") {
        assert_eq!(padding::unpad(&bytes(vector)).unwrap_err().kind(), ErrorKind::Tampered, "{vector}");
    }
}
