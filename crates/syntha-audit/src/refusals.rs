use std::time::Duration;

use parking_lot::Mutex;
use syntha_store::Event;

/// What a deployment's trail is told before anybody has shown who they are, such as sessions that were refused.
///
/// Whoever can ask can make a new name up each time, so names alone would let the deployment's chain grow without a bound. Of an
/// [interval](Self::INTERVAL) the first [`NAMED`](Self::NAMED) entries tell the name; what comes beyond is counted by action, outcome and
/// rule. Nothing is left out of the counts, and a name that is there costs what any other does.
///
/// It only counts: whoever holds it [writes](Self::drain) what waits, after [`SOON`](Self::SOON) and at an interval's [end](Self::end), so
/// two links an interval are what such calls add to the chain.
#[derive(Debug, Default)]
pub struct Refusals {
    waiting: Mutex<Waiting>,
    #[cfg(feature = "faults")]
    fault: Option<crate::Fault>,
}

#[derive(Debug, Default)]
struct Waiting {
    events: Vec<Event>,
    /// How many entries of this interval have a name.
    named: usize,
    /// An interval has begun, and somebody sees to its end.
    running: bool,
}

impl Refusals {
    /// How long an interval is: a crash loses at most what came in one.
    pub const INTERVAL: Duration = Duration::from_secs(10);
    /// After how much of an interval its first entries are written.
    pub const SOON: Duration = Duration::from_secs(1);
    /// How many entries of an interval tell a name.
    pub const NAMED: usize = 16;

    /// With nothing in it.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Plants a fault.
    #[cfg(feature = "faults")]
    #[must_use]
    pub const fn fault(mut self, fault: crate::Fault) -> Self {
        self.fault = Some(fault);
        self
    }

    /// Takes an event. Says whether an interval begins with it, and the caller has to see to its end.
    #[must_use = "somebody has to see to the interval's end"]
    pub fn take(&self, event: Event) -> bool {
        let mut waiting = self.waiting.lock();
        waiting.add(event, self.names_all());
        !std::mem::replace(&mut waiting.running, true)
    }

    /// What waits, to be written.
    #[must_use]
    pub fn drain(&self) -> Vec<Event> {
        std::mem::take(&mut self.waiting.lock().events)
    }

    /// What could not be written waits again.
    pub fn give_back(&self, events: Vec<Event>) {
        let mut waiting = self.waiting.lock();
        for event in events {
            if !waiting.count(&event) {
                waiting.events.push(event);
            }
        }
    }

    /// Ends an interval. If something waits, another one begins, which is to be ended too.
    #[must_use = "another interval may have begun"]
    pub fn end(&self) -> bool {
        let mut waiting = self.waiting.lock();
        waiting.named = waiting.events.iter().filter(|event| event.target.is_some()).count();
        waiting.running = !waiting.events.is_empty();
        waiting.running
    }

    fn names_all(&self) -> bool {
        #[cfg(feature = "faults")]
        return self.fault == Some(crate::Fault::RefusalsNamed);
        #[cfg(not(feature = "faults"))]
        false
    }
}

impl Waiting {
    fn add(&mut self, mut event: Event, names_all: bool) {
        if self.count(&event) {
            return;
        }
        if self.named >= Refusals::NAMED && !names_all {
            event.target = None;
            if self.count(&event) {
                return;
            }
        }
        self.named += usize::from(event.target.is_some());
        self.events.push(event);
    }

    /// Counts an event with the one like it, if there is one.
    fn count(&mut self, event: &Event) -> bool {
        let known = self.events.iter_mut().find(|known| known.is_like(event));
        known.map(|known| known.count = known.count.saturating_add(event.count)).is_some()
    }
}

#[cfg(test)]
mod tests {
    use syntha_store::{Action, Rule, Timestamp, Verdict};

    use super::*;

    fn refused(user: u64, rule: Option<Rule>) -> Event {
        let event = Event::new(Timestamp(user), Action::OpenSession).on(user.to_string().into());
        event.ended(Verdict::Denied, rule)
    }

    fn counted(events: &[Event]) -> u64 {
        events.iter().map(|event| event.count).sum()
    }

    #[test]
    fn refusals_are_counted_and_bounded() {
        let refusals = Refusals::new();
        assert!(refusals.take(refused(0, None)));
        assert!(!refusals.take(refused(0, None)));
        for user in 1..20_000 {
            let _ = refusals.take(refused(user, (user % 2 == 0).then_some(Rule::Key)));
        }
        let first = refusals.drain();
        assert_eq!(first.len(), Refusals::NAMED + 2);
        assert_eq!(counted(&first), 20_001);
        let summary: Vec<_> = first.iter().filter(|event| event.target.is_none()).collect();
        assert_eq!(summary.iter().map(|event| event.rule).collect::<Vec<_>>(), [Some(Rule::Key), None]);
        // The interval's names are used up, also of those that were told.
        let _ = refusals.take(refused(0, None));
        let rest = refusals.drain();
        assert_eq!((rest.len(), rest[0].target.is_none()), (1, true));
        assert!(!refusals.end(), "nothing waits");
        assert!(refusals.take(refused(0, None)), "another one begins");
        assert!(refusals.drain()[0].target.is_some());
    }

    #[test]
    fn what_could_not_be_written_waits_and_is_counted_on() {
        let refusals = Refusals::new();
        for user in 0..100 {
            let _ = refusals.take(refused(user, None));
        }
        for _ in 0..5 {
            let events = refusals.drain();
            for user in 0..100 {
                let _ = refusals.take(refused(user, None));
            }
            refusals.give_back(events);
            assert!(refusals.end(), "it waits, so there is another interval");
        }
        let all = refusals.drain();
        assert_eq!((all.len(), counted(&all)), (Refusals::NAMED + 1, 600));
    }
}
