//! What users may use, from the settings and for one user.

use serde_json::{Value, json as value};

use crate::{json, syntha};

#[test]
fn limits_are_set_shown_and_held() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::write(
        folder.path().join("syntha.toml"),
        "[limits]\nmax-agents = 1\n\n[plans.team]\nmax-contexts = 2\nmax-agents = \"unlimited\"\n",
    )
    .unwrap();
    json(&data, &["user", "add", "alice"]);
    let push = |agent: &str, key: &str| {
        syntha(&data, &["--json", "push", "--user", "alice", "--agent", agent, key, "1"])
    };
    assert!(push("ann", "a").status.success());
    let refused = |agent: &str, key: &str| -> Value {
        let output = push(agent, key);
        assert!(!output.status.success());
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let answer = refused("ben", "b");
    assert_eq!(answer["limit"], value!({ "name": "agents", "unit": "agents", "most": 1, "used": 1 }));
    assert!(answer["error"].as_str().unwrap().contains("unregister agents"));

    let shown = json(&data, &["user", "limits", "alice", "--plan", "team", "--storage-limit-mb", "1"]);
    assert_eq!((&shown["plan"], &shown["plan_is_known"]), (&value!("team"), &value!(true)));
    assert_eq!(shown["own"], value!({ "storage": 1_000_000 }));
    assert_eq!(
        shown["limits"]["contexts"],
        value!({ "used": 1, "most": 2, "remaining": 1, "unit": "entries" })
    );
    assert_eq!(shown["limits"]["agents"]["most"], Value::Null);
    assert!(push("ben", "b").status.success());
    assert_eq!(refused("ben", "c")["limit"]["name"], "contexts");

    let shown = json(&data, &["user", "limits", "alice", "--max-contexts", "unlimited"]);
    assert_eq!(shown["own"], value!({ "contexts": null, "storage": 1_000_000 }));
    assert!(push("ben", "c").status.success());
    let shown = json(&data, &["user", "limits", "alice", "--max-contexts", "default", "--plan", "gone"]);
    assert_eq!((&shown["own"], &shown["plan_is_known"]), (&value!({ "storage": 1_000_000 }), &value!(false)));
    assert!(refused("ben", "d")["error"].as_str().unwrap().contains("plan"));
    let shown = json(&data, &["user", "limits", "alice", "--clear", "--max-agents", "3"]);
    assert_eq!((&shown["plan"], &shown["own"]), (&Value::Null, &value!({ "agents": 3 })));
    assert_eq!(json(&data, &["user", "show", "alice"]), shown);
    assert!(push("ben", "d").status.success());

    let lines = syntha(&data, &["user", "show", "alice"]);
    let lines = String::from_utf8(lines.stdout).unwrap();
    let row = lines.lines().find(|line| line.starts_with("agents ")).unwrap();
    assert_eq!(row.split_whitespace().collect::<Vec<_>>(), ["agents", "2", "3", "1", "agents"]);
    assert!(!syntha(&data, &["user", "limits", "alice", "--max-agents", "many"]).status.success());
    assert!(!syntha(&data, &["user", "show", "bob"]).status.success());
    std::fs::write(folder.path().join("syntha.toml"), "[limits]\nmax-agent = 1\n").unwrap();
    assert!(
        !syntha(&data, &["user", "show", "alice"]).status.success(),
        "a limit that is misspelt is no limit"
    );
}
