//! The load: users who work, their agents, and one who floods.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use syntha::{Agent, Filter, HostAuthority, UserManager};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::Result;
use crate::bench::figures::{Figures, Kind, Recorder};
use crate::bench::mix::Mix;

/// What is driven.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) users: usize,
    pub(crate) active: usize,
    pub(crate) agents: usize,
    pub(crate) time: Duration,
    pub(crate) mix: Mix,
    pub(crate) value_bytes: usize,
    pub(crate) keys: usize,
    /// How much later each agent's next call is due than its last; `None`: at once.
    pub(crate) pause: Option<Duration>,
    /// How many writes of one more user wait at all times in every second part of the time.
    pub(crate) flood: Option<usize>,
}

/// How many calls each of a user's agents makes before the next user takes the place.
const VISIT: usize = 50;
/// What a timer may be late by itself, which is not counted: tokio's has a resolution of a millisecond.
const TICK: Duration = Duration::from_millis(1);
/// In so many parts the time is cut where somebody floods.
const PARTS: u32 = 8;
/// How many pictures of the process are taken, at most.
const SAMPLES: u32 = 120;

/// A run that goes on.
pub(crate) struct Load {
    plan: Plan,
    users: UserManager,
    host: HostAuthority,
    recorder: Recorder,
    /// The next user to take a place.
    next: AtomicUsize,
    ended: AtomicBool,
    started: Instant,
}

impl Load {
    /// Drives the whole of it, and gives back what it was driven on.
    pub(crate) async fn drive(
        plan: Plan,
        users: UserManager,
        host: HostAuthority,
        say: impl Fn(String),
    ) -> Result<(UserManager, Figures)> {
        let recorder = Recorder::new(plan.active)?;
        let (next, ended) = (AtomicUsize::new(plan.active), AtomicBool::new(false));
        let started = Instant::now();
        let load = Arc::new(Self { plan, users, host, recorder, next, ended, started });
        let mut tasks = JoinSet::new();
        for place in 0..plan.active {
            tasks.spawn(Arc::clone(&load).work(place));
        }
        if let Some(writes) = plan.flood {
            tasks.spawn(Arc::clone(&load).flood(writes));
        }
        let every = (plan.time / SAMPLES).max(Duration::from_millis(50));
        let mut failed = Ok(());
        let mut due = started;
        while started.elapsed() < plan.time && failed.is_ok() {
            load.recorder.sample();
            say(format!("working, {} calls", load.recorder.calls()));
            due += every;
            tokio::select! {
                () = tokio::time::sleep_until(due.min(started + plan.time)) => {}
                // Nobody ends before its time, unless something went wrong.
                Some(one) = tasks.join_next() => failed = one.map_err(Into::into).and_then(|done| done),
            }
        }
        load.ended.store(true, Ordering::Relaxed);
        while let Some(one) = tasks.join_next().await {
            failed = failed.and(one.map_err(Into::into).and_then(|done| done));
        }
        load.recorder.sample();
        failed?;
        let load = Arc::into_inner(load).ok_or("a task of the load is still there")?;
        Ok((load.users, load.recorder.finish(plan.flood)))
    }

