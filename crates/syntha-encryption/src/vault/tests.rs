use std::time::Instant;

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Key};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::provider::What;
use crate::secret::fill;

const TOKEN: &str = "hvs.the-token-of-these-tests";
const SECRET: &[u8] = b"the secret that is wrapped there";
const CONTEXT: KeyContext =
    KeyContext { deployment: [1; 16], owner: [2; 32], what: What::Dek, life: 3, epoch: 4 };

/// What the service does wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wrong {
    Nothing,
    Silence,
    SlowBody,
    Status(u16),
    /// States another version of the key than the ciphertext's.
    OtherVersion,
    /// Opens with another key than it was told.
    OtherKey,
    Garbage,
    NotBase64,
    EmptyData,
    Endless,
    CutBody,
    Close,
    /// As before Vault knew `associated_data`.
    IgnoresContext,
}

/// The parts of the transit engine that are called, with real AES-GCM.
struct Service {
    address: String,
    state: Arc<Mutex<State>>,
}

struct State {
    keys: Vec<[u8; 32]>,
    wrong: Wrong,
    calls: Vec<String>,
    /// The last that was sent as `associated_data`.
    associated: Vec<u8>,
}

impl Service {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let state = State {
            keys: vec![[0x11; 32]],
            wrong: Wrong::Nothing,
            calls: Vec::new(),
            associated: Vec::new(),
        };
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self { address, state }
    }

    fn set(&self, wrong: Wrong) {
        self.state.lock().wrong = wrong;
    }

    fn rotate(&self) {
        let mut state = self.state.lock();
        let next = u8::try_from(state.keys.len()).unwrap() + 0x11;
        state.keys.push([next; 32]);
    }

    fn calls(&self) -> usize {
        self.state.lock().calls.len()
    }

    fn builder(&self) -> VaultTransitBuilder {
        VaultTransit::builder(&self.address, "syntha")
            .token(SecretBytes::new(TOKEN.as_bytes()))
            .timeout(Duration::from_millis(500))
    }

    fn provider(&self) -> VaultTransit {
        self.builder().build().unwrap()
    }
}

