//! The extents of a changed file: the ranges that it shares with its previous content, and those
//! that are appended to the archive.

use crate::archive::chunk_map::{ChunkMap, Run, diff};
use crate::archive::extent::{Extents, Piece};

/// Pieces with a smaller mean size, in bytes, are not worth their rows: such a file is sent as a
/// whole.
const MIN_PIECE_BYTES: u64 = 16 << 10;

/// A file that grows again and again has at most so many short pieces at its end.
const MAX_SHORT_PIECES: usize = 128;

/// The extents of a file of `size` bytes that begins with `pieces`, its previous content; its new
/// end is from `log_end` on.
///
/// The pieces of several runs lie apart if other files came between them. Too many short ones at
/// the end of the file are sent once more, as one.
pub(super) fn grown(pieces: &[Piece], size: u64, log_end: u64) -> Extents {
    let is_short = |piece: &&Piece| piece.range.end - piece.range.start < MIN_PIECE_BYTES;
    let short = pieces.iter().rev().take_while(is_short).count();
    let kept = if short < MAX_SHORT_PIECES { pieces } else { &pieces[..pieces.len() - short] };
    let mut extents = Extents::default();
    for piece in kept {
        extents.push(piece.range.start, piece.range.end - piece.range.start);
    }
    extents.push(log_end, size.saturating_sub(extents.size()));
    extents
}

/// The extents of a changed file: those of `pieces`, its previous content, for equal chunks, and
/// the rest from `log_end` on. Empty if a chunk map is damaged, or too little is equal.
pub(super) fn changed(pieces: &[Piece], previous: &[u8], chunk_map: &[u8], log_end: u64) -> Extents {
    let (Ok(previous), Ok(chunk_map)) = (ChunkMap::decode(previous), ChunkMap::decode(chunk_map)) else {
        return Extents::default();
    };
    let (mut extents, mut appended) = (Extents::default(), 0);
    for run in diff(&previous, &chunk_map) {
        match run {
            Run::New { length } => {
                extents.push(log_end + appended, length);
                appended += length;
            }
            Run::Same { old_offset, length } => {
                let shared = old_offset..old_offset + length;
                let mut at = shared.start;
                let first = pieces.partition_point(|piece| end_in_file(piece) <= shared.start);
                for piece in pieces[first..].iter().take_while(|piece| piece.file_offset < shared.end) {
                    let end = end_in_file(piece).min(shared.end);
                    extents.push(piece.range.start + (at - piece.file_offset), end - at);
                    at = end;
                }
                if at != shared.end {
                    return Extents::default();
                }
            }
        }
    }
    let max_extents = extents.size() / MIN_PIECE_BYTES + 64;
    if extents.list().len() as u64 > max_extents { Extents::default() } else { extents }
}

/// The offset in the file at which a piece ends.
fn end_in_file(piece: &Piece) -> u64 {
    piece.file_offset + (piece.range.end - piece.range.start)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::chunk_map::{chunk_map_of, mean_chunk_for};

    fn noise(length: usize, mut state: u64) -> Vec<u8> {
        let step = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        (0..length).map(step).collect()
    }

    #[test]
    fn an_insertion_costs_little_and_every_byte_is_where_the_extents_say() {
        let old = noise(6 << 20, 1);
        let mut new = old.clone();
        new.splice(3_000_000..3_000_000, noise(1000, 2));
        new.splice(0..0, [7]);
        new.extend(noise(5000, 3));
        let mean = mean_chunk_for(old.len() as u64, None);
        let (_, before) = chunk_map_of(&old, mean);
        let (_, now) = chunk_map_of(&new, mean);
        // The previous content lies in two pieces, the second one first.
        let half = 2_500_000;
        let piece = |file_offset: u64, range| Piece { file_offset, range };
        let length = old.len() as u64;
        let pieces = [piece(0, length - half + 10..length + 10), piece(half, 10..length - half + 10)];
        let log_end = length + 10;
        let extents = changed(&pieces, &before.encode(), &now.encode(), log_end);
        assert_eq!(extents.size(), new.len() as u64);
        let mut archive = vec![0; 10];
        archive.extend(&old[half as usize..]);
        archive.extend(&old[..half as usize]);
        let appended: u64 = extents.list().iter().filter(|e| e.offset >= log_end).map(|e| e.length).sum();
        assert!(appended < 1 << 20, "{appended}");
        let mut at = 0;
        for extent in extents.list() {
            let (start, length) = (extent.offset as usize, extent.length as usize);
            if extent.offset < log_end {
                assert!(archive[start..start + length] == new[at..at + length], "at {at}");
            }
            at += length;
        }
        assert_eq!(changed(&pieces, b"no chunk map", &now.encode(), log_end).size(), 0);
        assert_eq!(changed(&pieces[..1], &before.encode(), &now.encode(), log_end).size(), 0);
    }
}
