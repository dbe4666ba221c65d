//! Blocks as LZ4 frames. The frame format is public (LZ4 Frame Format Description 1.6); compressing
//! is `lz4_flex`'s work, checking that a frame is whole, single and of the right length is ours.

use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};
use std::io::{Read, Write};

/// How a block becomes a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// LZ4 where a sample of the block shrinks, else stored; a sender chooses between LZ4,
    /// Zstandard and neither for each block.
    #[default]
    Auto,
    /// LZ4 always.
    Lz4,
    /// Zstandard where the receiver takes it ([`super::zstd`]) and the block shrinks. [`encode`]
    /// does not make it.
    Zstd,
    /// Stored always: a valid frame of uncompressed blocks.
    None,
}

/// Why a body is no frame of the wanted content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Not the start of an LZ4 (or Zstandard) frame, or a variant that no sender of ours or the
    /// original's produces.
    #[error("not a frame of that kind")]
    NotAFrame,
    /// The body ends before the frame does.
    #[error("the frame is cut")]
    Cut,
    /// The body goes on behind the frame.
    #[error("there are bytes behind the frame")]
    Trailing,
    /// The compressed data is corrupt.
    #[error("the compressed data is corrupt")]
    Corrupt,
    /// The content is shorter or longer than the block must be.
    #[error("the content does not have the block's length")]
    WrongLength,
}

const MAGIC: [u8; 4] = 0x184D_2204_u32.to_le_bytes();
pub(super) const STORED_FLAG: u32 = 0x8000_0000;
pub(super) const STORED_PIECE: usize = 4 << 20;
/// Magic, version 1 with independent blocks, blocks of at most 4 MiB, and the header's checksum.
pub(super) const STORED_HEADER: [u8; 7] = [MAGIC[0], MAGIC[1], MAGIC[2], MAGIC[3], 0x60, 0x70, 0x73];

const SAMPLE_BYTES: usize = 64 << 10;
const SAMPLES: usize = 4;

/// The longest frame that a content of `length` bytes may sensibly have, in bytes.
#[must_use]
pub fn frame_bound(length: u64) -> u64 {
    // A block header and a checksum for every 64 KiB, LZ4's worst growth of 1/255, and header and
    // trailer.
    length + length / 255 + (length / 65_536 + 1) * 8 + 64
}

/// Makes `frame` one LZ4 frame of `content`, whatever was in it before. Tells whether it was
/// compressed.
pub fn encode(content: &[u8], compression: Compression, frame: &mut Vec<u8>) -> bool {
    let compress = match compression {
        Compression::Lz4 => true,
        Compression::None => false,
        Compression::Auto | Compression::Zstd => shrinks(content),
    };
    frame.clear();
    // Reserved at once: growing by doubling would take twice the memory, and copy.
    frame.reserve_exact(frame_bound(content.len() as u64) as usize);
    if compress && compress_into(content, frame).is_ok() {
        return true;
    }
    frame.clear();
    store(content, frame);
    false
}

/// The frame header that all of our compressing writers use: independent blocks of 64 KiB, which
/// decode fastest.
#[must_use]
pub fn frame_info() -> FrameInfo {
    FrameInfo::new().block_mode(BlockMode::Independent).block_size(BlockSize::Max64KB)
}

fn compress_into(content: &[u8], frame: &mut Vec<u8>) -> Result<(), lz4_flex::frame::Error> {
    let mut encoder = FrameEncoder::with_frame_info(frame_info(), frame);
    encoder.write_all(content)?;
    encoder.finish()?;
    Ok(())
}

fn store(content: &[u8], frame: &mut Vec<u8>) {
    frame.extend(STORED_HEADER);
    for piece in content.chunks(STORED_PIECE) {
        frame.extend((piece.len() as u32 | STORED_FLAG).to_le_bytes());
        frame.extend(piece);
    }
    frame.extend([0; 4]);
}

