//! Keys that stay in the transit engine of HashiCorp Vault or OpenBao.
//!
//! <https://developer.hashicorp.com/vault/api-docs/secret/transit>

use std::borrow::Cow;
use std::fmt;
use std::fs::OpenOptions;
use std::io::Read;
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use data_encoding::BASE64;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Client, Method, StatusCode, Url, redirect};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use syntha_store::{Error, ErrorKind, Result};
use zeroize::Zeroizing;

use crate::SecretBytes;
use crate::provider::{KekId, KeyContext, KeyProvider, MAX_SECRET, Wrapped, check_secret, unknown_key};

const MAX_BODY: usize = 64 * 1024;
const MAX_TOKEN: usize = 4096;
/// The longest ciphertext of a secret of the largest size, in any of the engine's ciphers.
const MAX_CIPHERTEXT: usize = 8000;
/// The hash of the context before each secret.
const HASH: usize = 32;

/// A key of the transit engine of HashiCorp Vault or OpenBao. It wraps there, and is never here.
///
/// The key must be of a type that authenticates data beside what it encrypts (`aes256-gcm96` is the default one) and not
/// `derived`. The token needs `update` on `<mount>/encrypt/<key>` and `<mount>/decrypt/<key>` and `read` on
/// `<mount>/keys/<key>`. Don't give it `create`, with which the service makes a new key for a name that is mistyped.
///
/// Each secret goes to the service as `SHA-256(context) ‖ secret`, with the encoded [`KeyContext`] as `associated_data`.
/// The hash is compared here, so that even a service that is too old for `associated_data`, which ignores it, can't give
/// one user's key for another's. [`rewrap`](KeyProvider::rewrap) decrypts and encrypts: the service's own rewrap takes
/// no `associated_data` (<https://github.com/hashicorp/vault/issues/29532>). So the secret passes through this process,
/// where it is used anyway.
///
/// What the HTTP and TLS libraries copy into their own buffers (the token, secrets on their way) is not wiped.
pub struct VaultTransit {
    client: Client,
    /// Up to the mount.
    base: String,
    key: String,
    token: Token,
    namespace: Option<HeaderValue>,
    timeout: Duration,
    name: [u8; 16],
}

/// How to reach a key in the transit engine.
pub struct VaultTransitBuilder {
    address: String,
    first_address: Option<String>,
    mount: String,
    key: String,
    token: Option<Token>,
    namespace: Option<String>,
    roots: Option<Vec<u8>>,
    timeout: Duration,
    allow_plain_http: bool,
}

#[derive(Clone)]
enum Token {
    Given(SecretBytes),
    File(PathBuf),
}

impl VaultTransit {
    /// Starts from the service's address, such as `https://vault.example:8200`, and the key's name.
    pub fn builder(address: impl Into<String>, key: impl Into<String>) -> VaultTransitBuilder {
        VaultTransitBuilder {
            address: address.into(),
            first_address: None,
            mount: "transit".to_owned(),
            key: key.into(),
            token: None,
            namespace: None,
            roots: None,
            timeout: Duration::from_secs(5),
            allow_plain_http: false,
        }
    }

    async fn encrypt(&self, context: &KeyContext, secret: &SecretBytes) -> Result<Wrapped> {
        check_secret(secret)?;
        let associated = context.encode();
        let mut plaintext = Zeroizing::new(Vec::with_capacity(HASH + secret.as_bytes().len()));
        plaintext.extend_from_slice(&Sha256::digest(&associated));
        plaintext.extend_from_slice(secret.as_bytes());
        let body = body("plaintext", &plaintext, &associated);
        let answer = self.call(Method::POST, "encrypt", Some(body)).await?;
        let data = answer.success(Call::Encrypt)?;
        let ciphertext = data.ciphertext.ok_or_else(nonsense)?;
        let version = version_of(&ciphertext).ok_or_else(nonsense)?;
        if data.key_version.is_some_and(|stated| stated != version) {
            return Err(nonsense());
        }
        Ok(Wrapped { kek: KekId::new(self.name, version), blob: ciphertext.into_owned().into_bytes() })
    }

