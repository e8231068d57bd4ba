//! Blobs in other places than their own.

use syntha_encryption::envelope::{Algorithm, Binding, RecordBinding};
use syntha_mesh::Filter;
use syntha_store::{ErrorKind, Incarnation, Keyspace, Timestamp, Version};

use super::attacker::{Raw, drained, opened};
use super::lens::{AS_IT_IS, Edit};
use super::{Filled, assert_tampered, checks, kind, open_forged, seq, spaces};
use crate::harness::Bed;

checks![
    sealed_as_the_format_says,
    sealed_swap_deployment,
    sealed_swap_user,
    sealed_swap_life,
    sealed_swap_keyspace,
    sealed_swap_name,
    sealed_swap_seq,
    sealed_swap_version,
    sealed_swap_expiry,
    sealed_swap_epoch,
    sealed_swap_part,
    sealed_swap_audience,
    sealed_swap_of_any_two,
    sealed_splice,
];

async fn sealed_as_the_format_says(bed: Bed) {
    let filled = Filled::new(&bed, "a").await;
    let real = opened(&*bed.open("a").await, &spaces(&bed)).await.unwrap();
    let user = open_forged(&bed, filled.tag, filled.raw.clone()).await.unwrap();
    assert!(opened(&*user, &spaces(&bed)).await.unwrap() == real, "the attacker shows what is there");
    assert_eq!(drained(&*user).await.unwrap(), real.len());
    // Sealed again by hand, all of it at once.
    let mut raw = filled.raw.clone();
    for ((space, id), record) in &filled.raw.records {
        let opened = filled.lens.open(*space, record);
        let head = filled.lens.head(*space, record, &opened, AS_IT_IS);
        let body = match opened.body {
            Some(_) => filled.lens.body(*space, record, &opened, AS_IT_IS),
            None => Vec::new(),
        };
        assert_ne!(head, record.head.head);
        assert_eq!((head.len(), body.len()), (record.head.head.len(), record.body.len()));
        raw = raw.with(&(*space, id.clone()), &head, &body);
    }
    let user = open_forged(&bed, filled.tag, raw).await.unwrap();
    assert!(opened(&*user, &spaces(&bed)).await.unwrap() == real, "the layer takes what the format allows");
    assert!(real.len() > 4 * filled.spaces.len() + 4);
}

/// Of records of every kind, a head, and a body, that is sealed under the right key for a place that differs in one field.
async fn swap(bed: &Bed, edits: &[Edit<'_>]) {
    let filled = Filled::new(bed, "a").await;
    for edit in edits {
        for called in &filled.targets() {
            let place = filled.place(*called);
            let record = &filled.raw.records[&place];
            let opened = filled.lens.open(place.0, record);
            let head = filled.lens.head(place.0, record, &opened, edit);
            let raw = filled.raw.with(&place, &head, &record.body);
            assert_tampered(bed, filled.tag, raw, *called, true, "a head").await;
            if opened.body.is_some() {
                let body = filled.lens.body(place.0, record, &opened, edit);
                let raw = filled.raw.with(&place, &record.head.head, &body);
                assert_tampered(bed, filled.tag, raw, *called, false, "a body").await;
            }
        }
    }
}

async fn sealed_swap_deployment(bed: Bed) {
    swap(&bed, &[&|to| to.deployment = b"another one, too"]).await;
}

async fn sealed_swap_user(bed: Bed) {
    swap(&bed, &[&|to| to.owner = &[1; 32], &|to| to.owner = &[0; 32]]).await;
}

async fn sealed_swap_life(bed: Bed) {
    swap(&bed, &[&|to| to.life = Incarnation(to.life.0 ^ 1), &|to| to.life = Incarnation(0)]).await;
}

async fn sealed_swap_keyspace(bed: Bed) {
    swap(&bed, &[&|to| to.space ^= 1, &|to| to.space = 0]).await;
}

async fn sealed_swap_name(bed: Bed) {
    swap(&bed, &[&|to| to.name = b"another", &|to| to.name = b"", &|to| to.name = &to.name[1..]]).await;
}

async fn sealed_swap_seq(bed: Bed) {
    swap(&bed, &[&|to| to.seq ^= 1]).await;
}

async fn sealed_swap_version(bed: Bed) {
    let other = |version: Version| Version(version.0 - 1);
    swap(
        &bed,
        &[&|to: &mut RecordBinding<'_>| to.version = other(to.version), &|to: &mut RecordBinding<'_>| {
            to.body_version = other(to.body_version)
        }],
    )
    .await;
}

async fn sealed_swap_expiry(bed: Bed) {
    let other = |to: &mut RecordBinding<'_>| {
        to.expires = match to.expires {
            None => Some(Timestamp(1_700_000_060_000)),
            Some(at) => Some(Timestamp(at.0 + 60_000)),
        };
    };
    swap(&bed, &[&other]).await;
    // What stands beside the record is the attacker's.
    let filled = Filled::new(&bed, "b").await;
    let expires = (Keyspace::Context, "expires", 0);
    let column = |called, at: Option<u64>| {
        let mut raw = filled.raw.clone();
        raw.records.get_mut(&filled.place(called)).unwrap().head.expires = at.map(Timestamp);
        raw
    };
    for at in [None, Some(0), Some(1_700_000_012_344), Some(1_700_000_120_000)] {
        assert_tampered(&bed, filled.tag, column(expires, at), expires, true, "an expiry").await;
    }
    let lasts = (Keyspace::Context, "lasts", 0);
    for at in [0, 1_700_000_060_000] {
        assert_tampered(&bed, filled.tag, column(lasts, Some(at)), lasts, true, "an expiry").await;
    }
}

