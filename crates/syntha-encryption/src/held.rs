//! The inner wrap of keys that a user holds: by a key that the user's passphrase gives, under the deployment's wrap.

use hkdf::Hkdf;
use sha2::Sha256;
use syntha_store::{Error, ErrorKind, Incarnation, Result};

use crate::binding::{Binding, WrapBinding};
use crate::envelope::{self, Algorithm, Content};
use crate::provider::KeyContext;
use crate::secret::{SecretBytes, SecretKey};

const DOMAIN: &[u8] = b"syntha/v1/held";
/// The provider's name in the binding: no provider calls itself so.
const PROVIDER: &str = "holder";

pub(crate) fn seal(holder: &SecretKey, context: &KeyContext, secret: &SecretKey) -> Result<SecretBytes> {
    let content = Content::Plain(&[secret.as_bytes()]);
    let sealed = envelope::seal(&subkey(holder)?, Algorithm::Committing, 0, &binding(context), content)?;
    Ok(SecretBytes::new(sealed))
}

/// # Errors
///
/// `KeyRefused` for another key than the one that sealed.
pub(crate) fn open(holder: &SecretKey, context: &KeyContext, sealed: &SecretBytes) -> Result<SecretBytes> {
    let opened =
        envelope::open(&subkey(holder)?, Algorithm::Committing, &binding(context), sealed.as_bytes());
    let opened = opened.map_err(|_| {
        Error::new(ErrorKind::KeyRefused, "the passphrase is not the one that the user holds the key with")
    })?;
    Ok(SecretBytes::new(opened.to_vec()))
}

fn binding(context: &KeyContext) -> Binding<'_> {
    Binding::Wrap(WrapBinding {
        provider: PROVIDER,
        deployment: &context.deployment,
        owner: &context.owner,
        what: context.what.name(),
        life: Incarnation(context.life),
        key_epoch: context.epoch,
        extra: &[],
    })
}

fn subkey(holder: &SecretKey) -> Result<SecretKey> {
    let expand = Hkdf::<Sha256>::from_prk(holder.as_bytes()).map_err(|_| unusable())?;
    let mut key = zeroize::Zeroizing::new([0; 32]);
    expand.expand(DOMAIN, &mut *key).map_err(|_| unusable())?;
    Ok(SecretKey::from_bytes(&key))
}

const fn unusable() -> Error {
    Error::new(ErrorKind::KeyRefused, "the key can't be used")
}
