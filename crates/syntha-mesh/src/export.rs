//! A user's whole mesh as JSON Lines. The format stands in `docs/export-v1.md`.

use std::collections::VecDeque;
use std::fmt;
use std::io::Write;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use syntha_store::{
    Body, Error as StoreError, ErrorKind as StoreErrorKind, Keyspace, Scan, Snapshot, StoredRecord, Want,
};

use crate::draft::AGENT_TOPICS;
use crate::entry::{Entry, Member};
use crate::error::{Error, ErrorKind, Result};
use crate::history;
use crate::interactions::{Action, Interaction};
use crate::mesh::Mesh;
use crate::message::{HistoryMessage, MessageRole};
use crate::roster::{AgentState, Roster};
use crate::standing::Standing;
use crate::thread::{ThreadState, message_record};

/// How often an export looks for a moment at which nobody else commits.
const TRIES: usize = 20;
/// The most messages that are read at a time of a thread that is read by itself.
const PAGE: usize = 1_000;

/// What a line of an export is called and holds. Times are milliseconds since the Unix epoch.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Line {
    /// The first line: the format's version.
    SynthaExport(u32),
    Agent(AgentLine),
    Entry(EntryLine),
    Thread(ThreadLine),
    Message(MessageLine),
    Interaction(InteractionLine),
    /// The last line: how many there were of each.
    End(Exported),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AgentLine {
    pub(crate) name: String,
    #[serde(deserialize_with = "at_most::<_, _, AGENT_TOPICS>")]
    pub(crate) topics: Vec<String>,
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "at_most_some::<_, _, PERMITTED>"
    )]
    pub(crate) post: Option<Vec<String>>,
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "at_most_some::<_, _, PERMITTED>"
    )]
    pub(crate) read: Option<Vec<String>>,
    /// Left out for one that was given nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) standing: Option<Standing>,
}

/// An agent that is named: by its name alone, or as one whose name was unregistered since.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Named {
    Present(String),
    Former { former: String },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EntryLine {
    pub(crate) key: String,
    pub(crate) value: Box<RawValue>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) by: Option<Named>,
    pub(crate) created: u64,
    pub(crate) updated: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) expires: Option<u64>,
    /// Whether its author was trusted; left out for no.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) trusted: bool,
    /// Left out for everyone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) audience: Option<AudienceLine>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AudienceLine {
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "at_most::<_, _, NAMES>")]
    pub(crate) agents: Vec<Named>,
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "at_most::<_, _, NAMES>")]
    pub(crate) topics: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ThreadLine {
    pub(crate) name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) by: Option<Named>,
    pub(crate) created: u64,
    pub(crate) updated: u64,
    /// The place of the last message that was ever appended.
    pub(crate) last: u64,
    /// Left out for everyone.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "at_most_some::<_, _, NAMES>"
    )]
    pub(crate) agents: Option<Vec<Named>>,
}

/// A message of the thread whose line came last.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MessageLine {
    pub(crate) seq: u64,
    pub(crate) role: MessageRole,
    pub(crate) content: Box<RawValue>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub(crate) metadata: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) by: Option<Named>,
    pub(crate) at: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct InteractionLine {
    pub(crate) seq: u64,
    pub(crate) at: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) by: Option<String>,
    #[serde(rename = "do")]
    pub(crate) action: Action,
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "at_most::<_, _, NAMES>")]
    pub(crate) on: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) more: Option<u64>,
}

/// The most names of an audience or an interaction that are looked at; an audience takes fewer.
const NAMES: usize = 1_024;

/// Reads a list of at most so many: a line's text is much smaller than what it says in millions of parts.
fn at_most<'de, D, T, const MOST: usize>(list: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct AtMost<T, const MOST: usize>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for AtMost<T, MOST> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {MOST}")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
            let mut found = Vec::new();
            while let Some(one) = list.next_element()? {
                if found.len() == MOST {
                    return Err(serde::de::Error::invalid_length(MOST + 1, &self));
                }
                found.push(one);
            }
            Ok(found)
        }
    }

    list.deserialize_seq(AtMost::<T, MOST>(PhantomData))
}

/// How many topics of a permission are read: it has no other bound.
const PERMITTED: usize = 1 << 20;

