//! The trail file: chains, leaves, proofs and checkpoints as JSON Lines. The format is docs/audit-v1.md.

use std::borrow::Cow;
use std::io::{BufRead, Read, Write};

use bytes::Bytes;
use data_encoding::{BASE64, HEXLOWER};
use serde::{Deserialize, Deserializer, Serialize};
use syntha_store::{ChainHead, Error, ErrorKind, KeyFingerprint, Result};

use crate::leaf::Leaf;
use crate::link::{Hash, SALT_BYTES, StoredLink};

/// The format of a trail file.
pub const FORMAT: u8 = 1;
/// The most bytes of a line. A link of 65,536 changes has about 8 MiB.
pub const LINE_BYTES: usize = 32 * 1024 * 1024;
/// The most hashes of a proof.
pub const PROOF_HASHES: usize = 64;
/// The most leaves of a log.
pub const LEAVES_MOST: u64 = 1 << 62;

/// What a trail begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Header {
    /// The log's origin, as its checkpoints name it.
    pub origin: String,
    /// The fingerprint of the key of the users' tags.
    pub deployment: KeyFingerprint,
    /// The user's tag; zeros for the deployment's own chain.
    pub owner: [u8; 32],
    /// Where a pruned chain begins: the number of its first link, and the hash of the link before. `None` for a chain from its start.
    pub floor: Option<ChainHead>,
}

impl Header {
    /// A chain from its start.
    #[must_use]
    pub const fn new(origin: String, deployment: KeyFingerprint, owner: [u8; 32]) -> Self {
        Self { origin, deployment, owner, floor: None }
    }

    /// The same, whose links before a number were pruned. `floor`: that number, and the hash of the link before.
    #[must_use]
    pub const fn with_floor(mut self, floor: Option<ChainHead>) -> Self {
        self.floor = floor;
        self
    }
}

/// One line of a trail file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Item {
    /// A user's trail begins.
    Trail(Header),
    /// A link of the chain.
    Link {
        /// Its number.
        seq: u64,
        /// What is stored of it.
        stored: StoredLink,
    },
    /// The chain ends here.
    End(ChainHead),
    /// A leaf of the log, whichever chain it speaks of.
    Leaf {
        /// Its index, from 0.
        index: u64,
        /// What it says.
        leaf: Leaf,
    },
    /// That a leaf is in the log (RFC 6962, section 2.1.1).
    Proof {
        /// The leaf's index.
        index: u64,
        /// The size of the checkpoint.
        size: u64,
        /// The audit path.
        hashes: Vec<Hash>,
    },
    /// That the log only grew between two checkpoints (RFC 6962, section 2.1.2).
    Consistency {
        /// The size of the earlier one.
        from: u64,
        /// The size of the later one.
        size: u64,
        /// The proof.
        hashes: Vec<Hash>,
    },
    /// A checkpoint as it was signed (C2SP tlog-checkpoint).
    Checkpoint {
        /// The signed note.
        note: String,
    },
}

impl Item {
    /// Reads a line, without its end.
    ///
    /// # Errors
    ///
    /// `Corrupt` for what [`encode`](Self::encode) does not write: another kind, a member that is unknown, missing or twice there, a
    /// number out of its range.
    pub fn decode(line: &[u8]) -> Result<Self> {
        // Serde takes an array for an object with its members in order.
        if line.len() > LINE_BYTES || !line.trim_ascii_start().starts_with(b"{") {
            return Err(unreadable());
        }
        let wire: Wire<'_> = serde_json::from_slice(line).map_err(|_| unreadable())?;
        wire.item()
    }

    /// Its line, with its end.
    ///
    /// # Errors
    ///
    /// `LimitExceeded` over [`LINE_BYTES`].
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut line = serde_json::to_vec(&Wire::of(self)).map_err(|_| unreadable())?;
        if line.len() > LINE_BYTES {
            return Err(Error::new(ErrorKind::LimitExceeded, "a line of a trail has at most 32 MiB"));
        }
        line.push(b'\n');
        Ok(line)
    }

    /// The same without details, so that it tells no more than who did something when. It verifies as before.
    #[must_use]
    pub fn redacted(mut self) -> Self {
        if let Self::Link { stored, .. } = &mut self {
            stored.details = None;
        }
        self
    }
}

/// Writes a trail file.
#[derive(Debug)]
pub struct TrailWriter<W> {
    to: W,
}

impl<W: Write> TrailWriter<W> {
    /// Writes to a file or to memory. Buffer it.
    pub const fn new(to: W) -> Self {
        Self { to }
    }

