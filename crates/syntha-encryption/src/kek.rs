//! Keys that wrap other keys: which one a host names, and the ones that are held in memory.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use data_encoding::HEXLOWER;
use hkdf::Hkdf;
use sha2::Sha256;
use syntha_store::{Error, ErrorKind, Incarnation, Result};
use zeroize::Zeroizing;

use crate::binding::{Binding, WrapBinding};
use crate::envelope::{self, Algorithm, Content};
use crate::key_file::{check_strength, parse_key, read_key_file};
use crate::passphrase::PassphraseParameters;
use crate::provider::{KekId, KeyContext, KeyProvider, Wrapped, check_secret, unknown_key};
use crate::{SecretBytes, SecretKey};

/// Which key wraps, as a host names it. Nothing is read before [`resolve`](Self::resolve).
#[derive(Clone)]
pub struct Kek {
    kind: Kind,
    parameters: Option<PassphraseParameters>,
    former: Vec<Self>,
}

#[derive(Clone)]
enum Kind {
    File(PathBuf),
    Env(String),
    Key(SecretKey),
    Passphrase(SecretBytes),
    Provider(Arc<dyn KeyProvider>),
}

impl Kek {
    /// The key in a file that [`make_key_file`](crate::make_key_file) made.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::of(Kind::File(path.into()))
    }

    /// The key in an environment variable: 32 bytes in base64 (RFC 4648, section 4) or hexadecimal digits.
    ///
    /// Whoever may look at the process's environment sees it; a file is the better place.
    pub fn env(variable: impl Into<String>) -> Self {
        Self::of(Kind::Env(variable.into()))
    }

    /// A key that the host has from elsewhere. It must be random: a passphrase is not a key.
    #[must_use]
    pub fn from_key(key: SecretKey) -> Self {
        Self::of(Kind::Key(key))
    }

    /// The key that Argon2id makes of a passphrase, see [`PassphraseParameters::derive`].
    #[must_use]
    pub fn passphrase(passphrase: SecretBytes) -> Self {
        Self::of(Kind::Passphrase(passphrase))
    }

    /// A service that wraps.
    #[must_use]
    pub fn provider(provider: Arc<dyn KeyProvider>) -> Self {
        Self::of(Kind::Provider(provider))
    }

    /// Adds a key that data may still be wrapped under. It unwraps and never wraps.
    #[must_use]
    pub fn formerly(mut self, former: Self) -> Self {
        self.former.push(former);
        self
    }

    /// Fixes the parameters of a passphrase, in the place of those that [`resolve`](Self::resolve) is given. For a new
    /// passphrase beside a former one, each with its own.
    #[must_use]
    pub fn with_parameters(mut self, parameters: PassphraseParameters) -> Self {
        self.parameters = Some(parameters);
        self
    }

    /// Whether the current key comes from a passphrase whose parameters are not fixed: [`resolve`](Self::resolve) needs
    /// those that are stored with the data, or new ones to store.
    #[must_use]
    pub const fn needs_parameters(&self) -> bool {
        matches!(self.kind, Kind::Passphrase(_)) && self.parameters.is_none()
    }

    /// Reads the keys and gives what wraps with them.
    ///
    /// `header`: the parameters that are stored with the data, for passphrases without their own.
    ///
    /// # Errors
    ///
    /// `KeyRefused` for a key that is weak, is not a key, or is open to others, for a variable that is not set to a
    /// key, and for a passphrase without parameters. `KeyUnavailable` for a file that is not there. `LimitExceeded` for
    /// parameters that cost too much.
    pub async fn resolve(&self, header: Option<&PassphraseParameters>) -> Result<Arc<dyn KeyProvider>> {
        self.resolve_with(header, header).await
    }

    /// The same, where former passphrases have parameters of their own. Without any, nothing is wrapped under a former passphrase, and
    /// those that are given are left out.
    pub(crate) async fn resolve_with(
        &self,
        header: Option<&PassphraseParameters>,
        former: Option<&PassphraseParameters>,
    ) -> Result<Arc<dyn KeyProvider>> {
        let mut found = Vec::new();
        let mut next = vec![self];
        // INVARIANT: the current key comes first.
        while let Some(kek) = next.pop() {
            if found.is_empty() {
                found.push(kek.resolve_one(header).await?);
            } else if former.is_some() || !kek.needs_parameters() {
                found.push(kek.resolve_one(former).await?);
            }
            next.extend(&kek.former);
        }
        let mut members = found.into_iter();
        let Some(first) = members.next() else { return Err(unknown_key()) };
        if members.len() == 0 {
            return Ok(match first {
                Member::Local(one) => Arc::new(LocalKek { current: one, former: Vec::new() }),
                Member::Provider(provider) => provider,
            });
        }
        let (mut locals, mut providers) = (Vec::new(), Vec::new());
        for member in members {
            match member {
                Member::Local(one) => locals.push(one),
                Member::Provider(provider) => providers.push(provider),
            }
        }
        let current: Arc<dyn KeyProvider> = match first {
            Member::Local(one) => Arc::new(LocalKek { current: one, former: locals }),
            Member::Provider(provider) => {
                // A held key that never becomes the current one: only its `unwrap` is called.
                let mut locals = locals.into_iter();
                if let Some(one) = locals.next() {
                    providers.push(Arc::new(LocalKek { current: one, former: locals.collect() }));
                }
                provider
            }
        };
        if providers.is_empty() {
            Ok(current)
        } else {
            Ok(Arc::new(Succession { current, former: providers }))
        }
    }

    /// The same keys with each passphrase among the former ones in the first place: for who does not know which one is the newer.
    pub(crate) fn turned(&self) -> Vec<Self> {
        let mut all = vec![self];
        let mut at = 0;
        while let Some(kek) = all.get(at) {
            all.extend(&kek.former);
            at += 1;
        }
        let alone = |kek: &Self| Self { former: Vec::new(), ..kek.clone() };
        let mut turned = Vec::new();
        for (first, kek) in all.iter().enumerate().skip(1).filter(|(_, kek)| kek.needs_parameters()) {
            let others = all.iter().enumerate().filter(|(other, _)| *other != first);
            let former = others.map(|(_, kek)| alone(kek)).collect();
            turned.push(Self { former, ..(*kek).clone() });
        }
        turned
    }

    async fn resolve_one(&self, header: Option<&PassphraseParameters>) -> Result<Member> {
        let one = match &self.kind {
            Kind::Provider(provider) => return Ok(Member::Provider(Arc::clone(provider))),
            Kind::File(path) => {
                let path = path.clone();
                let read = tokio::task::spawn_blocking(move || read_key_file(&path));
                let key = read.await.map_err(|_| {
                    Error::new(ErrorKind::KeyUnavailable, "the key file can't be read while the program ends")
                })?;
                One::new(&key?, Vec::new())
            }
            Kind::Env(variable) => One::new(&read_variable(variable)?, Vec::new()),
            Kind::Key(key) => One::new(&check_strength(key.clone())?, Vec::new()),
            Kind::Passphrase(passphrase) => {
                let parameters = self.parameters.as_ref().or(header).ok_or_else(|| {
                    Error::new(
                        ErrorKind::KeyRefused,
                        "the data is not kept under a passphrase, give the key that it was made with",
                    )
                })?;
                One::new(&parameters.derive(passphrase).await?, parameters.encode().to_vec())
            }
        };
        one.map(Member::Local)
    }

    const fn of(kind: Kind) -> Self {
        Self { kind, parameters: None, former: Vec::new() }
    }
}

