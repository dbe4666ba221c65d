//! A body that is ready to be sent, in pieces, so that stored content need not be copied together
//! first.

use super::codec::{STORED_FLAG, STORED_HEADER, STORED_PIECE};
use bytes::Bytes;

/// One frame, or bare content.
#[derive(Debug, Clone, Default)]
pub struct Frame {
    pieces: Vec<Bytes>,
    length: u64,
}

impl From<Bytes> for Frame {
    fn from(whole: Bytes) -> Self {
        Self { length: whole.len() as u64, pieces: vec![whole] }
    }
}

impl Frame {
    /// The content itself, for who shares this memory.
    #[must_use]
    pub fn bare(content: Vec<Bytes>) -> Self {
        let mut frame = Self::default();
        content.into_iter().for_each(|piece| frame.push(piece));
        frame
    }

    /// A frame that holds `content`, one piece after the other, as it is.
    #[must_use]
    pub fn stored(content: &[Bytes]) -> Self {
        let mut frame = Self::default();
        frame.push(Bytes::from_static(&STORED_HEADER));
        let total: usize = content.iter().map(Bytes::len).sum();
        let (mut pieces, mut rest) = (content.iter().cloned(), Bytes::new());
        let mut at = 0;
        while at < total {
            let mut room = STORED_PIECE.min(total - at);
            at += room;
            frame.push(Bytes::copy_from_slice(&(room as u32 | STORED_FLAG).to_le_bytes()));
            while room > 0 {
                if rest.is_empty() {
                    let Some(next) = pieces.next() else { break };
                    rest = next;
                }
                let piece = rest.split_to(room.min(rest.len()));
                room -= piece.len();
                frame.push(piece);
            }
        }
        frame.push(Bytes::from_static(&[0; 4]));
        frame
    }

    fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.length += piece.len() as u64;
            self.pieces.push(piece);
        }
    }

    /// Its length in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Its pieces, none of them empty.
    #[must_use]
    pub fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::codec::{Compression, encode};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_same_as_a_frame_in_one_piece(lengths in proptest::collection::vec(0usize..3_000_000, 0..6)) {
            let content: Vec<Bytes> =
                (0..).zip(&lengths).map(|(i, &length)| Bytes::from(vec![i as u8; length])).collect();
            let mut whole = Vec::new();
            encode(&content.concat(), Compression::None, &mut whole);
            let frame = Frame::stored(&content);
            prop_assert_eq!(frame.length(), whole.len() as u64);
            prop_assert!(frame.pieces().concat() == whole);
        }
    }
}
