//! A change: what makes one generation of an index of another (FORMATS 2.2). It is a sequence of records, kept and sent in batches of
//! whole records. Numbers are little-endian. A record is one byte that says its kind, and then
//!
//! | kind | content |
//! |---|---|
//! | `R` a file goes | id u64 |
//! | `A` a file comes | id u64, path, size u64, offset u64, scattered u8, meta, md5, BLAKE3 |
//! | `X` extents of the scattered file before | count u32, then length u32 and offset u64 of each |
//! | `P` the scattered file before begins with the whole content of one of the former generation, as its sender believes without having read it | id u64 of that one, count u8, then 32 bytes of each [`Beginning`]'s subtree, count u16, then, ascending and none over another, offset u64, length u32 and 16 bytes of BLAKE3 of each of its samples |
//! | `M` metadata of a file | id u64, meta |
//! | `r` a directory or link goes | path |
//! | `N` a directory or link comes, or is another one | letter u8 (`d`, `l`, `h`), path, target, meta |
//! | `E` the end | format u8, index digest 32 bytes, files u64, nodes u64, archive length u64 |
//!
//! with path, target and meta as in a log ([`super::log`]), md5 as `0` or `1` and 16 bytes, BLAKE3 as `0` or `1` and 32 bytes. Records of one change touch each file and
//! each path of a node at most once, so their order means nothing but that a folder comes before what is in it, extents directly
//! behind their file, and `P` directly behind those.

use super::digest::{Blake3, Digest, IndexDigest, Md5};
use super::entry::{FileEntry, Meta, Node};
use super::extent::{Extent, MAX_EXTENT_BYTES};
use super::log::{Bytes, LogError, meta_of, node, path_of, push_meta, push_text};
use super::path::EntryPath;
use super::sketch::{Beginning, MAX_SAMPLE_BYTES, Sample};

/// A batch is closed when it has so many bytes, if not earlier.
pub const BATCH_BYTES: usize = 1 << 20;

/// The longest batch that is accepted, in bytes: a closed one and the longest record.
pub const MAX_BATCH_BYTES: u64 = 2 << 20;

/// How many extents one record holds at most.
const RECORD_EXTENTS: usize = 4096;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeRecord {
    /// The file with this id is no part of the index any more.
    RemoveFile(u64),
    /// A file; origin and object stay where it was indexed.
    AddFile(FileEntry),
    /// The next extents of the scattered file before.
    Extents(Vec<Extent>),
    /// The scattered file before begins with the whole content of the file of the former generation with this id.
    Begins(u64, Beginning),
    /// Metadata of the file with this id.
    SetMeta(u64, Option<Meta>),
    /// The directory or link of this path is no part of the index any more.
    RemoveNode(EntryPath),
    /// A directory or link, in place of that of the same path if there is one.
    PutNode(Node),
    /// Nothing follows.
    End(ChangeEnd),
}

/// What a change comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangeEnd {
    /// The format of the index: 1 if its files are dense and natural, else 2.
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
    match record {
        ChangeRecord::RemoveFile(id) => {
            batch.push(b'R');
            batch.extend(id.to_le_bytes());
        }
        ChangeRecord::AddFile(file) => {
            batch.push(b'A');
            batch.extend(file.id.to_le_bytes());
            push_text(batch, file.path.as_bytes());
            batch.extend(file.size.to_le_bytes());
            batch.extend(file.offset.to_le_bytes());
            batch.push(u8::from(file.scattered));
            push_meta(batch, file.meta);
            push_maybe(batch, file.md5.as_ref().map(|digest| &digest.as_bytes()[..]));
            push_maybe(batch, file.blake3.as_ref().map(|digest| &digest.as_bytes()[..]));
        }
        ChangeRecord::Extents(extents) => {
            for part in extents.chunks(RECORD_EXTENTS) {
                batch.push(b'X');
                batch.extend((part.len() as u32).to_le_bytes());
                for extent in part {
                    // At most MAX_EXTENT_BYTES.
                    batch.extend((extent.length as u32).to_le_bytes());
                    batch.extend(extent.offset.to_le_bytes());
                }
            }
        }
        ChangeRecord::Begins(former, Beginning { subtrees, samples }) => {
            batch.push(b'P');
            batch.extend(former.to_le_bytes());
            // At most MOST_SUBTREES and MOST_SAMPLES.
            batch.push(subtrees.len() as u8);
            batch.extend(subtrees.as_flattened());
            batch.extend((samples.len() as u16).to_le_bytes());
            for sample in samples {
                batch.extend(sample.offset.to_le_bytes());
                batch.extend(sample.length.to_le_bytes());
                batch.extend(sample.hash);
            }
        }
        ChangeRecord::SetMeta(id, meta) => {
            batch.push(b'M');
            batch.extend(id.to_le_bytes());
            push_meta(batch, *meta);
        }
        ChangeRecord::RemoveNode(path) => {
            batch.push(b'r');
            push_text(batch, path.as_bytes());
        }
        ChangeRecord::PutNode(node) => {
            batch.push(b'N');
            batch.extend(node.kind.letter().bytes());
            push_text(batch, node.path.as_bytes());
            push_text(batch, &node.target);
            push_meta(batch, node.meta);
        }
        ChangeRecord::End(end) => {
            batch.push(b'E');
            batch.push(end.format);
            batch.extend(end.digest.as_bytes());
            for number in [end.files, end.nodes, end.total_bytes] {
                batch.extend(number.to_le_bytes());
            }
        }
    }
}

