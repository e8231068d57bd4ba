//! The second implementation, `envelope.py`: each opens what the other sealed, and both refuse what was changed.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};
use syntha_store::ErrorKind;

use crate::case::{bytes, details, frame, hex, open, record, seal, with, wrap};
use crate::vectors;

fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("envelope/envelope.py")
}

/// The Python that has the package: the first on the path need not be the system's.
fn python() -> Command {
    let has_it = |python: &&str| {
        let mut probe = Command::new(python);
        probe.args(["-c", "import cryptography.hazmat.primitives.kdf.hkdf"]);
        probe.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    let Some(python) = ["python3", "/usr/bin/python3"].iter().find(|python| has_it(python)) else {
        panic!(
            "python3 with the package cryptography is missing: run `apt-get install python3-cryptography` or \
             `python3 -m pip install cryptography`, or `cargo xtask ci --install`"
        );
    };
    let mut command = Command::new(python);
    command.arg("-B").arg(program());
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
        let mut command = python();
        let mut child = command.arg("serve").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let requests = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Self { child, requests, answers }
    }

    /// The bytes of each answer, or none if it refused. Few requests: they and their answers lie in the pipes.
    fn ask<const N: usize>(&mut self, asked: [(&str, &Value); N]) -> [Option<Vec<u8>>; N] {
        let requests = asked.map(|(verb, case)| format!("{}\n", with(case, &json!({ "do": verb }))));
        self.requests.write_all(requests.concat().as_bytes()).unwrap();
        requests.map(|request| {
            let mut line = String::new();
            self.answers.read_line(&mut line).unwrap();
            let answer: Value =
                serde_json::from_str(&line).unwrap_or_else(|_| panic!("no answer to {request}: {line}"));
            if answer["refused"] == true { None } else { Some(bytes(&answer["bytes"])) }
        })
    }

    fn stop(self) {
        let Self { mut child, requests, .. } = self;
        drop(requests);
        assert!(child.wait().unwrap().success());
    }
}

/// xorshift64*, so that a run can be done again.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 33) as usize % limit
    }

    fn chance(&mut self) -> bool {
        self.below(2) == 0
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next().to_be_bytes()[0]).collect()
    }

    fn short(&mut self, limit: usize) -> Value {
        let len = self.below(limit);
        hex(self.bytes(len))
    }

    fn text(&mut self) -> String {
        let letters = ["a", "-", "\u{fc}", "\u{1f600}", "\\", "\"", "\u{0}"];
        (0..self.below(12)).map(|_| letters[self.below(letters.len())]).collect()
    }

    fn binding(&mut self) -> Value {
        match self.below(6) {
            3 => with(
                &wrap(&self.text()),
                &json!({
                    "provider": self.text(),
                    "deployment": hex(self.bytes(16)),
                    "owner": hex(self.bytes(32)),
                    "life": hex(self.bytes(16)),
                    "key_epoch": self.next() >> 32,
                    "extra": self.short(40),
                }),
            ),
            4 => with(&frame(self.next(), self.chance()), &json!({ "header": hex(self.bytes(32)) })),
            5 => with(
                &details(),
                &json!({
                    "deployment": hex(self.bytes(16)),
                    "owner": hex(self.bytes(32)),
                    "id": hex(self.bytes(16)),
                }),
            ),
            part => with(
                &record(["head", "body", "note"][part]),
                &json!({
                    "deployment": hex(self.bytes(16)),
                    "owner": hex(self.bytes(32)),
                    "life": hex(self.bytes(16)),
                    "space": self.below(256),
                    "name": self.short(64),
                    "seq": self.next(),
                    "version": self.next(),
                    "body_version": self.next(),
                    "expires": if self.chance() { json!(self.next()) } else { Value::Null },
                    "extra": self.short(40),
                }),
            ),
        }
    }

    fn case(&mut self) -> Value {
        let binding = self.binding();
        let algorithm = if binding["part"] == "wrap" { 2 } else { 1 + self.below(2) };
        json!({
            "subkey": hex(self.bytes(32)),
            "algorithm": algorithm,
            "epoch": self.next() >> 32,
            "binding": binding,
            "padded": self.chance(),
            "content": self.short(300),
        })
    }

    /// The sealed case with something changed that must not go unseen.
    fn change(&mut self, case: &Value) -> Value {
        let mut sealed = bytes(&case["sealed"]);
        match self.below(6) {
            0 => return with(case, &json!({ "subkey": hex(self.bytes(32)) })),
            1 => return with(case, &json!({ "binding": self.binding() })),
            2 => return with(case, &json!({ "algorithm": 3 - case["algorithm"].as_u64().unwrap() })),
            3 => sealed.truncate(self.below(sealed.len())),
            4 => sealed.extend(self.bytes(1)),
            _ => {
                let at = self.below(sealed.len());
                sealed[at] ^= 1 << self.below(8);
            }
        }
        with(case, &json!({ "sealed": hex(sealed) }))
    }
}

#[test]
fn the_golden_vectors_hold_in_python() {
    let output = python().arg("check").arg(vectors::path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let checked: Value = serde_json::from_slice(&output.stdout).unwrap();
    let stored: Value = serde_json::from_str(&std::fs::read_to_string(vectors::path()).unwrap()).unwrap();
    for (name, list) in stored.as_object().unwrap() {
        assert_eq!(checked[name], list.as_array().unwrap().len(), "{name}");
    }
}

/// AES-GCM alone lets one blob open under two keys; algorithm 2 does not. `two_keys.py` made the blobs.
#[test]
fn a_commitment_opens_under_one_key() {
    let path = program().with_file_name("two-keys.json");
    let vectors: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    for vector in &vectors {
        let subkeys = vector["subkeys"].as_array().unwrap();
        let opens: Vec<_> =
            subkeys.iter().map(|subkey| open(&with(vector, &json!({ "subkey": subkey }))).is_ok()).collect();
        assert_eq!(json!(opens), vector["opens"], "{vector}");
        assert_eq!(opens == [true, true], vector["algorithm"] == 1, "{vector}");
    }
    let output = python().arg("two").arg(path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), vectors.len().to_string());
}

/// `SYNTHA_VECTORS` of them, 10,000 unless told.
#[test]
fn each_opens_what_the_other_sealed() {
    let count = std::env::var("SYNTHA_VECTORS").map_or(10_000, |count| count.parse().unwrap());
    let mut random = Random(0x5EED);
    let mut second = Second::start();
    for number in 0..count {
        let case = random.case();
        let by_rust = with(&case, &json!({ "sealed": hex(seal(&case).unwrap()) }));
        let salted = with(&case, &json!({ "salt": hex(random.bytes(24)) }));
        let changed = random.change(&by_rust);
        let [opened, by_python, refused] =
            second.ask([("open", &by_rust), ("seal", &salted), ("open", &changed)]);
        assert_eq!(opened.map(hex), Some(case["content"].clone()), "number {number}: {by_rust}");
        let by_python = with(&case, &json!({ "sealed": hex(by_python.unwrap()) }));
        assert_eq!(hex(seal(&salted).unwrap()), by_python["sealed"], "number {number}: {salted}");
        assert_eq!(hex(open(&by_python).unwrap()), case["content"], "number {number}: {by_python}");
        assert_eq!(refused, None, "number {number}: {changed}");
        let refused = open(&changed).map(|_| ()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Tampered, "number {number}: {changed}");
    }
    println!("evidence: {count} random vectors, opened both ways, and refused by both once changed");
    second.stop();
}
