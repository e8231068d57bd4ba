//! Wrapped keys, apart from the data that they open.
//!
//! A keystore is the own space of a store that holds nothing else: rows in the keyspace [`Keyspace::Keys`]. Row `header` says what the
//! deployment is and how its keys are wrapped. A user has a row under the tag with sequence number 0, which holds the user's root,
//! and one for each life, which holds that life's data keys. Everything secret in them is wrapped.

use std::sync::Arc;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use syntha_store::{
    Batch, Error, ErrorKind, Expect, Incarnation, Keyspace, Op, RecordId, Result, Scan, Store, Timestamp,
    UserStore, Version,
};

use crate::passphrase::PassphraseParameters;
use crate::provider::Wrapped;

/// How many rows a page of a scan has.
const PAGE: usize = 1_000;
const HEADER: &[u8] = b"header";
/// A user's rows are few: one life, and those that a process which died left behind.
const LIVES_MOST: usize = 1_024;

/// Where the wrapped keys of a deployment are kept: the own space of a store that holds nothing else.
#[derive(Clone, Debug)]
pub struct Keystore {
    store: Arc<dyn Store>,
    space: Arc<dyn UserStore>,
}

/// The header: one for a deployment, written once and changed by a rewrap alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Header {
    v: u8,
    /// The deployment's id, 32 hexadecimal digits.
    pub(crate) deployment: String,
    /// `sealed` or `values`.
    pub(crate) mode: String,
    /// How the passphrase becomes the key, in base64; none for another kind of key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    passphrase: Option<String>,
    /// The same of a passphrase that rows may still be wrapped under.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    former_passphrase: Option<String>,
    /// The known value as the former key wrapped it, while rows may still be wrapped under that key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    former_check: Option<String>,
    /// A known value, wrapped: it tells the right key from a wrong one before anything is written.
    check: String,
    /// The key that users' tags are made with, wrapped.
    deployment_key: String,
}

/// A user's root, and how the user holds it, if so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RootRow {
    v: u8,
    root: String,
    /// The user's own passphrase's parameters, in base64: the root and the data keys are wrapped with it before they are wrapped
    /// with the deployment's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    holder: Option<String>,
}

/// The data keys of one life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LifeRow {
    v: u8,
    /// 32 hexadecimal digits.
    life: String,
    /// By epoch, at most two.
    keys: Vec<EpochRow>,
    /// The epoch that everything is to be sealed under, while another one is still there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) target: Option<u32>,
    /// The highest epoch that the life ever had. INVARIANT: no epoch stands for two keys, also after one was given up.
    #[serde(default)]
    highest: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EpochRow {
    pub(crate) epoch: u32,
    key: String,
}

/// A row and its version.
#[derive(Clone, Debug)]
pub(crate) struct Kept<T> {
    pub(crate) row: T,
    pub(crate) version: Version,
}

/// All rows of an owner.
#[derive(Clone, Debug, Default)]
pub(crate) struct OwnerRows {
    pub(crate) root: Option<Kept<RootRow>>,
    pub(crate) lives: Vec<Kept<LifeRow>>,
}

impl Header {
    pub(crate) fn new(
        deployment: [u8; 16],
        mode: &str,
        passphrase: Option<&PassphraseParameters>,
        check: &Wrapped,
        deployment_key: &Wrapped,
    ) -> Result<Self> {
        Ok(Self {
            v: 1,
            deployment: format!("{:032x}", u128::from_be_bytes(deployment)),
            mode: mode.to_owned(),
            passphrase: passphrase.map(|parameters| BASE64.encode(&parameters.encode())),
            former_passphrase: None,
            former_check: None,
            check: text(check)?,
            deployment_key: text(deployment_key)?,
        })
    }

    pub(crate) fn deployment(&self) -> Result<[u8; 16]> {
        let id = Some(&self.deployment).filter(|text| text.len() == 32);
        let id = id.and_then(|text| u128::from_str_radix(text, 16).ok()).ok_or_else(damaged)?;
        Ok(id.to_be_bytes())
    }

