//! Rows of a deployment's own space as JSON Lines: what a copy of a keystore holds, and one of a directory.

use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};

use bytes::Bytes;
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use syntha_store::{Error, ErrorKind, Keyspace, RecordId, Result, Scan, UserStore};

use crate::stream::into_error;

/// The most bytes of a line: a row of wrapped keys has at most some 40 KiB.
const LINE_BYTES: u64 = 1024 * 1024;
const PAGE: usize = 1_000;

/// A row of a deployment's own space. `Debug` shows no value: one is the key of the tags.
#[derive(Clone, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs, reason = "it is what the format has")]
pub struct Row {
    /// The keyspace.
    pub space: Keyspace,
    /// The id.
    pub id: RecordId,
    /// The value.
    pub body: Bytes,
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Row")
            .field("space", &self.space)
            .field("id", &self.id)
            .field("bytes", &self.body.len())
            .finish()
    }
}

/// A line: the first, a row, or the last.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
enum Line {
    /// The format's version.
    SynthaRows(u32),
    Row {
        space: u8,
        /// Base64.
        name: String,
        seq: u64,
        /// Base64.
        body: String,
    },
    /// How many rows there were.
    End(u64),
}

/// Writes rows.
#[derive(Debug)]
pub struct RowWriter<W: Write> {
    sink: W,
    rows: u64,
}

impl<W: Write> RowWriter<W> {
    /// Writes the first line.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `StorageFull` from the sink.
    pub fn new(sink: W) -> Result<Self> {
        let mut writer = Self { sink, rows: 0 };
        writer.line(&Line::SynthaRows(1))?;
        Ok(writer)
    }

    /// Writes every row of a keyspace, page by page: what is committed meanwhile may be in it or not.
    ///
    /// # Errors
    ///
    /// The store's, and the sink's.
    pub async fn space(&mut self, store: &dyn UserStore, space: Keyspace) -> Result<()> {
        let mut from: Option<RecordId> = None;
        loop {
            let scan = Scan::records(space, PAGE);
            let page = store.scan(match from.take() {
                Some(from) => scan.from(from),
                None => scan,
            });
            let page = page.await?.value;
            for (head, body) in &page.records {
                self.row(space, &head.id, body.as_deref().unwrap_or_default())?;
            }
            from = page.next();
            if from.is_none() {
                return Ok(());
            }
        }
    }

    /// Writes one row.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `StorageFull` from the sink.
    pub fn row(&mut self, space: Keyspace, id: &RecordId, body: &[u8]) -> Result<()> {
        self.rows += 1;
        self.line(&Line::Row {
            space: space.code(),
            name: BASE64.encode(id.name()),
            seq: id.seq(),
            body: BASE64.encode(body),
        })
    }

    /// Writes the last line, and gives the sink back with the number of rows.
    ///
    /// # Errors
    ///
    /// `Unavailable`, `StorageFull` from the sink.
    pub fn finish(mut self) -> Result<(W, u64)> {
        self.line(&Line::End(self.rows))?;
        Ok((self.sink, self.rows))
    }

    fn line(&mut self, line: &Line) -> Result<()> {
        let mut text = serde_json::to_vec(line).map_err(|_| damaged())?;
        text.push(b'\n');
        self.sink.write_all(&text).map_err(into_error)
    }
}

/// Reads rows.
#[derive(Debug)]
pub struct RowReader<R: Read> {
    source: BufReader<R>,
    rows: u64,
    ended: bool,
}

impl<R: Read> RowReader<R> {
    /// Reads the first line.
    ///
    /// # Errors
    ///
    /// `Corrupt` for what is none; `Unsupported` for a newer format; the source's.
    pub fn open(source: R) -> Result<Self> {
        let mut reader = Self { source: BufReader::new(source), rows: 0, ended: false };
        match reader.line()? {
            Line::SynthaRows(1) => Ok(reader),
            Line::SynthaRows(_) => {
                Err(Error::new(ErrorKind::Unsupported, "the copy has a format that this build does not know"))
            }
            _ => Err(damaged()),
        }
    }

    /// The next row; `None` at the end, which is the one that was written.
    ///
    /// # Errors
    ///
    /// `Corrupt`, and the source's.
    pub fn next_row(&mut self) -> Result<Option<Row>> {
        if self.ended {
            return Ok(None);
        }
        match self.line()? {
            Line::Row { space, name, seq, body } => {
                self.rows += 1;
                let decode = |text: String| BASE64.decode(text.as_bytes()).map_err(|_| damaged());
                let id = RecordId::new(decode(name)?, seq)?;
                Ok(Some(Row { space: Keyspace::from_code(space)?, id, body: decode(body)?.into() }))
            }
            Line::End(rows) if rows == self.rows => {
                // The end of a sealed stream is authenticated only when it is read.
                if self.source.fill_buf().map_err(into_error)?.is_empty() {
                    self.ended = true;
                    return Ok(None);
                }
                Err(damaged())
            }
            _ => Err(damaged()),
        }
    }

    fn line(&mut self) -> Result<Line> {
        let mut text = Vec::new();
        (&mut self.source).take(LINE_BYTES).read_until(b'\n', &mut text).map_err(into_error)?;
        if text.pop() != Some(b'\n') {
            return Err(damaged());
        }
        serde_json::from_slice(&text).map_err(|_| damaged())
    }
}

const fn damaged() -> Error {
    Error::new(ErrorKind::Corrupt, "the copy is damaged or cut short, use another one")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_no_value() {
        let row = Row {
            space: Keyspace::Meta,
            id: RecordId::new("deployment-key", 0).unwrap(),
            body: Bytes::from_static(b"a key of the tags"),
        };
        let shown = format!("{row:?}");
        assert!(shown.contains("bytes: 17") && !shown.contains("tags") && !shown.contains("97"), "{shown}");
    }
}
