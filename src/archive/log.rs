//! An index on its way: a log of records that grows while the source is still being read.
//!
//! A *batch* is any number of whole records. The digest of a log is a chain over its batches, so
//! that it names every prefix of the log; a block that is sent meanwhile names the prefix that lays
//! it out. Numbers are little-endian. A record is one byte that says its kind, and then
//!
//! | kind | content |
//! |---|---|
//! | `F` a file | path, size u64, meta, digests |
//! | `N` a directory or link | letter u8 (`d`, `l`, `h`), path, target, meta |
//! | `H` digests of a file whose record has none | id u64, md5 16 bytes, BLAKE3 32 bytes |
//! | `B` the same for a file without md5 | id u64, BLAKE3 32 bytes |
//! | `E` the end | index digest 32 bytes, files u64, nodes u64, archive length u64 |
//!
//! with path and target as a u16 length and so many bytes, meta as `0` or `1`, mode u32, mtime i64
//! (ns since 1970), uid u32, gid u32, and digests as `0`, or `1`, md5 16 bytes, BLAKE3 32 bytes, or
//! `2`, BLAKE3 32 bytes. Ids and offsets are not sent: files are numbered in their order, and each
//! starts where the previous one ends. Files and nodes come in the one order of [`EntryPath::sort_key`].

use super::digest::{Blake3, Digest, IndexDigest, Md5};
use super::entry::{Meta, Node};
use super::path::EntryPath;
use super::record::{self, BatchError, Fault, Reader, Record, Writer};

/// The digest of a prefix of a log, or the number of a stream.
pub type LogDigest = Digest<32>;

/// The longest batch that is accepted, in bytes.
pub const MAX_BATCH_BYTES: u64 = 8 << 20;

const TAG: &[u8] = b"tar-like log 1\n";

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogRecord {
    /// The next file.
    File(FileRow),
    /// The next directory or link.
    Node(Node),
    /// The digests of file `id`, whose record had none.
    Digests(u64, Digests),
    /// Nothing follows.
    End(LogEnd),
}

/// The digests of a content; md5 only where the index is to have it.
pub type Digests = (Option<Md5>, Blake3);

/// A file in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRow {
    /// Relative to the base folder.
    pub path: EntryPath,
    /// Length in bytes.
    pub size: u64,
    /// Owner, permissions and time.
    pub meta: Option<Meta>,
    /// Absent where the content is still being read; they follow then.
    pub digests: Option<Digests>,
}

/// The index that the whole log makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogEnd {
    /// The digest of the index that the log makes.
    pub digest: IndexDigest,
    /// Files of it.
    pub files: u64,
    /// Directories and links of it.
    pub nodes: u64,
    /// Size of the archive, in bytes.
    pub total_bytes: u64,
}

/// The digest of the empty log of `stream`.
#[must_use]
pub fn first_digest(stream: &LogDigest) -> LogDigest {
    chain(TAG, stream.as_bytes())
}

/// The digest of the log that `before` names, with `batch` added.
#[must_use]
pub fn next_digest(before: &LogDigest, batch: &[u8]) -> LogDigest {
    chain(before.as_bytes(), batch)
}

fn chain(before: &[u8], added: &[u8]) -> LogDigest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(before);
    hasher.update(added);
    Digest::from(*hasher.finalize().as_bytes())
}

/// Adds `record` to `batch`.
pub fn push(batch: &mut Vec<u8>, record: &LogRecord) {
    record::push(batch, record);
}

/// The records of a batch, one after another: all of them at once take many times the memory of the
/// batch. Every record is checked for all that can be said of it alone. An error is the last item.
pub fn records(batch: &[u8]) -> impl Iterator<Item = Result<LogRecord, BatchError>> + Clone {
    record::records(batch)
}