    /// Writes a line.
    ///
    /// # Errors
    ///
    /// `LimitExceeded` over [`LINE_BYTES`]; `Unavailable` if it can't be written.
    pub fn write(&mut self, item: &Item) -> Result<()> {
        self.to.write_all(&item.encode()?).map_err(unwritten)
    }

    /// Writes out what is buffered.
    ///
    /// # Errors
    ///
    /// `Unavailable` if it can't be written.
    pub fn finish(mut self) -> Result<W> {
        self.to.flush().map_err(unwritten)?;
        Ok(self.to)
    }
}

/// Writes a trail file without details: for who shall see that nothing was changed, and not what was done.
#[derive(Debug)]
pub struct RedactedTrail<W>(TrailWriter<W>);

impl<W: Write> RedactedTrail<W> {
    /// Writes to a file or to memory. Buffer it.
    pub const fn new(to: W) -> Self {
        Self(TrailWriter::new(to))
    }

    /// Writes a line without its details.
    ///
    /// # Errors
    ///
    /// Those of [`TrailWriter::write`].
    pub fn write(&mut self, item: &Item) -> Result<()> {
        self.0.write(&item.clone().redacted())
    }

    /// Writes out what is buffered.
    ///
    /// # Errors
    ///
    /// Those of [`TrailWriter::finish`].
    pub fn finish(self) -> Result<W> {
        self.0.finish()
    }
}

/// A line as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Line {
    /// Its number, from 1.
    pub number: u64,
    /// The file ends in the middle of it.
    pub torn: bool,
    /// What it says; `None` if it can't be read.
    pub item: Option<Item>,
}

/// Reads a trail file line by line, of any length, in memory for its longest line.
#[derive(Debug)]
pub struct TrailReader<R> {
    from: R,
    number: u64,
    buffer: Vec<u8>,
}

impl<R: BufRead> TrailReader<R> {
    /// Reads from a file or from memory.
    pub const fn new(from: R) -> Self {
        Self { from, number: 0, buffer: Vec::new() }
    }

    /// The next line; `None` at the end.
    ///
    /// # Errors
    ///
    /// `Unavailable` if the file can't be read.
    pub fn line(&mut self) -> Result<Option<Line>> {
        self.buffer.clear();
        let most = LINE_BYTES as u64 + 1;
        let read = (&mut self.from).take(most).read_until(b'\n', &mut self.buffer).map_err(unread)?;
        if read == 0 {
            return Ok(None);
        }
        self.number = self.number.saturating_add(1);
        if self.buffer.last() == Some(&b'\n') {
            self.buffer.pop();
            let item = Item::decode(&self.buffer).ok();
            return Ok(Some(Line { number: self.number, torn: false, item }));
        }
        let torn = read as u64 != most || self.skip()?;
        let item = if read as u64 == most { None } else { Item::decode(&self.buffer).ok() };
        Ok(Some(Line { number: self.number, torn, item }))
    }

    /// Passes over the rest of a line that is too long. Says whether the file ends in it.
    fn skip(&mut self) -> Result<bool> {
        loop {
            let buffered = self.from.fill_buf().map_err(unread)?;
            if buffered.is_empty() {
                return Ok(true);
            }
            let end = buffered.iter().position(|byte| *byte == b'\n');
            let passed = end.map_or(buffered.len(), |end| end + 1);
            self.from.consume(passed);
            if end.is_some() {
                return Ok(false);
            }
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "t", rename_all = "lowercase", deny_unknown_fields)]
enum Wire<'a> {
    Trail {
        v: u8,
        #[serde(borrow)]
        origin: Cow<'a, str>,
        deployment: Cow<'a, str>,
        owner: Cow<'a, str>,
        #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
        from: Option<u64>,
        #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
        before: Option<Cow<'a, str>>,
    },
    Link {
        seq: u64,
        #[serde(borrow)]
        text: Cow<'a, str>,
        #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
        salt: Option<Cow<'a, str>>,
        #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
        details: Option<Cow<'a, str>>,
    },
    Leaf {
        index: u64,
        #[serde(borrow)]
        leaf: Cow<'a, str>,
    },
    Proof {
        index: u64,
        size: u64,
        hashes: Vec<Cow<'a, str>>,
    },
    Consistency {
        from: u64,
        size: u64,
        hashes: Vec<Cow<'a, str>>,
    },
    Checkpoint {
        #[serde(borrow)]
        note: Cow<'a, str>,
    },
    End {
        seq: u64,
        #[serde(borrow)]
        head: Cow<'a, str>,
    },
}

/// A member that may be missing, and is not `null` where it is there.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
) -> std::result::Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

