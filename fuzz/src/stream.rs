//! Sealed streams: a reader gives a prefix of what was written, and an end only of the whole.

use std::io::{Read, Write};
use std::sync::LazyLock;

use syntha_encryption::stream::{Content, Header, KeySource, Reader, Writer};
use syntha_encryption::{KekId, PassphraseParameters, SecretKey, Wrapped};

use crate::mutation;

struct Stream {
    bytes: Vec<u8>,
    plain: Vec<u8>,
}

static KEY: LazyLock<SecretKey> = LazyLock::new(|| SecretKey::from_bytes(&[7; 32]));
static STREAMS: LazyLock<Vec<Stream>> = LazyLock::new(|| {
    let wrapped = Wrapped { kek: KekId::new([3; 16], 1), blob: vec![4; 40] };
    let parameters = PassphraseParameters::decode(&parameters());
    let sources = [KeySource::Archive, KeySource::Passphrase(parameters), KeySource::Provider(wrapped)];
    let contents = [Content::Archive, Content::Export, Content::Keystore];
    let mut streams = Vec::new();
    for (number, length) in [0, 100, 64 * 1024, 64 * 1024 + 100].into_iter().enumerate() {
        for (source, content) in sources.iter().zip(contents) {
            let plain: Vec<_> = (0..length).map(|at: usize| (at % 251) as u8 ^ number as u8).collect();
            let header = Header { content, deployment: [1; 16], owner: [2; 32], source: source.clone() };
            let mut writer = Writer::new(Vec::new(), &header, &KEY).expect("a writer");
            writer.write_all(&plain).expect("memory takes all");
            streams.push(Stream { bytes: writer.finish().expect("memory takes all"), plain });
        }
    }
    streams
});

/// Parameters that are neither too weak nor too dear, as they stand in a header.
fn parameters() -> [u8; PassphraseParameters::BYTES] {
    let mut bytes = [9; PassphraseParameters::BYTES];
    let fixed = [(256 * 1024_u32).to_be_bytes(), 3_u32.to_be_bytes(), 4_u32.to_be_bytes()].concat();
    bytes[..12].copy_from_slice(&fixed);
    bytes
}

fn read(bytes: &[u8]) {
    let whole = STREAMS.iter().find(|stream| stream.bytes == bytes);
    let opened = Reader::open(bytes).and_then(|pending| pending.unlock(&KEY));
    let Ok(mut reader) = opened else {
        assert!(whole.is_none(), "a stream does not open");
        return;
    };
    let mut given = Vec::new();
    let ended = reader.read_to_end(&mut given);
    assert_eq!(ended.is_ok(), whole.is_some(), "an end that was not written, or none that was");
    let from = STREAMS.iter().any(|stream| stream.plain.starts_with(&given));
    assert!(from, "bytes that were not sealed");
    if let Some(stream) = whole {
        assert_eq!(given, stream.plain);
    }
    // After an error it gives nothing more; after the end, the end.
    assert_eq!(reader.read(&mut [0; 16]).unwrap_or_default(), 0);
}

/// Reads the bytes as they are, behind a right head, and a valid stream that they change.
pub fn check(data: &[u8]) {
    read(data);
    let Some((which, script)) = data.split_first() else { return };
    let stream = &STREAMS[usize::from(*which) % STREAMS.len()];
    let others: Vec<_> = STREAMS.iter().map(|stream| stream.bytes.as_slice()).collect();
    read(&mutation::apply(script, &stream.bytes, &others));
    // A head of the right key, and then what comes.
    let after = u32::from_be_bytes(stream.bytes[16..20].try_into().expect("four bytes"));
    let head = 20 + usize::try_from(after).expect("a length");
    read(&[&stream.bytes[..head], script].concat());
}

/// Short streams, and scripts that change nothing.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    // Whole ones would open in another process, which has made others.
    let short = STREAMS.iter().filter(|stream| stream.bytes.len() < 4_096);
    let short = short.map(|stream| mutation::broken(&stream.bytes));
    let scripts = (0..u8::try_from(STREAMS.len()).expect("a byte")).map(|number| vec![number]);
    // A script with a step at each part of the stream.
    let steps = (0..12_u8).map(|number| vec![number, 0, 0x80, 17 + number, 0, 1]);
    short.chain(scripts).chain(steps).collect()
}
