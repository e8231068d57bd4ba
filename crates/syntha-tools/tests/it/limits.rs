//! A model is told which limit stands against its call, and when to try again.

use serde_json::json;
use syntha_mesh::{MeshConfig, ResourceLimits};
use syntha_tools::Role;

use crate::{handler, mesh_with};

#[tokio::test]
async fn a_model_is_told_the_limit_and_when_to_try_again() {
    let mut config = MeshConfig::default();
    config.limits = ResourceLimits::new().max_contexts(1).max_value_bytes(100);
    let tools = handler(&mesh_with("alice", config).await, "ann", Role::Contributor);
    assert_eq!(tools.push_context("k", json!(1)).await["success"], true);
    let answer = tools.push_context("l", json!(1)).await;
    assert_eq!(answer["success"], false);
    assert_eq!(answer["limit"], json!({ "name": "contexts", "unit": "entries", "most": 1, "used": 1 }));
    assert!(answer["error"].as_str().unwrap().ends_with("(contexts: 1 of at most 1 entries)."), "{answer}");
    let answer = tools.push_context("k", json!("x".repeat(1_000))).await;
    assert_eq!((&answer["limit"]["name"], &answer["limit"]["most"]), (&json!("value"), &json!(100)));
    let long = json!({ "thread": "t", "content": "x".repeat(100) });
    assert_eq!(tools.call("append_history", long).await["limit"]["name"], "value");

    let mut config = MeshConfig::default();
    config.limits = ResourceLimits::new().max_operations_per_second(1);
    let tools = handler(&mesh_with("bob", config).await, "ann", Role::Contributor);
    tools.push_context("k", json!(1)).await;
    let answer = tools.push_context("k", json!(2)).await;
    assert_eq!(answer["limit"]["name"], "operations");
    let after = answer["retry_after_seconds"].as_f64().unwrap();
    assert!(0.0 < after && after <= 1.0);
}