/// A list that is there.
fn at_most_some<'de, D, T, const MOST: usize>(list: D) -> Result<Option<Vec<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    at_most::<D, T, MOST>(list).map(Some)
}

/// How many lines of each kind an export has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Exported {
    /// Agents.
    pub agents: u64,
    /// Entries. Expired ones are left out.
    pub entries: u64,
    /// Threads.
    pub threads: u64,
    /// Messages. Redacted ones are left out.
    pub messages: u64,
    /// Interactions.
    pub interactions: u64,
}

impl Exported {
    /// All lines but the first and the last.
    #[must_use]
    pub const fn lines(&self) -> u64 {
        self.agents + self.entries + self.threads + self.messages + self.interactions
    }
}

impl Mesh {
    /// Writes the whole mesh as of one commit, as JSON Lines in the format of `docs/export-v1.md`: readable text, for the user
    /// to take along. `progress` is told after each chunk how much was written. Of a store that keeps names in another order than that
    /// of their bytes (one that seals them), messages that are redacted while it is written may be left out.
    ///
    /// It is written on the calling task: give a sink that does not wait, a file or a buffer. The caller makes it durable.
    ///
    /// # Errors
    ///
    /// `Storage` if the sink fails; `Busy` if other processes write all the time; `Gone`, `SessionEnded`.
    pub async fn export(
        &self,
        sink: &mut (dyn Write + Send),
        mut progress: impl FnMut(&Exported) + Send,
    ) -> Result<Exported> {
        let reading = self.reading(None, syntha_store::Action::Export);
        reading.admit(self.fresh().await.and_then(|()| self.host_may(crate::decision::Act::Export))).await?;
        let Moment { roster, entries, threads, mut snapshot } = reading.admit(self.moment().await).await?;
        // Before the first of it is given. Messages are not counted yet.
        reading.saw((roster.len() + entries.len() + threads.len()).max(1), 0).await?;
        let now = self.core.now(&self.core.index.read());
        let newest = snapshot.state().stamp.epoch.0;
        let mut export = Export { sink, roster, exported: Exported::default(), now };
        export.line(&Line::SynthaExport(1))?;
        let mut names: Vec<_> = export.roster.keys().cloned().collect();
        names.sort_unstable();
        for name in names {
            export.agent(&name)?;
        }
        // In memory are the keys, one head for each thread, and the entries that come before their turn: none, or with names in an order
        // of the store's own all of them, as when an agent reads everything. Messages are never held: a thread that does not come
        // in its turn is read by itself in its turn.
        let mut entries = Entries { keys: entries, early: HashMap::new() };
        let mut threads = Threads { waiting: threads, present: None };
        while let Some(chunk) = snapshot.next().await? {
            for StoredRecord { space, record } in chunk {
                self.check()?;
                match space {
                    Keyspace::Context => {
                        let entry = Entry::decode(&record.head)?;
                        entries.early.insert(Arc::clone(&entry.key), (entry, record.body));
                        while let Some((entry, body)) = entries.next() {
                            export.entry(&entry, std::str::from_utf8(&body).map_err(|_| corrupt())?)?;
                        }
                    }
                    Keyspace::History => {
                        let of = record.head.id.name();
                        while let Some((name, state)) = threads.due(of) {
                            export.thread(&name, &state)?;
                        }
                        if threads.is_present(of) {
                            export.message(HistoryMessage::decode(&record.head, &record.body)?)?;
                        }
                    }
                    Keyspace::Interactions => {
                        self.export_threads(&mut export, &mut threads, newest, &mut progress).await?;
                        export.interaction(&Interaction::decode(record.head.id.seq(), &record.body)?)?;
                    }
                    _ => {}
                }
            }
            progress(&export.exported);
        }
        if !entries.keys.is_empty() || !entries.early.is_empty() {
            return Err(corrupt().into());
        }
        self.export_threads(&mut export, &mut threads, newest, &mut progress).await?;
        let exported = export.exported;
        export.line(&Line::End(exported))?;
        export.sink.flush().map_err(sink_failed)?;
        progress(&exported);
        Ok(exported)
    }