impl fmt::Debug for Kek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            Kind::File(_) => "Kek(file)",
            Kind::Env(_) => "Kek(env)",
            Kind::Key(_) => "Kek(key)",
            Kind::Passphrase(_) => "Kek(passphrase)",
            Kind::Provider(_) => "Kek(provider)",
        })
    }
}

enum Member {
    Local(One),
    Provider(Arc<dyn KeyProvider>),
}

/// Wraps with keys that are held in memory: one that wraps, and any number that data may still be wrapped under.
pub struct LocalKek {
    current: One,
    former: Vec<One>,
}

/// One key that is held in memory.
struct One {
    id: KekId,
    /// The id's name as hexadecimal digits, which wraps are bound to.
    provider: String,
    wrap: SecretKey,
    /// Authenticated with each wrap: the parameters of a passphrase, or nothing.
    extra: Vec<u8>,
}

impl LocalKek {
    /// Wraps with a key.
    ///
    /// # Errors
    ///
    /// `KeyRefused` for a key whose bytes are all the same.
    pub fn new(key: SecretKey) -> Result<Self> {
        Ok(Self { current: One::new(&check_strength(key)?, Vec::new())?, former: Vec::new() })
    }

    /// Adds a key that only unwraps.
    ///
    /// # Errors
    ///
    /// `KeyRefused` for a key whose bytes are all the same.
    pub fn formerly(mut self, key: SecretKey) -> Result<Self> {
        self.former.push(One::new(&check_strength(key)?, Vec::new())?);
        Ok(self)
    }

