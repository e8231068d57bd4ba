//! A client of a few lines over TCP, for the example and the test: it can send half a request, and leave in the middle.

use std::io;
use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A request's text. `headers` are whole lines without their ends.
#[must_use]
pub fn request(line: &str, token: Option<&str>, headers: &[&str], body: Option<&Value>) -> String {
    let mut text = format!("{line} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
    if let Some(token) = token {
        text.push_str(&format!("authorization: Bearer {token}\r\n"));
    }
    for header in headers {
        text.push_str(&format!("{header}\r\n"));
    }
    let body = body.map(Value::to_string).unwrap_or_default();
    if !body.is_empty() {
        text.push_str(&format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len()));
    }
    text + "\r\n" + &body
}

/// Sends a request and gives the answer's status and body; a body that is no JSON is given as text.
///
/// # Errors
///
/// What the connection says, and `InvalidData` for an answer that is no HTTP.
pub async fn send(to: SocketAddr, request: &str) -> io::Result<(u16, Value)> {
    let mut stream = TcpStream::connect(to).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let no_http = || io::Error::from(io::ErrorKind::InvalidData);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(no_http)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(no_http)?;
    Ok((status, serde_json::from_str(body).unwrap_or_else(|_| Value::from(body))))
}

/// Sends the beginning of a request, or all of it, and hangs up without waiting for an answer.
///
/// # Errors
///
/// What the connection says.
pub async fn hang_up(to: SocketAddr, part: &[u8]) -> io::Result<()> {
    let mut stream = TcpStream::connect(to).await?;
    stream.write_all(part).await
}
