//! md5 of contents that come in pieces, two of them side by side where there are two: while a step of one waits for its result, the
//! processor works on the other.

use super::compress::{Block, START};
use super::lanes::Lanes;

/// A content of which more may come.
#[derive(Debug, Clone)]
pub struct Stream {
    state: [u32; 4],
    /// The begin of a block whose end has not come.
    carry: Block,
    length: u64,
}

impl Default for Stream {
    fn default() -> Self {
        Self { state: START, carry: [0; 64], length: 0 }
    }
}

impl Stream {
    /// Takes the next bytes of the content.
    pub fn update(&mut self, bytes: &[u8]) {
        let bytes = self.fill_carry(bytes);
        let (blocks, rest) = bytes.as_chunks::<64>();
        self.run(blocks);
        self.carry_rest(bytes.len(), rest);
    }

    /// Completes a block that was begun; returns what is left then.
    fn fill_carry<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let carried = (self.length % 64) as usize;
        if carried == 0 {
            return bytes;
        }
        let (head, rest) = bytes.split_at((64 - carried).min(bytes.len()));
        self.carry[carried..carried + head.len()].copy_from_slice(head);
        self.length += head.len() as u64;
        if self.length.is_multiple_of(64) {
            let carry = self.carry;
            self.run(&[carry]);
        }
        rest
    }

    fn run(&mut self, blocks: &[Block]) {
        let mut state = self.state.map(|word| [word]);
        Lanes::<1>::base().run(&mut state, &[blocks], blocks.len());
        self.state = state.map(|[word]| word);
    }

    fn carry_rest(&mut self, taken_bytes: usize, rest: &[u8]) {
        // A piece that did not fill the block that was begun is in it already.
        if taken_bytes > 0 {
            self.carry[..rest.len()].copy_from_slice(rest);
            self.length += taken_bytes as u64;
        }
    }

    /// The digest of all bytes so far.
    #[must_use]
    pub fn finish(mut self) -> [u8; 16] {
        let bits = self.length.wrapping_mul(8);
        let carried = (self.length % 64) as usize;
        let mut tail = [[0; 64]; 2];
        tail[0][..carried].copy_from_slice(&self.carry[..carried]);
        let bytes = tail.as_flattened_mut();
        bytes[carried] = 0x80;
        let count = if carried < 56 { 1 } else { 2 };
        bytes[count * 64 - 8..count * 64].copy_from_slice(&bits.to_le_bytes());
        self.run(&tail[..count]);
        let mut digest = [0; 16];
        for (bytes, word) in digest.as_chunks_mut::<4>().0.iter_mut().zip(self.state) {
            *bytes = word.to_le_bytes();
        }
        digest
    }
}

/// Takes the next bytes of two contents: as [`Stream::update`] of each, but almost twice as fast.
pub fn update_pair(a: (&mut Stream, &[u8]), b: (&mut Stream, &[u8])) {
    let ((a, a_bytes), (b, b_bytes)) = (a, b);
    let (a_bytes, b_bytes) = (a.fill_carry(a_bytes), b.fill_carry(b_bytes));
    let (a_blocks, b_blocks) = (a_bytes.as_chunks::<64>().0, b_bytes.as_chunks::<64>().0);
    let count = a_blocks.len().min(b_blocks.len());
    let mut state = std::array::from_fn(|word| [a.state[word], b.state[word]]);
    Lanes::<2>::base().run(&mut state, &[a_blocks, b_blocks], count);
    for (word, [of_a, of_b]) in state.into_iter().enumerate() {
        (a.state[word], b.state[word]) = (of_a, of_b);
    }
    for (stream, bytes) in [(a, a_bytes), (b, b_bytes)] {
        stream.length += count as u64 * 64;
        stream.update(&bytes[count * 64..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::md5::Digest;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]
        #[test]
        fn the_same_as_in_one_go(
            a in proptest::collection::vec(any::<u8>(), 0..2000),
            b in proptest::collection::vec(any::<u8>(), 0..2000),
            cuts in proptest::collection::vec((0usize..300, 0usize..300, any::<bool>()), 0..20),
        ) {
            let (mut of_a, mut of_b) = (Stream::default(), Stream::default());
            let (mut a_rest, mut b_rest) = (&a[..], &b[..]);
            for (a_cut, b_cut, together) in cuts {
                let (a_now, a_more) = a_rest.split_at(a_cut.min(a_rest.len()));
                let (b_now, b_more) = b_rest.split_at(b_cut.min(b_rest.len()));
                (a_rest, b_rest) = (a_more, b_more);
                if together {
                    update_pair((&mut of_a, a_now), (&mut of_b, b_now));
                } else {
                    of_a.update(a_now);
                    of_b.update(b_now);
                }
            }
            update_pair((&mut of_a, a_rest), (&mut of_b, b_rest));
            prop_assert_eq!(of_a.finish(), <[u8; 16]>::from(::md5::Md5::digest(&a)));
            prop_assert_eq!(of_b.finish(), <[u8; 16]>::from(::md5::Md5::digest(&b)));
        }
    }
}
