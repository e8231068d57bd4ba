//! The golden vectors, made anew: which cases there are, and what is changed in each that must be refused.

use serde_json::{Value, json};
use syntha_encryption::{DataKey, Purpose, Root, SecretKey, padding};
use syntha_store::Keyspace;

use crate::case::{associated_data, bytes, details, frame, hex, record, seal, with, wrap};

pub(crate) fn make() -> Value {
    let sealed = sealed();
    let refused = refused(&sealed);
    json!({
        "subkeys": subkeys(),
        "roots": roots(),
        "details_keys": details_keys(),
        "names": names(),
        "padding": paddings(),
        "not_padded": ["", "00", "8001", "7f00", "8000000001", "0000000000000000"],
        "sealed": sealed,
        "refused": refused,
    })
}

fn roots() -> [Value; 2] {
    [0, 1].map(|which| {
        let root = key(which);
        let archive = Root::new(&root);
        json!({ "root": hex(root.as_bytes()), "archive_key": hex(archive.archive_key().as_bytes()) })
    })
}

fn details_keys() -> [Value; 2] {
    [0, 1].map(|which| {
        let root = Root::new(&key(which));
        json!({ "root": hex(key(which).as_bytes()), "details_key": hex(root.details_key().as_bytes()) })
    })
}

fn paddings() -> Vec<Value> {
    let lens = [0, 1, 62, 63, 64, 71, 72, 255, 256, 1_023, 1_024];
    let of = |len| {
        let mut padded = content(len);
        padding::pad(&mut padded, 0).unwrap();
        json!({ "content": hex(content(len)), "padded": hex(padded) })
    };
    lens.map(of).to_vec()
}

fn key(which: u8) -> SecretKey {
    SecretKey::from_bytes(&std::array::from_fn(|index| u8::try_from(index).unwrap() ^ which))
}

/// Bytes with marks and zeros among them, at the end too.
fn content(len: usize) -> Vec<u8> {
    (0..len).map(|index| [0x41, 0x80, 0, 0xff, 0x80, 0][index % 6]).collect()
}

fn subkeys() -> Vec<Value> {
    let of = |which| {
        let data = DataKey::new(&key(which), 1).unwrap();
        Purpose::ALL.map(|purpose| {
            json!({
                "key": hex(key(which).as_bytes()),
                "purpose": purpose.name(),
                "subkey": hex(data.subkey(purpose).as_bytes()),
            })
        })
    };
    [of(0), of(1)].concat()
}

fn names() -> Vec<Value> {
    let names = [
        (Keyspace::Context, "status"),
        (Keyspace::Agents, "status"),
        (Keyspace::Context, ""),
        (Keyspace::Context, "Gr\u{fc}\u{df}e, \u{4e16}\u{754c} \u{1f600}"),
        (Keyspace::Interactions, "a\u{0}b"),
    ];
    let of = |which| {
        let root = key(which);
        names.map(|(space, name)| {
            let stored = Root::new(&root).stored_name(space, name.as_bytes());
            json!({ "root": hex(root.as_bytes()), "space": space.code(), "name": name, "stored": hex(stored) })
        })
    };
    [of(0), of(1)].concat()
}

