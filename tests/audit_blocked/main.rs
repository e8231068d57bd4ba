//! Sinks that fail, block and lose answers, over a storage that fails: no change without its entry, no operation past the bound, no entry
//! that is not delivered in the end, and no caller who waits for ever.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "it prints its row of evidence")]

mod outside;
mod storage;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use parking_lot::Mutex;
use syntha_audit::link::StoredLink;
use syntha_audit::verify::{Scope as Judged, Verdict as Judgement, Verifier};
use syntha_audit::{AuditedStore, Background, Behaviour, Fault, MemorySigner, Whose};
use syntha_mesh::{Agent, AuditPolicy, ErrorKind, Mesh, MeshConfig, Opening};
use syntha_store::{
    Action, Batch, CreateMode, Keyspace, MemoryStore, RecordId, Scan, Store, Timestamp, UserId, UserTag,
    Verdict, decode_events,
};
use tokio::time::Instant;

use crate::outside::Outside;
use crate::storage::{Faulty, Weather};

/// Of these, every second one has a strict trail.
const USERS: usize = 6;
const BOUND: u64 = 60;
const AT_ONCE: usize = 3;
const KEYS: usize = 20;
/// More than any run here takes: how old entries are is measured by the system's clock, which is not the paused one.
const LONG: Duration = Duration::from_secs(86_400);
/// What a call may take beside its deadlines.
const MARGIN: Duration = Duration::from_secs(1);
/// How often everything is replayed on the way.
const REPLAYS: usize = 10;

/// What a check finds: nothing, or what is wrong. It runs on planted faults too.
type Found<T = ()> = Result<T, String>;

#[derive(Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % limit
    }
}

#[tokio::test(start_paused = true)]
async fn audit_blocked_loses_nothing() {
    let ops = std::env::var("SYNTHA_BLOCKED_OPS").map_or(1_500, |count| count.parse().unwrap());
    let mut bed = Bed::new(0x0B10_C4ED, None).await;
    bed.run(ops).await.unwrap();
    let links = bed.finish().await.unwrap();
    let Bed { done, refused, weather, longest, .. } = &bed;
    let (failed, unseen) = {
        let weather = weather.lock();
        (weather.failed, weather.unseen)
    };
    assert!(done.iter().all(|done| done.pushes > 0 && done.reads > 0));
    assert!(*refused > 0, "the bound was not reached");
    assert!(unseen > 0 && failed > unseen);
    let again: u64 = bed.sinks.iter().map(|sink| sink.again()).sum();
    let accepted: u64 = done.iter().map(|done| done.pushes + done.reads + done.removes).sum();
    println!(
        "evidence: {ops} operations, {accepted} taken, {refused} refused for the trail's sake, {failed} failures of the storage, {links} links each \
         in both sinks ({again} came twice), 0 changes without entry, 0 past the bound, no call over {} ms of the paused clock",
        longest.as_millis()
    );
}

#[tokio::test(start_paused = true)]
async fn a_layer_that_tears_change_and_link_is_found() {
    for fault in [Fault::LinkMissing, Fault::LinkApart] {
        let mut bed = Bed::new(0x0B10_C4ED, Some(fault)).await;
        let found = match bed.run(1_500).await {
            Ok(()) => bed.finish().await.map(drop),
            found => found,
        };
        assert!(found.is_err(), "{fault:?} was not found");
        println!("{fault:?}: {}", found.unwrap_err());
    }
}

/// The check of the sinks sees one entry that is not there.
#[tokio::test(start_paused = true)]
async fn an_entry_that_a_sink_lost_is_found() {
    let mut bed = Bed::new(7, None).await;
    bed.run(300).await.unwrap();
    bed.finish().await.unwrap();
    assert!(bed.sinks[1].lose(bed.users[2].as_bytes(), 3));
    bed.check_sinks().await.unwrap_err();
}

/// The check of the bound sees a store that has none.
#[tokio::test(start_paused = true)]
async fn a_store_without_a_bound_is_found() {
    let mut bed = Bed::with(7, None, u64::MAX).await;
    bed.run(1_500).await.unwrap_err();
}

type Audited = AuditedStore<Faulty>;

/// What a user's operations came to.
#[derive(Clone, Copy, Default)]
struct Done {
    pushes: u64,
    removes: u64,
    reads: u64,
    unknown: u64,
}

struct Bed {
    random: Random,
    bare: Arc<MemoryStore>,
    weather: Arc<Mutex<Weather>>,
    audited: Arc<Audited>,
    sinks: [Arc<Outside>; 2],
    users: Vec<UserTag>,
    meshes: Vec<Mesh>,
    agents: Vec<Agent>,
    done: Vec<Done>,
    refused: u64,
    longest: Duration,
    /// The deadlines that a call has.
    deadline: Duration,
    _background: Background,
}

#[derive(Clone, Copy)]
enum Operation {
    Push,
    Remove,
    Read,
}