    async fn decrypt(&self, context: &KeyContext, wrapped: &Wrapped) -> Result<SecretBytes> {
        if *wrapped.kek.name() != self.name {
            return Err(unknown_key());
        }
        let ciphertext = std::str::from_utf8(&wrapped.blob).map_err(|_| tampered())?;
        if version_of(ciphertext) != Some(wrapped.kek.version()) {
            return Err(tampered());
        }
        let associated = context.encode();
        let body = [
            r#"{"ciphertext":""#,
            ciphertext,
            r#"","associated_data":""#,
            &BASE64.encode(&associated),
            r#""}"#,
        ];
        let body = Zeroizing::new(body.concat().into_bytes());
        let answer = self.call(Method::POST, "decrypt", Some(body)).await?;
        let data = answer.success(Call::Decrypt)?;
        let plaintext = data.plaintext.ok_or_else(nonsense)?;
        let plaintext = BASE64.decode(plaintext.as_bytes()).map(Zeroizing::new).map_err(|_| nonsense())?;
        let (hash, secret) = plaintext.split_at_checked(HASH).ok_or_else(tampered)?;
        // INVARIANT: a service that does not look at the context gives nobody the key of another.
        if !bool::from(hash.ct_eq(&Sha256::digest(&associated))) || secret.len() > MAX_SECRET {
            return Err(tampered());
        }
        Ok(SecretBytes::new(secret))
    }

    async fn latest(&self) -> Result<KekId> {
        let answer = self.call(Method::GET, "keys", None).await?;
        let version = answer.success(Call::Look)?.latest_version.filter(|version| *version > 0);
        Ok(KekId::new(self.name, version.ok_or_else(nonsense)?))
    }

    async fn call(&self, method: Method, verb: &str, body: Option<Zeroizing<Vec<u8>>>) -> Result<Answer> {
        let url = format!("{}/{verb}/{}", self.base, self.key);
        let mut request = self.client.request(method, url).header("X-Vault-Token", self.token.read().await?);
        if let Some(namespace) = &self.namespace {
            request = request.header("X-Vault-Namespace", namespace);
        }
        if let Some(body) = body {
            let body = Bytes::from_owner(body);
            request = request.header(CONTENT_TYPE, "application/json").body(body);
        }
        let mut response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let mut body = Zeroizing::new(Vec::with_capacity(MAX_BODY));
        while let Some(part) = response.chunk().await.map_err(unreachable)? {
            if part.len() > MAX_BODY.saturating_sub(body.len()) {
                return Err(nonsense());
            }
            body.extend_from_slice(&part);
        }
        Ok(Answer { status, body })
    }

    /// Ends what takes too long, as a whole.
    async fn in_time<T>(&self, work: impl Future<Output = Result<T>> + Send) -> Result<T> {
        tokio::time::timeout(self.timeout, work).await.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::KeyUnavailable, "the key service did not answer in time, try it later"))
        })
    }
}

#[async_trait]
impl KeyProvider for VaultTransit {
    async fn wrap(&self, context: &KeyContext, secret: &SecretBytes) -> Result<Wrapped> {
        self.in_time(self.encrypt(context, secret)).await
    }

    async fn unwrap(&self, context: &KeyContext, wrapped: &Wrapped) -> Result<SecretBytes> {
        self.in_time(self.decrypt(context, wrapped)).await
    }

    async fn rewrap(&self, context: &KeyContext, wrapped: &Wrapped) -> Result<Wrapped> {
        self.in_time(async {
            let secret = self.decrypt(context, wrapped).await?;
            self.encrypt(context, &secret).await
        })
        .await
    }

    async fn current(&self) -> Result<KekId> {
        self.in_time(self.latest()).await
    }
}

