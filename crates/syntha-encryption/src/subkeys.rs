//! What is derived from a user's keys: a key for each purpose, and the names that records are stored under.

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use syntha_store::{Error, ErrorKind, Keyspace, Result};

use crate::secret::SecretKey;

const PURPOSE_DOMAIN: &[u8] = b"syntha/v1/purpose/";
const NAME_DOMAIN: &[u8] = b"syntha/v1/name";
const ARCHIVE_DOMAIN: &[u8] = b"syntha/v1/archive";
const ROSTER_DOMAIN: &[u8] = b"syntha/v1/roster";
const DETAILS_DOMAIN: &[u8] = b"syntha/v1/details";

/// What a subkey seals. Each purpose has a key of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Purpose {
    /// Context entries, also those that can be undone, agents, operations, and facts about the mesh.
    Value,
    /// Conversations, and what agents did.
    History,
    /// The audit chain.
    Audit,
    /// The deployment's own directory, ledger, accounts, tokens, sessions and login throttle.
    Deployment,
    /// A commit's note.
    Note,
}

impl Purpose {
    /// Every purpose.
    pub const ALL: [Self; 5] = [Self::Value, Self::History, Self::Audit, Self::Deployment, Self::Note];

    /// The purpose of a keyspace's records.
    ///
    /// # Errors
    ///
    /// `Unsupported` for a keyspace that this build has no key for.
    pub fn of(space: Keyspace) -> Result<Self> {
        match space {
            Keyspace::Context | Keyspace::Agents | Keyspace::Operations | Keyspace::Meta | Keyspace::Undo => {
                Ok(Self::Value)
            }
            Keyspace::History | Keyspace::Threads | Keyspace::MessageIds | Keyspace::Interactions => {
                Ok(Self::History)
            }
            Keyspace::Audit => Ok(Self::Audit),
            Keyspace::Directory
            | Keyspace::Ledger
            | Keyspace::Accounts
            | Keyspace::Tokens
            | Keyspace::Sessions
            | Keyspace::Throttle => Ok(Self::Deployment),
            _ => Err(Error::new(
                ErrorKind::Unsupported,
                "this build has no key for that keyspace, give it a purpose",
            )),
        }
    }

    /// The name that goes into the derivation.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Value => "value",
            Self::History => "history",
            Self::Audit => "audit",
            Self::Deployment => "deployment",
            Self::Note => "note",
        }
    }
}

/// A data key of one epoch, as the subkeys that it is used by. It has no `Debug` and is wiped when dropped.
#[derive(Clone)]
#[allow(missing_debug_implementations, reason = "a secret has none")]
pub struct DataKey {
    epoch: u32,
    value: SecretKey,
    history: SecretKey,
    audit: SecretKey,
    deployment: SecretKey,
    note: SecretKey,
}

impl DataKey {
    /// Derives the subkeys: HKDF-Expand (RFC 5869) with the data key and `"syntha/v1/purpose/"` before the purpose's
    /// name.
    ///
    /// # Errors
    ///
    /// `Invalid` for epoch 0: epochs count from 1.
    pub fn new(key: &SecretKey, epoch: u32) -> Result<Self> {
        if epoch == 0 {
            return Err(Error::new(ErrorKind::Invalid, "the epochs of data keys count from 1"));
        }
        let derive = |purpose: Purpose| derive(key, &[PURPOSE_DOMAIN, purpose.name().as_bytes()]);
        Ok(Self {
            epoch,
            value: derive(Purpose::Value),
            history: derive(Purpose::History),
            audit: derive(Purpose::Audit),
            deployment: derive(Purpose::Deployment),
            note: derive(Purpose::Note),
        })
    }

    /// The epoch, from 1.
    #[must_use]
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The subkey of a purpose.
    #[must_use]
    pub const fn subkey(&self, purpose: Purpose) -> &SecretKey {
        match purpose {
            Purpose::Value => &self.value,
            Purpose::History => &self.history,
            Purpose::Audit => &self.audit,
            Purpose::Deployment => &self.deployment,
            Purpose::Note => &self.note,
        }
    }
}

