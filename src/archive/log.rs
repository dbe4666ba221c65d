//! An index on its way: a log of records that grows while the source is still being read.
//!
//! A *batch* is any number of whole records. The digest of a log is a chain over its batches, so that it names every prefix of
//! the log; a block that is sent meanwhile names the prefix that lays it out. Numbers are little-endian. A record is one byte
//! that says its kind, and then
//!
//! | kind | content |
//! |---|---|
//! | `F` a file | path, size u64, meta, digests |
//! | `N` a directory or link | letter u8 (`d`, `l`, `h`), path, target, meta |
//! | `H` digests of a file that came without | id u64, md5 16 bytes, BLAKE3 32 bytes |
//! | `E` the end | index digest 32 bytes, files u64, nodes u64, archive length u64 |
//!
//! with path and target as a u16 length and so many bytes, meta as `0` or `1`, mode u32, mtime i64 (ns since 1970), uid u32, gid
//! u32, and digests as `0` or `1`, md5 16 bytes, BLAKE3 32 bytes. Ids and offsets are not sent: files are numbered in their order,
//! and each starts where the one before ends. Files and nodes come in the one order of [`EntryPath::sort_key`].

use super::digest::{Blake3, Digest, IndexDigest, Md5};
use super::entry::{Meta, Node, NodeKind};
use super::path::EntryPath;

/// Names a prefix of a log, or the stream that it belongs to.
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
    /// The digests of file `id`, which came without.
    Digests(u64, Digests),
    /// Nothing follows.
    End(LogEnd),
}

/// Both digests of a content.
pub type Digests = (Md5, Blake3);

/// A file as a log says it.
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

/// What the whole log comes to.
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

/// Why a batch is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// A record is cut, or of a kind that there is not.
    #[error("record {0} is malformed")]
    Malformed(usize),
    /// A record says what no index can.
    #[error("record {0}: {1}")]
    Invalid(usize, String),
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
    match record {
        LogRecord::File(file) => {
            batch.push(b'F');
            push_text(batch, file.path.as_bytes());
            batch.extend(file.size.to_le_bytes());
            push_meta(batch, file.meta);
            batch.push(u8::from(file.digests.is_some()));
            if let Some(digests) = &file.digests {
                push_digests(batch, digests);
            }
        }
        LogRecord::Node(node) => {
            batch.push(b'N');
            batch.extend(node.kind.letter().bytes());
            push_text(batch, node.path.as_bytes());
            push_text(batch, &node.target);
            push_meta(batch, node.meta);
        }
        LogRecord::Digests(id, digests) => {
            batch.push(b'H');
            batch.extend(id.to_le_bytes());
            push_digests(batch, digests);
        }
        LogRecord::End(end) => {
            batch.push(b'E');
            batch.extend(end.digest.as_bytes());
            for number in [end.files, end.nodes, end.total_bytes] {
                batch.extend(number.to_le_bytes());
            }
        }
    }
}

/// Paths and targets are at most 4,095 bytes long.
pub(super) fn push_text(batch: &mut Vec<u8>, text: &[u8]) {
    batch.extend((text.len() as u16).to_le_bytes());
    batch.extend(text);
}

pub(super) fn push_meta(batch: &mut Vec<u8>, meta: Option<Meta>) {
    batch.push(u8::from(meta.is_some()));
    if let Some(meta) = meta {
        batch.extend(meta.mode.to_le_bytes());
        batch.extend(meta.mtime_ns.to_le_bytes());
        batch.extend(meta.uid.to_le_bytes());
        batch.extend(meta.gid.to_le_bytes());
    }
}

fn push_digests(batch: &mut Vec<u8>, (md5, blake3): &Digests) {
    batch.extend(md5.as_bytes());
    batch.extend(blake3.as_bytes());
}

/// Takes a batch apart. Every record is checked for all that can be said of it alone.
///
/// # Errors
/// Says which record is wrong, counted from 1.
pub fn records(batch: &[u8]) -> Result<Vec<LogRecord>, LogError> {
    let (mut rest, mut records) = (Bytes(batch), Vec::new());
    while !rest.0.is_empty() {
        let number = records.len() + 1;
        let record = rest.record().ok_or(LogError::Malformed(number))?;
        records.push(record.map_err(|why| LogError::Invalid(number, why))?);
    }
    Ok(records)
}

/// What is left of a batch. `None` says that it is cut.
pub(super) struct Bytes<'a>(pub(super) &'a [u8]);

