//! Everything that can be done to a trail without the log's key is found, or lies past the last checkpoint and is reported as not anchored.

use syntha_audit::leaf::{Leaf, LeafKind};
use syntha_audit::link::{Kind, Link, StoredLink, Trace};
use syntha_audit::trail::Item;
use syntha_audit::verify::{Checkpoint, Problem, Report, Scope, TrustedKeys, Verdict, Verifier};
use syntha_store::{BatchId, Epoch, Incarnation, Timestamp};

use crate::random::Random;
use crate::trail::{KEYS, ROTATED, Trail, Tree, key_of, sign, trusted, written};
use crate::world::World;

pub(crate) fn verify(bytes: &[u8], known: Option<&str>, scope: Scope) -> Report {
    let keys = TrustedKeys::parse(&trusted()).unwrap();
    let known = known.map(|note| Checkpoint::parse(note, &keys).unwrap());
    let mut verifier = Verifier::new(keys).scope(scope).known(known);
    verifier.read(bytes).unwrap();
    verifier.finish()
}

fn problems(report: &Report) -> Vec<Problem> {
    report.all().map(|finding| finding.problem).collect()
}

/// A changed trail, and what must be said of it.
pub(crate) struct Case {
    pub(crate) bytes: Vec<u8>,
    expected: Expected,
}

