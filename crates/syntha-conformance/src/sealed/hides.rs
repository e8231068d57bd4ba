//! What can be seen without a key.

use std::collections::HashSet;
use std::time::Duration;

use syntha_encryption::envelope;
use syntha_mesh::{InteractionLog, Message};
use syntha_store::{CreateMode, Keyspace, Op, Timestamp, UserTag};

use super::attacker::Raw;
use super::lens::{self, Lens};
use super::{Filled, checks, seq, text};
use crate::harness::Bed;
use crate::store::batch;

/// A text that no key or hash has in it by chance, in whichever form.
macro_rules! canary {
    ($end:literal) => {
        concat!("CANARY-of-the-sealed-suite-", $end)
    };
}

checks![sealed_salts_are_never_shared, sealed_users_share_no_bytes];

/// Of the mode that seals everything.
pub(super) const SEALED_CHECKS: &[crate::harness::Check] = sealed::CHECKS;
/// Of the mode that seals bodies.
pub(super) const VALUES_CHECKS: &[crate::harness::Check] = values::CHECKS;

mod sealed {
    use super::{
        checks, sealed_expiry_is_rounded, sealed_names_are_nowhere, sealed_sizes_are_padded,
        sealed_users_share_no_name,
    };

    checks![
        sealed_names_are_nowhere,
        sealed_sizes_are_padded,
        sealed_expiry_is_rounded,
        sealed_users_share_no_name,
    ];
}

mod values {
    use super::{checks, sealed_values_are_nowhere};

    checks![sealed_values_are_nowhere];
}

/// A mesh in which everything that can be named has a name of its own, and every value is one.
async fn named(bed: &Bed, user: &str) {
    let mesh = bed.mesh_with(user, |config| config.interactions = InteractionLog::All).await;
    let agent = mesh.agent(canary!("AGENT")).unwrap();
    agent.subscribe([canary!("TOPIC")]).await.unwrap();
    agent
        .push(canary!("KEY"), canary!("VALUE"))
        .topic(canary!("TOPIC"))
        .agents([canary!("READER")])
        .await
        .unwrap();
    agent.push(canary!("TTL"), canary!("VALUE")).ttl(Duration::from_secs(1_000)).await.unwrap();
    agent.push(canary!("ONCE"), canary!("VALUE")).operation(canary!("OPERATION")).await.unwrap();
    agent.push(canary!("GONE"), canary!("VALUE")).await.unwrap();
    mesh.remove(canary!("GONE")).await.unwrap();
    mesh.register_agent(canary!("FORMER")).await.unwrap();
    mesh.unregister_agent(canary!("FORMER")).await.unwrap();
    let thread = agent.thread(canary!("THREAD")).unwrap();
    thread.create_for([canary!("READER")]).await.unwrap();
    let message =
        Message::user(canary!("VALUE")).id(canary!("MESSAGE")).metadata(canary!("META"), canary!("VALUE"));
    thread.append(message).await.unwrap();
    agent.get::<String>(canary!("KEY")).await.unwrap();
}

/// Everything that lies below: files, raw records and notes, and the keystore's rows.
async fn everything(bed: &Bed, users: &[UserTag]) -> Vec<(String, Vec<u8>)> {
    let mut all = bed.files().await;
    let below = bed.below();
    let mut raws = vec![("deployment".to_owned(), Raw::of_deployment(&*below).await)];
    for user in users {
        raws.push(("user".to_owned(), Raw::of_user(&*below, *user).await));
    }
    for (name, raw) in raws {
        for ((space, id), record) in &raw.records {
            let bytes = [&id.name()[..], &record.head.head[..], &record.body[..]].concat();
            all.push((format!("{name}, {space:?}"), bytes));
        }
        all.push((format!("{name}, note"), raw.state.note.as_bytes().to_vec()));
    }
    for (id, row) in lens::rows(&*bed.keys()).await {
        all.push(("a row of keys".to_owned(), [&id.name()[..], row.to_string().as_bytes()].concat()));
    }
    all
}

/// A text as it is, and as it might be written otherwise.
fn forms(text: &str) -> Vec<Vec<u8>> {
    let mut forms = vec![
        text.as_bytes().to_vec(),
        data_encoding::HEXLOWER.encode(text.as_bytes()).into_bytes(),
        data_encoding::HEXUPPER.encode(text.as_bytes()).into_bytes(),
        text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
    ];
    // In base64 at each of the three places that a text can start at, without what its neighbours decide.
    for before in 0..3 {
        let encoded = data_encoding::BASE64_NOPAD.encode(&[&vec![0; before], text.as_bytes()].concat());
        forms.push(encoded.as_bytes()[4..encoded.len() - 2].to_vec());
    }
    forms
}

