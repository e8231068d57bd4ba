use std::collections::HashMap;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use syntha_postgres::testing::TestDatabase;

/// What a call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Write,
    WriteTwo,
    Read,
    ReadAll,
    Open,
    Copy,
}

pub(crate) const KINDS: [Kind; 6] =
    [Kind::Write, Kind::WriteTwo, Kind::Read, Kind::ReadAll, Kind::Open, Kind::Copy];
pub(crate) const USERS: usize = 5;
/// The records of each user.
pub(crate) const KEYS: u64 = 8;

/// What a call of user `user` is about. Every value is `user-N:number`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) user: usize,
    pub(crate) kind: Kind,
    pub(crate) number: u64,
}

impl Call {
    pub(crate) fn key(&self) -> String {
        format!("key-{}", self.number % KEYS)
    }

    /// The other key of a batch of two.
    pub(crate) fn second_key(&self) -> String {
        format!("key-{}", (self.number + 1) % KEYS)
    }

    pub(crate) fn value(&self) -> String {
        format!("{}:{}", name(self.user), self.number)
    }
}

pub(crate) fn name(user: usize) -> String {
    format!("user-{user}")
}

/// The values that were seen.
pub(crate) type Seen = Result<Vec<String>, String>;
pub(crate) type Work<'a> = Pin<Box<dyn Future<Output = Seen> + Send + 'a>>;

/// A store as the harness knows it. Whatever it does stands behind one connection.
pub(crate) trait Subject: Sync {
    fn work(&self, call: Call) -> Work<'_>;

    /// What a user has, as somebody sees who comes by another way.
    fn all(&self, user: usize) -> Pin<Box<dyn Future<Output = HashMap<String, String>> + Send + '_>>;
}

/// What was found. All but the first three must be 0.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) dropped: u64,
    pub(crate) finished: u64,
    /// The most polls that a call had before it was dropped.
    pub(crate) most_polls: u32,
    /// Values that name another user.
    pub(crate) foreign: u64,
    /// Acknowledged numbers that are not there.
    pub(crate) lost: u64,
    /// Connections in a transaction that nobody is in.
    pub(crate) open: u64,
    /// Calls that were refused.
    pub(crate) unserved: u64,
    /// Of these, the first.
    pub(crate) first_refusal: Option<String>,
}

/// What was acknowledged last, by user and key.
type Ledger = HashMap<(usize, String), u64>;

/// Drops so many calls: of each kind the first before its first poll, the next one poll later, until one is through; then again from the first. Users
/// take turns.
pub(crate) async fn run(subject: &impl Subject, database: &TestDatabase, count: u64) -> Found {
    let (mut found, mut ledger) = (Found::default(), Ledger::new());
    let mut polls = [0_u32; KINDS.len()];
    let mut random = fastrand::Rng::with_seed(8);
    for number in 1.. {
        let at = random.usize(..KINDS.len());
        let call = Call { user: random.usize(..USERS), kind: KINDS[at], number };
        match give_up(subject.work(call), polls[at]).await {
            None => {
                found.dropped += 1;
                found.most_polls = found.most_polls.max(polls[at]);
                polls[at] += 1;
            }
            Some(seen) => {
                found.finished += 1;
                polls[at] = 0;
                note(&mut found, &mut ledger, call, seen);
            }
        }
        if number % 250 == 0 {
            check(subject, database, &mut found, &ledger).await;
        }
        if found.dropped >= count {
            break;
        }
    }
    // Everybody is served, to the end.
    for user in 0..USERS {
        for kind in KINDS {
            let call = Call { user, kind, number: u64::from(u32::MAX) };
            let seen = tokio::time::timeout(Duration::from_secs(20), subject.work(call)).await;
            note(&mut found, &mut ledger, call, seen.unwrap_or_else(|_| Err("no answer".to_owned())));
        }
    }
    check(subject, database, &mut found, &ledger).await;
    found
}

/// Polls it so often as it is woken, and drops it if it is not through then.
async fn give_up(mut work: Work<'_>, polls: u32) -> Option<Seen> {
    let mut left = polls;
    std::future::poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match work.as_mut().poll(context) {
            Poll::Ready(seen) => Poll::Ready(Some(seen)),
            // Nobody waits for the answer to the last poll.
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

fn note(found: &mut Found, ledger: &mut Ledger, call: Call, seen: Seen) {
    match seen {
        Err(refusal) => {
            found.unserved += 1;
            found.first_refusal.get_or_insert(refusal);
        }
        Ok(values) => {
            let own = format!("{}:", name(call.user));
            found.foreign += values.iter().filter(|value| !value.starts_with(&own)).count() as u64;
            if matches!(call.kind, Kind::Write | Kind::WriteTwo) {
                ledger.insert((call.user, call.key()), call.number);
            }
            if call.kind == Kind::WriteTwo {
                ledger.insert((call.user, call.second_key()), call.number);
            }
        }
    }
}

async fn check(subject: &impl Subject, database: &TestDatabase, found: &mut Found, ledger: &Ledger) {
    found.open += open_transactions(database).await;
    for user in 0..USERS {
        let all = subject.all(user).await;
        let own = format!("{}:", name(user));
        found.foreign += all.values().filter(|value| !value.starts_with(&own)).count() as u64;
        for ((_, key), last) in ledger.iter().filter(|((of, _), _)| *of == user) {
            // Later ones may have happened too, though nobody waited for them.
            let there = all.get(key).and_then(|value| value.rsplit_once(':')?.1.parse::<u64>().ok());
            found.lost += u64::from(there.is_none_or(|there| there < *last));
        }
    }
}

/// Connections that are in a transaction and do nothing in it, still after a while.
async fn open_transactions(database: &TestDatabase) -> u64 {
    const OPEN: &str =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = 'syntha_app'
        AND state LIKE 'idle in transaction%'";
    let mut open = 0;
    for _ in 0..10 {
        open = database.number(OPEN).await.unwrap();
        if open == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    u64::try_from(open).unwrap()
}
