//! What the deployment's own trail is told of: sessions that were refused, what an operator did, and the runs of processes.

use std::sync::Arc;

#[cfg(feature = "audit")]
use syntha_audit::Refusals;
use syntha_store::{Action, Event, Rule, UserId, Verdict};

use crate::deployment::Deployment;
use crate::error::{Error, ErrorKind, Result};

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

    /// Tells the trail of what only looks at the deployment, within ten seconds and with all that came meanwhile.
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

    #[cfg(feature = "audit")]
    pub(crate) fn later(self: &Arc<Self>, event: Event) {
        if self.refusals.take(event)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(intervals(Arc::downgrade(self)));
        }
    }

    #[cfg(not(feature = "audit"))]
    #[allow(
        clippy::unused_self,
        clippy::needless_pass_by_value,
        reason = "without the layer nothing is told"
    )]
    pub(crate) fn later(self: &Arc<Self>, _: Event) {}

    /// Writes down the refusals that wait.
    #[cfg(feature = "audit")]
    pub(crate) async fn tell_refusals(&self) -> Result<()> {
        let events = self.refusals.drain();
        let told = self.directory.note(events.clone(), self.now()).await;
        if told.is_err() {
            self.refusals.give_back(events);
        }
        told
    }
}

/// Sees to the intervals of refusals until one ends with none: what came first is written soon, the rest at the end.
#[cfg(feature = "audit")]
async fn intervals(deployment: std::sync::Weak<Deployment>) {
    loop {
        for pause in [Refusals::SOON, Refusals::INTERVAL.saturating_sub(Refusals::SOON)] {
            tokio::time::sleep(pause).await;
            loop {
                let Some(deployment) = deployment.upgrade() else { return };
                if deployment.tell_refusals().await.is_ok() {
                    break;
                }
                drop(deployment);
                tokio::time::sleep(Refusals::SOON).await;
            }
        }
        if !deployment.upgrade().is_some_and(|deployment| deployment.refusals.end()) {
            return;
        }
    }
}
