//! How what agents removed is stored, in the keyspace `Undo`: a record for each act, and one for each entry, whose head and body are
//! the entry's own. `docs/undo-v1.md` gives it.

use std::sync::Arc;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use syntha_store::{Error as StoreError, ErrorKind as StoreErrorKind, Head, RecordId, Timestamp};

use crate::entry::{Entry, Member};
use crate::error::{Error, ErrorKind, Result};
use crate::undo::{Deed, UndoId, Undoable};

/// The name of the acts' records; their number is the sequence number.
pub(crate) const ACTS: &str = "act";

/// The record of an act.
pub(crate) fn act_record(number: u64) -> Result<RecordId, StoreError> {
    RecordId::new(ACTS, number)
}

/// The name of the records of an act's entries.
pub(crate) fn entries_name(number: u64) -> Bytes {
    number.to_string().into()
}

/// What an act's head holds, as JSON. Version 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ActHead {
    v: u8,
    pub(crate) by: Member,
    #[serde(with = "millis")]
    pub(crate) at: Timestamp,
    #[serde(with = "millis")]
    pub(crate) until: Timestamp,
    #[serde(rename = "do")]
    pub(crate) did: Deed,
    pub(crate) on: Arc<str>,
    /// Entries that are kept, which usage counts.
    #[serde(rename = "n")]
    pub(crate) entries: u64,
    #[serde(rename = "bytes")]
    pub(crate) bytes: u64,
    #[serde(rename = "parted")]
    pub(crate) parted: u64,
    #[serde(rename = "subscribers")]
    pub(crate) subscribers: u64,
}

/// What an act's body holds, as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ActBody {
    /// The n-th of them is the act's record with the number n.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) entries: Vec<Removed>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) parted: Vec<Parted>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) subscriptions: Vec<Subscribed>,
}

/// An entry that is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Removed {
    pub(crate) key: Arc<str>,
    /// As usage counts it.
    pub(crate) bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none", with = "millis_some")]
    pub(crate) expires: Option<Timestamp>,
    /// It expired, and its record is gone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) gone: bool,
    /// What the act put in its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) over: Option<Trace>,
}

/// An entry that stayed and lost the act's topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Parted {
    pub(crate) key: Arc<str>,
    pub(crate) was: Trace,
    /// The agents that it was for by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) to: Vec<Member>,
}

/// An agent in one of its lives, and the topics that it lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Subscribed {
    pub(crate) agent: Member,
    pub(crate) topics: Vec<Arc<str>>,
}

/// What a written value is known again by: a version would not do, since an undo gives it another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Trace {
    by: Option<Arc<Member>>,
    at: u64,
    up: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    tr: bool,
    /// Of the value's text, as hexadecimal text.
    sha256: String,
}

impl Trace {
    pub(crate) fn of(entry: &Entry) -> Self {
        Self {
            by: entry.author.clone(),
            at: entry.created.0,
            up: entry.updated.0,
            tr: entry.trusted,
            sha256: HEXLOWER.encode(&Sha256::digest(entry.json())),
        }
    }
}

impl ActHead {
    pub(crate) const fn new(by: Member, at: Timestamp, until: Timestamp, did: Deed, on: Arc<str>) -> Self {
        Self { v: 1, by, at, until, did, on, entries: 0, bytes: 0, parted: 0, subscribers: 0 }
    }

    pub(crate) fn encode(&self) -> Result<Bytes> {
        json(self)
    }

    pub(crate) fn decode(head: &Head) -> Result<Self, StoreError> {
        // Before the rest of it, which a newer format may write differently.
        #[derive(Deserialize)]
        struct Format {
            v: u8,
        }
        let Format { v } = serde_json::from_slice(&head.head).map_err(|_| corrupt())?;
        if v != 1 {
            return Err(StoreError::new(
                StoreErrorKind::Unsupported,
                "what an agent removed has a newer format, upgrade",
            ));
        }
        serde_json::from_slice(&head.head).map_err(|_| corrupt())
    }