/// The cases: name, algorithm, epoch, binding, whether padded, content.
fn cases() -> Vec<(String, u8, u32, Value, bool, Vec<u8>)> {
    let mut cases = Vec::new();
    let mut case = |name: &str, algorithm, epoch, binding: &Value, padded, content: &[u8]| {
        cases.push((name.to_owned(), algorithm, epoch, binding.clone(), padded, content.to_vec()));
    };
    for part in ["head", "body", "note"] {
        for algorithm in [1, 2] {
            case(&format!("{part}, algorithm {algorithm}"), algorithm, 1, &record(part), false, b"abc");
        }
        case(&format!("{part}, empty"), 1, 1, &record(part), false, b"");
    }
    for what in ["root", "dek", "check", "deployment-key", "artefact"] {
        case(&format!("wrap of {what}"), 2, 0, &wrap(what), false, key(9).as_bytes());
    }
    case("wrap, empty", 2, 0, &wrap("check"), false, b"");
    for algorithm in [1, 2] {
        case(&format!("frame, algorithm {algorithm}"), algorithm, 0, &frame(0, false), false, b"abc");
    }
    case("frame, the last and empty", 1, 0, &frame(1, true), false, b"");
    case("frame, the highest counter", 1, 0, &frame(u64::MAX, true), false, b"abc");
    for len in [0, 62, 63, 64, 71, 72, 1_023, 1_024] {
        case(&format!("body, padded from {len}"), 1, 2, &record("body"), true, &content(len));
    }
    case("body, long", 1, 2, &record("body"), false, &content(5_000));
    case("body, long, padded", 2, 2, &record("body"), true, &content(5_000));
    let text = "Gr\u{fc}\u{df}e, \u{4e16}\u{754c} \u{1f600}";
    let edges = [
        ("a readable name", json!({ "name": hex(text) })),
        ("no name", json!({ "name": "" })),
        ("the longest name", json!({ "name": hex([0x61; 512]) })),
        ("no expiry", json!({ "expires": null })),
        ("an expiry of zero", json!({ "expires": 0 })),
        (
            "the highest numbers",
            json!({
                "life": hex([0xff; 16]), "space": 255, "seq": u64::MAX, "version": u64::MAX,
                "body_version": u64::MAX, "expires": u64::MAX,
            }),
        ),
        (
            "the deployment's own, all zeros",
            json!({
                "deployment": hex([0; 16]), "owner": hex([0; 32]), "life": hex([0; 16]), "space": 0,
                "seq": 0, "version": 0, "body_version": 0,
            }),
        ),
        ("extra", json!({ "extra": hex(text) })),
    ];
    for (name, changes) in edges {
        case(&format!("head, {name}"), 1, 1, &with(&record("head"), &changes), false, text.as_bytes());
    }
    case("head, epoch 0", 1, 0, &record("head"), false, b"abc");
    case("head, the highest epoch", 1, u32::MAX, &record("head"), false, b"abc");
    let provider = json!({ "provider": text, "what": "", "extra": hex([0x80; 28]) });
    case("wrap, a provider of any text", 2, u32::MAX, &with(&wrap("dek"), &provider), false, b"abc");
    let events = br#"[{"at":7,"do":"push","is":"done","by":{"name":"a"},"on":{"name":"k"},"bytes":3}]"#;
    case("details, algorithm 1", 1, 0, &details(), false, events);
    case("details, padded", 1, 0, &details(), true, events);
    let own = json!({ "owner": hex([0; 32]), "id": hex([0xff; 16]) });
    case("details of the deployment's own space", 1, 0, &with(&details(), &own), true, b"[]");
    cases
}

fn sealed() -> Vec<Value> {
    let sealed = |(index, case): (usize, _)| {
        let (name, algorithm, epoch, binding, padded, content): (String, u8, u32, Value, bool, Vec<u8>) =
            case;
        let salt: [u8; 24] = std::array::from_fn(|at| u8::try_from((index * 37 + at * 11) % 256).unwrap());
        let mut vector = json!({
            "name": name,
            "subkey": hex(key(u8::try_from(index).unwrap()).as_bytes()),
            "algorithm": algorithm,
            "epoch": epoch,
            "binding": binding,
            "salt": hex(salt),
            "padded": padded,
            "content": hex(content),
        });
        vector["associated_data"] = hex(associated_data(&vector));
        vector["sealed"] = hex(seal(&vector).unwrap());
        vector
    };
    cases().into_iter().enumerate().map(sealed).collect()
}

fn refused(sealed: &[Value]) -> Vec<Value> {
    let of = |name: &str| sealed.iter().find(|vector| vector["name"] == name).unwrap();
    let mut refused = Vec::new();
    for name in [
        "head, algorithm 1",
        "body, algorithm 2",
        "wrap of dek",
        "frame, algorithm 1",
        "details, algorithm 1",
    ] {
        let vector = of(name);
        let mut refuse = |what: &str, with: Value| {
            refused.push(json!({ "of": name, "what": what, "with": with }));
        };
        changed_bytes(vector, &mut refuse);
        changed_places(vector, &mut refuse);
        let mut other = bytes(&vector["subkey"]);
        other[31] ^= 1;
        refuse("another subkey", json!({ "subkey": hex(other) }));
        refuse("read as padded", json!({ "padded": true }));
    }
    let name = "head, algorithm 1";
    let whole = bytes(&of(name)["sealed"]);
    for len in 0..whole.len() {
        let what = format!("cut to {len} bytes");
        refused.push(json!({ "of": name, "what": what, "with": { "sealed": hex(&whole[..len]) } }));
    }
    for (what, bytes) in [
        (
            "content that is not sealed",
            &br#"{"a":"plain value that is long enough to be taken for a blob"}"#[..],
        ),
        ("zeros", &[0; 100]),
        ("a header and nothing", &[1, 1, 0, 0, 0, 1]),
    ] {
        refused.push(json!({ "of": name, "what": what, "with": { "sealed": hex(bytes) } }));
    }
    refused
}

