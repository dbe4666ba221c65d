//! Bytes of the archive that lie in several buffers, one after the other.

use bytes::Bytes;
use std::ops::Range;

/// A range of the archive, in pieces.
#[derive(Debug, Default)]
pub struct Pieces {
    pieces: Vec<Bytes>,
    /// Where each piece ends in the archive.
    ends: Vec<u64>,
    start: u64,
}

impl Pieces {
    /// The range that begins at `start`.
    #[must_use]
    pub fn new(start: u64, mut pieces: Vec<Bytes>) -> Self {
        pieces.retain(|piece| !piece.is_empty());
        let mut end = start;
        let end_of = |piece: &Bytes| {
            end += piece.len() as u64;
            end
        };
        Self { ends: pieces.iter().map(end_of).collect(), pieces, start }
    }

    /// The range that they are.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.start..self.ends.last().copied().unwrap_or(self.start)
    }

    /// The bytes of `range`, one piece after the other; what lies outside is left out.
    pub fn slices(&self, range: &Range<u64>) -> impl Iterator<Item = &[u8]> + Clone + use<'_> {
        let first = self.ends.partition_point(|end| *end <= range.start);
        let range = range.clone();
        (first..self.pieces.len()).map_while(move |at| {
            let (piece, end) = (&self.pieces[at], self.ends[at]);
            let start = end - piece.len() as u64;
            let within = range.start.max(start)..range.end.min(end);
            (within.start < within.end)
                .then(|| &piece[(within.start - start) as usize..(within.end - start) as usize])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_slices_of_a_range_are_its_bytes(
            lengths in proptest::collection::vec(0usize..20, 0..12),
            start in 0u64..1000,
            from in 0usize..100,
            length in 0usize..100,
        ) {
            let whole: Vec<u8> = (0..lengths.iter().sum::<usize>()).map(|at| at as u8).collect();
            let mut rest = Bytes::from(whole.clone());
            let pieces = lengths.into_iter().map(|length| rest.split_to(length)).collect();
            let pieces = Pieces::new(start, pieces);
            prop_assert_eq!(pieces.range(), start..start + whole.len() as u64);
            let (from, to) = (from.min(whole.len()), (from + length).min(whole.len()).max(from.min(whole.len())));
            let slices: Vec<&[u8]> = pieces.slices(&(start + from as u64..start + to as u64)).collect();
            prop_assert!(slices.iter().all(|slice| !slice.is_empty()));
            prop_assert_eq!(slices.concat(), &whole[from..to]);
        }
    }
}
