use serde_json::json;

use super::{json, syntha};

#[test]
fn a_bench_measures_on_data_of_its_own_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    json(&data, &["user", "add", "alice"]);
    json(&data, &["push", "--user", "alice", "--agent", "a", "key", "1"]);
    let names = || {
        let found = std::fs::read_dir(folder.path()).unwrap();
        let mut names: Vec<_> = found.map(|entry| entry.unwrap().file_name()).collect();
        names.sort_unstable();
        names
    };
    let before = names();
    let svg = folder.path().join("chart.svg");
    let count = ["bench", "--users", "12", "--active", "4", "--agents", "2", "--seconds", "2"];
    let rest = ["--mix", "get=1,push=1,list=1,remove=1", "--rate", "100", "--flood", "16", "--svg"];
    let found = json(&data, &[&count[..], &rest, &[svg.to_str().unwrap()]].concat());
    assert_eq!((&found["errors"], &found["foreign"]), (&json!(0), &json!(0)), "{found}");
    assert_eq!((&found["sealed"], &found["audited"]), (&json!(true), &json!(true)));
    for call in ["get", "push", "list", "remove"] {
        let call = &found["calls"][call];
        let of = |name: &str| call[name].as_u64().unwrap();
        assert!(of("count") > 0 && of("median_ns") <= of("p99_ns") && of("p99_ns") <= of("max_ns"), "{call}");
    }
    let sum: u64 = ["get", "push", "list", "remove"]
        .map(|call| found["calls"][call]["count"].as_u64().unwrap())
        .iter()
        .sum();
    assert_eq!(found["total"], sum);
    let jain = found["fairness"]["jain"].as_f64().unwrap();
    assert!(jain > 0.0 && jain <= 1.0);
    assert!(
        found["flood"]["rate"].as_f64().unwrap() > 0.0
            && found["flood"]["calls"]["get"]["beside"]["count"].as_u64().unwrap() > 0
    );
    assert!(found["machine"]["resident_bytes"]["end"].as_u64().unwrap() > 1 << 20);
    assert!(found["series"].as_array().unwrap().len() > 2);
    assert!(std::fs::read_to_string(&svg).unwrap().contains("12 users"));
    std::fs::remove_file(&svg).unwrap();
    assert_eq!(names(), before, "what was made for it is gone");
    let users = json(&data, &["user", "list"]);
    assert_eq!(users.as_array().or(users["users"].as_array()).unwrap().len(), 1, "{users}");
}

#[test]
fn a_bench_takes_no_folder_that_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let there = folder.path().join("there");
    std::fs::create_dir(&there).unwrap();
    std::fs::write(there.join("file"), "mine").unwrap();
    for arguments in [
        &["bench", "--folder", there.to_str().unwrap()][..],
        &["bench", "--mix", "fly=1"],
        &["bench", "--users", "0"],
        &["bench", "--rate", "-1"],
    ] {
        assert!(!syntha(&data, arguments).status.success(), "{arguments:?}");
    }
    assert_eq!(std::fs::read(there.join("file")).unwrap(), b"mine");
    assert!(!data.exists());
}
