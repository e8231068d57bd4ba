use super::*;
use crate::passphrase::tests::FLOOR;
use crate::provider::KeyProvider;
use crate::{LocalKek, SecretBytes};
use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Key};

const HEADER: Header =
    Header { content: Content::Archive, deployment: [1; 16], owner: [2; 32], source: KeySource::Archive };
/// Bytes of a head without a source.
const HEAD: usize = 16 + 4 + HEAD_FIXED + COMMITMENT;
const WHOLE: usize = 4 + FRAME + OVERHEAD;

fn key() -> SecretKey {
    SecretKey::from_bytes(b"the key of these tests, 32 bytes")
}

fn text(length: usize) -> Vec<u8> {
    (0..length).map(|place| u8::try_from(place % 251).unwrap()).collect()
}

fn sealed_as(header: &Header, key: &SecretKey, plain: &[u8]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), header, key).unwrap();
    for part in plain.chunks(10_007) {
        writer.write_all(part).unwrap();
    }
    writer.finish().unwrap()
}

fn sealed(plain: &[u8]) -> Vec<u8> {
    sealed_as(&HEADER, &key(), plain)
}

/// What was given, and how it ended.
fn opened(sealed: &[u8]) -> (Vec<u8>, Option<ErrorKind>) {
    let mut plain = Vec::new();
    let mut reader = match Reader::open(sealed).and_then(|pending| pending.unlock(&key())) {
        Ok(reader) => reader,
        Err(error) => return (plain, Some(error.kind())),
    };
    let end = reader.read_to_end(&mut plain).err().map(|error| into_error(error).kind());
    if end.is_some() {
        // A failed reader stays so.
        assert_eq!(reader.read(&mut [0; 9]).err().map(|error| into_error(error).kind()), end);
    } else {
        assert_eq!(reader.read(&mut [0; 9]).unwrap(), 0);
    }
    (plain, end)
}

/// Refused, after no more than the first `frames` frames of `plain`.
fn assert_refused(sealed: &[u8], plain: &[u8], frames: usize) {
    let (given, end) = opened(sealed);
    assert_eq!(end, Some(ErrorKind::Tampered));
    assert_eq!(given, plain[..frames * FRAME]);
}

#[test]
fn streams_of_all_sizes_are_read_back() {
    let around = (0..=3).flat_map(|frames| (-1..=1).map(move |more| frames * 65_536 + more));
    for length in around.filter_map(|length| usize::try_from(length).ok()) {
        let plain = text(length);
        let sealed = sealed(&plain);
        let last = 4 + OVERHEAD + length % FRAME;
        assert_eq!(sealed.len(), HEAD + length / FRAME * WHOLE + last, "{length}");
        assert!(opened(&sealed) == (plain, None), "{length}");
    }
}

#[test]
fn small_reads_and_writes_make_no_difference() {
    let plain = text(FRAME + 100);
    let mut writer = Writer::new(Vec::new(), &HEADER, &key()).unwrap();
    for byte in &plain {
        assert_eq!(writer.write(&[*byte]).unwrap(), 1);
        writer.flush().unwrap();
    }
    let sealed = writer.finish().unwrap();
    let mut reader = Reader::open(&sealed[..]).unwrap().unlock(&key()).unwrap();
    let mut given = Vec::new();
    let mut one = [0];
    while reader.read(&mut one).unwrap() == 1 {
        given.push(one[0]);
        assert_eq!(reader.read(&mut []).unwrap(), 0);
    }
    assert!(given == plain);
}

#[test]
fn a_stream_cut_anywhere_is_refused() {
    let small = sealed(b"a short secret");
    for end in 0..small.len() {
        assert_refused(&small[..end], b"", 0);
    }
    let plain = text(2 * FRAME + 5);
    let long = sealed(&plain);
    for frames in 0..=2 {
        for bytes in [0, 1, 3, 4, 5, 50] {
            let end = HEAD + frames * WHOLE + bytes;
            assert_refused(&long[..end], &plain, frames);
        }
    }
    assert_refused(&long[..long.len() - 1], &plain, 2);
}