impl fmt::Debug for VaultTransit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VaultTransit")
            .field("base", &self.base)
            .field("key", &self.key)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl VaultTransitBuilder {
    /// Where the engine is mounted; `transit` unless set.
    #[must_use]
    pub fn mount(mut self, mount: impl Into<String>) -> Self {
        self.mount = mount.into();
        self
    }

    /// The token. Replaces a token file.
    #[must_use]
    pub fn token(mut self, token: SecretBytes) -> Self {
        self.token = Some(Token::Given(token));
        self
    }

    /// The file that holds the token, such as the one that Vault's agent keeps fresh. It is read for each call, and must
    /// not be open to everybody. Replaces a token.
    #[must_use]
    pub fn token_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.token = Some(Token::File(path.into()));
        self
    }

    /// The namespace that the engine is in.
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = Some(namespace.into());
        self
    }

    /// How long a call takes at most; 5 seconds unless set.
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Trusts these certificates (PEM) in the place of the system's.
    #[must_use]
    pub fn root_certificates(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.roots = Some(pem.into());
        self
    }

    /// For a service that moved: the address that it had when the first key was wrapped. Wrapped keys name the service by
    /// that one.
    #[must_use]
    pub fn first_address(mut self, address: impl Into<String>) -> Self {
        self.first_address = Some(address.into());
        self
    }

    /// Allows `http` to other machines. Whoever is on the way sees the token and every key. Without this, `http` is for
    /// this machine's own addresses.
    #[must_use]
    pub const fn allow_plain_http_over_the_network(mut self) -> Self {
        self.allow_plain_http = true;
        self
    }

    /// Checks the settings. Nothing is sent.
    ///
    /// # Errors
    ///
    /// `Invalid` for settings that can't be right, `KeyUnavailable` if the system's certificates can't be read.
    pub fn build(self) -> Result<VaultTransit> {
        let address = check_address(&self.address)?;
        let is_http = address.scheme() == "http";
        if is_http && !self.allow_plain_http && !is_loopback(&address) {
            return Err(invalid(
                "the key service is on another machine, use https: with http all keys can be read on the way",
            ));
        }
        if !self.mount.split('/').all(is_name) || !is_name(&self.key) {
            return Err(invalid("a mount and a key have names of letters, digits, `-`, `_` and `.`"));
        }
        if self.timeout.is_zero() {
            return Err(invalid("the key service's timeout is zero"));
        }
        let token = self.token.ok_or_else(|| invalid("the key service's token is not set"))?;
        if let Token::Given(token) = &token {
            header(token.as_bytes())?;
        }
        let namespace = self.namespace.as_deref().map(HeaderValue::from_str).transpose();
        let namespace = namespace.map_err(|_| invalid("the key service's namespace is not text"))?;
        let client = Client::builder()
            .tls_backend_preconfigured(tls(self.roots.as_deref(), is_http)?)
            // INVARIANT: the token goes to the named service and to no other.
            .redirect(redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(|error| {
                invalid("the key service's settings don't fit").with_source(error.without_url())
            })?;
        let first = self.first_address.as_deref().map(check_address).transpose()?;
        let named = first.as_ref().unwrap_or(&address).as_str().trim_end_matches('/');
        let name = name(&[named, &self.mount, &self.key, self.namespace.as_deref().unwrap_or_default()]);
        let base = format!("{}/v1/{}", address.as_str().trim_end_matches('/'), self.mount);
        Ok(VaultTransit { client, base, key: self.key, token, namespace, timeout: self.timeout, name })
    }
}

impl fmt::Debug for VaultTransitBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VaultTransitBuilder")
            .field("mount", &self.mount)
            .field("key", &self.key)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl Token {
    async fn read(&self) -> Result<HeaderValue> {
        match self {
            Self::Given(token) => header(token.as_bytes()),
            Self::File(path) => {
                let path = path.clone();
                let read = tokio::task::spawn_blocking(move || read_token(&path)).await;
                let token = read.map_err(|_| {
                    Error::new(ErrorKind::KeyUnavailable, "the token can't be read while the program ends")
                })?;
                header(token?.trim_ascii())
            }
        }
    }
}

fn read_token(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let unreadable = |error| {
        Error::new(ErrorKind::KeyUnavailable, "the key service's token file can't be read").with_source(error)
    };
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(unreadable)?;
    let found = file.metadata().map_err(unreadable)?;
    if !found.is_file() || found.mode() & 0o007 != 0 {
        return Err(Error::new(
            ErrorKind::KeyRefused,
            "the key service's token file is open to everybody or no plain file, use `chmod o=`",
        ));
    }
    let mut token = Zeroizing::new(Vec::with_capacity(MAX_TOKEN + 2));
    let limit = u64::try_from(MAX_TOKEN + 1).unwrap_or(u64::MAX);
    file.take(limit).read_to_end(&mut token).map_err(unreadable)?;
    Ok(token)
}

fn header(token: &[u8]) -> Result<HeaderValue> {
    let is_token = |bytes: &&[u8]| !bytes.is_empty() && bytes.len() <= MAX_TOKEN;
    let value = Some(token).filter(is_token).and_then(|token| HeaderValue::from_bytes(token).ok());
    let mut value = value.ok_or_else(|| {
        Error::new(ErrorKind::KeyRefused, "the key service's token is empty, too long or not text")
    })?;
    value.set_sensitive(true);
    Ok(value)
}

fn check_address(address: &str) -> Result<Url> {
    let wrong = || invalid("the key service's address is not like https://vault.example:8200");
    let url = Url::parse(address).map_err(|_| wrong())?;
    let is_plain = url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    if is_plain && url.has_host() && matches!(url.scheme(), "http" | "https") {
        Ok(url)
    } else {
        Err(wrong())
    }
}

fn is_loopback(address: &Url) -> bool {
    let host = address.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A part of a path that means nothing else.
fn is_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !matches!(name, "" | "." | "..") && name.len() <= 128 && name.bytes().all(is_plain)
}

/// The key's name in [`KekId`].
fn name(fields: &[&str]) -> [u8; 16] {
    let mut hash = Sha256::new();
    hash.update(b"syntha/v1/vault");
    for field in fields {
        hash.update(u32::try_from(field.len()).unwrap_or(u32::MAX).to_be_bytes());
        hash.update(field);
    }
    hash.finalize().first_chunk().copied().unwrap_or_default()
}

