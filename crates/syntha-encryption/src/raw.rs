//! Envelope v1, as small as it can be: how one blob is sealed.

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Key};
use hkdf::Hkdf;
use sha2::Sha256;
use subtle::ConstantTimeEq;
use syntha_store::{Error, ErrorKind, Result};
use zeroize::Zeroizing;

use crate::secret::{SecretKey, fill};

const VERSION: u8 = 1;
/// Version, algorithm, epoch, salt.
const HEAD: usize = 1 + 1 + 4 + 24;
const TAG: usize = 16;
const COMMITMENT: usize = 32;

/// Seals under a subkey. `aad_fields`: the part's byte, then the part's fields.
pub(crate) fn seal(
    subkey: &SecretKey,
    algorithm: u8,
    epoch: u32,
    aad_fields: &[&[u8]],
    plaintext: &[u8],
) -> Result<Vec<u8>> {
    let mut salt = [0; 24];
    fill(&mut salt)?;
    let (prefix, nonce) = split(&salt)?;
    let derived = derive(subkey, algorithm, epoch, prefix)?;
    let mut sealed = Vec::with_capacity(HEAD + COMMITMENT + plaintext.len() + TAG);
    sealed.extend_from_slice(&[VERSION, algorithm]);
    sealed.extend_from_slice(&epoch.to_be_bytes());
    sealed.extend_from_slice(&salt);
    if algorithm == 2 {
        sealed.extend_from_slice(derived.get(32..).unwrap_or_default());
    }
    let start = sealed.len();
    sealed.extend_from_slice(plaintext);
    let aad = associated(algorithm, epoch, aad_fields)?;
    let body = sealed.get_mut(start..).unwrap_or_default();
    let tag = cipher(&derived)?
        .encrypt_inout_detached(nonce.into(), &aad, body.into())
        .map_err(|_| Error::new(ErrorKind::LimitExceeded, "the data is too large to be sealed"))?;
    sealed.extend_from_slice(&tag);
    Ok(sealed)
}

/// Opens what [`seal`] made of the same subkey, algorithm, epoch and fields.
pub(crate) fn open(
    subkey: &SecretKey,
    expected_algorithm: u8,
    epoch: u32,
    aad_fields: &[&[u8]],
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>> {
    let (head, rest) = sealed.split_at_checked(HEAD).ok_or_else(tampered)?;
    let (named, salt) = head.split_at_checked(HEAD - 24).ok_or_else(tampered)?;
    let [version, algorithm, stored_epoch @ ..] = named else { return Err(tampered()) };
    if *version != VERSION || *algorithm != expected_algorithm || stored_epoch != epoch.to_be_bytes() {
        return Err(tampered());
    }
    let (prefix, nonce) = split(salt)?;
    let derived = derive(subkey, expected_algorithm, epoch, prefix)?;
    let rest = if expected_algorithm == 2 {
        let (commitment, rest) = rest.split_at_checked(COMMITMENT).ok_or_else(tampered)?;
        if !bool::from(commitment.ct_eq(derived.get(32..).unwrap_or_default())) {
            return Err(tampered());
        }
        rest
    } else {
        rest
    };
    let length = rest.len().checked_sub(TAG).ok_or_else(tampered)?;
    let (body, tag) = rest.split_at_checked(length).ok_or_else(tampered)?;
    let tag: &[u8; TAG] = tag.try_into().map_err(|_| tampered())?;
    let mut opened = Zeroizing::new(body.to_vec());
    cipher(&derived)?
        .decrypt_inout_detached(
            nonce.into(),
            &associated(expected_algorithm, epoch, aad_fields)?,
            opened.as_mut_slice().into(),
            tag.into(),
        )
        .map_err(|_| tampered())?;
    Ok(opened)
}

/// The part of the salt that makes the key, and the nonce.
fn split(salt: &[u8]) -> Result<(&[u8], &[u8; 12])> {
    let (prefix, nonce) = salt.split_at_checked(12).ok_or_else(tampered)?;
    Ok((prefix, nonce.try_into().map_err(|_| tampered())?))
}

fn derive(subkey: &SecretKey, algorithm: u8, epoch: u32, prefix: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
    let length = match algorithm {
        1 => 32,
        2 => 64,
        _ => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "this build does not know the sealing's algorithm",
            ));
        }
    };
    let mut derived = Zeroizing::new(vec![0; length]);
    Hkdf::<Sha256>::from_prk(subkey.as_bytes())
        .ok()
        .and_then(|hkdf| {
            let info: [&[u8]; 4] = [b"syntha/v1/rec", &[algorithm], &epoch.to_be_bytes(), prefix];
            hkdf.expand_multi_info(&info, &mut derived).ok()
        })
        .ok_or_else(tampered)?;
    Ok(derived)
}

fn cipher(derived: &[u8]) -> Result<Aes256Gcm> {
    let key: &[u8; 32] = derived.first_chunk().ok_or_else(tampered)?;
    Ok(Aes256Gcm::new(<&Key<Aes256Gcm>>::from(key)))
}

fn associated(algorithm: u8, epoch: u32, fields: &[&[u8]]) -> Result<Vec<u8>> {
    let epoch = epoch.to_be_bytes();
    let own: [&[u8]; 4] = [b"syntha", &[VERSION], &[algorithm], &epoch];
    let mut aad = Vec::new();
    for field in own.iter().chain(fields) {
        let length = u32::try_from(field.len())
            .map_err(|_| Error::new(ErrorKind::LimitExceeded, "the data's place has too long a name"))?;
        aad.extend_from_slice(&length.to_be_bytes());
        aad.extend_from_slice(field);
    }
    Ok(aad)
}

const fn tampered() -> Error {
    Error::new(ErrorKind::Tampered, "sealed data does not open under its key, it was changed or moved")
}