impl Record for LogRecord {
    fn write(&self, to: &mut Writer<'_>) {
        match self {
            Self::File(file) => {
                to.byte(b'F');
                to.text(file.path.as_bytes());
                to.u64(file.size);
                to.meta(file.meta);
                match &file.digests {
                    None => to.byte(0),
                    Some((Some(md5), blake3)) => {
                        to.byte(1);
                        to.digest(md5);
                        to.digest(blake3);
                    }
                    Some((None, blake3)) => {
                        to.byte(2);
                        to.digest(blake3);
                    }
                }
            }
            Self::Node(node) => {
                to.byte(b'N');
                to.node(node);
            }
            Self::Digests(id, (md5, blake3)) => {
                to.byte(if md5.is_some() { b'H' } else { b'B' });
                to.u64(*id);
                if let Some(md5) = md5 {
                    to.digest(md5);
                }
                to.digest(blake3);
            }
            Self::End(LogEnd { digest, files, nodes, total_bytes }) => {
                to.byte(b'E');
                to.digest(digest);
                [files, nodes, total_bytes].into_iter().for_each(|&number| to.u64(number));
            }
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Fault> {
        Ok(match from.byte()? {
            b'F' => {
                let (path, size) = (from.path()?, from.u64()?);
                let meta = from.meta(format_args!("\"{path}\""))?;
                let digests = match from.byte()? {
                    0 => None,
                    1 => Some((Some(from.digest()?), from.digest()?)),
                    2 => Some((None, from.digest()?)),
                    _ => return Err(Fault::Malformed),
                };
                if size == 0 && digests.is_none() {
                    return Err(Fault::Invalid(format!("\"{path}\" is empty and has no digests")));
                }
                Self::File(FileRow { path, size, meta, digests })
            }
            b'N' => Self::Node(from.node()?),
            b'H' => Self::Digests(from.u64()?, (Some(from.digest()?), from.digest()?)),
            b'B' => Self::Digests(from.u64()?, (None, from.digest()?)),
            b'E' => Self::End(LogEnd {
                digest: from.digest()?,
                files: from.u64()?,
                nodes: from.u64()?,
                total_bytes: from.u64()?,
            }),
            _ => return Err(Fault::Malformed),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::digest::{blake3, md5};
    use crate::archive::entry::NodeKind;
    use proptest::prelude::*;

    fn records(batch: &[u8]) -> Result<Vec<LogRecord>, BatchError> {
        super::records(batch).collect()
    }

    fn path(text: &str) -> EntryPath {
        EntryPath::new(text.as_bytes()).unwrap()
    }

    fn sample() -> Vec<LogRecord> {
        let meta = Some(Meta { mode: 0o4755, mtime_ns: -7, uid: 1000, gid: 4_000_000_000 });
        let digests = Some((Some(md5(b"abc")), blake3(b"abc")));
        let node = |kind, name: &str, target: &[u8]| {
            LogRecord::Node(Node { kind, path: path(name), target: target.into(), meta })
        };
        vec![
            node(NodeKind::Dir, "d", b""),
            LogRecord::File(FileRow { path: path("d/a"), size: 3, meta, digests }),
            LogRecord::File(FileRow { path: path("d/b"), size: 1 << 40, meta: None, digests: None }),
            node(NodeKind::Hardlink, "d/c", b"d/a"),
            node(NodeKind::Symlink, "d/e", b"../x"),
            LogRecord::Digests(1, (Some(md5(b"")), blake3(b""))),
            LogRecord::End(LogEnd { digest: blake3(b"x"), files: 2, nodes: 3, total_bytes: (1 << 40) + 3 }),
        ]
    }

    #[test]
    fn round_trip_and_golden() {
        let mut batch = Vec::new();
        for record in sample() {
            push(&mut batch, &record);
        }
        assert_eq!(records(&batch).unwrap(), sample());
        // The format is a promise to other versions: a change of this value is a new format.
        let digest = next_digest(&first_digest(&Digest::from([7; 32])), &batch);
        assert_eq!(digest.to_string(), "265840efe78704d73ccf4997e42759d7a9639fc8de6e4d1bad729d92c2fa39a3");
        assert_ne!(digest, next_digest(&first_digest(&Digest::from([8; 32])), &batch));
    }

    #[test]
    fn files_without_md5_come_back() {
        let file =
            |name, size, digests| LogRecord::File(FileRow { path: path(name), size, meta: None, digests });
        let records_before =
            vec![file("a", 3, Some((None, blake3(b"abc")))), LogRecord::Digests(7, (None, blake3(b"x")))];
        let mut batch = Vec::new();
        records_before.iter().for_each(|record| push(&mut batch, record));
        assert_eq!(batch.len(), (1 + 2 + 1 + 8 + 1 + 1 + 32) + (1 + 8 + 32));
        assert_eq!(records(&batch).unwrap(), records_before);
    }

    #[test]
    fn every_cut_is_noticed_and_what_no_index_can_say_is_refused() {
        for record in sample() {
            let mut batch = Vec::new();
            push(&mut batch, &record);
            for cut in 1..batch.len() {
                assert_eq!(records(&batch[..cut]), Err(BatchError::Malformed(1)), "{record:?} cut at {cut}");
            }
        }
        let refused = |bytes: &[u8]| matches!(records(bytes), Err(BatchError::Invalid(1, _)));
        let file = |path: &[u8], size: u64, tail: &[u8]| {
            let mut batch = vec![b'F'];
            Writer(&mut batch).text(path);
            batch.extend(size.to_le_bytes());
            batch.extend(tail);
            batch
        };
        assert!(records(&file(b"a", 1, &[0, 0])).is_ok());
        for path in [&b"../a"[..], b"/a", b"", b"a//b", b".tar-like/x", b"a\0"] {
            assert!(refused(&file(path, 1, &[0, 0])), "{path:?}");
        }
        assert!(refused(&file(b"a", 0, &[0, 0])));
        let mut mode = vec![1];
        mode.extend(0o10_000_u32.to_le_bytes());
        mode.extend([0; 17]);
        assert!(refused(&file(b"a", 1, &mode)));
        assert_eq!(records(b"X"), Err(BatchError::Malformed(1)));
        assert!(refused(b"Nx\x01\0a\0\0\0") && refused(b"Nl\x01\0a\0\0\0") && refused(b"Nd\x01\0a\x01\0b\0"));
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