    fn open(&self, context: &KeyContext, wrapped: &Wrapped) -> Result<SecretBytes> {
        let mut keys = std::iter::once(&self.current).chain(&self.former);
        keys.find(|one| one.id == wrapped.kek).ok_or_else(unknown_key)?.open(context, &wrapped.blob)
    }
}

impl One {
    fn new(key: &SecretKey, extra: Vec<u8>) -> Result<Self> {
        let name = expand(key, b"syntha/v1/kek-id")?;
        let name = name.as_bytes().first_chunk().copied().unwrap_or_default();
        let provider = HEXLOWER.encode(&name);
        Ok(Self { id: KekId::new(name, 1), provider, wrap: expand(key, b"syntha/v1/wrap")?, extra })
    }

    fn seal(&self, context: &KeyContext, secret: &SecretBytes) -> Result<Wrapped> {
        check_secret(secret)?;
        let content = Content::Plain(&[secret.as_bytes()]);
        let binding = self.binding(context);
        let blob = envelope::seal(&self.wrap, Algorithm::Committing, context.epoch, &binding, content)?;
        Ok(Wrapped { kek: self.id, blob })
    }

    fn open(&self, context: &KeyContext, blob: &[u8]) -> Result<SecretBytes> {
        // The epoch stands in the blob, too, and must be the context's.
        if envelope::Header::read(blob)?.epoch != context.epoch {
            return Err(Error::new(ErrorKind::Tampered, "a wrapped key is of another epoch than it says"));
        }
        let opened = envelope::open(&self.wrap, Algorithm::Committing, &self.binding(context), blob)?;
        Ok(SecretBytes::new(opened.as_slice()))
    }

    fn binding<'b>(&'b self, context: &'b KeyContext) -> Binding<'b> {
        Binding::Wrap(WrapBinding {
            provider: &self.provider,
            deployment: &context.deployment,
            owner: &context.owner,
            what: context.what.name(),
            life: Incarnation(context.life),
            key_epoch: context.epoch,
            extra: &self.extra,
        })
    }
}

impl fmt::Debug for LocalKek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let former: Vec<_> = self.former.iter().map(|one| one.id).collect();
        f.debug_struct("LocalKek").field("current", &self.current.id).field("former", &former).finish()
    }
}

#[async_trait]
impl KeyProvider for LocalKek {
    async fn wrap(&self, context: &KeyContext, secret: &SecretBytes) -> Result<Wrapped> {
        self.current.seal(context, secret)
    }

    async fn unwrap(&self, context: &KeyContext, wrapped: &Wrapped) -> Result<SecretBytes> {
        self.open(context, wrapped)
    }

    async fn rewrap(&self, context: &KeyContext, wrapped: &Wrapped) -> Result<Wrapped> {
        self.current.seal(context, &self.open(context, wrapped)?)
    }

    async fn current(&self) -> Result<KekId> {
        Ok(self.current.id)
    }
}

/// A provider that wraps, and one that what is there may still be wrapped under.
pub(crate) fn succession(
    current: Arc<dyn KeyProvider>,
    former: Arc<dyn KeyProvider>,
) -> Arc<dyn KeyProvider> {
    Arc::new(Succession { current, former: vec![former] })
}

/// One provider that wraps, after others that data may still be wrapped under.
#[derive(Debug)]
struct Succession {
    current: Arc<dyn KeyProvider>,
    former: Vec<Arc<dyn KeyProvider>>,
}

#[async_trait]
impl KeyProvider for Succession {
    async fn wrap(&self, context: &KeyContext, secret: &SecretBytes) -> Result<Wrapped> {
        self.current.wrap(context, secret).await
    }