/// What a user's root key is used for; rotation leaves it as it is. It has no `Debug` and is wiped when dropped.
#[derive(Clone)]
#[allow(missing_debug_implementations, reason = "a secret has none")]
pub struct Root {
    names: Box<Hmac<Sha256>>,
    archive: SecretKey,
    roster: SecretKey,
    details: SecretKey,
}

impl Root {
    /// Derives the keys: HKDF-Expand (RFC 5869) with the user's root and `"syntha/v1/name"`, `"syntha/v1/archive"`,
    /// `"syntha/v1/roster"` or `"syntha/v1/details"`.
    #[must_use]
    pub fn new(root: &SecretKey) -> Self {
        let name_key = derive(root, &[NAME_DOMAIN]);
        #[allow(clippy::expect_used, reason = "HMAC takes a key of any length (RFC 2104, section 2)")]
        let names = <Hmac<Sha256> as KeyInit>::new_from_slice(name_key.as_bytes()).expect("any key length");
        Self {
            names: Box::new(names),
            archive: derive(root, &[ARCHIVE_DOMAIN]),
            roster: derive(root, &[ROSTER_DOMAIN]),
            details: derive(root, &[DETAILS_DOMAIN]),
        }
    }

    /// The name that a record is stored under: HMAC-SHA-256 (RFC 2104) over the keyspace's code and the name.
    #[must_use]
    pub fn stored_name(&self, space: Keyspace, name: &[u8]) -> [u8; 32] {
        let mut mac = (*self.names).clone();
        mac.update(&[space.code()]);
        mac.update(name);
        mac.finalize().into_bytes().into()
    }

    /// The key of the sum over the user's agents and permissions.
    #[must_use]
    pub const fn roster_key(&self) -> &SecretKey {
        &self.roster
    }

    /// The key of the details in the user's audit trail.
    #[must_use]
    pub const fn details_key(&self) -> &SecretKey {
        &self.details
    }

    /// The key of the user's sealed archives.
    #[must_use]
    pub const fn archive_key(&self) -> &SecretKey {
        &self.archive
    }
}

fn derive(key: &SecretKey, info: &[&[u8]]) -> SecretKey {
    SecretKey::made_by(|bytes| expand(key, info, bytes))
}

