//! Someone who checks a backend; the reference stands for it.

use syntha_conformance::{MemoryHarness, run, store_checks};

#[tokio::main]
async fn main() {
    let report = run(&MemoryHarness, &store_checks()).await;
    assert_eq!(report.failed(), Vec::<&str>::new(), "{}", report.text());
}
