//! Index databases by plain SQL, and blocks, as the original program makes and reads them.

use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
use md5::Digest;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, params};
use std::io::Write;
use std::path::Path;

/// A row of table `tar`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) id: i64,
    pub(crate) path: Vec<u8>,
    /// How the path is stored: `text` or `blob`.
    pub(crate) path_type: &'static str,
    pub(crate) size: i64,
    pub(crate) offset: i64,
    pub(crate) offset_end: i64,
    pub(crate) hash: String,
}

/// The table and indexes of the original, without any table of ours.
pub(crate) const ORIGINAL_SCHEMA: &str = "
    CREATE TABLE tar (id INT64, path TEXT, size INT64, offset INT64, offset_end INT64, hash TEXT);
    CREATE INDEX idx_tar_path ON tar (path);
    CREATE INDEX idx_tar_hash ON tar (hash);
    CREATE INDEX idx_tar_offset ON tar (offset);
    CREATE INDEX idx_tar_offset_end ON tar (offset_end);
    CREATE INDEX idx_tar_offset_n_offset_end ON tar (offset, offset_end);";

/// Rows for files of these names and contents, laid out one behind the other.
pub(crate) fn rows_of(files: &[(&[u8], &[u8])]) -> Vec<Row> {
    let mut offset = 0;
    let row = |(id, (path, content)): (usize, &(&[u8], &[u8]))| {
        let size = content.len() as i64;
        offset += size;
        Row {
            id: id as i64,
            path: path.to_vec(),
            path_type: if std::str::from_utf8(path).is_ok() { "text" } else { "blob" },
            size,
            offset: offset - size,
            offset_end: offset - 1,
            hash: md5_hex(content),
        }
    };
    files.iter().enumerate().map(row).collect()
}

/// Writes an index as the original does, with these rows, valid or not.
pub(crate) fn write_original(path: &Path, rows: &[Row]) {
    let mut connection = Connection::open(path).unwrap();
    connection.execute_batch(ORIGINAL_SCHEMA).unwrap();
    let transaction = connection.transaction().unwrap();
    for row in rows {
        let name: &dyn rusqlite::ToSql = match std::str::from_utf8(&row.path) {
            Ok(text) if row.path_type == "text" => &text.to_string(),
            _ => &row.path,
        };
        let values = params![row.id, name, row.size, row.offset, row.offset_end, row.hash];
        transaction.execute("INSERT INTO tar VALUES (?,?,?,?,?,?)", values).unwrap();
    }
    transaction.commit().unwrap();
}

/// Opens a database for reading only.
pub(crate) fn open(path: &Path) -> Connection {
    // What a killed process has left beside it is taken back, which needs the right to write.
    Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap()
}

/// All rows of table `tar`, by id.
pub(crate) fn rows(path: &Path) -> Vec<Row> {
    let connection = open(path);
    let mut statement =
        connection.prepare("SELECT id, path, size, offset, offset_end, hash FROM tar ORDER BY id").unwrap();
    let rows = statement.query_map([], |row| {
        let (path, path_type) = match row.get_ref(1)? {
            ValueRef::Text(bytes) => (bytes.to_vec(), "text"),
            ValueRef::Blob(bytes) => (bytes.to_vec(), "blob"),
            other => panic!("path is {other:?}"),
        };
        let (id, size, offset) = (row.get(0)?, row.get(2)?, row.get(3)?);
        Ok(Row { id, path, path_type, size, offset, offset_end: row.get(4)?, hash: row.get(5)? })
    });
    rows.unwrap().map(Result::unwrap).collect()
}

/// The paths of table `tar`, printable, by id.
pub(crate) fn paths(path: &Path) -> Vec<String> {
    rows(path).iter().map(|row| row.path.escape_ascii().to_string()).collect()
}

/// Kind, path and target of every directory and link, printable, in order.
pub(crate) fn nodes(path: &Path) -> Vec<(String, String, String)> {
    let connection = open(path);
    let mut statement =
        connection.prepare("SELECT kind, path, target FROM tarlike_node ORDER BY id").unwrap();
    let text = |value: ValueRef<'_>| value.as_bytes().unwrap().escape_ascii().to_string();
    let nodes =
        statement.query_map([], |row| Ok((row.get(0)?, text(row.get_ref(1)?), text(row.get_ref(2)?))));
    nodes.unwrap().map(Result::unwrap).collect()
}

/// A value of our metadata as text.
pub(crate) fn meta(path: &Path, key: &str) -> String {
    let value =
        open(path)
            .query_row("SELECT CAST(value AS TEXT) FROM tarlike_meta WHERE key = ?", [key], |row| row.get(0));
    value.unwrap_or_else(|e| panic!("no {key}: {e}"))
}

/// The digest that names an index of ours.
pub(crate) fn digest(path: &Path) -> String {
    meta(path, "digest")
}

/// The virtual archive: all files of the index, one behind the other.
pub(crate) fn archive(base: &Path, db: &Path) -> Vec<u8> {
    let path =
        |row: &Row| base.join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&row.path));
    rows(db).iter().flat_map(|row| std::fs::read(path(row)).unwrap()).collect()
}

/// Block `number` of an archive.
pub(crate) fn block(archive: &[u8], size: usize, number: usize) -> &[u8] {
    &archive[number * size..archive.len().min((number + 1) * size)]
}

/// One LZ4 frame as the original's: linked blocks of 64 KiB, no content size, no checksums.
pub(crate) fn frame(content: &[u8]) -> Vec<u8> {
    let info = FrameInfo::new().block_mode(BlockMode::Linked).block_size(BlockSize::Max64KB);
    let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// The content of a frame.
pub(crate) fn unframe(frame: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    std::io::copy(&mut lz4_flex::frame::FrameDecoder::new(frame), &mut content).unwrap();
    content
}

/// The frame of a whole file, as an index is sent.
pub(crate) fn frame_of(path: &Path) -> Vec<u8> {
    frame(&std::fs::read(path).unwrap())
}

pub(crate) fn blake3_hex(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

pub(crate) fn md5_hex(bytes: &[u8]) -> String {
    md5::Md5::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
