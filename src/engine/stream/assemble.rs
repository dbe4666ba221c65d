//! Putting blocks together from pieces that come from several files at once.

use crate::archive::layout::BlockLayout;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::mpsc::Sender;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A block that is complete.
pub(super) struct Block {
    /// Its number.
    pub(super) number: u64,
    /// The bytes of the archive that it is.
    pub(super) range: Range<u64>,
    /// Its content.
    pub(super) pieces: Vec<Bytes>,
    /// Ids, ascending, of files whose bytes in it mean nothing.
    pub(super) failed: Vec<u64>,
    /// Ids, ascending, of files whose bytes in it the receiver has.
    pub(super) staged: Vec<u64>,
    /// How many of its bytes mean something.
    pub(super) good_bytes: u64,
    /// Held as long as the block takes memory.
    pub(super) slot: Option<OwnedSemaphorePermit>,
}

impl Block {
    /// How many of its bytes before `at`, a place in the archive, mean something, if those that do
    /// are spread evenly.
    pub(super) fn good_bytes_before(&self, at: u64) -> u64 {
        let (before, length) = (at - self.range.start, self.range.end - self.range.start);
        let share = u128::from(self.good_bytes) * u128::from(before) / u128::from(length.max(1));
        u64::try_from(share).unwrap_or(u64::MAX)
    }
}

/// What bytes are that become part of a block.
#[derive(Debug, Clone, Copy)]
pub(super) enum Origin {
    /// The source.
    Source,
    /// The copy that the receiver has of this file.
    Staged(u64),
    /// None: they could not be read of this file.
    Failed(u64),
}

/// No task takes blocks any more.
#[derive(Debug)]
pub(super) struct Closed;

#[derive(Default)]
struct Building {
    pieces: BTreeMap<u64, Bytes>,
    filled_bytes: u64,
    failed: Vec<u64>,
    staged: Vec<u64>,
    bad_bytes: u64,
}

fn insert(ids: &mut Vec<u64>, id: u64) {
    if let Err(at) = ids.binary_search(&id) {
        ids.insert(at, id);
    }
}

/// The blocks that are not complete yet.
pub(super) struct Assembler {
    block_size: u64,
    state: Mutex<State>,
    ready: Sender<Block>,
    /// One for each block that may wait to be sent, or be on its way.
    slots: Arc<Semaphore>,
    runtime: Handle,
}

#[derive(Default)]
struct State {
    open: BTreeMap<u64, Building>,
    /// Where the archive ends, once that is known.
    total_bytes: Option<u64>,
}

impl Assembler {
    /// At most `slots` complete blocks exist at once, besides one that waits for its slot.
    pub(super) fn new(block_size: u64, ready: Sender<Block>, slots: usize, runtime: Handle) -> Self {
        Self { block_size, state: Mutex::default(), ready, slots: Arc::new(Semaphore::new(slots)), runtime }
    }

    /// Adds bytes of the archive, each exactly once.
    pub(super) fn add(&self, mut offset: u64, mut bytes: Bytes, origin: Origin) -> Result<(), Closed> {
        while !bytes.is_empty() {
            let number = offset / self.block_size;
            let room = (number + 1).saturating_mul(self.block_size) - offset;
            let piece = bytes.split_to(usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len()));
            let length = piece.len() as u64;
            let complete = {
                let mut state = self.state.lock();
                let building = state.open.entry(number).or_default();
                building.filled_bytes += length;
                building.pieces.insert(offset, piece);
                match origin {
                    Origin::Source => {}
                    Origin::Staged(id) => insert(&mut building.staged, id),
                    Origin::Failed(id) => {
                        building.bad_bytes += length;
                        insert(&mut building.failed, id);
                    }
                }
                self.take_if_complete(&mut state, number)
            };
            self.hand_over(complete)?;
            offset += length;
        }
        Ok(())
    }

    /// Says where the archive ends: the last block is shorter than the others.
    pub(super) fn end(&self, total_bytes: u64) -> Result<(), Closed> {
        let complete = {
            let mut state = self.state.lock();
            state.total_bytes = Some(total_bytes);
            if total_bytes == 0 {
                None
            } else {
                self.take_if_complete(&mut state, (total_bytes - 1) / self.block_size)
            }
        };
        self.hand_over(complete)
    }

    fn take_if_complete(&self, state: &mut State, number: u64) -> Option<Block> {
        let block_layout = BlockLayout::new(state.total_bytes.unwrap_or(u64::MAX), self.block_size)?;
        let range = block_layout.range(number)?;
        if state.open.get(&number)?.filled_bytes != range.end - range.start {
            return None;
        }
        let built = state.open.remove(&number)?;
        Some(Block {
            number,
            good_bytes: built.filled_bytes - built.bad_bytes,
            range,
            pieces: built.pieces.into_values().collect(),
            failed: built.failed,
            staged: built.staged,
            slot: None,
        })
    }

    /// Waits until a task takes the block.
    fn hand_over(&self, complete: Option<Block>) -> Result<(), Closed> {
        match complete {
            Some(mut block) => {
                let slot = self.runtime.block_on(self.slots.clone().acquire_owned());
                block.slot = Some(slot.map_err(|_| Closed)?);
                self.ready.blocking_send(block).map_err(|_| Closed)
            }
            None if self.ready.is_closed() => Err(Closed),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_order_of_pieces_gives_the_same_blocks(
            lengths in proptest::collection::vec(1usize..40, 1..30),
            block_size in 1u64..60,
            order in any::<u64>(),
        ) {
            let archive: Vec<u8> = (0..lengths.iter().sum::<usize>()).map(|i| i as u8).collect();
            let mut pieces: Vec<(u64, Bytes)> = Vec::new();
            let mut at = 0;
            for length in lengths {
                pieces.push((at as u64, Bytes::copy_from_slice(&archive[at..at + length])));
                at += length;
            }
            let spin = order as usize % pieces.len();
            pieces.rotate_left(spin);
            let (ready, mut blocks) = tokio::sync::mpsc::channel(10_000);
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let assembler = Assembler::new(block_size, ready, 10_000, runtime.handle().clone());
            let end_first = order % 2 == 0;
            if end_first { assembler.end(at as u64).unwrap(); }
            for (offset, piece) in pieces { assembler.add(offset, piece, Origin::Source).unwrap(); }
            if !end_first { assembler.end(at as u64).unwrap(); }
            drop(assembler);
            let mut found = BTreeMap::new();
            while let Ok(block) = blocks.try_recv() {
                prop_assert_eq!(block.range.start, block.number * block_size);
                prop_assert_eq!(block.good_bytes, block.range.end - block.range.start);
                prop_assert!(found.insert(block.number, block.pieces.concat()).is_none());
            }
            prop_assert_eq!(found.into_values().collect::<Vec<_>>().concat(), archive);
        }
    }
}
