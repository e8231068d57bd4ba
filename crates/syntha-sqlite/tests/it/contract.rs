use std::sync::Arc;

use syntha_store::{Batch, CreateMode, ErrorKind, Expect, Keyspace, Outcome, Store, Timestamp};

use crate::{Bed, get, id, put};

#[tokio::test]
async fn what_was_committed_survives_a_crash() {
    let bed = Bed::new().await;
    let alice = bed.user("alice").await;
    for n in 0..20_u8 {
        alice.commit(put("counter", &[n])).await.unwrap();
    }
    let before = alice.state().await.unwrap();
    drop(alice);
    let bed = bed.crash().await;
    let alice = bed.store.open(bed.tag("alice")).await.unwrap();
    assert_eq!(alice.state().await.unwrap(), before);
    assert_eq!(get(&*alice, "counter").await.unwrap(), [19]);
}

#[tokio::test]
async fn fifty_users_share_four_connections() {
    let bed = Bed::with(|config| config.connections(4)).await;
    let bed = Arc::new(bed);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..50 {
        let bed = Arc::clone(&bed);
        tasks.spawn(async move {
            let name = format!("user-{n}");
            let user = bed.user(&name).await;
            for round in 0..5_u8 {
                user.commit(put("round", &[round])).await.unwrap();
                tokio::task::yield_now().await;
                assert_eq!(get(&*user, "round").await.unwrap(), [round]);
                assert_eq!(get(&*user, "name").await.unwrap(), name.as_bytes());
            }
        });
    }
    tasks.join_all().await;
    let descriptors = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    assert!(descriptors < 4 * 3 + 64, "{descriptors}");
    assert_eq!(bed.store.list(None, 100).await.unwrap().len(), 50);
}

#[tokio::test]
async fn a_stale_writer_is_refused_and_its_batch_leaves_nothing() {
    let bed = Bed::new().await;
    let alice = bed.user("alice").await;
    let stale = alice.state().await.unwrap().stamp;
    alice.commit(put("a", b"1")).await.unwrap();
    let late = put("a", b"2").put(Keyspace::Context, id("b"), "", "").expect(Expect::Stamp(stale));
    let batch = late.id;
    assert_eq!(alice.commit(late).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(get(&*alice, "a").await.unwrap(), b"1");
    assert_eq!(get(&*alice, "b").await, None);
    assert_eq!(alice.outcome(batch, stale).await.unwrap(), Outcome::Not);
}

#[tokio::test]
async fn racing_creators_make_one_user() {
    let bed = Arc::new(Bed::new().await);
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..16_u8 {
        let bed = Arc::clone(&bed);
        tasks.spawn(async move {
            bed.store.create(bed.tag("alice"), put("n", &[n]), CreateMode::New).await.is_ok()
        });
    }
    assert_eq!(tasks.join_all().await.into_iter().filter(|won| *won).count(), 1);
}

/// Drops a commit after each number of polls: it happened whole or not at all, and the next one works.
#[tokio::test]
async fn a_caller_who_gives_up_tears_nothing() {
    let bed = Bed::with(|config| config.connections(1)).await;
    let (alice, bob) = (bed.user("alice").await, bed.user("bob").await);
    for round in 0..300_u32 {
        let value = round.to_be_bytes();
        let mut batch = Batch::new(Timestamp(1)).unwrap();
        batch = batch.put(Keyspace::Context, id("left"), "", value.to_vec());
        batch = batch.put(Keyspace::Context, id("right"), "", value.to_vec());
        let (batch_id, since) = (batch.id, alice.state().await.unwrap().stamp);
        {
            let mut commit = std::pin::pin!(alice.commit(batch));
            for _ in 0..round % 6 {
                let mut context = std::task::Context::from_waker(std::task::Waker::noop());
                if commit.as_mut().poll(&mut context).is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        let both = [get(&*alice, "left").await, get(&*alice, "right").await];
        assert_eq!(both[0], both[1]);
        let happened = both[0].as_deref() == Some(value.as_slice());
        let outcome = alice.outcome(batch_id, since).await.unwrap();
        assert_eq!(happened, matches!(outcome, Outcome::Committed(_)));
        assert_eq!(alice.state().await.unwrap().stamp.epoch.0, since.epoch.0 + u64::from(happened));
        bob.commit(put("round", &value)).await.unwrap();
    }
}