#[test]
fn frames_in_another_order_are_refused() {
    let plain = text(3 * FRAME + 5);
    let stream = sealed(&plain);
    let other = sealed(&plain);
    let (head, frames) = stream.split_at(HEAD);
    let frames: Vec<&[u8]> = frames.chunks(WHOLE).collect();
    let others: Vec<&[u8]> = other[HEAD..].chunks(WHOLE).collect();
    let [a, b, c, last] = frames[..] else { panic!("four frames") };
    assert!(opened(&[head, a, b, c, last].concat()).1.is_none());
    let cases: [(&[&[u8]], usize); 13] = [
        (&[head, b, a, c, last], 0),
        (&[head, a, c, b, last], 1),
        (&[head, b, c, last], 0),
        (&[head, a, c, last], 1),
        (&[head, a, b, last], 2),
        (&[head, last], 0),
        (&[head, a, a, b, c, last], 1),
        (&[head, a, b, c, c, last], 3),
        (&[head, a, b, c, last, last], 3),
        (&[head, others[0], b, c, last], 0),
        (&[head, a, others[1], c, last], 1),
        (&[head, a, b, c, others[3]], 3),
        (&[&other[..HEAD], a, b, c, last], 0),
    ];
    for (parts, frames) in cases {
        assert_refused(&parts.concat(), &plain, frames);
    }
}

#[test]
fn bytes_after_the_end_are_refused() {
    for plain in [&b"a short secret"[..], &text(FRAME)] {
        let frames = plain.len() / FRAME;
        let mut stream = sealed(plain);
        stream.push(0);
        assert_refused(&stream, plain, frames);
    }
}

/// What no writer makes: a last frame that is full, and a short one that is not the last.
#[test]
fn a_frame_is_the_last_if_it_is_short() {
    for (size, last) in [(FRAME, 1), (5, 0)] {
        let mut writer = Writer::new(Vec::new(), &HEADER, &key()).unwrap();
        let (plain, frames) = (text(size), &mut writer.frames);
        let frame = frames.seal_as(&plain, 0, last == 1).unwrap();
        let mut stream = writer.sink;
        stream.extend_from_slice(&length(frame.len()).unwrap());
        stream.extend_from_slice(&frame);
        assert_refused(&stream, b"", 0);
    }
}

#[test]
fn an_unfinished_stream_is_refused() {
    for size in [0, 5, FRAME, FRAME + 5] {
        let mut left = Vec::new();
        let plain = text(size);
        let mut writer = Writer::new(&mut left, &HEADER, &key()).unwrap();
        writer.write_all(&plain).unwrap();
        drop(writer);
        assert_refused(&left, &plain, size / FRAME);
    }
}

#[test]
fn another_key_is_refused_before_anything_is_opened() {
    let other = SecretKey::from_bytes(&[9; 32]);
    // INVARIANT of the test: the source ends with the head, so only the commitment can refuse.
    let stream = sealed(b"a short secret");
    let pending = Reader::open(&stream[..HEAD]).unwrap();
    assert_eq!(pending.unlock(&other).unwrap_err().kind(), ErrorKind::KeyRefused);
    Reader::open(&stream[..HEAD]).unwrap().unlock(&key()).unwrap();
}

/// A stream whose frame opens under a key that its head does not commit to.
#[test]
fn a_stream_for_two_keys_is_refused() {
    let other = SecretKey::from_bytes(&[9; 32]);
    let mut stream = Writer::new(Vec::new(), &HEADER, &other).unwrap().finish().unwrap();
    let salt: [u8; 32] = stream[69..101].try_into().unwrap();
    let derived = Derived::new(&key(), &salt, &stream[..HEAD - COMMITMENT]).unwrap();
    stream.truncate(HEAD);
    let mut frames = Frames { key: derived.key, head: Sha256::digest(&stream).into(), next: 0 };
    let frame = frames.seal(b"for the other key").unwrap();
    stream.extend_from_slice(&length(frame.len()).unwrap());
    stream.extend_from_slice(&frame);
    assert_eq!(opened(&stream), (Vec::new(), Some(ErrorKind::KeyRefused)));
}

