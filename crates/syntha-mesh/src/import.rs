//! Filling a mesh from an export, and a thread from a file of messages. Both go on where they stopped when they are run again.

use std::io::BufRead;
use std::sync::Arc;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use syntha_store::Timestamp;

use crate::change::{Answer, Change};
use crate::error::{Error, ErrorKind, Result};
use crate::export::{
    AgentLine, AudienceLine, EntryLine, Exported, InteractionLine, Line, MessageLine, Named, ThreadLine,
};
use crate::interactions::Interaction;
use crate::load::{Loaded, LoadedEntry, LoadedMessage, LoadedThread, Mention};
use crate::mesh::{Mesh, mismatch};
use crate::message::{Message, MessageRole, Unmade};
use crate::names::{AgentName, EntryKey, MessageId, ThreadId, Topic};
use crate::thread::Thread;

/// The most bytes of a line: a value of the largest size that a mesh may take, and what stands around it.
const LINE_BYTES: u64 = 72 << 20;
/// How many lines and bytes go into one commit.
const LINES: usize = 200;
const BYTES: usize = 1 << 20;
/// The highest number of an interaction that is taken.
const INTERACTION_MOST: u64 = 1 << 53;

/// What an import did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImportReport {
    /// Lines that were read, the first and the last included.
    pub lines: u64,
    /// What was written.
    pub imported: Exported,
    /// What was there already and stayed as it was.
    pub present: Exported,
    /// Entries that have expired since.
    pub expired: u64,
}

/// What an import of messages did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChatReport {
    /// Lines that were read.
    pub lines: u64,
    /// Messages that were appended.
    pub appended: u64,
    /// Messages that had been appended from this file before.
    pub present: u64,
}

/// Why an import ended early. What it had written stays, and the import can be run again.
#[derive(Debug)]
#[non_exhaustive]
pub struct ImportError {
    /// The line, from 1, at which it ended.
    pub line: u64,
    /// What was wrong.
    pub error: Error,
}

impl std::fmt::Display for ImportError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}: {}", self.line, self.error)
    }
}

impl std::error::Error for ImportError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// Lines of a source, numbered, none longer than [`LINE_BYTES`].
struct Lines<R> {
    source: R,
    number: u64,
    text: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    fn next(&mut self) -> Result<Option<&[u8]>> {
        self.text.clear();
        self.number += 1;
        let read = std::io::Read::take(&mut self.source, LINE_BYTES).read_until(b'\n', &mut self.text);
        let read = read
            .map_err(|source| Error::new(ErrorKind::Storage, "the file can't be read").with_source(source))?;
        if read as u64 == LINE_BYTES {
            return Err(Error::new(ErrorKind::LimitExceeded, "the line is longer than 72 MiB"));
        }
        Ok((read > 0).then_some(&self.text))
    }
}

impl Mesh {
    /// Writes an export's entries, agents, threads and messages into this mesh, with their times and authors. What is there
    /// already stays as it is: an import can be run again, and goes on. Into an empty mesh it gives an equal one.
    ///
    /// The source is read on the calling task, in commits of up to 200 lines; `progress` is told after each.
    ///
    /// # Errors
    ///
    /// `Invalid` for a line that is none of an export, names that are none, a missing first or last line; `LimitExceeded` for a
    /// value over the mesh's size; as every write. The commits before it stay.
    pub async fn import(
        &self,
        source: impl BufRead + Send,
        mut progress: impl FnMut(&ImportReport) + Send,
    ) -> Result<ImportReport, ImportError> {
        let mut lines = Lines { source, number: 0, text: Vec::new() };
        let result = self.import_lines(&mut lines, &mut progress).await;
        result.map_err(|error| ImportError { line: lines.number, error })
    }

