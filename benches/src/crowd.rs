//! Rows with many users.

use std::time::Instant;

use syntha::{Session, UserManager};

use crate::bare::value;
use crate::pair::Report;

const CONNECTIONS: usize = 512;

pub(crate) async fn run(report: &mut Report, users: usize) {
    idle(report, users).await;
    round_robin(report, users).await;
}

/// What a user costs who was active and is not now: ten entries, no connection.
async fn idle(report: &mut Report, count: usize) {
    let name = "idle user with 10 entries";
    if !report.wants(name) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let open = || UserManager::builder().sqlite(&data).connections(8).plain().no_audit().open();
    let (users, host) = open().await.unwrap();
    for n in 0..count {
        let session = users.create_user_session(&host, format!("user-{n}")).await.unwrap();
        let agent = session.agent("agent").unwrap();
        let batch = (0..10).fold(agent.batch(), |batch, key| batch.push(format!("key-{key}"), value(key)));
        batch.commit().await.unwrap();
    }
    users.shutdown().await.unwrap();
    // A process of its own, so that what making the users left in the allocator does not count.
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    let output = child.arg("--idle-in").arg(&data).args(["--users", &count.to_string()]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let (each, descriptors) = text.trim().split_once(' ').unwrap();
    let note =
        format!("{count} users, 4 entries of each read, {descriptors} descriptors in all with 8 connections");
    report.add(name, "KiB", &[each.parse::<f64>().unwrap() / 1024.0], None, "≤ 4 KiB, 0 descriptors", note);
}

/// Opens users who are there, reads a little, and prints what each costs in bytes and how many descriptors are open in all.
pub(crate) async fn idle_child(data: &std::path::Path, count: usize) {
    let (users, host) =
        UserManager::builder().sqlite(data).connections(8).plain().no_audit().open().await.unwrap();
    let mut sessions: Vec<Session> = Vec::with_capacity(count);
    let warm = count / 10;
    let mut before = 0.0;
    for n in 0..count {
        if n == warm {
            before = resident();
        }
        let session = users.open(&host, format!("user-{n}")).await.unwrap();
        let agent = session.agent("agent").unwrap();
        for key in 0..4 {
            agent.entry(format!("key-{key}")).await.unwrap().unwrap();
        }
        sessions.push(session);
    }
    let each = (resident() - before) / (count - warm) as f64;
    println!("{each:.0} {}", std::fs::read_dir("/proc/self/fd").unwrap().count());
}

/// Every user writes and reads in turn, with far fewer connections than users.
async fn round_robin(report: &mut Report, count: usize) {
    let name = "users round robin, push + get";
    if !report.wants(name) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let builder =
        UserManager::builder().sqlite(folder.path().join("data")).connections(CONNECTIONS).plain().no_audit();
    let (users, host) = builder.open().await.unwrap();
    let (mut took, mut resident_after, mut errors) = (Vec::new(), Vec::new(), 0_u64);
    for round in 0..4_u64 {
        let start = Instant::now();
        for n in 0..count {
            let session = users.create_user_session(&host, format!("user-{n}")).await.unwrap();
            let agent = session.agent("agent").unwrap();
            let pushed = agent.push("key", value(round)).await.is_ok();
            let read = agent.get::<String>("key").await.is_ok_and(|found| found == Some(value(round)));
            errors += u64::from(!pushed) + u64::from(!read);
        }
        took.push(start.elapsed().as_secs_f64() * 1e6 / count as f64);
        resident_after.push(resident() / 1024.0 / 1024.0);
    }
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().count();
    let threads = std::fs::read_dir("/proc/self/task").unwrap().count();
    let memory: Vec<_> = resident_after.iter().map(|mib| format!("{mib:.0}")).collect();
    let note = format!(
        "{count} users, cap {CONNECTIONS}: {errors} errors, {descriptors} descriptors, {threads} threads, resident {} MiB after each round",
        memory.join(", ")
    );
    let budget = "0 errors, ≤ 1,600 descriptors, ≤ 544 threads, memory flat";
    report.add(name, "µs", &took[1..], None, budget, note);
    users.shutdown().await.unwrap();
}

/// Resident bytes of this process.
pub(crate) fn resident() -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * 1024.0
}