    /// Writes the threads that did not come in their turn. Messages are never changed, so those up to the export's commit are those that
    /// were there then, but for what was redacted since.
    async fn export_threads(
        &self,
        export: &mut Export<'_>,
        threads: &mut Threads,
        newest: u64,
        progress: &mut (impl FnMut(&Exported) + Send),
    ) -> Result<()> {
        threads.present = None;
        while let Some((name, state)) = threads.waiting.pop_front() {
            export.thread(&name, &state)?;
            let mut from = (state.messages > 0).then(|| message_record(&name, 0)).transpose()?;
            while let Some(id) = from.take() {
                self.check()?;
                let of = Bytes::copy_from_slice(name.as_bytes());
                let mut scan = Scan::heads(Keyspace::History, PAGE).name(of).from(id);
                scan.limit = history::fitting(&self.core, scan.clone()).await?;
                scan.want = Want::Records;
                let page = self.core.store.scan(scan).await?.value;
                for (head, body) in page.records.iter().filter(|(head, _)| head.version.0 <= newest) {
                    export.message(HistoryMessage::decode(head, body.as_deref().unwrap_or_default())?)?;
                }
                from = page.next();
                progress(&export.exported);
            }
        }
        Ok(())
    }

    /// Agents, keys, threads and all records as of one commit.
    async fn moment(&self) -> Result<Moment> {
        for _ in 0..TRIES {
            // This process's writer waits meanwhile; another process's commit shows in a stamp.
            let _gate = self.core.gate.lock().await;
            if !self.core.exclusive {
                self.core.catch_up().await?;
            }
            let (stamp, roster, entries) = {
                let index = self.core.index.read();
                let keys = index.ordered(None, "").map(|entry| Arc::clone(&entry.key)).collect();
                (index.stamp, index.roster.clone(), keys)
            };
            let (mut threads, mut one_moment, mut from) = (Vec::<(Arc<str>, _)>::new(), true, None);
            loop {
                let scan = Scan::heads(Keyspace::Threads, 1_000);
                let page = self.core.store.scan(match from.take() {
                    Some(id) => scan.from(id),
                    None => scan,
                });
                let page = page.await?;
                one_moment &= page.stamp == stamp;
                for (head, _) in &page.value.records {
                    let name = std::str::from_utf8(head.id.name()).map_err(|_| corrupt())?;
                    threads.push((Arc::from(name), ThreadState::decode_head(head)?));
                }
                from = page.value.next();
                if from.is_none() {
                    break;
                }
            }
            let snapshot = self.core.store.snapshot().await?;
            if one_moment && snapshot.state().stamp == stamp {
                threads.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
                return Ok(Moment { roster, entries, threads: threads.into(), snapshot });
            }
            // A backup makes the data of a user who has not written: an index that nobody else writes to learns of it here.
            self.core.refresh().await?;
        }
        Err(Error::new(ErrorKind::Busy, "other processes write all the time, try again"))
    }
}

/// A mesh as of one commit. Keys and threads are in order of their names.
struct Moment {
    roster: Roster,
    entries: VecDeque<Arc<str>>,
    threads: VecDeque<(Arc<str>, ThreadState)>,
    snapshot: Box<dyn Snapshot>,
}

/// The entries that have still to be written, and those of them that have come before their turn.
struct Entries {
    keys: VecDeque<Arc<str>>,
    early: HashMap<Arc<str>, (Entry, Body)>,
}

impl Entries {
    /// The next entry, if it has come.
    fn next(&mut self) -> Option<(Entry, Body)> {
        let found = self.early.remove(self.keys.front()?)?;
        self.keys.pop_front();
        Some(found)
    }
}

/// The threads that have still to be written, and the last one that came in its turn.
struct Threads {
    waiting: VecDeque<(Arc<str>, ThreadState)>,
    present: Option<Arc<str>>,
}

impl Threads {
    /// The next thread to write once a message of this one has come; `None` if that does not come in its turn, or was written.
    fn due(&mut self, of: &[u8]) -> Option<(Arc<str>, ThreadState)> {
        let (name, state) = self.waiting.front()?;
        let here = name.as_bytes() == of;
        if !here && (name.as_bytes() > of || state.messages > 0) {
            return None;
        }
        let next = self.waiting.pop_front();
        self.present = next.as_ref().filter(|_| here).map(|(name, _)| Arc::clone(name));
        next
    }

