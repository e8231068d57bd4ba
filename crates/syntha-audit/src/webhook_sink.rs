//! A sink that posts JSON Lines to a web address.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Client, Url, redirect};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt;
use syntha_store::{Error, ErrorKind, Result};

use crate::sink::{AuditSink, DELIVERY_DEADLINE, Delivery, SinkError};

/// A sink that posts JSON Lines (`application/x-ndjson`) to a web address, and takes any answer of the 200s for "kept".
///
/// What was not taken stays in the chains, so nothing is spooled here, and is posted again with pauses that grow. The entries of a post
/// may come twice; links are told apart by owner and number.
pub struct WebhookSink {
    name: Arc<str>,
    url: Url,
    client: Client,
    bearer: Option<HeaderValue>,
}

/// How to reach a web address. See [`WebhookSink::builder`].
pub struct WebhookSinkBuilder {
    name: String,
    url: String,
    bearer: Option<HeaderValue>,
    roots: Option<Vec<u8>>,
    allow_plain_http: bool,
    token_is_wrong: bool,
}

impl fmt::Debug for WebhookSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookSink").field("name", &self.name).finish_non_exhaustive()
    }
}

impl fmt::Debug for WebhookSinkBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookSinkBuilder").field("name", &self.name).finish_non_exhaustive()
    }
}

impl WebhookSink {
    /// A sink of a name that posts to an address, such as `https://collector.example/audit`.
    pub fn builder(name: impl Into<String>, url: impl Into<String>) -> WebhookSinkBuilder {
        WebhookSinkBuilder {
            name: name.into(),
            url: url.into(),
            bearer: None,
            roots: None,
            allow_plain_http: false,
            token_is_wrong: false,
        }
    }
}

impl WebhookSinkBuilder {
    /// Sends a bearer token (RFC 6750) with each post.
    #[must_use]
    pub fn bearer(mut self, token: &str) -> Self {
        match HeaderValue::from_str(&format!("Bearer {token}")) {
            Ok(mut value) => {
                value.set_sensitive(true);
                self.bearer = Some(value);
            }
            Err(_) => self.token_is_wrong = true,
        }
        self
    }

    /// Trusts these certificates (PEM) in the place of the system's.
    #[must_use]
    pub fn root_certificates(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.roots = Some(pem.into());
        self
    }

    /// Allows `http` to other machines, where whoever is on the way sees token and entries. Without this, `http` is for this machine's own
    /// addresses.
    #[must_use]
    pub const fn allow_plain_http_over_the_network(mut self) -> Self {
        self.allow_plain_http = true;
        self
    }

    /// Checks the settings. Nothing is sent.
    ///
    /// # Errors
    ///
    /// `Invalid` for settings that can't be right, `Unavailable` if the system's certificates can't be read.
    pub fn build(self) -> Result<WebhookSink> {
        let wrong = || invalid("the address of the audit sink is not like https://collector.example/audit");
        let url = Url::parse(&self.url).map_err(|_| wrong())?;
        let is_plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
        if !is_plain || !url.has_host() || !matches!(url.scheme(), "http" | "https") {
            return Err(wrong());
        }
        let is_http = url.scheme() == "http";
        if is_http && !self.allow_plain_http && !is_loopback(&url) {
            return Err(invalid("the audit sink is on another machine, use https"));
        }
        if self.token_is_wrong {
            return Err(invalid("the token of the audit sink is not text"));
        }
        let client = Client::builder()
            .tls_backend_preconfigured(tls(self.roots.as_deref(), is_http)?)
            // INVARIANT: entries and token go to the named address and to no other.
            .redirect(redirect::Policy::none())
            .no_proxy()
            .timeout(DELIVERY_DEADLINE)
            .pool_idle_timeout(Duration::from_secs(30))
            .build()
            .map_err(|error| {
                invalid("the settings of the audit sink don't fit").with_source(error.without_url())
            })?;
        Ok(WebhookSink { name: self.name.into(), url, client, bearer: self.bearer })
    }
}

#[async_trait]
impl AuditSink for WebhookSink {
    fn name(&self) -> &str {
        &self.name
    }

    fn is_outside(&self) -> bool {
        true
    }

    async fn deliver(&self, entries: &[Delivery]) -> std::result::Result<(), SinkError> {
        let mut lines = String::with_capacity(entries.iter().map(|entry| 2 * entry.bytes() + 128).sum());
        for entry in entries {
            lines.push_str(&entry.to_json());
            lines.push('\n');
        }
        let mut post =
            self.client.post(self.url.clone()).header(CONTENT_TYPE, "application/x-ndjson").body(lines);
        if let Some(bearer) = &self.bearer {
            post = post.header(AUTHORIZATION, bearer.clone());
        }
        let sent = post.send().await;
        let answer = sent.map_err(|error| {
            SinkError::new("the address of the audit sink does not answer").with_source(error.without_url())
        })?;
        // The body of an answer says nothing here, and is not read: it could be of any length.
        if answer.status().is_success() {
            Ok(())
        } else {
            Err(SinkError::new("the address of the audit sink refuses entries"))
        }
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn tls(roots: Option<&[u8]>, is_http: bool) -> Result<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| {
            invalid("the audit sink can't be reached with this build's TLS").with_source(error)
        })?;
    let mut store = RootCertStore::empty();
    if let Some(pem) = roots {
        let not_pem = || invalid("the root certificates of the audit sink are not certificates in PEM");
        for certificate in CertificateDer::pem_slice_iter(pem) {
            store.add(certificate.map_err(|_| not_pem())?).map_err(|_| not_pem())?;
        }
        if store.is_empty() {
            return Err(not_pem());
        }
    } else if !is_http {
        let builder = builder.with_platform_verifier().map_err(|error| {
            Error::new(ErrorKind::Unavailable, "the system's root certificates can't be read")
                .with_source(error)
        })?;
        return Ok(builder.with_no_client_auth());
    }
    Ok(builder.with_root_certificates(store).with_no_client_auth())
}

const fn invalid(message: &'static str) -> Error {
    Error::new(ErrorKind::Invalid, message)
}
