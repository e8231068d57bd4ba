//! The table over a layer that keeps an audit trail, and the bare store below all layers. Each bullet is the name of a check.
//!
//! No change without a link, no link without a change (`chain.rs`):
//!
//! - `audit_commit_makes_one_link`: each commit makes one link, whose traces are of its operations in their order and fit what is stored.
//! - `audit_rewrite_is_chained`: so does sealing a record again, which raises no epoch.
//! - `audit_chain_verifies_from_genesis`: by hand from `docs/audit-v1.md`: hashes from the genesis to where the user's row says.
//! - `audit_handles_make_one_chain`: commits of several handles, by turns and at once, make one chain without a fork.
//! - `audit_conflict_leaves_no_link`: a batch that is refused leaves the chain as it was.
//! - `audit_keyspace_is_closed`: no layer above writes a record of the trail or the chain's end, in a commit or a create.
//! - `audit_begins_over_what_is_there`: a chain over data from before it lists what was there.
//!
//! What was done (`events.rs`):
//!
//! - `audit_events_land_in_their_link`: a link has the details of its batch's events, and its text covers them.
//! - `audit_events_alone_raise_no_epoch`: a batch of events alone moves the chain and nothing else.
//! - `audit_tells_no_name`: no name, agent or value is in the records of the trail.
//! - `audit_details_open_as_long_as_the_user_is`: details open after a restore, and not after an erasure.
//!
//! How much there is of it (`bounds.rs`):
//!
//! - `audit_refused_sessions_are_bounded`: however many names are refused in an interval, the deployment's chain grows by two links at
//!   most, with a few entries that leave nobody out of the counts.
//! - `audit_full_trail_refuses_its_user_alone`: what would take a user's trail past its limit is refused and leaves nothing, by every process
//!   and after a reopening; nobody else's is, nor an erasure.
//!
//! Lives (`lives.rs`):
//!
//! - `audit_new_life_begins_at_genesis`: a user that is made again has a chain and a key of its own.
//! - `audit_restore_goes_on`: a restore keeps every link, and lists the archive's records in new ones.
//! - `audit_restore_of_nobody_goes_on_with_the_archives`: where no data is, the archive's own chain goes on.
//! - `audit_restore_of_another_chain_refused`: an archive whose links do not end in the chain that it names changes nothing.
//!
//! Somebody writes below the layer (`tampers.rs`):
//!
//! - `audit_last_link_dropped_is_noticed`: a user whose last links were taken away does not open.
//! - `audit_row_of_before_is_noticed`: nor does one whose chain's end was put back to an earlier link.
//! - `audit_change_without_link_is_noticed`: nor does one whose data moved on without a link.
//! - `audit_deployment_is_checked_too`: the same of the deployment's own space.
//! - `audit_record_put_back_differs`: a record that was put back, changed or taken away is not what the chain leads to.
//!
//! The log, over the backend without what seals (`log.rs`):
//!
//! - `audit_log_signs_no_cut_chain`: links that were taken away, with a row that calls it a prune, are signed by nobody.
//! - `audit_log_floor_has_its_leaf`: nor is it a prune where the log knows the chain and no leaf says so.
//! - `audit_log_leaf_rewritten_is_noticed`: a leaf, or what is kept beside it, that was changed or taken away is noticed by whoever opens the log.
//! - `audit_log_passes_over_an_ended_life`: what one process did before another erased and made the user anew is not logged after it.
//! - `audit_log_index_counts_under_its_key_alone`: what was kept of the log for the next start, and somebody changed or removed since, is not believed: all leaves are
//!   read, and come to the same.

mod bounds;
mod chain;
mod events;
mod lives;
mod log;
mod tampers;
mod trail;

use std::sync::Arc;

use bytes::Bytes;
use syntha_store::{Action, Event, Events, Timestamp, UserStore};

use crate::harness::{Bed, Check};
pub(crate) use crate::store::checks;
use trail::Trail;

/// All checks over a trail.
#[must_use]
pub fn audit_checks() -> Vec<Check> {
    [chain::CHECKS, events::CHECKS, bounds::CHECKS, lives::CHECKS, tampers::CHECKS, log::CHECKS].concat()
}

/// A read of an entry, by an agent.
fn event(agent: &str, key: &str) -> Event {
    Event::new(Timestamp(10), Action::Read).by(Some(agent.into())).on(key.into()).bytes(3)
}

fn events(of: &[Event]) -> Events {
    Events::Clear(of.to_vec())
}

fn text(of: &str) -> Bytes {
    Bytes::copy_from_slice(of.as_bytes())
}

/// A user with a few commits, of each kind of operation.
async fn filled(bed: &Bed, user: &str) -> Arc<dyn UserStore> {
    let handle = bed.user(user).await;
    for batch in chain::batches() {
        handle.commit(batch).await.unwrap();
    }
    handle
}
