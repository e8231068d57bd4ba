//! A disk that is really full: a small file system in memory, in a mount namespace of the test's own.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::process::Command;

#[test]
fn disk_full_is_refused_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    // The mount goes with the namespace, and so with the process.
    let script = r#"mount -t tmpfs -o size=2m,mode=700 syntha "$1" && head -c 300000 /dev/zero > "$1/ballast" &&
        exec "$2" "$1/data" full 1000 20000 "$1/ballast""#;
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"])
        .arg(folder.path())
        .arg(env!("CARGO_BIN_EXE_syntha-durable-writer"))
        .output()
        .expect("unshare is missing: install util-linux");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "it needs user namespaces (sysctl user.max_user_namespaces): {errors}");
    let text = String::from_utf8(output.stdout).unwrap();
    let acknowledged = text.lines().filter(|line| line.starts_with("ack ")).count();
    assert!(acknowledged > 10, "{text}");
    let refused = text.lines().find(|line| line.starts_with("refused ")).expect("the disk was never full");
    assert!(refused.ends_with("the disk is full, make room and try again"), "{refused}");
    assert!(text.contains(&format!("found {acknowledged}\n")), "{text}");
    assert!(text.ends_with("last written\n"), "{text}");
}