    async fn unwrap(&self, context: &KeyContext, wrapped: &Wrapped) -> Result<SecretBytes> {
        let mut worst = unknown_key();
        for provider in std::iter::once(&self.current).chain(&self.former) {
            match provider.unwrap(context, wrapped).await {
                Ok(secret) => return Ok(secret),
                Err(error) if says_more(&error, &worst) => worst = error,
                Err(_) => {}
            }
        }
        Err(worst)
    }

    async fn rewrap(&self, context: &KeyContext, wrapped: &Wrapped) -> Result<Wrapped> {
        match self.current.rewrap(context, wrapped).await {
            Err(error) if error.kind() == ErrorKind::KeyRefused => {
                self.current.wrap(context, &self.unwrap(context, wrapped).await?).await
            }
            done => done,
        }
    }

    async fn current(&self) -> Result<KekId> {
        self.current.current().await
    }
}

/// Of the failures of several providers: "not mine" says the least, then come other refusals, then the rest. Of two of a
/// kind the first is told.
fn says_more(error: &Error, than: &Error) -> bool {
    let rank = |error: &Error| match error.kind() {
        ErrorKind::KeyRefused if error.message() == unknown_key().message() => 0,
        ErrorKind::KeyRefused => 1,
        _ => 2,
    };
    rank(error) > rank(than)
}

/// HKDF-Expand (RFC 5869) of a key, 32 bytes.
fn expand(key: &SecretKey, info: &[u8]) -> Result<SecretKey> {
    let mut bytes = Zeroizing::new([0; 32]);
    Hkdf::<Sha256>::from_prk(key.as_bytes())
        .ok()
        .and_then(|hkdf| hkdf.expand(info, &mut bytes[..]).ok())
        .ok_or_else(|| Error::new(ErrorKind::KeyRefused, "a key has 32 bytes"))?;
    Ok(SecretKey::from_bytes(&bytes))
}

