//! Rotates the keys of one user again and again, with writers and readers beside it, until it is killed. It says on standard output what was
//! acknowledged (`ack`), which rotations have ended (`rotated`), and what failed. The other half of the suite `rotation`.

#![allow(clippy::print_stdout, reason = "standard output is how it acknowledges")]

use std::error::Error;
use std::io::Write;
use std::sync::Arc;

use syntha::sqlite::{SqliteConfig, SqliteStore};
use syntha::store::{
    Batch, CreateMode, ErrorKind, Keyspace, Op, RecordId, Store, Timestamp, UserId, UserStore,
};
use syntha_encryption::{EncryptedStore, Kek, KeyCache, Keychain, Keystore, Mode, Owner, SecretKey};

const WRITERS: u64 = 3;
const SLOTS: u64 = 200;
const THREADS: u64 = 4;
const LARGE: usize = 100 * 1024;

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let data = arguments.next().ok_or("give a data folder")?;
    let keys = arguments.next().ok_or("give a folder for keys")?;
    let data = Arc::new(SqliteStore::open(SqliteConfig::new(data)).await?);
    let keys = Arc::new(SqliteStore::open(SqliteConfig::new(keys)).await?);
    let kek = Kek::from_key(SecretKey::from_bytes(b"a key of a test, which is no key"));
    let keystore = Keystore::open(keys).await?;
    let (mode, cache) = (Mode::Sealed, KeyCache::default());
    let keychain = Keychain::create(keystore, &kek, mode, data.deployment_key(), cache).await?;
    let user = keychain.deployment_key().tag(&UserId::new("victim")?);
    let store = Arc::new(EncryptedStore::new(data, &keychain)?);
    match store.create(user, Batch::new(Timestamp(1))?, CreateMode::New).await {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error.into()),
        _ => {}
    }
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let handle = store.open(user).await?;
        tasks.spawn(async move { write(writer, &*handle).await });
    }
    tasks.spawn(async move {
        loop {
            let rotated = store.rotate(Owner::User(user), &mut |_| {}).await?;
            say(&format!("rotated {}", rotated.epoch));
        }
    });
    // All of them go on until one fails.
    let failed = tasks.join_next().await.ok_or("nothing runs")?;
    say("failed");
    failed?
}

/// Writes number after number, each in a slot, with a large body now and then and the head of a thread; and reads what it wrote.
async fn write(writer: u64, user: &dyn UserStore) -> Result<(), Failure> {
    let name = format!("writer {writer}");
    let id = |seq| RecordId::new(name.clone(), seq);
    let last = user.read(Keyspace::Context, &[id(0)?]).await?.value.into_iter().next().flatten();
    let mut number = match last {
        Some(last) => String::from_utf8(last.head.head.to_vec())?.parse()?,
        None => 0_u64,
    };
    loop {
        number += 1;
        let (slot, thread) = (number % SLOTS, id(number % THREADS)?);
        let text = number.to_string();
        let size = if slot % 64 == 1 { LARGE } else { 40 };
        let batch = Batch::new(Timestamp(number))?
            .put(Keyspace::Context, id(0)?, text.clone(), text.clone())
            .put(Keyspace::History, id(slot)?, text.clone(), padded(&text, size));
        let begun = user.read(Keyspace::Threads, std::slice::from_ref(&thread)).await?.value;
        let batch = match begun.into_iter().next().flatten() {
            Some(_) => {
                let head = text.clone().into();
                batch.op(Op::PutHead { space: Keyspace::Threads, id: thread, head, expires: None })
            }
            None => batch.put(Keyspace::Threads, thread, text.clone(), "the body of a thread"),
        };
        user.commit(batch).await?;
        say(&format!("ack {writer} {number}"));
        let read = user.read(Keyspace::History, &[id(slot)?]).await?.value.into_iter().next().flatten();
        let read = read.ok_or("what was written is not there")?;
        if read.head.head != text || read.body[..] != *padded(&text, size).as_bytes() {
            return Err("what was written is not what is read".into());
        }
    }
}

/// The text after so many spaces that it has a size.
fn padded(text: &str, size: usize) -> String {
    " ".repeat(size.saturating_sub(text.len())) + text
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // The reader may be gone; then so is this process, soon.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
