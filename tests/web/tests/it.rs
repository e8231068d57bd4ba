//! The service as two users see it, one of whom tries to be the other.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value, json};
use syntha::{UserId, UserManager};
use syntha_web_example::loopback::{hang_up, request, send};
use syntha_web_example::{Service, router};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

const ALICE: Option<&str> = Some("token-of-alice");
const BOB: Option<&str> = Some("token-of-bob");
const CANARY: &str = "CANARY-of-alice";

struct Bed {
    address: SocketAddr,
    service: Arc<Service>,
    server: JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl Bed {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (users, host) = UserManager::builder().sqlite(folder.path().join("data")).open().await.unwrap();
        let tokens = [("token-of-alice", "alice"), ("token-of-bob", "bob")];
        let tokens = tokens.map(|(token, user)| (token.to_owned(), UserId::new(user).unwrap()));
        let service = Service::new(users, host, tokens.into());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, app) = (listener.local_addr().unwrap(), router(Arc::clone(&service)));
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, service, server, _folder: folder }
    }

    async fn ask(
        &self,
        line: &str,
        token: Option<&str>,
        headers: &[&str],
        body: Option<Value>,
    ) -> (u16, Value) {
        send(self.address, &request(line, token, headers, body.as_ref())).await.unwrap()
    }

    async fn put(&self, token: Option<&str>, key: &str, value: &str) {
        let body = json!({ "value": value });
        assert_eq!(self.ask(&format!("PUT /context/{key}"), token, &[], Some(body)).await.0, 200);
    }

    async fn get(&self, token: Option<&str>, key: &str) -> Option<String> {
        match self.ask(&format!("GET /context/{key}"), token, &[], None).await {
            (200, body) => Some(body["value"].as_str().unwrap().to_owned()),
            (404, _) => None,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn two_users_with_the_same_keys_have_their_own() {
    let bed = Bed::start().await;
    for (token, value) in [(ALICE, CANARY), (BOB, "of bob")] {
        bed.put(token, "shared", value).await;
        let body = json!({ "key": "by-tool", "value": value });
        let (status, answer) = bed.ask("POST /tools/push_context", token, &[], Some(body)).await;
        assert_eq!((status, &answer["success"]), (200, &json!(true)));
    }
    for (token, value) in [(ALICE, CANARY), (BOB, "of bob")] {
        assert_eq!(bed.get(token, "shared").await.as_deref(), Some(value));
        let (_, answer) = bed.ask("POST /tools/get_context", token, &[], Some(json!({}))).await;
        assert_eq!(answer["context"], json!({ "shared": value, "by-tool": value }));
    }
    assert_eq!(bed.ask("DELETE /context/shared", BOB, &[], None).await.0, 200);
    assert_eq!(bed.get(BOB, "shared").await, None);
    assert_eq!(bed.get(ALICE, "shared").await.as_deref(), Some(CANARY));
}

/// Bob names Alice wherever a request has room for a name. He gets his own, or nothing.
#[tokio::test]
async fn nothing_but_the_token_says_who_is_asking() {
    let bed = Bed::start().await;
    bed.put(ALICE, "secret", CANARY).await;
    bed.put(ALICE, "by-alice", CANARY).await;
    let mut lines = vec!["/context/secret".to_owned(), "/context/..%2Falice%2Fsecret".into()];
    for name in ["user", "user_id", "userId", "tenant", "sub", "as", "agent", "token", "access_token"] {
        lines.push(format!("/context/secret?{name}=alice"));
        lines.push(format!("/context/secret?{name}=token-of-alice"));
    }
    for prefix in ["/users/alice", "/alice", "/context/alice", "/context/..", "//alice"] {
        lines.push(format!("{prefix}/context/secret"));
        lines.push(format!("{prefix}/secret"));
    }
    let headers = [
        "x-user: alice",
        "x-user-id: alice",
        "x-forwarded-user: alice",
        "x-remote-user: alice",
        "from: alice",
        "cookie: user=alice; token=token-of-alice",
        "proxy-authorization: Bearer token-of-alice",
        "x-authorization: Bearer token-of-alice",
        "x-original-url: /users/alice/context/secret",
    ];
    for line in &lines {
        let (status, answer) = bed.ask(&format!("GET {line}"), BOB, &headers, None).await;
        assert!(!answer.to_string().contains(CANARY), "{line}");
        assert!(matches!(status, 400 | 404), "{line}: {status}");
        let (_, answer) = bed.ask(&format!("DELETE {line}"), BOB, &headers, None).await;
        assert!(!answer.to_string().contains(CANARY), "{line}");
    }
    for name in ["user", "user_id", "tenant", "agent", "agent_name", "sender"] {
        let write = json!({ "value": "forged", name: "alice" });
        assert_eq!(bed.ask("PUT /context/secret", BOB, &headers, Some(write)).await.0, 422, "{name}");
        for (tool, mut arguments) in [
            ("get_context", json!({ "keys": ["secret"] })),
            ("push_context", json!({ "key": "secret", "value": "forged" })),
            ("list_context", json!({})),
        ] {
            arguments[name] = "alice".into();
            let (status, answer) =
                bed.ask(&format!("POST /tools/{tool}"), BOB, &headers, Some(arguments)).await;
            assert_eq!((status, &answer["success"]), (200, &json!(false)), "{tool} {name}");
            assert!(!answer.to_string().contains(CANARY), "{tool} {name}");
        }
    }
    // His own of the same name, so that a forged one would show.
    bed.put(BOB, "secret", "of bob").await;
    for line in lines.iter().filter(|line| line.starts_with("/context/secret")) {
        let (_, answer) = bed.ask(&format!("GET {line}"), BOB, &headers, None).await;
        assert_eq!(answer, json!({ "value": "of bob" }), "{line}");
    }
    for key in ["secret", "by-alice"] {
        assert_eq!(bed.get(ALICE, key).await.as_deref(), Some(CANARY));
    }
}

#[tokio::test]
async fn without_a_known_token_there_is_one_answer() {
    let bed = Bed::start().await;
    bed.put(ALICE, "secret", CANARY).await;
    let mut answers = Vec::new();
    let two = ["authorization: Bearer token-of-bob"];
    let others = ["authorization: Basic YWxpY2U6", "authorization: bearer token-of-alice"];
    for line in ["GET /context/secret", "GET /context/absent", "GET /tools", "PUT /context/secret"] {
        for token in [None, Some(""), Some("alice"), Some("token-of-alic"), Some("token-of-carol")] {
            answers.push(bed.ask(line, token, &[], None).await);
        }
        answers.push(bed.ask(line, ALICE, &two, None).await);
        for other in others {
            answers.push(bed.ask(line, None, &[other], None).await);
        }
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    assert_eq!(answers[0].0, 401);
}

#[tokio::test]
async fn errors_name_a_kind_and_nothing_of_the_request() {
    let bed = Bed::start().await;
    let long = "k".repeat(300);
    let (status, answer) = bed.ask(&format!("GET /context/{long}"), ALICE, &[], None).await;
    assert!(matches!(status, 400 | 404) && !answer.to_string().contains(&long));
    let big = json!({ "value": "v".repeat(1_500_000) });
    let (status, answer) = bed.ask("PUT /context/big", ALICE, &[], Some(big)).await;
    assert_eq!(status, 413);
    assert!(answer.to_string().len() < 300);
    let (status, _) = bed.ask("PUT /context/%00", ALICE, &[], Some(json!({ "value": 1 }))).await;
    assert_eq!(status, 400);
}

/// Clients that leave: in the middle of a request, and after it without waiting for the answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_hangs_up_leaves_nothing_half_done_and_nobody_waiting() {
    let bed = Bed::start().await;
    bed.put(ALICE, "k", "0").await;
    bed.put(BOB, "k", "of bob").await;
    for n in 1..=60_usize {
        let body = json!({ "value": format!("{n}-{}", "x".repeat(5_000)) });
        let whole = request("PUT /context/k", ALICE, &[], Some(&body));
        let part = if n % 3 == 0 { whole.len() } else { whole.len() * (n % 7) / 7 };
        // The server may have closed its end: that is what a client that leaves may see.
        let _ = hang_up(bed.address, &whole.as_bytes()[..part]).await;
        if n % 10 == 0 {
            assert_eq!(bed.get(BOB, "k").await.as_deref(), Some("of bob"));
        }
    }
    let value = bed.get(ALICE, "k").await.unwrap();
    let whole = value == "0"
        || value
            .split_once('-')
            .is_some_and(|(n, rest)| n.parse::<usize>().unwrap() % 3 == 0 && rest.len() == 5_000);
    assert!(whole, "half a value");
    bed.put(ALICE, "k", "after").await;
    assert_eq!(bed.get(ALICE, "k").await.as_deref(), Some("after"));
    bed.server.abort();
    let _ = bed.server.await;
    drop(bed.service);
}
