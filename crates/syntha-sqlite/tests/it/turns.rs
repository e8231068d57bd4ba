//! Open files are given out in turns, and a group that opens many loses its own.

use std::sync::Arc;

use parking_lot::Mutex;
use syntha_sqlite::SqliteConfig;
use syntha_store::{OwnerGroups, Store};

use crate::Bed;

#[cfg(feature = "faults")]
type Planted = Option<syntha_sqlite::Fault>;
#[cfg(not(feature = "faults"))]
type Planted = Option<std::convert::Infallible>;

/// A deployment of so many open files, with 60 users of one group and one of another, none of them open.
async fn bed(connections: usize, planted: Planted) -> Bed {
    let groups = OwnerGroups::new();
    let own = groups.clone();
    let bed = Bed::with(|config| {
        let config: SqliteConfig = config.connections(connections).owner_groups(own);
        #[cfg(feature = "faults")]
        if let Some(fault) = planted {
            return config.fault(fault);
        }
        let _ = planted;
        config
    })
    .await;
    for n in 0..60 {
        groups.set(bed.tag(&format!("many {n}")), 1);
        bed.user(&format!("many {n}")).await;
    }
    groups.set(bed.tag("quiet"), 2);
    bed.user("quiet").await;
    for n in 0..connections {
        bed.store.open(bed.tag(&format!("many {n}"))).await.unwrap();
    }
    bed
}

fn is_open(bed: &Bed, name: &str) -> bool {
    let stem = bed.tag(name).to_string();
    std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .flatten()
        .any(|file| std::fs::read_link(file.path()).is_ok_and(|path| path.to_string_lossy().contains(&stem)))
}

/// Whether a user's file stays open while 50 users of another group come one after the other.
async fn stays_open(planted: Planted) -> bool {
    let bed = bed(8, planted).await;
    bed.store.open(bed.tag("quiet")).await.unwrap();
    assert!(is_open(&bed, "quiet"));
    for n in 10..60 {
        bed.store.open(bed.tag(&format!("many {n}"))).await.unwrap();
    }
    is_open(&bed, "quiet")
}

/// How many of 60 users of one group are opened before one of another who comes last, with one file at a time.
async fn opened_before(planted: Planted) -> usize {
    let bed = Arc::new(bed(1, planted).await);
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..=60 {
        let (bed, order) = (Arc::clone(&bed), Arc::clone(&order));
        tasks.spawn(async move {
            let name = if n == 60 { "quiet".to_owned() } else { format!("many {n}") };
            bed.store.open(bed.tag(&name)).await.unwrap();
            order.lock().push(n);
        });
    }
    tasks.join_all().await;
    order.lock().iter().position(|n| *n == 60).unwrap()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_group_that_opens_many_files_closes_its_own() {
    assert!(stays_open(None).await);
    #[cfg(feature = "faults")]
    assert!(!stays_open(Some(syntha_sqlite::Fault::EvictionIgnoresGroups)).await, "nobody noticed");
}

#[tokio::test]
async fn one_waits_for_a_file_behind_one_of_a_group() {
    // One is under way, one comes at its turn, and one may be ready that was not looked at yet.
    let before = opened_before(None).await;
    assert!(before <= 3, "{before}");
    #[cfg(feature = "faults")]
    {
        let before = opened_before(Some(syntha_sqlite::Fault::FilesFirstCome)).await;
        assert!(before > 50, "nobody noticed: {before}");
    }
}
