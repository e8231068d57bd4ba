//! How often logins failed: two tables of fixed size, in the store, so that every process counts in the same ones.
//!
//! Who is counted is not looked up first: an account that is not there is counted as one that is, in a record of the same size. A place of a
//! table has eight entries, by marks of keyed hashes. When they are all taken, the one with the fewest failures is given to the newcomer with
//! its count ("Space-Saving": Metwally, Agrawal and El Abbadi, "Efficient Computation of Frequent and Top-k Elements in Data Streams",
//! 2005), so nobody is ever counted too low, however many names an attacker makes up.

use std::net::IpAddr;
use std::time::Duration;

use syntha_store::{Keyspace, RecordId, UserId, Version};

use crate::error::{Error, Result};
use crate::spaces::{Spaces, contended, tries, version};

/// Places in each table of each space.
const PLACES: u64 = 16_384;
const ENTRIES: usize = 8;
const ENTRY_BYTES: usize = 20;
const RECORD_BYTES: usize = 1 + ENTRIES * ENTRY_BYTES;
const VERSION: u8 = 1;

/// Where a login comes from, as far as the host knows: who fails often from there has to wait.
///
/// Its `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Source(Vec<u8>);

impl Source {
    /// A source that the host has a name of its own for. What an attacker may choose (a header, an agent's name) is none.
    #[must_use]
    pub fn new(name: impl AsRef<[u8]>) -> Self {
        Self(name.as_ref().to_vec())
    }

    /// An address. Of an IPv6 address the first 64 bits count: the rest is free to whoever has them. An IPv4 address in IPv6 form is itself.
    #[must_use]
    pub fn address(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self([b"4".as_slice(), &address.octets()].concat()),
            IpAddr::V6(address) => {
                let network = address.octets();
                Self([b"6".as_slice(), network.get(..8).unwrap_or_default()].concat())
            }
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Source(..)")
    }
}

/// How one table slows down.
struct Slowing {
    /// The table's name in its records.
    table: &'static [u8],
    /// The purpose of the hash that finds a place.
    purpose: &'static str,
    /// So many failures cost no waiting.
    free: u32,
    /// After so many in a row nothing is looked at.
    most: u32,
    /// The longest wait before that; the first is a second, and each is twice the one before.
    longest: u64,
    /// How long one failure counts after the last one.
    recovery: u64,
}

const ACCOUNTS: Slowing = Slowing {
    table: b"account",
    purpose: "throttle/account",
    free: 5,
    most: 100,
    longest: 15 * 60 * 1_000,
    recovery: 24 * 60 * 60 * 1_000,
};

/// Many people may be behind one address.
const SOURCES: Slowing = Slowing {
    table: b"source",
    purpose: "throttle/source",
    free: 50,
    most: 500,
    longest: 60 * 1_000,
    recovery: 10 * 1_000,
};

/// Who is counted, and where.
pub(crate) struct Counted {
    slowing: &'static Slowing,
    space: usize,
    id: RecordId,
    mark: [u8; 8],
}

/// An account and a source, about to be tried.
pub(crate) struct Attempt {
    account: Counted,
    source: Counted,
}

impl Attempt {
    /// `apart` is empty, but for a planted fault.
    pub(crate) fn new(spaces: &Spaces, user: &UserId, source: &Source, apart: &[u8]) -> Result<Self> {
        let counted = |slowing: &'static Slowing, space, of: &[u8]| {
            let (place, mark) = spaces.place(slowing.purpose, &[of, apart].concat(), PLACES);
            Ok::<_, Error>(Counted { slowing, space, id: RecordId::new(slowing.table, place)?, mark })
        };
        Ok(Self {
            account: counted(&ACCOUNTS, spaces.of_user(user), user.as_str().as_bytes())?,
            source: counted(&SOURCES, spaces.of_source(&source.0), &source.0)?,
        })
    }

    /// Counts a failure of both before the password is looked at, or says how long to wait. What has to wait writes nothing.
    pub(crate) async fn begin(&self, spaces: &Spaces) -> Result<()> {
        for counted in [&self.source, &self.account] {
            let (table, _) = counted.read(spaces).await?;
            table.admit(counted, spaces.now())?;
        }
        for counted in [&self.source, &self.account] {
            let failed = |table: &mut Table, now| {
                table.admit(counted, now)?;
                table.fail(counted, now);
                Ok(())
            };
            counted.change(spaces, failed).await?;
        }
        Ok(())
    }

    /// The password was right: the account's failures are over, and the source's last one was none.
    pub(crate) async fn succeed(&self, spaces: &Spaces) -> Result<()> {
        self.account.change(spaces, |table, _| table.forget(&self.account)).await?;
        self.source.change(spaces, |table, _| table.take_back(&self.source)).await
    }

    /// The password was not looked at after all.
    pub(crate) async fn withdraw(&self, spaces: &Spaces) -> Result<()> {
        self.account.change(spaces, |table, _| table.take_back(&self.account)).await?;
        self.source.change(spaces, |table, _| table.take_back(&self.source)).await
    }

    /// Puts an account's count back.
    pub(crate) async fn forgive(spaces: &Spaces, user: &UserId) -> Result<()> {
        let attempt = Self::new(spaces, user, &Source::new(""), b"")?;
        attempt.account.change(spaces, |table, _| table.forget(&attempt.account)).await
    }
}

