//! A watch that nobody reads costs its own user, within bounds.

use syntha::{MeshConfig, UserManager, WatchConfig, WatchEvent};

#[tokio::test]
async fn fairness_of_watches_is_untouched_by_a_slow_one() {
    let (users, host) = UserManager::builder().memory().mesh(MeshConfig::default()).open().await.unwrap();
    let (slow, quiet) = (
        users.create_user_session(&host, "slow").await.unwrap(),
        users.create_user_session(&host, "quiet").await.unwrap(),
    );
    let mut idle = Vec::new();
    for _ in 0..64 {
        let mut watch = slow.watch(WatchConfig::new()).await.unwrap();
        assert!(matches!(watch.next().await, Some(Ok(WatchEvent::Snapshot(_)))));
        idle.push(watch);
    }
    // One user has no more of them, however many others have.
    assert!(slow.watch(WatchConfig::new()).await.is_err());
    let mut reads = quiet.watch(WatchConfig::new()).await.unwrap();
    assert!(matches!(reads.next().await, Some(Ok(WatchEvent::Snapshot(_)))));
    let before = resident_kib();
    let value = "x".repeat(100_000);
    for n in 0..2_000 {
        slow.push(format!("key-{}", n % 4), &value).await.unwrap();
        if n % 100 == 0 {
            quiet.push("mine", n).await.unwrap();
            let event = reads.next().await.unwrap().unwrap();
            assert!(
                matches!(event, WatchEvent::Put(entry) if entry.key() == "mine" && entry.json() == n.to_string())
            );
        }
    }
    let grown = resident_kib().saturating_sub(before);
    // Unbounded, the values alone would be 200 MB.
    assert!(grown < 100_000, "{grown} KiB more");
    for mut watch in idle {
        assert!(matches!(watch.next().await, Some(Ok(WatchEvent::Lagged { missed })) if missed > 1_000));
    }
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
