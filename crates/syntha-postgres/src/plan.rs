//! A batch as `syntha.commit` takes it: lists of the same length, with a place for each operation and each expected version.

use bytes::Bytes;
use syntha_store::{Batch, Error, ErrorKind, Expect, Incarnation, Keyspace, Op, Result, Timestamp, Usage};

use crate::error::gone;
use crate::rows::int;
use crate::statement::{Kind, Statement, call};

const PUT: i64 = 1;
const PUT_HEAD: i64 = 2;
const REWRITE: i64 = 3;
const DELETE: i64 = 4;
const DELETE_NAME: i64 = 5;
const CLEAR: i64 = 6;
const EXPECT: i64 = 7;

const COMMIT: &str = call!(
    "o_status, o_epoch, o_chain_seq, o_chain_head",
    "commit($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)"
);
const CREATE: &str = call!(
    "o_status, o_epoch, o_chain_seq, o_chain_head",
    "create_user($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)"
);

/// What a batch says, for the statement.
#[derive(Default)]
pub(crate) struct Plan<'a> {
    epoch: Option<i64>,
    chain: Option<i64>,
    kinds: Vec<i64>,
    spaces: Vec<i64>,
    names: Vec<&'a [u8]>,
    seqs: Vec<i64>,
    numbers: Vec<Option<i64>>,
    heads: Vec<Option<&'a [u8]>>,
    bodies: Vec<Option<&'a [u8]>>,
}

impl<'a> Plan<'a> {
    pub(crate) fn new(life: Incarnation, batch: &'a Batch) -> Result<Self> {
        let mut plan = Self::default();
        for expect in &batch.expect {
            plan.expect(life, expect)?;
        }
        for op in &batch.ops {
            plan.op(op)?;
        }
        Ok(plan)
    }

    fn expect(&mut self, life: Incarnation, expect: &'a Expect) -> Result<()> {
        let twice = || Error::new(ErrorKind::Conflict, "the batch expects two states at once");
        match expect {
            Expect::Stamp(stamp) if stamp.incarnation != life => return Err(gone()),
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
                let version = version.map(|version| int(version.0));
                self.row(EXPECT, *space, id.name(), int(id.seq()), version, None, None);
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

    fn op(&mut self, op: &'a Op) -> Result<()> {
        let at = |expires: &Option<Timestamp>| expires.map(|at| int(at.0));
        match op {
            Op::Put { space, id, head, body, expires } => {
                self.row(PUT, *space, id.name(), int(id.seq()), at(expires), Some(head), Some(body));
            }
            Op::PutHead { space, id, head, expires } => {
                self.row(PUT_HEAD, *space, id.name(), int(id.seq()), at(expires), Some(head), None);
            }
            Op::Rewrite { space, id, version, head, body } => {
                let version = Some(int(version.0));
                self.row(REWRITE, *space, id.name(), int(id.seq()), version, Some(head), Some(body));
            }
            Op::Delete { space, id } => {
                self.row(DELETE, *space, id.name(), int(id.seq()), None, None, None);
            }
            Op::DeleteName { space, name } => self.row(DELETE_NAME, *space, name, 0, None, None, None),
            Op::Clear { space } => self.row(CLEAR, *space, &[], 0, None, None, None),
            _ => {
                return Err(Error::new(ErrorKind::Unsupported, "this backend does not know that operation"));
            }
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments, reason = "a row has so many columns")]
    fn row(
        &mut self,
        kind: i64,
        space: Keyspace,
        name: &'a [u8],
        seq: i64,
        number: Option<i64>,
        head: Option<&'a Bytes>,
        body: Option<&'a Bytes>,
    ) {
        self.kinds.push(kind);
        self.spaces.push(space.code().into());
        self.names.push(name);
        self.seqs.push(seq);
        self.numbers.push(number);
        self.heads.push(head.map(|bytes| &**bytes));
        self.bodies.push(body.map(|bytes| &**bytes));
    }

    /// The statement of a commit.
    pub(crate) fn commit(&self, tag: &[u8; 32], life: Incarnation, batch: &Batch) -> Statement {
        let statement = Statement::call(Kind::Commit, COMMIT)
            .bind(&tag[..])
            .bind(&life.0.to_be_bytes()[..])
            .bind(self.epoch)
            .bind(self.chain)
            .bind(i64::from(batch.raises_epoch()));
        self.bind(statement, batch)
    }

    /// The statement of a create.
    pub(crate) fn create(
        &self,
        tag: &[u8; 32],
        life: Incarnation,
        print: &[u8; 32],
        recreate: bool,
        batch: &Batch,
    ) -> Result<Statement> {
        if self.epoch.is_some() || self.chain.is_some_and(|seq| seq != 0) {
            return Err(Error::new(ErrorKind::Conflict, "a user that is not there stands nowhere yet"));
        }
        let statement = Statement::call(Kind::Create, CREATE)
            .bind(&tag[..])
            .bind(&life.0.to_be_bytes()[..])
            .bind(&print[..])
            .bind(i64::from(recreate));
        Ok(self.bind(statement, batch))
    }

    fn bind(&self, statement: Statement, batch: &Batch) -> Statement {
        statement
            .bind(&batch.id.0.to_be_bytes()[..])
            .bind(batch.chain.map(|chain| int(chain.seq)))
            .bind(batch.chain.as_ref().map(|chain| &chain.head[..]))
            .bind(batch.usage.as_ref().map(usage))
            .bind(int(batch.time.0))
            .bind(batch.note.as_ref().map(|note| note.as_bytes()))
            .bind(&self.kinds)
            .bind(&self.spaces)
            .bind(&self.names)
            .bind(&self.seqs)
            .bind(&self.numbers)
            .bind(&self.heads)
            .bind(&self.bodies)
    }
}

pub(crate) fn usage(usage: &Usage) -> Vec<i64> {
    [usage.contexts, usage.agents, usage.context_bytes, usage.history_bytes].map(int).to_vec()
}
