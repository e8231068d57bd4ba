//! What agents may do, kept over a restore: an archive does not loosen what was tightened since.

use std::fmt;
use std::sync::Arc;

use syntha_store::{Keyspace, Record, RecordId, Result, Scan, StoredRecord, UserStore};

use crate::limits;
use crate::roster::{AgentState, Roster};
use crate::standing::Standing;

const PAGE: usize = 1_000;

/// What each agent of a user may do at a moment.
pub struct Permissions(Roster);

impl Permissions {
    /// Reads those of a user.
    ///
    /// # Errors
    ///
    /// The store's; `Corrupt` for an agent's record that is not as it was written.
    pub async fn read(store: &dyn UserStore) -> Result<Self> {
        let (mut roster, mut from) = (Roster::default(), None::<RecordId>);
        loop {
            let scan = Scan::records(Keyspace::Agents, PAGE);
            let page = store.scan(match from.take() {
                Some(from) => scan.from(from),
                None => scan,
            });
            let page = page.await?.value;
            for (head, body) in &page.records {
                if let Ok(name) = std::str::from_utf8(head.id.name())
                    && name != limits::RECORD
                {
                    let state = AgentState::decode(body.as_deref().unwrap_or_default())?;
                    roster.insert(Arc::from(name), Box::new(state));
                }
            }
            from = page.next();
            if from.is_none() {
                return Ok(Self(roster));
            }
        }
    }

    /// Tightens an agent's record of an archive to what the agent of that name may do now. Other records stay as they are.
    ///
    /// # Errors
    ///
    /// `Corrupt` for a record that is not as it was written.
    pub fn restrict(&self, stored: StoredRecord) -> Result<StoredRecord> {
        let name = std::str::from_utf8(stored.record.head.id.name());
        let present = name.ok().and_then(|name| self.0.get(name));
        let (Keyspace::Agents, Some(present)) = (stored.space, present) else { return Ok(stored) };
        let mut state = AgentState::decode(&stored.record.body)?;
        let before = state.clone();
        state.post = stricter(state.post, present.post.as_ref());
        state.read = stricter(state.read, present.read.as_ref());
        if state.standing.is_some() || present.standing.is_some() {
            let archived = state.standing.take().map(|standing| *standing);
            state.set_standing(Standing::restricted(archived, present.standing.as_deref()));
        }
        if state == before {
            return Ok(stored);
        }
        let body = state.encode().map_err(|_| {
            syntha_store::Error::new(syntha_store::ErrorKind::Corrupt, "an agent's record can't be written")
        })?;
        Ok(StoredRecord { space: stored.space, record: Record::new(stored.record.head, body) })
    }
}

impl fmt::Debug for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permissions").field("agents", &self.0.len()).finish()
    }
}

/// The topics of both; `None` stands for all.
fn stricter(archived: Option<Vec<Arc<str>>>, present: Option<&Vec<Arc<str>>>) -> Option<Vec<Arc<str>>> {
    match (archived, present) {
        (archived, None) => archived,
        (None, Some(present)) => Some(present.clone()),
        (Some(mut archived), Some(present)) => {
            archived.retain(|topic| present.contains(topic));
            Some(archived)
        }
    }
}