impl Bed {
    async fn new(seed: u64, fault: Option<Fault>) -> Self {
        Self::with(seed, fault, BOUND).await
    }

    async fn with(seed: u64, fault: Option<Fault>, bound: u64) -> Self {
        let bare = Arc::new(MemoryStore::new().unwrap());
        let key = bare.deployment_key().clone();
        let weather = Weather::new(seed ^ 0x5EED);
        let faulty = Faulty { inner: Arc::clone(&bare) as _, weather: Arc::clone(&weather) };
        let sinks = [Outside::new("one"), Outside::new("two")];
        let mut audited = AuditedStore::new(Arc::new(faulty), key.fingerprint())
            .unwrap()
            .signer(Arc::new(MemorySigner::new(&key.fingerprint()).unwrap()))
            .sink(Arc::clone(&sinks[0]) as _)
            .sink(Arc::clone(&sinks[1]) as _)
            .bounds(bound, LONG);
        if let Some(fault) = fault {
            audited = audited.fault(fault);
        }
        let audited = Arc::new(audited);
        let (mut users, mut meshes, mut agents) = (Vec::new(), Vec::new(), Vec::new());
        let defaults = MeshConfig::default();
        let deadline = defaults.deadline + defaults.audit_deadline;
        for number in 0..USERS {
            let tag = key.tag(&UserId::new(format!("user {number}")).unwrap());
            let first = Batch::new(Timestamp(1)).unwrap();
            let (user, _) = audited.create(tag, first, CreateMode::New).await.unwrap();
            let mut config = MeshConfig::default();
            config.audit = if number.is_multiple_of(2) { AuditPolicy::Strict } else { AuditPolicy::Buffered };
            let mesh = Mesh::open(user, Opening::new().audited(true), config).await.unwrap();
            users.push(tag);
            agents.push(mesh.agent("agent").unwrap());
            meshes.push(mesh);
        }
        let background = audited.spawn_background();
        Self {
            random: Random(seed),
            bare,
            weather,
            audited,
            sinks,
            users,
            meshes,
            agents,
            done: vec![Done::default(); USERS],
            refused: 0,
            longest: Duration::ZERO,
            deadline,
            _background: background,
        }
    }

    async fn run(&mut self, ops: usize) -> Found {
        let rounds = ops.div_ceil(AT_ONCE);
        for round in 0..rounds {
            if round.is_multiple_of(40) {
                self.turn();
            }
            if round.is_multiple_of(4) {
                tokio::time::sleep(Duration::from_millis(400)).await;
            }
            self.round(round).await?;
            self.check_bound().await?;
            if round.is_multiple_of(rounds.div_ceil(REPLAYS)) {
                self.check_data().await?;
            }
        }
        Ok(())
    }

    /// What goes wrong from now on.
    fn turn(&mut self) {
        let bad = [Behaviour::Fail, Behaviour::Block, Behaviour::TakeAndFail];
        let all_bad = self.random.below(4) == 0;
        for sink in &self.sinks {
            let is_bad = all_bad || self.random.below(4) == 0;
            let behaviour = bad[self.random.below(bad.len())];
            sink.behave(if is_bad { behaviour } else { Behaviour::Take });
        }
        self.weather.lock().is_bad = self.random.below(3) > 0;
    }

    async fn round(&mut self, round: usize) -> Found {
        let mut calls = Vec::new();
        for _ in 0..AT_ONCE {
            let user = self.random.below(USERS);
            let operation = match self.random.below(8) {
                0..=4 => Operation::Push,
                5 => Operation::Remove,
                _ => Operation::Read,
            };
            let (agent, key) = (&self.agents[user], format!("key-{}", self.random.below(KEYS)));
            calls.push(async move {
                let begun = Instant::now();
                let answer = match operation {
                    Operation::Push => agent.push(key, round as u64).await.map(drop),
                    Operation::Remove => agent.remove(key, None).await.map(drop),
                    Operation::Read => agent.get::<u64>(key).await.map(drop),
                };
                (user, operation, answer, begun.elapsed())
            });
        }
        for (user, operation, answer, took) in join_all(calls).await {
            self.longest = self.longest.max(took);
            if took > self.deadline + MARGIN {
                return Err(format!("a call took {took:?}"));
            }
            let done = &mut self.done[user];
            match answer {
                Ok(()) => match operation {
                    Operation::Push => done.pushes += 1,
                    Operation::Remove => done.removes += 1,
                    Operation::Read => done.reads += 1,
                },
                Err(error) => match error.kind() {
                    ErrorKind::AuditUnavailable => self.refused += 1,
                    ErrorKind::Unknown => done.unknown += 1,
                    ErrorKind::Busy | ErrorKind::Storage => {}
                    _ => return Err(format!("a call failed: {error:?}")),
                },
            }
        }
        Ok(())
    }