async fn sealed_swap_epoch(bed: Bed) {
    let filled = Filled::new(&bed, "a").await;
    for called in &filled.targets() {
        let place = filled.place(*called);
        let record = &filled.raw.records[&place];
        let opened = filled.lens.open(place.0, record);
        for sealing in [
            (2, Algorithm::Record),
            (0, Algorithm::Record),
            (u32::MAX, Algorithm::Record),
            (1, Algorithm::Committing),
        ] {
            let head = filled.lens.head_with(place.0, record, &opened, AS_IT_IS, sealing, Binding::Head);
            let raw = filled.raw.with(&place, &head, &record.body);
            assert_tampered(&bed, filled.tag, raw, *called, true, "a head").await;
            if opened.body.is_some() {
                let body = filled.lens.body_with(place.0, record, &opened, AS_IT_IS, sealing, false);
                let raw = filled.raw.with(&place, &record.head.head, &body);
                assert_tampered(&bed, filled.tag, raw, *called, false, "a body").await;
            }
        }
    }
}

async fn sealed_swap_part(bed: Bed) {
    let filled = Filled::new(&bed, "a").await;
    let sealing = (1, Algorithm::Record);
    for called in &filled.targets() {
        let place = filled.place(*called);
        let record = &filled.raw.records[&place];
        let opened = filled.lens.open(place.0, record);
        for part in [Binding::Body, Binding::Note] {
            let head = filled.lens.head_with(place.0, record, &opened, AS_IT_IS, sealing, part);
            let raw = filled.raw.with(&place, &head, &record.body);
            assert_tampered(&bed, filled.tag, raw, *called, true, "sealed as another part").await;
        }
        let note = filled.raw.state.note;
        for (head, body) in [
            (&record.body[..], &record.body[..]),
            (&record.body[..], &record.head.head[..]),
            (note.as_bytes(), &record.body[..]),
        ] {
            let raw = filled.raw.with(&place, head, body);
            assert_tampered(&bed, filled.tag, raw, *called, true, "another part").await;
        }
        if opened.body.is_some() {
            let body = filled.lens.body_with(place.0, record, &opened, AS_IT_IS, sealing, true);
            for body in [&body[..], &record.head.head[..], note.as_bytes()] {
                let raw = filled.raw.with(&place, &record.head.head, body);
                assert_tampered(&bed, filled.tag, raw, *called, false, "another part").await;
            }
        }
    }
}

