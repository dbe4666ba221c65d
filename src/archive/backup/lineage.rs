//! Which records make which version, and which record may come next.

use super::record::{HEAD_LEN, Kind, RecordHead};
use crate::archive::digest::{Blake3, Digest, IndexDigest};

/// A record of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// What it says of itself.
    pub head: RecordHead,
    /// Where its head is in the file.
    pub start: u64,
    /// The record of the version that was live before.
    back: Option<usize>,
    /// The record of the version that is live from here on.
    live: usize,
    /// The highest version so far.
    highest: u64,
}

impl Place {
    /// Where its payload is in the file.
    #[must_use]
    pub fn payload(&self) -> std::ops::Range<u64> {
        let start = self.start + HEAD_LEN as u64;
        start..start.saturating_add(self.head.length)
    }
}

/// Why a record cannot come next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotNext {
    /// It names another record than the one before it.
    #[error("it does not belong behind the record before it")]
    Chain,
    /// The first record has to be a snapshot, of which nothing is needed before.
    #[error("the first record has to be a snapshot")]
    NoSnapshot,
    /// It was made of a version that is not the live one.
    #[error("it was made of version {parent:?}, the newest one is {live}")]
    Parent {
        /// What it says.
        parent: Option<u64>,
        /// What is there.
        live: u64,
    },
    /// Its version was used already.
    #[error("version {0} or a later one was there before")]
    Used(u64),
    /// It goes back to what is no ancestor of the live version.
    #[error("version {0} is no ancestor of the newest one, or another index")]
    NoAncestor(u64),
}

/// What a file is made of that says the same in fewer records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rebase {
    /// The live version is a snapshot: that alone.
    Alone(Place),
    /// A snapshot of the live version: no change led to it, but a rewind.
    Whole(Place),
    /// A snapshot of the version of `base`, then `change`.
    Folded {
        /// The version that is to become a snapshot.
        base: Place,
        /// The change that leads from there to the live version.
        change: Place,
    },
}

/// The records of a backup, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lineage {
    records: Vec<Place>,
}

impl Lineage {
    /// The records, in their order.
    #[must_use]
    pub fn records(&self) -> &[Place] {
        &self.records
    }

    /// The record of the newest version: what a restore gives.
    #[must_use]
    pub fn live(&self) -> Option<&Place> {
        self.records.get(self.records.last()?.live)
    }

    /// What the next record has to name as the check of the one before.
    #[must_use]
    pub fn last_check(&self) -> Blake3 {
        self.records.last().map_or(Digest::ZERO, |last| last.head.check())
    }

    /// The record that made this version, abandoned or not.
    #[must_use]
    pub fn version(&self, version: u64) -> Option<&Place> {
        self.index_of(version).and_then(|index| self.records.get(index))
    }

    fn index_of(&self, version: u64) -> Option<usize> {
        self.records.iter().position(|place| place.head.kind != Kind::Rewind && place.head.version == version)
    }

    /// The live version's record and those of the versions that it was made of, newest first.
    pub fn live_line(&self) -> impl Iterator<Item = &Place> {
        self.line().filter_map(|index| self.records.get(index))
    }

    fn line(&self) -> impl Iterator<Item = usize> {
        // `back` always leads to an earlier record.
        std::iter::successors(self.records.last().map(|last| last.live), |&index| {
            self.records.get(index)?.back
        })
    }

    /// Whether this version is the live one or one that it was made of.
    #[must_use]
    pub fn is_live(&self, version: u64) -> bool {
        self.live_line().any(|place| place.head.version == version)
    }

    /// The records that make this version: a snapshot, then changes. `None` if the file does not
    /// have it, or it was abandoned.
    #[must_use]
    pub fn chain(&self, version: u64) -> Option<Vec<Place>> {
        let mut chain: Vec<Place> = Vec::new();
        for place in self.live_line().skip_while(|place| place.head.version != version) {
            chain.push(*place);
            if place.head.kind == Kind::Snapshot {
                chain.reverse();
                return Some(chain);
            }
        }
        None
    }

