//! A process that is killed leaves a trail that verifies, with every acknowledged write in a link, and no link without its change.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "it prints its row of evidence")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use syntha::trail::link::Kind;
use syntha::{
    AuditAction, AuditEntry, AuditEvent, AuditPolicy, AuditQuery, AuditScope, AuditVerdict, UserId,
    UserManager,
};

const USERS: usize = 4;
/// What the child does for each commit.
const KEYS: usize = 56;
const READS: u64 = 7;
const EVENTS: usize = 64;
/// How many times everything is verified, in a run of any length.
const VERIFICATIONS: usize = 25;

/// What a check finds: nothing, or what is wrong. It runs on a planted fault too.
type Found<T = ()> = Result<T, String>;

/// What a child acknowledged before it was killed: of each user the values, each with the version that it was written as.
type Acknowledged = HashMap<usize, Vec<(u64, u64)>>;

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |count| count.parse().unwrap())
}

#[tokio::test]
async fn audit_kills_leave_a_whole_trail() {
    let entries = number("SYNTHA_AUDIT_ENTRIES", 2_000);
    let kills = number("SYNTHA_AUDIT_KILLS", (entries / 5_000).max(6));
    let folder = tempfile::tempdir().unwrap();
    let mut run = Run::new(&folder.path().join("data"), "whole");
    let every = kills.div_ceil(VERIFICATIONS);
    let mut verified = 0;
    while run.kills < kills || run.acknowledged * EVENTS < entries {
        // From one commit to twice the mean, the same in each run.
        let mean = (entries / EVENTS / kills).max(1);
        run.kill(run.kills * 7_919 % (2 * mean) + 1).await.unwrap();
        if run.kills.is_multiple_of(every) {
            run.verify().await.unwrap();
            verified += 1;
        }
    }
    let (links, events) = run.verify().await.unwrap();
    assert!(events as usize >= run.acknowledged * (EVENTS - 1), "{events} events of {}", run.acknowledged);
    println!(
        "evidence: {} kills, {events} events in {links} links, {} acknowledged commits each in its link, {} full verifications, 0 false alarms",
        run.kills,
        run.acknowledged,
        verified + 1
    );
}

/// The checks see a store whose changes have no links, a write that is in no link, a read that is in none, and a kill without its gap.
#[tokio::test]
async fn what_a_kill_might_leave_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let mut broken = Run::new(&folder.path().join("broken"), "link-missing");
    let found = match broken.kill(5).await {
        Ok(()) => broken.verify().await.map(drop),
        found => found,
    };
    println!("{}", found.unwrap_err());

    let mut run = Run::new(&folder.path().join("whole"), "whole");
    let acknowledged = run.child(12);
    run.kills += 1;
    run.check(&acknowledged).await.unwrap();
    run.verify().await.unwrap();
    // One kill more than there are gaps.
    run.kills += 1;
    run.check(&Acknowledged::new()).await.unwrap_err();
    run.kills -= 1;
    let (user, done) = acknowledged.iter().max_by_key(|(_, done)| done.len()).unwrap();
    let (users, _host) = run.open().await.unwrap();
    let scope = AuditScope::User(UserId::new(format!("user-{user}")).unwrap());
    let entries = all(&users, &scope, 0, &AuditQuery::new()).await.unwrap();
    check_links(&entries, done).unwrap();
    let (_, last) = *done.last().unwrap();
    let is = |entry: &AuditEntry, action| entry.event.as_ref().is_some_and(|event| event.action == action);
    let plants: [&dyn Fn(&AuditEntry) -> bool; 3] =
        [&|entry| entry.epoch == last && is_write(entry), &|entry| is(entry, AuditAction::Read), &|entry| {
            entry.epoch == last && is(entry, AuditAction::Push)
        }];
    for plant in plants {
        let left: Vec<_> = entries.iter().filter(|entry| !plant(entry)).cloned().collect();
        assert!(left.len() < entries.len());
        check_links(&left, done).unwrap_err();
    }
}