impl<'a> Wire<'a> {
    fn of(item: &'a Item) -> Self {
        match item {
            Item::Trail(header) => Self::Trail {
                v: FORMAT,
                origin: (&header.origin).into(),
                deployment: hex(header.deployment.as_bytes()),
                owner: hex(&header.owner),
                from: header.floor.map(|floor| floor.seq),
                before: header.floor.map(|floor| hex(&floor.head)),
            },
            Item::Link { seq, stored } => Self::Link {
                seq: *seq,
                text: base64(&stored.text),
                salt: stored.details.as_ref().map(|(salt, _)| base64(salt)),
                details: stored.details.as_ref().map(|(_, details)| base64(details)),
            },
            Item::End(chain) => Self::End { seq: chain.seq, head: hex(&chain.head) },
            Item::Leaf { index, leaf } => Self::Leaf { index: *index, leaf: base64(&leaf.encode()) },
            Item::Proof { index, size, hashes } => {
                let hashes = hashes.iter().map(|hash| base64(hash)).collect();
                Self::Proof { index: *index, size: *size, hashes }
            }
            Item::Consistency { from, size, hashes } => {
                let hashes = hashes.iter().map(|hash| base64(hash)).collect();
                Self::Consistency { from: *from, size: *size, hashes }
            }
            Item::Checkpoint { note } => Self::Checkpoint { note: note.into() },
        }
    }

    fn item(self) -> Result<Item> {
        Ok(match self {
            Self::Trail { v, origin, deployment, owner, from, before } => {
                let floor = match (from, before) {
                    (None, None) => None,
                    (Some(from), Some(before)) if from > 1 => {
                        Some(ChainHead { seq: counted(from)?, head: from_hex(&before)? })
                    }
                    _ => return Err(unreadable()),
                };
                if v != FORMAT {
                    return Err(unreadable());
                }
                let deployment = KeyFingerprint::from_bytes(from_hex(&deployment)?);
                let owner = from_hex(&owner)?;
                Item::Trail(Header { origin: origin.into_owned(), deployment, owner, floor })
            }
            Self::Link { seq, text, salt, details } => {
                let details = match (salt, details) {
                    (None, None) => None,
                    (Some(salt), Some(details)) => {
                        let salt: [u8; SALT_BYTES] =
                            from_base64(&salt)?.try_into().map_err(|_| unreadable())?;
                        Some((salt, Bytes::from(from_base64(&details)?)))
                    }
                    _ => return Err(unreadable()),
                };
                if seq == 0 {
                    return Err(unreadable());
                }
                let text = Bytes::from(from_base64(&text)?);
                Item::Link { seq: counted(seq)?, stored: StoredLink::new(text, details) }
            }
            Self::End { seq, head } => Item::End(ChainHead { seq: counted(seq)?, head: from_hex(&head)? }),
            Self::Leaf { index, leaf } => {
                let leaf = Leaf::decode(&from_base64(&leaf)?).map_err(|_| unreadable())?;
                if index >= LEAVES_MOST {
                    return Err(unreadable());
                }
                Item::Leaf { index, leaf }
            }
            Self::Proof { index, size, hashes } => {
                if size > LEAVES_MOST || index >= size {
                    return Err(unreadable());
                }
                Item::Proof { index, size, hashes: proof(&hashes)? }
            }
            Self::Consistency { from, size, hashes } => {
                if size > LEAVES_MOST || from == 0 || from > size {
                    return Err(unreadable());
                }
                Item::Consistency { from, size, hashes: proof(&hashes)? }
            }
            Self::Checkpoint { note } => Item::Checkpoint { note: note.into_owned() },
        })
    }
}

fn hex(bytes: &[u8]) -> Cow<'static, str> {
    HEXLOWER.encode(bytes).into()
}

fn base64(bytes: &[u8]) -> Cow<'static, str> {
    BASE64.encode(bytes).into()
}

fn from_hex(text: &str) -> Result<Hash> {
    let bytes = HEXLOWER.decode(text.as_bytes()).map_err(|_| unreadable())?;
    bytes.try_into().map_err(|_| unreadable())
}

fn from_base64(text: &str) -> Result<Vec<u8>> {
    BASE64.decode(text.as_bytes()).map_err(|_| unreadable())
}

