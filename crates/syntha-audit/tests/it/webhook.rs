//! The sink that posts to a web address, against a small server.

use std::sync::Arc;

use parking_lot::Mutex;
use syntha_audit::{AuditSink, WebhookSink};
use syntha_store::ErrorKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::{LONG, Memory, commits, create};

#[derive(Default)]
struct Seen {
    calls: u64,
    bearer: bool,
    lines: Vec<String>,
}

/// Answers each post by its number: takes it, refuses it, takes it and hangs up, or sends it elsewhere.
async fn serve(mut stream: TcpStream, seen: Arc<Mutex<Seen>>) {
    let mut request = Vec::new();
    let body = loop {
        let mut part = [0; 4096];
        let Ok(length @ 1..) = stream.read(&mut part).await else { return };
        request.extend_from_slice(&part[..length]);
        let text = String::from_utf8_lossy(&request).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let header = head
            .lines()
            .find_map(|line| line.to_lowercase().strip_prefix("content-length: ").map(str::to_owned));
        if body.len() >= header.unwrap().parse::<usize>().unwrap() {
            let bearer = head.to_lowercase().contains("authorization: bearer sesame");
            seen.lock().bearer = bearer;
            break body.to_owned();
        }
    };
    let call = {
        let mut seen = seen.lock();
        seen.calls += 1;
        if seen.calls % 4 != 1 && seen.calls % 4 != 3 {
            seen.lines.extend(body.lines().map(str::to_owned));
        }
        seen.calls % 4
    };
    let answer = match call {
        1 => "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        2 => return,
        3 => {
            "HTTP/1.1 307 Temporary Redirect\r\nlocation: /elsewhere\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        }
        _ => "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    };
    let _ = stream.write_all(answer.as_bytes()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_arrives_at_a_server_that_fails_at_times() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen: Arc<Mutex<Seen>> = Arc::default();
    let server = tokio::spawn({
        let seen = Arc::clone(&seen);
        async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&seen)));
            }
        }
    });
    let sink =
        WebhookSink::builder("web", format!("http://{address}/audit")).bearer("sesame").build().unwrap();
    let bed = Memory::new();
    let store = bed.open(&[]).sink(Arc::new(sink) as Arc<dyn AuditSink>).bounds(100_000, LONG);
    for number in 1..=3 {
        let user = create(&store, number).await;
        commits(&user, 300).await;
        store.checkpoint().await.unwrap();
    }
    let mut passes = 0;
    while !store.shipped().await.unwrap().failed.is_empty() {
        passes += 1;
        assert!(passes < 100);
    }
    server.abort();
    let seen = seen.lock();
    assert!(seen.bearer && passes > 2 && seen.calls > 4);
    let mut numbers: std::collections::HashMap<String, Vec<u64>> = std::collections::HashMap::new();
    for line in &seen.lines {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        if line["t"] == "link" {
            let owner = line["owner"].as_str().unwrap().to_owned();
            numbers.entry(owner).or_default().push(line["seq"].as_u64().unwrap());
        }
    }
    assert_eq!(numbers.len(), 3);
    for numbers in numbers.values_mut() {
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(*numbers, (1..=301).collect::<Vec<_>>());
    }
}

#[test]
fn addresses_that_give_entries_away_are_refused() {
    let kind = |url: &str| WebhookSink::builder("web", url).build().err().map(|error| error.kind());
    for url in ["http://collector.example/", "ftp://localhost/", "https://user:pass@localhost/", "nothing"] {
        assert_eq!(kind(url), Some(ErrorKind::Invalid), "{url}");
    }
    assert_eq!(kind("http://127.0.0.1:1/audit"), None);
    let broken = WebhookSink::builder("web", "http://[::1]/").bearer("a\nb").build();
    assert_eq!(broken.unwrap_err().kind(), ErrorKind::Invalid);
}
