use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use syntha_store::Rule;

use crate::error::{Error, ErrorKind, Result};
use crate::narrow::{Narrow, Narrowed};
use crate::roster::{AgentState, Roster};

/// Which life of its name an agent's handle speaks for: the first one that it met. Once the name is unregistered, the handle
/// is nobody: it neither comes back without its limits nor reads the mail of the name's next bearer.
///
/// Whatever is made from the handle carries it, and so it also holds what the handle was narrowed to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Life {
    bound: Arc<AtomicU64>,
    pub(crate) narrowed: Option<Arc<Narrowed>>,
}

impl Life {
    /// The handle's life, bound now if the name is registered.
    pub(crate) fn bind(&self, name: &str, roster: &Roster) -> Result<()> {
        self.bearer(name, roster).map(drop)
    }

    /// As [`bind`](Self::bind); gives the agent's record, if there is one.
    pub(crate) fn bearer<'a>(&self, name: &str, roster: &'a Roster) -> Result<Option<&'a AgentState>> {
        let state = roster.get(name).map(|state| &**state);
        self.check(state)?;
        Ok(state)
    }

    /// The same life, with less in it.
    pub(crate) fn narrow(&self, to: Narrow) -> Result<Self> {
        let narrowed = Narrowed::new(to, self.narrowed.clone())?;
        Ok(Self { bound: Arc::clone(&self.bound), narrowed: Some(narrowed) })
    }

    /// Whether the handle may write for an agent in this state. Binds nothing: what is being drafted may never be committed.
    pub(crate) fn allows(&self, state: Option<&AgentState>) -> Result<()> {
        let bound = self.bound.load(Ordering::Acquire);
        if bound == 0 || state.is_some_and(|state| state.incarnation == bound) {
            Ok(())
        } else {
            Err(unregistered())
        }
    }

    fn check(&self, state: Option<&AgentState>) -> Result<()> {
        let bound = self.bound.load(Ordering::Acquire);
        match state {
            None if bound == 0 => Ok(()),
            Some(state) if bound == state.incarnation => Ok(()),
            // Two calls that race bind to the life that the first of them met.
            Some(state) if bound == 0 => {
                match self.bound.compare_exchange(0, state.incarnation, Ordering::AcqRel, Ordering::Acquire) {
                    Err(other) if other != state.incarnation => Err(unregistered()),
                    _ => Ok(()),
                }
            }
            _ => Err(unregistered()),
        }
    }
}

const fn unregistered() -> Error {
    Error::new(ErrorKind::Gone, "the agent was unregistered, ask the host for a new handle").by(Rule::Agent)
}
