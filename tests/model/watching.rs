//! A watch, and what it was told so far.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::FutureExt as _;
use syntha::{Entry, Mesh, MeshError, MeshErrorKind as Kind, Watch, WatchEvent};

use crate::op::{KEYS, TOPICS};
use crate::reference::{Name, Reference};
use crate::world::{Found, same};

pub struct Watching {
    pub watch: Watch,
    /// The handle that it was made from.
    pub mesh: Mesh,
    /// `None` for the host.
    pub agent: Option<Name>,
    /// The life of the agent's name that it is for, once it has met one.
    pub life: Option<u64>,
    pub prefix: bool,
    pub topic: Option<usize>,
    /// It is not read after every operation.
    pub lazy: bool,
    begun: bool,
    /// What the reader knows: versions and values.
    view: BTreeMap<String, (u64, String)>,
}

type Given = Option<Result<WatchEvent, MeshError>>;

impl Watching {
    pub fn new(watch: Watch, mesh: Mesh, agent: Option<Name>, lazy: bool) -> Self {
        let (prefix, topic, life, begun, view) = (false, None, None, false, BTreeMap::new());
        Self { watch, mesh, agent, life, prefix, topic, lazy, begun, view }
    }

    /// What the model says the reader sees.
    fn expected(&self, model: &Reference, now: u64) -> BTreeMap<String, (u64, String)> {
        let on = self.topic.map(|topic| TOPICS[topic]);
        KEYS.into_iter()
            .filter(|key| !self.prefix || key.starts_with("shared/"))
            .filter_map(|key| Some((key, model.seen(self.agent, key, now)?)))
            .filter(|(_, thing)| on.is_none_or(|on| thing.topics.contains(&on)))
            .map(|(key, thing)| (key.to_owned(), (thing.version, thing.value.clone())))
            .collect()
    }

    /// Takes all that waits, and compares what it adds up to. Says whether the watch goes on.
    ///
    /// `idle`: the runtime's clock stands still while anything is done, so a time-out means that nothing is left.
    pub async fn drain(&mut self, model: &Reference, now: u64, idle: bool) -> Found<bool> {
        let bearer = self.agent.and_then(|agent| model.life(agent));
        if self.life.is_some() && self.life != bearer {
            self.ends().await?;
            return Ok(false);
        }
        self.life = bearer;
        // So that it need not wait for the task that looks for the other handle's commits.
        self.mesh.usage().await.map_err(|error| format!("no usage: {error:?}"))?;
        let expected = self.expected(model, now);
        while idle || !self.begun || self.view != expected {
            match tokio::time::timeout(Duration::from_secs(20), self.watch.next()).await {
                Ok(given) => self.take(given, &expected)?,
                Err(_) => break,
            }
        }
        while let Some(given) = self.watch.next().now_or_never() {
            self.take(given, &expected)?;
        }
        same("the watch's events so far", &self.view, &expected)?;
        Ok(true)
    }

    fn take(&mut self, given: Given, expected: &BTreeMap<String, (u64, String)>) -> Found {
        match given {
            Some(Ok(WatchEvent::Snapshot(entries))) if !self.begun => {
                self.begun = true;
                entries.iter().try_for_each(|entry| self.put(entry, expected))
            }
            Some(Ok(WatchEvent::Put(entry))) if self.begun => self.put(&entry, expected),
            Some(Ok(WatchEvent::Removed(key))) if self.begun => match self.view.remove(&*key) {
                Some(_) => Ok(()),
                None => Err("the watch took back what it had not given".to_owned()),
            },
            Some(Ok(WatchEvent::Lagged { missed })) if self.begun && missed > 0 => Ok(()),
            other => Err(format!("the watch gave {other:?} out of turn")),
        }
    }

    /// What is given is for the reader at this moment, and no newer than what is there.
    fn put(&mut self, entry: &Entry, expected: &BTreeMap<String, (u64, String)>) -> Found {
        let Some((version, value)) = expected.get(entry.key()) else {
            return Err("the watch gave an entry that is not for its reader".to_owned());
        };
        let given = entry.version().0;
        let right = if given == *version { entry.json() == value } else { self.lazy && given < *version };
        let newer = self.view.get(entry.key()).is_none_or(|(old, _)| *old < given);
        if !right || !newer {
            return Err(format!(
                "the watch gave {} in version {given}, the model has {version}",
                entry.json()
            ));
        }
        self.view.insert(entry.key().to_owned(), (given, entry.json().to_owned()));
        Ok(())
    }

    /// Whatever waited is not given any more: its user's or its agent's life is over.
    pub async fn ends(&mut self) -> Found {
        // Where handles share a user, this one may have to be told.
        let _ = self.mesh.usage().await;
        match tokio::time::timeout(Duration::from_secs(20), self.watch.next()).await {
            Ok(Some(Err(error))) if error.kind() == Kind::Gone => Ok(()),
            other => Err(format!("the watch of a life that is over gave {other:?}")),
        }
    }
}