async fn serve(mut stream: TcpStream, state: Arc<Mutex<State>>) -> Option<()> {
    let mut request = Vec::new();
    let end = loop {
        let mut part = [0; 4096];
        let count = stream.read(&mut part).await.ok().filter(|count| *count > 0)?;
        request.extend_from_slice(&part[..count]);
        if let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let head = String::from_utf8(request[..end].to_vec()).ok()?.to_ascii_lowercase();
    let field = |name: &str| {
        head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned))
    };
    let length: usize = field("content-length").map_or(0, |length| length.parse().unwrap());
    while request.len() < end + length {
        let mut part = [0; 4096];
        let count = stream.read(&mut part).await.ok().filter(|count| *count > 0)?;
        request.extend_from_slice(&part[..count]);
    }
    let first = head.lines().next()?.to_owned();
    let wrong = {
        let mut state = state.lock();
        state.calls.push(first.clone());
        state.wrong
    };
    let sent: Value = serde_json::from_slice(&request[end..]).unwrap_or(Value::Null);
    if let Some(associated) = sent["associated_data"].as_str() {
        state.lock().associated = BASE64.decode(associated.as_bytes()).unwrap();
    }
    let (status, body) = if field("x-vault-token").as_deref() == Some(&TOKEN.to_ascii_lowercase()) {
        answer(&first, &sent, field("x-vault-namespace").as_deref(), &state.lock())
    } else {
        (403, json!({ "errors": ["permission denied"] }))
    };
    let mut body = body.to_string().into_bytes();
    let mut status = status;
    let mut announced = None;
    match wrong {
        Wrong::Silence => {
            tokio::time::sleep(Duration::from_secs(20)).await;
            return None;
        }
        Wrong::Close => return None,
        Wrong::Status(other) => (status, body) = (other, br#"{"errors":["as told"]}"#.to_vec()),
        Wrong::Garbage => body = b"<html>\xff not what was asked for".to_vec(),
        Wrong::NotBase64 => {
            body = br#"{"data":{"plaintext":"**","ciphertext":"vault:v1:**","latest_version":0}}"#.to_vec();
        }
        Wrong::EmptyData => body = br#"{"data":{}}"#.to_vec(),
        Wrong::CutBody => announced = Some(body.len() + 100),
        _ => {}
    }
    let endless = wrong == Wrong::Endless;
    let announced = if endless { usize::MAX / 4 } else { announced.unwrap_or(body.len()) };
    let head = format!(
        "HTTP/1.1 {status} x\r\nlocation: /elsewhere\r\ncontent-length: {announced}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.ok()?;
    if wrong == Wrong::SlowBody {
        for byte in body {
            stream.write_all(&[byte]).await.ok()?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        return None;
    }
    if endless {
        loop {
            stream.write_all(&[b' '; 8192]).await.ok()?;
        }
    }
    stream.write_all(&body).await.ok()?;
    stream.shutdown().await.ok()
}

fn answer(first: &str, body: &Value, namespace: Option<&str>, state: &State) -> (u16, Value) {
    let error = |status: u16, text: &str| (status, json!({ "errors": [text] }));
    let mount = if namespace == Some("team") { "/v1/team-transit" } else { "/v1/transit" };
    let path = first.split(' ').nth(1).unwrap_or_default();
    let verb = path.strip_prefix(mount).and_then(|path| path.strip_suffix("/syntha")).unwrap_or_default();
    let associated = match state.wrong {
        Wrong::IgnoresContext => Vec::new(),
        _ => BASE64.decode(body["associated_data"].as_str().unwrap_or_default().as_bytes()).unwrap(),
    };
    match verb {
        "/keys" => (200, json!({ "data": { "latest_version": state.keys.len(), "type": "aes256-gcm96" } })),
        "/encrypt" => {
            let plaintext = BASE64.decode(body["plaintext"].as_str().unwrap().as_bytes()).unwrap();
            let mut nonce = [0; 12];
            fill(&mut nonce).unwrap();
            let payload = Payload { msg: &plaintext, aad: &associated };
            let sealed = cipher(state, state.keys.len()).encrypt((&nonce).into(), payload).unwrap();
            let ciphertext =
                format!("vault:v{}:{}", state.keys.len(), BASE64.encode(&[&nonce[..], &sealed].concat()));
            let other = usize::from(state.wrong == Wrong::OtherVersion);
            (200, json!({ "data": { "ciphertext": ciphertext, "key_version": state.keys.len() + other } }))
        }
        "/decrypt" => {
            let ciphertext = body["ciphertext"].as_str().unwrap();
            let (version, sealed) = ciphertext.strip_prefix("vault:v").unwrap().split_once(':').unwrap();
            let mut version: usize = version.parse().unwrap();
            if version > state.keys.len() {
                return error(400, "invalid ciphertext: version is too new");
            }
            let Ok(sealed) = BASE64.decode(sealed.as_bytes()) else {
                return error(400, "invalid ciphertext: could not decode base64");
            };
            if state.wrong == Wrong::OtherKey {
                version = state.keys.len();
            }
            let Some((nonce, sealed)) = sealed.split_first_chunk::<12>() else {
                return error(400, "invalid ciphertext length");
            };
            let payload = Payload { msg: sealed, aad: &associated };
            match cipher(state, version).decrypt(nonce.into(), payload) {
                Ok(plaintext) => (200, json!({ "data": { "plaintext": BASE64.encode(&plaintext) } })),
                Err(_) => error(400, "cipher: message authentication failed"),
            }
        }
        _ => error(404, "no handler for route"),
    }
}

fn cipher(state: &State, version: usize) -> Aes256Gcm {
    Aes256Gcm::new(<&Key<Aes256Gcm>>::from(&state.keys[version - 1]))
}

fn secret() -> SecretBytes {
    SecretBytes::new(SECRET)
}

/// The kind of an error, which tells nothing that is secret.
fn kind<T>(result: Result<T>) -> Option<ErrorKind> {
    let error = result.err()?;
    let text = format!("{error} {error:?}");
    assert!(!text.contains(TOKEN) && !text.contains("secret that is wrapped"), "{text}");
    assert!(!text.contains(&BASE64.encode(SECRET)[..20]), "{text}");
    Some(error.kind())
}

#[tokio::test]
async fn what_was_wrapped_there_unwraps() {
    let service = Service::start().await;
    let provider = service.provider();
    for length in [0, 32, MAX_SECRET] {
        let secret = SecretBytes::new(vec![7; length]);
        let wrapped = provider.wrap(&CONTEXT, &secret).await.unwrap();
        let wrapped = Wrapped::decode(&wrapped.encode().unwrap()).unwrap();
        assert_eq!(provider.unwrap(&CONTEXT, &wrapped).await.unwrap().as_bytes(), secret.as_bytes());
        assert_eq!(wrapped.kek, provider.current().await.unwrap());
    }
    let calls = service.calls();
    let large = SecretBytes::new(vec![7; MAX_SECRET + 1]);
    assert_eq!(kind(provider.wrap(&CONTEXT, &large).await), Some(ErrorKind::LimitExceeded));
    assert_eq!(service.calls(), calls);
}

#[tokio::test]
async fn a_rotated_key_still_unwraps_and_wraps_again() {
    let service = Service::start().await;
    let provider = service.provider();
    let old = provider.wrap(&CONTEXT, &secret()).await.unwrap();
    service.rotate();
    assert_eq!(provider.current().await.unwrap().version(), 2);
    assert_eq!(provider.unwrap(&CONTEXT, &old).await.unwrap().as_bytes(), SECRET);
    let new = provider.rewrap(&CONTEXT, &old).await.unwrap();
    assert_eq!((old.kek.version(), new.kek.version()), (1, 2));
    assert_eq!(provider.unwrap(&CONTEXT, &new).await.unwrap().as_bytes(), SECRET);
    // The version on the outside is the one on the inside.
    let renamed = Wrapped { kek: new.kek, ..old };
    assert_eq!(kind(provider.unwrap(&CONTEXT, &renamed).await), Some(ErrorKind::Tampered));
}

#[tokio::test]
async fn another_context_does_not_unwrap_even_if_the_service_ignores_it() {
    let service = Service::start().await;
    let provider = service.provider();
    for wrong in [Wrong::Nothing, Wrong::IgnoresContext] {
        service.set(wrong);
        let wrapped = provider.wrap(&CONTEXT, &secret()).await.unwrap();
        assert_eq!(std::mem::take(&mut service.state.lock().associated), CONTEXT.encode());
        assert_eq!(provider.unwrap(&CONTEXT, &wrapped).await.unwrap().as_bytes(), SECRET);
        assert_eq!(std::mem::take(&mut service.state.lock().associated), CONTEXT.encode());
        for other in [
            KeyContext { deployment: [9; 16], ..CONTEXT },
            KeyContext { owner: [9; 32], ..CONTEXT },
            KeyContext { what: What::Root, ..CONTEXT },
            KeyContext { life: 9, ..CONTEXT },
            KeyContext { epoch: 9, ..CONTEXT },
        ] {
            assert_eq!(kind(provider.unwrap(&other, &wrapped).await), Some(ErrorKind::Tampered));
            assert_eq!(kind(provider.rewrap(&other, &wrapped).await), Some(ErrorKind::Tampered));
        }
    }
}

#[tokio::test]
async fn changed_wrapped_keys_are_refused() {
    let service = Service::start().await;
    let provider = service.provider();
    let wrapped = provider.wrap(&CONTEXT, &secret()).await.unwrap();
    for place in 0..wrapped.blob.len() {
        for value in [b'A', b'"', b'\\', 0, 0xFF, wrapped.blob[place] ^ 1] {
            let mut changed = wrapped.clone();
            changed.blob[place] = value;
            if changed.blob == wrapped.blob {
                continue;
            }
            let end = kind(provider.unwrap(&CONTEXT, &changed).await);
            assert_eq!(end, Some(ErrorKind::Tampered), "{place} {value}");
        }
    }
    for blob in [&b""[..], b"vault:v1:", b"vault:v0:AAAA", b"vault:v99999999999:AAAA", b"vault:v+1:AAAA"] {
        let changed = Wrapped { blob: blob.to_vec(), ..wrapped.clone() };
        assert_eq!(kind(provider.unwrap(&CONTEXT, &changed).await), Some(ErrorKind::Tampered));
    }
}

#[tokio::test]
async fn another_service_or_key_is_refused_without_a_call() {
    let (service, other) = (Service::start().await, Service::start().await);
    let wrapped = other.provider().wrap(&CONTEXT, &secret()).await.unwrap();
    let end = kind(service.provider().unwrap(&CONTEXT, &wrapped).await);
    assert_eq!((end, service.calls()), (Some(ErrorKind::KeyRefused), 0));
    // Unless it is the same one, which moved. (Both have the same keys here.)
    let moved = service.builder().first_address(format!("{}/", other.address)).build().unwrap();
    assert_eq!(moved.unwrap(&CONTEXT, &wrapped).await.unwrap().as_bytes(), SECRET);
}

#[tokio::test]
async fn every_fault_of_the_service_is_a_typed_error_in_time() {
    let service = Service::start().await;
    let provider = service.provider();
    let wrapped = provider.wrap(&CONTEXT, &secret()).await.unwrap();
    service.rotate();
    let all = Some(ErrorKind::KeyUnavailable);
    let denied = Some(ErrorKind::KeyRefused);
    for (wrong, expected) in [
        (Wrong::Silence, [all; 4]),
        (Wrong::SlowBody, [all; 4]),
        (Wrong::Status(400), [denied; 4]),
        (Wrong::Status(403), [denied; 4]),
        (Wrong::Status(404), [denied; 4]),
        (Wrong::Status(204), [all; 4]),
        (Wrong::Status(307), [all; 4]),
        (Wrong::Status(429), [all; 4]),
        (Wrong::Status(500), [all; 4]),
        (Wrong::Status(503), [all; 4]),
        (Wrong::OtherVersion, [all, None, all, None]),
        (Wrong::OtherKey, [None, Some(ErrorKind::Tampered), Some(ErrorKind::Tampered), None]),
        (Wrong::Garbage, [all; 4]),
        (Wrong::NotBase64, [all; 4]),
        (Wrong::EmptyData, [all; 4]),
        (Wrong::Endless, [all; 4]),
        (Wrong::CutBody, [all; 4]),
        (Wrong::Close, [all; 4]),
    ] {
        service.set(wrong);
        let start = Instant::now();
        let ends = [
            kind(provider.wrap(&CONTEXT, &secret()).await),
            kind(provider.unwrap(&CONTEXT, &wrapped).await),
            kind(provider.rewrap(&CONTEXT, &wrapped).await),
            kind(provider.current().await),
        ];
        assert_eq!(ends, expected, "{wrong:?}");
        assert!(start.elapsed() < Duration::from_millis(4 * 500 + 1000), "{wrong:?}");
    }
    // Too much is not the same as too slow, and nothing was sent elsewhere.
    service.set(Wrong::Endless);
    assert_eq!(provider.current().await.unwrap_err().message(), nonsense().message());
    assert!(!service.state.lock().calls.iter().any(|call| call.contains("elsewhere")));
    // None of it lasts.
    service.set(Wrong::Nothing);
    assert_eq!(provider.unwrap(&CONTEXT, &wrapped).await.unwrap().as_bytes(), SECRET);
}

#[tokio::test]
async fn nobody_there_is_unavailable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let provider = VaultTransit::builder(address, "syntha").token(SecretBytes::new(TOKEN.as_bytes()));
    let provider = provider.build().unwrap();
    assert_eq!(kind(provider.current().await), Some(ErrorKind::KeyUnavailable));
}

#[tokio::test]
async fn a_service_that_speaks_no_tls_gets_no_token() {
    let service = Service::start().await;
    let address = service.address.replace("http", "https");
    let provider = VaultTransit::builder(address, "syntha").token(SecretBytes::new(TOKEN.as_bytes()));
    let provider = provider.timeout(Duration::from_millis(500)).build().unwrap();
    assert_eq!(kind(provider.current().await), Some(ErrorKind::KeyUnavailable));
    assert_eq!(service.calls(), 0);
}

/// Answers one request over TLS; says what came.
///
/// The certificates are for 127.0.0.1 and hold for a hundred years: `openssl req -x509 -newkey ec -pkeyopt
/// ec_paramgen_curve:prime256v1 -nodes -days 36500 -subj "/CN=Syntha tests" -addext subjectAltName=IP:127.0.0.1 -addext
/// basicConstraints=critical,CA:FALSE`. Their keys protect nothing.
fn serve_tls(listener: std::net::TcpListener) -> std::io::Result<String> {
    use std::io::Write;
    let pem = include_bytes!("certificates/loopback.pem");
    let key = include_bytes!("certificates/loopback.key.pem");
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(pem).unwrap()],
            rustls::pki_types::PrivateKeyDer::from_pem_slice(key).unwrap(),
        )
        .unwrap();
    let (stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let connection = rustls::ServerConnection::new(Arc::new(config)).unwrap();
    let mut stream = rustls::StreamOwned::new(connection, stream);
    let mut request = [0; 4096];
    let count = stream.read(&mut request)?;
    let body = r#"{"data":{"latest_version":7}}"#;
    write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())?;
    stream.flush()?;
    Ok(String::from_utf8(request[..count].to_vec()).unwrap().to_ascii_lowercase())
}