fn assert_nowhere(canary: &str, all: &[(String, Vec<u8>)]) {
    for (name, bytes) in all {
        for form in forms(canary) {
            assert!(!bytes.windows(form.len()).any(|window| window == form), "{canary} is in {name}");
        }
    }
}

async fn sealed_names_are_nowhere(mut bed: Bed) {
    bed.store().deployment().await.unwrap().commit(directory()).await.unwrap();
    named(&bed, "a").await;
    for _ in 0..2 {
        let all = everything(&bed, &[bed.tag("a")]).await;
        assert!(all.len() > 15);
        assert_nowhere(canary!(""), &all);
        bed.reopen().await;
    }
}

/// A record of the deployment's own space.
fn directory() -> syntha_store::Batch {
    let space = Keyspace::Directory;
    batch().put(space, seq(canary!("NAME"), 0), text(canary!("NAME")), text(canary!("VALUE")))
}

async fn sealed_values_are_nowhere(mut bed: Bed) {
    bed.store().deployment().await.unwrap().commit(directory()).await.unwrap();
    named(&bed, "a").await;
    for _ in 0..2 {
        let all = everything(&bed, &[bed.tag("a")]).await;
        assert_nowhere(canary!("VALUE"), &all);
        let shown = |canary: &str| {
            all.iter().any(|(_, bytes)| bytes.windows(canary.len()).any(|window| window == canary.as_bytes()))
        };
        assert!(shown(canary!("KEY")) && shown(canary!("THREAD")), "names are for the operator to see");
        bed.reopen().await;
    }
}

async fn sealed_sizes_are_padded(bed: Bed) {
    let user = bed.user("a").await;
    let put = |name: &str, head: usize, body: usize| {
        batch().put(Keyspace::Context, seq(name, 0), vec![b'h'; head], vec![b'b'; body])
    };
    let mut lengths = HashSet::new();
    for n in 1..=60 {
        user.commit(put("one", n % 28, n)).await.unwrap();
        let raw = Raw::of_user(&*bed.below(), bed.tag("a")).await;
        let lens = Lens::of(&*bed.keys(), *bed.tag("a").as_bytes(), raw.state.stamp.incarnation).await;
        let record = &raw.records[&lens.place(Keyspace::Context, "one", 0)];
        lengths.insert((record.head.head.len(), record.body.len()));
    }
    assert_eq!(lengths.len(), 1, "{lengths:?}");
    // Longer ones come in few lengths, none of them much longer than what it holds.
    let mut lengths = HashSet::new();
    for n in (100..4_000).step_by(100) {
        user.commit(put("two", n, n)).await.unwrap();
        let raw = Raw::of_user(&*bed.below(), bed.tag("a")).await;
        let lens = Lens::of(&*bed.keys(), *bed.tag("a").as_bytes(), raw.state.stamp.incarnation).await;
        let body = raw.records[&lens.place(Keyspace::Context, "two", 0)].body.len();
        assert!(body > n && body <= n + n / 8 + 128, "{n} bytes are stored as {body}");
        lengths.insert(body);
    }
    let counts = (lengths.len(), (100..4_000).step_by(100).count());
    assert!(counts.0 < counts.1 && !lengths.contains(&(1_000 + 46)), "{counts:?}");
    let mut near = HashSet::new();
    for n in 1_000..1_016 {
        user.commit(put("three", 1, n)).await.unwrap();
        let raw = Raw::of_user(&*bed.below(), bed.tag("a")).await;
        let lens = Lens::of(&*bed.keys(), *bed.tag("a").as_bytes(), raw.state.stamp.incarnation).await;
        near.insert(raw.records[&lens.place(Keyspace::Context, "three", 0)].body.len());
    }
    assert!(near.len() <= 2, "{near:?}");
}

async fn sealed_expiry_is_rounded(bed: Bed) {
    let user = bed.user("a").await;
    for at in [1, 59_999, 60_000, 60_001, 1_700_000_012_345, i64::MAX as u64] {
        let put = Op::Put {
            space: Keyspace::Context,
            id: seq("k", 0),
            head: text("head"),
            body: text("body"),
            expires: Some(Timestamp(at)),
        };
        user.commit(batch().op(put)).await.unwrap();
        let raw = Raw::of_user(&*bed.below(), bed.tag("a")).await;
        let stored: Vec<_> = raw.records.values().filter_map(|record| record.head.expires).collect();
        let expected = at.checked_next_multiple_of(60_000).unwrap().min(i64::MAX as u64);
        assert_eq!(stored, [Timestamp(expected)]);
        let read = user.read(Keyspace::Context, &[seq("k", 0)]).await.unwrap().value;
        assert_eq!(read[0].as_ref().unwrap().head.expires, Some(Timestamp(at)));
    }
}

