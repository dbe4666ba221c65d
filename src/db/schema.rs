//! The tables of every database. FORMAT.md 3, 4 and 9.1 say what their columns mean; temporary
//! tables are at the end.

use rusqlite::{Connection, OptionalExtension};

/// Every index has these.
pub(super) const INDEX: &str = "
    CREATE TABLE tar(id INT64, path TEXT, size INT64, offset INT64, offset_end INT64, hash TEXT);
    CREATE TABLE tarlike_meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;
    CREATE TABLE tarlike_file(id INTEGER PRIMARY KEY, blake3 BLOB, mode INT, mtime_ns INT, uid INT, gid INT,
                              dev INT, ino INT, ctime_ns INT);
    CREATE TABLE tarlike_node(id INTEGER PRIMARY KEY, kind TEXT NOT NULL, path TEXT NOT NULL, target TEXT NOT NULL,
                              mode INT, mtime_ns INT, uid INT, gid INT);";

/// The original's indexes of `tar`. They are made when the rows are in: that is three times faster
/// than updating them row by row.
pub(super) const ALL_INDEXES: &str = "
    CREATE INDEX IF NOT EXISTS idx_tar_path ON tar(path);
    CREATE INDEX IF NOT EXISTS idx_tar_hash ON tar(hash);
    CREATE INDEX IF NOT EXISTS idx_tar_offset ON tar(offset);
    CREATE INDEX IF NOT EXISTS idx_tar_offset_end ON tar(offset_end);
    CREATE INDEX IF NOT EXISTS idx_tar_offset_n_offset_end ON tar(offset, offset_end);";

/// Finds files by their content.
pub(super) const HASH_INDEX: &str = "CREATE INDEX IF NOT EXISTS idx_tar_hash ON tar(hash);";

/// Finds files that have an md5 by their BLAKE3, which is in the column `hash` of others.
pub(super) const BLAKE3_INDEX: &str =
    "CREATE INDEX IF NOT EXISTS tarlike_file_blake3 ON tarlike_file(blake3) WHERE blake3 IS NOT NULL;";

/// Finds rows by their path. An index with tombstones needs both, since a tombstone is compared
/// with what has its path now.
pub(super) const PATH_INDEXES: &str = "
    CREATE INDEX IF NOT EXISTS idx_tar_path ON tar(path);
    CREATE INDEX IF NOT EXISTS tarlike_node_path ON tarlike_node(path);";

/// An index of a bucket: which state of its object a file is.
pub(super) const OBJECT: &str = "
    CREATE TABLE IF NOT EXISTS tarlike_object(id INTEGER PRIMARY KEY, etag TEXT NOT NULL, version TEXT, modified_ns INT);";

/// The sender's index: chunk maps of large files.
pub(super) const CHUNK_MAP: &str = "
    CREATE TABLE IF NOT EXISTS tarlike_sketch(id INTEGER PRIMARY KEY, data BLOB NOT NULL);";

/// From the second generation on.
pub(super) const EXTENT: &str = "
    CREATE TABLE IF NOT EXISTS tarlike_extent(file INT NOT NULL, file_offset INT NOT NULL, length INT NOT NULL,
        offset INT NOT NULL, PRIMARY KEY(file, file_offset)) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS tarlike_extent_offset ON tarlike_extent(offset);
    CREATE INDEX IF NOT EXISTS idx_tar_offset_end ON tar(offset_end);";

/// The sender's index: a line for each generation, its change, and the inverse of that.
pub(super) const HISTORY: &str = "
    CREATE TABLE IF NOT EXISTS tarlike_generation(number INTEGER PRIMARY KEY, parent INT, format INT NOT NULL, digest TEXT NOT NULL,
        created INT, files INT, nodes INT, bytes INT, total INT, appended INT, abandoned INT NOT NULL DEFAULT 0);
    CREATE TABLE IF NOT EXISTS tarlike_change(generation INT NOT NULL, undo INT NOT NULL, seq INT NOT NULL, batch BLOB NOT NULL,
        PRIMARY KEY(generation, undo, seq)) WITHOUT ROWID;";

/// The sender's index: generations that a compaction ended.
pub(super) const FORMER: &str =
    "CREATE TABLE tarlike_former(number INTEGER PRIMARY KEY, digest TEXT NOT NULL, abandoned INT NOT NULL);";

/// The receiver's index: tombstones.
pub(super) const TOMBSTONE: &str = "
    CREATE TABLE IF NOT EXISTS tarlike_gone(id INTEGER PRIMARY KEY, path NOT NULL, size INT, offset INT, offset_end INT, hash TEXT,
        blake3 BLOB, mode INT, mtime_ns INT, uid INT, gid INT, died INT NOT NULL);
    CREATE INDEX IF NOT EXISTS tarlike_gone_offset_end ON tarlike_gone(offset_end);
    CREATE INDEX IF NOT EXISTS tarlike_gone_path ON tarlike_gone(path);
    CREATE TABLE IF NOT EXISTS tarlike_gone_extent(file INT NOT NULL, file_offset INT NOT NULL, length INT NOT NULL,
        offset INT NOT NULL, PRIMARY KEY(file, file_offset)) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS tarlike_gone_extent_offset ON tarlike_gone_extent(offset);
    CREATE TABLE IF NOT EXISTS tarlike_gone_node(path PRIMARY KEY, kind TEXT NOT NULL, target NOT NULL, mode INT, mtime_ns INT,
        uid INT, gid INT, died INT NOT NULL) WITHOUT ROWID;";

