//! A trail as its parts, which can be changed, and the log that it is of.

use signed_note::{Note, StandardSigner};
use syntha_audit::leaf::{Leaf, LeafKind};
use syntha_audit::link::{Hash, Link, StoredLink, genesis, link_hash};
use syntha_audit::trail::{Header, Item, TrailWriter};
use syntha_store::{ChainHead, KeyFingerprint};
use tlog_tiles::{Checkpoint, Error, HashReader, prove_record, prove_tree, stored_hashes, tree_hash};

pub(crate) const ORIGIN: &str = "example.org/syntha-audit";
/// Three keys of the log: of private keys that are 32 times one byte.
pub(crate) const KEYS: [(&str, &str); 3] = [
    (
        "PRIVATE+KEY+example.org/syntha-audit+2112b96d+AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB",
        "example.org/syntha-audit+2112b96d+AYqI4910CfGV/VLbLTy6XXLKZwm/HZQSG/N0iAG0D29c",
    ),
    (
        "PRIVATE+KEY+example.org/syntha-audit+cc8c03a0+AQICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgIC",
        "example.org/syntha-audit+cc8c03a0+AYE5dw6ofRdfVqNUZsNMfszLjYqRtO43ol32D1uPybOU",
    ),
    (
        "PRIVATE+KEY+example.org/syntha-audit+5afeb71f+AQMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMD",
        "example.org/syntha-audit+5afeb71f+Ae1JKMYo0cLG6ukDOJBZlWEpWSc6XGP5NjbBRhSshzfR",
    ),
];
/// From this size on the second key signs.
pub(crate) const ROTATED: u64 = 12;

pub(crate) fn trusted() -> String {
    format!("# The log's keys\n0 {}\n{ROTATED} {}\n", KEYS[0].1, KEYS[1].1)
}

pub(crate) fn key_of(size: u64) -> usize {
    usize::from(size >= ROTATED)
}

/// A signed checkpoint.
pub(crate) fn sign(size: u64, root: Hash, key: usize) -> String {
    let checkpoint = Checkpoint::new(ORIGIN, size, tlog_tiles::Hash(root), "").unwrap();
    let mut note = Note::new(&checkpoint.to_bytes(), &[]).unwrap();
    note.add_sigs(&[&StandardSigner::new(KEYS[key].0).unwrap()]).unwrap();
    String::from_utf8(note.to_bytes()).unwrap()
}

/// The hashes of a tree.
pub(crate) struct Tree(Vec<tlog_tiles::Hash>, u64);

impl HashReader for Tree {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<tlog_tiles::Hash>, Error> {
        Ok(indexes.iter().map(|index| self.0[usize::try_from(*index).unwrap()]).collect())
    }
}

impl Tree {
    pub(crate) fn of(leaves: &[Leaf]) -> Self {
        let mut tree = Self(Vec::new(), 0);
        for leaf in leaves {
            let hashes = stored_hashes(tree.1, &leaf.encode(), &tree).unwrap();
            tree.0.extend(hashes);
            tree.1 += 1;
        }
        tree
    }

    pub(crate) fn root(&self, size: u64) -> Hash {
        tree_hash(size, self).unwrap().0
    }

    pub(crate) fn inclusion(&self, index: u64, size: u64) -> Vec<Hash> {
        prove_record(size, index, self).unwrap().iter().map(|hash| hash.0).collect()
    }

    pub(crate) fn consistency(&self, from: u64, size: u64) -> Vec<Hash> {
        prove_tree(size, from, self).unwrap().iter().map(|hash| hash.0).collect()
    }
}

#[derive(Clone)]
pub(crate) struct Chain {
    pub(crate) owner: [u8; 32],
    pub(crate) links: Vec<StoredLink>,
}

impl Chain {
    pub(crate) fn link(&self, at: usize) -> Link {
        Link::decode(&self.links[at].text).unwrap()
    }

    /// Gives the links the numbers that they stand at, as who wants to hide that some are missing does.
    pub(crate) fn renumber(&mut self) {
        for (at, stored) in self.links.iter_mut().enumerate() {
            let mut link = Link::decode(&stored.text).unwrap();
            link.seq = at as u64 + 1;
            stored.text = link.encode().into();
        }
    }

    pub(crate) fn end(&self, deployment: &KeyFingerprint) -> ChainHead {
        let start = genesis(deployment, &self.owner);
        let head = self.links.iter().fold(start, |head, stored| link_hash(&head, &stored.text));
        ChainHead { seq: self.links.len() as u64, head }
    }
}

/// A trail file's parts.
#[derive(Clone)]
pub(crate) struct Trail {
    pub(crate) deployment: KeyFingerprint,
    pub(crate) chains: Vec<Chain>,
    pub(crate) leaves: Vec<Leaf>,
    pub(crate) checkpoints: Vec<String>,
    /// Sizes of the checkpoints.
    pub(crate) sizes: Vec<u64>,
}

impl Trail {
    /// The last link of a chain that the log has.
    pub(crate) fn logged(&self, owner: &[u8; 32]) -> u64 {
        let of = self.leaves.iter().filter(|leaf| leaf.owner == *owner);
        of.fold(0, |last, leaf| if leaf.kind == LeafKind::Erased { 0 } else { leaf.chain.seq.max(last) })
    }

    /// The last link of the chain that a leaf covers, whether it was erased or not.
    pub(crate) fn covered(&self, owner: &[u8; 32]) -> u64 {
        self.logged(owner)
            .max(self.leaves.iter().rev().find(|leaf| leaf.owner == *owner).map_or(0, |leaf| leaf.chain.seq))
    }

    fn chain_items(&self) -> Vec<Item> {
        let mut items = Vec::new();
        for chain in &self.chains {
            items.push(Item::Trail(Header::new(ORIGIN.into(), self.deployment, chain.owner)));
            for stored in &chain.links {
                let seq = Link::decode(&stored.text).map_or(1, |link| link.seq);
                items.push(Item::Link { seq, stored: stored.clone() });
            }
            items.push(Item::End(chain.end(&self.deployment)));
        }
        items
    }

    /// With every leaf.
    pub(crate) fn items(&self) -> Vec<Item> {
        let mut items = self.chain_items();
        items.extend((0..).zip(&self.leaves).map(|(index, leaf)| Item::Leaf { index, leaf: *leaf }));
        items.extend(self.checkpoints.iter().map(|note| Item::Checkpoint { note: note.clone() }));
        items
    }

    /// With the leaves of its chains alone, each proven under the last checkpoint.
    pub(crate) fn proven_items(&self) -> Vec<Item> {
        let (tree, size) = (Tree::of(&self.leaves), *self.sizes.last().unwrap());
        let mut items = self.chain_items();
        for (index, leaf) in (0..size).zip(&self.leaves) {
            if self.chains.iter().any(|chain| chain.owner == leaf.owner) {
                items.push(Item::Leaf { index, leaf: *leaf });
                items.push(Item::Proof { index, size, hashes: tree.inclusion(index, size) });
            }
        }
        for pair in self.sizes.windows(2) {
            let hashes = tree.consistency(pair[0], pair[1]);
            items.push(Item::Consistency { from: pair[0], size: pair[1], hashes });
        }
        items.extend(self.checkpoints.iter().map(|note| Item::Checkpoint { note: note.clone() }));
        items
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        written(&self.items())
    }
}

pub(crate) fn written(items: &[Item]) -> Vec<u8> {
    let mut writer = TrailWriter::new(Vec::new());
    items.iter().for_each(|item| writer.write(item).unwrap());
    writer.finish().unwrap()
}