#[tokio::test]
async fn only_a_service_with_a_trusted_certificate_gets_the_token() {
    let trusted = &include_bytes!("certificates/loopback.pem")[..];
    let other = &include_bytes!("certificates/other.pem")[..];
    for (roots, host, is_good) in [
        (Some(trusted), "127.0.0.1", true),
        // The certificate is for the address alone.
        (Some(trusted), "localhost", false),
        (Some(other), "127.0.0.1", false),
        (None, "127.0.0.1", false),
    ] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address_of_server = listener.local_addr().unwrap();
        let address = format!("https://{host}:{}", address_of_server.port());
        let server = std::thread::spawn(move || serve_tls(listener));
        let mut builder = VaultTransit::builder(address, "syntha").token(SecretBytes::new(TOKEN.as_bytes()));
        if let Some(roots) = roots {
            builder = builder.root_certificates(roots);
        }
        let current = builder.build().unwrap().current().await;
        // The server waits for somebody, even if the caller did not get that far.
        let _ = std::net::TcpStream::connect(address_of_server);
        let came = server.join().unwrap();
        if is_good {
            assert_eq!(current.unwrap().version(), 7);
            assert!(came.unwrap().contains(&TOKEN.to_ascii_lowercase()));
        } else {
            assert_eq!(kind(current), Some(ErrorKind::KeyUnavailable));
            came.unwrap_err();
        }
    }
}

