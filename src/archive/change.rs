//! A change: what makes one generation of an index of another (FORMAT.md 7). It is a sequence of
//! records, stored and sent in batches of whole records. Numbers are little-endian. A record is one
//! byte that says its kind, and then
//!
//! | kind | content |
//! |---|---|
//! | `R` a file is removed | id u64 |
//! | `A` a file is added | id u64, path, size u64, offset u64, fragmented u8, meta, md5, BLAKE3 |
//! | `X` extents of the fragmented file before | count u32, then length u32 and offset u64 of each |
//! | `P` the prefix of the fragmented file before is a whole file of the previous generation | id u64 of that file, then a prefix as below |
//! | `M` metadata of a file | id u64, meta |
//! | `r` a directory or link is removed | path |
//! | `N` a directory or link is added or replaced | letter u8 (`d`, `l`, `h`), path, target, meta |
//! | `E` the end | format u8, index digest 32 bytes, files u64, nodes u64, archive length u64 |
//!
//! Path, target and meta are those of a log ([`super::log`]). md5 is `0`, or `1` and 16 bytes.
//! BLAKE3 is `0`, or `1` and 32 bytes. A prefix ([`KnownPrefix`]) is count u8 and 32 bytes of each
//! subtree, then count u16 and the samples, ascending and apart: offset u64, length u32, 16 bytes
//! of BLAKE3. The sender has not read a prefix; the receiver compares the samples.
//!
//! A change has at most one record for each file, and one for each path of a node. A folder comes
//! before its contents, extents come directly behind their file, and `P` directly behind the
//! extents. No other order matters.

use super::chunk_map::{KnownPrefix, MAX_SAMPLE_BYTES, Sample};
use super::digest::IndexDigest;
use super::entry::{FileEntry, Meta, Node};
use super::extent::{Extent, MAX_EXTENT_BYTES};
use super::path::EntryPath;
use super::record::{self, BatchError, Fault, Reader, Record, Writer};

/// A batch is closed when it has so many bytes, if not earlier.
pub const BATCH_BYTES: usize = 1 << 20;

/// The longest batch that is accepted, in bytes: a closed one and the longest record.
pub const MAX_BATCH_BYTES: u64 = 2 << 20;

/// How many extents one record holds at most.
const RECORD_EXTENTS: usize = 4096;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeRecord {
    /// The file with this id is removed.
    RemoveFile(u64),
    /// A file is added. Its origin and object are not part of the record.
    AddFile(FileEntry),
    /// The next extents of the fragmented file before.
    Extents(Vec<Extent>),
    /// The prefix of the fragmented file before is the whole file with this id of the previous
    /// generation.
    Prefix(u64, KnownPrefix),
    /// Metadata of the file with this id.
    SetMeta(u64, Option<Meta>),
    /// The directory or link of this path is removed.
    RemoveNode(EntryPath),
    /// A directory or link is added, or replaces the one of the same path.
    PutNode(Node),
    /// Nothing follows.
    End(ChangeEnd),
}

/// The index that a change leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangeEnd {
    /// The format of the index: 1 if its files are dense and contiguous, else 2.
    pub format: u8,
    /// The digest of the index.
    pub digest: IndexDigest,
    /// Files of it.
    pub files: u64,
    /// Directories and links of it.
    pub nodes: u64,
    /// Size of the archive, in bytes.
    pub total_bytes: u64,
}

/// Adds `record` to `batch`.
pub fn push(batch: &mut Vec<u8>, record: &ChangeRecord) {
    record::push(batch, record);
}

/// The records of a batch, one after another. Every record is checked for all that can be said of
/// it alone. An error is the last item.
pub fn records(batch: &[u8]) -> impl Iterator<Item = Result<ChangeRecord, BatchError>> {
    record::records(batch)
}