/// A bit of each part of the blob, bytes added and taken, the algorithm swapped.
fn changed_bytes(vector: &Value, refuse: &mut impl FnMut(&str, Value)) {
    let whole = bytes(&vector["sealed"]);
    let commits = vector["algorithm"] == 2;
    let content = if commits { 62 } else { 30 };
    let mut places = vec![
        ("version", 0, 1),
        ("algorithm", 1, 1),
        ("epoch", 2, 4),
        ("salt of the key", 6, 12),
        ("salt of the nonce", 18, 12),
        ("ciphertext", content, whole.len() - 16 - content),
        ("tag", whole.len() - 16, 16),
    ];
    if commits {
        places.push(("commitment", 30, 32));
    }
    for (what, start, len) in places {
        for (at, bit, which) in [(start, 0x80, "first"), (start + len - 1, 1, "last")] {
            let mut changed = whole.clone();
            changed[at] ^= bit;
            refuse(&format!("{which} bit of the {what}"), json!({ "sealed": hex(changed) }));
        }
    }
    for version in [0, 2, 255] {
        let changed = [&[version], &whole[1..]].concat();
        refuse(&format!("version {version}"), json!({ "sealed": hex(changed) }));
    }
    let other = if commits { 1 } else { 2 };
    for algorithm in [0, 3, 255, other] {
        let changed = [&whole[..1], &[algorithm], &whole[2..]].concat();
        refuse(&format!("algorithm {algorithm} in the header"), json!({ "sealed": hex(&changed) }));
    }
    let changed = [&whole[..1], &[other], &whole[2..]].concat();
    refuse("algorithm asked for", json!({ "algorithm": other }));
    refuse("algorithm in the header and asked for", json!({ "algorithm": other, "sealed": hex(changed) }));
    if commits {
        let stripped = [&[1, 1], &whole[2..30], &whole[62..]].concat();
        refuse("commitment taken away", json!({ "algorithm": 1, "sealed": hex(&stripped) }));
        refuse("commitment taken away, still asked for", json!({ "sealed": hex(&stripped) }));
        let swapped = [&whole[..30], &[0; 32], &whole[62..]].concat();
        refuse("commitment of zeros", json!({ "sealed": hex(swapped) }));
    } else {
        let added = [&[1, 2], &whole[2..30], &[0; 32], &whole[30..]].concat();
        refuse("commitment added", json!({ "algorithm": 2, "sealed": hex(added) }));
    }
    refuse("a byte added at the end", json!({ "sealed": hex([&whole[..], &[0]].concat()) }));
    refuse("a byte added at the start", json!({ "sealed": hex([&[1], &whole[..]].concat()) }));
    refuse("the last byte taken", json!({ "sealed": hex(&whole[..whole.len() - 1]) }));
    refuse("the first byte taken", json!({ "sealed": hex(&whole[1..]) }));
    refuse("twice", json!({ "sealed": hex([&whole[..], &whole[..]].concat()) }));
}

/// Each field of the place.
fn changed_places(vector: &Value, refuse: &mut impl FnMut(&str, Value)) {
    let place = &vector["binding"];
    // In the order of their names, whatever order a build of the JSON library keeps.
    let fields: std::collections::BTreeMap<_, _> = place.as_object().unwrap().iter().collect();
    for (field, value) in fields {
        let others = match value {
            Value::String(part) if field == "part" => ["head", "body", "note"]
                .iter()
                .filter(|other| !["wrap", "frame", "details"].contains(&part.as_str()) && *other != part)
                .map(|other| json!(other))
                .collect(),
            Value::String(text) if ["provider", "what"].contains(&field.as_str()) => {
                vec![json!(format!("{text}x")), json!("")]
            }
            Value::String(_) => {
                let mut bytes = bytes(value);
                match bytes.last_mut() {
                    Some(last) => *last ^= 1,
                    None => bytes.push(0),
                }
                vec![hex(bytes)]
            }
            Value::Number(number) => vec![json!(number.as_u64().unwrap() + 1), json!(0)],
            Value::Bool(last) => vec![json!(!last)],
            _ => panic!("a field of an unknown form: {value}"),
        };
        for other in others.iter().filter(|other| *other != value) {
            let changed = with(place, &json!({ (field.as_str()): other }));
            refuse(&format!("{field} is {other:.40}"), json!({ "binding": changed }));
        }
    }
    let mut moved = place.clone();
    match place["part"].as_str().unwrap() {
        "wrap" => {
            (moved["provider"], moved["what"]) = (json!("filed"), json!("ek"));
            refuse("a byte moved between provider and what", json!({ "binding": moved }));
        }
        "frame" | "details" => {}
        _ => {
            let name = bytes(&place["name"]);
            (moved["name"], moved["extra"]) = (hex(&name[..31]), hex(&name[31..]));
            refuse("a byte moved from name to extra", json!({ "binding": moved }));
            let expires = place["expires"].as_u64().unwrap().to_be_bytes();
            let moved = with(place, &json!({ "expires": null, "extra": hex(expires) }));
            refuse("expiry moved to extra", json!({ "binding": moved }));
            let moved = with(place, &json!({ "expires": null }));
            refuse("expiry taken away", json!({ "binding": moved }));
        }
    }
}
