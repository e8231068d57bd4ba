//! Copies that a deployment's key opens on an empty machine: of its keystore, of its directory, of a backup's list.

use std::io::{Read, Write};
use std::sync::Arc;

use syntha_store::{Batch, DEPLOYMENT_OWNER, Error, ErrorKind, Keyspace, Result, Timestamp, UserTag};

use crate::kek::Kek;
use crate::keychain::Keychain;
use crate::keystore::Keystore;
use crate::provider::Wrapped;
use crate::rows::{RowReader, RowWriter};
use crate::secret::{SecretBytes, SecretKey};
use crate::stream::{Content, Header, KeySource, Reader, Writer};

/// How many rows a commit of a restore has.
const BATCH: usize = 1_000;

impl Keychain {
    /// Seals a copy of something of the deployment's under a key of its own, which the deployment's key wraps. The copy is whole after
    /// [`Writer::finish`].
    ///
    /// # Errors
    ///
    /// `KeyUnavailable` if what wraps does not answer; as [`Writer::new`].
    pub async fn artefact<W: Write>(&self, content: Content, sink: W) -> Result<Writer<W>> {
        // The parameters in the head are those of the key that wraps here.
        self.ring.follow_header().await?;
        let provider = Arc::clone(&self.ring.wrapping().provider);
        let header = self.ring.keystore.header().await?;
        let header = header
            .ok_or_else(|| Error::new(ErrorKind::NotFound, "there are no keys in the keystore any more"))?
            .row;
        let key = SecretKey::generate()?;
        let nothing = Wrapped { kek: provider.current().await?, blob: Vec::new() };
        let mut head = Header {
            content,
            deployment: self.ring.deployment,
            owner: DEPLOYMENT_OWNER,
            source: KeySource::Provider(nothing),
        };
        let secret = SecretBytes::new(key.as_bytes().to_vec());
        let wrapped = provider.wrap(&head.key_context(), &secret).await?;
        head.source = match header.passphrase()? {
            Some(parameters) => KeySource::PassphraseProvider(parameters, wrapped),
            None => KeySource::Provider(wrapped),
        };
        Writer::new(sink, &head, &key)
    }

    /// Writes a sealed copy of the keystore: all rows, whose keys are wrapped besides. Says how many rows. Whoever has it and the
    /// deployment's key can open what was not erased when it was made: keep such copies few and short.
    ///
    /// # Errors
    ///
    /// As [`artefact`](Self::artefact); the sink's.
    pub async fn backup_keys<W: Write + Send>(&self, sink: W) -> Result<u64> {
        let mut rows = RowWriter::new(self.artefact(Content::Keystore, sink).await?)?;
        rows.space(self.ring.keystore.space(), Keyspace::Keys).await?;
        let (stream, count) = rows.finish()?;
        stream.finish()?;
        Ok(count)
    }

    /// Destroys the keys of users who are not wanted: of those who were erased while the data was not sealed.
    ///
    /// # Errors
    ///
    /// The keystore's.
    pub async fn keep_keys(&self, wanted: impl Fn(UserTag) -> bool + Send + Sync) -> Result<()> {
        let mut after = None;
        loop {
            let owners = self.ring.keystore.owners(after.as_ref()).await?;
            let Some(last) = owners.last() else { return Ok(()) };
            after = Some(*last);
            for owner in owners {
                // The deployment's own space has no tag.
                if UserTag::from_bytes(owner).is_ok_and(|tag| !wanted(tag)) {
                    self.ring.keystore.destroy(&owner).await?;
                    self.ring.forget(&owner);
                }
            }
        }
    }

    /// The deployment's id.
    #[must_use]
    pub fn deployment(&self) -> [u8; 16] {
        self.ring.deployment
    }

    /// Whether a user's keys are the user's own and locked.
    ///
    /// # Errors
    ///
    /// The keystore's.
    pub async fn is_locked(&self, user: UserTag) -> Result<bool> {
        let owner = *user.as_bytes();
        let Some(root) = self.ring.keystore.root(&owner).await? else { return Ok(false) };
        Ok(self.ring.holders.of(&owner, &root.row).is_err())
    }
}

/// Opens a copy that [`Keychain::artefact`] sealed, with the deployment's key alone.
///
/// # Errors
///
/// `Invalid` for a sealed stream of something else; `KeyRefused` for another key; `KeyUnavailable` if what wraps does not answer; as
/// [`Reader::open`].
pub async fn open_artefact<R: Read>(source: R, kek: &Kek, content: Content) -> Result<Reader<R>> {
    let pending = Reader::open(source)?;
    let header = pending.header();
    if header.content != content || header.owner != DEPLOYMENT_OWNER {
        return Err(Error::new(ErrorKind::Invalid, "the sealed file holds something else"));
    }
    let (parameters, wrapped) = match &header.source {
        KeySource::Provider(wrapped) => (None, wrapped),
        KeySource::PassphraseProvider(parameters, wrapped) => (Some(parameters), wrapped),
        _ => return Err(Error::new(ErrorKind::Invalid, "the sealed file holds something else")),
    };
    let provider = kek.resolve(parameters).await?;
    let key = provider.unwrap(&header.key_context(), wrapped).await?;
    pending.unlock(&SecretKey::from_slice(key.as_bytes())?)
}

/// Puts a copy of a keystore into an empty one. `wanted` says of which owners rows are taken: it is asked with `true` for the root, which
/// archives need, and with `false` for the keys of a life, which open data of before. The header always is. It can be run again on a
/// keystore that holds a part of the same copy.
///
/// # Errors
///
/// As [`open_artefact`]; `AlreadyExists` if there are other keys in the keystore; `Corrupt`, `Tampered` for a copy that is damaged: what
/// was written before the damage stays, and opens nothing, because the header comes last.
pub async fn restore_keys<R: Read + Send>(
    keystore: &Keystore,
    source: R,
    kek: &Kek,
    wanted: impl Fn(&[u8; 32], bool) -> bool + Send + Sync,
) -> Result<u64> {
    if keystore.header().await?.is_some() {
        return Err(Error::new(
            ErrorKind::AlreadyExists,
            "there are keys in the keystore already, restore into an empty one",
        ));
    }
    let stream = open_artefact(source, kek, Content::Keystore).await?;
    let deployment = stream.header().deployment;
    let mut rows = RowReader::open(stream)?;
    let (mut header, mut count) = (None, 0);
    let mut batch = Batch::new(Timestamp(0))?;
    while let Some(row) = rows.next_row()? {
        if row.space != Keyspace::Keys {
            return Err(Error::new(ErrorKind::Corrupt, "the copy is damaged, use another one"));
        }
        let Ok(owner) = <[u8; 32]>::try_from(&row.id.name()[..]) else {
            header = Some(row);
            continue;
        };
        if !wanted(&owner, row.id.seq() == 0) {
            continue;
        }
        count += 1;
        batch = batch.put(row.space, row.id, "", row.body);
        if batch.ops.len() >= BATCH {
            let full = std::mem::replace(&mut batch, Batch::new(Timestamp(0))?);
            keystore.space().commit(full).await?;
        }
    }
    // INVARIANT: nothing of an unfinished restore is taken for a keystore.
    let header = header.ok_or_else(|| Error::new(ErrorKind::Corrupt, "the copy has no header"))?;
    Keystore::check_header(&header.body, deployment)?;
    keystore.space().commit(batch.put(header.space, header.id, "", header.body)).await?;
    Ok(count + 1)
}
