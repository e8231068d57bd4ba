//! Writers of two processes race for a user's last place, some of them killed meanwhile: one gets in, in every round, to the item and to the byte.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "it prints its row of evidence")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use syntha::postgres::Mode;
use syntha::{HostAuthority, Limit, Message, ResourceLimits, UserLimits, UserManager};
use syntha_tests::{Ground, Server, count, modes};

const KINDS: [Limit; 4] = [Limit::Contexts, Limit::Storage, Limit::Agents, Limit::Topics];
/// What is used before the race: one less than may be.
const USED: usize = 9;
/// A process is killed and started again so often.
const KILL_EVERY: u64 = 5;
/// The test's own process closes the folder and opens it again so often.
const REOPEN_EVERY: u64 = 8;

struct Claimant {
    child: Child,
    ask: ChildStdin,
    answer: BufReader<ChildStdout>,
}

impl Claimant {
    fn start(ground: &Ground, name: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_syntha-claimant"))
            .arg(ground.argument())
            .arg(name)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (ask, answer) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut claimant = Self { child, ask, answer };
        assert_eq!(claimant.line(), "ready");
        claimant
    }

    fn ask(&mut self, round: u64, kind: Limit) {
        writeln!(self.ask, "{round} {}", kind.name()).unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.answer.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// How many got in and how many were refused.
    fn answer(&mut self, round: u64) -> (u64, u64) {
        let line = self.line();
        let numbers: Vec<u64> = line.split(' ').map(|number| number.parse().unwrap()).collect();
        assert_eq!(numbers[0], round);
        (numbers[1], numbers[2])
    }
}

impl Drop for Claimant {
    fn drop(&mut self) {
        // It may be dead already.
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}

async fn open(ground: &Ground) -> (UserManager, HostAuthority) {
    ground.shared().open().await.unwrap()
}

/// Makes a user who uses one less than may be used.
async fn prepare(users: &UserManager, host: &HostAuthority, round: u64, kind: Limit) {
    let user = format!("user-{round}");
    let session = users.create_user_session(host, user.as_str()).await.unwrap();
    for n in 0..USED {
        let agent = if kind == Limit::Agents { format!("agent-{n}") } else { "ann".to_owned() };
        let push = session.agent(agent).unwrap().push(format!("used-{n:02}"), "x".repeat(40));
        let push = if kind == Limit::Topics { push.topic(format!("topic-{n}")) } else { push };
        push.await.unwrap();
    }
    session.agent("agent-0").unwrap().thread("talk").unwrap().append(Message::user("hello")).await.unwrap();
    if kind != Limit::Agents {
        session.unregister_agent("agent-0").await.unwrap();
    }
    let one_more = match kind {
        // A key of 4 bytes, a text of 40 and its quotes.
        Limit::Storage => 46,
        _ => 1,
    };
    let report = session.usage_report().await.unwrap();
    let most = report.of(kind).unwrap().used.unwrap() + one_more;
    let own = ResourceLimits::new().with(kind, Some(most));
    assert!(users.set_limits(user.as_str(), UserLimits::new().own(own)).await.unwrap());
}

#[tokio::test]
async fn limits_admit_one_of_a_hundred_in_two_processes() {
    let folder = tempfile::tempdir().unwrap();
    run("SQLite", &Ground::Folder(folder.path().join("data")), count("SYNTHA_LIMIT_ROUNDS", 16)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_on_postgres_admit_one_of_a_hundred_in_two_processes() {
    for mode in modes(Mode::Schema) {
        let server = Server::start(mode, |builder| builder).await;
        run(&format!("PostgreSQL ({mode:?})"), &server.ground(), count("SYNTHA_POSTGRES_LIMIT_ROUNDS", 8))
            .await;
    }
}

async fn run(place: &str, ground: &Ground, rounds: u64) {
    let (mut users, mut host) = open(ground).await;
    let mut claimants = ["a", "b"].map(|name| Claimant::start(ground, name));
    let (mut kills, mut refusals) = (0, 0);
    for round in 1..=rounds {
        let kind = KINDS[usize::try_from(round).unwrap() % KINDS.len()];
        prepare(&users, &host, round, kind).await;
        claimants.iter_mut().for_each(|claimant| claimant.ask(round, kind));
        let mut admitted = 0;
        let dies = (round % KILL_EVERY == 0).then_some(usize::try_from(round / KILL_EVERY % 2).unwrap());
        if let Some(dies) = dies {
            kills += 1;
            // In the middle of the race, or after it: it does not matter to what is stored.
            let (other, admitted_there) = (1 - dies, &mut admitted);
            claimants[dies].child.kill().unwrap();
            claimants[dies].child.wait().unwrap();
            *admitted_there += claimants[other].answer(round).0;
            claimants[dies] = Claimant::start(ground, ["a", "b"][dies]);
            // Again: a place that the dead one got is taken, also for itself.
            claimants[dies].ask(round, kind);
            let _ = claimants[dies].answer(round);
        } else {
            for claimant in &mut claimants {
                let (got, refused) = claimant.answer(round);
                admitted += got;
                refusals += refused;
            }
            assert_eq!(admitted, 1, "round {round}, limit of {}", kind.name());
        }
        assert!(admitted <= 1, "round {round}, limit of {}", kind.name());
        if round % REOPEN_EVERY == 0 {
            users.shutdown().await.unwrap();
            drop(host);
            (users, host) = open(ground).await;
        }
        let user = format!("user-{round}");
        let report = users.limits(user.as_str()).await.unwrap().of(kind).unwrap();
        assert_eq!(report.used, report.most, "round {round}, limit of {}", kind.name());
        let session = users.open(&host, user.as_str()).await.unwrap();
        let entries = session.entries(&syntha::Filter::new()).await.unwrap();
        assert_eq!(entries.len(), USED + 1, "round {round}, limit of {}", kind.name());
    }
    assert!(rounds < KILL_EVERY || kills > 0);
    println!(
        "evidence: {place}, {rounds} rounds of 100 writers in 2 processes at limit - 1, of entries, bytes, agents and topics by turns, {refusals} refused, \
         {kills} processes killed and started again, 0 overshoots by a byte or an item"
    );
}
