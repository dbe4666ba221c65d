//! Rows of an index as entries, every column checked: the index may have come from anybody.

use super::{db_error, sql_int, text_or_blob};
use crate::archive::digest::{Blake3, Digest, Md5};
use crate::archive::entry::{FileEntry, Meta, Node, NodeKind, ObjectId, Origin};
use crate::archive::path::{EntryPath, printable};
use crate::error::{Error, ErrorKind, Result};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Params, Row};
use std::ops::ControlFlow;
use std::path::Path;

/// What kind of index it is: which tables count beside `tar`, and what its rows may be.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// Table `tar` alone counts: the original program wrote it, or replaced the rows of one that
    /// was ours.
    Original { is_overwritten: bool },
    /// It comes as a log. Files may have no digests yet.
    Growing,
    /// Each file is one range, and each starts where the previous one ends.
    Contiguous(Beside),
    /// Files may lie in extents, and ids have holes.
    Fragmented(Beside),
    /// Tombstones in an index: of files of any kind, some of which may have had no md5.
    Tombstones { md5_is_optional: bool },
}

/// What a complete index of ours has beside its rows.
#[derive(Clone, Copy, Default)]
pub(super) struct Beside {
    /// The user left out the md5 of some files.
    pub(super) md5_is_optional: bool,
    /// It says which state of an object each file is.
    pub(super) objects: bool,
    /// Large files may have chunk maps.
    pub(super) chunk_maps: bool,
}

impl Kind {
    pub(super) fn is_ours(self) -> bool {
        !matches!(self, Self::Original { .. })
    }

    pub(super) fn is_fragmented(self) -> bool {
        matches!(self, Self::Fragmented(_) | Self::Tombstones { .. })
    }

    /// What it has beside its rows, as far as it is complete.
    pub(super) fn beside(self) -> Beside {
        match self {
            Self::Original { .. } | Self::Growing => Beside::default(),
            Self::Contiguous(beside) | Self::Fragmented(beside) => beside,
            Self::Tombstones { md5_is_optional } => Beside { md5_is_optional, ..Beside::default() },
        }
    }

    /// The same without what an index says of objects.
    pub(super) fn without_objects(self) -> Self {
        let beside = Beside { objects: false, ..self.beside() };
        match self {
            Self::Original { .. } | Self::Growing | Self::Tombstones { .. } => self,
            Self::Contiguous(_) => Self::Contiguous(beside),
            Self::Fragmented(_) => Self::Fragmented(beside),
        }
    }
}

/// The md5 of a file whose digests are still to come: no content has it. It must never pass for one
/// that was left out, since that file would need no verification.
pub(super) const PENDING_MD5: Md5 = Digest::ZERO;

/// How rows are read.
#[derive(Clone, Copy)]
pub(super) struct FileRead<'a> {
    pub(super) kind: Kind,
    /// The index, for messages.
    pub(super) name: &'a Path,
}

impl FileRead<'_> {
    fn error(&self, error: rusqlite::Error) -> Error {
        db_error(format!("cannot read the index {}", self.name.display()), error)
    }
}

const FILE_COLUMNS: &str = "tar.id, tar.path, tar.size, tar.offset, tar.offset_end, tar.hash";
const OUR_COLUMNS: &str = "f.blake3, f.mode, f.mtime_ns, f.uid, f.gid, f.dev, f.ino, f.ctime_ns";
const OBJECT_COLUMNS: &str = "o.etag, o.version, o.modified_ns";
const OUR_TABLES: &str = "FROM tar LEFT JOIN tarlike_file f ON f.id = tar.id";
const OBJECT_TABLE: &str = "LEFT JOIN tarlike_object o ON o.id = tar.id";

/// Gives the files that `tail` selects.
pub(super) fn read_files(
    connection: &Connection,
    read: FileRead<'_>,
    tail: &str,
    parameters: impl Params,
    each: impl FnMut(FileEntry) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let query = match (read.kind.is_ours(), read.kind.beside().objects) {
        (true, true) => format!(
            "SELECT {FILE_COLUMNS}, {OUR_COLUMNS}, {OBJECT_COLUMNS} {OUR_TABLES} {OBJECT_TABLE} {tail}"
        ),
        (true, false) => format!("SELECT {FILE_COLUMNS}, {OUR_COLUMNS} {OUR_TABLES} {tail}"),
        (false, _) => format!("SELECT {FILE_COLUMNS} FROM tar {tail}"),
    };
    read_rows(connection, read, &query, parameters, |row| file_of(row, read), each)
}

