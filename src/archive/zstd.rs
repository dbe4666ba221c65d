//! Blocks as Zstandard frames (RFC 8878), for links that are slower than the cores: a third less on
//! the wire than LZ4. A receiver that takes them says so (`Accept-Encoding`, RFC 9110 12.5.3), and
//! their bodies say so, too (`Content-Encoding`). Compressing is the zstd library's work, checking
//! that a body is one whole frame of the right length is ours.

use super::codec::{FrameError, frame_bound};

/// The name of this coding in HTTP headers.
pub const CODING: &str = "zstd";

/// Makes `frame` one Zstandard frame of `content`, whatever was in it before. False says that this
/// did not work.
pub fn encode(content: &[u8], level: i32, frame: &mut Vec<u8>) -> bool {
    frame.clear();
    frame.reserve_exact(frame_bound(content.len() as u64) as usize);
    // Writes the length of the content into the frame's header, and takes the room that is there,
    // no more.
    zstd_safe::compress(frame, content, level).is_ok()
}

/// Makes `content` the content of a body that is exactly one whole Zstandard frame of exactly
/// `length` bytes of content, whatever was in it before. Never more than `length` bytes are
/// produced, whatever the frame says.
///
/// # Errors
/// Says what is wrong with the body; `content` is of no use then.
pub fn decode(body: &[u8], length: usize, content: &mut Vec<u8>) -> Result<(), FrameError> {
    match zstd_safe::get_frame_content_size(body) {
        Ok(Some(said)) if said == length as u64 => {}
        Ok(_) => return Err(FrameError::WrongLength),
        Err(_) => return Err(FrameError::NotAFrame),
    }
    match zstd_safe::find_frame_compressed_size(body) {
        Ok(end) if end == body.len() => {}
        Ok(_) => return Err(FrameError::Trailing),
        Err(_) => return Err(FrameError::Cut),
    }
    content.reserve_exact(length.saturating_sub(content.len()));
    content.resize(length, 0);
    // Into a slice: its length is the limit.
    match zstd_safe::decompress(&mut content[..], body) {
        Ok(produced) if produced == length => Ok(()),
        Ok(_) => Err(FrameError::WrongLength),
        Err(_) => Err(FrameError::Corrupt),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(content: &[u8]) -> Vec<u8> {
        let mut frame = vec![1, 2, 3];
        assert!(super::encode(content, 3, &mut frame));
        frame
    }

    fn decode(body: &[u8], length: usize) -> Result<Vec<u8>, FrameError> {
        let mut content = vec![9; length / 2];
        super::decode(body, length, &mut content).map(|()| content)
    }

    fn noise(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn the_frame_of_the_specification() {
        // RFC 8878: magic, single segment with a length of one byte, one last raw block of 5 bytes.
        let frame = [&[0x28, 0xB5, 0x2F, 0xFD, 0x20, 5, 0x29, 0, 0][..], b"hello"].concat();
        assert_eq!(decode(&frame, 5).unwrap(), b"hello");
        // The same without its length in the header: no sender of ours sends that.
        let nameless = [&[0x28, 0xB5, 0x2F, 0xFD, 0x00, 0x58, 0x29, 0, 0][..], b"hello"].concat();
        assert_eq!(decode(&nameless, 5), Err(FrameError::WrongLength));
    }

    #[test]
    fn noise_of_any_length_has_room_in_its_frame() {
        for length in [0, 1, 100, 65_535, 131_072, 131_073, 3_000_000] {
            let content = noise(length);
            assert_eq!(decode(&encode(&content), length).unwrap(), content);
        }
    }

    #[test]
    fn whatever_is_no_whole_single_frame_is_refused() {
        let content = b"all work and no play ".repeat(5000);
        let frame = encode(&content);
        assert!(frame.len() < content.len() / 10);
        assert_eq!(decode(&frame, content.len()).unwrap(), content);
        assert_eq!(decode(&frame, content.len() - 1), Err(FrameError::WrongLength));
        assert_eq!(decode(&frame, content.len() + 1), Err(FrameError::WrongLength));
        assert_eq!(decode(&frame[..frame.len() - 1], content.len()), Err(FrameError::Cut));
        assert_eq!(decode(&[], 1), Err(FrameError::NotAFrame));
        assert_eq!(decode(b"no frame at all", 1), Err(FrameError::NotAFrame));
        let skippable = [0x50, 0x2A, 0x4D, 0x18, 0, 0, 0, 0];
        for behind in [&frame[..], &encode(b""), &skippable, &[0]] {
            assert_eq!(decode(&[&frame, behind].concat(), content.len()), Err(FrameError::Trailing));
        }
        assert!(decode(&[&skippable, &frame[..]].concat(), content.len()).is_err());
    }

    /// A frame of a few bytes that says that it is a few gigabytes: memory is taken for what the
    /// block may have, no more.
    #[test]
    fn a_bomb_does_not_go_off() {
        let bomb = encode(&vec![0; 50_000_000]);
        assert!(bomb.len() < 5000);
        let mut content = Vec::new();
        assert_eq!(super::decode(&bomb, 1000, &mut content), Err(FrameError::WrongLength));
        assert!(content.capacity() < 2000);
        // Its header lies.
        let mut liar = encode(&vec![0; 1000]);
        let blocks = bomb.len() - encode_header_len(&bomb);
        liar.truncate(encode_header_len(&liar));
        liar.extend(&bomb[bomb.len() - blocks..]);
        assert!(super::decode(&liar, 1000, &mut content).is_err());
    }

    fn encode_header_len(frame: &[u8]) -> usize {
        let flags = frame[4];
        let length_bytes = [usize::from(flags & 0x20 != 0), 2, 4, 8][usize::from(flags >> 6)];
        5 + usize::from(flags & 0x20 == 0) + length_bytes
    }

    proptest! {
        #[test]
        fn there_and_back(content in proptest::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..5000), level in 1i32..10) {
            let mut frame = Vec::new();
            prop_assert!(super::encode(&content, level, &mut frame));
            prop_assert_eq!(decode(&frame, content.len()).unwrap(), content);
        }

        #[test]
        fn damage_is_an_error_or_other_content_but_never_another_length(
            at in any::<prop::sample::Index>(), bit in 0u8..8, length in 1usize..3000,
        ) {
            let content: Vec<u8> = (0..length).map(|i| (i / 7) as u8).collect();
            let mut frame = encode(&content);
            let at = at.index(frame.len());
            frame[at] ^= 1 << bit;
            if let Ok(found) = decode(&frame, length) { prop_assert_eq!(found.len(), length); }
        }

        #[test]
        fn any_bytes(body in proptest::collection::vec(any::<u8>(), 0..300), length in 0usize..5000) {
            let framed = [&[0x28, 0xB5, 0x2F, 0xFD][..], &body].concat();
            for body in [&body, &framed] {
                if let Ok(found) = decode(body, length) { prop_assert_eq!(found.len(), length); }
            }
        }
    }
}