    /// Adds the record that begins at `start`.
    ///
    /// # Errors
    /// Says why it cannot come next; nothing is added then.
    pub fn push(&mut self, head: RecordHead, start: u64) -> Result<(), NotNext> {
        if head.before != self.last_check() {
            return Err(NotNext::Chain);
        }
        let here = self.records.len();
        let Some(last) = self.records.last() else {
            if head.kind != Kind::Snapshot || head.parent.is_some() {
                return Err(NotNext::NoSnapshot);
            }
            self.records.push(Place { head, start, back: None, live: here, highest: head.version });
            return Ok(());
        };
        let (back, highest) = (last.live, last.highest.max(head.version));
        let live = self.records.get(back).map_or(0, |place| place.head.version);
        if head.parent != Some(live) {
            return Err(NotNext::Parent { parent: head.parent, live });
        }
        let live = match head.kind {
            Kind::Rewind => self.ancestor(head.version, &head.digest)?,
            Kind::Snapshot | Kind::Change => {
                if last.highest >= head.version {
                    return Err(NotNext::Used(head.version));
                }
                here
            }
        };
        self.records.push(Place { head, start, back: Some(back), live, highest });
        Ok(())
    }

    /// The record of an ancestor of the live version.
    fn ancestor(&self, version: u64, digest: &IndexDigest) -> Result<usize, NotNext> {
        let mut line = self.line().skip(1);
        let is_it = |place: &Place| place.head.version == version && place.head.digest == *digest;
        line.find(|&index| self.records.get(index).is_some_and(is_it)).ok_or(NotNext::NoAncestor(version))
    }

    /// Takes the last record off.
    pub fn pop(&mut self) -> Option<Place> {
        self.records.pop()
    }