    pub(crate) fn describe(self, number: u64) -> Undoable {
        Undoable {
            id: UndoId(number),
            by: self.by.name,
            at: self.at,
            until: self.until,
            did: self.did,
            on: self.on,
            entries: self.entries,
            bytes: self.bytes,
            parted: self.parted,
            subscribers: self.subscribers,
        }
    }
}

impl ActBody {
    pub(crate) fn encode(&self) -> Result<Bytes> {
        json(self)
    }

    pub(crate) fn decode(body: &[u8]) -> Result<Self, StoreError> {
        serde_json::from_slice(body).map_err(|_| corrupt())
    }

    /// When the first of it ends: an entry, or with `until` the whole act.
    pub(crate) fn ends(&self, until: Timestamp) -> Timestamp {
        let kept = self.entries.iter().filter(|entry| !entry.gone);
        kept.filter_map(|entry| entry.expires).fold(until, Ord::min)
    }
}

fn json(of: &impl Serialize) -> Result<Bytes> {
    serde_json::to_vec(of)
        .map(Bytes::from)
        .map_err(|_| Error::new(ErrorKind::Invalid, "what is to be kept can't be written as JSON"))
}

pub(crate) const fn corrupt() -> StoreError {
    StoreError::new(StoreErrorKind::Corrupt, "what an agent removed is not as it was written")
}

mod millis {
    use serde::{Deserialize, Deserializer, Serializer};
    use syntha_store::Timestamp;

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "the form that serde calls")]
    pub(super) fn serialize<S: Serializer>(at: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(at.0)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Timestamp, D::Error> {
        u64::deserialize(from).map(Timestamp)
    }
}

mod millis_some {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use syntha_store::Timestamp;

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "the form that serde calls")]
    #[allow(clippy::ref_option, reason = "the form that serde calls")]
    pub(super) fn serialize<S: Serializer>(at: &Option<Timestamp>, to: S) -> Result<S::Ok, S::Error> {
        at.map(|at| at.0).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Timestamp>, D::Error> {
        Ok(Option::<u64>::deserialize(from)?.map(Timestamp))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = concat!(
        r#"{"v":1,"by":{"n":"ann","i":7},"at":1000,"until":2000,"do":"delete-topic","on":"news","#,
        r#""n":1,"bytes":5,"parted":1,"subscribers":1}"#
    );
    const BODY: &str = concat!(
        r#"{"entries":[{"key":"k","bytes":5,"expires":1500}],"#,
        r#""parted":[{"key":"l","was":{"by":{"n":"ben","i":8},"at":1,"up":2,"tr":true,"sha256":"00"},"#,
        r#""to":[{"n":"ben","i":8}]}],"#,
        r#""subscriptions":[{"agent":{"n":"ben","i":8},"topics":["news"]}]}"#
    );

    fn head(text: &str) -> Head {
        let id = act_record(1).unwrap();
        let version = syntha_store::Version(1);
        Head::new(id, Bytes::copy_from_slice(text.as_bytes()), version, version, None)
    }

    #[test]
    fn records_keep_their_text() {
        assert_eq!(ActHead::decode(&head(HEAD)).unwrap().encode().unwrap(), HEAD);
        let body = ActBody::decode(BODY.as_bytes()).unwrap();
        assert_eq!(body.encode().unwrap(), BODY);
        assert_eq!(body.ends(Timestamp(2_000)), Timestamp(1_500), "the first entry ends before the act");
    }

    #[test]
    fn what_is_not_known_is_not_read() {
        let newer = ActHead::decode(&head(r#"{"v":2,"acts":[]}"#)).unwrap_err();
        assert_eq!(newer.kind(), StoreErrorKind::Unsupported);
        for text in [HEAD.replace("delete-topic", "forget"), HEAD.replace("\"n\":1", "\"n\":1,\"x\":1")] {
            assert_eq!(ActHead::decode(&head(&text)).unwrap_err().kind(), StoreErrorKind::Corrupt);
        }
        let text = BODY.replace("\"tr\"", "\"true\"");
        assert_eq!(ActBody::decode(text.as_bytes()).unwrap_err().kind(), StoreErrorKind::Corrupt);
    }
}
