//! A batch as the views of `commit.sql` take it: one statement, whatever it holds.

use futures_util::TryStreamExt;
use sqlx::{Executor, SqliteConnection};
use syntha_store::{Batch, Error, ErrorKind, Expect, Incarnation, Keyspace, Op, Result, Timestamp, Usage};

use crate::change_log::ChangeLog;
use crate::error::{from_sqlx, gone};
use crate::schema::int;

/// Takes a batch that only puts.
pub(crate) const PUTS: &str = "INSERT INTO do_puts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
/// Takes every batch.
pub(crate) const COMMIT: &str =
    "INSERT INTO do_commit VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";

/// Applies a batch: one statement, all or nothing.
pub(crate) async fn commit(
    db: &mut SqliteConnection,
    incarnation: Incarnation,
    batch: &Batch,
    raise: bool,
) -> Result<()> {
    let plan = Plan::new(incarnation, batch)?;
    let [puts, expects, deletes, heads, rewrites] =
        [plan.puts, plan.expects, plan.deletes, plan.heads, plan.rewrites].map(|list| list.end('}'));
    let clears = plan.clears.end(']');
    let only_puts =
        expects.is_none() && clears.is_none() && deletes.is_none() && heads.is_none() && rewrites.is_none();
    let usage = |part: fn(&Usage) -> u64| batch.usage.as_ref().map(|usage| int(part(usage)));
    let query = sqlx::query(if only_puts { PUTS } else { COMMIT })
        .bind(incarnation.0.to_be_bytes().to_vec())
        .bind(plan.epoch)
        .bind(plan.chain)
        .bind(puts)
        .bind(plan.data)
        .bind(plan.log.end())
        .bind(i64::from(raise))
        .bind(format!("{:032x}", batch.id.0))
        .bind(batch.chain.map(|chain| int(chain.seq)))
        .bind(batch.chain.map(|chain| chain.head.to_vec()))
        .bind(usage(|usage| usage.contexts))
        .bind(usage(|usage| usage.agents))
        .bind(usage(|usage| usage.context_bytes))
        .bind(usage(|usage| usage.history_bytes))
        .bind(int(batch.time.0))
        .bind(batch.note.map(|note| note.as_bytes().to_vec()));
    let query = if only_puts {
        query
    } else {
        query.bind(expects).bind(clears).bind(deletes).bind(heads).bind(rewrites)
    };
    // The driver's first answer says that the statement is done, and so committed; `execute` would wait for a second one, which says
    // that there is no more, and costs a wake-up. No answer means that the connection's thread ended.
    let done = db.fetch_many(query).try_next().await;
    done.and_then(|done| done.ok_or(sqlx::Error::WorkerCrashed)).map(drop).map_err(|error| from_sqlx(&error))
}

/// One blob with all bytes, and which of them are the records of each kind.
struct Plan {
    epoch: Option<i64>,
    chain: Option<i64>,
    expects: List,
    clears: List,
    deletes: List,
    heads: List,
    rewrites: List,
    puts: List,
    data: Vec<u8>,
    log: ChangeLog,
}

impl Plan {
    fn new(incarnation: Incarnation, batch: &Batch) -> Result<Self> {
        let mut data = Vec::with_capacity(batch.ops.iter().map(op_bytes).sum::<usize>() + 1);
        // Never empty: SQLite reads a blob of no bytes as NULL here.
        data.push(0);
        let mut plan = Self {
            epoch: None,
            chain: None,
            expects: List::new('{'),
            clears: List::new('['),
            deletes: List::new('{'),
            heads: List::new('{'),
            rewrites: List::new('{'),
            puts: List::new('{'),
            data,
            log: ChangeLog::of(batch.ops.iter().filter(|op| op.space() != Keyspace::Audit).count()),
        };
        for expect in &batch.expect {
            plan.expect(incarnation, expect)?;
        }
        for op in &batch.ops {
            plan.op(op)?;
        }
        Ok(plan)
    }

