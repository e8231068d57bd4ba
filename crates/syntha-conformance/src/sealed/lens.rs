//! The keys of a user, unwrapped by hand, and what is sealed opened and sealed by hand, as `docs/envelope-v1.md` has it: so that two blobs
//! can differ in exactly one field, and nothing that the layer does to both sides alike goes unseen.

use data_encoding::BASE64;
use serde_json::Value;
use syntha_encryption::envelope::{self, Algorithm, Binding, Content, RecordBinding};
use syntha_encryption::{
    DataKey, Kek, KeyContext, KeyProvider, Mode, Purpose, Root, SecretKey, What, Wrapped,
};
use syntha_store::{Batch, Head, Incarnation, Keyspace, Op, Record, RecordId, Scan, Store, Timestamp};

use crate::encrypted::KEK;

/// One life's keys of an owner.
pub(super) struct Lens {
    pub(super) mode: Mode,
    pub(super) deployment: [u8; 16],
    pub(super) owner: [u8; 32],
    pub(super) life: Incarnation,
    pub(super) root: Root,
    pub(super) data: DataKey,
    /// Root and data key themselves.
    pub(super) secrets: [SecretKey; 2],
}

/// What a record's blobs hold.
#[derive(Clone)]
pub(super) struct Opened {
    pub(super) head: Vec<u8>,
    pub(super) body: Option<Vec<u8>>,
}

impl Opened {
    /// What the head says that the body is bound to.
    pub(super) fn token(&self) -> &[u8] {
        &self.head[2..18]
    }
}

/// Changes one field of a binding.
pub(super) type Edit<'e> = &'e (dyn for<'b> Fn(&mut RecordBinding<'b>) + Sync);

pub(super) const AS_IT_IS: Edit<'static> = &|_| {};

const fn fixed_bytes() -> usize {
    1 + 1 + 16 + 4
}

/// A keystore's rows: name, sequence number, and what stands in the row.
pub(super) async fn rows(keys: &dyn Store) -> Vec<(RecordId, Value)> {
    let space = keys.deployment().await.unwrap();
    let page = space.scan(Scan::records(Keyspace::Keys, 1_000)).await.unwrap().value;
    let parse = |body: Option<bytes::Bytes>| serde_json::from_slice(&body.unwrap()).unwrap();
    page.records.into_iter().map(|(head, body)| (head.id, parse(body))).collect()
}

/// Puts rows into a keystore, in the place of those that are there.
pub(super) async fn put_rows(keys: &dyn Store, rows: &[(RecordId, Value)]) {
    let space = keys.deployment().await.unwrap();
    let batch = rows.iter().fold(Batch::new(Timestamp(0)).unwrap(), |batch, (id, row)| {
        let (head, body) = (bytes::Bytes::new(), serde_json::to_vec(row).unwrap().into());
        batch.op(Op::Put { space: Keyspace::Keys, id: id.clone(), head, body, expires: None })
    });
    space.commit(batch).await.unwrap();
}

/// What wraps the keys of a suite's deployment.
pub(super) async fn provider() -> std::sync::Arc<dyn KeyProvider> {
    Kek::from_key(SecretKey::from_bytes(KEK)).resolve(None).await.unwrap()
}

pub(super) fn deployment_of(rows: &[(RecordId, Value)]) -> ([u8; 16], Mode) {
    let (_, header) = rows.iter().find(|(id, _)| id.name() == "header").unwrap();
    let id = u128::from_str_radix(header["deployment"].as_str().unwrap(), 16).unwrap();
    (id.to_be_bytes(), header["mode"].as_str().unwrap().parse().unwrap())
}

async fn unwrap(context: KeyContext, row: &Value) -> SecretKey {
    let wrapped = BASE64.decode(row.as_str().unwrap().as_bytes()).unwrap();
    let secret = provider().await.unwrap(&context, &Wrapped::decode(&wrapped).unwrap()).await.unwrap();
    SecretKey::from_slice(secret.as_bytes()).unwrap()
}

impl Lens {
    /// Unwraps the keys of an owner, who has one life with one key.
    pub(super) async fn of(keys: &dyn Store, owner: [u8; 32], life: Incarnation) -> Self {
        let rows = rows(keys).await;
        let (deployment, mode) = deployment_of(&rows);
        let own = |first: bool| {
            let row = rows.iter().find(|(id, _)| id.name()[..] == owner && (id.seq() == 0) == first);
            &row.unwrap().1
        };
        assert_eq!(own(false)["life"], format!("{:032x}", life.0));
        assert_eq!(own(false)["keys"].as_array().unwrap().len(), 1);
        let context = KeyContext { deployment, owner, what: What::Root, life: 0, epoch: 0 };
        let root = unwrap(context, &own(true)["root"]).await;
        let context = KeyContext { what: What::Dek, life: life.0, epoch: 1, ..context };
        let data = unwrap(context, &own(false)["keys"][0]["key"]).await;
        let (unwrapped, key) = (Root::new(&root), DataKey::new(&data, 1).unwrap());
        Self { mode, deployment, owner, life, root: unwrapped, data: key, secrets: [root, data] }
    }