    pub(crate) fn passphrase(&self) -> Result<Option<PassphraseParameters>> {
        parameters(self.passphrase.as_deref())
    }

    pub(crate) fn former_passphrase(&self) -> Result<Option<PassphraseParameters>> {
        parameters(self.former_passphrase.as_deref())
    }

    pub(crate) fn check(&self) -> Result<Wrapped> {
        wrapped(&self.check)
    }

    pub(crate) fn deployment_key(&self) -> Result<Wrapped> {
        wrapped(&self.deployment_key)
    }

    /// The known value under the key that rows may still be wrapped under.
    pub(crate) fn former_check(&self) -> Result<Option<Wrapped>> {
        self.former_check.as_deref().map(wrapped).transpose()
    }

    /// The same, wrapped under another key. Rows may be wrapped under the one before until [`without_former`](Self::without_former).
    pub(crate) fn rewrapped(&self, check: &Wrapped, deployment_key: &Wrapped) -> Result<Self> {
        let former_check = self.former_check.clone().or_else(|| Some(self.check.clone()));
        Ok(Self { check: text(check)?, deployment_key: text(deployment_key)?, former_check, ..self.clone() })
    }

    /// The same, with a new passphrase beside the one that rows are wrapped under.
    pub(crate) fn with_passphrase(&self, parameters: Option<&PassphraseParameters>) -> Self {
        Self {
            passphrase: parameters.map(|parameters| BASE64.encode(&parameters.encode())),
            former_passphrase: self.passphrase.clone(),
            ..self.clone()
        }
    }

    /// The same, without what opens a key that nothing is wrapped under any more.
    pub(crate) fn without_former(&self) -> Self {
        Self { former_passphrase: None, former_check: None, ..self.clone() }
    }

    /// Whether rows may be wrapped under a key from before.
    pub(crate) const fn has_former(&self) -> bool {
        self.former_check.is_some() || self.former_passphrase.is_some()
    }
}

impl RootRow {
    pub(crate) fn new(root: &Wrapped, holder: Option<&PassphraseParameters>) -> Result<Self> {
        let holder = holder.map(|parameters| BASE64.encode(&parameters.encode()));
        Ok(Self { v: 1, root: text(root)?, holder })
    }

    /// The same, wrapped again.
    pub(crate) fn with_root(&self, root: &Wrapped) -> Result<Self> {
        Ok(Self { root: text(root)?, ..self.clone() })
    }

    pub(crate) fn root(&self) -> Result<Wrapped> {
        wrapped(&self.root)
    }

    pub(crate) fn holder(&self) -> Result<Option<PassphraseParameters>> {
        parameters(self.holder.as_deref())
    }

    pub(crate) const fn is_held(&self) -> bool {
        self.holder.is_some()
    }
}

impl LifeRow {
    pub(crate) fn new(life: Incarnation, key: &Wrapped) -> Result<Self> {
        let first = EpochRow { epoch: 1, key: text(key)? };
        Ok(Self { v: 1, life: format!("{:032x}", life.0), keys: vec![first], target: None, highest: 1 })
    }