    async fn import_lines(
        &self,
        lines: &mut Lines<impl BufRead + Send>,
        progress: &mut (impl FnMut(&ImportReport) + Send),
    ) -> Result<ImportReport> {
        self.core.ask()?;
        let mut report = ImportReport::default();
        let mut found = Exported::default();
        let (mut waiting, mut bytes) = (Vec::new(), 0);
        // The thread whose messages come, and the place of its last one.
        let mut thread: Option<ThreadId> = None;
        let mut place = 0;
        let mut ended = false;
        while let Some(text) = lines.next()? {
            report.lines += 1;
            if ended {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    "there is something after the export's last line",
                ));
            }
            bytes += text.len();
            let line: Line = serde_json::from_slice(text)
                .map_err(|_| Error::new(ErrorKind::Invalid, "the line is none of an export"))?;
            if (report.lines == 1) != matches!(line, Line::SynthaExport(_)) {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    "the file is no export: its first line says that it is",
                ));
            }
            match line {
                Line::SynthaExport(1) => {}
                Line::SynthaExport(_) => {
                    return Err(Error::new(ErrorKind::Invalid, "the export has a newer format, upgrade"));
                }
                Line::Agent(line) => {
                    found.agents += 1;
                    waiting.push(agent(line)?);
                }
                Line::Entry(line) => {
                    found.entries += 1;
                    waiting.push(entry(line)?);
                }
                Line::Thread(line) => {
                    found.threads += 1;
                    waiting.extend(thread.take().map(Loaded::ThreadDone));
                    let loaded = loaded_thread(line)?;
                    (thread, place) = (Some(loaded.thread.clone()), 0);
                    waiting.push(Loaded::Thread(loaded));
                }
                Line::Message(line) => {
                    found.messages += 1;
                    let thread = thread.as_ref().ok_or_else(|| {
                        Error::new(ErrorKind::Invalid, "a message stands before its thread")
                    })?;
                    if line.seq <= std::mem::replace(&mut place, line.seq) {
                        return Err(Error::new(
                            ErrorKind::Invalid,
                            "a thread's messages stand in the order of their places, each place once",
                        ));
                    }
                    waiting.push(message(thread, line)?);
                }
                Line::Interaction(line) => {
                    waiting.extend(thread.take().map(Loaded::ThreadDone));
                    found.interactions += 1;
                    waiting.push(interaction(line)?);
                }
                Line::End(expected) => {
                    if expected != found {
                        return Err(Error::new(
                            ErrorKind::Invalid,
                            "lines are missing: the export was cut or changed",
                        ));
                    }
                    waiting.extend(thread.take().map(Loaded::ThreadDone));
                    ended = true;
                }
            }
            if waiting.len() >= LINES || bytes >= BYTES || ended {
                self.load(std::mem::take(&mut waiting), &mut report).await?;
                bytes = 0;
                progress(&report);
            }
        }
        if !ended {
            return Err(Error::new(ErrorKind::Invalid, "the export's last line is missing: it was cut"));
        }
        Ok(report)
    }

    async fn load(&self, loaded: Vec<Loaded>, report: &mut ImportReport) -> Result<()> {
        if loaded.is_empty() {
            return Ok(());
        }
        match self.write(Change::Load(loaded)).await? {
            Answer::Loaded(one) => {
                add(&mut report.imported, &one.imported);
                add(&mut report.present, &one.present);
                report.expired += one.expired;
                Ok(())
            }
            _ => Err(mismatch()),
        }
    }
}

const fn add(to: &mut Exported, of: &Exported) {
    to.agents += of.agents;
    to.entries += of.entries;
    to.threads += of.threads;
    to.messages += of.messages;
    to.interactions += of.interactions;
}

fn texts(topics: Vec<String>) -> Result<Vec<Arc<str>>> {
    topics.into_iter().map(|topic| Ok(Arc::clone(Topic::new(topic)?.shared()))).collect()
}

fn mention(named: Named) -> Result<Mention> {
    Ok(match named {
        Named::Present(name) => Mention { name: AgentName::new(name)?, former: false },
        Named::Former { former } => Mention { name: AgentName::new(former)?, former: true },
    })
}

fn agent(line: AgentLine) -> Result<Loaded> {
    Ok(Loaded::Agent {
        name: AgentName::new(line.name)?,
        topics: texts(line.topics)?,
        post: line.post.map(texts).transpose()?,
        read: line.read.map(texts).transpose()?,
        standing: line.standing.map(|standing| standing.check().map(|()| Box::new(standing))).transpose()?,
    })
}

fn entry(line: EntryLine) -> Result<Loaded> {
    let audience = line.audience.map(|AudienceLine { agents, topics }| {
        let agents = agents.into_iter().map(mention).collect::<Result<Vec<_>>>()?;
        Ok::<_, Error>((agents, texts(topics)?))
    });
    Ok(Loaded::Entry(LoadedEntry {
        key: EntryKey::new(line.key)?,
        value: Box::<str>::from(line.value).into(),
        by: line.by.map(mention).transpose()?,
        created: Timestamp(line.created),
        updated: Timestamp(line.updated),
        expires: line.expires.map(Timestamp),
        trusted: line.trusted,
        audience: audience.transpose()?,
    }))
}

fn loaded_thread(line: ThreadLine) -> Result<LoadedThread> {
    let agents = line.agents.map(|agents| agents.into_iter().map(mention).collect::<Result<Vec<_>>>());
    Ok(LoadedThread {
        thread: ThreadId::new(line.name)?,
        by: line.by.map(mention).transpose()?,
        created: Timestamp(line.created),
        updated: Timestamp(line.updated),
        last: line.last,
        agents: agents.transpose()?,
    })
}

