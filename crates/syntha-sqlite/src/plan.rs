//! A batch as the views of `commit.sql` take it: one statement, whatever it holds.

use bytes::Bytes;
use futures_util::TryStreamExt;
use sqlx::sqlite::SqliteArguments;
use sqlx::{Arguments, Encode, Executor, Sqlite, SqliteConnection, Type};
use syntha_store::{
    Batch, Error, ErrorKind, Expect, Incarnation, Keyspace, Op, RecordId, Result, Timestamp, Usage,
};

use crate::change_log::ChangeLog;
use crate::error::{from_sqlx, gone};
use crate::links::is_link;
use crate::schema::{code, int};

/// Takes a batch that puts one record, one link, or one of each.
pub(crate) const PUT: &str =
    "INSERT INTO do_put VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
/// Takes a batch that only puts, and at most one link.
pub(crate) const PUTS: &str =
    "INSERT INTO do_puts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
/// Takes every batch.
pub(crate) const COMMIT: &str = "INSERT INTO do_commit VALUES \
     (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";

/// Applies a batch: one statement, all or nothing.
pub(crate) async fn commit(
    db: &mut SqliteConnection,
    incarnation: Incarnation,
    batch: &Batch,
    raise: bool,
) -> Result<()> {
    let (statement, arguments) = statement(incarnation, batch, raise)?;
    let query = sqlx::query_with(statement, arguments);
    // The driver's first answer says that the statement is done, and so committed; `execute` would wait for a second one, which says
    // that there is no more, and costs a wake-up. No answer means that the connection's thread ended.
    let done = db.fetch_many(query).try_next().await;
    done.and_then(|done| done.ok_or(sqlx::Error::WorkerCrashed)).map(drop).map_err(|error| from_sqlx(&error))
}

/// The statement that takes a batch, and what is bound to it.
fn statement(
    incarnation: Incarnation,
    batch: &Batch,
    raise: bool,
) -> Result<(&'static str, SqliteArguments)> {
    let plan = Plan::new(incarnation, batch)?;
    let usage = |part: fn(&Usage) -> u64| batch.usage.as_ref().map(|usage| int(part(usage)));
    let mut bound = Bound(SqliteArguments::default());
    bound.add(incarnation.0.to_be_bytes().to_vec())?;
    bound.add(plan.epoch)?;
    bound.add(plan.chain)?;
    bound.add(i64::from(raise))?;
    bound.add(format!("{:032x}", batch.id.0))?;
    bound.add(plan.log.end())?;
    bound.add(batch.chain.map(|chain| int(chain.seq)))?;
    bound.add(batch.chain.map(|chain| chain.head.to_vec()))?;
    bound.add(usage(|usage| usage.contexts))?;
    bound.add(usage(|usage| usage.agents))?;
    bound.add(usage(|usage| usage.context_bytes))?;
    bound.add(usage(|usage| usage.history_bytes))?;
    bound.add(int(batch.time.0))?;
    bound.add(batch.note.map(|note| note.as_bytes().to_vec()))?;
    if plan.shape == Shape::Put {
        let record = plan.record;
        bound.add(record.map(|one| code(one.space)))?;
        bound.add(record.map(|one| one.id.name().to_vec()))?;
        bound.add(record.map(|one| int(one.id.seq())))?;
        bound.add(record.and_then(|one| one.expires).map(|at| int(at.0)))?;
        bound.add(record.map(|one| one.head.to_vec()))?;
        bound.add(record.map(|one| one.body.to_vec()))?;
    }
    if plan.shape != Shape::Any {
        let link = plan.link;
        bound.add(link.map(|one| int(one.id.seq())))?;
        bound.add(link.map(|one| one.head.to_vec()))?;
        bound.add(link.map(|one| one.body.to_vec()))?;
    }
    if plan.shape != Shape::Put {
        let [puts, expects, deletes, heads, rewrites] = plan.records.end();
        bound.add(puts)?;
        bound.add(plan.data)?;
        if plan.shape == Shape::Any {
            for list in [expects, plan.clears.end(']'), deletes, heads, rewrites] {
                bound.add(list)?;
            }
            let links = plan.links.end();
            let any = plan.clears_links || links.iter().any(Option::is_some);
            bound.add(any.then_some(i64::from(plan.clears_links)))?;
            for list in links {
                bound.add(list)?;
            }
        }
    }
    Ok((plan.shape.statement(), bound.0))
}

/// What is bound, in the order of the columns.
struct Bound(SqliteArguments);

impl Bound {
    fn add<T>(&mut self, value: T) -> Result<()>
    where
        T: for<'q> Encode<'q, Sqlite> + Type<Sqlite>,
    {
        self.0.add(value).map_err(|source| from_sqlx(&sqlx::Error::Encode(source)))
    }
}

/// Which of the views takes a batch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Put,
    Puts,
    Any,
}