#[tokio::test]
async fn the_token_counts_and_comes_from_a_file_too() {
    use std::os::unix::fs::PermissionsExt;
    let service = Service::start().await;
    let wrong = service.builder().token(SecretBytes::new(*b"another")).build().unwrap();
    assert_eq!(kind(wrong.current().await), Some(ErrorKind::KeyRefused));

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let provider = service.builder().token_file(&path).build().unwrap();
    assert_eq!(kind(provider.current().await), Some(ErrorKind::KeyUnavailable));
    let write = |text: &str, mode| {
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    write(&format!("{TOKEN}\n"), 0o640);
    provider.current().await.unwrap();
    write("another", 0o600);
    assert_eq!(kind(provider.current().await), Some(ErrorKind::KeyRefused));
    let calls = service.calls();
    for (text, mode) in [(TOKEN, 0o644), ("", 0o600), ("a\nb", 0o600), (&*"x".repeat(MAX_TOKEN + 1), 0o600)] {
        write(text, mode);
        assert_eq!(kind(provider.current().await), Some(ErrorKind::KeyRefused));
    }
    assert_eq!(service.calls(), calls);
}

#[tokio::test]
async fn namespaces_and_mounts_are_told_apart() {
    let service = Service::start().await;
    let team = service.builder().namespace("team").mount("team-transit").build().unwrap();
    let wrapped = team.wrap(&CONTEXT, &secret()).await.unwrap();
    assert_eq!(team.unwrap(&CONTEXT, &wrapped).await.unwrap().as_bytes(), SECRET);
    let names = [
        service.provider().name,
        team.name,
        service.builder().namespace("team").build().unwrap().name,
        service.builder().mount("team-transit").build().unwrap().name,
        VaultTransit::builder(&service.address, "other").token(SecretBytes::new(*b"t")).build().unwrap().name,
    ];
    let distinct: std::collections::HashSet<_> = names.into_iter().collect();
    assert_eq!(distinct.len(), names.len());
    let none = service.builder().mount("none").build().unwrap();
    assert_eq!(kind(none.wrap(&CONTEXT, &secret()).await), Some(ErrorKind::KeyRefused));
}

#[test]
fn settings_that_can_not_be_right_are_refused() {
    let with = |address: &str| VaultTransit::builder(address, "syntha").token(SecretBytes::new(*b"t"));
    for address in
        ["https://vault.example:8200", "http://127.0.0.1:8200/", "http://[::1]", "http://localhost:1"]
    {
        with(address).build().unwrap();
    }
    for address in [
        "",
        "vault.example",
        "ftp://vault.example",
        "file:///vault",
        "https://user:password@vault.example",
        "https://vault.example/?a=b",
        "http://vault.example",
        "http://10.0.0.1:8200",
        "http://localhost.example",
        "http://127.0.0.1.example",
    ] {
        assert_eq!(kind(with(address).build()), Some(ErrorKind::Invalid), "{address}");
    }
    with("http://vault.example").allow_plain_http_over_the_network().build().unwrap();
    let good = || with("https://vault.example");
    for bad in [
        good().mount(""),
        good().mount("a/../b"),
        good().mount("/a"),
        good().mount("a?b"),
        good().namespace("a\nb"),
        good().timeout(Duration::ZERO),
        good().root_certificates("no certificate"),
        VaultTransit::builder("https://vault.example", "a/b").token(SecretBytes::new(*b"t")),
        VaultTransit::builder("https://vault.example", "").token(SecretBytes::new(*b"t")),
        VaultTransit::builder("https://vault.example", "a"),
    ] {
        assert_eq!(kind(bad.build()), Some(ErrorKind::Invalid));
    }
    let token = good().token(SecretBytes::new(*b"a\nb"));
    assert_eq!(kind(token.build()), Some(ErrorKind::KeyRefused));
    good().mount("a/b-c_d.e").build().unwrap();
}

#[test]
fn debug_tells_no_token() {
    let builder = VaultTransit::builder("https://vault.example", "syntha");
    let builder = builder.token(SecretBytes::new(TOKEN.as_bytes()));
    assert!(!format!("{builder:?}").contains("hvs"));
    let provider = builder.build().unwrap();
    assert_eq!(
        format!("{provider:?}"),
        r#"VaultTransit { base: "https://vault.example/v1/transit", key: "syntha", timeout: 5s, .. }"#
    );
}
