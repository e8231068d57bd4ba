//! What a host does with the trail: look, verify, export, sign, prune.

use std::io::Write;
use std::sync::Arc;

use syntha_audit::link::{Kind, Link, StoredLink, details_hash};
use syntha_audit::replay::StateReport;
use syntha_audit::verify::{Report, Scope, TrustedKeys, Verifier};
use syntha_audit::{AuditedStore, Backlog, Checkpoint, ExportReport, Opened, Pruned, TrailSize, Whose};
use syntha_store::{
    Action, Error as StoreError, ErrorKind as StoreErrorKind, Event, Keyspace, RecordId, Scan, Timestamp,
    UserId, UserStore, UserTag, Verdict, decode_events,
};

use crate::deployment::Deployment;
use crate::error::{Error, ErrorKind, Result};
use crate::manager::UserManager;

/// How many links are looked at for a page.
const LOOKED_AT: usize = 10_000;
const PAGE: usize = 256;
/// How often a trail that is read while others write is verified before it is called bad.
const VERIFICATIONS: usize = 3;

/// The audit trail of a deployment. Reading and exporting it is written into the deployment's own trail.
#[derive(Clone, Copy)]
pub struct AuditTrail<'a> {
    deployment: &'a Arc<Deployment>,
    audited: &'a Arc<AuditedStore>,
}

/// Whose trail.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AuditScope {
    /// A user's.
    User(UserId),
    /// The deployment's own.
    Deployment,
    /// Everybody's, and the deployment's own.
    All,
}

/// Which entries are wanted.
#[derive(Clone, Debug)]
#[must_use]
pub struct AuditQuery {
    after: u64,
    limit: usize,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    agent: Option<String>,
    action: Option<Action>,
    verdict: Option<Verdict>,
}

impl AuditQuery {
    /// The first 100 entries.
    pub const fn new() -> Self {
        Self { after: 0, limit: 100, since: None, until: None, agent: None, action: None, verdict: None }
    }

    /// Only of links after this one.
    pub const fn after(mut self, seq: u64) -> Self {
        self.after = seq;
        self
    }

    /// At most about so many, 1 to 10,000: a link's entries are never split.
    pub const fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    /// Not before this time.
    pub const fn since(mut self, at: Timestamp) -> Self {
        self.since = Some(at);
        self
    }

    /// Before this time.
    pub const fn until(mut self, at: Timestamp) -> Self {
        self.until = Some(at);
        self
    }

    /// Only by this agent.
    pub fn agent(mut self, agent: impl Into<String>) -> Self {
        self.agent = Some(agent.into());
        self
    }

    /// Only of this action.
    pub const fn action(mut self, action: Action) -> Self {
        self.action = Some(action);
        self
    }

    /// Only with this end.
    pub const fn verdict(mut self, verdict: Verdict) -> Self {
        self.verdict = Some(verdict);
        self
    }

    fn wants(&self, entry: &AuditEntry, agents: &[String]) -> bool {
        let at = entry.event.as_ref().map_or(entry.at, |event| Timestamp(event.at));
        let of = |event: &Event| {
            self.action.is_none_or(|action| action == event.action)
                && self.verdict.is_none_or(|verdict| verdict == event.verdict)
                && (agents.is_empty()
                    || event
                        .agent
                        .as_ref()
                        .is_some_and(|agent| agents.iter().any(|wanted| **wanted == **agent.text())))
        };
        let narrow = self.action.is_some() || self.verdict.is_some() || !agents.is_empty();
        self.since.is_none_or(|since| at >= since)
            && self.until.is_none_or(|until| at < until)
            && entry.event.as_ref().map_or(!narrow, of)
    }
}

impl Default for AuditQuery {
    fn default() -> Self {
        Self::new()
    }
}

/// One entry: an event, or a link that holds none.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuditEntry {
    /// The link's number. Events of one commit stand in one link.
    pub seq: u64,
    /// When the link was made.
    pub at: Timestamp,
    /// What the link is there for.
    pub kind: Kind,
    /// The version that records have which the link's commit wrote.
    pub epoch: u64,
    /// How many records the link's commit changed.
    pub records: u64,
    /// What was done, or tried.
    pub event: Option<Event>,
    /// The link has details that are sealed, and this data is not: they are of the time when it was. They open with the old folder's key alone.
    pub closed: bool,
}

/// Entries, in the order of the chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuditPage {
    /// The entries.
    pub entries: Vec<AuditEntry>,
    /// Where the next page starts: see [`AuditQuery::after`]. `None` at the end.
    pub next: Option<u64>,
}

/// What a verification found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AuditReport {
    /// Of the trail.
    pub trail: Report,
    /// Of the data, where it was compared with the trail.
    pub data: Vec<(UserTag, StateReport)>,
    /// Of the deployment's own records (who there is, who was erased), where they were compared with its trail.
    pub deployment: Option<StateReport>,
}