/// Whether a few samples of `content` shrink by at least 1/32.
#[must_use]
pub fn shrinks(content: &[u8]) -> bool {
    if content.len() <= SAMPLES * SAMPLE_BYTES {
        return compressed_len(content) + content.len() / 32 < content.len();
    }
    let stride = (content.len() - SAMPLE_BYTES) / (SAMPLES - 1);
    let sampled: usize =
        (0..SAMPLES).map(|i| compressed_len(&content[i * stride..i * stride + SAMPLE_BYTES])).sum();
    sampled + SAMPLES * SAMPLE_BYTES / 32 < SAMPLES * SAMPLE_BYTES
}

fn compressed_len(sample: &[u8]) -> usize {
    lz4_flex::block::compress(sample).len()
}

/// Makes `content` the content of a body that is exactly one whole LZ4 frame of exactly `length`
/// bytes of content, whatever was in it before. At most `length + 1` bytes are ever produced,
/// whatever the frame says.
///
/// # Errors
/// Says what is wrong with the body; `content` is of no use then.
pub fn decode(body: &[u8], length: usize, content: &mut Vec<u8>) -> Result<(), FrameError> {
    let end = frame_end(body)?;
    if end != body.len() {
        return Err(FrameError::Trailing);
    }
    content.reserve_exact(length.saturating_sub(content.len()));
    content.resize(length, 0);
    let mut decoder = FrameDecoder::new(body);
    decoder.read_exact(content).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => FrameError::WrongLength,
        _ => FrameError::Corrupt,
    })?;
    match decoder.read(&mut [0]) {
        Ok(0) => Ok(()),
        Ok(_) => Err(FrameError::WrongLength),
        Err(_) => Err(FrameError::Corrupt),
    }
}

fn frame_end(body: &[u8]) -> Result<usize, FrameError> {
    let end = walk_frame(|at, bytes| {
        let at = usize::try_from(at).ok()?;
        bytes.copy_from_slice(body.get(at..at.checked_add(bytes.len())?)?);
        Some(())
    })?;
    usize::try_from(end).ok().filter(|&end| end <= body.len()).ok_or(FrameError::Cut)
}

