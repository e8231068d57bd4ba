//! The table over a layer that seals, and the raw store below it: what an attacker has who holds the storage, and all of it or a part
//! of the keystore, and not the key that wraps. Each bullet is the name of a check.
//!
//! Sealed data is bound to its place (`swaps.rs`):
//!
//! - `sealed_as_the_format_says`: what is stored opens by hand from `docs/envelope-v1.md` and the keystore's rows, and the layer takes what was sealed so.
//! - `sealed_swap_deployment`: a blob that differs in nothing but the deployment does not open.
//! - `sealed_swap_user`: the same of the user.
//! - `sealed_swap_life`: the same of the user's life.
//! - `sealed_swap_keyspace`: the same of the keyspace.
//! - `sealed_swap_name`: the same of the stored name.
//! - `sealed_swap_seq`: the same of the sequence number.
//! - `sealed_swap_version`: the same of the version, and of the body's version.
//! - `sealed_swap_expiry`: the same of the expiry, and of the expiry that stands beside it.
//! - `sealed_swap_epoch`: the same of the key's epoch, and of the algorithm.
//! - `sealed_swap_part`: a head is no body, a body no head, and a note neither.
//! - `sealed_swap_audience`: the heads of two entries of one user are not exchanged.
//! - `sealed_swap_of_any_two`: of all records, also of a user's past and of another user, none opens in the place of another.
//! - `sealed_splice`: a record's body goes with the head that it was written with, and with no other.
//!
//! It is whole, and sealed (`changes.rs`):
//!
//! - `sealed_changed_bytes`: a head or body that was changed, cut or extended in any part is `Tampered`, on every way of reading.
//! - `sealed_stripped`: an empty head or body in the place of a sealed one is `Tampered`.
//! - `sealed_plaintext`: readable data in the place of sealed data is `Tampered`, bodies and whole records.
//! - `sealed_note_changed`: a user whose note was changed, cut, emptied or taken from another user does not open.
//!
//! What decides who may do what is all there, and as new as the rest (`rollbacks.rs`):
//!
//! - `sealed_agent_rolled_back_is_noticed`: an agent's earlier record, put back, is `Tampered` when the user is opened.
//! - `sealed_agent_deleted_is_noticed`: so is an agent that was taken away.
//! - `sealed_agent_added_from_before_is_noticed`: so is an agent that was removed, and comes back.
//! - `sealed_ledger_rolled_back_is_noticed`: so is each of them in the deployment's own ledger.
//! - `sealed_accounts_rolled_back_are_noticed`: and in its accounts, tokens and sessions.
//! - `sealed_snapshot_rolled_back_is_noticed`: a snapshot of such data ends with `Tampered`.
//! - `sealed_note_of_before_is_refused`: an earlier note is `Tampered`, alone and with the records of its time.
//! - `sealed_roster_follows_every_write`: after any puts, head-only puts, deletes and clears the user opens.
//! - `sealed_version_above_the_epoch`: a record of a later commit than the user stands at is `Tampered`.
//!
//! Keys (`keys.rs`):
//!
//! - `sealed_wrong_key_changes_nothing`: another wrapping key is `KeyRefused`, and nothing is written before that.
//! - `sealed_other_keystore_refused`: the keystore of another deployment opens nothing, also with this one's rows in it.
//! - `sealed_key_of_another_user_refused`: a user's rows of wrapped keys are of no use under another user's tag or life.
//! - `sealed_header_changed_refused`: a keystore whose header names another mode or deployment does not open.
//! - `sealed_erase_destroys_keys`: after an erase no copy of the raw data opens, and the erase says how many keys it destroyed.
//! - `sealed_recreated_reads_nothing_of_before`: a recreated user opens nothing of the former life.
//! - `sealed_import_destroys_former_keys`: an import ends the keys of the life that it replaces.
//! - `sealed_debug_shows_no_key`: no `Debug` of what holds keys shows one.
//!
//! What can be seen (`hides.rs`):
//!
//! - `sealed_names_are_nowhere`: no name, value or id that a user wrote is in a file or raw record.
//! - `sealed_values_are_nowhere`: the same of bodies alone, in the mode that seals these alone.
//! - `sealed_sizes_are_padded`: heads and bodies of nearby lengths are stored in the same length.
//! - `sealed_expiry_is_rounded`: no expiry is stored more exactly than to a minute.
//! - `sealed_salts_are_never_shared`: no two blobs have the same salt, over many records and rewrites.
//! - `sealed_users_share_no_bytes`: what two users store of the same data has no sixteen bytes in common.
//! - `sealed_users_share_no_name`: nor do they share a stored name.