fn proof(hashes: &[Cow<'_, str>]) -> Result<Vec<Hash>> {
    if hashes.len() > PROOF_HASHES {
        return Err(unreadable());
    }
    hashes.iter().map(|hash| from_base64(hash)?.try_into().map_err(|_| unreadable())).collect()
}

/// A number of a link, which fits an `i64` as databases keep it.
const fn counted(seq: u64) -> Result<u64> {
    if seq > i64::MAX as u64 { Err(unreadable()) } else { Ok(seq) }
}

const fn unreadable() -> Error {
    Error::new(ErrorKind::Corrupt, "a line of the trail is not of its format")
}

fn unwritten(source: std::io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, "the trail can't be written").with_source(source)
}

fn unread(source: std::io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, "the trail can't be read").with_source(source)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leaf::LeafKind;
    use syntha_store::Incarnation;

    fn items() -> Vec<Item> {
        let header = Header::new("example.org/log".into(), KeyFingerprint::from_bytes([1; 32]), [2; 32]);
        let chain = ChainHead { seq: 7, head: [3; 32] };
        let details = Some(([4; SALT_BYTES], Bytes::from_static(b"[]")));
        vec![
            Item::Trail(header.clone()),
            Item::Trail(header.with_floor(Some(chain))),
            Item::Link { seq: 1, stored: StoredLink::new(Bytes::from_static(b"text"), details) },
            Item::Link { seq: 2, stored: StoredLink::new(Bytes::new(), None) },
            Item::End(chain),
            Item::Leaf { index: 0, leaf: Leaf::new(LeafKind::Head, [2; 32], Incarnation(5), chain) },
            Item::Proof { index: 0, size: 2, hashes: vec![[6; 32]] },
            Item::Consistency { from: 1, size: 2, hashes: vec![] },
            Item::Checkpoint { note: "a\n\u{2014} b\n".into() },
        ]
    }

    #[test]
    fn a_line_is_read_as_it_was_written() {
        let mut writer = TrailWriter::new(Vec::new());
        items().iter().for_each(|item| writer.write(item).unwrap());
        let text = writer.finish().unwrap();
        let mut reader = TrailReader::new(&text[..]);
        for item in items() {
            let line = reader.line().unwrap().unwrap();
            assert_eq!((line.torn, line.item), (false, Some(item)));
        }
        assert_eq!(reader.line().unwrap(), None);
        let mut reader = TrailReader::new(&text[..text.len() - 1]);
        let last = std::iter::from_fn(|| reader.line().unwrap()).last().unwrap();
        assert!(last.torn && last.item.is_some() && last.number == items().len() as u64);
        let mut redacted = RedactedTrail::new(Vec::new());
        items().iter().for_each(|item| redacted.write(item).unwrap());
        assert!(!String::from_utf8(redacted.finish().unwrap()).unwrap().contains("salt"));
    }

    #[test]
    fn what_is_not_of_the_format_is_refused() {
        let head = HEXLOWER.encode(&[3; 32]);
        let good = format!(r#"{{"t":"end","seq":1,"head":"{head}"}}"#);
        assert!(Item::decode(good.as_bytes()).is_ok());
        let bad = [
            String::new(),
            "null".into(),
            format!(r#"["end",1,"{head}"]"#),
            good.replace("end", "ended"),
            good.replace("{", r#"{"more":1,"#),
            good.replace("{", r#"{"seq":1,"#),
            good.replace("{", r#"{"t":"end","#),
            good.replace(":1", ":1.0"),
            good.replace(":1", ":-1"),
            good.replace(":1", ":9223372036854775808"),
            good.replace(":1", r#":"1""#),
            good.replace(&head, &head.to_uppercase().replace('3', "A")),
            good.replace(&head, &head[2..]),
            good.replace('}', ""),
            format!("{good} 1"),
            r#"{"t":"link","seq":0,"text":""}"#.into(),
            r#"{"t":"link","seq":1,"text":"AB=="}"#.into(),
            r#"{"t":"link","seq":1,"text":"","salt":null}"#.into(),
            r#"{"t":"link","seq":1,"text":"","details":""}"#.into(),
            r#"{"t":"proof","index":2,"size":2,"hashes":[]}"#.into(),
            r#"{"t":"consistency","from":0,"size":2,"hashes":[]}"#.into(),
        ];
        for line in bad {
            assert!(Item::decode(line.as_bytes()).is_err(), "{line}");
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_passed_over() {
        let mut text = vec![b' '; LINE_BYTES + 5];
        text.extend(b"\n{}\n");
        let mut reader = TrailReader::new(&text[..]);
        assert_eq!(reader.line().unwrap(), Some(Line { number: 1, torn: false, item: None }));
        assert_eq!(reader.line().unwrap(), Some(Line { number: 2, torn: false, item: None }));
        assert_eq!(reader.line().unwrap(), None);
    }
}