fn read_variable(variable: &str) -> Result<SecretKey> {
    match std::env::var(variable).map(Zeroizing::new) {
        Ok(text) => parse_key(&text),
        // The error of a value that is not text holds the value.
        Err(_) => Err(Error::new(
            ErrorKind::KeyRefused,
            "the key's environment variable is not set to 32 bytes in base64 or hexadecimal digits",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::make_key_file;
    use crate::passphrase::tests::FLOOR;
    use crate::provider::{MAX_SECRET, What};

    const CONTEXT: KeyContext =
        KeyContext { deployment: [1; 16], owner: [2; 32], what: What::Dek, life: 3, epoch: 4 };

    fn key(first: u8) -> SecretKey {
        let mut bytes = [0x5A; 32];
        bytes[0] = first;
        SecretKey::from_bytes(&bytes)
    }

    fn secret() -> SecretBytes {
        SecretBytes::new(*b"the secret that is wrapped")
    }

    fn kind<T>(result: Result<T>) -> Option<ErrorKind> {
        result.err().map(|error| error.kind())
    }

    #[tokio::test]
    async fn what_was_wrapped_unwraps() {
        let kek = LocalKek::new(key(1)).unwrap();
        for length in [0, 32, MAX_SECRET] {
            let secret = SecretBytes::new(vec![7; length]);
            let wrapped = kek.wrap(&CONTEXT, &secret).await.unwrap();
            assert_eq!(wrapped.kek, kek.current().await.unwrap());
            // It commits to its key.
            assert_eq!((wrapped.blob[1], wrapped.blob.len()), (2, 30 + 32 + length + 16));
            assert_eq!(kek.unwrap(&CONTEXT, &wrapped).await.unwrap().as_bytes(), secret.as_bytes());
            let again = kek.wrap(&CONTEXT, &secret).await.unwrap();
            assert_ne!(wrapped.blob, again.blob);
        }
        let large = SecretBytes::new(vec![7; MAX_SECRET + 1]);
        assert_eq!(kind(kek.wrap(&CONTEXT, &large).await), Some(ErrorKind::LimitExceeded));
    }

    #[tokio::test]
    async fn another_context_does_not_unwrap() {
        let kek = LocalKek::new(key(1)).unwrap();
        let wrapped = kek.wrap(&CONTEXT, &secret()).await.unwrap();
        for other in [
            KeyContext { deployment: [9; 16], ..CONTEXT },
            KeyContext { owner: [9; 32], ..CONTEXT },
            KeyContext { what: What::Root, ..CONTEXT },
            KeyContext { life: 9, ..CONTEXT },
            KeyContext { epoch: 9, ..CONTEXT },
        ] {
            assert_eq!(kind(kek.unwrap(&other, &wrapped).await), Some(ErrorKind::Tampered));
            assert_eq!(kind(kek.rewrap(&other, &wrapped).await), Some(ErrorKind::Tampered));
        }
    }

    #[tokio::test]
    async fn every_changed_or_missing_byte_is_seen() {
        let kek = LocalKek::new(key(1)).unwrap();
        let wrapped = kek.wrap(&CONTEXT, &secret()).await.unwrap();
        for place in 0..wrapped.blob.len() {
            let mut changed = wrapped.clone();
            changed.blob[place] ^= 1;
            assert_eq!(kind(kek.unwrap(&CONTEXT, &changed).await), Some(ErrorKind::Tampered), "{place}");
            let cut = Wrapped { blob: wrapped.blob[..place].to_vec(), ..wrapped.clone() };
            assert_eq!(kind(kek.unwrap(&CONTEXT, &cut).await), Some(ErrorKind::Tampered), "{place}");
        }
        let mut longer = wrapped;
        longer.blob.push(0);
        assert_eq!(kind(kek.unwrap(&CONTEXT, &longer).await), Some(ErrorKind::Tampered));
    }

    #[tokio::test]
    async fn another_key_is_refused_and_a_former_one_unwraps() {
        let (old, new) = (LocalKek::new(key(1)).unwrap(), LocalKek::new(key(2)).unwrap());
        let wrapped = old.wrap(&CONTEXT, &secret()).await.unwrap();
        assert_eq!(kind(new.unwrap(&CONTEXT, &wrapped).await), Some(ErrorKind::KeyRefused));
        // Whoever writes the right name on it gets no further.
        let renamed = Wrapped { kek: new.current.id, ..wrapped.clone() };
        assert_eq!(kind(new.unwrap(&CONTEXT, &renamed).await), Some(ErrorKind::Tampered));
        let both = new.formerly(key(1)).unwrap();
        assert_eq!(both.unwrap(&CONTEXT, &wrapped).await.unwrap().as_bytes(), secret().as_bytes());
        let rewrapped = both.rewrap(&CONTEXT, &wrapped).await.unwrap();
        assert_eq!(rewrapped.kek, both.current.id);
        let alone = LocalKek::new(key(2)).unwrap();
        assert_eq!(alone.unwrap(&CONTEXT, &rewrapped).await.unwrap().as_bytes(), secret().as_bytes());
    }

    #[tokio::test]
    async fn kinds_of_keys_resolve() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kek");
        let from_file = make_key_file(&path).unwrap();
        let file = Kek::file(&path).resolve(None).await.unwrap();
        let same = Kek::from_key(from_file).resolve(None).await.unwrap();
        assert_eq!(file.current().await.unwrap(), same.current().await.unwrap());
        let through = Kek::provider(Arc::clone(&file)).resolve(None).await.unwrap();
        assert_eq!(file.current().await.unwrap(), through.current().await.unwrap());

        let missing = Kek::file(folder.path().join("none")).resolve(None).await;
        assert_eq!(kind(missing), Some(ErrorKind::KeyUnavailable));
        let unset = Kek::env("SYNTHA_TEST_NO_SUCH_KEY").resolve(None).await;
        assert_eq!(kind(unset), Some(ErrorKind::KeyRefused));
        // Set for every process, and no key.
        assert_eq!(kind(Kek::env("PATH").resolve(None).await), Some(ErrorKind::KeyRefused));
        let zeros = Kek::from_key(SecretKey::from_bytes(&[0; 32])).resolve(None).await;
        assert_eq!(kind(zeros), Some(ErrorKind::KeyRefused));
    }

    /// One that [`a_key_from_the_environment`] starts, and a test of its own otherwise.
    #[tokio::test]
    async fn one_with_a_key_in_its_environment() {
        let kek = Kek::env("SYNTHA_TEST_KEY").resolve(None).await;
        if std::env::var_os("SYNTHA_TEST_KEY").is_some() {
            println!("key {:?}.", kek.unwrap().current().await.unwrap());
        } else {
            assert_eq!(kind(kek), Some(ErrorKind::KeyRefused));
        }
    }

    #[test]
    fn a_key_from_the_environment() {
        let expected = format!("key {:?}.", One::new(&key(1), Vec::new()).unwrap().id);
        for value in [
            data_encoding::HEXLOWER.encode(key(1).as_bytes()),
            data_encoding::BASE64.encode(key(1).as_bytes()),
        ] {
            let output = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "kek::tests::one_with_a_key_in_its_environment", "--nocapture"])
                .env("SYNTHA_TEST_KEY", value)
                .output()
                .unwrap();
            let output = String::from_utf8(output.stdout).unwrap();
            assert!(output.contains(&expected), "{output}");
        }
    }

    #[tokio::test]
    async fn a_passphrase_wraps_with_its_parameters() {
        let passphrase = || SecretBytes::new(*b"correct horse battery");
        let kek = Kek::passphrase(passphrase());
        assert!(kek.needs_parameters());
        assert_eq!(kind(kek.resolve(None).await), Some(ErrorKind::KeyRefused));
        let provider = kek.resolve(Some(&FLOOR)).await.unwrap();
        let wrapped = provider.wrap(&CONTEXT, &secret()).await.unwrap();
        assert_eq!(provider.unwrap(&CONTEXT, &wrapped).await.unwrap().as_bytes(), secret().as_bytes());

        let wrong = Kek::passphrase(SecretBytes::new(*b"correct horse batterz"));
        let wrong = wrong.resolve(Some(&FLOOR)).await.unwrap();
        assert_eq!(kind(wrong.unwrap(&CONTEXT, &wrapped).await), Some(ErrorKind::KeyRefused));

        for edited in [
            PassphraseParameters { m_kib: FLOOR.m_kib + 8, ..FLOOR },
            PassphraseParameters { t: 4, ..FLOOR },
            PassphraseParameters { p: 2, ..FLOOR },
            PassphraseParameters { salt: [8; 16], ..FLOOR },
        ] {
            let other = kek.resolve(Some(&edited)).await.unwrap();
            assert_eq!(kind(other.unwrap(&CONTEXT, &wrapped).await), Some(ErrorKind::KeyRefused));
            // Even if the edit left the key the same.
            let derived = FLOOR.derive(&passphrase()).await.unwrap();
            let same_key = One::new(&derived, edited.encode().to_vec()).unwrap();
            assert_eq!(kind(same_key.open(&CONTEXT, &wrapped.blob)), Some(ErrorKind::Tampered));
        }
        let weak = PassphraseParameters { m_kib: 1024, ..FLOOR };
        assert_eq!(kind(kek.resolve(Some(&weak)).await), Some(ErrorKind::KeyRefused));
        let costly = PassphraseParameters { m_kib: 1 << 31, ..FLOOR };
        assert_eq!(kind(kek.resolve(Some(&costly)).await), Some(ErrorKind::LimitExceeded));
    }

    #[tokio::test]
    async fn any_kind_may_come_after_any_other() {
        let service: Arc<dyn KeyProvider> = Arc::new(LocalKek::new(key(9)).unwrap());
        let passphrase = SecretBytes::new(*b"correct horse battery");
        let all = [
            Kek::from_key(key(1)),
            Kek::from_key(key(2)),
            Kek::provider(service),
            Kek::passphrase(passphrase).with_parameters(FLOOR),
        ];
        let mut wraps = Vec::new();
        for kek in &all {
            let provider = kek.resolve(None).await.unwrap();
            wraps.push(provider.wrap(&CONTEXT, &secret()).await.unwrap());
        }
        for (place, kek) in all.iter().enumerate() {
            let alone = kek.resolve(None).await.unwrap();
            let former = all.iter().enumerate().filter(|(other, _)| *other != place);
            let kek = former.fold(kek.clone(), |kek, (_, former)| kek.formerly(former.clone()));
            let provider = kek.resolve(None).await.unwrap();
            assert_eq!(provider.current().await.unwrap(), alone.current().await.unwrap());
            for wrapped in &wraps {
                let opened = provider.unwrap(&CONTEXT, wrapped).await.unwrap();
                assert_eq!(opened.as_bytes(), secret().as_bytes());
                let rewrapped = provider.rewrap(&CONTEXT, wrapped).await.unwrap();
                let opened = alone.unwrap(&CONTEXT, &rewrapped).await.unwrap();
                assert_eq!(opened.as_bytes(), secret().as_bytes());
                let mut changed = wrapped.clone();
                *changed.blob.last_mut().unwrap() ^= 1;
                assert_eq!(kind(provider.unwrap(&CONTEXT, &changed).await), Some(ErrorKind::Tampered));
            }
            let other = LocalKek::new(key(3)).unwrap().wrap(&CONTEXT, &secret()).await.unwrap();
            assert_eq!(kind(provider.unwrap(&CONTEXT, &other).await), Some(ErrorKind::KeyRefused));
            assert_eq!(kind(provider.rewrap(&CONTEXT, &other).await), Some(ErrorKind::KeyRefused));
        }
    }

    /// Made by another implementation of the format (Python, `cryptography`).
    #[tokio::test]
    async fn a_wrapped_key_of_another_implementation_unwraps() {
        let text = "AWdF5LWzqo5IvRcIcMBk4rsAAAABAAAAaAECAAAABGRlZmdoaWprbG1ub3BxcnN0dXZ3eHl6e4LFWAFrVRIGpveEoqOI\
        LDV8OCdgBKOEVycvZvfhVzcEzd+6WK3IombdZTeZCpr3CmuqJ9f4qzTyc00g6Wklsb2uPcwpXOZoO2wd";
        let wrapped = Wrapped::decode(&data_encoding::BASE64.decode(text.as_bytes()).unwrap()).unwrap();
        let bytes: Vec<u8> = (0..32).collect();
        let kek = LocalKek::new(SecretKey::from_slice(&bytes).unwrap()).unwrap();
        assert_eq!(format!("{:?}", kek.current.id), "KekId(6745e4b5b3aa8e48bd170870c064e2bb, version 1)");
        assert_eq!(kek.unwrap(&CONTEXT, &wrapped).await.unwrap().as_bytes(), secret().as_bytes());
    }

    /// Denies every access.
    #[derive(Debug)]
    struct Denied;

    #[async_trait]
    impl KeyProvider for Denied {
        async fn wrap(&self, _: &KeyContext, _: &SecretBytes) -> Result<Wrapped> {
            Err(Error::new(ErrorKind::KeyRefused, "denied"))
        }

        async fn unwrap(&self, _: &KeyContext, _: &Wrapped) -> Result<SecretBytes> {
            Err(Error::new(ErrorKind::KeyRefused, "denied"))
        }

        async fn rewrap(&self, _: &KeyContext, _: &Wrapped) -> Result<Wrapped> {
            Err(Error::new(ErrorKind::KeyRefused, "denied"))
        }

        async fn current(&self) -> Result<KekId> {
            Err(Error::new(ErrorKind::KeyRefused, "denied"))
        }
    }

    #[tokio::test]
    async fn the_failure_that_says_most_is_told() {
        let other = LocalKek::new(key(3)).unwrap().wrap(&CONTEXT, &secret()).await.unwrap();
        let own = LocalKek::new(key(1)).unwrap().wrap(&CONTEXT, &secret()).await.unwrap();
        let mut changed = own.clone();
        *changed.blob.last_mut().unwrap() ^= 1;
        let (local, denied) = (Kek::from_key(key(1)), Kek::provider(Arc::new(Denied)));
        for kek in [local.clone().formerly(denied.clone()), denied.formerly(local)] {
            let provider = kek.resolve(None).await.unwrap();
            assert_eq!(provider.unwrap(&CONTEXT, &own).await.unwrap().as_bytes(), secret().as_bytes());
            let error = provider.unwrap(&CONTEXT, &other).await.err().unwrap();
            assert_eq!(error.message(), "denied");
            assert_eq!(kind(provider.unwrap(&CONTEXT, &changed).await), Some(ErrorKind::Tampered));
        }
    }

    #[tokio::test]
    async fn debug_tells_no_key() {
        let kek = Kek::file("/secret/place").formerly(Kek::env("SECRET_NAME"));
        assert_eq!(format!("{kek:?}"), "Kek(file)");
        let local = LocalKek::new(key(1)).unwrap().formerly(key(2)).unwrap();
        let text = format!("{local:?}");
        let start = |key: &SecretKey| data_encoding::HEXLOWER.encode(&key.as_bytes()[..4]);
        assert!(!text.contains(&start(&key(1))) && !text.contains(&start(&local.current.wrap)));
        assert!(!text.contains("90, 90"));
    }
}