    fn expect(&mut self, incarnation: Incarnation, expect: &Expect) -> Result<()> {
        let twice = || Error::new(ErrorKind::Conflict, "the batch expects two states at once");
        match expect {
            Expect::Stamp(stamp) if stamp.incarnation != incarnation => return Err(gone()),
            Expect::Stamp(stamp) => {
                let epoch = int(stamp.epoch.0);
                if self.epoch.replace(epoch).is_some_and(|other| other != epoch) {
                    return Err(twice());
                }
            }
            Expect::Chain(seq) => {
                if self.chain.replace(int(*seq)).is_some_and(|other| other != int(*seq)) {
                    return Err(twice());
                }
            }
            Expect::Version { space, id, version } => {
                let version = version.map_or(NONE, |version| int(version.0));
                let row = self.row(*space, id.name(), int(id.seq()), version, &[], &[])?;
                self.expects.member(row);
            }
            _ => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "this backend does not know that expectation",
                ));
            }
        }
        Ok(())
    }

    fn op(&mut self, op: &Op) -> Result<()> {
        let at = |expires: &Option<Timestamp>| expires.map_or(NONE, |at| int(at.0));
        match op {
            Op::Put { space, id, head, body, expires } => {
                self.log.push('p', *space, id);
                let row = self.row(*space, id.name(), int(id.seq()), at(expires), head, body)?;
                self.puts.member(row);
            }
            Op::PutHead { space, id, head, expires } => {
                self.log.push('p', *space, id);
                let row = self.row(*space, id.name(), int(id.seq()), at(expires), head, &[])?;
                self.heads.member(row);
            }
            Op::Rewrite { space, id, version, head, body } => {
                let expected = self.row(*space, id.name(), int(id.seq()), int(version.0), &[], &[])?;
                self.expects.member(expected);
                let row = self.row(*space, id.name(), int(id.seq()), NONE, head, body)?;
                self.rewrites.member(row);
            }
            Op::Delete { space, id } => {
                self.log.push('d', *space, id);
                let row = self.row(*space, id.name(), int(id.seq()), NONE, &[], &[])?;
                self.deletes.member(row);
            }
            Op::DeleteName { space, name } => {
                self.log.give_up();
                let row = self.row(*space, name, NONE, NONE, &[], &[])?;
                self.deletes.member(row);
            }
            Op::Clear { space } => {
                self.log.give_up();
                self.clears.separate();
                self.clears.number(space.code().into());
            }
            _ => {
                return Err(Error::new(ErrorKind::Unsupported, "this backend does not know that operation"));
            }
        }
        Ok(())
    }

    /// Adds a record's bytes, and says how `commit.sql` finds them.
    fn row(
        &mut self,
        space: Keyspace,
        name: &[u8],
        seq: i64,
        at: i64,
        head: &[u8],
        body: &[u8],
    ) -> Result<Row> {
        let mut numbers = 0;
        if seq != 0 || at != NONE {
            use std::io::Write as _;
            numbers = fit(self.data.len() + 1, PLACE_BITS)?;
            write!(self.data, "{seq:20}{at:20}").map_err(|_| too_big())?;
        }
        let place = fit(self.data.len() + 1, PLACE_BITS)?;
        for part in [name, head, body] {
            self.data.extend_from_slice(part);
        }
        let lengths = fit(name.len(), NAME_BITS)? | fit(head.len(), HEAD_BITS)? << NAME_BITS;
        let space = u64::from(space.code()) << (PLACE_BITS + NAME_BITS + HEAD_BITS);
        Ok(Row {
            bytes: place | lengths << PLACE_BITS | space,
            rest: fit(body.len(), PLACE_BITS)? | numbers << PLACE_BITS,
        })
    }
}

/// A record in a list, packed as `commit.sql` says.
struct Row {
    bytes: u64,
    rest: u64,
}

/// "None", and in a delete "every sequence".
const NONE: i64 = -1;
const PLACE_BITS: u32 = 28;
const NAME_BITS: u32 = 11;
const HEAD_BITS: u32 = 13;

/// INVARIANT: a number that is wider than its bits would change its neighbour.
fn fit(number: usize, bits: u32) -> Result<u64> {
    u64::try_from(number).ok().filter(|number| number >> bits == 0).ok_or_else(too_big)
}

const fn too_big() -> Error {
    Error::new(ErrorKind::LimitExceeded, "the batch is larger than this backend takes, split it")
}

/// About the bytes that an operation needs in the blob.
fn op_bytes(op: &Op) -> usize {
    match op {
        Op::Put { id, head, body, .. } | Op::Rewrite { id, head, body, .. } => {
            id.name().len() + head.len() + body.len()
        }
        Op::PutHead { id, head, .. } => id.name().len() + head.len(),
        _ => 0,
    }
}

/// A JSON list of numbers, or an object whose names and values are numbers.
struct List(String);

impl List {
    fn new(open: char) -> Self {
        Self(open.to_string())
    }

    fn member(&mut self, row: Row) {
        self.separate();
        self.0.push('"');
        self.number(row.rest);
        self.0.push_str("\":");
        self.number(row.bytes);
    }

    fn separate(&mut self) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
    }

    fn number(&mut self, number: u64) {
        self.0.push_str(itoa::Buffer::new().format(number));
    }

    fn end(mut self, close: char) -> Option<String> {
        self.0.push(close);
        Some(self.0).filter(|list| list.len() > 2)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use syntha_store::{NAME_BYTES, SEALED_BATCH_BYTES, SEALED_HEAD_BYTES};

    use super::*;

    #[test]
    fn the_largest_batch_fits_and_a_wider_number_is_refused() {
        assert_eq!(fit(NAME_BYTES, NAME_BITS).unwrap(), NAME_BYTES as u64);
        assert_eq!(fit(SEALED_HEAD_BYTES, HEAD_BITS).unwrap(), SEALED_HEAD_BYTES as u64);
        assert!(fit(2 * SEALED_BATCH_BYTES, PLACE_BITS).is_ok());
        for bits in [NAME_BITS, HEAD_BITS, PLACE_BITS] {
            assert_eq!(fit((1 << bits) - 1, bits).unwrap(), (1 << bits) - 1);
            assert_eq!(fit(1 << bits, bits).unwrap_err().kind(), ErrorKind::LimitExceeded);
        }
    }
}
