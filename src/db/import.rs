//! Taking in an index that came over the network. The file is hostile until proven otherwise: it is
//! opened read-only under limits, only plain tables are read, every row is validated and copied
//! into a database of our own, and then it is dropped.

use super::file::folder_of;
use super::generation;
use super::index_read::IndexReader;
use super::index_write::{IndexWriter, Written};
use super::paths::PathTable;
use super::schema::{PRIVATE, SENT};
use crate::archive::entry::{FileEntry, Node, NodeKind};
use crate::archive::path::{EntryPath, printable};
use crate::error::{Error, ErrorKind, Result};
use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, Authorization};
use rusqlite::limits::Limit;
use rusqlite::{Connection, OpenFlags};
use std::ops::ControlFlow;
use std::path::Path;

/// The longest value that any column may have, in bytes: a path, with room to spare.
const MAX_VALUE_BYTES: i32 = 64 << 10;
/// The longest chunk map that is looked at, in bytes: one of a content of about 10 TB.
const MAX_CHUNK_MAP_BYTES: i32 = 64 << 20;
/// After so many steps of SQLite's machine, the budget is looked at.
const STEP: i32 = 1_000;

/// Copies the index at `uploaded` into a new index at `target`, as generation `number`, with
/// `created_s` in seconds since 1970. `name` stands for the upload in messages.
///
/// # Errors
/// [`ErrorKind::BadIndex`] says what is wrong with the upload; nothing is written then. Others: our
/// own disk or database.
pub fn import(uploaded: &Path, target: &Path, name: &str, number: u64, created_s: u64) -> Result<Written> {
    check_header(uploaded, name)?;
    let reader = IndexReader::on(open_hostile(uploaded, name)?, Path::new(name)).map_err(refuse)?;
    let reader = reader.without_objects();
    if reader.is_fragmented() {
        return generation::copy_rows(&reader, target, number, created_s).map_err(refuse);
    }
    let writer = IndexWriter::create(target)?;
    let paths = PathTable::create(folder_of(target))?;
    let mut copy = Copy { name, writer, paths, has_failed: false };
    reader.files(|file| copy.file(&file)).map_err(|e| copy.refuse(e))?;
    reader.nodes(|node| copy.node(&node)).map_err(|e| copy.refuse(e))?;
    if let Some(path) = copy.paths.conflict()? {
        return Err(refused(name, format!("\"{path}\" is both a file and a folder")));
    }
    reader.nodes(|node| copy.check_target(&node)).map_err(refuse)?;
    copy.writer.finish(b"", number, created_s)
}

/// A database that cannot be read is the fault of the upload.
fn refuse(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Database => error.with_kind(ErrorKind::BadIndex),
        _ => error,
    }
}

/// The new index, while rows are copied to it.
struct Copy<'a> {
    name: &'a str,
    writer: IndexWriter,
    paths: PathTable,
    /// The new index failed, which is not the fault of the upload.
    has_failed: bool,
}

impl Copy<'_> {
    fn file(&mut self, file: &FileEntry) -> Result<ControlFlow<()>> {
        let (next, rows) = (file.id, self.writer.files());
        if next != rows {
            let why = format!("file ids are not dense from 0: {next} follows {rows} rows");
            return Err(refused(self.name, why));
        }
        if file.offset != self.writer.total_bytes() {
            let why = format!("file {next} \"{}\" does not start where the previous one ends", file.path);
            return Err(refused(self.name, why));
        }
        let added = add(&self.paths, &file.path, "f").and_then(|()| self.writer.file(file));
        self.has_failed = added.is_err();
        added.map(ControlFlow::Continue)
    }

    fn node(&mut self, node: &Node) -> Result<ControlFlow<()>> {
        let added = add(&self.paths, &node.path, node.kind.letter()).and_then(|()| self.writer.node(node));
        self.has_failed = added.is_err();
        added.map(ControlFlow::Continue)
    }

    /// A hard link is one of a file of the index.
    fn check_target(&self, node: &Node) -> Result<ControlFlow<()>> {
        if node.kind == NodeKind::Hardlink && self.paths.kind_of(&node.target)?.as_deref() != Some("f") {
            let (path, target) = (&node.path, printable(&node.target));
            let why = format!("hard link \"{path}\" points to \"{target}\", which is no file of it");
            return Err(refused(self.name, why));
        }
        Ok(ControlFlow::Continue(()))
    }

    fn refuse(&self, error: Error) -> Error {
        if self.has_failed { error } else { refuse(error) }
    }
}

/// Opens an index that was uploaded and taken in, for the chunk maps that it brought
/// ([`IndexReader::chunk_map`]). They are as hostile as the rest: whatever is made by them has to
/// be proven.
///
/// # Errors
/// It cannot be read.
pub fn open_uploaded(uploaded: &Path, name: &str) -> Result<IndexReader> {
    let connection = open_hostile(uploaded, name)?;
    connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_CHUNK_MAP_BYTES).map_err(|e| refused(name, e))?;
    IndexReader::on(connection, Path::new(name))
}

fn add(paths: &PathTable, path: &EntryPath, kind: &str) -> Result<()> {
    if paths.add(path, kind)? {
        return Ok(());
    }
    Err(Error::new(ErrorKind::BadIndex, format!("the index is refused: path \"{path}\" occurs twice")))
}

fn refused(name: &str, why: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::BadIndex, format!("{name} is refused: {why}"))
}