    /// The place below of a record.
    pub(super) fn place(&self, space: Keyspace, name: &str, seq: u64) -> (Keyspace, RecordId) {
        let name = match self.mode {
            Mode::Sealed => self.root.stored_name(space, name.as_bytes()).to_vec(),
            _ => name.as_bytes().to_vec(),
        };
        (space, RecordId::new(name, seq).unwrap())
    }

    pub(super) fn subkey(&self, space: Keyspace) -> &SecretKey {
        self.data.subkey(Purpose::of(space).unwrap())
    }

    /// What a stored head is bound to.
    pub(super) fn binding<'b>(&'b self, space: Keyspace, head: &'b Head) -> RecordBinding<'b> {
        RecordBinding {
            deployment: &self.deployment,
            owner: &self.owner,
            life: self.life,
            space: space.code(),
            name: head.id.name(),
            seq: head.id.seq(),
            version: head.version,
            body_version: head.body_version,
            expires: head.expires,
            extra: &[],
        }
    }

    fn body_binding<'b>(&'b self, space: Keyspace, head: &'b Head, token: &'b [u8]) -> RecordBinding<'b> {
        let version = head.body_version;
        RecordBinding { version, expires: None, extra: token, ..self.binding(space, head) }
    }

    /// What stands readable in a stored head, and what is sealed.
    pub(super) fn split<'h>(&self, head: &'h [u8]) -> (&'h [u8], &'h [u8]) {
        match self.mode {
            Mode::Sealed => (&[], head),
            _ => head.split_at(head.len() - envelope::HEADER_BYTES - fixed_bytes() - envelope::TAG_BYTES),
        }
    }

    /// Opens a record by hand, from what the format says alone.
    pub(super) fn open(&self, space: Keyspace, record: &Record) -> Opened {
        let subkey = self.subkey(space);
        let open = |binding: &Binding<'_>, sealed: &[u8], padded: bool| {
            let opened = if padded {
                envelope::open_padded(subkey, Algorithm::Record, binding, sealed)
            } else {
                envelope::open(subkey, Algorithm::Record, binding, sealed)
            };
            opened.expect("it is not sealed as the format says").to_vec()
        };
        let padded = self.mode == Mode::Sealed;
        let (clear, sealed) = self.split(&record.head.head);
        let binding = RecordBinding { extra: clear, ..self.binding(space, &record.head) };
        let head = open(&Binding::Head(binding), sealed, padded);
        let mut opened = Opened { head, body: None };
        assert_eq!(opened.head[1] == 1, !record.body.is_empty(), "the head says whether there is a body");
        if !record.body.is_empty() {
            let binding = self.body_binding(space, &record.head, opened.token());
            opened.body = Some(open(&Binding::Body(binding), &record.body, padded));
        }
        opened
    }

    /// Seals a head as the layer does, but for what is changed.
    pub(super) fn head(&self, space: Keyspace, record: &Record, opened: &Opened, edit: Edit<'_>) -> Vec<u8> {
        self.head_with(space, record, opened, edit, (1, Algorithm::Record), Binding::Head)
    }

    pub(super) fn head_with<'b>(
        &'b self,
        space: Keyspace,
        record: &'b Record,
        opened: &Opened,
        edit: Edit<'_>,
        (epoch, algorithm): (u32, Algorithm),
        part: impl FnOnce(RecordBinding<'b>) -> Binding<'b>,
    ) -> Vec<u8> {
        let (clear, _) = self.split(&record.head.head);
        let mut binding = RecordBinding { extra: clear, ..self.binding(space, &record.head) };
        edit(&mut binding);
        let sealed = self.seal(space, &part(binding), &opened.head, (epoch, algorithm));
        [clear, &sealed].concat()
    }

    /// The same of a body.
    pub(super) fn body(&self, space: Keyspace, record: &Record, opened: &Opened, edit: Edit<'_>) -> Vec<u8> {
        self.body_with(space, record, opened, edit, (1, Algorithm::Record), false)
    }

    pub(super) fn body_with(
        &self,
        space: Keyspace,
        record: &Record,
        opened: &Opened,
        edit: Edit<'_>,
        sealing: (u32, Algorithm),
        as_head: bool,
    ) -> Vec<u8> {
        let mut binding = self.body_binding(space, &record.head, opened.token());
        edit(&mut binding);
        let binding = if as_head { Binding::Head(binding) } else { Binding::Body(binding) };
        self.seal(space, &binding, opened.body.as_ref().unwrap(), sealing)
    }

    fn seal(
        &self,
        space: Keyspace,
        binding: &Binding<'_>,
        content: &[u8],
        (epoch, algorithm): (u32, Algorithm),
    ) -> Vec<u8> {
        let pieces = [content];
        let content =
            if self.mode == Mode::Sealed { Content::Padded(&pieces) } else { Content::Plain(&pieces) };
        envelope::seal(self.subkey(space), algorithm, epoch, binding, content).unwrap()
    }
}
