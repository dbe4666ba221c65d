//! What the records of a backup hold. A snapshot is the index as it lies on the disk. A change, and
//! a rewind, is a sequence of items, each a byte that says its kind, and then, with numbers
//! little-endian:
//!
//! | kind | content |
//! |---|---|
//! | `G` a generation | number u64, parent u64 (0: none), format u8, digest 32 bytes, created u64, files u64, nodes u64, bytes u64, total u64, appended u64, abandoned u8 |
//! | `C` a batch of the change that makes it ([`crate::archive::change`]) | length u32, bytes |
//! | `U` a batch of the change that takes it back | length u32, bytes |
//! | `S` what must not be used again | end of the log u64, next id u64, last generation u64 |
//! | `E` the end | |
//!
//! Both are LZ4 frames.

use crate::archive::change::MAX_BATCH_BYTES;
use crate::archive::codec::frame_info;
use crate::archive::record::{Fault, Reader, Writer};
use crate::db::generation::{Counters, Generation};
use crate::error::{Error, ErrorKind, Result};
use lz4_flex::frame::{FrameDecoder, FrameEncoder};
use std::io::{BufReader, Read, Write};

/// One item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    /// A line of the history; its batches follow.
    Generation(Generation),
    /// A batch of the last generation's change, or of what takes it back (`true`).
    Batch(bool, Vec<u8>),
    /// What must not be used again.
    Counters(Counters),
}

/// Writes items.
pub(super) struct ItemWriter<'a>(FrameEncoder<&'a mut dyn Write>);

impl<'a> ItemWriter<'a> {
    pub(super) fn new(to: &'a mut dyn Write) -> Self {
        Self(FrameEncoder::with_frame_info(frame_info(), to))
    }

    pub(super) fn item(&mut self, item: &Item) -> Result<()> {
        let mut bytes = Vec::new();
        let mut to = Writer(&mut bytes);
        match item {
            Item::Generation(line) => {
                to.byte(b'G');
                push_generation(&mut to, line);
            }
            Item::Batch(undo, batch) => {
                to.byte(if *undo { b'U' } else { b'C' });
                // No batch is longer than MAX_BATCH_BYTES.
                to.u32(batch.len() as u32);
                to.bytes(batch);
            }
            Item::Counters(Counters { log_end, next_id, last_generation }) => {
                to.byte(b'S');
                [log_end, next_id, last_generation].into_iter().for_each(|&number| to.u64(number));
            }
        }
        self.0.write_all(&bytes).map_err(written)
    }

    pub(super) fn finish(mut self) -> Result<()> {
        self.0.write_all(b"E").map_err(written)?;
        self.0.finish().map(drop).map_err(|e| match e {
            lz4_flex::frame::Error::IoError(e) => written(e),
            e => written(std::io::Error::other(e)),
        })
    }
}

fn written(error: std::io::Error) -> Error {
    Error::io("cannot write to the backup", error)
}

/// Reads items. Ends after the first error.
pub(super) struct Items<R: Read> {
    from: FrameDecoder<BufReader<R>>,
    ended: bool,
}

impl<R: Read> Items<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from: FrameDecoder::new(BufReader::with_capacity(1 << 18, from)), ended: false }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.from.read_exact(&mut bytes).map_err(|e| malformed("it is cut").with_source(e))?;
        Ok(bytes)
    }

    fn item(&mut self) -> Result<Option<Item>> {
        let [kind] = self.array()?;
        Ok(Some(match kind {
            b'G' => Item::Generation(fields(self.array::<GENERATION_BYTES>()?, generation)?),
            b'C' | b'U' => {
                let length = u64::from(u32::from_le_bytes(self.array()?));
                if length > MAX_BATCH_BYTES {
                    return Err(malformed(format!("a batch of {length} bytes")));
                }
                let mut batch = vec![0; length as usize];
                self.from.read_exact(&mut batch).map_err(|e| malformed("it is cut").with_source(e))?;
                Item::Batch(kind == b'U', batch)
            }
            b'S' => Item::Counters(fields(self.array::<COUNTERS_BYTES>()?, |from| {
                let (log_end, next_id, last_generation) = (from.u64()?, from.u64()?, from.u64()?);
                Ok(Counters { log_end, next_id, last_generation })
            })?),
            b'E' => return Ok(None),
            _ => return Err(malformed("an item of unknown kind")),
        }))
    }
}

/// Bytes of an item behind its kind.
const GENERATION_BYTES: usize = 8 + 8 + 1 + 32 + 6 * 8 + 1;
const COUNTERS_BYTES: usize = 3 * 8;