impl AuditReport {
    /// Whether neither trail nor data were tampered with, as far as the trail can tell: a tail that no checkpoint covers is taken as it is.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        use syntha_audit::verify::Verdict as Judged;
        let data = self.data.iter().map(|(_, data)| data).chain(&self.deployment);
        self.trail.verdict() == Judged::Clean && data.into_iter().all(StateReport::is_clean)
    }
}

impl UserManager {
    /// The audit trail; `None` if the data has none.
    #[must_use]
    pub fn audit(&self) -> Option<AuditTrail<'_>> {
        let audited = self.deployment.trailed.audited.as_ref()?;
        Some(AuditTrail { deployment: &self.deployment, audited })
    }
}

impl AuditTrail<'_> {
    /// A page of a trail.
    ///
    /// # Errors
    ///
    /// `Invalid` for a limit outside 1 to 10,000, and for everybody's at once; `NotFound`, `Erased`; `Tampered` for details that were
    /// changed; `Denied` and `KeyUnavailable` if they can't be opened; `Storage`.
    pub async fn entries(&self, scope: &AuditScope, query: &AuditQuery) -> Result<AuditPage> {
        if !(1..=LOOKED_AT).contains(&query.limit) {
            return Err(Error::new(ErrorKind::Invalid, "a page of a trail has 1 to 10,000 entries"));
        }
        let tag = match scope {
            AuditScope::User(user) => Some(self.deployment.tag(user)),
            AuditScope::Deployment => None,
            AuditScope::All => {
                return Err(Error::new(ErrorKind::Invalid, "one trail is read at a time, name a user"));
            }
        };
        let opened;
        let space: &dyn UserStore = match tag {
            Some(tag) => {
                self.deployment.enter_known(tag).await?;
                opened = self.deployment.store.open(tag).await?;
                &*opened
            }
            None => self.deployment.directory.space(),
        };
        self.told(Action::ReadAudit, scope).await?;
        let mut agents = Vec::new();
        if let Some(agent) = &query.agent {
            agents.push(agent.clone());
            // Where nobody seals events, a keyed hash stands for the name.
            if let Some(tag) = tag
                && let Some(subject) = self.audited.subject(tag, agent).await?
            {
                agents.push(subject.text().to_string());
            }
        }
        let mut page = AuditPage::default();
        let (mut from, mut looked) = (query.after, 0);
        loop {
            let scan = Scan::records(Keyspace::Audit, PAGE).name(bytes::Bytes::new());
            let links = space.scan(scan.from(RecordId::new(bytes::Bytes::new(), from)?)).await?.value;
            for (head, body) in &links.records {
                from = head.id.seq();
                looked += 1;
                for entry in self.open(tag, body.clone().unwrap_or_default()).await? {
                    if query.wants(&entry, &agents) {
                        page.entries.push(entry);
                    }
                }
                if page.entries.len() >= query.limit || looked >= LOOKED_AT {
                    page.next = Some(from);
                    return Ok(page);
                }
            }
            if !links.more {
                return Ok(page);
            }
        }
    }

    async fn open(&self, tag: Option<UserTag>, body: bytes::Bytes) -> Result<Vec<AuditEntry>> {
        let stored = StoredLink::decode(&body)?;
        let link = Link::decode(&stored.text)?;
        let named = stored.details.as_ref().map(|(salt, details)| details_hash(salt, details));
        if named.is_some_and(|named| named != link.details) {
            return Err(changed_details().into());
        }
        let (events, closed) = match &stored.details {
            None => (Vec::new(), false),
            Some((_, details)) => match decode_events(details) {
                // What is sealed is no JSON text: it begins with random bytes, and ends in a seal.
                Ok(events) => (events, false),
                Err(_) if !self.deployment.is_sealed() => (Vec::new(), true),
                Err(_) => (self.unseal(tag, details).await?, false),
            },
        };
        let entry = |event| AuditEntry {
            seq: link.seq,
            at: link.at,
            kind: link.kind,
            epoch: link.epoch.0,
            records: link.changes.len() as u64,
            event,
            closed,
        };
        if events.is_empty() {
            return Ok(vec![entry(None)]);
        }
        Ok(events.into_iter().map(|event| entry(Some(event))).collect())
    }

    #[cfg(feature = "encryption")]
    async fn unseal(&self, tag: Option<UserTag>, details: &[u8]) -> Result<Vec<Event>> {
        let Some(sealed) = &self.deployment.sealed else { return Err(sealed_details().into()) };
        let owner = tag.map_or(syntha_encryption::Owner::Deployment, syntha_encryption::Owner::User);
        Ok(sealed.keychain.open_details(owner, details).await?)
    }

    #[cfg(not(feature = "encryption"))]
    #[allow(clippy::unused_async, reason = "a build without the layer opens nothing")]
    async fn unseal(&self, _: Option<UserTag>, _: &[u8]) -> Result<Vec<Event>> {
        Err(sealed_details().into())
    }

    /// Verifies a trail as an auditor would, with the signer's own keys, and with `data` compares every record with it, of the deployment's
    /// own too where its trail is verified: a row that was put back, deleted, doubled or changed behind the store is found. What others write
    /// meanwhile is no difference. Nothing is repaired.
    ///
    /// # Errors
    ///
    /// `NotFound`, `Erased`, `Storage`. What was tampered with is no error, but in the report.
    pub async fn verify(&self, scope: &AuditScope, data: bool) -> Result<AuditReport> {
        let whose = self.whose(scope);
        let keys = match self.audited.trusted_keys().await {
            Ok(keys) => keys,
            // Without a signer nothing is anchored.
            Err(error) if error.kind() == StoreErrorKind::Invalid => TrustedKeys::default(),
            Err(error) => return Err(error.into()),
        };
        let judged = if whose == Whose::All { Scope::All } else { Scope::Part };
        let mut tries = 0;
        let trail = loop {
            let since = self.audited.last_checkpoint().await.ok().flatten().map(|last| last.number);
            let mut feed = Feed { verifier: Verifier::new(keys.clone()).scope(judged), line: Vec::new() };
            self.audited.export(&whose, false, &mut feed).await?;
            let trail = feed.verifier.finish();
            tries += 1;
            // A trail is not read as of one moment: whoever was erased, restored or pruned meanwhile is looked at again. What is wrong stays so.
            let now = self.audited.last_checkpoint().await.ok().flatten().map(|last| last.number);
            if trail.verdict() != syntha_audit::verify::Verdict::Bad || tries == VERIFICATIONS || now == since
            {
                break trail;
            }
        };
        let mut report = AuditReport { trail, data: Vec::new(), deployment: None };
        if !data {
            return Ok(report);
        }
        if !matches!(whose, Whose::Users(_)) {
            report.deployment = Some(self.audited.replay_deployment().await?);
        }
        match whose {
            Whose::Users(users) => {
                for tag in users {
                    report.data.push((tag, self.replay(tag).await?));
                }
            }
            Whose::All => {
                let mut after = None;
                loop {
                    let page = self.deployment.store.list(after, 1_000).await?;
                    for tag in page.iter().filter(|tag| !self.deployment.is_own(**tag)) {
                        match self.replay(*tag).await {
                            Ok(replayed) => report.data.push((*tag, replayed)),
                            // Erased since they were listed.
                            Err(error) if is_gone(error.kind()) => {}
                            Err(error) => return Err(error.into()),
                        }
                    }
                    after = page.last().copied();
                    if page.len() < 1_000 {
                        break;
                    }
                }
            }
            _ => {}
        }
        Ok(report)
    }

    /// Compares a user's data with the trail. One that is pruned meanwhile is looked at again.
    async fn replay(&self, tag: UserTag) -> syntha_store::Result<StateReport> {
        let mut floor = self.audited.floor(tag).await?;
        loop {
            let report = self.audited.replay(tag, floor).await?;
            let now = self.audited.floor(tag).await?;
            if report.is_clean() || now == floor {
                return Ok(report);
            }
            floor = now;
        }
    }

    /// Writes a trail for an auditor (docs/audit-v1.md). `redacted`: without details, which verifies as well. Where the report says
    /// [`moved`](ExportReport::moved), a verifier may call it bad: [`export_retried`](Self::export_retried) begins anew by itself.
    ///
    /// # Errors
    ///
    /// `NotFound`, `Erased`; `Storage`, also if the sink fails.
    pub async fn export<W: Write + Send>(
        &self,
        scope: &AuditScope,
        redacted: bool,
        sink: W,
    ) -> Result<ExportReport> {
        self.told(Action::ReadAudit, scope).await?;
        Ok(self.audited.export(&self.whose(scope), redacted, sink).await?)
    }

    /// The same, and again where somebody was erased, restored or pruned while their trail was read, three times in all: see
    /// [`AuditedStore::export_retried`].
    ///
    /// # Errors
    ///
    /// As [`export`](Self::export).
    pub async fn export_retried<W: Write + Send>(
        &self,
        scope: &AuditScope,
        redacted: bool,
        begin: impl FnMut() -> std::io::Result<W> + Send,
    ) -> Result<(ExportReport, W)> {
        self.told(Action::ReadAudit, scope).await?;
        Ok(self.audited.export_retried(&self.whose(scope), redacted, begin).await?)
    }

    /// Logs and signs what was not yet: see [`AuditedStore::checkpoint`].
    ///
    /// # Errors
    ///
    /// `Invalid` without a signer; `Tampered`; `Denied` and `KeyUnavailable` from the signer; `Storage`.
    pub async fn checkpoint(&self) -> Result<Checkpoint> {
        Ok(self.audited.checkpoint().await?)
    }

    /// The keys that an auditor verifies checkpoints with, as text: on each line a size of the log and the C2SP verifier key that signs from
    /// there on.
    ///
    /// # Errors
    ///
    /// `Invalid` without a signer; `Denied` and `KeyUnavailable` from the signer.
    pub async fn keys(&self) -> Result<String> {
        Ok(self.audited.trusted_keys_text().await?)
    }

    /// Makes a new signing key for all checkpoints from now on. Gives the note by which the old one names it.
    ///
    /// # Errors
    ///
    /// As [`checkpoint`](Self::checkpoint).
    pub async fn rotate_signer(&self) -> Result<String> {
        let note = self.audited.rotate_signer().await?;
        self.deployment.note(Action::RotateSigner, None, Verdict::Done).await?;
        Ok(note)
    }

    /// Removes a user's links before one, for good: see [`AuditedStore::prune`].
    ///
    /// # Errors
    ///
    /// `Invalid` without a signer or for a link past the end; `AuditUnavailable` if sinks do not take in time what goes; `NotFound`;
    /// `Tampered`; `Storage`.
    pub async fn prune(&self, user: &UserId, before: u64) -> Result<Pruned> {
        let tag = self.deployment.tag_of_a_user(user)?;
        self.deployment.enter_known(tag).await?;
        let pruned = self.audited.prune(tag, before).await?;
        self.deployment.note(Action::PruneAudit, Some(tag.to_string().into()), Verdict::Done).await?;
        Ok(pruned)
    }

    /// Removes links of the deployment's own trail before one, for good: see [`AuditedStore::prune_deployment`].
    ///
    /// # Errors
    ///
    /// As [`prune`](Self::prune).
    pub async fn prune_deployment(&self, before: u64) -> Result<Pruned> {
        let pruned = self.audited.prune_deployment(before).await?;
        self.deployment.note(Action::PruneAudit, None, Verdict::Done).await?;
        Ok(pruned)
    }

    /// How much of its limit a user's trail has. Of a user who has not written it has nothing.
    ///
    /// # Errors
    ///
    /// `NotFound`, `Erased`; `Storage`.
    pub async fn size(&self, user: &UserId) -> Result<Option<TrailSize>> {
        let tag = self.deployment.tag_of_a_user(user)?;
        self.deployment.enter_known(tag).await?;
        match self.audited.trail_size(tag).await {
            Err(error) if error.kind() == StoreErrorKind::NotFound => Ok(None),
            size => Ok(Some(size?)),
        }
    }

    /// How far those who take entries are behind.
    #[must_use]
    pub fn backlog(&self) -> Backlog {
        self.audited.backlog()
    }

    /// How many leaves the log had when it was opened, and how many of them were read; `None` if it is not open. All are read where its index
    /// was not kept, or does not count: docs/audit-v1.md.
    #[must_use]
    pub fn opened(&self) -> Option<Opened> {
        self.audited.opened()
    }

    fn whose(&self, scope: &AuditScope) -> Whose {
        match scope {
            AuditScope::User(user) => Whose::Users(vec![self.deployment.tag(user)]),
            AuditScope::Deployment => Whose::Deployment,
            AuditScope::All => Whose::All,
        }
    }

    async fn told(&self, action: Action, scope: &AuditScope) -> Result<()> {
        let target = match scope {
            AuditScope::User(user) => Some(self.deployment.tag(user).to_string().into()),
            _ => None,
        };
        self.deployment.note(action, target, Verdict::Done).await
    }
}

impl std::fmt::Debug for AuditTrail<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AuditTrail")
    }
}

/// Whether a user's data is not there any more, or not in the life that was asked for.
const fn is_gone(kind: StoreErrorKind) -> bool {
    matches!(kind, StoreErrorKind::NotFound | StoreErrorKind::Erased | StoreErrorKind::Gone)
}

/// Gives a verifier each line that is written.
struct Feed {
    verifier: Verifier,
    line: Vec<u8>,
}

impl Write for Feed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, after) = rest.split_at(end);
            self.line.extend_from_slice(line);
            self.verifier.line(&self.line);
            self.line.clear();
            rest = after.split_first().map_or(&[], |(_, rest)| rest);
        }
        self.line.extend_from_slice(rest);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

const fn changed_details() -> StoreError {
    StoreError::new(StoreErrorKind::Tampered, "the details of an audit link are not those that it names")
}

const fn sealed_details() -> StoreError {
    StoreError::new(StoreErrorKind::KeyRefused, "the trail's details are sealed, open the data with its key")
}
