use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};
use syntha_store::Timestamp;

/// What an erasure destroyed, and what it could not reach: the receipt for whoever asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Erasure {
    /// Whether there was data.
    pub removed: bool,
    /// How many files or rows of data were removed.
    pub objects: u64,
    /// How many rows of wrapped keys were destroyed.
    pub keys: u64,
    /// When it was done.
    pub at: Timestamp,
    /// Whether the data was sealed, so that what is left of it anywhere opens for nobody who has no older copy of the keys.
    pub sealed: bool,
}

impl Erasure {
    /// What is gone, in sentences for people.
    #[must_use]
    pub const fn covers(&self) -> &'static [&'static str] {
        if self.sealed {
            &[
                "the user's data, its files and the user's name in this deployment",
                "every key of the user's in the keystore",
                "sealed archives of the user and sealed backups of the data, whenever they were made: their key is gone, as far as no older \
                 copy of the keystore is left",
                "deleted files that a disk may still hold: they are sealed, and their key is gone",
            ]
        } else {
            &["the user's data, its files and the user's name in this deployment"]
        }
    }

    /// What may still be somewhere else, in sentences for people. Nobody but its keeper can destroy it.
    #[must_use]
    pub const fn does_not_cover(&self) -> &'static [&'static str] {
        if self.sealed {
            &[
                "plain exports, exports under a passphrase and plain archives that were handed out",
                "copies of the keystore that were made before: with the deployment's key they open the user's older archives and copies of \
                 the data",
                "snapshots of whole disks, folders or clusters that hold keystore and data of before",
                "what the user's applications and language models keep themselves",
            ]
        } else {
            &[
                "archives, backups and exports that were made before: they are not sealed",
                "snapshots of whole disks, folders or clusters of before",
                "deleted files that a disk may still hold",
                "what the user's applications and language models keep themselves",
            ]
        }
    }
}

impl Serialize for Erasure {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut receipt = serializer.serialize_struct("Erasure", 7)?;
        receipt.serialize_field("removed", &self.removed)?;
        receipt.serialize_field("objects", &self.objects)?;
        receipt.serialize_field("keys", &self.keys)?;
        receipt.serialize_field("at", &self.at.0)?;
        receipt.serialize_field("sealed", &self.sealed)?;
        receipt.serialize_field("covers", self.covers())?;
        receipt.serialize_field("does_not_cover", self.does_not_cover())?;
        receipt.end()
    }
}