    fn is_over(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Whether somebody floods just now, and when that changes. The parts take turns, so that what changes with time (caches fill, keys come to
    /// be there) is the same in both.
    fn part(&self) -> (bool, Instant) {
        let part = self.plan.time / PARTS;
        let mut end = self.started + part;
        let (now, mut floods) = (Instant::now(), false);
        while end <= now {
            end += part;
            floods = !floods;
        }
        (floods && self.plan.flood.is_some(), end)
    }

    /// One place: a user after the other works there, or one the whole time if there is a place for everybody.
    async fn work(self: Arc<Self>, place: usize) -> Result<()> {
        let stays = self.plan.active == self.plan.users;
        let mut user = place;
        while !self.is_over() {
            let name = format!("user-{user}");
            let session = self.users.create_user_session(&self.host, name.as_str()).await?;
            let mut agents = JoinSet::new();
            for number in 0..self.plan.agents {
                let agent = session.agent(format!("agent-{number}"))?;
                let own = Own::new(&name, number, &self.plan);
                agents.spawn(Arc::clone(&self).agent(place, agent, own, (!stays).then_some(VISIT)));
            }
            while let Some(one) = agents.join_next().await {
                one?;
            }
            session.end();
            user = self.next.fetch_add(1, Ordering::Relaxed) % self.plan.users;
        }
        Ok(())
    }

    /// One agent: call after call, so many, or until the end.
    async fn agent(self: Arc<Self>, place: usize, agent: Agent, mut own: Own, calls: Option<usize>) {
        let mut random = fastrand::Rng::new();
        let mut done = 0;
        // Agents don't all begin at once.
        let mut due = self.plan.pause.map(|pause| Instant::now() + pause.mul_f64(random.f64()));
        while !self.is_over() && calls.is_none_or(|calls| done < calls) {
            // INVARIANT: a call that is due is timed from when it was due, not from when the last one let it begin: what waits counts.
            let begun = match (&mut due, self.plan.pause) {
                (Some(due), Some(pause)) => {
                    tokio::time::sleep_until(*due).await;
                    Instant::now().min(std::mem::replace(due, *due + pause) + TICK)
                }
                _ => Instant::now(),
            };
            let (half, kind) = (usize::from(self.part().0), self.plan.mix.draw(&mut random));
            let called = own.call(kind, &agent, &mut random).await;
            let took = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
            match called {
                Ok(is_own) => {
                    self.recorder.did(place, half, kind, took);
                    if !is_own {
                        self.recorder.foreign();
                    }
                }
                Err(error) => {
                    self.recorder.failed(&error);
                    tokio::task::yield_now().await;
                }
            }
            done += 1;
        }
    }

    /// The user who floods.
    async fn flood(self: Arc<Self>, writes: usize) -> Result<()> {
        let session = self.users.create_user_session(&self.host, "flood").await?;
        let mut tasks = JoinSet::new();
        for number in 0..writes {
            let agent = session.agent(format!("agent-{}", number % self.plan.agents))?;
            let (load, mut own) = (Arc::clone(&self), Own::new("flood", number, &self.plan));
            tasks.spawn(async move {
                let mut random = fastrand::Rng::new();
                while !load.is_over() {
                    let (floods, end) = load.part();
                    if !floods {
                        tokio::time::sleep_until(end).await;
                        continue;
                    }
                    match own.call(Kind::Push, &agent, &mut random).await {
                        Ok(_) => drop(load.recorder.flooded.fetch_add(1, Ordering::Relaxed)),
                        Err(_) => tokio::task::yield_now().await,
                    }
                }
            });
        }
        while let Some(one) = tasks.join_next().await {
            one?;
        }
        session.end();
        Ok(())
    }
}

/// What an agent writes and reads: keys of its own, and values that say whose they are.
struct Own {
    user: String,
    /// What is in every value of the user's, and in nobody else's.
    canary: String,
    number: usize,
    agents: usize,
    keys: usize,
    fill: String,
    written: u64,
}

impl Own {
    fn new(user: &str, number: usize, plan: &Plan) -> Self {
        let canary = format!("\"of\":\"{user}\"");
        // What the other members take.
        let rest = canary.len() + 35;
        let fill = "x".repeat(plan.value_bytes.saturating_sub(rest));
        let (agents, keys) = (plan.agents, plan.keys);
        Self { user: user.to_owned(), canary, number, agents, keys, fill, written: 0 }
    }

    /// One call; says whether all that was read is the user's own.
    async fn call(
        &mut self,
        kind: Kind,
        agent: &Agent,
        random: &mut fastrand::Rng,
    ) -> std::result::Result<bool, syntha::MeshError> {
        let own = format!("{}/{}", self.number, random.usize(..self.keys));
        match kind {
            Kind::Get => {
                let any = format!("{}/{}", random.usize(..self.agents), random.usize(..self.keys));
                let entry = agent.entry(any).await?;
                Ok(entry.is_none_or(|entry| entry.json().contains(&self.canary)))
            }
            Kind::Push => {
                self.written += 1;
                // Of one length, and another one each time.
                let number = format!("{:016}", self.written);
                agent.push(own, json!({ "of": self.user, "n": number, "fill": self.fill })).await?;
                Ok(true)
            }
            Kind::List => {
                let most = self.agents.saturating_mul(self.keys);
                Ok(agent.keys(&Filter::new()).await?.len() <= most)
            }
            Kind::Remove => agent.remove(own, None).await.map(|_| true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_value_of_somebody_else_is_noticed() {
        let plan = Plan {
            users: 2,
            active: 2,
            agents: 1,
            time: Duration::from_secs(1),
            mix: "get=1".parse().unwrap(),
            value_bytes: 300,
            keys: 1,
            pause: None,
            flood: None,
        };
        let (users, host) = UserManager::builder().memory().open().await.unwrap();
        let session = users.create_user_session(&host, "user-1").await.unwrap();
        let agent = session.agent("agent-0").unwrap();
        let mut random = fastrand::Rng::with_seed(1);
        let mut own = Own::new("user-1", 0, &plan);
        assert!(own.call(Kind::Get, &agent, &mut random).await.unwrap(), "nothing is nobody's");
        assert!(own.call(Kind::Push, &agent, &mut random).await.unwrap());
        assert!(own.call(Kind::Get, &agent, &mut random).await.unwrap());
        let entry = agent.entry("0/0").await.unwrap().unwrap();
        assert_eq!(entry.json().len(), 300);
        // The same mesh, read by who takes it for another user's: as if the walls were down.
        for name in ["user-2", "user-10", "user-"] {
            assert!(!Own::new(name, 0, &plan).call(Kind::Get, &agent, &mut random).await.unwrap(), "{name}");
        }
        assert!(own.call(Kind::Remove, &agent, &mut random).await.unwrap());
        assert!(agent.entry("0/0").await.unwrap().is_none());
        session.end();
        users.shutdown().await.unwrap();
    }
}
