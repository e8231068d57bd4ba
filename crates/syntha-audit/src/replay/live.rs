//! A replay of data that others write while it is read: the deployment's own, which has no snapshot.

use bytes::Bytes;
use syntha_store::{
    ChainHead, Error, ErrorKind, KeyFingerprint, Keyspace, Record, RecordId, Result, Scan, UserStore,
};

use super::{Found, Moving, Replayed, StateReport, found};
use crate::digests::Digests;
use crate::link::{Link, StoredLink};
use crate::retention::floor;
use crate::trail::Header;
use crate::user_store::{key_id, link_id};
use crate::verify::Problem;
use crate::verify::chain::Chain;

/// How often it is begun again because links were pruned meanwhile.
const TRIES: usize = 16;
/// How many records a page has.
const PAGE: usize = 1_000;
/// How many links are read at a time.
const LINKS: usize = 256;

/// INVARIANT: every page is of one moment between two states of the data's row. A record is right if it is what the chain says of any of
/// these moments: what links of that while do not touch has one answer, and what they touch has those that they gave it.
pub(super) async fn replay(
    inner: &dyn UserStore,
    deployment: &KeyFingerprint,
    owner: &[u8; 32],
) -> Result<StateReport> {
    for _ in 0..TRIES {
        let begins = floor(inner).await?;
        let before = inner.state().await?;
        let key = inner.read(Keyspace::Audit, &[key_id()?]).await?.value.into_iter().next().flatten();
        let digests = key.and_then(|key| Digests::new(&key.body).ok());
        let (count, found) = records(inner, digests.as_ref()).await?;
        let state = inner.state().await?;
        let header = Header::new(String::new(), *deployment, *owner).with_floor(begins.map(|at| at.start()));
        let mut chain = Chain::new(&header, 0);
        let (mut replayed, mut moving) = (Replayed::default(), Moving::new());
        let mut at = begins.map_or(0, |at| at.before().seq);
        while at < state.chain.seq {
            let scan = Scan::records(Keyspace::Audit, LINKS).name(Bytes::new()).from(link_id(at)?);
            let page = inner.scan(scan).await?.value;
            for (head, body) in &page.records {
                at = head.id.seq();
                if at > state.chain.seq {
                    break;
                }
                let stored = StoredLink::decode(body.as_ref().unwrap_or(&Bytes::new()));
                let stored = stored.unwrap_or_else(|_| StoredLink::new(Bytes::new(), None));
                chain.link(0, at, &stored);
                match Link::decode(&stored.text) {
                    Ok(link) if at > before.chain.seq => replayed.link_meanwhile(&link, &mut moving),
                    Ok(link) => replayed.link(&link),
                    Err(_) => {}
                }
            }
            if !page.more {
                break;
            }
        }
        // Links that went meanwhile are no gap, and a chain that began meanwhile says nothing of what was read.
        let is_begun = before.chain != ChainHead::default() || state.chain == before.chain;
        if floor(inner).await? != begins || !is_begun {
            continue;
        }
        chain.end(0, state.chain);
        let (mut chain, _) = chain.finish(None);
        // Whoever has the log compares it with that.
        chain.findings.retain(|finding| finding.problem != Problem::Floor);
        let Some(digests) = digests.filter(|_| state.chain.seq > 0) else {
            return Ok(StateReport::unknown(chain, state.stamp, count));
        };
        return Ok(replayed.compare(&digests, &state, found, &moving, chain));
    }
    Err(Error::new(ErrorKind::Busy, "the trail is pruned by others all the time, try again"))
}

/// What is there now of every record but the trail's, and how many there are.
async fn records(inner: &dyn UserStore, digests: Option<&Digests>) -> Result<(u64, Vec<Found>)> {
    let (mut count, mut all) = (0, Vec::new());
    for space in Keyspace::all().filter(|space| *space != Keyspace::Audit) {
        let mut from: Option<RecordId> = None;
        loop {
            let scan = Scan::records(space, PAGE);
            let page = inner.scan(match from.take() {
                Some(from) => scan.from(from),
                None => scan,
            });
            let page = page.await?.value;
            from = page.next();
            for (head, body) in page.records {
                count += 1;
                if let Some(digests) = digests {
                    all.push(found(digests, space, &Record::new(head, body.unwrap_or_default())));
                }
            }
            if from.is_none() {
                break;
            }
        }
    }
    Ok((count, all))
}