    /// How the file can be told in fewer records: all but the last change becomes a snapshot.
    /// `None` for an empty file.
    #[must_use]
    pub fn rebase(&self) -> Option<Rebase> {
        let live = self.live()?;
        if self.records.last()?.head.kind == Kind::Rewind {
            return Some(Rebase::Whole(*live));
        }
        match (live.head.kind, live.back.and_then(|back| self.records.get(back))) {
            (Kind::Change, Some(base)) => Some(Rebase::Folded { base: *base, change: *live }),
            _ => Some(Rebase::Alone(*live)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::digest::blake3;
    use proptest::prelude::*;

    fn add(lineage: &mut Lineage, kind: Kind, version: u64, parent: Option<u64>) -> Result<(), NotNext> {
        let head = RecordHead {
            kind,
            version,
            parent,
            created_s: 0,
            length: 0,
            digest: blake3(&version.to_le_bytes()),
            payload: blake3(b""),
            before: lineage.last_check(),
        };
        let start = lineage.records().last().map_or(0, |last| last.payload().end);
        lineage.push(head, start)
    }

    fn versions(chain: Option<Vec<Place>>) -> Option<Vec<u64>> {
        chain.map(|chain| chain.iter().map(|place| place.head.version).collect())
    }

    #[test]
    fn what_was_abandoned_is_never_part_of_a_version_again() {
        let mut lineage = Lineage::default();
        assert_eq!(add(&mut lineage, Kind::Change, 1, None), Err(NotNext::NoSnapshot));
        assert_eq!(add(&mut lineage, Kind::Snapshot, 1, Some(1)), Err(NotNext::NoSnapshot));
        assert_eq!(lineage.rebase(), None);
        add(&mut lineage, Kind::Snapshot, 1, None).unwrap();
        add(&mut lineage, Kind::Change, 2, Some(1)).unwrap();
        add(&mut lineage, Kind::Change, 3, Some(2)).unwrap();
        assert_eq!(versions(lineage.chain(3)), Some(vec![1, 2, 3]));
        assert_eq!(add(&mut lineage, Kind::Rewind, 3, Some(3)), Err(NotNext::NoAncestor(3)));
        assert_eq!(add(&mut lineage, Kind::Rewind, 7, Some(3)), Err(NotNext::NoAncestor(7)));
        add(&mut lineage, Kind::Rewind, 2, Some(3)).unwrap();
        assert_eq!((lineage.live().unwrap().head.version, lineage.chain(3)), (2, None));
        assert_eq!(
            add(&mut lineage, Kind::Change, 4, Some(3)),
            Err(NotNext::Parent { parent: Some(3), live: 2 })
        );
        assert_eq!(add(&mut lineage, Kind::Change, 3, Some(2)), Err(NotNext::Used(3)));
        add(&mut lineage, Kind::Change, 4, Some(2)).unwrap();
        assert_eq!(versions(lineage.chain(4)), Some(vec![1, 2, 4]));
        assert_eq!((lineage.chain(3), lineage.is_live(3), lineage.is_live(2)), (None, false, true));
        assert!(lineage.version(3).is_some());
        assert_eq!(add(&mut lineage, Kind::Rewind, 3, Some(4)), Err(NotNext::NoAncestor(3)));
        let Some(Rebase::Folded { base, change }) = lineage.rebase() else { panic!() };
        assert_eq!((base.head.version, change.head.version), (2, 4));
        add(&mut lineage, Kind::Snapshot, 5, Some(4)).unwrap();
        assert_eq!(versions(lineage.chain(5)), Some(vec![5]));
        assert_eq!(versions(lineage.chain(4)), Some(vec![1, 2, 4]));
        assert!(matches!(lineage.rebase(), Some(Rebase::Alone(place)) if place.head.version == 5));
        add(&mut lineage, Kind::Rewind, 1, Some(5)).unwrap();
        assert!(matches!(lineage.rebase(), Some(Rebase::Whole(place)) if place.head.version == 1));
        assert_eq!((versions(lineage.chain(1)), lineage.chain(5)), (Some(vec![1]), None));
        lineage.pop().unwrap();
        assert_eq!(lineage.live().unwrap().head.version, 5);
        let other = RecordHead { before: blake3(b"another"), ..lineage.records()[0].head };
        assert_eq!(lineage.push(other, 0), Err(NotNext::Chain));
    }

    proptest! {
        /// Against a model that keeps the line of the live version as a list.
        #[test]
        fn as_the_model_says(steps in proptest::collection::vec((0u8..4, 0u64..12, 0u64..12), 0..40)) {
            let mut lineage = Lineage::default();
            let mut model: Vec<(u64, bool)> = Vec::new();
            let mut highest = 0;
            for (what, version, parent) in steps {
                let (kind, parent) = match what {
                    0 => (Kind::Snapshot, Some(parent).filter(|&parent| parent > 0)),
                    1 => (Kind::Rewind, model.last().map(|&(live, _)| live)),
                    _ => (Kind::Change, model.last().map(|&(live, _)| live).filter(|_| parent % 3 > 0).or(Some(parent))),
                };
                let added = add(&mut lineage, kind, version, parent).is_ok();
                let live = model.last().map(|&(live, _)| live);
                let expected = match kind {
                    Kind::Snapshot if model.is_empty() => parent.is_none(),
                    Kind::Rewind => model.iter().rev().skip(1).any(|&(other, _)| other == version) && live.is_some(),
                    _ => !model.is_empty() && parent == live && version > highest,
                };
                prop_assert_eq!(added, expected);
                if added {
                    highest = highest.max(version);
                    match kind {
                        Kind::Rewind => model.truncate(model.iter().position(|&(other, _)| other == version).unwrap() + 1),
                        kind => model.push((version, kind == Kind::Snapshot)),
                    }
                }
                prop_assert_eq!(lineage.live().map(|place| place.head.version), model.last().map(|&(live, _)| live));
                for asked in 0..12 {
                    let chain = model.iter().position(|&(other, _)| other == asked).map(|at| {
                        let from = model[..=at].iter().rposition(|&(_, snapshot)| snapshot).unwrap();
                        model[from..=at].iter().map(|&(version, _)| version).collect::<Vec<u64>>()
                    });
                    prop_assert_eq!(versions(lineage.chain(asked)), chain);
                }
            }
        }
    }
}