#[test]
fn every_changed_bit_of_a_small_stream_is_seen() {
    let stream = sealed(b"a short secret");
    for bit in 0..stream.len() * 8 {
        let mut changed = stream.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let (given, end) = opened(&changed);
        assert!(given.is_empty() && end.is_some(), "bit {bit}");
    }
}

#[test]
fn ten_thousand_changed_bits_are_seen() {
    for (size, flips) in [(1000, 9_700_u32), (FRAME + 777, 300)] {
        let plain = text(size);
        let stream = sealed(&plain);
        let mut changed = stream.clone();
        for number in 0..flips {
            let random = Sha256::digest(number.to_be_bytes())[..8].try_into().map(u64::from_be_bytes);
            let bit = usize::try_from(random.unwrap()).unwrap() % (stream.len() * 8);
            changed[bit / 8] ^= 1 << (bit % 8);
            let (given, end) = opened(&changed);
            let whole = (bit / 8).saturating_sub(HEAD) / WHOLE;
            assert!(end.is_some() && given == plain[..whole * FRAME], "bit {bit}");
            changed[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(opened(&changed).1.is_none());
    }
}

/// Gives zeros for ever, and counts.
struct Endless<'a>(&'a [u8], usize);

impl Read for Endless<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = if self.0.is_empty() { io::repeat(0).read(buffer)? } else { self.0.read(buffer)? };
        self.1 += count;
        Ok(count)
    }
}

#[test]
fn forged_lengths_cost_nothing() {
    let stream = sealed(b"a short secret");
    for forged in [0, 1, 113, 12 * 1024 + 1, u32::MAX] {
        let mut changed = stream.clone();
        changed[16..20].copy_from_slice(&forged.to_be_bytes());
        let mut source = Endless(&changed, 0);
        assert_eq!(Reader::open(&mut source).unwrap_err().kind(), ErrorKind::Tampered);
        assert_eq!(source.1, 20, "{forged}");
    }
    for forged in [0, 45, u32::try_from(FRAME + OVERHEAD + 1).unwrap(), u32::MAX] {
        let mut changed = stream.clone();
        changed[HEAD..HEAD + 4].copy_from_slice(&forged.to_be_bytes());
        let mut source = Endless(&changed, 0);
        let mut reader = Reader::open(&mut source).unwrap().unlock(&key()).unwrap();
        let error = into_error(reader.read(&mut [0]).unwrap_err());
        assert_eq!((error.kind(), reader.sealed.capacity()), (ErrorKind::Tampered, 0));
        assert_eq!(source.1, HEAD + 4, "{forged}");
    }
    // Nothing but zeros, and a head that ends in them.
    assert_eq!(Reader::open(io::repeat(0)).unwrap_err().kind(), ErrorKind::Tampered);
    let pending = Reader::open(Endless(&stream[..30], 0)).err().unwrap();
    assert_eq!(pending.kind(), ErrorKind::Unsupported);
}

#[test]
fn other_formats_are_told_apart() {
    let mut stream = sealed(b"a short secret");
    for (place, value, kind) in [
        (0, b'S', ErrorKind::Tampered),
        (15, 2, ErrorKind::Unsupported),
        (20, 0, ErrorKind::Unsupported),
        (20, 6, ErrorKind::Unsupported),
        (101, 5, ErrorKind::Unsupported),
        (101, 2, ErrorKind::Tampered),
        (101, 3, ErrorKind::Tampered),
    ] {
        let before = std::mem::replace(&mut stream[place], value);
        assert_eq!(Reader::open(&stream[..]).unwrap_err().kind(), kind, "{place} {value}");
        stream[place] = before;
    }
    assert_eq!(Reader::open(&b"PK\x03\x04"[..]).unwrap_err().kind(), ErrorKind::Tampered);
}

