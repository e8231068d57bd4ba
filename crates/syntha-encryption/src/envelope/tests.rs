use proptest::prelude::*;
use syntha_store::{Incarnation, Timestamp, Version};

use super::*;

/// A binding that owns its fields.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Place {
    Record {
        part: u8,
        deployment: [u8; 16],
        owner: [u8; 32],
        life: u128,
        space: u8,
        name: Vec<u8>,
        numbers: [u64; 3],
        expires: Option<u64>,
        extra: Vec<u8>,
    },
    Wrap {
        provider: String,
        deployment: [u8; 16],
        owner: [u8; 32],
        what: String,
        life: u128,
        key_epoch: u32,
        extra: Vec<u8>,
    },
    Frame {
        header: [u8; 32],
        counter: u64,
        last: bool,
    },
}

impl Place {
    fn binding(&self) -> Binding<'_> {
        match self {
            Self::Record { part, deployment, owner, life, space, name, numbers, expires, extra } => {
                let record = RecordBinding {
                    deployment,
                    owner,
                    life: Incarnation(*life),
                    space: *space,
                    name,
                    seq: numbers[0],
                    version: Version(numbers[1]),
                    body_version: Version(numbers[2]),
                    expires: expires.map(Timestamp),
                    extra,
                };
                [Binding::Head, Binding::Body, Binding::Note][usize::from(*part) % 3](record)
            }
            Self::Wrap { provider, deployment, owner, what, life, key_epoch, extra } => {
                Binding::Wrap(WrapBinding {
                    provider,
                    deployment,
                    owner,
                    what,
                    life: Incarnation(*life),
                    key_epoch: *key_epoch,
                    extra,
                })
            }
            Self::Frame { header, counter, last } => {
                Binding::Frame(FrameBinding { header, counter: *counter, last: *last })
            }
        }
    }
}

/// Few values, so that two places often differ in one field or in none.
fn small() -> impl Strategy<Value = u8> {
    prop_oneof![Just(0), Just(1), Just(0x80), any::<u8>()]
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0), Just(1), Just(256), any::<u64>()]
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(small(), 0..6)
}

fn array<const N: usize>() -> impl Strategy<Value = [u8; N]> {
    small().prop_map(|byte| std::array::from_fn(|index| if index == 0 { byte } else { 0 }))
}

fn place() -> impl Strategy<Value = Place> {
    let record = (
        0_u8..3,
        array(),
        array(),
        number(),
        small(),
        bytes(),
        [number(), number(), number()],
        prop::option::of(number()),
        bytes(),
    )
        .prop_map(|(part, deployment, owner, life, space, name, numbers, expires, extra)| {
            let life = life.into();
            Place::Record { part, deployment, owner, life, space, name, numbers, expires, extra }
        });
    let wrap = ("[ab\0é]{0,3}", array(), array(), "[ab\0é]{0,3}", number(), 0_u32..3, bytes()).prop_map(
        |(provider, deployment, owner, what, life, key_epoch, extra)| {
            let life = life.into();
            Place::Wrap { provider, deployment, owner, what, life, key_epoch, extra }
        },
    );
    let frame = (array(), number(), any::<bool>()).prop_map(|(header, counter, last)| Place::Frame {
        header,
        counter,
        last,
    });
    prop_oneof![3 => record, 2 => wrap, 1 => frame]
}

/// A place that differs from another by as little as possible: a byte across the border of two fields, or one field.
fn near(place: &Place, how: u8) -> Place {
    let mut near = place.clone();
    match &mut near {
        Place::Record { part, life, space, name, numbers, expires, extra, .. } => match how % 9 {
            0 => extra.extend(name.pop()),
            1 => name.extend(extra.pop()),
            2 => std::mem::swap(name, extra),
            3 => *part = (*part + 1) % 3,
            4 => numbers.rotate_left(1),
            5 => *expires = if expires.is_none() { Some(0) } else { None },
            6 => {
                // An expiry that moves into the next field is as long, and not the same.
                let moved = expires.take();
                *extra = moved.map_or_else(Vec::new, |at| at.to_be_bytes().to_vec());
            }
            7 => *life = life.rotate_left(8),
            _ => std::mem::swap(space, name.first_mut().unwrap_or(&mut 0)),
        },
        Place::Wrap { provider, what, life, key_epoch, extra, .. } => match how % 5 {
            0 => std::mem::swap(provider, what),
            1 => what.extend(provider.pop()),
            2 => provider.extend(what.pop()),
            3 => *extra = std::mem::take(what).into_bytes(),
            _ => {
                *key_epoch += 1;
                *life = life.rotate_left(8);
            }
        },
        Place::Frame { header, counter, last } => match how % 3 {
            0 => *last = !*last,
            1 => *counter = counter.swap_bytes(),
            _ => header.rotate_left(1),
        },
    }
    near
}

