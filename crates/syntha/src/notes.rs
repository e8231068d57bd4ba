//! What the deployment's own trail is told of: sessions that were refused, what an operator did, and the runs of processes.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use syntha_store::{Action, Event, Rule, UserId, Verdict};

use crate::deployment::Deployment;
use crate::error::{Error, ErrorKind, Result};

/// How long a refusal waits at most until it is written down, with all that came meanwhile.
const DELAY: Duration = Duration::from_secs(1);
/// How many different refusals wait. Of more it is only said how many.
const DIFFERENT: usize = 1_000;

/// Refusals that wait. A crash loses those of the last second.
#[derive(Default)]
pub(crate) struct Refusals {
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    events: Vec<Event>,
    due: bool,
}

impl Refusals {
    /// Takes one. Says whether somebody has to see to it.
    fn take(&self, event: Event) -> bool {
        let mut waiting = self.waiting.lock();
        let mut event = event;
        if waiting.events.len() >= DIFFERENT && !waiting.events.iter().any(|known| known.is_like(&event)) {
            event.target = None;
        }
        match waiting.events.iter_mut().find(|known| known.is_like(&event)) {
            Some(known) => known.count = known.count.saturating_add(event.count),
            None => waiting.events.push(event),
        }
        !std::mem::replace(&mut waiting.due, true)
    }

    fn drain(&self) -> Vec<Event> {
        let mut waiting = self.waiting.lock();
        waiting.due = false;
        std::mem::take(&mut waiting.events)
    }
}

impl Deployment {
    /// Whether what this process does is written into a trail.
    pub(crate) const fn tells(&self) -> bool {
        self.audited
    }

    /// Tells the deployment's trail of something that changes none of its records, and waits until it is written.
    pub(crate) async fn note(
        &self,
        action: Action,
        target: Option<Arc<str>>,
        verdict: Verdict,
    ) -> Result<()> {
        if !self.tells() {
            return Ok(());
        }
        let at = self.now();
        let event = Event::new(at, action).ended(verdict, None);
        let event = match target {
            Some(target) => event.on(target),
            None => event,
        };
        self.directory.note(vec![event], at).await
    }

    /// Says that a process died: of each user it may have taken so many different events with it that no commit had yet.
    #[cfg(feature = "audit")]
    pub(crate) async fn note_gap(&self) -> Result<()> {
        let at = self.now();
        let event =
            Event::new(at, Action::Gap).ended(Verdict::Failed, None).count(syntha_mesh::AUDIT_WAITING_MOST);
        self.directory.note(vec![event], at).await
    }

    /// Does what is done outside the trail's own data (a key service, a file): the trail is told before that it begins, and how it ended.
    #[cfg(feature = "encryption")]
    pub(crate) async fn told<T>(
        &self,
        action: Action,
        target: Option<Arc<str>>,
        work: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        self.note(action, target.clone(), Verdict::Begun).await?;
        let done = work.await;
        let verdict = if done.is_ok() { Verdict::Done } else { Verdict::Failed };
        self.note(action, target, verdict).await?;
        done
    }

    /// Tells the trail of what only looks at the deployment, within a second and with all that came meanwhile.
    pub(crate) fn looked(self: &Arc<Self>, action: Action) {
        if self.tells() {
            self.later(Event::new(self.now(), action));
        }
    }

    /// Takes down that a session was refused.
    ///
    /// INVARIANT: nobody has shown who they are yet. So it costs the same for users who are there and for others, and goes into no
    /// user's trail.
    pub(crate) fn refused(self: &Arc<Self>, user: &UserId, error: &Error) {
        if !self.tells() {
            return;
        }
        let (verdict, rule) = match error.kind() {
            ErrorKind::NotFound => (Verdict::Denied, None),
            ErrorKind::Erased => (Verdict::Denied, Some(Rule::Erased)),
            ErrorKind::KeyUnavailable => (Verdict::Denied, Some(Rule::Key)),
            ErrorKind::Denied => (Verdict::Denied, Some(Rule::Host)),
            _ => (Verdict::Failed, None),
        };
        self.later(Event::new(self.now(), Action::OpenSession).on(user.as_str().into()).ended(verdict, rule));
    }

    fn later(self: &Arc<Self>, event: Event) {
        if self.refusals.take(event)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let deployment = Arc::downgrade(self);
            runtime.spawn(async move {
                loop {
                    tokio::time::sleep(DELAY).await;
                    let Some(deployment) = deployment.upgrade() else { return };
                    if deployment.tell_refusals().await.is_ok() {
                        return;
                    }
                }
            });
        }
    }

    /// Writes down the refusals that wait.
    pub(crate) async fn tell_refusals(&self) -> Result<()> {
        let events = self.refusals.drain();
        let told = self.directory.note(events.clone(), self.now()).await;
        if told.is_err() {
            for event in events {
                self.refusals.take(event);
            }
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use syntha_store::Timestamp;

    use super::*;

    #[test]
    fn refusals_are_counted_and_bounded() {
        let refusals = Refusals::default();
        let event = |user: usize| Event::new(Timestamp(1), Action::OpenSession).on(user.to_string().into());
        assert!(refusals.take(event(0)));
        assert!(!refusals.take(event(0)));
        for user in 1..DIFFERENT + 10 {
            refusals.take(event(user));
        }
        let events = refusals.drain();
        assert_eq!(events.len(), DIFFERENT + 1);
        assert_eq!(events.iter().map(|event| event.count).sum::<u64>(), DIFFERENT as u64 + 11);
        assert_eq!(events.last().unwrap().target, None);
    }
}