/// Gives the directories and links that `tail` selects.
pub(super) fn read_nodes(
    connection: &Connection,
    name: &Path,
    tail: &str,
    parameters: impl Params,
    each: impl FnMut(Node) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let query = format!("SELECT kind, path, target, mode, mtime_ns, uid, gid FROM tarlike_node {tail}");
    read_rows(connection, FileRead { kind: Kind::Growing, name }, &query, parameters, node_of, each)
}

/// Gives the files that `tail` selects among the tombstones; `read` is how the index is read.
pub(super) fn read_tombstones(
    connection: &Connection,
    read: FileRead<'_>,
    tail: &str,
    parameters: impl Params,
    each: impl FnMut(FileEntry) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let query = format!(
        "SELECT {FILE_COLUMNS}, tar.blake3, tar.mode, tar.mtime_ns, tar.uid, tar.gid, NULL, NULL, NULL
         FROM tarlike_gone tar {tail}"
    );
    let kind = Kind::Tombstones { md5_is_optional: read.kind.beside().md5_is_optional };
    let read = FileRead { kind, ..read };
    read_rows(connection, read, &query, parameters, |row| file_of(row, read), each)
}

/// Gives the directories and links that `tail` selects among the tombstones, `g`.
pub(super) fn read_node_tombstones(
    connection: &Connection,
    read: FileRead<'_>,
    tail: &str,
    parameters: impl Params,
    each: impl FnMut(Node) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let query =
        format!("SELECT kind, path, target, mode, mtime_ns, uid, gid FROM tarlike_gone_node g {tail}");
    read_rows(connection, read, &query, parameters, node_of, each)
}

/// Whether the index has a file or link of this path.
pub(super) fn is_leaf(connection: &Connection, path: &[u8]) -> rusqlite::Result<bool> {
    let query = "SELECT EXISTS(SELECT 1 FROM tar WHERE path = ?1)
                 OR EXISTS(SELECT 1 FROM tarlike_node WHERE path = ?1 AND kind <> 'd')";
    connection.prepare_cached(query)?.query_row([text_or_blob(path)], |row| row.get(0))
}

/// The first entry that `read` gives.
pub(super) fn first_of<E>(
    read: impl FnOnce(&mut dyn FnMut(E) -> Result<ControlFlow<()>>) -> Result<()>,
) -> Result<Option<E>> {
    let mut found = None;
    read(&mut |entry| {
        found = Some(entry);
        Ok(ControlFlow::Break(()))
    })?;
    Ok(found)
}

