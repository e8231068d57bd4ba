//! Exports under a passphrase: JSON Lines inside a sealed stream.

use std::io::{BufReader, Read, Write};

use syntha_encryption::stream::{Content, Header, KeySource, Reader, Writer};
use syntha_encryption::{PassphraseParameters, SecretBytes};
use syntha_mesh::Exported;

use crate::ContextMesh;
use crate::error::{Error, ErrorKind, Result};

/// Neither deployment nor user stands in an export: it is the user's to take along.
const NOBODY: ([u8; 16], [u8; 32]) = ([0; 16], [0; 32]);

impl ContextMesh {
    /// Writes the whole mesh as [`export`](syntha_mesh::Mesh::export) does, sealed with a passphrase (`docs/sealed-v1.md`).
    /// [`open_export`] gives the text back. Who loses the passphrase has lost the file.
    ///
    /// # Errors
    ///
    /// `Denied` for a passphrase that is not 12 to 4,096 bytes; as `export`.
    pub async fn export_sealed<W: Write + Send>(
        &self,
        passphrase: &SecretBytes,
        sink: W,
        progress: impl FnMut(&Exported) + Send,
    ) -> Result<Exported> {
        let parameters = PassphraseParameters::generate()?;
        let key = parameters.derive(passphrase).await?;
        let (deployment, owner) = NOBODY;
        let source = KeySource::Passphrase(parameters);
        let header = Header { content: Content::Export, deployment, owner, source };
        let mut writer = Writer::new(sink, &header, &key)?;
        let exported = self.export(&mut writer, progress).await?;
        writer.finish()?;
        Ok(exported)
    }
}

/// Opens an export that was sealed with a passphrase: what it gives is for [`import`](syntha_mesh::Mesh::import), or to be read. It is the
/// whole export only when it ends without an error.
///
/// # Errors
///
/// `Denied` for another passphrase; `Invalid` for a sealed file of something else; `Tampered` for what is none.
pub async fn open_export<R: Read>(passphrase: &SecretBytes, source: R) -> Result<BufReader<Reader<R>>> {
    let pending = Reader::open(source)?;
    let header = pending.header();
    let (Content::Export, KeySource::Passphrase(parameters)) = (header.content, &header.source) else {
        return Err(Error::new(ErrorKind::Invalid, "the sealed file is no export under a passphrase"));
    };
    let key = parameters.derive(passphrase).await?;
    Ok(BufReader::new(pending.unlock(&key)?))
}