fn algorithm() -> impl Strategy<Value = Algorithm> {
    prop_oneof![Just(Algorithm::Record), Just(Algorithm::Committing)]
}

/// Each compares four pairs. `PROPTEST_CASES` of them, 20,000 unless told.
fn cases() -> ProptestConfig {
    let told = std::env::var_os("PROPTEST_CASES").is_some();
    if told { ProptestConfig::default() } else { ProptestConfig::with_cases(20_000) }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn associated_data_is_the_same_only_for_the_same_binding(
        a in (place(), algorithm(), 0_u32..3),
        other in (place(), algorithm(), 0_u32..3),
        how in any::<u8>(),
    ) {
        let encoded = |(place, algorithm, epoch): &(Place, Algorithm, u32)| {
            place.binding().associated_data(*algorithm, *epoch).unwrap()
        };
        let of_a = encoded(&a);
        prop_assert_eq!(&of_a, &encoded(&a.clone()));
        for b in [
            (near(&a.0, how), a.1, a.2),
            (near(&near(&a.0, how), how / 9), a.1, a.2),
            (a.0.clone(), other.1, other.2),
            other,
        ] {
            prop_assert_eq!(of_a == encoded(&b), a == b, "{:?} and {:?}", a, b);
        }
    }
}

fn key() -> SecretKey {
    SecretKey::from_bytes(&[7; 32])
}

fn record() -> Place {
    Place::Record {
        part: 1,
        deployment: [1; 16],
        owner: [2; 32],
        life: 3,
        space: 2,
        name: b"name".to_vec(),
        numbers: [0, 5, 4],
        expires: Some(6),
        extra: Vec::new(),
    }
}

fn wrap() -> Place {
    Place::Wrap {
        provider: "file".into(),
        deployment: [1; 16],
        owner: [2; 32],
        what: "dek".into(),
        life: 3,
        key_epoch: 1,
        extra: Vec::new(),
    }
}

proptest! {
    #[test]
    fn content_comes_back(
        place in place(),
        algorithm in algorithm(),
        epoch in any::<u32>(),
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..4),
        padded in any::<bool>(),
    ) {
        let binding = place.binding();
        let borrowed: Vec<_> = pieces.iter().map(Vec::as_slice).collect();
        let whole = pieces.concat();
        let content = if padded { Content::Padded(&borrowed) } else { Content::Plain(&borrowed) };
        let sealed = seal(&key(), algorithm, epoch, &binding, content);
        if !binding.allows(algorithm) {
            prop_assert_eq!(sealed.unwrap_err().kind(), ErrorKind::Invalid);
            return Ok(());
        }
        let sealed = sealed.unwrap();
        let len = if padded { padding::padded_len(whole.len()) } else { whole.len() };
        prop_assert_eq!(sealed.len(), algorithm.overhead() + len);
        prop_assert_eq!(sealed.capacity(), sealed.len(), "one allocation of the right size");
        prop_assert_eq!(Header::read(&sealed).unwrap(), Header { algorithm, epoch });
        let open = if padded { open_padded } else { open };
        prop_assert_eq!(&**open(&key(), algorithm, &binding, &sealed).unwrap(), &whole);
    }

    #[test]
    fn any_bytes_are_refused_without_a_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 0..200),
        algorithm in algorithm(),
    ) {
        for head in [None, Some([1, 1]), Some([1, 2])] {
            if let (Some(head), Some(start)) = (head, bytes.first_chunk_mut()) {
                *start = head;
            }
            let refused = open(&key(), algorithm, &record().binding(), &bytes).unwrap_err();
            prop_assert_eq!(refused.kind(), ErrorKind::Tampered);
        }
    }
}

#[test]
fn every_binding_opens_its_own_blob_alone() {
    for (algorithm, of) in
        [(Algorithm::Record, record()), (Algorithm::Committing, record()), (Algorithm::Committing, wrap())]
    {
        let sealed = seal(&key(), algorithm, 1, &of.binding(), Content::Plain(&[b"content"])).unwrap();
        let mut opened = 0;
        for how in 0..9 {
            let near = near(&of, how);
            match open(&key(), algorithm, &near.binding(), &sealed) {
                Ok(_) => {
                    assert_eq!(near, of);
                    opened += 1;
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::Tampered, "{near:?}"),
            }
        }
        assert!(opened <= 2, "{opened} of the near misses are the place itself");
        let other = SecretKey::from_bytes(&[8; 32]);
        assert_eq!(open(&other, algorithm, &of.binding(), &sealed).unwrap_err().kind(), ErrorKind::Tampered);
    }
}