fn tls(roots: Option<&[u8]>, is_http: bool) -> Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| {
            invalid("the key service can't be reached with this build's TLS").with_source(error)
        })?;
    let mut store = RootCertStore::empty();
    if let Some(pem) = roots {
        let not_pem = || invalid("the key service's root certificates are not certificates in PEM");
        for certificate in CertificateDer::pem_slice_iter(pem) {
            store.add(certificate.map_err(|_| not_pem())?).map_err(|_| not_pem())?;
        }
        if store.is_empty() {
            return Err(not_pem());
        }
    } else if !is_http {
        let builder = builder.with_platform_verifier().map_err(|error| {
            Error::new(ErrorKind::KeyUnavailable, "the system's root certificates can't be read")
                .with_source(error)
        })?;
        return Ok(builder.with_no_client_auth());
    }
    Ok(builder.with_root_certificates(store).with_no_client_auth())
}

/// A request, in memory that is taken once and wiped.
fn body(field: &str, secret: &[u8], associated: &[u8]) -> Zeroizing<Vec<u8>> {
    let associated = BASE64.encode(associated);
    let mut text = Zeroizing::new(String::with_capacity(
        BASE64.encode_len(secret.len()) + associated.len() + field.len() + 64,
    ));
    text.push_str("{\"");
    text.push_str(field);
    text.push_str("\":\"");
    BASE64.encode_append(secret, &mut text);
    text.push_str("\",\"associated_data\":\"");
    text.push_str(&associated);
    text.push_str("\"}");
    Zeroizing::new(std::mem::take(&mut *text).into_bytes())
}

/// The key's version in `vault:v<version>:<base64>`.
fn version_of(ciphertext: &str) -> Option<u32> {
    let (version, base64) = ciphertext.strip_prefix("vault:v")?.split_once(':')?;
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
    let is_number = version.bytes().all(|byte| byte.is_ascii_digit()) && !version.starts_with('0');
    if !is_number || base64.is_empty() || ciphertext.len() > MAX_CIPHERTEXT || !base64.bytes().all(is_base64)
    {
        return None;
    }
    version.parse().ok()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    Encrypt,
    Decrypt,
    Look,
}

struct Answer {
    status: StatusCode,
    body: Zeroizing<Vec<u8>>,
}

#[derive(Deserialize)]
struct Success<'a> {
    #[serde(borrow)]
    data: Data<'a>,
}

#[derive(Deserialize)]
struct Data<'a> {
    #[serde(borrow)]
    ciphertext: Option<Cow<'a, str>>,
    #[serde(borrow)]
    plaintext: Option<&'a str>,
    key_version: Option<u32>,
    latest_version: Option<u32>,
}

impl Answer {
    fn success(&self, call: Call) -> Result<Data<'_>> {
        match self.status.as_u16() {
            // The error of the JSON library may hold a part of the text.
            200 => serde_json::from_slice::<Success<'_>>(&self.body)
                .map(|success| success.data)
                .map_err(|_| nonsense()),
            400 if call == Call::Decrypt && self.says_changed() => Err(tampered()),
            400 => Err(Error::new(
                ErrorKind::KeyRefused,
                "the key service refuses the request, the key must be there, take associated data, not be derived, \
                 and still have the version",
            )),
            401 | 403 => Err(Error::new(
                ErrorKind::KeyRefused,
                "the key service denies access, check the token and its policy",
            )),
            404 | 405 => Err(Error::new(
                ErrorKind::KeyRefused,
                "the key service has no such key, check the mount, the namespace and the key's name",
            )),
            300..=399 => Err(Error::new(
                ErrorKind::KeyUnavailable,
                "the key service sends its callers elsewhere, name the active node",
            )),
            _ => Err(Error::new(ErrorKind::KeyUnavailable, "the key service fails, try it later")),
        }
    }

    /// Whether a refusal means that the ciphertext does not open, and not that the key is not there.
    fn says_changed(&self) -> bool {
        let text = String::from_utf8_lossy(&self.body);
        text.contains("message authentication failed") || text.contains("invalid ciphertext")
    }
}

fn unreachable(error: reqwest::Error) -> Error {
    Error::new(ErrorKind::KeyUnavailable, "the key service can't be reached, try it later")
        .with_source(error.without_url())
}

const fn nonsense() -> Error {
    Error::new(ErrorKind::KeyUnavailable, "the key service's answer makes no sense, check its address")
}

const fn tampered() -> Error {
    Error::new(ErrorKind::Tampered, "a wrapped key does not open in the key service, it was changed or moved")
}

const fn invalid(message: &'static str) -> Error {
    Error::new(ErrorKind::Invalid, message)
}

#[cfg(test)]
mod tests;