/// Takes some bytes, then fails once, then takes all.
struct Full(usize, bool);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0 < bytes.len() && !self.1 {
            self.1 = true;
            return Err(io::Error::from(IoKind::StorageFull));
        }
        self.0 = self.0.saturating_sub(bytes.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_sink_that_failed_once_fails_the_stream() {
    assert_eq!(Writer::new(Full(9, false), &HEADER, &key()).unwrap_err().kind(), ErrorKind::StorageFull);
    let mut writer = Writer::new(Full(HEAD + 9, false), &HEADER, &key()).unwrap();
    let error = writer.write_all(&text(FRAME)).unwrap_err();
    assert_eq!(into_error(error).kind(), ErrorKind::StorageFull);
    assert!(writer.write(b"more").is_err());
    assert!(writer.finish().is_err());
}

/// Fails after some bytes.
struct Broken<'a>(&'a [u8]);

impl Read for Broken<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() { Err(io::Error::from(IoKind::TimedOut)) } else { self.0.read(buffer) }
    }
}

#[test]
fn a_source_that_fails_is_not_called_tampered() {
    let stream = sealed(b"a short secret");
    assert_eq!(Reader::open(Broken(&stream[..50])).unwrap_err().kind(), ErrorKind::Unavailable);
    for end in [HEAD, HEAD + 10, stream.len()] {
        let mut reader = Reader::open(Broken(&stream[..end])).unwrap().unlock(&key()).unwrap();
        for _ in 0..2 {
            // At the end, too: whether something follows is not known.
            let error = reader.read(&mut [0; 99]).unwrap_err();
            assert_eq!(into_error(error).kind(), ErrorKind::Unavailable, "{end}");
        }
    }
}

#[tokio::test]
async fn the_head_says_which_key_opens() {
    let kek = LocalKek::new(key()).unwrap();
    let stream_key = SecretKey::generate().unwrap();
    let context = HEADER.key_context();
    let wrapped = kek.wrap(&context, &SecretBytes::new(*stream_key.as_bytes())).await.unwrap();
    let passphrase = SecretBytes::new(*b"correct horse battery");
    for (content, source) in [
        (Content::Manifest, KeySource::Provider(wrapped.clone())),
        (Content::Deployment, KeySource::PassphraseProvider(FLOOR, wrapped.clone())),
        (Content::Keystore, KeySource::Provider(wrapped)),
        (Content::Export, KeySource::Passphrase(FLOOR)),
        (Content::Archive, KeySource::Archive),
    ] {
        let header = Header { content, source, ..HEADER };
        let own = match &header.source {
            KeySource::Passphrase(parameters) => parameters.derive(&passphrase).await.unwrap(),
            _ => stream_key.clone(),
        };
        let stream = sealed_as(&header, &own, b"a short secret");
        let pending = Reader::open(&stream[..]).unwrap();
        assert_eq!(pending.header(), &header);
        let found = match &pending.header().source {
            KeySource::Archive => stream_key.clone(),
            KeySource::Passphrase(parameters) => parameters.derive(&passphrase).await.unwrap(),
            KeySource::Provider(wrapped) | KeySource::PassphraseProvider(_, wrapped) => {
                let secret = kek.unwrap(&pending.header().key_context(), wrapped).await.unwrap();
                SecretKey::from_slice(secret.as_bytes()).unwrap()
            }
        };
        let mut plain = Vec::new();
        pending.unlock(&found).unwrap().read_to_end(&mut plain).unwrap();
        assert_eq!(plain, b"a short secret");
    }
    let weak = PassphraseParameters { t: 1, ..FLOOR };
    let wrapped = kek.wrap(&context, &SecretBytes::new(*stream_key.as_bytes())).await.unwrap();
    for source in [KeySource::Passphrase(weak), KeySource::PassphraseProvider(weak, wrapped)] {
        let weak = Writer::new(Vec::new(), &Header { source, ..HEADER }, &key());
        assert_eq!(weak.unwrap_err().kind(), ErrorKind::KeyRefused);
    }
}

