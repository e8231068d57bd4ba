//! Rows of a user with very many entries, beside one with a hundred.

use std::hint::black_box;
use std::ops::Range;
use std::time::Instant;

use syntha::{Agent, HostAuthority, Session, UserManager};

use crate::bare::value;
use crate::pair::Report;

const FEW: u64 = 100;
/// The names of the rows say so, too.
const MANY: u64 = 1_000_000;
const BATCH: u64 = 250;
const READS: u64 = 200_000;
const COLD_READS: u64 = 2_000;
const PUSHES: u64 = 200;

pub(crate) async fn run(report: &mut Report) {
    let (get, cold, push, open) = (
        "get, of 1,000,000 entries",
        "get, of 1,000,000 entries, any of them",
        "push, of 1,000,000 entries",
        "open, of 1,000,000 entries, each",
    );
    if ![get, cold, push, open].iter().any(|name| report.wants(name)) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let (users, host) = opened(&data).await;
    let small = filled(&users, &host, "small", FEW).await;
    let large = filled(&users, &host, "large", MANY).await;
    let (few, lot) = (small.agent("agent").unwrap(), large.agent("agent").unwrap());
    let budget = "0.8 to 1.2× of a user with 100 entries";
    report
        .pair(get, budget, |_| read(few.clone(), FEW, 0..READS), |_| read(lot.clone(), FEW, 0..READS))
        .await;
    // Each value once. The small user's are all in memory, so this is shown, not promised.
    let cold_reads = |turn: u64| turn * COLD_READS..(turn + 1) * COLD_READS;
    let warm = |turn| read(few.clone(), FEW, cold_reads(turn));
    report
        .pair(cold, "shown: values that are not in memory", warm, |turn| {
            read(lot.clone(), MANY, cold_reads(turn))
        })
        .await;
    report
        .pair_of(4, push, budget, |turn| write(few.clone(), FEW, turn), |turn| write(lot.clone(), MANY, turn))
        .await;
    drop((few, lot, small, large));
    users.shutdown().await.unwrap();
    drop(host);
    let (users, host) = opened(&data).await;
    let start = Instant::now();
    let large = users.open(&host, "large").await.unwrap();
    let took = start.elapsed().as_secs_f64() * 1e6;
    let note = format!("{MANY} entries in {:.2} s", took / 1e6);
    report.add(open, "µs", &[took / MANY as f64], None, "linear", note);
    drop(large);
    users.shutdown().await.unwrap();
}

async fn opened(data: &std::path::Path) -> (UserManager, HostAuthority) {
    UserManager::builder().sqlite(data).plain().no_audit().open().await.unwrap()
}

async fn filled(users: &UserManager, host: &HostAuthority, name: &str, count: u64) -> Session {
    let session = users.create_user_session(host, name).await.unwrap();
    let agent = session.agent("agent").unwrap();
    for first in (0..count).step_by(BATCH as usize) {
        let keys = first..count.min(first + BATCH);
        keys.fold(agent.batch(), |batch, n| batch.push(key(n), value(n))).commit().await.unwrap();
    }
    session
}

fn key(n: u64) -> String {
    format!("key-{n:07}")
}

async fn read(agent: Agent, among: u64, reads: Range<u64>) -> u64 {
    let count = reads.end - reads.start;
    for n in reads {
        black_box(agent.entry(key(n * 7_919 % among)).await.unwrap().unwrap());
    }
    count
}

async fn write(agent: Agent, among: u64, turn: u64) -> u64 {
    for n in turn * PUSHES..(turn + 1) * PUSHES {
        agent.push(key(n * 7_919 % among), value(n + 1)).await.unwrap();
    }
    PUSHES
}
