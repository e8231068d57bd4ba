//! Watches: a reader that knows nothing but what it was given.

mod ends;
mod gives;
mod hides;

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::pin;
use std::time::Duration;

use syntha_mesh::{Agent, Error, ErrorKind, Filter, Mesh, Watch, WatchConfig, WatchEvent};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::kind;
use crate::harness::Check;

pub(super) fn watch_checks() -> Vec<Check> {
    [gives::CHECKS, hides::CHECKS, ends::CHECKS].concat()
}

const PATIENCE: Duration = Duration::from_secs(4);

/// What a reader knows, from nothing but what it was given.
#[derive(Default)]
struct View {
    known: BTreeMap<String, String>,
    /// Every value that was given, with its version.
    values: Vec<(u64, String)>,
    lagged: u64,
}

impl View {
    /// The event as text, and what it changes.
    fn take(&mut self, event: &WatchEvent) -> String {
        let entries = match event {
            WatchEvent::Snapshot(entries) => entries.as_slice(),
            WatchEvent::Put(entry) => std::slice::from_ref(entry),
            WatchEvent::Removed(key) => {
                assert!(self.known.remove(&**key).is_some(), "it was told of a key that it was never given");
                return format!("-{key}");
            }
            WatchEvent::Lagged { missed } => {
                assert!(*missed > 0);
                self.lagged += missed;
                return "lagged".to_owned();
            }
            _ => panic!("an event of a new kind"),
        };
        let mut text = Vec::new();
        for entry in entries {
            self.known.insert(entry.key().to_owned(), entry.json().to_owned());
            self.values.push((entry.version().0, entry.json().to_owned()));
            text.push(format!("{}={}", entry.key(), entry.json()));
        }
        text.join(" ")
    }

    /// Takes everything up to a change that is made for it now.
    async fn drain(&mut self, mesh: &Mesh, watch: &mut Watch) -> Vec<String> {
        let version = mesh.push("~end", 0).await.unwrap().version;
        let mut texts = Vec::new();
        loop {
            let event = next(watch).await.unwrap();
            let ends = matches!(&event, WatchEvent::Put(entry) if entry.version() == version);
            let text = self.take(&event);
            if ends {
                return texts;
            }
            if !text.contains("~end") {
                texts.push(text);
            }
        }
    }

    /// What the reader knows is what the agent would read.
    async fn assert_equals(&self, agent: &Agent) {
        let all = agent.all(&Filter::new()).await.unwrap();
        let all: BTreeMap<_, _> =
            all.iter().map(|entry| (entry.key().to_owned(), entry.json().to_owned())).collect();
        assert_eq!(self.known, all);
    }

    fn assert_in_order(&self) {
        assert!(self.values.is_sorted_by_key(|(version, _)| *version), "not in the order of the commits");
    }
}

async fn next(watch: &mut Watch) -> Result<WatchEvent, Error> {
    let next = tokio::time::timeout(PATIENCE, watch.next()).await;
    next.expect("nothing came").expect("the watch ended")
}

/// A watch whose snapshot was read.
async fn begun(agent: &Agent, config: WatchConfig) -> (Watch, View) {
    let (mut watch, mut view) = (agent.watch(config).await.unwrap(), View::default());
    view.take(&next(&mut watch).await.unwrap());
    (watch, view)
}

/// Reads on in a task, which waits when this returns.
async fn waiting(mut watch: Watch) -> JoinHandle<(Watch, Option<Result<WatchEvent, Error>>)> {
    let (sender, waits) = oneshot::channel();
    let mut sender = Some(sender);
    let task = tokio::spawn(async move {
        let event = {
            let mut next = pin!(watch.next());
            let poll = poll_fn(|cx| {
                let poll = next.as_mut().poll(cx);
                if poll.is_pending()
                    && let Some(sender) = sender.take()
                {
                    let _ = sender.send(());
                }
                poll
            });
            poll.await
        };
        (watch, event)
    });
    tokio::time::timeout(PATIENCE, waits).await.unwrap().expect("it did not wait");
    task
}

/// A watch that waits ends with an error of this kind, once.
async fn assert_ends(task: JoinHandle<(Watch, Option<Result<WatchEvent, Error>>)>, why: ErrorKind) {
    let (mut watch, event) = tokio::time::timeout(PATIENCE, task).await.expect("it sleeps on").unwrap();
    assert_eq!(kind(event.expect("it ended without an error")), why);
    assert!(watch.next().await.is_none() && watch.next().await.is_none());
}