async fn sealed_swap_audience(bed: Bed) {
    {
        let mesh = bed.mesh("a").await;
        let agent = mesh.agent("ann").unwrap();
        // One commit, so that the heads differ in name and audience alone.
        let batch = agent.batch().push("open", 1).push("closed", 2);
        batch.commit().await.unwrap();
        agent.push("closed", 2).agents(["ann"]).await.unwrap();
        agent.push("open", 1).await.unwrap();
        assert_eq!(mesh.agent("eve").unwrap().all(&Filter::new()).await.unwrap().len(), 1);
    }
    let (tag, below) = (bed.tag("a"), bed.below());
    let raw = Raw::of_user(&*below, tag).await;
    let lens = super::Lens::of(&*bed.keys(), *tag.as_bytes(), raw.state.stamp.incarnation).await;
    let [open, closed] = ["open", "closed"].map(|name| lens.place(Keyspace::Context, name, 0));
    let head = |place| raw.records[place].head.head.clone();
    let body = |place| raw.records[place].body.0.clone();
    let swapped = raw.with(&closed, &head(&open), &body(&closed)).with(&open, &head(&closed), &body(&open));
    let user = open_forged(&bed, tag, swapped).await.unwrap();
    for name in ["open", "closed"] {
        assert_eq!(kind(user.read(Keyspace::Context, &[seq(name, 0)]).await), ErrorKind::Tampered);
    }
    // With the words of the open one beside the seal of the closed one, where words are readable.
    let ((clear, _), (_, sealed)) =
        (lens.split(&raw.records[&open].head.head), lens.split(&raw.records[&closed].head.head));
    if !clear.is_empty() {
        let head = [clear, sealed].concat();
        let user = open_forged(&bed, tag, raw.with(&closed, &head, &body(&closed))).await.unwrap();
        assert_eq!(kind(user.read(Keyspace::Context, &[seq("closed", 0)]).await), ErrorKind::Tampered);
    }
    let mesh = syntha_mesh::Mesh::open(user, false, syntha_mesh::MeshConfig::default()).await;
    assert!(mesh.is_err(), "a mesh opened on exchanged heads");
}

async fn sealed_swap_of_any_two(bed: Bed) {
    let (filled, other) = (Filled::new(&bed, "a").await, Filled::new(&bed, "b").await);
    // Of two keyspaces that share a key, and one that does not.
    let mut called = filled.called();
    called.retain(|(space, ..)| matches!(space, Keyspace::Context | Keyspace::Agents | Keyspace::History));
    let places: Vec<_> = called.iter().map(|called| filled.place(*called)).collect();
    // What the user has, what the user had, and what another user has in the same places.
    let mut blobs: Vec<_> = Vec::new();
    for of in [&filled, &other] {
        for called in &called {
            let place = of.place(*called);
            for raw in [&of.raw, &of.before] {
                blobs.push((raw.records[&place].head.head.clone(), raw.records[&place].body.0.clone()));
            }
        }
    }
    let mut count = 0;
    for turn in 0..blobs.len() {
        for (heads, bodies) in [(true, true), (true, false), (false, true)] {
            let mut raw = filled.raw.clone();
            let mut changed = Vec::new();
            for (n, place) in places.iter().enumerate() {
                let own = &filled.raw.records[place];
                let (head, body) = &blobs[(n + turn) % blobs.len()];
                let head = if heads { head } else { &own.head.head };
                let body = if bodies { body } else { &own.body.0 };
                if *head != own.head.head || *body != own.body.0 {
                    changed.push(called[n]);
                    raw = raw.with(place, head, body);
                }
            }
            let user = open_forged(&bed, filled.tag, raw).await.unwrap();
            for (space, name, n) in changed {
                let read = user.read(space, &[seq(name, n)]).await;
                assert_eq!(kind(read), ErrorKind::Tampered, "turn {turn}: {space:?} {name} {n}");
                count += 1;
            }
        }
    }
    assert!(count > places.len() * blobs.len() * 2, "only {count} were tried");
}

async fn sealed_splice(bed: Bed) {
    let filled = Filled::new(&bed, "a").await;
    let called = (Keyspace::Context, "again", 0);
    let place = filled.place(called);
    let (before, now) = (&filled.before.records[&place], &filled.raw.records[&place]);
    let raw = filled.raw.with(&place, &now.head.head, &before.body);
    assert_tampered(&bed, filled.tag, raw, called, false, "an earlier body").await;
    // Both are of one commit: two writes of it that only one of reached the store, as a faulty backend would show them.
    let (opened, former) = (filled.lens.open(place.0, now), filled.lens.open(place.0, before));
    let body = filled.lens.body(place.0, now, &former, AS_IT_IS);
    let raw = filled.raw.with(&place, &now.head.head, &body);
    assert_tampered(&bed, filled.tag, raw, called, false, "another write's body").await;
    let mut spliced = opened;
    spliced.head[2..18].copy_from_slice(former.token());
    let head = filled.lens.head(place.0, now, &spliced, AS_IT_IS);
    let raw = filled.raw.with(&place, &head, &now.body);
    assert_tampered(&bed, filled.tag, raw.clone(), called, false, "another write's head").await;
    // The earlier write whole, in the place of the later one.
    let raw = filled.raw.with(&place, &before.head.head, &before.body);
    assert_tampered(&bed, filled.tag, raw, called, true, "an earlier write").await;
    // A head-only write goes on with the body of before.
    let kept = filled.place((Keyspace::Context, "kept", 0));
    assert_eq!(filled.before.records[&kept].body, filled.raw.records[&kept].body);
}