fn push_maybe(batch: &mut Vec<u8>, bytes: Option<&[u8]>) {
    batch.push(u8::from(bytes.is_some()));
    batch.extend(bytes.unwrap_or_default());
}

/// Takes a batch apart. Every record is checked for all that can be said of it alone.
///
/// # Errors
/// Says which record is wrong, counted from 1.
pub fn records(batch: &[u8]) -> Result<Vec<ChangeRecord>, LogError> {
    let (mut rest, mut records) = (Bytes(batch), Vec::new());
    while !rest.0.is_empty() {
        let number = records.len() + 1;
        let record = record(&mut rest).ok_or(LogError::Malformed(number))?;
        records.push(record.map_err(|why| LogError::Invalid(number, why))?);
    }
    Ok(records)
}

fn record(bytes: &mut Bytes<'_>) -> Option<Result<ChangeRecord, String>> {
    let [kind] = bytes.array()?;
    Some(match kind {
        b'R' => Ok(ChangeRecord::RemoveFile(bytes.number()?)),
        b'A' => {
            let (id, path) = (bytes.number()?, bytes.text()?);
            let (size, offset) = (bytes.number()?, bytes.number()?);
            let [scattered @ (0 | 1)] = bytes.array()? else { return None };
            let meta = bytes.meta()?;
            let md5 = bytes.maybe(|bytes| bytes.array().map(Md5::from))?;
            let blake3 = bytes.maybe(|bytes| bytes.array().map(Blake3::from))?;
            added(id, path, (size, offset, scattered == 1), meta, md5, blake3).map(ChangeRecord::AddFile)
        }
        b'X' => {
            let count = u32::from_le_bytes(bytes.array()?) as usize;
            if count == 0 || count > RECORD_EXTENTS {
                return Some(Err(format!("{count} extents in one record")));
            }
            let mut extents = Vec::with_capacity(count);
            for _ in 0..count {
                let length = u64::from(u32::from_le_bytes(bytes.array()?));
                let offset = bytes.number()?;
                if length == 0 || length > MAX_EXTENT_BYTES {
                    return Some(Err(format!("an extent of {length} bytes")));
                }
                extents.push(Extent { length, offset });
            }
            Ok(ChangeRecord::Extents(extents))
        }
        b'P' => {
            let (former, [subtrees]) = (bytes.number()?, bytes.array()?);
            if usize::from(subtrees) > Beginning::MOST_SUBTREES {
                return Some(Err(format!("a beginning of {subtrees} subtrees")));
            }
            let subtrees = (0..subtrees).map(|_| bytes.array()).collect::<Option<_>>()?;
            let samples = u16::from_le_bytes(bytes.array()?);
            if usize::from(samples) > Beginning::MOST_SAMPLES {
                return Some(Err(format!("a beginning of {samples} samples")));
            }
            let samples = (0..samples).map(|_| sample(bytes)).collect::<Option<Vec<_>>>()?;
            let end = |sample: &Sample| sample.offset.checked_add(sample.length.into());
            let follows = |pair: &[Sample]| end(&pair[0]).is_some_and(|end| end <= pair[1].offset);
            if let Some(sample) = samples.iter().find(|sample| sample.length > MAX_SAMPLE_BYTES) {
                return Some(Err(format!("a sample of {} bytes", sample.length)));
            }
            // No byte is looked at twice.
            match samples.windows(2).all(follows) {
                true => Ok(ChangeRecord::Begins(former, Beginning { subtrees, samples })),
                false => Err("samples that overlap".into()),
            }
        }
        b'M' => {
            let (id, meta) = (bytes.number()?, bytes.meta()?);
            match meta {
                Some(meta) if meta.mode > 0o7777 => Err(format!("the mode of file {id} is not valid")),
                meta => Ok(ChangeRecord::SetMeta(id, meta)),
            }
        }
        b'r' => path_of(bytes.text()?).map(ChangeRecord::RemoveNode),
        b'N' => {
            let [letter] = bytes.array()?;
            let (path, target, meta) = (bytes.text()?, bytes.text()?, bytes.meta()?);
            node(letter, path, target, meta).map(ChangeRecord::PutNode)
        }
        b'E' => {
            let [format @ (1 | 2)] = bytes.array()? else { return None };
            Ok(ChangeRecord::End(ChangeEnd {
                format,
                digest: Digest::from(bytes.array()?),
                files: bytes.number()?,
                nodes: bytes.number()?,
                total_bytes: bytes.number()?,
            }))
        }
        _ => return None,
    })
}