    pub(crate) fn life(&self) -> Result<Incarnation> {
        u128::from_str_radix(&self.life, 16).map(Incarnation).map_err(|_| damaged())
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = Result<(u32, Wrapped)>> {
        self.keys.iter().map(|one| Ok((one.epoch, wrapped(&one.key)?)))
    }

    pub(crate) fn epochs(&self) -> impl Iterator<Item = u32> {
        self.keys.iter().map(|one| one.epoch)
    }

    /// The newest epoch.
    pub(crate) fn newest(&self) -> u32 {
        self.epochs().max().unwrap_or_default()
    }

    /// The epoch of the next new key.
    pub(crate) fn next_epoch(&self) -> Result<u32> {
        self.newest().max(self.highest).checked_add(1).ok_or_else(|| {
            Error::new(ErrorKind::LimitExceeded, "the user's keys have no epoch left, restore an archive")
        })
    }

    /// The epoch beside the one that everything is to be sealed under.
    pub(crate) fn other(&self, target: u32) -> Option<u32> {
        self.epochs().find(|epoch| *epoch != target)
    }

    /// The same with another epoch to seal everything under.
    pub(crate) fn with_target(&self, epoch: u32) -> Self {
        Self { target: Some(epoch), highest: self.highest.max(epoch).max(self.newest()), ..self.clone() }
    }

    /// The same with one more key, or with another wrap of a key that is there.
    pub(crate) fn with_key(&self, epoch: u32, key: &Wrapped) -> Result<Self> {
        let mut row = self.clone();
        row.keys.retain(|one| one.epoch != epoch);
        row.keys.push(EpochRow { epoch, key: text(key)? });
        row.keys.sort_unstable_by_key(|one| one.epoch);
        Ok(row)
    }

    /// The same with the key of one epoch alone, and nothing under way.
    pub(crate) fn with_only(&self, epoch: u32) -> Self {
        let mut row = self.clone();
        row.keys.retain(|one| one.epoch == epoch);
        row.target = None;
        row
    }
}

impl Keystore {
    /// The keystore that a store's own space is. The store must hold nothing else: no users, and not the data.
    ///
    /// # Errors
    ///
    /// As [`Store::deployment`].
    pub async fn open(store: Arc<dyn Store>) -> Result<Self> {
        let space = store.deployment().await?;
        Ok(Self { store, space })
    }

    /// Closes the store.
    ///
    /// # Errors
    ///
    /// As [`Store::close`].
    pub async fn close(&self) -> Result<()> {
        self.store.close().await
    }

    /// Whether there are no keys in it.
    ///
    /// # Errors
    ///
    /// `Unavailable` and the like, from the store.
    pub async fn is_empty(&self) -> Result<bool> {
        Ok(self.space.scan(Scan::heads(Keyspace::Keys, 1)).await?.value.records.is_empty())
    }

    /// The space that the rows are in.
    pub(crate) fn space(&self) -> &dyn UserStore {
        &*self.space
    }

    /// Checks that a header's bytes are one of a deployment.
    pub(crate) fn check_header(body: &[u8], deployment: [u8; 16]) -> Result<()> {
        let header: Header = parse(body)?;
        if header.v != 1 {
            return Err(newer());
        }
        if header.deployment()? == deployment { Ok(()) } else { Err(damaged()) }
    }

    pub(crate) async fn header(&self) -> Result<Option<Kept<Header>>> {
        let kept: Option<Kept<Header>> = self.read(header_id()?).await?;
        if kept.as_ref().is_some_and(|kept| kept.row.v != 1) {
            return Err(newer());
        }
        Ok(kept)
    }

    /// Writes the header in the place of the version that was read, or the first one. `Conflict` if somebody else was there.
    pub(crate) async fn put_header(&self, header: &Header, before: Option<Version>) -> Result<()> {
        let batch = put(Batch::new(Timestamp(0))?, header_id()?, header, before)?;
        self.space.commit(batch).await.map(drop)
    }

    pub(crate) async fn root(&self, owner: &[u8; 32]) -> Result<Option<Kept<RootRow>>> {
        let kept: Option<Kept<RootRow>> = self.read(root_id(owner)?).await?;
        if kept.as_ref().is_some_and(|kept| kept.row.v != 1) {
            return Err(newer());
        }
        Ok(kept)
    }

    pub(crate) async fn life(&self, owner: &[u8; 32], life: Incarnation) -> Result<Option<Kept<LifeRow>>> {
        let kept: Option<Kept<LifeRow>> = self.read(life_id(owner, life)?).await?;
        match &kept {
            Some(kept) if kept.row.v != 1 => Err(newer()),
            Some(kept) if kept.row.life()? != life => Err(damaged()),
            _ => Ok(kept),
        }
    }