mod attacker;
mod changes;
mod hides;
mod keys;
mod lens;
mod rollbacks;
mod swaps;

use bytes::Bytes;
use syntha_encryption::Mode;
use syntha_store::{
    Batch, ErrorKind, Keyspace, Op, RecordId, Result, Scan, Store, Timestamp, UserStore, UserTag,
};

use crate::harness::{Bed, Check};
pub(crate) use crate::store::checks;
use crate::store::{batch, kind, seq};
use attacker::{Forged, Raw};
use lens::Lens;

/// All checks over what a mode seals.
#[must_use]
pub fn sealed_checks(mode: Mode) -> Vec<Check> {
    let own = match mode {
        Mode::Sealed => hides::SEALED_CHECKS,
        _ => hides::VALUES_CHECKS,
    };
    [swaps::CHECKS, changes::CHECKS, rollbacks::CHECKS, keys::CHECKS, hides::CHECKS, own].concat()
}

/// The keyspaces of a user.
const SPACES: [Keyspace; 10] = [
    Keyspace::Meta,
    Keyspace::Context,
    Keyspace::Agents,
    Keyspace::History,
    Keyspace::Audit,
    Keyspace::Operations,
    Keyspace::Threads,
    Keyspace::MessageIds,
    Keyspace::Interactions,
    Keyspace::Undo,
];

/// Those that are written from above: a trail is not.
fn spaces(bed: &Bed) -> Vec<Keyspace> {
    SPACES.into_iter().filter(|space| !bed.audited() || *space != Keyspace::Audit).collect()
}