/// What is sealed begins with random bytes, now and then with what a trail in clear begins with.
#[tokio::test]
async fn sealed_entries_are_read_whatever_they_begin_with() {
    // One in 256 begins so: that there is none in these happens once in a million runs.
    const READS: usize = 3_500;
    let key = syntha::SecretKey::generate().unwrap();
    let builder = UserManager::builder().memory().encryption(syntha::Kek::from_key(key));
    let (users, host) = builder.audit(AuditPolicy::Strict).open().await.unwrap();
    let session = users.create_user_session(&host, "user").await.unwrap();
    let agent = session.agent("agent").unwrap();
    agent.push("key", 1).await.unwrap();
    for _ in 0..READS {
        agent.get::<u64>("key").await.unwrap();
    }
    let scope = AuditScope::User(UserId::new("user").unwrap());
    let read = AuditQuery::new().action(AuditAction::Read);
    assert_eq!(all(&users, &scope, 0, &read).await.unwrap().len(), READS);
}

/// One folder, over many lives of the child.
struct Run {
    data: std::path::PathBuf,
    store: &'static str,
    kills: usize,
    acknowledged: usize,
    /// Up to which link each user's trail was looked at.
    seen: HashMap<usize, u64>,
}

impl Run {
    fn new(data: &Path, store: &'static str) -> Self {
        Self { data: data.to_owned(), store, kills: 0, acknowledged: 0, seen: HashMap::new() }
    }

    /// One life of the child, of so many acknowledgements, and what it left.
    async fn kill(&mut self, lines: usize) -> Found {
        let acknowledged = self.child(lines);
        self.kills += 1;
        self.acknowledged += acknowledged.values().map(Vec::len).sum::<usize>();
        self.check(&acknowledged).await
    }

    fn child(&self, lines: usize) -> Acknowledged {
        let mut child = Command::new(env!("CARGO_BIN_EXE_syntha-audited"))
            .arg(&self.data)
            .arg(self.store)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut acknowledged = Acknowledged::new();
        let mut line = String::new();
        for _ in 0..lines {
            line.clear();
            assert!(out.read_line(&mut line).unwrap() > 0, "the child ended by itself");
            note(&mut acknowledged, &line);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it said before it died, the last line perhaps cut.
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut out, &mut rest).unwrap();
        rest.split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
            .for_each(|line| note(&mut acknowledged, line));
        acknowledged
    }

    async fn open(&self) -> Found<(UserManager, syntha::HostAuthority)> {
        let builder = UserManager::builder().sqlite(&self.data).audit(AuditPolicy::Buffered);
        let builder = if self.store == "whole" { builder } else { builder.plain() };
        builder.open().await.map_err(|error| format!("it does not open: {error}"))
    }

    /// What the trail says of the last life, and what the data does.
    async fn check(&mut self, acknowledged: &Acknowledged) -> Found {
        let (users, host) = self.open().await?;
        let found = self.check_open(&users, &host, acknowledged).await;
        users.shutdown().await.map_err(|error| format!("it does not close: {error}"))?;
        found
    }

    async fn check_open(
        &mut self,
        users: &UserManager,
        host: &syntha::HostAuthority,
        acknowledged: &Acknowledged,
    ) -> Found {
        let gap = AuditQuery::new().action(AuditAction::Gap);
        let gaps = all(users, &AuditScope::Deployment, 0, &gap).await?.len();
        if gaps != self.kills {
            return Err(format!("{gaps} gaps after {} kills", self.kills));
        }
        for (user, done) in acknowledged {
            let name = format!("user-{user}");
            let scope = AuditScope::User(UserId::new(name.as_str()).unwrap());
            let seen = self.seen.entry(*user).or_default();
            let entries = all(users, &scope, *seen, &AuditQuery::new()).await?;
            *seen = entries.last().map_or(*seen, |entry| entry.seq);
            check_links(&entries, done)?;
            let session = users.open(host, name.as_str()).await.map_err(|error| error.to_string())?;
            let mut values = Vec::new();
            for key in [0, KEYS - 1] {
                // As the host: what agents read is counted.
                let entry = session.value(format!("key-{key}")).await.map_err(|error| error.to_string())?;
                values.push(entry.ok_or("an entry is not there")?.json().parse::<u64>().unwrap());
            }
            let (first, last) = (values[0], values[1]);
            let least = done.iter().map(|(value, _)| *value).max().unwrap();
            if first != last || !(least..=least + 1).contains(&first) {
                return Err(format!("{least} was acknowledged, {first} and {last} are there"));
            }
        }
        Ok(())
    }

