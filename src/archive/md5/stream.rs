//! md5 of one message that comes in pieces.

use super::compress::{Block, START, Tail, digest_of, take_one, take_two};

/// Computes the md5 of a message that comes in pieces.
#[derive(Debug, Clone)]
pub struct Stream {
    state: [u32; 4],
    /// Bytes so far; what exceeds whole blocks is at the start of `begun`.
    length: u64,
    begun: Block,
}

impl Default for Stream {
    fn default() -> Self {
        Self { state: START, length: 0, begun: [0; 64] }
    }
}

impl Stream {
    /// Takes the next bytes of the message.
    pub fn update(&mut self, bytes: &[u8]) {
        let (blocks, rest) = self.complete(bytes).as_chunks();
        take_one(&mut self.state, blocks);
        self.skip(blocks);
        self.begin(rest);
    }

    /// What goes on from `length` bytes, a multiple of 64, that came to `state`; see
    /// [`Stream::state`].
    #[must_use]
    pub fn resume(length: u64, state: [u8; 16]) -> Self {
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(state.as_chunks::<4>().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        Self { state: words, length: length / 64 * 64, begun: [0; 64] }
    }

    /// What all bytes so far came to, as four little-endian words; `None` between blocks of 64
    /// bytes.
    #[must_use]
    pub fn state(&self) -> Option<[u8; 16]> {
        (self.held() == 0).then(|| digest_of(self.state))
    }

    /// The md5 of all bytes so far.
    #[must_use]
    pub fn finish(mut self) -> [u8; 16] {
        let tail = Tail::new(&self.begun[..self.held()], self.length);
        take_one(&mut self.state, tail.blocks());
        digest_of(self.state)
    }

    /// How many bytes of `begun` are in use.
    fn held(&self) -> usize {
        (self.length % 64) as usize
    }

    /// Takes from `bytes` what the begun block lacks; what it gives back is to begin a new block,
    /// or is nothing.
    fn complete<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let held = self.held();
        if held == 0 {
            return bytes;
        }
        let (now, later) = bytes.split_at(bytes.len().min(64 - held));
        self.begin(now);
        if self.held() == 0 && !now.is_empty() {
            take_one(&mut self.state, &[self.begun]);
        }
        later
    }

    /// Counts blocks that were taken.
    fn skip(&mut self, blocks: &[Block]) {
        self.length = self.length.wrapping_add(blocks.as_flattened().len() as u64);
    }

    /// Keeps what is no whole block and fits into the begun one.
    fn begin(&mut self, rest: &[u8]) {
        let held = self.held();
        self.begun[held..held + rest.len()].copy_from_slice(rest);
        self.length = self.length.wrapping_add(rest.len() as u64);
    }
}

/// Takes the next bytes of two messages, in little more time than the longer of the two would need
/// alone.
pub fn update_pair(a: (&mut Stream, &[u8]), b: (&mut Stream, &[u8])) {
    let ((a, a_bytes), (b, b_bytes)) = (a, b);
    let (a_bytes, b_bytes) = (a.complete(a_bytes), b.complete(b_bytes));
    let (a_blocks, b_blocks) = (a_bytes.as_chunks().0, b_bytes.as_chunks().0);
    let count = take_two([&mut a.state, &mut b.state], [a_blocks, b_blocks]);
    a.skip(&a_blocks[..count]);
    b.skip(&b_blocks[..count]);
    a.update(&a_bytes[count * 64..]);
    b.update(&b_bytes[count * 64..]);
}
