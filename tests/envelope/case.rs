//! A blob's inputs as JSON, as both implementations read them.

use data_encoding::HEXLOWER;
use serde_json::{Value, json};
use syntha_encryption::SecretKey;
use syntha_encryption::envelope::{
    self, Algorithm, Binding, Content, DetailsBinding, FrameBinding, RecordBinding, WrapBinding,
};
use syntha_store::{Incarnation, Result, Timestamp, Version};

pub(crate) fn hex(bytes: impl AsRef<[u8]>) -> Value {
    HEXLOWER.encode(bytes.as_ref()).into()
}

pub(crate) fn bytes(value: &Value) -> Vec<u8> {
    HEXLOWER.decode(value.as_str().unwrap_or_else(|| panic!("no text: {value}")).as_bytes()).unwrap()
}

pub(crate) fn array<const N: usize>(value: &Value) -> [u8; N] {
    bytes(value).try_into().unwrap()
}

/// The place of a record in which every field differs from the others.
pub(crate) fn record(part: &str) -> Value {
    json!({
        "part": part,
        "deployment": hex([0x11; 16]),
        "owner": hex([0x22; 32]),
        "life": hex([0x33; 16]),
        "space": 2,
        "name": hex([0x44; 32]),
        "seq": 7,
        "version": 9,
        "body_version": 8,
        "expires": 1_700_000_000_000_u64,
        "extra": "",
    })
}

pub(crate) fn wrap(what: &str) -> Value {
    json!({
        "part": "wrap",
        "provider": "file",
        "deployment": hex([0x11; 16]),
        "owner": hex([0x22; 32]),
        "what": what,
        "life": hex([0x33; 16]),
        "key_epoch": 3,
        "extra": "",
    })
}

pub(crate) fn frame(counter: u64, last: bool) -> Value {
    json!({ "part": "frame", "header": hex([0x55; 32]), "counter": counter, "last": last })
}

pub(crate) fn details() -> Value {
    json!({
        "part": "details",
        "deployment": hex([0x11; 16]),
        "owner": hex([0x22; 32]),
        "id": hex([0x66; 16]),
    })
}

pub(crate) fn algorithm(case: &Value) -> Algorithm {
    match case["algorithm"].as_u64() {
        Some(1) => Algorithm::Record,
        Some(2) => Algorithm::Committing,
        _ => panic!("no algorithm: {case}"),
    }
}

pub(crate) fn epoch(case: &Value) -> u32 {
    case["epoch"].as_u64().unwrap().try_into().unwrap()
}

/// Calls with the binding that the JSON describes.
pub(crate) fn with_binding<T>(fields: &Value, call: impl FnOnce(&Binding<'_>) -> T) -> T {
    let number = |name: &str| fields[name].as_u64().unwrap();
    let life = || Incarnation(u128::from_be_bytes(array(&fields["life"])));
    match fields["part"].as_str().unwrap() {
        part @ ("head" | "body" | "note") => {
            let (deployment, owner) = (array(&fields["deployment"]), array(&fields["owner"]));
            let (name, extra) = (bytes(&fields["name"]), bytes(&fields["extra"]));
            let record = RecordBinding {
                deployment: &deployment,
                owner: &owner,
                life: life(),
                space: number("space").try_into().unwrap(),
                name: &name,
                seq: number("seq"),
                version: Version(number("version")),
                body_version: Version(number("body_version")),
                expires: fields["expires"].as_u64().map(Timestamp),
                extra: &extra,
            };
            call(&match part {
                "head" => Binding::Head(record),
                "body" => Binding::Body(record),
                _ => Binding::Note(record),
            })
        }
        "wrap" => {
            let (deployment, owner) = (array(&fields["deployment"]), array(&fields["owner"]));
            let extra = bytes(&fields["extra"]);
            call(&Binding::Wrap(WrapBinding {
                provider: fields["provider"].as_str().unwrap(),
                deployment: &deployment,
                owner: &owner,
                what: fields["what"].as_str().unwrap(),
                life: life(),
                key_epoch: number("key_epoch").try_into().unwrap(),
                extra: &extra,
            }))
        }
        "frame" => call(&Binding::Frame(FrameBinding {
            header: &array(&fields["header"]),
            counter: number("counter"),
            last: fields["last"].as_bool().unwrap(),
        })),
        "details" => call(&Binding::Details(DetailsBinding {
            deployment: &array(&fields["deployment"]),
            owner: &array(&fields["owner"]),
            id: &array(&fields["id"]),
        })),
        part => panic!("no such part: {part}"),
    }
}

/// Seals a case's content, under its salt if it names one.
pub(crate) fn seal(case: &Value) -> Result<Vec<u8>> {
    let (subkey, content) = (SecretKey::from_bytes(&array(&case["subkey"])), bytes(&case["content"]));
    // In two pieces, as a caller has them.
    let (start, end) = content.split_at(content.len() / 3);
    let pieces = [start, end];
    let content = if case["padded"] == true { Content::Padded(&pieces) } else { Content::Plain(&pieces) };
    with_binding(&case["binding"], |binding| {
        let (algorithm, epoch) = (algorithm(case), epoch(case));
        if case["salt"].is_null() {
            envelope::seal(&subkey, algorithm, epoch, binding, content)
        } else {
            let salt = array(&case["salt"]);
            envelope::seal_with_salt(&subkey, algorithm, epoch, binding, salt, content)
        }
    })
}

/// Opens what a case holds sealed.
pub(crate) fn open(case: &Value) -> Result<Vec<u8>> {
    let (subkey, sealed) = (SecretKey::from_bytes(&array(&case["subkey"])), bytes(&case["sealed"]));
    let open = if case["padded"] == true { envelope::open_padded } else { envelope::open };
    with_binding(&case["binding"], |binding| open(&subkey, algorithm(case), binding, &sealed))
        .map(|content| content.to_vec())
}

pub(crate) fn associated_data(case: &Value) -> Vec<u8> {
    with_binding(&case["binding"], |binding| binding.associated_data(algorithm(case), epoch(case)).unwrap())
}

/// A copy with some fields replaced.
pub(crate) fn with(case: &Value, changes: &Value) -> Value {
    let mut changed = case.clone();
    for (name, value) in changes.as_object().unwrap() {
        changed[name] = value.clone();
    }
    changed
}