    /// An owner's root and the keys of one life, as of one moment.
    pub(crate) async fn pair(
        &self,
        owner: &[u8; 32],
        life: Incarnation,
    ) -> Result<Option<(Kept<RootRow>, Kept<LifeRow>)>> {
        let read = self.space.read(Keyspace::Keys, &[root_id(owner)?, life_id(owner, life)?]).await?;
        let mut found = read.value.into_iter();
        let (Some(Some(root)), Some(Some(row))) = (found.next(), found.next()) else { return Ok(None) };
        let root = Kept { row: parse::<RootRow>(&root.body)?, version: root.head.version };
        let row = Kept { row: parse::<LifeRow>(&row.body)?, version: row.head.version };
        if root.row.v != 1 || row.row.v != 1 {
            return Err(newer());
        }
        if row.row.life()? == life { Ok(Some((root, row))) } else { Err(damaged()) }
    }

    /// Writes a new life's keys, and the root with them. `Conflict` if somebody else was there.
    ///
    /// INVARIANT: the root is written also where it is there already. Who wraps all rows of an owner anew expects the root that it read,
    /// and so notices a life that came meanwhile.
    pub(crate) async fn add(
        &self,
        owner: &[u8; 32],
        root: &RootRow,
        before: Option<Version>,
        (life, row): (Incarnation, &LifeRow),
        header: Version,
    ) -> Result<Version> {
        let batch = put(Batch::new(Timestamp(0))?, life_id(owner, life)?, row, None)?;
        let batch = put(batch, root_id(owner)?, root, before)?;
        let commit = self.space.commit(batch.expect(header_at(header)?)).await?;
        Ok(Version(commit.stamp.epoch.0))
    }

    /// Replaces a life's row by one with a new key. `Conflict` if it is not the one that was read, or if the root or the header, which
    /// say how the key is wrapped, are not.
    pub(crate) async fn put_key(
        &self,
        owner: &[u8; 32],
        row: &LifeRow,
        (before, root, header): (Version, Version, Version),
    ) -> Result<()> {
        let batch = put(Batch::new(Timestamp(0))?, life_id(owner, row.life()?)?, row, Some(before))?;
        let root = Expect::Version { space: Keyspace::Keys, id: root_id(owner)?, version: Some(root) };
        self.space.commit(batch.expect(root).expect(header_at(header)?)).await.map(drop)
    }

    /// Replaces a life's row by one with the same keys or fewer. `Conflict` if it is not the one that was read.
    pub(crate) async fn put_life(&self, owner: &[u8; 32], row: &LifeRow, before: Version) -> Result<()> {
        let batch = put(Batch::new(Timestamp(0))?, life_id(owner, row.life()?)?, row, Some(before))?;
        self.space.commit(batch).await.map(drop)
    }

    /// Replaces all rows of an owner at once: each in the place of the version that was read, under the header that was read.
    pub(crate) async fn put_owner(&self, owner: &[u8; 32], rows: &OwnerRows, header: Version) -> Result<()> {
        let mut batch = Batch::new(Timestamp(0))?.expect(header_at(header)?);
        if let Some(root) = &rows.root {
            batch = put(batch, root_id(owner)?, &root.row, Some(root.version))?;
        }
        for kept in &rows.lives {
            batch = put(batch, life_id(owner, kept.row.life()?)?, &kept.row, Some(kept.version))?;
        }
        self.space.commit(batch).await.map(drop)
    }

    /// Every row of an owner.
    pub(crate) async fn owner(&self, owner: &[u8; 32]) -> Result<OwnerRows> {
        let scan = Scan::records(Keyspace::Keys, LIVES_MOST).name(owner.to_vec());
        let mut rows = OwnerRows::default();
        let page = self.space.scan(scan).await?.value;
        if page.more {
            return Err(Error::new(ErrorKind::LimitExceeded, "the keystore has too many lives of one user"));
        }
        for (head, body) in page.records {
            let (body, version) = (body.unwrap_or_default(), head.version);
            if head.id.seq() == 0 {
                rows.root = Some(Kept { row: parse(&body)?, version });
            } else {
                rows.lives.push(Kept { row: parse(&body)?, version });
            }
        }
        let newer_root = rows.root.as_ref().is_some_and(|kept| kept.row.v != 1);
        if newer_root || rows.lives.iter().any(|kept| kept.row.v != 1) {
            return Err(newer());
        }
        Ok(rows)
    }