/// The receiver's index, as long as it comes as a log. Rows come in the order of their offsets:
/// `idx_tar_offset_end` grows at its end only, and blocks are looked up by it.
pub(super) const LOG: &str = "
    CREATE TABLE IF NOT EXISTS tarlike_log(seq INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, files INT NOT NULL,
        nodes INT NOT NULL, start INT NOT NULL, end INT NOT NULL, last_key BLOB NOT NULL, last_is_folder INT NOT NULL);
    CREATE INDEX IF NOT EXISTS idx_tar_offset_end ON tar(offset_end);
    CREATE INDEX IF NOT EXISTS tarlike_pending ON tar(id) WHERE hash IS NULL;
    DROP INDEX IF EXISTS idx_tar_path; DROP INDEX IF EXISTS idx_tar_hash; DROP INDEX IF EXISTS idx_tar_offset;
    DROP INDEX IF EXISTS idx_tar_offset_n_offset_end; DROP INDEX IF EXISTS tarlike_node_path;";

/// Ends what [`LOG`] began: the next generation comes as a change.
pub(super) const NO_LOG: &str = "DROP TABLE IF EXISTS tarlike_log; DROP INDEX IF EXISTS tarlike_pending;";

/// What a receiver takes of an index that is sent to it.
pub(super) const SENT: [&str; 6] =
    ["tar", "tarlike_meta", "tarlike_file", "tarlike_node", "tarlike_object", "tarlike_extent"];

/// What only a receiver's index has.
pub(super) const RECEIVED: [&str; 4] =
    ["tarlike_log", "tarlike_gone", "tarlike_gone_extent", "tarlike_gone_node"];

/// What only the sender's index has: no receiver reads these, but some have met them.
pub(super) const PRIVATE: [&str; 4] =
    [CHUNK_MAP_NAME, "tarlike_generation", "tarlike_change", "tarlike_former"];

/// The one private table that goes to a receiver, where it compares by it.
pub(super) const CHUNK_MAP_NAME: &str = "tarlike_sketch";

/// The sender's progress database.
pub(super) const PROGRESS: &str = "
    CREATE TABLE IF NOT EXISTS res(tar_id INT64, blk_size INT64, blk_id INT64);
    CREATE TABLE IF NOT EXISTS tarlike_bound(tar_id INTEGER PRIMARY KEY, digest TEXT NOT NULL, url TEXT NOT NULL);";

/// The receiver's journal. Earlier versions do not know the tables `made`, `source` and `receiver`,
/// and leave them as they are.
pub(super) const JOURNAL: &str = "
    CREATE TABLE IF NOT EXISTS archive(tar_id INTEGER PRIMARY KEY, digest TEXT NOT NULL, generation INT NOT NULL,
                                       finished INT NOT NULL);
    CREATE TABLE IF NOT EXISTS done(tar_id INT NOT NULL, first INT NOT NULL, end INT NOT NULL);
    CREATE TABLE IF NOT EXISTS published(tar_id INT NOT NULL, first INT NOT NULL, end INT NOT NULL);
    CREATE INDEX IF NOT EXISTS done_tar ON done(tar_id);
    CREATE INDEX IF NOT EXISTS published_tar ON published(tar_id);
    CREATE TABLE IF NOT EXISTS made(tar_id INTEGER PRIMARY KEY, generation INT NOT NULL);
    CREATE TABLE IF NOT EXISTS source(tar_id INTEGER PRIMARY KEY, id TEXT NOT NULL, name TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS receiver(id TEXT NOT NULL);
    INSERT INTO receiver SELECT lower(hex(randomblob(16))) WHERE NOT EXISTS (SELECT 1 FROM receiver);";

/// Temporary: paths by their sort keys, with what is there.
pub(super) const PATHS: &str = "CREATE TABLE path(key BLOB PRIMARY KEY, kind TEXT) WITHOUT ROWID;";

/// Temporary: files at new paths.
pub(super) const NEW_PATHS: &str = "
    CREATE TABLE new_path(key BLOB PRIMARY KEY, identity BLOB NOT NULL, path BLOB NOT NULL, size INT NOT NULL, send INT NOT NULL)
        WITHOUT ROWID;";

/// Temporary: the objects of a bucket.
pub(super) const LISTING: &str = "
    CREATE TABLE object(key BLOB PRIMARY KEY, path BLOB NOT NULL, folder INT NOT NULL, size INT NOT NULL,
                        etag TEXT NOT NULL, modified_ns INT NOT NULL, clash INT NOT NULL,
                        encoded_key TEXT) WITHOUT ROWID;";

/// Whether the database `schema` (`main`, or one that is attached) has the table `name`.
pub(super) fn has_table(connection: &Connection, schema: &str, name: &str) -> rusqlite::Result<bool> {
    let query = format!("SELECT 1 FROM {schema}.sqlite_schema WHERE type='table' AND name=?");
    connection.query_row(&query, [name], |_| Ok(())).optional().map(|row| row.is_some())
}
