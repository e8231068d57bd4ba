//! A sink that fails, blocks and loses answers, and keeps what it took.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use syntha_audit::{AuditSink, Behaviour, Delivery, SinkError};

type Taken = HashMap<[u8; 32], BTreeMap<u64, Bytes>>;

#[derive(Debug)]
pub(crate) struct Outside {
    name: &'static str,
    state: Mutex<(Behaviour, Taken, u64)>,
}

impl Outside {
    pub(crate) fn new(name: &'static str) -> Arc<Self> {
        Arc::new(Self { name, state: Mutex::default() })
    }

    pub(crate) fn behave(&self, behaviour: Behaviour) {
        self.state.lock().0 = behaviour;
    }

    /// How many links of these owners it has.
    pub(crate) fn links(&self) -> u64 {
        self.state.lock().1.values().map(|links| links.len() as u64).sum()
    }

    /// How often a link came again.
    pub(crate) fn again(&self) -> u64 {
        self.state.lock().2
    }

    /// Takes a link away, as a sink does that lost it.
    pub(crate) fn lose(&self, owner: &[u8; 32], seq: u64) -> bool {
        self.state.lock().1.get_mut(owner).is_some_and(|links| links.remove(&seq).is_some())
    }

    pub(crate) fn text(&self, owner: &[u8; 32], seq: u64) -> Option<Bytes> {
        self.state.lock().1.get(owner)?.get(&seq).cloned()
    }
}

#[async_trait]
impl AuditSink for Outside {
    fn name(&self) -> &str {
        self.name
    }

    async fn deliver(&self, entries: &[Delivery]) -> Result<(), SinkError> {
        let behaviour = self.state.lock().0;
        match behaviour {
            Behaviour::Fail => return Err(SinkError::new("the sink was told to fail")),
            Behaviour::Block => std::future::pending().await,
            Behaviour::Take | Behaviour::TakeAndFail => {}
        }
        let mut state = self.state.lock();
        for entry in entries {
            if let Delivery::Link { owner, seq, text, .. } = entry {
                let again = state.1.entry(*owner).or_default().insert(*seq, text.clone()).is_some();
                state.2 += u64::from(again);
            }
        }
        if behaviour == Behaviour::Take { Ok(()) } else { Err(SinkError::new("the answer was lost")) }
    }
}