/// A cut upload must not pass for a whole one: the header says how many pages there are.
fn check_header(path: &Path, name: &str) -> Result<()> {
    use std::io::Read;
    let io = |e: std::io::Error| Error::io(format!("cannot read {name}"), e);
    let mut file = std::fs::File::open(path).map_err(io)?;
    let length = file.metadata().map_err(io)?.len();
    let mut header = [0; 100];
    if length < 512 || file.read_exact(&mut header).is_err() || !header.starts_with(b"SQLite format 3\0") {
        return Err(refused(name, "it is no SQLite database"));
    }
    let page = match u16::from_be_bytes([header[16], header[17]]) {
        1 => 65_536,
        size => u64::from(size),
    };
    let pages = u64::from(u32::from_be_bytes([header[28], header[29], header[30], header[31]]));
    // The page count is only valid when these two counters agree; old writers leave it 0.
    let valid = header[24..28] == header[92..96] && pages > 0;
    if valid && pages * page != length {
        return Err(refused(name, format!("its header says {} bytes, it has {length}", pages * page)));
    }
    Ok(())
}

fn open_hostile(path: &Path, name: &str) -> Result<Connection> {
    let bad = |e: rusqlite::Error| refused(name, e);
    let mut uri = b"file:".to_vec();
    for &byte in std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()) {
        if byte.is_ascii_alphanumeric() || b"/._-".contains(&byte) {
            uri.push(byte);
        } else {
            uri.extend(format!("%{byte:02X}").bytes());
        }
    }
    // Immutable: no lock, no journal or WAL beside it is looked at, whatever the header says.
    uri.extend(b"?mode=ro&immutable=1");
    let uri = String::from_utf8(uri).map_err(|e| refused(name, e))?;
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(&uri, flags).map_err(bad)?;
    // Pages of a hostile file may be each other's children many times over: reading may not cost
    // much more than its length.
    let length = std::fs::metadata(path).map_err(|e| Error::io(format!("cannot read {name}"), e))?.len();
    let mut budget = 1_000_000 + length.saturating_mul(20);
    let spend = move || {
        budget = budget.saturating_sub(STEP as u64);
        budget == 0
    };
    connection.progress_handler(STEP, Some(spend)).map_err(bad)?;
    connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES).map_err(bad)?;
    connection.set_limit(Limit::SQLITE_LIMIT_ATTACHED, 0).map_err(bad)?;
    connection.set_limit(Limit::SQLITE_LIMIT_COLUMN, 64).map_err(bad)?;
    connection.set_limit(Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 1).map_err(bad)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true).map_err(bad)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false).map_err(bad)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false).map_err(bad)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false).map_err(bad)?;
    connection.execute_batch("PRAGMA cell_size_check=ON; PRAGMA mmap_size=0;").map_err(bad)?;
    check_schema(&connection, name)?;
    connection.authorizer(Some(authorize)).map_err(bad)?;
    Ok(connection)
}

/// Only plain tables and plain indexes on them, and of our own tables only those that we know.
fn check_schema(connection: &Connection, name: &str) -> Result<()> {
    let bad = |e: rusqlite::Error| refused(name, e);
    let mut statement =
        connection.prepare("SELECT type, name, tbl_name, sql FROM sqlite_schema").map_err(bad)?;
    let mut rows = statement.query([]).map_err(bad)?;
    while let Some(row) = rows.next().map_err(bad)? {
        let kind: String = row.get(0).map_err(bad)?;
        let object: String = row.get(1).map_err(bad)?;
        let table: String = row.get(2).map_err(bad)?;
        let sql: String = row.get::<_, Option<String>>(3).map_err(bad)?.unwrap_or_default();
        let known = SENT.contains(&&*table) || PRIVATE.contains(&&*table) || table.starts_with("sqlite_stat");
        let plain = match &*kind {
            "table" => sql.get(..12).is_some_and(|start| start.eq_ignore_ascii_case("create table")),
            "index" => true,
            _ => false,
        };
        if !known || !plain {
            return Err(refused(
                name,
                format!("it holds a {} \"{}\"", printable(kind.as_bytes()), printable(object.as_bytes())),
            ));
        }
    }
    drop(rows);
    drop(statement);
    for table in SENT.iter().chain(&PRIVATE) {
        let mut statement = connection.prepare(&format!("PRAGMA table_xinfo({table})")).map_err(bad)?;
        let hidden: Vec<i64> =
            statement.query_map([], |row| row.get(6)).and_then(|rows| rows.collect()).map_err(bad)?;
        if hidden.iter().any(|&hidden| hidden != 0) {
            return Err(refused(name, format!("table {table} has computed columns")));
        }
    }
    Ok(())
}

/// What reading an index needs, and nothing else.
fn authorize(context: rusqlite::hooks::AuthContext<'_>) -> Authorization {
    let fine = match context.action {
        AuthAction::Select => true,
        AuthAction::Read { table_name, .. } => {
            table_name == "tar" || table_name == "sqlite_master" || table_name.starts_with("tarlike_")
        }
        AuthAction::Pragma { pragma_name, .. } => matches!(pragma_name, "cache_size" | "temp_store"),
        // Of the order of the walk.
        AuthAction::Function { function_name } => matches!(function_name, "replace" | "char"),
        _ => false,
    };
    if fine { Authorization::Allow } else { Authorization::Deny }
}