    /// Verifies everything. Gives how many links and events there are.
    async fn verify(&self) -> Found<(u64, u64)> {
        let (users, _host) = self.open().await?;
        let report = users.audit().unwrap().verify(&AuditScope::All, true).await;
        let report = report.map_err(|error| format!("it does not verify: {error}"))?;
        users.shutdown().await.map_err(|error| format!("it does not close: {error}"))?;
        if !report.is_clean() {
            let first = report.trail.all().next();
            let data: Vec<_> = report.data.iter().flat_map(|(_, data)| &data.findings).take(4).collect();
            return Err(format!("after {} kills: {first:?} {data:?}", self.kills));
        }
        // Those who were killed before their first write are not there.
        if !(self.seen.len()..=USERS).contains(&report.data.len()) {
            return Err(format!("{} users were compared", report.data.len()));
        }
        let trails = &report.trail.users;
        if trails.iter().any(|user| user.anchored_to != Some(user.to)) {
            return Err("a chain's end is in no checkpoint".to_owned());
        }
        Ok((trails.iter().map(|user| user.to).sum(), trails.iter().map(|user| user.events).sum()))
    }
}

fn note(acknowledged: &mut Acknowledged, line: &str) {
    let numbers: Vec<u64> = line.split_whitespace().map(|number| number.parse().unwrap()).collect();
    acknowledged.entry(numbers[0] as usize).or_default().push((numbers[1], numbers[2]));
}

/// All entries after a link.
async fn all(
    users: &UserManager,
    scope: &AuditScope,
    after: u64,
    query: &AuditQuery,
) -> Found<Vec<AuditEntry>> {
    let (mut entries, mut after) = (Vec::new(), Some(after));
    while let Some(from) = after {
        let query = query.clone().after(from).limit(10_000);
        let page = users.audit().unwrap().entries(scope, &query).await;
        let page = page.map_err(|error| format!("the trail can't be read: {error}"))?;
        entries.extend(page.entries);
        after = page.next;
    }
    Ok(entries)
}

/// Every acknowledged commit is one link with one event for each key, and the reads before it are in links up to it.
fn check_links(entries: &[AuditEntry], done: &[(u64, u64)]) -> Found {
    for pair in done.windows(2) {
        if pair[1].0 != pair[0].0 + 1 {
            return Err(format!("{} was acknowledged after {}", pair[1].0, pair[0].0));
        }
    }
    let mut reads = 0;
    let mut done = done.iter().peekable();
    let mut commits = 0;
    for link in entries.chunk_by(|one, other| one.seq == other.seq) {
        let events = link.iter().filter_map(|entry| entry.event.as_ref());
        let by_agent =
            |event: &&AuditEvent| event.agent.as_ref().is_some_and(|agent| &**agent.text() == "agent");
        let of_agent = events.filter(by_agent);
        let read = of_agent.clone().filter(|event| event.action == AuditAction::Read);
        reads += read.map(|event| event.count).sum::<u64>();
        let Some((value, _)) = done.next_if(|(_, version)| *version == link[0].epoch && is_write(&link[0]))
        else {
            continue;
        };
        let pushes =
            of_agent.filter(|event| event.action == AuditAction::Push && event.verdict == AuditVerdict::Done);
        let keys: std::collections::HashSet<_> = pushes.filter_map(|event| event.target.as_ref()).collect();
        if keys.len() != KEYS || link[0].records < KEYS as u64 {
            return Err(format!("{} events and {} records of {value}", keys.len(), link[0].records));
        }
        commits += 1;
        if reads < commits * READS {
            return Err(format!("{reads} reads are in the trail, {commits} commits came after {READS} each"));
        }
    }
    match done.next() {
        Some((value, version)) => Err(format!("{value} was acknowledged as {version}, and is in no link")),
        None => Ok(()),
    }
}

/// The first write makes the user.
const fn is_write(link: &AuditEntry) -> bool {
    matches!(link.kind, Kind::Change | Kind::Create)
}
