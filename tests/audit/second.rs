//! The second implementation, `verify.py`: it says the same of good trails and of changed ones.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use data_encoding::{BASE64, HEXLOWER};
use serde_json::{Value, json};
use syntha_audit::leaf::LeafKind;
use syntha_audit::trail::Item;
use syntha_audit::verify::{Problem, Report, Scope, Verdict};

use crate::random::Random;
use crate::tamper::{KINDS, verify};
use crate::trail::{trusted, written};
use crate::world::World;

/// The Python that has the package: the first on the path need not be the system's.
fn python() -> Command {
    let has_it = |python: &&str| {
        let mut probe = Command::new(python);
        probe.args(["-c", "import cryptography.hazmat.primitives.asymmetric.ed25519"]);
        probe.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    let Some(python) = ["python3", "/usr/bin/python3"].iter().find(|python| has_it(python)) else {
        panic!(
            "python3 with the package cryptography is missing: run `apt-get install python3-cryptography` or \
             `python3 -m pip install cryptography`, or `cargo xtask ci --install`"
        );
    };
    let mut command = Command::new(python);
    command.arg("-B").arg(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("audit/verify.py"));
    command
}

/// A Python that answers.
struct Second {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Second {
    fn start() -> Self {
        let mut child = python().arg("serve").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let requests = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Self { child, requests, answers }
    }

    fn ask(&mut self, bytes: &[u8], known: Option<&str>, scope: Scope) -> Value {
        let scope = format!("{scope:?}").to_lowercase();
        let request =
            json!({ "trail": BASE64.encode(bytes), "keys": trusted(), "known": known, "scope": scope });
        writeln!(self.requests, "{request}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("no answer, but: {line}"))
    }

    fn stop(self) {
        let Self { mut child, requests, .. } = self;
        drop(requests);
        assert!(child.wait().unwrap().success());
    }
}

/// The report in the form that the other one has.
fn of(report: &Report) -> Value {
    let users = report.users.iter().map(|user| {
        let findings: Vec<_> = user
            .findings
            .iter()
            .map(|finding| json!([finding.problem.code(), finding.seq, finding.until]))
            .collect();
        json!({
            "owner": HEXLOWER.encode(&user.owner),
            "to": user.to,
            "head": HEXLOWER.encode(&user.head),
            "anchored": user.anchored_to,
            "erased": user.erased,
            "findings": findings,
        })
    });
    let mut findings: Vec<_> = report.findings.iter().map(|finding| finding.problem.code()).collect();
    findings.sort_unstable();
    findings.dedup();
    let verdict = match report.verdict() {
        Verdict::Clean => "clean",
        Verdict::Torn => "torn",
        Verdict::Bad => "bad",
    };
    json!({
        "verdict": verdict,
        "users": users.collect::<Vec<_>>(),
        "findings": findings,
        "rebuilt": report.rebuilt,
    })
}

/// `SYNTHA_TRAILS` of them, 200 unless told: every fifth good, the others changed; whole files and parts with proofs.
#[tokio::test]
async fn both_say_the_same() {
    let count: u64 = std::env::var("SYNTHA_TRAILS").map_or(200, |count| count.parse().unwrap());
    let mut random = Random(0x2ECD);
    let mut second = Second::start();
    let (mut world, mut verdicts) = (World::new(1, false).await, [0_u64; 3]);
    for number in 0..count {
        if number % 40 == 0 {
            world = World::new(number + 1, number % 80 == 0).await;
        }
        let kept = world.trail.checkpoints.last().map(String::as_str).filter(|_| random.chance(2));
        let scope = *random.pick(&[Scope::Part, Scope::Log, Scope::All]);
        let bytes = match number % 5 {
            0 => world.trail.bytes(),
            1 => {
                let mut part = world.trail.clone();
                part.chains.truncate(1 + random.below(4));
                let mut items = part.proven_items();
                if random.chance(2) {
                    let at = random.below(items.len());
                    items.remove(at);
                }
                if random.chance(3) {
                    let at = random.below(items.len());
                    if let Item::Proof { hashes, .. } | Item::Consistency { hashes, .. } = &mut items[at] {
                        hashes.push([1; 32]);
                    }
                }
                written(&items)
            }
            _ => random.pick(KINDS).1(&world.trail, &world.past, &mut random).bytes,
        };
        let (rust, python) = (of(&verify(&bytes, kept, scope)), second.ask(&bytes, kept, scope));
        assert_eq!(rust, python, "number {number}, {scope:?}");
        verdicts
            [["clean", "torn", "bad"].iter().position(|verdict| rust["verdict"] == **verdict).unwrap()] += 1;
    }
    assert!(verdicts.iter().all(|of| *of > 0), "{verdicts:?}");
    println!(
        "evidence: {count} random trails, both verifiers say the same: {} clean, {} cut, {} bad",
        verdicts[0], verdicts[1], verdicts[2]
    );
    second.stop();
}

/// A chain that was lost, and an archive's in its place: both say so until the auditor's own checkpoint covers it.
#[tokio::test]
async fn both_name_what_was_lost() {
    let mut random = Random(0x1057);
    let mut second = Second::start();
    for seed in 1..=8 {
        let mut world = World::new(seed, false).await;
        let user = 3 + random.below(5);
        world.lose(user, &mut random).await;
        let owner = *world.users[user].as_bytes();
        let (bytes, part) = (world.trail.bytes(), written(&world.trail.proven_items()));
        let checkpoints = &world.trail.checkpoints;
        let (last, before) = (checkpoints.last().unwrap(), &checkpoints[checkpoints.len() - 2]);
        for (bytes, known, scope, is_told) in [
            (&bytes, None, Scope::All, false),
            (&part, None, Scope::Part, false),
            (&bytes, Some(before.as_str()), Scope::Log, false),
            (&bytes, Some(last.as_str()), Scope::All, true),
            (&part, Some(last.as_str()), Scope::Part, true),
        ] {
            let report = verify(bytes, known, scope);
            let found: Vec<_> = report.all().map(|finding| (finding.problem, finding.owner)).collect();
            let expected = if is_told { Vec::new() } else { vec![(Problem::Lost, Some(owner))] };
            assert_eq!(found, expected, "seed {seed}, {scope:?}");
            let lost = report.findings.first().map(|finding| (finding.seq.unwrap(), finding.until.unwrap()));
            // The archive has links that the log knows: what is lost begins after them.
            assert!(lost.is_none_or(|(from, until)| 1 < from && from <= until), "seed {seed}: {lost:?}");
            assert_eq!(of(&report), second.ask(bytes, known, scope), "seed {seed}, {scope:?}");
        }
        // Who has the file can't make nothing of it.
        let mut hidden = world.trail.clone();
        let lost = hidden.leaves.iter().position(|leaf| leaf.kind == LeafKind::Lost).unwrap();
        hidden.leaves[lost].kind = LeafKind::Erased;
        let report = verify(&hidden.bytes(), None, Scope::All);
        assert!(report.all().any(|finding| finding.problem == Problem::Root), "seed {seed}");
    }
    second.stop();
}