#[test]
fn a_wrap_without_its_commitment_is_refused() {
    let place = wrap();
    let refused = seal(&key(), Algorithm::Record, 1, &place.binding(), Content::Plain(&[])).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    // What another program sealed under the key, without a commitment, and a reader that asks for it.
    let binding = place.binding();
    let associated_data = binding.associated_data(Algorithm::Record, 1).unwrap();
    let (salt, header) = ([9; SALT_BYTES], Header { algorithm: Algorithm::Record, epoch: 1 });
    let tag = Keys::derive(&key(), header, &salt)
        .cipher()
        .encrypt_inout_detached(&nonce(&salt), &associated_data, (&mut [][..]).into())
        .unwrap();
    let sealed = [&[1, 1, 0, 0, 0, 1][..], &salt, &tag].concat();
    for algorithm in [Algorithm::Record, Algorithm::Committing] {
        let refused = open(&key(), algorithm, &binding, &sealed).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Tampered);
    }
}

#[test]
fn the_reader_says_which_algorithm_it_takes() {
    let place = record();
    for (sealed_by, read_by) in
        [(Algorithm::Record, Algorithm::Committing), (Algorithm::Committing, Algorithm::Record)]
    {
        let sealed = seal(&key(), sealed_by, 1, &place.binding(), Content::Plain(&[b"a"])).unwrap();
        assert!(open(&key(), sealed_by, &place.binding(), &sealed).is_ok());
        let refused = open(&key(), read_by, &place.binding(), &sealed).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Tampered);
    }
}

#[test]
fn content_that_is_not_padded_is_not_opened_as_padded() {
    let place = record();
    let binding = place.binding();
    let sealed = seal(&key(), Algorithm::Record, 1, &binding, Content::Plain(&[b"plain"])).unwrap();
    let refused = open_padded(&key(), Algorithm::Record, &binding, &sealed).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Tampered);
}

#[test]
fn salts_are_new_and_run_out() {
    let place = record();
    let mut salts = Salts::draw(100).unwrap();
    let mut seal_one =
        || seal_from(&mut salts, &key(), Algorithm::Record, 1, &place.binding(), Content::Plain(&[b"a"]));
    let mut seen: std::collections::BTreeSet<_> =
        (0..100).map(|_| seal_one().unwrap()[6..30].to_vec()).collect();
    assert_eq!(seal_one().unwrap_err().kind(), ErrorKind::Invalid);
    for _ in 0..100 {
        let sealed = seal(&key(), Algorithm::Record, 1, &place.binding(), Content::Plain(&[b"a"])).unwrap();
        seen.insert(sealed[6..30].to_vec());
    }
    assert_eq!(seen.len(), 200);
}

/// Blobs that a hostile hand changed: `SYNTHA_MUTATIONS` of them, 20,000 unless told.
#[test]
fn changed_blobs_are_refused() {
    let count = std::env::var("SYNTHA_MUTATIONS").map_or(20_000, |count| count.parse().unwrap());
    let places =
        [(record(), Algorithm::Record), (record(), Algorithm::Committing), (wrap(), Algorithm::Committing)];
    let blobs: Vec<Vec<_>> = places
        .iter()
        .map(|(place, algorithm)| {
            let contents = (0..8_usize).map(|len| vec![u8::try_from(len).unwrap(); len * len * 5]);
            contents
                .map(|bytes| {
                    seal(&key(), *algorithm, 1, &place.binding(), Content::Padded(&[&bytes])).unwrap()
                })
                .collect()
        })
        .collect();
    let mut random = Random(0x5EED);
    let (mut changed, mut kinds) = (0, [0; 6]);
    while changed < count {
        let (which, one, other) = (random.below(3), random.below(8), random.below(8));
        let ((place, algorithm), original) = (&places[which], &blobs[which][one]);
        let mut blob = original.clone();
        let kind = random.below(6);
        match kind {
            0 => {
                for _ in 0..=random.below(3) {
                    let at = random.below(blob.len());
                    blob[at] ^= 1 << random.below(8);
                }
            }
            1 => blob.truncate(random.below(blob.len())),
            2 => {
                // The start of one blob and the end of another.
                let from = &blobs[random.below(3)][other];
                let at = random.below(blob.len().min(from.len()));
                blob.truncate(at);
                blob.extend_from_slice(&from[at..]);
            }
            3 => {
                let at = random.below(HEADER_BYTES);
                blob[at] = u8::try_from(random.below(256)).unwrap();
            }
            4 => blob.extend((0..=random.below(40)).map(|_| u8::try_from(random.below(256)).unwrap())),
            _ => {
                let (at, len) = (random.below(blob.len()), random.below(40));
                blob.drain(at..(at + len).min(blob.len()));
            }
        }
        if blobs[which].contains(&blob) {
            continue;
        }
        let opened = open(&key(), *algorithm, &place.binding(), &blob);
        assert_eq!(opened.map(|_| ()).unwrap_err().kind(), ErrorKind::Tampered, "kind {kind}");
        changed += 1;
        kinds[kind] += 1;
    }
    assert!(kinds.iter().all(|of_kind| *of_kind > count / 10), "{kinds:?}");
    println!("evidence: {changed} changed blobs, 0 accepted, 0 panics");
}

/// xorshift64*, so that a run can be done again.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize) % limit
    }
}