fn sample(bytes: &mut Bytes<'_>) -> Option<Sample> {
    let (offset, length) = (bytes.number()?, u32::from_le_bytes(bytes.array()?));
    Some(Sample { offset, length, hash: bytes.array()? })
}

fn added(
    id: u64,
    path: &[u8],
    (size, offset, scattered): (u64, u64, bool),
    meta: Option<Meta>,
    md5: Option<Md5>,
    blake3: Option<Blake3>,
) -> Result<FileEntry, String> {
    let path = path_of(path)?;
    let meta = meta_of(meta, &path)?;
    let end = offset.checked_add(size).filter(|&end| i64::try_from(end).is_ok());
    if end.is_none() || i64::try_from(id).is_err() {
        return Err(format!("\"{path}\" lies behind 2^63 bytes"));
    }
    if scattered && size == 0 {
        return Err(format!("\"{path}\" is scattered and empty"));
    }
    if md5.is_none() && blake3.is_some() {
        return Err(format!("\"{path}\" has a BLAKE3 and no md5"));
    }
    Ok(FileEntry { id, path, size, offset, scattered, md5, blake3, meta, origin: None, object: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::digest::{blake3, md5};
    use crate::archive::entry::NodeKind;
    use proptest::prelude::*;

    fn sample() -> Vec<ChangeRecord> {
        let path = |text: &str| EntryPath::new(text.as_bytes()).unwrap();
        let meta = Some(Meta { mode: 0o640, mtime_ns: -3, uid: 1, gid: 2 });
        let file = |id, name: &str, size, offset, scattered| {
            ChangeRecord::AddFile(FileEntry {
                id,
                path: path(name),
                size,
                offset,
                scattered,
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

    fn begins() -> ChangeRecord {
        let sample = |offset| Sample { offset, length: 70_000, hash: [offset as u8; 16] };
        let beginning =
            Beginning { subtrees: vec![[3; 32], [4; 32]], samples: vec![sample(0), sample(1 << 33)] };
        ChangeRecord::Begins(77, beginning)
    }

    #[test]
    fn round_trip_and_golden_of_a_beginning() {
        let mut batch = Vec::new();
        push(&mut batch, &begins());
        assert_eq!(records(&batch).unwrap(), [begins()]);
        // The format is a promise to other versions: a change of this value is a new format.
        assert_eq!(
            blake3(&batch).to_string(),
            "334f67d46e2443dc161e467cbea3e65ea221adb3fd4622ec426a11edeac80f58"
        );
    }

    #[test]
    fn every_cut_is_noticed_and_what_no_index_can_say_is_refused() {
        for record in sample().into_iter().chain([begins()]) {
            let mut batch = Vec::new();
            push(&mut batch, &record);
            for cut in 1..batch.len() {
                assert!(records(&batch[..cut]).is_err(), "{record:?} cut at {cut}");
            }
        }
        let refused = |record: ChangeRecord| {
            let mut batch = Vec::new();
            push(&mut batch, &record);
            matches!(records(&batch), Err(LogError::Invalid(1, _)))
        };
        assert!(refused(ChangeRecord::Extents(vec![Extent { length: 0, offset: 0 }])));
        assert!(refused(ChangeRecord::Extents(vec![Extent { length: MAX_EXTENT_BYTES + 1, offset: 0 }])));
        let ChangeRecord::Begins(id, good) = begins() else { panic!() };
        let samples = vec![Sample { length: MAX_SAMPLE_BYTES + 1, ..good.samples[0] }];
        assert!(refused(ChangeRecord::Begins(id, Beginning { samples, ..good.clone() })));
        assert!(refused(ChangeRecord::Begins(id, Beginning { subtrees: vec![[0; 32]; 65], ..good.clone() })));
        let samples = vec![good.samples[0], good.samples[0]];
        assert!(refused(ChangeRecord::Begins(id, Beginning { samples, ..good.clone() })));
        let samples = (0..257).map(|at| Sample { offset: at * 100_000, ..good.samples[0] }).collect();
        assert!(refused(ChangeRecord::Begins(id, Beginning { samples, ..good })));
        assert!(refused(ChangeRecord::SetMeta(
            1,
            Some(Meta { mode: 0o10_000, mtime_ns: 0, uid: 0, gid: 0 })
        )));
        let ChangeRecord::AddFile(good) = sample().remove(1) else { panic!() };
        assert!(!refused(ChangeRecord::AddFile(good.clone())));
        assert!(refused(ChangeRecord::AddFile(FileEntry { offset: u64::MAX, ..good.clone() })));
        assert!(refused(ChangeRecord::AddFile(FileEntry { id: u64::MAX, ..good.clone() })));
        assert!(refused(ChangeRecord::AddFile(FileEntry { md5: None, ..good.clone() })));
        assert!(refused(ChangeRecord::AddFile(FileEntry { size: 0, scattered: true, ..good })));
        assert_eq!(
            records(b"r\x02\0.."),
            Err(LogError::Invalid(1, r#"its path ".." has a '.' or '..' component"#.into()))
        );
        assert_eq!(records(b"?"), Err(LogError::Malformed(1)));
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
