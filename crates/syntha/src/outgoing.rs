//! A user's data on its way out.

use std::io::Write;

use syntha_store::Snapshot;
use syntha_store::archive::{self, ArchiveInfo};

/// A user's data on its way into an archive.
pub(crate) struct Backup {
    pub(crate) snapshot: Box<dyn Snapshot>,
    /// What seals it, if anything does.
    #[cfg(feature = "encryption")]
    pub(crate) archives: Option<syntha_encryption::UserArchives>,
}

impl Backup {
    /// Writes the archive.
    pub(crate) async fn write<W: Write + Send>(self, sink: &mut W) -> syntha_store::Result<ArchiveInfo> {
        let mut snapshot = self.snapshot;
        #[cfg(feature = "encryption")]
        if let Some(archives) = self.archives {
            let mut sink = Counting { sink, bytes: 0 };
            let mut writer = archives.writer(&mut sink)?;
            let mut info = archive::write(&mut *snapshot, &mut writer).await?;
            writer.finish()?;
            info.bytes = sink.bytes;
            return Ok(info);
        }
        archive::write(&mut *snapshot, sink).await
    }
}

/// Counts what goes through.
#[cfg(feature = "encryption")]
struct Counting<'s, W> {
    sink: &'s mut W,
    bytes: u64,
}

#[cfg(feature = "encryption")]
impl<W: Write> Write for Counting<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.sink.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.sink.flush()
    }
}