/// Reads the fields of an item of `N` bytes.
fn fields<const N: usize, T>(
    bytes: [u8; N],
    read: impl FnOnce(&mut Reader<'_>) -> std::result::Result<T, Fault>,
) -> Result<T> {
    read(&mut Reader(&bytes)).map_err(|fault| match fault {
        Fault::Malformed => malformed("it is cut"),
        Fault::Invalid(why) => malformed(why),
    })
}

fn push_generation(to: &mut Writer<'_>, line: &Generation) {
    to.u64(line.number);
    to.u64(line.parent.unwrap_or(0));
    to.byte(line.format);
    to.digest(&line.digest);
    let Generation { created_s, files, nodes, bytes, total_bytes, appended_bytes, .. } = *line;
    for number in [created_s, files, nodes, bytes, total_bytes, appended_bytes] {
        to.u64(number);
    }
    to.byte(line.abandoned);
}

fn generation(from: &mut Reader<'_>) -> std::result::Result<Generation, Fault> {
    Ok(Generation {
        number: from.u64()?,
        parent: Some(from.u64()?).filter(|&parent| parent != 0),
        format: match from.byte()? {
            format @ (1 | 2) => format,
            format => return Err(Fault::Invalid(format!("format {format}"))),
        },
        digest: from.digest()?,
        created_s: from.u64()?,
        files: from.u64()?,
        nodes: from.u64()?,
        bytes: from.u64()?,
        total_bytes: from.u64()?,
        appended_bytes: from.u64()?,
        abandoned: from.byte()? == 1,
    })
}

fn malformed(why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::BadIndex, format!("a record of the backup cannot be read: {why}"))
        .with_hint("was it made by a newer version of the program?")
}

impl<R: Read> Iterator for Items<R> {
    type Item = Result<Item>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let item = self.item().transpose();
        self.ended = !matches!(item, Some(Ok(_)));
        item
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::digest::blake3;

    fn sample() -> Vec<Item> {
        let line = Generation {
            number: 3,
            parent: Some(2),
            format: 2,
            digest: blake3(b"index"),
            created_s: 1_700_000_000,
            files: 1,
            nodes: 2,
            bytes: 3,
            total_bytes: 4,
            appended_bytes: 5,
            abandoned: true,
        };
        vec![
            Item::Generation(line.clone()),
            Item::Batch(false, b"change".to_vec()),
            Item::Batch(true, vec![]),
            Item::Generation(Generation { parent: None, format: 1, abandoned: false, ..line }),
            Item::Counters(Counters { log_end: 7, next_id: 8, last_generation: 9 }),
        ]
    }

    fn encoded(items: &[Item]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = ItemWriter::new(&mut bytes);
        items.iter().for_each(|item| writer.item(item).unwrap());
        writer.finish().unwrap();
        bytes
    }

    #[test]
    fn there_and_back_and_golden() {
        let bytes = encoded(&sample());
        let found: Result<Vec<Item>> = Items::new(&bytes[..]).collect();
        assert_eq!(found.unwrap(), sample());
        // The format is a promise to other versions: a change of this value is a new format.
        let mut content = Vec::new();
        FrameDecoder::new(&bytes[..]).read_to_end(&mut content).unwrap();
        assert_eq!(
            blake3(&content).to_string(),
            "e3f1359902ed9efca2c86642284116b3ca41a8947e86752085f97a41218c3514"
        );
    }

    #[test]
    fn what_is_cut_or_unknown_is_an_error() {
        let mut content = Vec::new();
        FrameDecoder::new(&encoded(&sample())[..]).read_to_end(&mut content).unwrap();
        let frame = |content: &[u8]| {
            let mut encoder = FrameEncoder::with_frame_info(frame_info(), Vec::new());
            encoder.write_all(content).unwrap();
            encoder.finish().unwrap()
        };
        for cut in 0..content.len() {
            let found: Result<Vec<Item>> = Items::new(&frame(&content[..cut])[..]).collect();
            assert_eq!(found.unwrap_err().kind(), ErrorKind::BadIndex, "cut at {cut}");
        }
        for bad in [&b"?"[..], b"C\xff\xff\xff\xff", &[&b"G"[..], &[0; 16], &[3]].concat()] {
            let found: Result<Vec<Item>> = Items::new(&frame(bad)[..]).collect();
            assert_eq!(found.unwrap_err().kind(), ErrorKind::BadIndex);
        }
        assert!(Items::new(&b"no frame"[..]).next().unwrap().is_err());
    }
}
