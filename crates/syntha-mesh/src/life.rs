use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use syntha_store::Rule;

use crate::error::{Error, ErrorKind, Result};
use crate::roster::{AgentState, Roster};

/// Which life of its name an agent's handle speaks for: the first one that it met. Once the name is unregistered, the handle
/// is nobody: it neither comes back without its limits nor reads the mail of the name's next bearer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Life(Arc<AtomicU64>);

impl Life {
    /// The handle's life, bound now if the name is registered.
    pub(crate) fn bind(&self, name: &str, roster: &Roster) -> Result<()> {
        self.check(roster.get(name).map(|state| &**state))
    }

    /// Whether the handle may write for an agent in this state. Binds nothing: what is being drafted may never be committed.
    pub(crate) fn allows(&self, state: Option<&AgentState>) -> Result<()> {
        let bound = self.0.load(Ordering::Acquire);
        if bound == 0 || state.is_some_and(|state| state.incarnation == bound) {
            Ok(())
        } else {
            Err(unregistered())
        }
    }

    fn check(&self, state: Option<&AgentState>) -> Result<()> {
        let bound = self.0.load(Ordering::Acquire);
        match state {
            None if bound == 0 => Ok(()),
            Some(state) if bound == state.incarnation => Ok(()),
            // Two calls that race bind to the life that the first of them met.
            Some(state) if bound == 0 => {
                match self.0.compare_exchange(0, state.incarnation, Ordering::AcqRel, Ordering::Acquire) {
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
