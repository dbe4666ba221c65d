//! Receiving a frame piece by piece: stored content goes straight to its buffer, without being
//! collected first.

use super::codec::{FrameError, STORED_FLAG, STORED_HEADER, STORED_PIECE};

/// What a body came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// The content: the frame was a stored one, and is whole.
    Content,
    /// The body as it came, for [`super::codec::decode`].
    Body,
    /// The body as it came, which its headers call a Zstandard frame, for [`super::zstd::decode`].
    Zstd,
}

/// Takes one body apart, piece by piece.
#[derive(Debug)]
pub struct Intake {
    state: State,
    /// The start of a header whose end has not come.
    carry: Vec<u8>,
    /// Lengths of the stored pieces so far.
    pieces: Vec<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    FrameHeader,
    PieceHeader,
    /// So many bytes are still to come.
    Piece(usize),
    End,
    Trailing,
    /// Another kind of frame: all bytes are collected.
    Body,
}

impl Default for Intake {
    fn default() -> Self {
        Self { state: State::FrameHeader, carry: Vec::new(), pieces: Vec::new() }
    }
}

impl Intake {
    /// Takes the next bytes of the body; `out` is the same buffer each time and empty at first. It
    /// grows by no more than these bytes and a header that was held back.
    pub fn feed(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while !bytes.is_empty() {
            match self.state {
                State::FrameHeader => {
                    if let Some(header) = self.header(&mut bytes, STORED_HEADER.len()) {
                        if header == STORED_HEADER {
                            self.state = State::PieceHeader;
                        } else {
                            out.extend(header);
                            self.state = State::Body;
                        }
                    }
                }
                State::PieceHeader => {
                    if let Some(header) = self.header(&mut bytes, 4) {
                        self.begin_piece(&header, out);
                    }
                }
                State::Piece(left) => {
                    let (piece, rest) = bytes.split_at(left.min(bytes.len()));
                    out.extend_from_slice(piece);
                    bytes = rest;
                    let left = left - piece.len();
                    self.state = if left > 0 { State::Piece(left) } else { State::PieceHeader };
                }
                State::End => self.state = State::Trailing,
                State::Trailing => return,
                State::Body => {
                    out.extend_from_slice(bytes);
                    return;
                }
            }
        }
    }

    /// A header of `length` bytes, if all of it has come.
    fn header(&mut self, bytes: &mut &[u8], length: usize) -> Option<Vec<u8>> {
        let (head, rest) = bytes.split_at((length - self.carry.len()).min(bytes.len()));
        self.carry.extend_from_slice(head);
        *bytes = rest;
        (self.carry.len() == length).then(|| std::mem::take(&mut self.carry))
    }

    fn begin_piece(&mut self, header: &[u8], out: &mut Vec<u8>) {
        let word = header.iter().rev().fold(0, |word, &byte| word << 8 | u32::from(byte));
        let length = word & !STORED_FLAG;
        if word == 0 {
            self.state = State::End;
        } else if word & STORED_FLAG != 0 && length > 0 && length as usize <= STORED_PIECE {
            self.pieces.push(length);
            self.state = State::Piece(length as usize);
        } else {
            // The frame is compressed or damaged, so `out` becomes the body as it came.
            let content = out.clone();
            // Its capacity stays: it was reserved for the whole body.
            out.clear();
            out.extend(STORED_HEADER);
            let mut rest = &content[..];
            for &length in &self.pieces {
                let (piece, more) = rest.split_at(length as usize);
                out.extend((length | STORED_FLAG).to_le_bytes());
                out.extend(piece);
                rest = more;
            }
            out.extend(header);
            self.state = State::Body;
        }
    }

    /// Says what `out` is, now that the whole body has come.
    ///
    /// # Errors
    /// It was a stored frame that is cut, or goes on behind its end.
    pub fn finish(self, out: &mut Vec<u8>) -> Result<Taken, FrameError> {
        match self.state {
            State::End => Ok(Taken::Content),
            State::Trailing => Err(FrameError::Trailing),
            State::PieceHeader | State::Piece(_) => Err(FrameError::Cut),
            State::FrameHeader => {
                out.extend(self.carry);
                Ok(Taken::Body)
            }
            State::Body => Ok(Taken::Body),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::codec::{Compression, decode, encode};
    use proptest::prelude::*;

    /// What comes of a body that arrives in pieces of these lengths.
    fn taken(body: &[u8], lengths: &[usize], content_bytes: usize) -> Result<Vec<u8>, FrameError> {
        let (mut intake, mut out, mut rest) = (Intake::default(), Vec::new(), body);
        for &length in lengths.iter().cycle() {
            let (piece, more) = rest.split_at(length.clamp(1, rest.len().max(1)).min(rest.len()));
            intake.feed(piece, &mut out);
            rest = more;
            if rest.is_empty() {
                break;
            }
        }
        match intake.finish(&mut out)? {
            Taken::Content if out.len() != content_bytes => Err(FrameError::WrongLength),
            Taken::Content => Ok(out),
            Taken::Zstd => unreachable!(),
            Taken::Body => {
                assert_eq!(out, body);
                let mut content = Vec::new();
                decode(&out, content_bytes, &mut content).map(|()| content)
            }
        }
    }

    fn whole(body: &[u8], content_bytes: usize) -> Result<Vec<u8>, FrameError> {
        let mut content = Vec::new();
        decode(body, content_bytes, &mut content).map(|()| content)
    }

    #[test]
    fn several_stored_pieces() {
        let content: Vec<u8> =
            (0..9_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let mut body = Vec::new();
        encode(&content, Compression::None, &mut body);
        for lengths in [&[1_000_000][..], &[65_536, 3], &[usize::MAX]] {
            assert!(taken(&body, lengths, content.len()).as_ref() == Ok(&content));
        }
        assert_eq!(taken(&body[..body.len() - 1], &[70_000], content.len()), Err(FrameError::Cut));
        body.push(0);
        assert_eq!(taken(&body, &[70_000], content.len()), Err(FrameError::Trailing));
    }

    proptest! {
        #[test]
        fn the_same_as_decoding_the_whole(
            content in proptest::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..3000),
            mode in 0usize..2,
            lengths in proptest::collection::vec(1usize..400, 1..8),
            damage in proptest::option::of((any::<u16>(), 0u8..8)),
            cut in 0usize..30,
        ) {
            let mut body = Vec::new();
            encode(&content, [Compression::Lz4, Compression::None][mode], &mut body);
            if let Some((at, bit)) = damage {
                let at = usize::from(at) % body.len().min(40);
                body[at] ^= 1 << bit;
            }
            body.truncate(body.len().saturating_sub(if cut < 20 { 0 } else { cut }));
            let (ours, theirs) = (taken(&body, &lengths, content.len()), whole(&body, content.len()));
            prop_assert_eq!(ours.is_ok(), theirs.is_ok(), "{:?} {:?}", ours, theirs);
            if let (Ok(ours), Ok(theirs)) = (ours, theirs) { prop_assert_eq!(ours, theirs); }
        }

        #[test]
        fn any_bytes(body in proptest::collection::vec(any::<u8>(), 0..200), lengths in proptest::collection::vec(1usize..20, 1..5), length in 0usize..100) {
            let framed = [&STORED_HEADER[..], &body].concat();
            for body in [&body, &framed] {
                prop_assert_eq!(taken(body, &lengths, length).ok(), whole(body, length).ok());
            }
        }
    }
}