impl<'a> Bytes<'a> {
    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk()?;
        self.0 = tail;
        Some(*head)
    }

    pub(super) fn number(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn text(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(u16::from_le_bytes(self.array()?));
        let (head, tail) = self.0.split_at_checked(length)?;
        self.0 = tail;
        Some(head)
    }

    /// `Some(None)` says that it is absent.
    pub(super) fn maybe<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        match self.array()? {
            [0] => Some(None),
            [1] => read(self).map(Some),
            _ => None,
        }
    }

    pub(super) fn meta(&mut self) -> Option<Option<Meta>> {
        self.maybe(|bytes| {
            Some(Meta {
                mode: u32::from_le_bytes(bytes.array()?),
                mtime_ns: i64::from_le_bytes(bytes.array()?),
                uid: u32::from_le_bytes(bytes.array()?),
                gid: u32::from_le_bytes(bytes.array()?),
            })
        })
    }

    fn digests(&mut self) -> Option<Digests> {
        Some((Digest::from(self.array()?), Digest::from(self.array()?)))
    }

    fn record(&mut self) -> Option<Result<LogRecord, String>> {
        let [kind] = self.array()?;
        Some(match kind {
            b'F' => {
                let (path, size) = (self.text()?, self.number()?);
                let (meta, digests) = (self.meta()?, self.maybe(Self::digests)?);
                file_row(path, size, meta, digests).map(LogRecord::File)
            }
            b'N' => {
                let [letter] = self.array()?;
                let (path, target, meta) = (self.text()?, self.text()?, self.meta()?);
                node(letter, path, target, meta).map(LogRecord::Node)
            }
            b'H' => Ok(LogRecord::Digests(self.number()?, self.digests()?)),
            b'E' => Ok(LogRecord::End(LogEnd {
                digest: Digest::from(self.array()?),
                files: self.number()?,
                nodes: self.number()?,
                total_bytes: self.number()?,
            })),
            _ => return None,
        })
    }
}

pub(super) fn path_of(bytes: &[u8]) -> Result<EntryPath, String> {
    EntryPath::new(bytes).map_err(|why| format!("its path \"{}\" {why}", super::path::printable(bytes)))
}

pub(super) fn meta_of(meta: Option<Meta>, path: &EntryPath) -> Result<Option<Meta>, String> {
    match meta {
        Some(meta) if meta.mode > 0o7777 => Err(format!("the mode of \"{path}\" is not valid")),
        meta => Ok(meta),
    }
}

fn file_row(path: &[u8], size: u64, meta: Option<Meta>, digests: Option<Digests>) -> Result<FileRow, String> {
    let path = path_of(path)?;
    let meta = meta_of(meta, &path)?;
    if size == 0 && digests.is_none() {
        return Err(format!("\"{path}\" is empty and has no digests"));
    }
    Ok(FileRow { path, size, meta, digests })
}

pub(super) fn node(letter: u8, path: &[u8], target: &[u8], meta: Option<Meta>) -> Result<Node, String> {
    let path = path_of(path)?;
    let meta = meta_of(meta, &path)?;
    let kind = std::str::from_utf8(&[letter]).ok().and_then(NodeKind::from_letter);
    let kind = kind.ok_or_else(|| format!("the kind of \"{path}\" is not d, l or h"))?;
    let node = Node { kind, path, target: target.into(), meta };
    if !node.has_good_target() {
        return Err(format!("the target of \"{}\" is not valid", node.path));
    }
    Ok(node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::digest::{blake3, md5};
    use proptest::prelude::*;

    fn path(text: &str) -> EntryPath {
        EntryPath::new(text.as_bytes()).unwrap()
    }

    fn sample() -> Vec<LogRecord> {
        let meta = Some(Meta { mode: 0o4755, mtime_ns: -7, uid: 1000, gid: 4_000_000_000 });
        let digests = Some((md5(b"abc"), blake3(b"abc")));
        let node = |kind, name: &str, target: &[u8]| {
            LogRecord::Node(Node { kind, path: path(name), target: target.into(), meta })
        };
        vec![
            node(NodeKind::Dir, "d", b""),
            LogRecord::File(FileRow { path: path("d/a"), size: 3, meta, digests }),
            LogRecord::File(FileRow { path: path("d/b"), size: 1 << 40, meta: None, digests: None }),
            node(NodeKind::Hardlink, "d/c", b"d/a"),
            node(NodeKind::Symlink, "d/e", b"../x"),
            LogRecord::Digests(1, (md5(b""), blake3(b""))),
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
    fn every_cut_is_noticed_and_what_no_index_can_say_is_refused() {
        for record in sample() {
            let mut batch = Vec::new();
            push(&mut batch, &record);
            for cut in 1..batch.len() {
                assert_eq!(records(&batch[..cut]), Err(LogError::Malformed(1)), "{record:?} cut at {cut}");
            }
        }
        let refused = |bytes: &[u8]| matches!(records(bytes), Err(LogError::Invalid(1, _)));
        let file = |path: &[u8], size: u64, tail: &[u8]| {
            let mut batch = vec![b'F'];
            push_text(&mut batch, path);
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
        assert_eq!(records(b"X"), Err(LogError::Malformed(1)));
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