impl Counted {
    async fn read(&self, spaces: &Spaces) -> Result<(Table, Option<Version>)> {
        match spaces.read_one(self.space, Keyspace::Throttle, &self.id).await? {
            None => Ok((Table::default(), None)),
            Some((body, version)) => Ok((Table::decode(&body)?, Some(version))),
        }
    }

    async fn change(
        &self,
        spaces: &Spaces,
        mut change: impl FnMut(&mut Table, u64) -> Result<()> + Send,
    ) -> Result<()> {
        for _ in tries() {
            let (before, known) = self.read(spaces).await?;
            let mut table = before.clone();
            change(&mut table, spaces.now())?;
            if table == before {
                return Ok(());
            }
            let batch = spaces.batch()?.put(Keyspace::Throttle, self.id.clone(), "", table.encode());
            if spaces.commit(self.space, batch.expect(version(Keyspace::Throttle, &self.id, known))).await? {
                return Ok(());
            }
        }
        Err(contended())
    }
}

/// One who failed. A count of 0 is a free entry.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
struct Entry {
    mark: [u8; 8],
    failures: u32,
    last: u64,
}

impl Entry {
    /// What its failures still count for.
    fn counts(&self, slowing: &Slowing, now: u64) -> u32 {
        let forgotten = now.saturating_sub(self.last) / slowing.recovery;
        self.failures.saturating_sub(u32::try_from(forgotten).unwrap_or(u32::MAX))
    }

    /// From when on the next attempt is looked at.
    fn ready(&self, slowing: &Slowing, now: u64) -> u64 {
        let counts = self.counts(slowing, now);
        if counts >= slowing.most {
            // Until one is forgotten.
            let forgotten = u64::from(self.failures - slowing.most) + 1;
            return self.last.saturating_add(forgotten.saturating_mul(slowing.recovery));
        }
        match counts.checked_sub(slowing.free) {
            None => 0,
            Some(over) => {
                let wait = 1_000_u64.checked_shl(over.min(40)).unwrap_or(u64::MAX).min(slowing.longest);
                self.last.saturating_add(wait)
            }
        }
    }
}

/// The entries of one place.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
struct Table([Entry; ENTRIES]);

impl Table {
    fn find(&mut self, mark: [u8; 8]) -> Option<&mut Entry> {
        self.0.iter_mut().find(|entry| entry.failures > 0 && entry.mark == mark)
    }

    /// Whose count a mark has: its own entry's, or the lowest.
    fn standing(&self, counted: &Counted, now: u64) -> Entry {
        let own = self.0.iter().find(|entry| entry.failures > 0 && entry.mark == counted.mark);
        own.or_else(|| self.lowest(counted.slowing, now)).copied().unwrap_or_default()
    }

    fn lowest(&self, slowing: &Slowing, now: u64) -> Option<&Entry> {
        self.0.iter().min_by_key(|entry| (entry.counts(slowing, now), entry.last))
    }

    fn admit(&self, counted: &Counted, now: u64) -> Result<()> {
        let ready = self.standing(counted, now).ready(counted.slowing, now);
        if ready > now { Err(Error::throttled(Duration::from_millis(ready - now))) } else { Ok(()) }
    }

    fn fail(&mut self, counted: &Counted, now: u64) {
        let standing = self.standing(counted, now);
        let failures = standing.counts(counted.slowing, now).saturating_add(1);
        if let Some(entry) = self.0.iter_mut().find(|entry| **entry == standing) {
            *entry = Entry { mark: counted.mark, failures, last: now };
        }
    }

    fn forget(&mut self, counted: &Counted) -> Result<()> {
        if let Some(entry) = self.find(counted.mark) {
            *entry = Entry::default();
        }
        Ok(())
    }