    fn is_present(&self, of: &[u8]) -> bool {
        self.present.as_ref().is_some_and(|name| name.as_bytes() == of)
    }
}

/// An export that is being written.
struct Export<'a> {
    sink: &'a mut (dyn Write + Send),
    roster: Roster,
    exported: Exported,
    now: syntha_store::Timestamp,
}

impl Export<'_> {
    fn line(&mut self, line: &Line) -> Result<()> {
        let mut text = serde_json::to_vec(line)
            .map_err(|_| Error::new(ErrorKind::Storage, "a line can't be written as JSON"))?;
        // A value may be JSON text with line ends; in JSON they stand between tokens only.
        text.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
        text.push(b'\n');
        self.sink.write_all(&text).map_err(sink_failed)
    }

    fn agent(&mut self, name: &str) -> Result<()> {
        let Some(AgentState { topics, post, read, standing, .. }) =
            self.roster.get(name).map(|state| &**state)
        else {
            return Ok(());
        };
        let texts = |topics: &Vec<Arc<str>>| topics.iter().map(ToString::to_string).collect();
        let line = AgentLine {
            name: name.to_owned(),
            topics: texts(topics),
            post: post.as_ref().map(texts),
            read: read.as_ref().map(texts),
            standing: standing.as_deref().cloned(),
        };
        self.exported.agents += 1;
        self.line(&Line::Agent(line))
    }

    fn entry(&mut self, entry: &Entry, value: &str) -> Result<()> {
        if !entry.is_live(|| self.now) {
            return Ok(());
        }
        let audience = (!entry.audience.everyone).then(|| AudienceLine {
            agents: entry.audience.agents.iter().map(|member| self.named(member)).collect(),
            topics: entry.audience.topics.iter().map(ToString::to_string).collect(),
        });
        let line = EntryLine {
            key: entry.key.to_string(),
            value: RawValue::from_string(value.to_owned()).map_err(|_| corrupt())?,
            by: entry.author.as_ref().map(|by| self.named(by)),
            created: entry.created.0,
            updated: entry.updated.0,
            expires: entry.expires.map(|at| at.0),
            trusted: entry.trusted,
            audience,
        };
        self.exported.entries += 1;
        self.line(&Line::Entry(line))
    }

    fn thread(&mut self, name: &str, state: &ThreadState) -> Result<()> {
        let members = || state.audience.agents.iter().map(|member| self.named(member)).collect();
        let line = ThreadLine {
            name: name.to_owned(),
            by: state.by.as_ref().map(|by| self.named(by)),
            created: state.created.0,
            updated: state.updated.0,
            last: state.last,
            agents: (!state.audience.everyone).then(members),
        };
        self.exported.threads += 1;
        self.line(&Line::Thread(line))
    }

    fn message(&mut self, message: HistoryMessage) -> Result<()> {
        let line = MessageLine {
            seq: message.seq,
            role: message.role,
            by: message.by.as_ref().map(|by| self.named(by)),
            at: message.at.0,
            id: message.id.as_deref().map(str::to_owned),
            content: message.content,
            metadata: message.metadata,
        };
        self.exported.messages += 1;
        self.line(&Line::Message(line))
    }

    fn interaction(&mut self, one: &Interaction) -> Result<()> {
        let line = InteractionLine {
            seq: one.seq,
            at: one.at.0,
            by: one.agent.as_deref().map(str::to_owned),
            action: one.action,
            on: one.on.iter().map(ToString::to_string).collect(),
            more: (one.more > 0).then_some(one.more),
        };
        self.exported.interactions += 1;
        self.line(&Line::Interaction(line))
    }

    fn named(&self, member: &Member) -> Named {
        let name = member.name.to_string();
        if member.is(&name, &self.roster) { Named::Present(name) } else { Named::Former { former: name } }
    }
}

fn sink_failed(source: std::io::Error) -> Error {
    Error::new(ErrorKind::Storage, "the export's file can't be written").with_source(source)
}

const fn corrupt() -> StoreError {
    StoreError::new(StoreErrorKind::Corrupt, "a record is not as it was written")
}