enum Expected {
    /// Something from this link on was changed; a checkpoint covers it or not.
    Chain { owner: [u8; 32], seq: u64, anchored: bool },
    /// This alone, of this link, wherever it is.
    Exactly(Problem, u64),
    /// One of these.
    Problem(&'static [Problem]),
    /// Anything.
    Something,
    /// The file was cut.
    Torn,
}

/// What is done to a trail.
pub(crate) type Tamper = fn(&Trail, &Trail, &mut Random) -> Case;

pub(crate) const KINDS: &[(&str, Tamper)] = &[
    ("flip a bit", flip_bit),
    ("edit a field", edit_field),
    ("edit details", edit_details),
    ("delete a link", delete),
    ("drop the last links", drop_last),
    ("repeat a link", repeat),
    ("reorder", reorder),
    ("insert", insert),
    ("move between users", move_between),
    ("splice two chains", splice),
    ("restart at genesis", restart),
    ("recompute all hashes", recompute),
    ("truncate and resume", truncate_and_resume),
    ("renumber", renumber),
    ("swap heads", swap_heads),
    ("roll the file back", roll_back),
    ("replay an old checkpoint", replay_checkpoint),
    ("fork", fork),
    ("sign with a wrong key", wrong_key),
    ("sign with another trusted key", other_key),
    ("cut the file", cut),
    ("drop a process's segment", drop_run),
    ("strip a tombstone", strip_tombstone),
    ("forge an erase", forge_erase),
    ("leave a user out", leave_out),
    ("leave a leaf out", leave_leaf_out),
    ("exchange owners", exchange_owners),
    ("revive the erased", revive),
];

/// One that is long enough to be changed.
fn any(trail: &Trail, random: &mut Random) -> usize {
    loop {
        let chain = random.below(trail.chains.len());
        if trail.chains[chain].links.len() > 3 {
            return chain;
        }
    }
}

/// A case of a chain whose first changed link is at an index.
fn changed(before: &Trail, mut after: Trail, chain: usize, at: usize, hidden: bool) -> Case {
    if hidden {
        after.chains[chain].renumber();
    }
    let (owner, seq) = (after.chains[chain].owner, at as u64 + 1);
    // A life that begins after an erasure, and that the log does not know yet, is anchored nowhere.
    let of_owner = || before.leaves.iter().filter(|leaf| leaf.owner == owner);
    let erased = of_owner().next_back().is_some_and(|leaf| leaf.kind == LeafKind::Erased);
    let lives: Vec<_> =
        (0..after.chains[chain].links.len()).map(|at| after.chains[chain].link(at).life).collect();
    let is_new = erased && !of_owner().any(|leaf| lives.contains(&leaf.life));
    let anchored = seq <= before.covered(&owner) && !is_new;
    Case { bytes: after.bytes(), expected: Expected::Chain { owner, seq, anchored } }
}

fn store(link: &Link, like: &StoredLink) -> StoredLink {
    StoredLink::new(link.encode().into(), like.details.clone())
}

fn flip_bit(trail: &Trail, _: &Trail, random: &mut Random) -> Case {
    let mut bytes = trail.bytes();
    let at = random.below(bytes.len());
    bytes[at] ^= 1 << random.below(8);
    Case { bytes, expected: Expected::Something }
}

fn edited(link: &Link, random: &mut Random) -> Link {
    let mut link = link.clone();
    loop {
        let before = link.clone();
        match random.below(12) {
            0 => link.kind = *random.pick(&[Kind::Create, Kind::Change, Kind::Note]),
            1 => link.life = Incarnation(u128::from(random.next())),
            2 => link.epoch = Epoch(link.epoch.0 ^ 1 << random.below(40)),
            3 => link.at = Timestamp(random.next() >> 20),
            4 => link.uptime = random.next() >> 30,
            5 => link.run = random.next(),
            6 => link.batch = BatchId(u128::from(random.next())),
            7 if link.events > 0 => link.events += 1,
            8 if link.events > 0 => link.details[random.below(32)] ^= 1,
            9 => link.usage = if link.usage.is_some() { None } else { Some([1; 16]) },
            10 => link.note = Some([random.below(256) as u8; 16]),
            11 => match link.changes.last_mut() {
                Some(Trace::Put { bytes, .. }) if random.chance(2) => *bytes ^= 1,
                Some(Trace::Put { body, .. }) => body[random.below(32)] ^= 1,
                Some(_) => drop(link.changes.pop()),
                None => link.changes.push(Trace::Clear { space: 2 }),
            },
            _ => {}
        }
        if link != before && Link::decode(&link.encode()).is_ok() {
            return link;
        }
        link = before;
    }
}

fn edit_field(trail: &Trail, _: &Trail, random: &mut Random) -> Case {
    let (mut after, chain) = (trail.clone(), any(trail, random));
    let at = random.below(after.chains[chain].links.len());
    let links = &mut after.chains[chain];
    links.links[at] = store(&edited(&links.link(at), random), &links.links[at]);
    changed(trail, after, chain, at, false)
}

fn edit_details(trail: &Trail, _: &Trail, random: &mut Random) -> Case {
    let mut after = trail.clone();
    loop {
        let chain = random.below(after.chains.len());
        let at = random.below(after.chains[chain].links.len());
        let link = &mut after.chains[chain].links[at];
        let Some((salt, details)) = &mut link.details else { continue };
        match random.below(3) {
            0 => salt[random.below(16)] ^= 1,
            1 => *details = details.slice(1..),
            _ => *details = [details, &b" "[..]].concat().into(),
        }
        return Case { bytes: after.bytes(), expected: Expected::Exactly(Problem::Details, at as u64 + 1) };
    }
}

fn delete(trail: &Trail, _: &Trail, random: &mut Random) -> Case {
    let (mut after, chain) = (trail.clone(), any(trail, random));
    let links = &mut after.chains[chain].links;
    let at = match random.below(3) {
        0 => 0,
        1 => links.len() - 1,
        _ => random.below(links.len()),
    };
    links.remove(at);
    changed(trail, after, chain, at, random.chance(2))
}

fn drop_last(trail: &Trail, _: &Trail, random: &mut Random) -> Case {
    let (mut after, chain) = (trail.clone(), any(trail, random));
    let links = &mut after.chains[chain].links;
    let at = random.below(links.len());
    links.truncate(at);
    changed(trail, after, chain, at, false)
}

fn repeat(trail: &Trail, _: &Trail, random: &mut Random) -> Case {
    let (mut after, chain) = (trail.clone(), any(trail, random));
    let links = &mut after.chains[chain].links;
    let at = random.below(links.len());
    links.insert(at, links[at].clone());
    // The first of two equals is as it was.
    changed(trail, after, chain, at + 1, random.chance(2))
}

fn reorder(trail: &Trail, _: &Trail, random: &mut Random) -> Case {
    let (mut after, chain) = (trail.clone(), any(trail, random));
    let links = &mut after.chains[chain].links;
    let (one, other) = (random.below(links.len() - 1), random.below(links.len() - 1));
    let (one, other) = (one.min(other), one.max(other) + 1);
    links.swap(one, other);
    changed(trail, after, chain, one, random.chance(2))
}

fn insert(trail: &Trail, _: &Trail, random: &mut Random) -> Case {
    let (mut after, chain) = (trail.clone(), any(trail, random));
    let at = random.below(after.chains[chain].links.len());
    let mut forged = after.chains[chain].link(at);
    (forged.batch, forged.kind) = (BatchId(u128::from(random.next())), Kind::Note);
    (forged.usage, forged.note, forged.more) = (None, None, false);
    forged.changes.clear();
    let like = after.chains[chain].links[at].clone();
    after.chains[chain].links.insert(at, store(&forged, &like));
    changed(trail, after, chain, at, random.chance(2))
}

fn move_between(trail: &Trail, _: &Trail, random: &mut Random) -> Case {
    let (mut after, from) = (trail.clone(), any(trail, random));
    let to = (from + 1 + random.below(trail.chains.len() - 1)) % trail.chains.len();
    let at = random.below(after.chains[from].links.len());
    let moved = after.chains[from].links.remove(at);
    let place = random.below(after.chains[to].links.len() + 1);
    after.chains[to].links.insert(place, moved);
    let hidden = random.chance(2);
    if hidden {
        after.chains[to].renumber();
    }
    changed(trail, after, from, at, hidden)
}

fn splice(trail: &Trail, _: &Trail, random: &mut Random) -> Case {
    let (mut after, chain) = (trail.clone(), any(trail, random));
    let other = (chain + 1 + random.below(trail.chains.len() - 1)) % trail.chains.len();
    let at = random.below(trail.chains[chain].links.len());
    let rest: Vec<_> = trail.chains[other].links.iter().skip(at).cloned().collect();
    after.chains[chain].links.truncate(at);
    after.chains[chain].links.extend(rest);
    changed(trail, after, chain, at, random.chance(2))
}

fn restart(trail: &Trail, _: &Trail, random: &mut Random) -> Case {
    let (mut after, chain) = (trail.clone(), any(trail, random));
    let links = &mut after.chains[chain].links;
    let from = 1 + random.below(links.len() - 1);
    links.drain(..from);
    let mut first = after.chains[chain].link(0);
    first.kind = Kind::Create;
    if random.chance(2) {
        // A life that the log has not seen.
        first.life = Incarnation(u128::from(random.next()));
    }
    let like = after.chains[chain].links[0].clone();
    after.chains[chain].links[0] = store(&first, &like);
    changed(trail, after, chain, 0, true)
}

fn recompute(trail: &Trail, _: &Trail, random: &mut Random) -> Case {
    let (mut after, chain) = (trail.clone(), any(trail, random));
    let at = random.below(after.chains[chain].links.len());
    let owner = after.chains[chain].owner;
    for place in at..after.chains[chain].links.len() {
        let mut link = after.chains[chain].link(place);
        link.batch = BatchId(link.batch.0 ^ 1);
        after.chains[chain].links[place] = store(&link, &after.chains[chain].links[place].clone());
    }
    // With the leaves, but not the signature.
    let deployment = after.deployment;
    let mut prefix = after.chains[chain].clone();
    let seqs: Vec<_> = (0..after.leaves.len()).filter(|leaf| after.leaves[*leaf].owner == owner).collect();
    let last_era = seqs.iter().rev().position(|leaf| after.leaves[*leaf].kind == LeafKind::Erased);
    let forge = random.chance(2) && last_era.is_none();
    let mut forged = false;
    for leaf in seqs.into_iter().rev().filter(|_| forge) {
        let seq = usize::try_from(after.leaves[leaf].chain.seq).unwrap();
        prefix.links.truncate(seq);
        let head = prefix.end(&deployment);
        forged |= after.leaves[leaf].chain != head;
        after.leaves[leaf].chain = head;
    }
    if forged {
        return Case { bytes: after.bytes(), expected: Expected::Problem(&[Problem::Root]) };
    }
    changed(trail, after, chain, at, false)
}

fn truncate_and_resume(trail: &Trail, _: &Trail, random: &mut Random) -> Case {
    let (mut after, chain) = (trail.clone(), any(trail, random));
    let length = after.chains[chain].links.len();
    let at = 1 + random.below(length - 1);
    after.chains[chain].links.truncate(at);
    let mut forged = after.chains[chain].link(at - 1);
    (forged.kind, forged.more, forged.events, forged.details) = (Kind::Note, false, 0, [0; 32]);
    (forged.usage, forged.note) = (None, None);
    forged.changes.clear();
    for place in at..length + random.below(3) {
        forged.seq = place as u64 + 1;
        forged.batch = BatchId(u128::from(random.next()));
        after.chains[chain].links.push(StoredLink::new(forged.encode().into(), None));
    }
    changed(trail, after, chain, at, false)
}

fn renumber(trail: &Trail, _: &Trail, random: &mut Random) -> Case {
    let (mut after, chain) = (trail.clone(), any(trail, random));
    let at = random.below(after.chains[chain].links.len());
    for place in at..after.chains[chain].links.len() {
        let mut link = after.chains[chain].link(place);
        link.seq += 1;
        after.chains[chain].links[place] = store(&link, &after.chains[chain].links[place].clone());
    }
    changed(trail, after, chain, at, false)
}

fn swap_heads(trail: &Trail, _: &Trail, random: &mut Random) -> Case {
    let mut after = trail.clone();
    loop {
        let (one, other) = (random.below(after.leaves.len()), random.below(after.leaves.len()));
        let chains = (after.leaves[one].chain, after.leaves[other].chain);
        if chains.0 != chains.1 {
            (after.leaves[other].chain, after.leaves[one].chain) = chains;
            return Case { bytes: after.bytes(), expected: Expected::Problem(&[Problem::Root]) };
        }
    }
}

fn roll_back(_: &Trail, past: &Trail, random: &mut Random) -> Case {
    let mut after = past.clone();
    // Back to any checkpoint of before.
    let checkpoint = random.below(after.sizes.len());
    back_to(&mut after, checkpoint);
    Case { bytes: after.bytes(), expected: Expected::Problem(&[Problem::Replayed]) }
}

/// A trail as it was at a checkpoint, as far as the log knows.
fn back_to(trail: &mut Trail, checkpoint: usize) {
    let size = usize::try_from(trail.sizes[checkpoint]).unwrap();
    trail.sizes.truncate(checkpoint + 1);
    trail.checkpoints.truncate(checkpoint + 1);
    trail.leaves.truncate(size);
    let leaves = trail.leaves.clone();
    trail.chains.retain_mut(|chain| {
        let last = leaves.iter().rev().find(|leaf| leaf.owner == chain.owner);
        let Some(last) = last else { return false };
        chain.links.truncate(usize::try_from(last.chain.seq).unwrap());
        // A later life's links say nothing of an earlier one.
        !chain.links.is_empty() && chain.link(chain.links.len() - 1).life == last.life
    });
}

fn replay_checkpoint(trail: &Trail, _: &Trail, random: &mut Random) -> Case {
    let mut after = trail.clone();
    if random.chance(2) {
        // The checkpoints alone.
        let kept = 1 + random.below(after.sizes.len() - 1);
        after.checkpoints.truncate(kept);
    } else {
        let checkpoint = random.below(after.sizes.len() - 1);
        back_to(&mut after, checkpoint);
    }
    Case { bytes: after.bytes(), expected: Expected::Problem(&[Problem::Replayed]) }
}

/// By who has the log's key: two roots of one size.
fn fork(trail: &Trail, _: &Trail, random: &mut Random) -> Case {
    let mut after = trail.clone();
    let size = *after.sizes.last().unwrap();
    let mut other = after.leaves.clone();
    let at = random.below(other.len());
    other[at].chain.head[random.below(32)] ^= 1;
    let note = sign(size, Tree::of(&other).root(size), key_of(size));
    match random.below(3) {
        // Beside the other one.
        0 => after.checkpoints.push(note),
        // In its place, with the leaves that it signs.
        1 => {
            *after.checkpoints.last_mut().unwrap() = note;
            after.leaves = other;
        }
        // And on from there.
        _ => {
            other.push(other[at]);
            let size = other.len() as u64;
            after.checkpoints.pop();
            after.checkpoints.push(sign(size, Tree::of(&other).root(size), key_of(size)));
            after.leaves = other;
        }
    }
    Case { bytes: after.bytes(), expected: Expected::Problem(&[Problem::Fork, Problem::Root]) }
}

fn resigned(trail: &Trail, key: impl Fn(usize) -> usize, random: &mut Random) -> Trail {
    let mut after = trail.clone();
    let at = random.below(after.sizes.len());
    let size = after.sizes[at];
    after.checkpoints[at] = sign(size, Tree::of(&after.leaves).root(size), key(key_of(size)));
    after
}

fn wrong_key(trail: &Trail, _: &Trail, random: &mut Random) -> Case {
    let after = resigned(trail, |_| 2, random);
    Case { bytes: after.bytes(), expected: Expected::Problem(&[Problem::Signature]) }
}

fn other_key(trail: &Trail, _: &Trail, random: &mut Random) -> Case {
    let after = resigned(trail, |key| 1 - key, random);
    Case { bytes: after.bytes(), expected: Expected::Problem(&[Problem::Key]) }
}

fn cut(trail: &Trail, _: &Trail, random: &mut Random) -> Case {
    let mut bytes = trail.bytes();
    loop {
        let at = 1 + random.below(bytes.len() - 1);
        if bytes[at - 1] != b'\n' {
            bytes.truncate(at);
            return Case { bytes, expected: Expected::Torn };
        }
    }
}

fn drop_run(trail: &Trail, _: &Trail, random: &mut Random) -> Case {
    let (mut after, chain) = (trail.clone(), any(trail, random));
    let at = random.below(after.chains[chain].links.len());
    let run = after.chains[chain].link(at).run;
    let runs: Vec<_> =
        (0..after.chains[chain].links.len()).map(|at| after.chains[chain].link(at).run).collect();
    let first = runs.iter().position(|other| *other == run).unwrap();
    let mut kept = runs.iter().map(|other| *other != run);
    after.chains[chain].links.retain(|_| kept.next().unwrap());
    changed(trail, after, chain, first, random.chance(2))
}

fn strip_tombstone(trail: &Trail, _: &Trail, random: &mut Random) -> Case {
    let mut after = trail.clone();
    let tombs: Vec<_> =
        (0..after.leaves.len()).filter(|leaf| after.leaves[*leaf].kind == LeafKind::Erased).collect();
    let tomb = *random.pick(&tombs);
    if random.chance(2) {
        after.leaves.remove(tomb);
    } else {
        after.leaves[tomb].kind = LeafKind::Head;
    }
    Case { bytes: after.bytes(), expected: Expected::Problem(&[Problem::Root]) }
}

const fn erased(leaf: &Leaf) -> Leaf {
    Leaf::new(LeafKind::Erased, leaf.owner, leaf.life, leaf.chain)
}

fn forge_erase(trail: &Trail, _: &Trail, random: &mut Random) -> Case {
    let (mut after, chain) = (trail.clone(), any(trail, random));
    let owner = after.chains[chain].owner;
    let living = after.logged(&owner) > 0;
    let last = after.leaves.iter().rposition(|leaf| leaf.owner == owner).unwrap();
    let leaf = erased(&after.leaves[last]);
    after.chains.remove(chain);
    if living && random.chance(2) {
        after.leaves.push(leaf);
        return Case { bytes: after.bytes(), expected: Expected::Problem(&[Problem::Missing]) };
    }
    if living {
        after.leaves[last] = leaf;
    } else {
        after.leaves.remove(last);
    }
    Case { bytes: after.bytes(), expected: Expected::Problem(&[Problem::Root]) }
}

fn leave_out(trail: &Trail, _: &Trail, random: &mut Random) -> Case {
    let mut after = trail.clone();
    loop {
        let chain = random.below(after.chains.len());
        if after.logged(&after.chains[chain].owner) > 0 {
            after.chains.remove(chain);
            return Case { bytes: after.bytes(), expected: Expected::Problem(&[Problem::Missing]) };
        }
    }
}

fn leave_leaf_out(trail: &Trail, _: &Trail, random: &mut Random) -> Case {
    let mut items = trail.items();
    let first = items.len() - trail.checkpoints.len() - trail.leaves.len();
    items.remove(first + random.below(trail.leaves.len()));
    Case { bytes: written(&items), expected: Expected::Problem(&[Problem::Unproven]) }
}

fn exchange_owners(trail: &Trail, _: &Trail, random: &mut Random) -> Case {
    let (mut after, one) = (trail.clone(), any(trail, random));
    let other = loop {
        let other = random.below(trail.chains.len());
        if other != one && trail.logged(&trail.chains[other].owner) > 0 {
            break other;
        }
    };
    (after.chains[one].owner, after.chains[other].owner) =
        (trail.chains[other].owner, trail.chains[one].owner);
    changed(trail, after, one, 0, false)
}

/// An erasure that nobody signed, so that a chain can begin again after it.
fn revive(trail: &Trail, _: &Trail, random: &mut Random) -> Case {
    let mut after = trail.clone();
    let chain = loop {
        let chain = any(trail, random);
        if after.logged(&after.chains[chain].owner) > 0 {
            break chain;
        }
    };
    let owner = after.chains[chain].owner;
    let last = *after.leaves.iter().rev().find(|leaf| leaf.owner == owner).unwrap();
    after.leaves.push(erased(&last));
    let mut first = after.chains[chain].link(0);
    first.life = Incarnation(u128::from(random.next()));
    let like = after.chains[chain].links[0].clone();
    after.chains[chain].links = vec![store(&first, &like)];
    changed(trail, after, chain, 0, false)
}

fn judge(kind: &str, case: &Case, report: &Report) {
    let found = problems(report);
    match &case.expected {
        Expected::Something => assert_ne!(report.verdict(), Verdict::Clean, "{kind}"),
        Expected::Torn => {
            assert_eq!(report.verdict(), Verdict::Torn, "{kind}: {found:?}");
            assert!(found.contains(&Problem::TornEnd));
        }
        Expected::Problem(any) => {
            assert_eq!(report.verdict(), Verdict::Bad, "{kind}");
            assert!(any.iter().any(|problem| found.contains(problem)), "{kind}: {found:?}");
        }
        Expected::Exactly(problem, seq) => {
            assert_eq!(found, [*problem], "{kind}");
            assert_eq!(report.all().next().unwrap().seq, Some(*seq), "{kind}");
        }
        Expected::Chain { owner, seq, anchored } => {
            let user = report.user(owner);
            // What is wrong with a chain that a link was moved into is another matter.
            if let (false, Some(user)) = (anchored, user)
                && user.findings.is_empty()
            {
                assert!(user.anchored_to.is_none_or(|to| to < *seq), "{kind}: anchored over {seq}");
                return;
            }
            assert_eq!(report.verdict(), Verdict::Bad, "{kind} at {seq}: {found:?}");
            let first = user.and_then(|user| user.findings.first()).copied();
            let first = first.unwrap_or_else(|| panic!("{kind} at {seq}: not said of whom: {found:?}"));
            let (from, until) = (first.seq.unwrap(), first.until.unwrap());
            assert!(
                from <= *seq && *seq <= until,
                "{kind} at {seq}: said to be in {from}..={until}: {:?}",
                user.unwrap().findings
            );
        }
    }
}

/// `SYNTHA_TAMPER_PLACES` of each kind, 25 unless told.
pub(crate) fn places() -> usize {
    std::env::var("SYNTHA_TAMPER_PLACES").map_or(25, |count| count.parse().unwrap())
}

#[tokio::test]
async fn every_kind_of_tampering_is_found() {
    let places = places();
    let mut unanchored = 0;
    for (number, (kind, tamper)) in (1..).zip(KINDS) {
        let mut random = Random(number * 0x5EED);
        let mut world = World::new(number, false).await;
        for place in 0..places {
            if place % 50 == 49 {
                world = World::new(number + place as u64 * 1_000, false).await;
            }
            let case = tamper(&world.trail, &world.past, &mut random);
            let report = verify(&case.bytes, world.trail.checkpoints.last().map(String::as_str), Scope::All);
            judge(kind, &case, &report);
            unanchored += usize::from(matches!(case.expected, Expected::Chain { anchored: false, .. }));
        }
    }
    println!(
        "evidence: {} kinds of tampering at {places} random places each, {} with a checkpoint after the change all found, \
         {unanchored} without one found or reported as not anchored",
        KINDS.len(),
        KINDS.len() * places - unanchored,
    );
}

/// The same where the file holds only the leaves of its chains, with proofs.
#[tokio::test]
async fn a_part_of_the_log_is_proven() {
    let world = World::new(77, false).await;
    let kept = world.trail.checkpoints.last().unwrap();
    let mut part = world.trail.clone();
    part.chains.truncate(3);
    let items = part.proven_items();
    let report = verify(&written(&items), Some(kept), Scope::Part);
    assert_eq!(problems(&report), []);
    assert_eq!(report.rebuilt, 0);
    for user in &report.users {
        assert_eq!(user.anchored_to, Some(world.trail.covered(&user.owner)));
    }
    // The same is not the whole log.
    assert!(problems(&verify(&written(&items), Some(kept), Scope::Log)).contains(&Problem::Unproven));
    let mut random = Random(0x9A27);
    for _ in 0..places() {
        let (at, mut changed) = (random.below(items.len()), items.clone());
        let expected: &[Problem] = match &mut changed[at] {
            Item::Leaf { leaf, .. } => {
                leaf.chain.head[random.below(32)] ^= 1;
                &[Problem::Proof]
            }
            Item::Proof { hashes, .. } if random.chance(2) => {
                hashes.pop();
                &[Problem::Proof]
            }
            Item::Proof { hashes, .. } => {
                let at = random.below(hashes.len());
                hashes[at][random.below(32)] ^= 1;
                &[Problem::Proof]
            }
            Item::Consistency { hashes, .. } if !hashes.is_empty() => {
                let at = random.below(hashes.len());
                hashes[at][random.below(32)] ^= 1;
                &[Problem::Consistency]
            }
            Item::Link { stored, seq } if *seq <= 3 => {
                let link = edited(&Link::decode(&stored.text).unwrap(), &mut random);
                *stored = store(&link, stored);
                &[Problem::Head, Problem::Kind, Problem::Life, Problem::Epoch]
            }
            _ => continue,
        };
        let report = verify(&written(&changed), Some(kept), Scope::Part);
        assert_eq!(report.verdict(), Verdict::Bad);
        let found = problems(&report);
        assert!(expected.iter().any(|problem| found.contains(problem)), "{found:?}, not {expected:?}");
    }
    for left_out in 0..items.len() {
        let expected = match &items[left_out] {
            Item::Proof { .. } => Problem::Unproven,
            Item::Consistency { .. } => Problem::Unlinked,
            _ => continue,
        };
        let mut fewer = items.clone();
        fewer.remove(left_out);
        // Without the leaf of an erasure, what comes after it is wrong too.
        assert!(problems(&verify(&written(&fewer), Some(kept), Scope::Part)).contains(&expected));
    }
}

/// As many worlds as places, with clocks that jump in half of them; with and without details, keys and a kept checkpoint.
#[tokio::test]
async fn clean_trails_raise_no_alarm() {
    let (mut links, mut steps) = (0, 0);
    let worlds = places().div_ceil(5);
    for seed in 0..worlds as u64 {
        let world = World::new(1_000 + seed, seed % 2 == 1).await;
        let items = world.trail.items();
        for (number, kept) in (0..).zip(&world.trail.checkpoints) {
            // The erased user's chain is in an older file.
            let report = verify(&written(&items), Some(kept), Scope::All);
            assert_eq!(problems(&report), [], "seed {seed}, checkpoint {number}");
            assert_eq!(report.verdict(), Verdict::Clean);
            assert_eq!(report.rebuilt, *world.trail.sizes.last().unwrap());
            for user in &report.users {
                assert_eq!(user.anchored_to, Some(world.trail.covered(&user.owner)));
                links += user.to;
                steps += user.clock_steps;
            }
        }
        let redacted: Vec<_> = items.iter().cloned().map(Item::redacted).collect();
        let report = verify(&written(&redacted), None, Scope::All);
        assert_eq!(problems(&report), []);
        assert!(report.users.iter().any(|user| user.redacted > 0));
        assert!(
            report.users.iter().any(|user| user.erased) && report.users.iter().any(|user| user.restores > 0)
        );
        // Without keys nothing is anchored, and nothing is wrong.
        let mut verifier = Verifier::new(TrustedKeys::default()).scope(Scope::All);
        verifier.read(&*world.trail.bytes()).unwrap();
        let report = verifier.finish();
        assert_eq!(problems(&report), []);
        assert!(report.users.iter().all(|user| user.anchored_to.is_none()));
        // An old file, for who has kept nothing newer.
        assert_eq!(problems(&verify(&world.past.bytes(), None, Scope::All)), []);
    }
    assert!(steps > 0 || worlds < 2);
    println!(
        "evidence: {links} links of {worlds} deployments verified, {steps} steps of the clock back, 0 false alarms"
    );
}

/// A pruned chain is taken if a signed leaf says so, and not else.
#[tokio::test]
async fn a_late_start_needs_a_signed_leaf() {
    let world = World::new(5, false).await;
    let mut trail = world.trail.clone();
    let chain = trail.chains.iter().position(|chain| trail.logged(&chain.owner) > 4).unwrap();
    let (owner, at) = (trail.chains[chain].owner, 3);
    let mut prefix = trail.chains[chain].clone();
    prefix.links.truncate(at);
    let mut floor = prefix.end(&trail.deployment);
    floor.seq += 1;
    let late = |trail: &Trail| {
        let mut items = trail.items();
        let first = items
            .iter()
            .position(|item| matches!(item, Item::Trail(header) if header.owner == owner))
            .unwrap();
        if let Item::Trail(header) = &mut items[first] {
            *header = header.clone().with_floor(Some(floor));
        }
        items.drain(first + 1..=first + at);
        written(&items)
    };
    let report = verify(&late(&trail), None, Scope::All);
    assert_eq!(problems(&report), [Problem::Floor]);
    let life = prefix.link(at - 1).life;
    trail.leaves.push(Leaf::new(LeafKind::Floor, owner, life, floor));
    // A leaf that nobody signed.
    assert_eq!(problems(&verify(&late(&trail), None, Scope::All)), [Problem::Floor]);
    let size = trail.leaves.len() as u64;
    trail.checkpoints.push(sign(size, Tree::of(&trail.leaves).root(size), key_of(size)));
    let report = verify(&late(&trail), None, Scope::All);
    assert_eq!(problems(&report), []);
    assert_eq!(report.user(&owner).unwrap().from, floor.seq);
}

#[test]
fn keys_are_read_strictly() {
    for bad in [
        String::new(),
        KEYS[0].1.to_owned(),
        format!("0 {}\n0 {}", KEYS[0].1, KEYS[1].1),
        format!("{ROTATED} {}\n0 {}", KEYS[0].1, KEYS[1].1),
        format!("0 {}x", KEYS[0].1),
        format!("-1 {}", KEYS[0].1),
    ] {
        assert!(TrustedKeys::parse(&bad).is_err(), "{bad}");
    }
    let keys = TrustedKeys::parse(&trusted()).unwrap();
    assert!(Checkpoint::parse(&sign(3, [1; 32], 0), &keys).is_ok());
    assert!(Checkpoint::parse(&sign(3, [1; 32], 1), &keys).is_err());
}