/// The salts of everything that is sealed.
fn salts(lens: &Lens, raw: &Raw, found: &mut Vec<[u8; envelope::SALT_BYTES]>) {
    let salt = |blob: &[u8]| <[u8; 24]>::try_from(&blob[6..30]).unwrap();
    for record in raw.records.values() {
        found.push(salt(lens.split(&record.head.head).1));
        if !record.body.is_empty() {
            found.push(salt(&record.body));
        }
    }
    found.push(salt(raw.state.note.as_bytes()));
}

async fn sealed_salts_are_never_shared(bed: Bed) {
    let user = bed.user("a").await;
    let other = bed.open("a").await;
    let (mut found, mut lens) = (Vec::new(), None);
    for round in 0..4 {
        let mut next = batch();
        for n in 0..500 {
            let (id, head) = (seq("k", n), text("head"));
            next = match round {
                3 => next.op(Op::PutHead { space: Keyspace::Context, id, head, expires: None }),
                _ => next.put(Keyspace::Context, id, head, text("body")),
            };
        }
        if round % 2 == 0 { &user } else { &other }.commit(next).await.unwrap();
        let mut raw = Raw::of_user(&*bed.below(), bed.tag("a")).await;
        let life = raw.state.stamp.incarnation;
        if lens.is_none() {
            lens = Some(Lens::of(&*bed.keys(), *bed.tag("a").as_bytes(), life).await);
        } else {
            // Seen in the first round, and not written since.
            raw.records.retain(|_, record| record.head.version.0 == raw.state.stamp.epoch.0);
        }
        if round == 3 {
            // Bodies stay under a head-only write.
            raw.records.values_mut().for_each(|record| record.body.0.clear());
        }
        salts(lens.as_ref().unwrap(), &raw, &mut found);
    }
    // Another user's, and the deployment's own.
    let filled = Filled::new(&bed, "b").await;
    salts(&filled.lens, &filled.raw, &mut found);
    let count = found.len();
    assert!(count > 3_500, "{count}");
    let distinct: HashSet<_> = found.iter().collect();
    assert_eq!(distinct.len(), count, "a salt was used twice");
    // Nor the half that makes the key, nor the half that is the nonce.
    for half in [0..12, 12..24] {
        let distinct: HashSet<_> = found.iter().map(|salt| &salt[half.clone()]).collect();
        assert_eq!(distinct.len(), count, "half a salt was used twice");
    }
}

async fn sealed_users_share_no_bytes(bed: Bed) {
    // The same operations on both give the same versions.
    let mut seen: HashSet<Vec<u8>> = HashSet::new();
    for user in ["a", "b"] {
        let (first, store) = (super::named(batch(), 1), bed.store());
        let handle = store.create(bed.tag(user), first, CreateMode::New).await.unwrap().0;
        handle.commit(super::named(batch(), 2)).await.unwrap();
        let raw = Raw::of_user(&*bed.below(), bed.tag(user)).await;
        let lens = Lens::of(&*bed.keys(), *bed.tag(user).as_bytes(), raw.state.stamp.incarnation).await;
        let mut own = HashSet::new();
        let heads = raw.records.values().map(|record| lens.split(&record.head.head).1);
        let bodies = raw.records.values().map(|record| &record.body[..]).filter(|body| !body.is_empty());
        for blob in heads.chain(bodies).chain([raw.state.note.as_bytes()]) {
            own.extend(blob[6..].windows(16).map(<[u8]>::to_vec));
        }
        assert!(own.len() > 500);
        assert!(seen.is_disjoint(&own), "two users share sealed bytes");
        seen.extend(own);
    }
}

async fn sealed_users_share_no_name(bed: Bed) {
    let (a, b) = (Filled::new(&bed, "a").await, Filled::new(&bed, "b").await);
    let names =
        |of: &Filled| -> HashSet<_> { of.raw.records.keys().map(|(_, id)| id.name().clone()).collect() };
    assert!(names(&a).is_disjoint(&names(&b)));
    assert!(names(&a).iter().all(|name| name.len() == 32));
    // Nor do two keyspaces of one user.
    let spaces: HashSet<_> = a.raw.records.keys().map(|(space, id)| (*space, id.name().clone())).collect();
    assert_eq!(spaces.len(), names(&a).len());
}