fn read_rows<E>(
    connection: &Connection,
    read: FileRead<'_>,
    query: &str,
    parameters: impl Params,
    entry_of: impl Fn(&Row<'_>) -> std::result::Result<E, String>,
    mut each: impl FnMut(E) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let mut statement = connection.prepare_cached(query).map_err(|e| read.error(e))?;
    let mut rows = statement.query(parameters).map_err(|e| read.error(e))?;
    while let Some(row) = rows.next().map_err(|e| read.error(e))? {
        let entry = entry_of(row)
            .map_err(|why| Error::new(ErrorKind::BadIndex, format!("{}: {why}", read.name.display())))?;
        if each(entry)?.is_break() {
            break;
        }
    }
    Ok(())
}

/// One row of the file query as an entry, every column checked. The message names the row.
fn file_of(row: &Row<'_>, read: FileRead<'_>) -> std::result::Result<FileEntry, String> {
    let id = unsigned(row, 0).ok_or("a row of table tar has no valid id")?;
    let at = |what: &str| format!("file {id}: {what}");
    let path = bytes(row, 1).ok_or_else(|| at("its path is neither text nor blob"))?;
    let path = EntryPath::new(path).map_err(|why| at(&format!("its path \"{}\" {why}", printable(path))))?;
    let size = unsigned(row, 2).ok_or_else(|| at("its size is no number from 0 on"))?;
    let offset = unsigned(row, 3).ok_or_else(|| at("its offset is no number from 0 on"))?;
    let end = offset.checked_add(size).filter(|&end| end <= i64::MAX as u64);
    let end = end.ok_or_else(|| at("it ends behind 2^63 bytes"))?;
    let fragmented = read.kind.is_fragmented() && size > 0 && signed(row, 4) == Some(sql_int(offset) - 1);
    if !fragmented && signed(row, 4) != Some(sql_int(end) - 1) {
        return Err(at("its offset_end is not offset + size - 1"));
    }
    let (md5, blake3) = hash_of(row, read.kind).ok_or_else(|| at("its hash is no lowercase md5"))?;
    let (meta_unknown, origin, object) = (None, None, None);
    let mut file =
        FileEntry { id, path, size, offset, fragmented, md5, blake3, meta: meta_unknown, origin, object };
    if read.kind.is_ours() {
        file.blake3 = match row.get_ref(6) {
            Ok(ValueRef::Null) => file.blake3,
            _ if file.md5.is_none() => return Err(at("it has no md5, and a BLAKE3 in the wrong place")),
            Ok(ValueRef::Blob(blob)) => {
                let bytes = <[u8; 32]>::try_from(blob).map_err(|_| at("its BLAKE3 has the wrong length"))?;
                Some(Digest::from(bytes))
            }
            _ => return Err(at("its BLAKE3 is no blob")),
        };
        file.meta = meta(row, 7).map_err(|why| at(&why))?;
        file.origin = match (signed(row, 11), signed(row, 12), signed(row, 13)) {
            (Some(dev), Some(ino), Some(ctime_ns)) => {
                Some(Origin { dev: dev.cast_unsigned(), ino: ino.cast_unsigned(), ctime_ns })
            }
            _ => None,
        };
    }
    if read.kind.beside().objects
        && let Some(etag) = text(row, 14)
    {
        file.object = Some(Box::new(ObjectId { etag, version: text(row, 15), modified_ns: signed(row, 16) }));
    }
    Ok(file)
}

/// The column `hash`: an md5, or the BLAKE3 of a file without md5, or none of them. `None` if it is
/// something else.
fn hash_of(row: &Row<'_>, kind: Kind) -> Option<(Option<Md5>, Option<Blake3>)> {
    let hex = match row.get_ref(5) {
        Ok(ValueRef::Null) => {
            return match kind {
                Kind::Growing | Kind::Tombstones { md5_is_optional: false } => {
                    Some((Some(PENDING_MD5), None))
                }
                kind => kind.beside().md5_is_optional.then_some((None, None)),
            };
        }
        _ => std::str::from_utf8(bytes(row, 5)?).ok()?,
    };
    match hex.parse() {
        Ok(md5) => Some((Some(md5), None)),
        Err(_) => Some((None, Some(hex.parse().ok().filter(|_| kind.is_ours())?))),
    }
}

fn node_of(row: &Row<'_>) -> std::result::Result<Node, String> {
    let path = bytes(row, 1).ok_or("a node's path is neither text nor blob")?;
    let at = |what: &str| format!("node \"{}\": {what}", printable(path));
    let kind = bytes(row, 0)
        .and_then(|letter| NodeKind::from_letter(std::str::from_utf8(letter).ok()?))
        .ok_or_else(|| at("its kind is not d, l or h"))?;
    let target = bytes(row, 2).ok_or_else(|| at("its target is neither text nor blob"))?;
    let meta = meta(row, 3).map_err(|why| at(&why))?;
    let entry_path = EntryPath::new(path).map_err(|why| at(&format!("its path {why}")))?;
    let node = Node { kind, path: entry_path, target: target.into(), meta };
    if !node.has_good_target() {
        return Err(at("its target is not valid"));
    }
    Ok(node)
}

fn meta(row: &Row<'_>, first: usize) -> std::result::Result<Option<Meta>, String> {
    if matches!(row.get_ref(first), Ok(ValueRef::Null)) {
        return Ok(None);
    }
    let small = |column: usize| unsigned(row, column).and_then(|n| u32::try_from(n).ok());
    let meta = (|| {
        Some(Meta {
            mode: small(first).filter(|&mode| mode <= 0o7777)?,
            mtime_ns: signed(row, first + 1)?,
            uid: small(first + 2)?,
            gid: small(first + 3)?,
        })
    })();
    meta.map(Some).ok_or_else(|| "its mode, time or owner is not valid".to_string())
}

fn signed(row: &Row<'_>, column: usize) -> Option<i64> {
    match row.get_ref(column) {
        Ok(ValueRef::Integer(number)) => Some(number),
        _ => None,
    }
}

fn unsigned(row: &Row<'_>, column: usize) -> Option<u64> {
    signed(row, column).and_then(|number| u64::try_from(number).ok())
}

fn text(row: &Row<'_>, column: usize) -> Option<String> {
    String::from_utf8(bytes(row, column)?.to_vec()).ok()
}

fn bytes<'r>(row: &'r Row<'_>, column: usize) -> Option<&'r [u8]> {
    match row.get_ref(column) {
        Ok(ValueRef::Text(bytes) | ValueRef::Blob(bytes)) => Some(bytes),
        _ => None,
    }
}