impl Shape {
    fn of(batch: &Batch) -> Self {
        let (mut records, mut links) = (0, 0);
        for op in &batch.ops {
            match op {
                Op::Put { space, id, expires: None, .. } if is_link(*space, id.name()) => links += 1,
                Op::Put { space, id, .. } if !is_link(*space, id.name()) => records += 1,
                _ => return Self::Any,
            }
        }
        let expects_version = batch.expect.iter().any(|expect| matches!(expect, Expect::Version { .. }));
        match (records, links) {
            _ if expects_version => Self::Any,
            (0..=1, 0..=1) => Self::Put,
            (_, 0..=1) => Self::Puts,
            _ => Self::Any,
        }
    }

    const fn statement(self) -> &'static str {
        match self {
            Self::Put => PUT,
            Self::Puts => PUTS,
            Self::Any => COMMIT,
        }
    }
}

/// A record that is bound by itself, not in a list.
#[derive(Clone, Copy)]
struct One<'b> {
    space: Keyspace,
    id: &'b RecordId,
    head: &'b Bytes,
    body: &'b Bytes,
    expires: Option<Timestamp>,
}

/// What `commit.sql` takes: one blob with all bytes, and which of them are the records of each kind.
struct Plan<'b> {
    shape: Shape,
    epoch: Option<i64>,
    chain: Option<i64>,
    record: Option<One<'b>>,
    link: Option<One<'b>>,
    records: Lists,
    links: Lists,
    clears: List,
    clears_links: bool,
    data: Vec<u8>,
    log: ChangeLog,
}

/// Records by what becomes of them.
struct Lists {
    puts: List,
    expects: List,
    deletes: List,
    heads: List,
    rewrites: List,
}

impl Lists {
    fn new() -> Self {
        let [puts, expects, deletes, heads, rewrites] = ['{'; 5].map(List::new);
        Self { puts, expects, deletes, heads, rewrites }
    }

    fn end(self) -> [Option<String>; 5] {
        [self.puts, self.expects, self.deletes, self.heads, self.rewrites].map(|list| list.end('}'))
    }
}

impl<'b> Plan<'b> {
    fn new(incarnation: Incarnation, batch: &'b Batch) -> Result<Self> {
        let shape = Shape::of(batch);
        let room = if shape == Shape::Put { 0 } else { batch.ops.iter().map(op_bytes).sum::<usize>() + 1 };
        let mut data = Vec::with_capacity(room);
        // Never empty: SQLite reads a blob of no bytes as NULL here.
        data.push(0);
        let mut plan = Self {
            shape,
            epoch: None,
            chain: None,
            record: None,
            link: None,
            records: Lists::new(),
            links: Lists::new(),
            clears: List::new('['),
            clears_links: false,
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

    /// The lists that hold what becomes of a record.
    const fn lists(&mut self, space: Keyspace, name: &[u8]) -> &mut Lists {
        if is_link(space, name) { &mut self.links } else { &mut self.records }
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
                self.lists(*space, id.name()).expects.member(row);
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

    fn op(&mut self, op: &'b Op) -> Result<()> {
        let at = |expires: &Option<Timestamp>| expires.map_or(NONE, |at| int(at.0));
        match op {
            Op::Put { space, id, head, body, expires } => {
                self.log.push('p', *space, id);
                let one = One { space: *space, id, head, body, expires: *expires };
                match (self.shape, is_link(*space, id.name())) {
                    (Shape::Put | Shape::Puts, true) => self.link = Some(one),
                    (Shape::Put, false) => self.record = Some(one),
                    _ => {
                        let row = self.row(*space, id.name(), int(id.seq()), at(expires), head, body)?;
                        self.lists(*space, id.name()).puts.member(row);
                    }
                }
            }
            Op::PutHead { space, id, head, expires } => {
                self.log.push('p', *space, id);
                let row = self.row(*space, id.name(), int(id.seq()), at(expires), head, &[])?;
                self.lists(*space, id.name()).heads.member(row);
            }
            Op::Rewrite { space, id, version, head, body } => {
                let expected = self.row(*space, id.name(), int(id.seq()), int(version.0), &[], &[])?;
                self.lists(*space, id.name()).expects.member(expected);
                let row = self.row(*space, id.name(), int(id.seq()), NONE, head, body)?;
                self.lists(*space, id.name()).rewrites.member(row);
            }
            Op::Delete { space, id } => {
                self.log.push('d', *space, id);
                let row = self.row(*space, id.name(), int(id.seq()), NONE, &[], &[])?;
                self.lists(*space, id.name()).deletes.member(row);
            }
            Op::DeleteName { space, name } => {
                self.log.give_up();
                if is_link(*space, name) {
                    self.clears_links = true;
                } else {
                    let row = self.row(*space, name, NONE, NONE, &[], &[])?;
                    self.records.deletes.member(row);
                }
            }
            Op::Clear { space } => {
                self.log.give_up();
                self.clears_links |= *space == Keyspace::Audit;
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
