//! What the host gives a user to use, and what is used of it.

use std::sync::Arc;

use syntha_store::{
    Action, Error as StoreError, Keyspace, Record, RecordId, Rule, StoredRecord, Usage, UserStore, Version,
};

use crate::bounds::Seat;
use crate::change::Change;
use crate::decision::Act;
use crate::error::{Error, ErrorKind, Result};
use crate::limit_draft::Counted;
use crate::limits::{Effective, Limit, LimitUsage, RECORD, UsageReport, UserLimits};
use crate::mesh::Mesh;

impl Mesh {
    /// Sets what the user may use, in the place of what was set before; nothing said is the deployment's. Where more is used than may be,
    /// it stays, and nothing is added. It holds from the next commit of any handle, in other processes too. Only a handle that no session
    /// was given can do it. Says whether something changed.
    ///
    /// # Errors
    ///
    /// As every write; `Denied` for a handle of a session.
    pub async fn set_limits(&self, limits: UserLimits) -> Result<bool> {
        let limits = (limits != UserLimits::new()).then(|| Arc::new(limits));
        let change = Change::Limits(limits);
        if !self.is_owner() {
            let error =
                Error::new(ErrorKind::Denied, "a session does not change its user's limits, ask the host");
            return Err(self.refused(&change, error.by(Rule::Host)).await);
        }
        self.flag(change).await
    }

    /// What the user uses and may use. It does not count as a call of [`Limit::Operations`].
    ///
    /// # Errors
    ///
    /// `Gone`, `SessionEnded`, `Storage`.
    pub async fn usage_report(&self) -> Result<UsageReport> {
        let reading = self.reading(None, Action::List);
        reading.admit(self.fresh_uncounted(Act::Read).await).await?;
        let report = self.report();
        reading.saw(1, 0).await?;
        Ok(report)
    }

    fn report(&self) -> UsageReport {
        let index = self.core.index.read();
        let usage = index.usage;
        let counted = Counted {
            contexts: usage.contexts,
            agents: usage.agents,
            topics: index.topics.count(),
            context_bytes: usage.context_bytes,
            history_bytes: usage.history_bytes,
        };
        let (under_way, sessions) = self.core.bounds.used();
        let effective = Effective::of(&self.core.config, index.limits.as_deref());
        let of = |limit| LimitUsage {
            limit,
            used: match limit {
                Limit::InFlight => Some(under_way),
                Limit::Sessions => Some(sessions),
                limit => counted.of(limit),
            },
            most: effective.most(limit),
        };
        UsageReport {
            given: index.limits.as_deref().cloned().unwrap_or_default(),
            plan_is_known: !effective.unknown_plan,
            limits: Limit::ALL.map(of).to_vec(),
        }
    }

    /// Takes a place for a session that is being opened, for the [guard](crate::Guard::seated) of its handles.
    ///
    /// # Errors
    ///
    /// `LimitExceeded` if as many are open in this process as the user may have.
    pub fn seat(&self) -> Result<Seat> {
        self.core.bounds.sit()
    }
}

/// What a user was given to use, kept over a restore: an archive gives nobody more, and takes nothing away.
#[derive(Debug)]
pub struct KeptLimits(Option<Record>);

impl KeptLimits {
    /// None.
    #[must_use]
    pub const fn none() -> Self {
        Self(None)
    }

    /// Reads those of a user.
    ///
    /// # Errors
    ///
    /// The store's; `Corrupt` for limits that are not as they were written.
    pub async fn read(store: &dyn UserStore) -> Result<Self, StoreError> {
        let read = store.read(Keyspace::Agents, &[RecordId::new(RECORD.as_bytes(), 0)?]).await?;
        let record = read.value.into_iter().next().flatten();
        if let Some(record) = &record {
            UserLimits::decode(&record.body)?;
        }
        Ok(Self(record))
    }

    /// Whether a record of an archive holds what a user was given to use.
    #[must_use]
    pub fn is_one(stored: &StoredRecord) -> bool {
        stored.space == Keyspace::Agents && stored.record.head.id.name() == RECORD.as_bytes()
    }

    /// Takes the record out, for an archive whose last commit had this version.
    #[must_use]
    pub fn take(&mut self, version: Version) -> Option<StoredRecord> {
        self.0.take().map(|mut record| {
            (record.head.version, record.head.body_version) = (version, version);
            StoredRecord { space: Keyspace::Agents, record }
        })
    }
}

/// What the records of an archive add up to, at least: its entries, agents and history, without what is kept for an undo.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally(Usage);

impl Tally {
    /// Counts a record.
    pub fn add(&mut self, stored: &StoredRecord) {
        let Self(usage) = self;
        let (name, body) = (stored.record.head.id.name().len() as u64, stored.record.body.len() as u64);
        match stored.space {
            Keyspace::Context => {
                usage.contexts += 1;
                usage.context_bytes += name + body;
            }
            Keyspace::Agents if !KeptLimits::is_one(stored) => usage.agents += 1,
            Keyspace::Threads => usage.history_bytes += name,
            Keyspace::History => usage.history_bytes += body,
            _ => {}
        }
    }

    /// Whether that is no more than an archive says of itself. One that says less would give its user more than the limits allow.
    #[must_use]
    pub const fn is_within(&self, said: &Usage) -> bool {
        let Self(usage) = self;
        usage.contexts <= said.contexts
            && usage.agents <= said.agents
            && usage.context_bytes <= said.context_bytes
            && usage.history_bytes <= said.history_bytes
    }
}
