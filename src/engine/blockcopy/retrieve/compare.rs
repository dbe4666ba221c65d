//! Comparing a piece of the source with what is known of the destination; on any thread.

use super::job::Job;
use crate::archive::blockcopy::hasher::is_zero;
use crate::engine::buffers::Buffer;
use crate::error::Result;
use std::ops::Range;

/// A question about a piece of the source.
pub(super) enum Ask {
    /// Which blocks of it are wanted?
    Compare {
        position: u64,
        length: u32,
        block: u32,
        want: Want,
        /// The source has a hole there: nothing is read.
        hole: bool,
    },
    /// None: it is answered already.
    Answered(Compared),
}

/// The most bytes of hashes in one question, about: blocks may have a byte each.
const MAX_HASHES: usize = 64 << 10;

/// What the destination has there.
pub(super) enum Want {
    /// Blocks with these hashes, `length` bytes in all; the last one may be shorter than the
    /// source's.
    Hashes { hashes: Vec<u8>, length: u64 },
    /// Zeros, `length` bytes; whatever it is, where it is behind them.
    Zeros { length: u64 },
}

/// An answer.
pub(super) enum Compared {
    /// All of it is equal; zeros, in whole blocks.
    Equal(Range<u64>),
    /// All of it is zeros, in whole blocks, and the destination has something else.
    Zeros(Range<u64>),
    /// Block by block.
    Blocks(Blocks),
}

/// The blocks of a piece.
pub(super) struct Blocks {
    pub(super) position: u64,
    pub(super) content: Buffer,
    pub(super) block: usize,
    /// The source's hashes; empty where they are not needed.
    pub(super) hashes: Vec<u8>,
    /// One for each block.
    pub(super) verdicts: Vec<Verdict>,
}

/// What becomes of a block.
pub(super) enum Verdict {
    Equal,
    /// It is zeros, and is sent as such.
    Zeros,
    /// It is sent as it is.
    Plain,
    /// It is sent like this.
    Packed(Vec<u8>),
}

impl Ask {
    /// An original's block; more of them may follow.
    pub(super) fn blocks(position: u64, block: u32) -> Self {
        let want = Want::Hashes { hashes: Vec::new(), length: 0 };
        Self::Compare { position, length: 0, block, want, hole: false }
    }

    /// All of the piece is wanted.
    pub(super) fn all(position: u64, length: u32, block: usize, hole: bool) -> Self {
        Self::Compare { position, length, block: block as u32, want: Want::Zeros { length: 0 }, hole }
    }

    /// Whether a block can be added: right behind the others, which are whole ones.
    pub(super) fn takes(&self, at: u64, more: u32, most: u32) -> bool {
        match self {
            Self::Compare { position, length, block, want: Want::Hashes { hashes, .. }, .. } => {
                hashes.len() < MAX_HASHES
                    && at == position + u64::from(*length)
                    && length.is_multiple_of(*block)
                    && more <= *block
                    && length + more <= most.max(*block)
            }
            _ => false,
        }
    }

    /// Adds a block.
    pub(super) fn push(&mut self, more: u32, hash: &[u8]) {
        if let Self::Compare { length, want: Want::Hashes { hashes, length: there }, .. } = self {
            *length += more;
            *there += u64::from(more);
            hashes.extend(hash);
        }
    }
}

/// Answers.
pub(super) fn compare(job: &Job<'_>, ask: Ask) -> Result<Compared> {
    let (position, length, block, want, hole) = match ask {
        Ask::Compare { position, length, block, want, hole } => {
            (position, length, block as usize, want, hole)
        }
        Ask::Answered(compared) => return Ok(compared),
    };
    // The original's destination may go on behind the source's end.
    let length = u64::from(length).min(job.device.size().saturating_sub(position)) as usize;
    let mut content = job.buffers.take();
    content.resize(length, 0);
    if hole {
        content.fill(0);
    } else {
        job.device.read(position, &mut content)?;
    }
    let blocks: Vec<&[u8]> = content.chunks(block).collect();
    let is_native = job.head.is_some();
    let needs_hashes = is_native || matches!(want, Want::Hashes { .. });
    let hashes = match needs_hashes {
        true if hole && length.is_multiple_of(job.hasher.block()) && block == job.hasher.block() => {
            job.hasher.zero().repeat(blocks.len())
        }
        true => job.hasher.each(&blocks),
        false => Vec::new(),
    };
    let width = job.hasher.width();
    let mut verdicts = Vec::with_capacity(blocks.len());
    for (number, content) in blocks.iter().enumerate() {
        let begin = number as u64 * block as u64;
        let equal = match &want {
            Want::Hashes { hashes: there, length } => {
                // A block of another length is another one.
                length.saturating_sub(begin).min(block as u64) == content.len() as u64
                    && there.get(number * width..(number + 1) * width)
                        == hashes.get(number * width..(number + 1) * width)
            }
            Want::Zeros { length } => {
                length.saturating_sub(begin).min(block as u64) == content.len() as u64 && is_zero(content)
            }
        };
        verdicts.push(match equal {
            true => Verdict::Equal,
            false if is_native && is_zero(content) => Verdict::Zeros,
            false => pack(job, content),
        });
    }
    Ok(Compared::Blocks(Blocks { position, content, block, hashes, verdicts }))
}

fn pack(job: &Job<'_>, content: &[u8]) -> Verdict {
    let packed = match (job.head, job.xz) {
        (Some(_), _) => job.coder.zstd(content),
        (None, true) => job.coder.xz(content),
        (None, false) => None,
    };
    packed.map_or(Verdict::Plain, Verdict::Packed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_of_tiny_blocks_are_bounded() {
        let mut ask = Ask::blocks(0, 1);
        let mut at = 0;
        while ask.takes(at, 1, 1 << 20) {
            ask.push(1, &[0; 64]);
            at += 1;
        }
        assert_eq!(at, 1024);
    }
}