impl Record for ChangeRecord {
    fn write(&self, to: &mut Writer<'_>) {
        match self {
            Self::RemoveFile(id) => {
                to.byte(b'R');
                to.u64(*id);
            }
            Self::AddFile(file) => {
                to.byte(b'A');
                push_file(to, file);
            }
            Self::Extents(extents) => {
                for part in extents.chunks(RECORD_EXTENTS) {
                    to.byte(b'X');
                    to.u32(part.len() as u32);
                    for extent in part {
                        // At most MAX_EXTENT_BYTES.
                        to.u32(extent.length as u32);
                        to.u64(extent.offset);
                    }
                }
            }
            Self::Prefix(previous, prefix) => {
                to.byte(b'P');
                to.u64(*previous);
                push_prefix(to, prefix);
            }
            Self::SetMeta(id, meta) => {
                to.byte(b'M');
                to.u64(*id);
                to.meta(*meta);
            }
            Self::RemoveNode(path) => {
                to.byte(b'r');
                to.text(path.as_bytes());
            }
            Self::PutNode(node) => {
                to.byte(b'N');
                to.node(node);
            }
            Self::End(ChangeEnd { format, digest, files, nodes, total_bytes }) => {
                to.byte(b'E');
                to.byte(*format);
                to.digest(digest);
                [files, nodes, total_bytes].into_iter().for_each(|&number| to.u64(number));
            }
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Fault> {
        Ok(match from.byte()? {
            b'R' => Self::RemoveFile(from.u64()?),
            b'A' => Self::AddFile(file(from)?),
            b'X' => Self::Extents(extents(from)?),
            b'P' => Self::Prefix(from.u64()?, prefix(from)?),
            b'M' => {
                let id = from.u64()?;
                Self::SetMeta(id, from.meta(format_args!("file {id}"))?)
            }
            b'r' => Self::RemoveNode(from.path()?),
            b'N' => Self::PutNode(from.node()?),
            b'E' => Self::End(ChangeEnd {
                format: match from.byte()? {
                    format @ (1 | 2) => format,
                    _ => return Err(Fault::Malformed),
                },
                digest: from.digest()?,
                files: from.u64()?,
                nodes: from.u64()?,
                total_bytes: from.u64()?,
            }),
            _ => return Err(Fault::Malformed),
        })
    }
}

fn push_file(to: &mut Writer<'_>, file: &FileEntry) {
    to.u64(file.id);
    to.text(file.path.as_bytes());
    to.u64(file.size);
    to.u64(file.offset);
    to.byte(file.fragmented);
    to.meta(file.meta);
    to.optional(file.md5, |to, md5| to.digest(&md5));
    to.optional(file.blake3, |to, blake3| to.digest(&blake3));
}

fn file(from: &mut Reader<'_>) -> Result<FileEntry, Fault> {
    let (id, path) = (from.u64()?, from.path()?);
    let (size, offset, fragmented) = (from.u64()?, from.u64()?, from.flag()?);
    let meta = from.meta(format_args!("\"{path}\""))?;
    let (md5, blake3) = (from.optional(Reader::digest)?, from.optional(Reader::digest)?);
    let invalid = |why: &str| Err(Fault::Invalid(format!("\"{path}\" {why}")));
    let end = offset.checked_add(size).filter(|&end| i64::try_from(end).is_ok());
    if end.is_none() || i64::try_from(id).is_err() {
        return invalid("lies behind 2^63 bytes");
    }
    if fragmented && size == 0 {
        return invalid("is fragmented and empty");
    }
    Ok(FileEntry { id, path, size, offset, fragmented, md5, blake3, meta, origin: None, object: None })
}

fn extents(from: &mut Reader<'_>) -> Result<Vec<Extent>, Fault> {
    let count = from.u32()? as usize;
    if count == 0 || count > RECORD_EXTENTS {
        return Err(Fault::Invalid(format!("{count} extents in one record")));
    }
    let extent = |_| {
        let (length, offset) = (u64::from(from.u32()?), from.u64()?);
        match length == 0 || length > MAX_EXTENT_BYTES {
            true => Err(Fault::Invalid(format!("an extent of {length} bytes"))),
            false => Ok(Extent { length, offset }),
        }
    };
    (0..count).map(extent).collect()
}

fn push_prefix(to: &mut Writer<'_>, KnownPrefix { subtrees, samples }: &KnownPrefix) {
    // At most MAX_SUBTREES and MAX_SAMPLES.
    to.byte(subtrees.len() as u8);
    to.bytes(subtrees.as_flattened());
    to.u16(samples.len() as u16);
    for sample in samples {
        to.u64(sample.offset);
        to.u32(sample.length);
        to.bytes(&sample.hash);
    }
}

fn prefix(from: &mut Reader<'_>) -> Result<KnownPrefix, Fault> {
    let invalid = |why: String| Err(Fault::Invalid(why));
    let count = from.byte()?;
    if usize::from(count) > KnownPrefix::MAX_SUBTREES {
        return invalid(format!("a prefix of {count} subtrees"));
    }
    let subtrees = (0..count).map(|_| from.bytes()).collect::<Result<_, _>>()?;
    let count = from.u16()?;
    if usize::from(count) > KnownPrefix::MAX_SAMPLES {
        return invalid(format!("a prefix of {count} samples"));
    }
    let sample = |_| Ok(Sample { offset: from.u64()?, length: from.u32()?, hash: from.bytes()? });
    let samples = (0..count).map(sample).collect::<Result<Vec<_>, _>>()?;
    if let Some(sample) = samples.iter().find(|sample| sample.length > MAX_SAMPLE_BYTES) {
        return invalid(format!("a sample of {} bytes", sample.length));
    }
    let end = |sample: &Sample| sample.offset.checked_add(sample.length.into());
    let is_behind = |pair: &[Sample]| end(&pair[0]).is_some_and(|end| end <= pair[1].offset);
    match samples.windows(2).all(is_behind) {
        true => Ok(KnownPrefix { subtrees, samples }),
        // Each byte is compared once at most.
        false => invalid("samples that overlap".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::digest::{blake3, md5};
    use crate::archive::entry::NodeKind;
    use proptest::prelude::*;

    fn records(batch: &[u8]) -> Result<Vec<ChangeRecord>, BatchError> {
        super::records(batch).collect()
    }

    fn sample() -> Vec<ChangeRecord> {
        let path = |text: &str| EntryPath::new(text.as_bytes()).unwrap();
        let meta = Some(Meta { mode: 0o640, mtime_ns: -3, uid: 1, gid: 2 });
        let file = |id, name: &str, size, offset, fragmented| {
            ChangeRecord::AddFile(FileEntry {
                id,
                path: path(name),
                size,
                offset,
                fragmented,
                md5: Some(md5(b"abc")),
                blake3: Some(blake3(b"abc")),
                meta,
                origin: None,
                object: None,
            })
        };
        vec![
            ChangeRecord::RemoveFile(7),
            file(9, "d/a", 3, 100, false),
            file(10, "d/b", 30, 103, true),
            ChangeRecord::Extents(vec![Extent { length: 20, offset: 5 }, Extent { length: 10, offset: 103 }]),
            ChangeRecord::SetMeta(3, meta),
            ChangeRecord::RemoveNode(path("e")),
            ChangeRecord::PutNode(Node {
                kind: NodeKind::Symlink,
                path: path("l"),
                target: b"x"[..].into(),
                meta,
            }),
            ChangeRecord::End(ChangeEnd {
                format: 2,
                digest: blake3(b"x"),
                files: 4,
                nodes: 2,
                total_bytes: 113,
            }),
        ]
    }

    #[test]
    fn round_trip_and_golden() {
        let mut batch = Vec::new();
        sample().iter().for_each(|record| push(&mut batch, record));
        assert_eq!(records(&batch).unwrap(), sample());
        // The format is a promise to other versions: a change of this value is a new format.
        assert_eq!(
            blake3(&batch).to_string(),
            "edd1be356adbdaabb9151fbeab5be1cf2114180254573145364d88bb0f4892ab"
        );
    }

    fn prefix_record() -> ChangeRecord {
        let sample = |offset| Sample { offset, length: 70_000, hash: [offset as u8; 16] };
        let prefix =
            KnownPrefix { subtrees: vec![[3; 32], [4; 32]], samples: vec![sample(0), sample(1 << 33)] };
        ChangeRecord::Prefix(77, prefix)
    }

    #[test]
    fn round_trip_and_golden_of_a_prefix() {
        let mut batch = Vec::new();
        push(&mut batch, &prefix_record());
        assert_eq!(records(&batch).unwrap(), [prefix_record()]);
        // The format is a promise to other versions: a change of this value is a new format.
        assert_eq!(
            blake3(&batch).to_string(),
            "334f67d46e2443dc161e467cbea3e65ea221adb3fd4622ec426a11edeac80f58"
        );
    }

    #[test]
    fn every_cut_is_noticed_and_what_no_index_can_say_is_refused() {
        for record in sample().into_iter().chain([prefix_record()]) {
            let mut batch = Vec::new();
            push(&mut batch, &record);
            for cut in 1..batch.len() {
                assert!(records(&batch[..cut]).is_err(), "{record:?} cut at {cut}");
            }
        }
        let refused = |record: ChangeRecord| {
            let mut batch = Vec::new();
            push(&mut batch, &record);
            matches!(records(&batch), Err(BatchError::Invalid(1, _)))
        };
        assert!(refused(ChangeRecord::Extents(vec![Extent { length: 0, offset: 0 }])));
        assert!(refused(ChangeRecord::Extents(vec![Extent { length: MAX_EXTENT_BYTES + 1, offset: 0 }])));
        let ChangeRecord::Prefix(id, good) = prefix_record() else { panic!() };
        let samples = vec![Sample { length: MAX_SAMPLE_BYTES + 1, ..good.samples[0] }];
        assert!(refused(ChangeRecord::Prefix(id, KnownPrefix { samples, ..good.clone() })));
        assert!(refused(ChangeRecord::Prefix(
            id,
            KnownPrefix { subtrees: vec![[0; 32]; 65], ..good.clone() }
        )));
        let samples = vec![good.samples[0], good.samples[0]];
        assert!(refused(ChangeRecord::Prefix(id, KnownPrefix { samples, ..good.clone() })));
        let samples = (0..257).map(|at| Sample { offset: at * 100_000, ..good.samples[0] }).collect();
        assert!(refused(ChangeRecord::Prefix(id, KnownPrefix { samples, ..good })));
        assert!(refused(ChangeRecord::SetMeta(
            1,
            Some(Meta { mode: 0o10_000, mtime_ns: 0, uid: 0, gid: 0 })
        )));
        let ChangeRecord::AddFile(good) = sample().remove(1) else { panic!() };
        assert!(!refused(ChangeRecord::AddFile(good.clone())));
        assert!(refused(ChangeRecord::AddFile(FileEntry { offset: u64::MAX, ..good.clone() })));
        assert!(refused(ChangeRecord::AddFile(FileEntry { id: u64::MAX, ..good.clone() })));
        assert!(!refused(ChangeRecord::AddFile(FileEntry { md5: None, ..good.clone() })));
        assert!(refused(ChangeRecord::AddFile(FileEntry { size: 0, fragmented: true, ..good })));
        assert_eq!(
            records(b"r\x02\0.."),
            Err(BatchError::Invalid(1, r#"its path ".." has a '.' or '..' component"#.into()))
        );
        assert_eq!(records(b"?"), Err(BatchError::Malformed(1)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_error_or_records(batch in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(records) = records(&batch) {
                let mut again = Vec::new();
                records.iter().for_each(|record| push(&mut again, record));
                prop_assert_eq!(again, batch);
            }
        }
    }
}
