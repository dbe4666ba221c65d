//! Rows of an index as entries, every column checked: the index may have come from anybody.

use super::index_read::{FileRead, PENDING_MD5};
use super::sql_int;
use crate::archive::digest::Digest;
use crate::archive::entry::{FileEntry, Meta, Node, NodeKind, ObjectId, Origin};
use crate::archive::path::{EntryPath, printable};
use rusqlite::Row;
use rusqlite::types::ValueRef;

/// One row of the file query as an entry, every column checked. The message names the row.
pub(super) fn file_of(row: &Row<'_>, read: FileRead<'_>) -> std::result::Result<FileEntry, String> {
    let id = unsigned(row, 0).ok_or("a row of table tar has no valid id")?;
    let at = |what: &str| format!("file {id}: {what}");
    let path = bytes(row, 1).ok_or_else(|| at("its path is neither text nor blob"))?;
    let path = EntryPath::new(path).map_err(|why| at(&format!("its path \"{}\" {why}", printable(path))))?;
    let size = unsigned(row, 2).ok_or_else(|| at("its size is no number from 0 on"))?;
    let offset = unsigned(row, 3).ok_or_else(|| at("its offset is no number from 0 on"))?;
    let end = offset.checked_add(size).filter(|&end| end <= i64::MAX as u64);
    let end = end.ok_or_else(|| at("it ends behind 2^63 bytes"))?;
    let fragmented = read.fragmented && size > 0 && signed(row, 4) == Some(sql_int(offset) - 1);
    if !fragmented && signed(row, 4) != Some(sql_int(end) - 1) {
        return Err(at("its offset_end is not offset + size - 1"));
    }
    let md5 = match bytes(row, 5) {
        None if matches!(row.get_ref(5), Ok(ValueRef::Null)) && (read.optional || read.growing) => {
            // What is still to come must never pass for what was left out: that would need no proof.
            if read.optional { None } else { Some(PENDING_MD5) }
        }
        hex => Some(
            hex.and_then(|hex| std::str::from_utf8(hex).ok()?.parse().ok())
                .ok_or_else(|| at("its hash is no lowercase md5"))?,
        ),
    };
    let (blake3, meta_unknown, origin, object) = (None, None, None, None);
    let mut file =
        FileEntry { id, path, size, offset, fragmented, md5, blake3, meta: meta_unknown, origin, object };
    if read.ours {
        file.blake3 = match row.get_ref(6) {
            Ok(ValueRef::Null) => None,
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
        if file.md5.is_none() && file.blake3.is_some() {
            return Err(at("it has a BLAKE3 and no md5"));
        }
    }
    if read.objects
        && let Some(etag) = text(row, 14)
    {
        file.object = Some(Box::new(ObjectId { etag, version: text(row, 15), modified_ns: signed(row, 16) }));
    }
    Ok(file)
}

pub(super) fn node_of(row: &Row<'_>) -> std::result::Result<Node, String> {
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