/// What a record is called above the layer.
type Called = (Keyspace, &'static str, u64);

fn text(of: &str) -> Bytes {
    Bytes::copy_from_slice(of.as_bytes())
}

/// A user with records in every keyspace that differ in one thing or another: the data before and after its last commit.
struct Filled {
    tag: UserTag,
    lens: Lens,
    before: Raw,
    raw: Raw,
    spaces: Vec<Keyspace>,
}

impl Filled {
    async fn new(bed: &Bed, user: &str) -> Self {
        let tag = bed.tag(user);
        let handle = bed.user(user).await;
        let (mut next, spaces) = (batch(), spaces(bed));
        for space in spaces.iter().copied() {
            for name in ["k", "l"] {
                for n in 0..2 {
                    next = next.put(space, seq(name, n), text("head"), text(&format!("{user}-{name}-{n}")));
                }
            }
        }
        handle.commit(next).await.unwrap();
        handle.commit(named(batch(), 1)).await.unwrap();
        let before = Raw::of_user(&*bed.below(), tag).await;
        let op = |name: &str, expires| Op::PutHead {
            space: Keyspace::Context,
            id: seq(name, 0),
            head: text("other head"),
            expires,
        };
        let next = batch().op(op("kept", None)).op(op("kept empty", None));
        let next = next.put(Keyspace::Context, seq("again", 0), text("head"), text("body 2"));
        handle
            .commit(next.put(Keyspace::Agents, seq("again", 0), text("head"), text("agent 2")))
            .await
            .unwrap();
        let raw = Raw::of_user(&*bed.below(), tag).await;
        let life = raw.state.stamp.incarnation;
        Self { tag, lens: Lens::of(&*bed.keys(), *tag.as_bytes(), life).await, before, raw, spaces }
    }

    fn place(&self, (space, name, seq): Called) -> (Keyspace, RecordId) {
        self.lens.place(space, name, seq)
    }

    fn targets(&self) -> Vec<Called> {
        TARGETS.iter().filter(|(space, ..)| self.spaces.contains(space)).copied().collect()
    }

    /// Every record that was written by name, and not only in a keyspace's four.
    fn called(&self) -> Vec<Called> {
        let mut all = self.targets();
        for space in self.spaces.iter().copied() {
            all.extend([(space, "k", 0), (space, "k", 1), (space, "l", 0), (space, "l", 1)]);
        }
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// Records of every kind.
const TARGETS: &[Called] = &[
    (Keyspace::Context, "k", 1),
    (Keyspace::Context, "expires", 0),
    (Keyspace::Context, "kept", 0),
    (Keyspace::Context, "kept empty", 0),
    (Keyspace::Context, "empty", 0),
    (Keyspace::Context, "again", 0),
    (Keyspace::Agents, "again", 0),
    (Keyspace::History, "k", 1),
    (Keyspace::Audit, "l", 0),
];

fn named(batch: Batch, round: u32) -> Batch {
    let put = |name: &str, body: &str, expires: Option<u64>| Op::Put {
        space: Keyspace::Context,
        id: seq(name, 0),
        head: text("head"),
        body: text(body),
        expires: expires.map(Timestamp),
    };
    let batch = batch
        .op(put("expires", "body", Some(1_700_000_012_345)))
        .op(put("lasts", "body", None))
        .op(put("kept", "body", None))
        .op(put("kept empty", "", None))
        .op(put("empty", "", None))
        .op(put("again", &format!("body {round}"), None));
    batch.put(Keyspace::Agents, seq("again", 0), text("head"), text(&format!("agent {round}")))
}

/// Opens a user of whom the storage shows this.
async fn open_forged(bed: &Bed, tag: UserTag, raw: Raw) -> Result<std::sync::Arc<dyn UserStore>> {
    bed.over(Forged::user(tag, raw)).open(tag).await
}

/// What each way of reading a record answers: by id, by a scan of its name, of its keyspace, and of the keyspace's heads.
async fn answers(user: &dyn UserStore, (space, name, n): Called) -> Vec<Option<ErrorKind>> {
    let fails = |result: Result<()>| result.err().map(|error| error.kind());
    let scan = async |scan: Scan| fails(user.scan(scan).await.map(drop));
    vec![
        fails(user.read(space, &[seq(name, n)]).await.map(|read| {
            assert!(read.value[0].is_some(), "it is not there");
        })),
        scan(Scan::records(space, 1_000).name(text(name))).await,
        scan(Scan::records(space, 1_000)).await,
        scan(Scan::heads(space, 1_000)).await,
    ]
}

/// No way of reading gives a record of which the storage shows this. The user opens: it is the record that is refused.
async fn assert_tampered(bed: &Bed, tag: UserTag, raw: Raw, called: Called, head: bool, why: &str) {
    let user = open_forged(bed, tag, raw).await.unwrap();
    assert_refused(&*user, called, head, why).await;
    assert_eq!(kind(attacker::drained(&*user).await), ErrorKind::Tampered, "{why}: {called:?}, a snapshot");
}

async fn assert_refused(user: &dyn UserStore, called: Called, head: bool, why: &str) {
    let ways = answers(user, called).await;
    let most = if head { 4 } else { 3 };
    assert!(
        ways.iter().take(most).all(|answer| *answer == Some(ErrorKind::Tampered)),
        "{why}: {called:?} answers {ways:?}"
    );
}

/// Puts bytes in a record's place below, with everything about it as it was.
async fn rewrite(
    below: &dyn Store,
    tag: UserTag,
    place: &(Keyspace, RecordId),
    raw: &Raw,
    head: &[u8],
    body: &[u8],
) {
    let mut batch = Batch::new(Timestamp(0)).unwrap().op(Op::Rewrite {
        space: place.0,
        id: place.1.clone(),
        version: raw.records[place].head.version,
        head: Bytes::copy_from_slice(head),
        body: Bytes::copy_from_slice(body),
    });
    batch.sealed = true;
    below.open(tag).await.unwrap().commit(batch).await.unwrap();
}