/// Made by another implementation of the format (Python, `cryptography`).
#[test]
fn a_stream_of_another_implementation_is_read() {
    let text = "c3ludGhhLXNlYWxlZAAAAQAAAHIBAQEBAQEBAQEBAQEBAQEBAQICAgICAgICAgICAgICAgICAgICAgICAgICAgIC\
    AgICMjM0NTY3ODk6Ozw9Pj9AQUJDREVGR0hJSktMTU5PUFEB3mtU5A4RjprjDax13SCR6lIwi23tl+0gvbsBp41x\
    kkAAAAA8AQEAAAAAyMnKy8zNzs/Q0dLT1NXW19jZ2tvc3d7fvcA+iLMc9ka6lpcrzNgwn+9wmS9+xTSy2iwewX99";
    let stream = data_encoding::BASE64.decode(text.as_bytes()).unwrap();
    assert_eq!(opened(&stream), (b"a short secret".to_vec(), None));
}

/// `docs/sealed-v1.md` once more, with nothing of this crate.
#[test]
fn the_format_is_the_one_that_is_documented() {
    let plain = text(FRAME + 5);
    let stream = sealed(&plain);
    assert_eq!(stream[..16], *b"syntha-sealed\0\0\x01");
    assert_eq!(stream[16..20], [0, 0, 0, 114]);
    assert_eq!(stream[20..69], [&[1][..], &[1; 16], &[2; 32]].concat());
    let (salt, source) = (&stream[69..101], stream[101]);
    assert_eq!(source, 1);
    let mut derived = [0; 64];
    let info = [b"syntha/v1/stream", &stream[..102]].concat();
    Hkdf::<Sha256>::new(Some(salt), key().as_bytes()).expand(&info, &mut derived).unwrap();
    assert_eq!(stream[102..134], derived[32..]);
    let hash = Sha256::digest(&stream[..134]);
    let mut rest = &stream[134..];
    let mut found = Vec::new();
    for (counter, size) in [(0_u8, 65_536_usize), (1, 5)] {
        assert_eq!(rest[..4], u32::try_from(size + 46).unwrap().to_be_bytes());
        let (frame, after) = rest[4..].split_at(size + 46);
        rest = after;
        assert_eq!(frame[..6], [1, 1, 0, 0, 0, 0]);
        let info = [b"syntha/v1/rec", &[1, 0, 0, 0, 0][..], &frame[6..18]].concat();
        let mut frame_key = [0; 32];
        Hkdf::<Sha256>::from_prk(&derived[..32]).unwrap().expand(&info, &mut frame_key).unwrap();
        let mut aad = Vec::new();
        let fields: [&[u8]; 8] = [
            b"syntha",
            &[1],
            &[1],
            &[0; 4],
            &[5],
            &hash,
            &[0, 0, 0, 0, 0, 0, 0, counter],
            &[u8::from(size < 65_536)],
        ];
        for field in fields {
            aad.extend_from_slice(&u32::try_from(field.len()).unwrap().to_be_bytes());
            aad.extend_from_slice(field);
        }
        let nonce: &[u8; 12] = frame[18..30].try_into().unwrap();
        let cipher = Aes256Gcm::new(<&Key<Aes256Gcm>>::from(&frame_key));
        let payload = Payload { msg: &frame[30..], aad: &aad };
        found.extend_from_slice(&cipher.decrypt(nonce.into(), payload).unwrap());
    }
    assert!(rest.is_empty() && found == plain);
}

#[test]
fn debug_tells_no_key_and_no_bytes() {
    let mut writer = Writer::new(io::sink(), &HEADER, &key()).unwrap();
    writer.write_all(b"secret").unwrap();
    assert_eq!(format!("{writer:?}"), "Writer { frames: 0, .. }");
}