/// HKDF-Expand (RFC 5869, section 2.3) with SHA-256, for keys that are uniform already. `info` is concatenated.
///
/// INVARIANT: `output` has a fixed length of at most 255 * 32 bytes in every call.
pub(crate) fn expand(key: &SecretKey, info: &[&[u8]], output: &mut [u8]) {
    #[allow(clippy::expect_used, reason = "32 bytes are as many as HKDF with SHA-256 asks for")]
    let hkdf = Hkdf::<Sha256>::from_prk(key.as_bytes()).expect("a key of 32 bytes");
    #[allow(clippy::expect_used, reason = "the longest output of any call is 64 bytes")]
    hkdf.expand_multi_info(info, output).expect("a short output");
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use data_encoding::HEXLOWER;

    use super::*;

    fn counting() -> SecretKey {
        SecretKey::from_bytes(&std::array::from_fn(|index| u8::try_from(index).unwrap()))
    }

    fn hex(bytes: &[u8]) -> String {
        HEXLOWER.encode(bytes)
    }

    // The values were made with Python's hmac alone: HKDF-Expand to 32 bytes is HMAC(key, info ‖ 0x01).
    #[test]
    fn subkeys_are_the_documented_ones() {
        let key = DataKey::new(&counting(), 7).unwrap();
        assert_eq!(key.epoch(), 7);
        for (purpose, expected) in [
            (Purpose::Value, "4851ee6f14748cad06767d046eedf526476de734f7ab9f5f3a7066682a6075e8"),
            (Purpose::History, "03fec7a8601a900022d90f0af745525379f150d5c33a1815427e56486a3cc808"),
            (Purpose::Audit, "87967cd16a98675d7bc65e85871d038ae96635554288e5da9811872c4ef9e85d"),
            (Purpose::Deployment, "4e8377d53c2e278fe4ac02100f008ebe4a185a0a51f72f7555bf49017306d235"),
            (Purpose::Note, "263b738e32591978963161072ae1d6d5a3c00bb9aa48cd8130ac69af288eb911"),
        ] {
            assert_eq!(hex(key.subkey(purpose).as_bytes()), expected, "{purpose:?}");
        }
    }

    #[test]
    fn names_and_the_keys_of_a_root_are_the_documented_ones() {
        let root = Root::new(&counting());
        assert_eq!(
            hex(root.archive_key().as_bytes()),
            "53a42cdace32f9ba4c82b19cd4a12806bca6dddcdcf164dfbee63294845ff2b3"
        );
        assert_eq!(
            hex(root.details_key().as_bytes()),
            "e5b9004b36e058ba53833e5c73d84a4b9fddf940bd6c19337525bac4076ced32"
        );
        for (space, name, expected) in [
            (Keyspace::Context, "status", "836205b3da115eb0d4c38ec371d04bc0f6e295fe63160b41953fea10465e89d4"),
            (Keyspace::Context, "", "890ad09bad65a08bf7f9ad7fb155624a6a072b847f1e315baf59c48d2ed8a340"),
            (Keyspace::Agents, "status", "547aefdbd1cdbbdddabc4135920a15b6cc303a1a9178c8f8d978a4b1e092c9cd"),
            (
                Keyspace::History,
                "Grüße, 世界",
                "86c6493a572006fd919ad74fa6a83958dea377474c57ea974ea94667b3d529b7",
            ),
        ] {
            assert_eq!(hex(&root.stored_name(space, name.as_bytes())), expected, "{space:?} {name:?}");
        }
    }

    #[test]
    fn expansion_is_that_of_rfc_5869() {
        // Test case 1 of RFC 5869, appendix A, from its PRK on.
        let prk =
            HEXLOWER.decode(b"077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5").unwrap();
        let mut output = [0; 42];
        let info = HEXLOWER.decode(b"f0f1f2f3f4f5f6f7f8f9").unwrap();
        expand(&SecretKey::from_slice(&prk).unwrap(), &[&info[..3], &info[3..]], &mut output);
        let expected = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865";
        assert_eq!(hex(&output), expected);
    }

    #[test]
    fn no_two_keys_are_alike() {
        let (a, b) = (counting(), SecretKey::from_bytes(&[1; 32]));
        let mut seen = BTreeSet::new();
        for key in [&a, &b] {
            let data = DataKey::new(key, 1).unwrap();
            seen.extend(Purpose::ALL.map(|purpose| *data.subkey(purpose).as_bytes()));
            let root = Root::new(key);
            seen.insert(*root.archive_key().as_bytes());
            seen.insert(*root.roster_key().as_bytes());
            seen.insert(*root.details_key().as_bytes());
            seen.extend(Keyspace::all().map(|space| root.stored_name(space, b"a")));
            seen.insert(*key.as_bytes());
        }
        assert_eq!(seen.len(), 2 * (5 + 3 + Keyspace::all().count() + 1));
    }

    #[test]
    fn every_keyspace_has_a_purpose() {
        // Wrapped keys are in a keystore, whose store is not sealed.
        let sealed = Keyspace::all().filter(|space| *space != Keyspace::Keys);
        let table: Vec<_> = sealed.map(|space| (space.code(), Purpose::of(space).unwrap().name())).collect();
        assert_eq!(Purpose::of(Keyspace::Keys).unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(
            table,
            [
                (1, "value"),
                (2, "value"),
                (3, "value"),
                (4, "history"),
                (5, "audit"),
                (6, "value"),
                (7, "deployment"),
                (8, "deployment"),
                (9, "history"),
                (10, "history"),
                (11, "history"),
                (13, "deployment"),
                (14, "deployment"),
                (15, "deployment"),
                (16, "deployment"),
                (17, "value")
            ]
        );
    }

    #[test]
    fn epochs_count_from_one() {
        assert_eq!(DataKey::new(&counting(), 0).err().unwrap().kind(), ErrorKind::Invalid);
    }
}