    /// Destroys every key of an owner, durably. Says how many rows there were.
    pub(crate) async fn destroy(&self, owner: &[u8; 32]) -> Result<u64> {
        let scan = Scan::heads(Keyspace::Keys, LIVES_MOST).name(owner.to_vec());
        let found = self.space.scan(scan).await?.value.records.len() as u64;
        if found > 0 {
            let name = owner.to_vec().into();
            let batch = Batch::new(Timestamp(0))?.op(Op::DeleteName { space: Keyspace::Keys, name });
            self.space.commit(batch).await?;
        }
        Ok(found)
    }

    /// Destroys the keys of one life.
    pub(crate) async fn destroy_life(&self, owner: &[u8; 32], life: Incarnation) -> Result<()> {
        let batch = Batch::new(Timestamp(0))?.delete(Keyspace::Keys, life_id(owner, life)?);
        self.space.commit(batch).await.map(drop)
    }

    /// Owners in order of their tags, after one; the deployment's own space, zeros, comes first.
    pub(crate) async fn owners(&self, after: Option<&[u8; 32]>) -> Result<Vec<[u8; 32]>> {
        let mut owners: Vec<[u8; 32]> = Vec::new();
        let scan = Scan::heads(Keyspace::Keys, PAGE);
        let page = self.space.scan(match after {
            Some(after) => scan.from(RecordId::new(after.to_vec(), i64::MAX as u64)?),
            None => scan,
        });
        for (head, _) in page.await?.value.records {
            // The header's name has another length.
            if let Ok(owner) = <[u8; 32]>::try_from(&head.id.name()[..])
                && owners.last() != Some(&owner)
            {
                owners.push(owner);
            }
        }
        Ok(owners)
    }

    async fn read<T: serde::de::DeserializeOwned>(&self, id: RecordId) -> Result<Option<Kept<T>>> {
        let record = self.space.read(Keyspace::Keys, &[id]).await?.value.into_iter().next().flatten();
        record.map(|record| Ok(Kept { row: parse(&record.body)?, version: record.head.version })).transpose()
    }
}

fn put<T: Serialize>(batch: Batch, id: RecordId, row: &T, before: Option<Version>) -> Result<Batch> {
    let body = serde_json::to_vec(row).map_err(|_| damaged())?;
    let expect = Expect::Version { space: Keyspace::Keys, id: id.clone(), version: before };
    Ok(batch.put(Keyspace::Keys, id, "", body).expect(expect))
}

fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T> {
    serde_json::from_slice(body).map_err(|_| damaged())
}

/// What wraps is still what the header of a version says.
fn header_at(version: Version) -> Result<Expect> {
    Ok(Expect::Version { space: Keyspace::Keys, id: header_id()?, version: Some(version) })
}

fn header_id() -> Result<RecordId> {
    RecordId::new(HEADER, 0)
}

fn root_id(owner: &[u8; 32]) -> Result<RecordId> {
    RecordId::new(owner.to_vec(), 0)
}

/// 63 bits of the life, and never 0. The row names the whole of it.
fn life_id(owner: &[u8; 32], life: Incarnation) -> Result<RecordId> {
    let short = u64::try_from(life.0 >> 65).unwrap_or_default();
    RecordId::new(owner.to_vec(), short.max(1))
}

fn text(key: &Wrapped) -> Result<String> {
    Ok(BASE64.encode(&key.encode()?))
}

fn wrapped(text: &str) -> Result<Wrapped> {
    Wrapped::decode(&BASE64.decode(text.as_bytes()).map_err(|_| damaged())?)
}

fn parameters(text: Option<&str>) -> Result<Option<PassphraseParameters>> {
    let decode = |text: &str| {
        let bytes = BASE64.decode(text.as_bytes()).map_err(|_| damaged())?;
        Ok(PassphraseParameters::decode(&bytes.try_into().map_err(|_| damaged())?))
    };
    text.map(decode).transpose()
}

fn damaged() -> Error {
    Error::new(ErrorKind::Tampered, "the keystore is not as it was written, put a copy of it back")
}

fn newer() -> Error {
    Error::new(ErrorKind::Unsupported, "the keystore has a format that this build does not know, upgrade")
}
