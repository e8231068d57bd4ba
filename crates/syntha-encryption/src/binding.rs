use syntha_store::{Error, ErrorKind, Incarnation, Result, Timestamp, Version};

use crate::envelope::{Algorithm, VERSION};

/// The first field of every envelope's associated data.
const DOMAIN: &[u8] = b"syntha";

/// What a sealed blob is and where it belongs. Under any other binding it does not open.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Binding<'a> {
    /// A record's head: part 1.
    Head(RecordBinding<'a>),
    /// A record's body: part 2.
    Body(RecordBinding<'a>),
    /// A commit's note, or another value that lies in no keyspace: part 3.
    Note(RecordBinding<'a>),
    /// A wrapped key: part 4. Sealed with [`Algorithm::Committing`] only.
    Wrap(WrapBinding<'a>),
    /// A frame of a sealed stream: part 5.
    Frame(FrameBinding<'a>),
    /// The details of a link of an audit trail: part 6.
    Details(DetailsBinding<'a>),
}

/// The place of a record.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RecordBinding<'a> {
    /// The deployment's id.
    pub deployment: &'a [u8; 16],
    /// The user's tag, or the deployment's own space.
    pub owner: &'a [u8; 32],
    /// The user's life.
    pub life: Incarnation,
    /// The keyspace's code; 0 for what lies in none.
    pub space: u8,
    /// The name that it is stored under.
    pub name: &'a [u8],
    /// The sequence number.
    pub seq: u64,
    /// The commit that last wrote the head.
    pub version: Version,
    /// The commit that last wrote the body.
    pub body_version: Version,
    /// When it expires, as the store is told.
    pub expires: Option<Timestamp>,
    /// What else this blob is bound to.
    pub extra: &'a [u8],
}

/// The place of a wrapped key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct WrapBinding<'a> {
    /// The name of the key provider.
    pub provider: &'a str,
    /// The deployment's id.
    pub deployment: &'a [u8; 16],
    /// The user's tag, or the deployment's own space.
    pub owner: &'a [u8; 32],
    /// Which key: `"root"`, `"dek"`, `"check"`, `"deployment-key"` or `"artefact"`.
    pub what: &'a str,
    /// The user's life; zero for what outlives it.
    pub life: Incarnation,
    /// The wrapped key's epoch.
    pub key_epoch: u32,
    /// What else the wrap is bound to.
    pub extra: &'a [u8],
}

/// The place of a frame.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FrameBinding<'a> {
    /// SHA-256 of the stream's header.
    pub header: &'a [u8; 32],
    /// The frame's number, from 0.
    pub counter: u64,
    /// Whether the stream ends with it.
    pub last: bool,
}

/// The place of an audit link's details: not the link's number, which the layer below gives, nor the life, which they outlive.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct DetailsBinding<'a> {
    /// The deployment's id.
    pub deployment: &'a [u8; 16],
    /// The user's tag, or the deployment's own space.
    pub owner: &'a [u8; 32],
    /// Which details: a random number that stands before the blob.
    pub id: &'a [u8; 16],
}

/// Shows the part only: names may be user text.
impl std::fmt::Debug for Binding<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Binding(part {})", self.part())
    }
}

macro_rules! hides_its_fields {
    ($($name:ident),*) => {$(
        /// Shows no field: names may be user text.
        impl std::fmt::Debug for $name<'_> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }
    )*};
}

hides_its_fields!(RecordBinding, WrapBinding, FrameBinding, DetailsBinding);

impl Binding<'_> {
    /// The part's code.
    #[must_use]
    pub const fn part(&self) -> u8 {
        match self {
            Self::Head(_) => 1,
            Self::Body(_) => 2,
            Self::Note(_) => 3,
            Self::Wrap(_) => 4,
            Self::Frame(_) => 5,
            Self::Details(_) => 6,
        }
    }

    /// Whether the part may be sealed so: a wrap commits to its key, as its key may come from a passphrase.
    #[must_use]
    pub const fn allows(&self, algorithm: Algorithm) -> bool {
        !matches!((self, algorithm), (Self::Wrap(_), Algorithm::Record))
    }

    /// The associated data: each field in order, behind its length in four bytes. No two bindings, algorithms or
    /// epochs give the same bytes.
    ///
    /// # Errors
    ///
    /// `LimitExceeded` for a field of more than 2^32 - 1 bytes.
    pub fn associated_data(&self, algorithm: Algorithm, epoch: u32) -> Result<Vec<u8>> {
        let (algorithm, epoch, part) = ([algorithm.code()], epoch.to_be_bytes(), [self.part()]);
        let common: [&[u8]; 5] = [DOMAIN, &[VERSION], &algorithm, &epoch, &part];
        match self {
            Self::Head(record) | Self::Body(record) | Self::Note(record) => {
                let expires = record.expires.map(|at| at.0.to_be_bytes());
                encode(
                    common,
                    [
                        record.deployment,
                        record.owner,
                        &record.life.0.to_be_bytes(),
                        &[record.space],
                        record.name,
                        &record.seq.to_be_bytes(),
                        &record.version.0.to_be_bytes(),
                        &record.body_version.0.to_be_bytes(),
                        expires.as_ref().map_or(&[], |bytes| bytes.as_slice()),
                        record.extra,
                    ],
                )
            }
            Self::Wrap(wrap) => encode(
                common,
                [
                    wrap.provider.as_bytes(),
                    wrap.deployment,
                    wrap.owner,
                    wrap.what.as_bytes(),
                    &wrap.life.0.to_be_bytes(),
                    &wrap.key_epoch.to_be_bytes(),
                    wrap.extra,
                ],
            ),
            Self::Frame(frame) => {
                encode(common, [frame.header, &frame.counter.to_be_bytes(), &[u8::from(frame.last)]])
            }
            Self::Details(details) => encode(common, [details.deployment, details.owner, details.id]),
        }
    }
}

fn encode<const N: usize>(common: [&[u8]; 5], own: [&[u8]; N]) -> Result<Vec<u8>> {
    let fields = || common.iter().chain(&own);
    let mut encoded = Vec::with_capacity(fields().map(|field| field.len().saturating_add(4)).sum());
    for field in fields() {
        let len = u32::try_from(field.len()).map_err(|_| {
            Error::new(ErrorKind::LimitExceeded, "a field that a blob is bound to has at most 2^32 - 1 bytes")
        })?;
        encoded.extend_from_slice(&len.to_be_bytes());
        encoded.extend_from_slice(field);
    }
    Ok(encoded)
}