fn message(thread: &ThreadId, line: MessageLine) -> Result<Loaded> {
    let mut new = Message::new(line.role, line.content).with_metadata(line.metadata);
    if let Some(id) = line.id {
        new = new.id(MessageId::new(id)?);
    }
    Ok(Loaded::Message(LoadedMessage {
        thread: thread.clone(),
        seq: line.seq,
        by: line.by.map(mention).transpose()?,
        at: Timestamp(line.at),
        message: new.content.map_err(Unmade::error)?,
    }))
}

fn interaction(line: InteractionLine) -> Result<Loaded> {
    let by = line.by.map(AgentName::new).transpose()?;
    // The log's next numbers must be numbers too, for each later write.
    if line.seq == 0 || line.seq > INTERACTION_MOST {
        return Err(Error::new(ErrorKind::Invalid, "an interaction's number is 1 to 2^53"));
    }
    // Keys, topics, threads and agents: an agent's name has the rules of the others too.
    let on = line.on.into_iter().map(|name| Ok(Arc::clone(EntryKey::new(name)?.shared())));
    let on = on.collect::<Result<_>>()?;
    let mut one = Interaction::new(Timestamp(line.at), by.as_ref(), line.action, on);
    (one.seq, one.more) = (line.seq, line.more.unwrap_or(0));
    Ok(Loaded::Interaction(one))
}

impl Thread {
    /// Appends a file's messages, one JSON object a line as OpenAI's Chat Completions API has them: `role`, `content`, and any
    /// other members, which are kept as metadata. Empty lines are skipped. Run again on the same file, or on the same file with more
    /// lines, it goes on after the last one.
    ///
    /// The source is read on the calling task, in commits of up to 200 lines; `progress` is told after each.
    ///
    /// # Errors
    ///
    /// `Invalid` for a line that is no message; as [`append_all`](Self::append_all). The commits before it stay.
    pub async fn import_chat(
        &self,
        source: impl BufRead + Send,
        mut progress: impl FnMut(&ChatReport) + Send,
    ) -> Result<ChatReport, ImportError> {
        let mut lines = Lines { source, number: 0, text: Vec::new() };
        let mut report = ChatReport::default();
        let result = self.chat_lines(&mut lines, &mut report, &mut progress).await;
        result.map(|()| report).map_err(|error| ImportError { line: lines.number, error })
    }

    async fn chat_lines(
        &self,
        lines: &mut Lines<impl BufRead + Send>,
        report: &mut ChatReport,
        progress: &mut (impl FnMut(&ChatReport) + Send),
    ) -> Result<()> {
        self.mesh.core.ask()?;
        // A message's id is a digest of the file up to it, so the same start of a file gives the same ids, and no other does.
        let mut digest = Sha256::new();
        let (mut waiting, mut bytes, mut more) = (Vec::new(), 0, true);
        while more {
            match lines.next()? {
                None => more = false,
                Some(text) => {
                    report.lines += 1;
                    let text = text.trim_ascii();
                    digest.update((text.len() as u64).to_be_bytes());
                    digest.update(text);
                    if !text.is_empty() {
                        let id =
                            format!("chat-{}", data_encoding::HEXLOWER.encode(&digest.clone().finalize()));
                        waiting.push(chat_message(text)?.id(id));
                        bytes += text.len();
                    }
                }
            }
            if !waiting.is_empty() && (waiting.len() >= LINES || bytes >= BYTES || !more) {
                for appended in self.append_as(waiting.drain(..), false).await? {
                    report.present += u64::from(appended.duplicate);
                    report.appended += u64::from(!appended.duplicate);
                }
                bytes = 0;
                progress(report);
            }
        }
        Ok(())
    }
}

fn chat_message(text: &[u8]) -> Result<Message> {
    let no_message =
        || Error::new(ErrorKind::Invalid, "the line is no message: a JSON object with `role` and `content`");
    let mut object: Map<String, Value> = serde_json::from_slice(text).map_err(|_| no_message())?;
    let role = object.remove("role").ok_or_else(no_message)?;
    let role = match role.as_str() {
        // What the API called system before.
        Some("developer") => MessageRole::System,
        Some("function") => MessageRole::Tool,
        Some(role) => MessageRole::from_name(role)?,
        None => return Err(no_message()),
    };
    // A message that only calls tools has no content, or null.
    let content = object.remove("content").unwrap_or(Value::Null);
    Ok(Message::new(role, content).with_metadata(object))
}