/// Walks a frame's structure without decompressing; gives the position behind its end, which may
/// lie behind the end of the body. `fetch` fills its buffer with the bytes at a position, if they
/// are there. `lz4_flex` alone takes a frame that is cut between two of its blocks for a whole one,
/// and does not look at what follows.
///
/// # Errors
/// It is no frame, or one that is cut.
pub fn walk_frame(mut fetch: impl FnMut(u64, &mut [u8]) -> Option<()>) -> Result<u64, FrameError> {
    let mut magic = [0; 4];
    for (at, byte) in (0..).zip(magic.iter_mut()) {
        fetch(at, std::slice::from_mut(byte)).ok_or(FrameError::Cut)?;
        if *byte != MAGIC[at as usize] {
            return Err(FrameError::NotAFrame);
        }
    }
    let mut header = [0; 2];
    fetch(4, &mut header).ok_or(FrameError::Cut)?;
    let [flags, sizes] = header;
    let (version, block_checksum, content_size, content_checksum) =
        (flags >> 6, flags & 0x10 != 0, flags & 0x08 != 0, flags & 0x04 != 0);
    // Reserved bits must be 0, and no sender has dictionary ids.
    let largest = match sizes {
        0x40 => 64 << 10,
        0x50 => 256 << 10,
        0x60 => 1 << 20,
        0x70 => 4 << 20,
        _ => return Err(FrameError::NotAFrame),
    };
    if version != 1 || flags & 0x03 != 0 {
        return Err(FrameError::NotAFrame);
    }
    let mut at = 7 + if content_size { 8 } else { 0 };
    loop {
        let mut size = [0; 4];
        fetch(at, &mut size).ok_or(FrameError::Cut)?;
        let size = u32::from_le_bytes(size);
        at += 4;
        if size == 0 {
            break;
        }
        let size = u64::from(size & !STORED_FLAG);
        // A piece of no length, which decoders take for the end, hides what comes behind it.
        if size > largest || size == 0 {
            return Err(FrameError::Corrupt);
        }
        at += size + if block_checksum { 4 } else { 0 };
    }
    Ok(at + if content_checksum { 4 } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(content: &[u8], compression: Compression) -> (Vec<u8>, bool) {
        let mut frame = vec![1, 2, 3];
        let compressed = super::encode(content, compression, &mut frame);
        (frame, compressed)
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

    fn linked(content: &[u8], checksums: bool) -> Vec<u8> {
        let info = FrameInfo::new()
            .block_mode(BlockMode::Linked)
            .block_size(BlockSize::Max64KB)
            .block_checksums(checksums)
            .content_checksum(checksums);
        let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn incompressible_data_is_stored_and_text_is_not() {
        let random = noise(1 << 20);
        let (frame, compressed) = encode(&random, Compression::Auto);
        assert!(!compressed && frame.len() < random.len() + 64);
        assert_eq!(decode(&frame, random.len()).unwrap(), random);
        let text = b"all work and no play ".repeat(50_000);
        let (frame, compressed) = encode(&text, Compression::Auto);
        assert!(compressed && frame.len() < text.len() / 10);
        assert_eq!(decode(&frame, text.len()).unwrap(), text);
        assert!(!encode(&text, Compression::None).1);
        assert!(encode(&random, Compression::Lz4).1);
    }

    #[test]
    fn every_cut_and_every_trailing_byte_is_refused() {
        let content: Vec<u8> = noise(70_000).iter().map(|b| b & 3).collect();
        for frame in [
            encode(&content, Compression::Lz4).0,
            encode(&content, Compression::None).0,
            linked(&content, false),
            linked(&content, true),
        ] {
            assert_eq!(decode(&frame, content.len()).as_deref(), Ok(&content[..]));
            for cut in (0..frame.len()).filter(|cut| cut % 97 == 0 || *cut < 40 || frame.len() - cut < 40) {
                assert!(decode(&frame[..cut], content.len()).is_err(), "cut at {cut}");
            }
            let longer: Vec<u8> = frame.iter().copied().chain([0]).collect();
            assert_eq!(decode(&longer, content.len()), Err(FrameError::Trailing));
            let twice: Vec<u8> = [&frame[..], &frame[..]].concat();
            assert!(decode(&twice, content.len() * 2).is_err());
            assert_eq!(decode(&frame, content.len() - 1), Err(FrameError::WrongLength));
            assert_eq!(decode(&frame, content.len() + 1), Err(FrameError::WrongLength));
        }
    }

    #[test]
    fn an_empty_content_is_a_frame_too() {
        for frame in [encode(b"", Compression::Lz4).0, encode(b"", Compression::None).0, linked(b"", true)] {
            assert_eq!(decode(&frame, 0), Ok(Vec::new()));
        }
        assert_eq!(decode(b"", 0), Err(FrameError::Cut));
        assert_eq!(decode(b"GET /", 0), Err(FrameError::NotAFrame));
    }

    #[test]
    fn a_bomb_gives_an_error_and_not_its_content() {
        let bomb = encode(&vec![0; 64 << 20], Compression::Lz4).0;
        assert!(bomb.len() < 1 << 20);
        assert_eq!(decode(&bomb, 1000), Err(FrameError::WrongLength));
    }

    proptest! {
        #[test]
        fn round_trip(content in proptest::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..5000), mode in 0usize..3) {
            let mode = [Compression::Auto, Compression::Lz4, Compression::None][mode];
            let (frame, _) = encode(&content, mode);
            prop_assert!(frame.len() as u64 <= frame_bound(content.len() as u64));
            prop_assert_eq!(decode(&frame, content.len()).unwrap(), content);
        }

        #[test]
        fn any_bytes_are_an_error_or_the_right_length(body in proptest::collection::vec(any::<u8>(), 0..300), length in 0usize..400) {
            let framed = [&STORED_HEADER[..], &body].concat();
            for body in [&body, &framed] {
                if let Ok(content) = decode(body, length) { prop_assert_eq!(content.len(), length); }
            }
        }
    }
}