    /// Counted by what is stored and what the sinks hold, not by what the layer says of itself.
    async fn check_bound(&self) -> Found {
        let mut links = 0;
        for user in &self.users {
            links += self.bare.open(*user).await.unwrap().state().await.unwrap().chain.seq;
        }
        let held = self.sinks.iter().map(|sink| sink.links()).max().unwrap();
        let waits = links.saturating_sub(held);
        if waits > BOUND { Err(format!("{waits} entries wait for every sink")) } else { Ok(()) }
    }

    async fn check_data(&self) -> Found {
        for (number, user) in self.users.iter().enumerate() {
            let report = self.audited.replay(*user, None).await.map_err(|error| error.to_string())?;
            if !report.is_clean() {
                return Err(format!(
                    "user {number}: {:?} {:?}",
                    report.findings.first(),
                    report.chain.findings.first()
                ));
            }
        }
        Ok(())
    }

    /// Everything is well again: what is left to be done is done, and everything is there. Gives how many links there are.
    async fn finish(&mut self) -> Found<u64> {
        self.weather.lock().is_bad = false;
        for sink in &self.sinks {
            sink.behave(Behaviour::Take);
        }
        for mesh in &self.meshes {
            let mut tries = 0;
            // What was slow is still under way, and the sinks have to catch up first.
            while let Err(error) = mesh.flush_audit().await {
                tries += 1;
                if tries == 30 {
                    return Err(format!("the last events are not written down: {error:?}"));
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        let is_over = || {
            let backlog = self.audited.backlog();
            backlog.unlogged == 0 && backlog.sinks.iter().all(|(_, waits)| *waits == 0)
        };
        for _ in 0..60 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if is_over() {
                break;
            }
        }
        let backlog = self.audited.backlog();
        if !is_over() || backlog.log_fails || backlog.broken > 0 {
            return Err(format!("the sinks do not catch up: {backlog:?}"));
        }
        self.check_data().await?;
        self.check_trail().await?;
        self.check_events().await?;
        self.check_sinks().await
    }

    async fn check_trail(&self) -> Found {
        let mut trail = Vec::new();
        let exported = self.audited.export(&Whose::All, false, &mut trail).await;
        exported.map_err(|error| error.to_string())?;
        let mut verifier = Verifier::new(self.audited.trusted_keys().await.unwrap()).scope(Judged::All);
        verifier.read(&trail[..]).unwrap();
        let report = verifier.finish();
        if report.verdict() == Judgement::Clean { Ok(()) } else { Err(format!("{:?}", report.all().next())) }
    }

    /// All links of a user, as they are stored.
    async fn links(&self, user: UserTag) -> Vec<StoredLink> {
        let store = self.bare.open(user).await.unwrap();
        let (mut links, mut from) = (Vec::new(), 0);
        loop {
            let scan = Scan::records(Keyspace::Audit, 1_000).name(Bytes::new());
            let page = store.scan(scan.from(RecordId::new(Bytes::new(), from).unwrap())).await.unwrap().value;
            for (head, body) in &page.records {
                from = head.id.seq();
                links.push(StoredLink::decode(body.as_ref().unwrap()).unwrap());
            }
            if !page.more {
                return links;
            }
        }
    }

    /// Every operation that was answered has its event, and no other one has.
    async fn check_events(&self) -> Found {
        for (number, user) in self.users.iter().enumerate() {
            let mut told = Done::default();
            for link in self.links(*user).await {
                let Some((_, details)) = link.details else { continue };
                for event in decode_events(&details).unwrap() {
                    match (event.action, event.verdict) {
                        (Action::Push, Verdict::Done) => told.pushes += event.count,
                        (Action::Remove, Verdict::Done | Verdict::Nothing) => told.removes += event.count,
                        (Action::Read, _) => told.reads += event.count,
                        _ => {}
                    }
                }
            }
            let done = self.done[number];
            // What nobody knows the end of may have been done.
            let is_told = |told: u64, least: u64| (least..=least + done.unknown).contains(&told);
            if !is_told(told.pushes, done.pushes) || told.removes < done.removes || told.reads < done.reads {
                return Err(format!(
                    "user {number}: {} pushes, {} removes and {} reads were answered and {} are unknown; told are {}, {} and {}",
                    done.pushes,
                    done.removes,
                    done.reads,
                    done.unknown,
                    told.pushes,
                    told.removes,
                    told.reads
                ));
            }
        }
        Ok(())
    }

    /// Both sinks hold every link, from the first to the last, as it is stored. Gives how many there are.
    async fn check_sinks(&self) -> Found<u64> {
        let mut count = 0;
        for (number, user) in self.users.iter().enumerate() {
            let links = self.links(*user).await;
            for sink in &self.sinks {
                for (seq, link) in (1..).zip(&links) {
                    if sink.text(user.as_bytes(), seq).as_ref() != Some(&link.text) {
                        return Err(format!("link {seq} of user {number} is not in a sink"));
                    }
                }
            }
            count += links.len() as u64;
        }
        if self.sinks.iter().any(|sink| sink.links() != count) {
            return Err("a sink holds links that are not there".to_owned());
        }
        Ok(count)
    }
}