    fn take_back(&mut self, counted: &Counted) -> Result<()> {
        if let Some(entry) = self.find(counted.mark) {
            entry.failures -= 1;
        }
        Ok(())
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(RECORD_BYTES);
        bytes.push(VERSION);
        for entry in &self.0 {
            bytes.extend(entry.mark);
            bytes.extend(entry.failures.to_be_bytes());
            bytes.extend(entry.last.to_be_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        let (version, entries) = bytes.split_first().ok_or_else(Error::corrupt)?;
        if *version != VERSION {
            return Err(Error::unsupported());
        }
        if bytes.len() != RECORD_BYTES {
            return Err(Error::corrupt());
        }
        let mut table = Self::default();
        for (entry, bytes) in table.0.iter_mut().zip(entries.chunks_exact(ENTRY_BYTES)) {
            let mut bytes = bytes.iter().copied();
            let mark = std::array::from_fn(|_| bytes.next().unwrap_or_default());
            let failures = u32::from_be_bytes(std::array::from_fn(|_| bytes.next().unwrap_or_default()));
            let last = u64::from_be_bytes(std::array::from_fn(|_| bytes.next().unwrap_or_default()));
            *entry = Entry { mark, failures, last };
        }
        Ok(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(slowing: &'static Slowing, mark: u8) -> Counted {
        Counted { slowing, space: 0, id: RecordId::new("t", 0).unwrap(), mark: [mark; 8] }
    }

    /// Fails as fast as it is let, for a time, and says how often it was let.
    fn guess(table: &mut Table, one: &Counted, from: u64, lasting: u64) -> u32 {
        let (mut now, mut let_in) = (from, 0);
        while now <= from + lasting {
            match table.admit(one, now) {
                Ok(()) => {
                    table.fail(one, now);
                    let_in += 1;
                }
                Err(error) => now += u64::try_from(error.retry_after().unwrap().as_millis()).unwrap(),
            }
        }
        let_in
    }

    #[test]
    fn a_hundred_in_a_row_and_one_a_day() {
        let (mut table, one) = (Table::default(), counted(&ACCOUNTS, 1));
        let day = ACCOUNTS.recovery;
        // A hundred guesses take most of a day by their waits alone.
        let first = guess(&mut table, &one, 1, day - 1);
        assert!((90..=100).contains(&first), "{first}");
        let all = first + guess(&mut table, &one, 1 + day, 100 * day);
        assert!((180..=201).contains(&all), "{all}");
        table.forget(&one).unwrap();
        table.admit(&one, 1 + 101 * day).unwrap();
    }

    #[test]
    fn waits_double_up_to_a_quarter_of_an_hour() {
        let (mut table, one) = (Table::default(), counted(&ACCOUNTS, 1));
        let mut waits = Vec::new();
        let mut now = 1;
        for _ in 0..18 {
            let wait = table.admit(&one, now).err().map_or(0, |error| error.retry_after().unwrap().as_secs());
            now += wait * 1_000;
            table.admit(&one, now).unwrap();
            table.fail(&one, now);
            waits.push(wait);
        }
        assert_eq!(waits, [0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900]);
    }

    #[test]
    fn made_up_names_never_lower_a_count() {
        let (mut table, victim) = (Table::default(), counted(&ACCOUNTS, 0));
        let before = guess(&mut table, &victim, 1, 3_600_000);
        assert!(before > 10);
        // More names than there are entries, each as often as it is let.
        let mut now = 3_600_001;
        let mut let_in = 0;
        for mark in 1..=200 {
            let_in += guess(&mut table, &counted(&ACCOUNTS, mark), now, 60_000);
            now += 60_000;
            let standing = table.standing(&victim, now).counts(&ACCOUNTS, now);
            assert!(standing >= before, "{standing} after {mark} names");
        }
        assert!(let_in > 100, "{let_in}");
    }

    #[test]
    fn others_of_a_place_are_counted_apart() {
        let (mut table, one, other) = (Table::default(), counted(&ACCOUNTS, 1), counted(&ACCOUNTS, 2));
        guess(&mut table, &one, 1, 3_600_000);
        assert!(table.admit(&one, 1).is_err());
        table.admit(&other, 1).unwrap();
        table.fail(&other, 1);
        table.forget(&other).unwrap();
        assert!(table.admit(&one, 1).is_err(), "another's success is no success of this one");
    }

    #[test]
    fn a_record_has_one_size_and_is_read_back() {
        let mut table = Table::default();
        assert_eq!(table.encode().len(), RECORD_BYTES);
        for mark in 1..=12 {
            table.fail(&counted(&SOURCES, mark), 7);
        }
        assert_eq!(table.encode().len(), RECORD_BYTES);
        assert_eq!(Table::decode(&table.encode()).unwrap(), table);
        assert!(Table::decode(&table.encode()[1..]).is_err());
        assert!(Table::decode(&[]).is_err());
    }

    #[test]
    fn an_address_counts_by_its_network() {
        let source = |text: &str| Source::address(text.parse().unwrap());
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:1"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
        assert_eq!(format!("{:?}", source("192.0.2.1")), "Source(..)");
    }
}
