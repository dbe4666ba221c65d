//! Tombstones: rows of entries that the previous index had, so that a later finish can delete them.
//! Only what the receiver has put in place gets one. Anything else that has the name of an entry
//! belongs to others.

use super::super::file::open_private;
use super::super::index_state::{self, failed};
use super::super::{meta, schema, scratch, sql_int, text_or_blob};
use crate::archive::ranges::RangeSet;
use crate::error::Result;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, params};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What of an index the receiver has put in place.
#[derive(Debug, Clone, Default)]
pub struct Placed {
    /// Ids of the files that are published.
    pub files: RangeSet,
    /// The directories and links were made.
    pub nodes: bool,
    /// Everything is in place. Tombstones of an earlier version count only then: it made them of
    /// all that an index had.
    pub complete: bool,
}

impl Placed {
    /// Everything.
    #[must_use]
    pub fn all() -> Self {
        Self { files: std::iter::once(0..i64::MAX as u64).collect(), nodes: true, complete: true }
    }
}

/// Where a file was in an archive that is no more means nothing: its row reads as that of a
/// fragmented file without extents.
const FILES: &str = "INSERT INTO main.tarlike_gone(id, path, size, offset, offset_end, hash, blake3, mode, mtime_ns, uid, gid, died)";
const NODES: &str = "INSERT OR REPLACE INTO main.tarlike_gone_node";
/// Ids of tombstones whose rows were in another index begin here. No file of an index has such a
/// high id.
pub(super) const TOMBSTONE_IDS: i64 = 1 << 62;

/// The ids of such rows; stands before the columns of the row.
fn ids() -> String {
    format!("{} - 1 + row_number() OVER ()", next_id())
}

/// The id of the next one.
pub(super) fn next_id() -> String {
    format!("max({TOMBSTONE_IDS}, (SELECT coalesce(max(id), 0) FROM main.tarlike_gone)) + 1")
}

/// Sets which generation the newest change of the index at `path` reverted, if it did. Only the
/// caller uses the index.
///
/// # Errors
/// SQLite fails.
pub fn set_reverted(path: &Path, reverted: Option<u64>) -> Result<()> {
    let reverted = reverted.unwrap_or(0);
    index_state::edit(path, path, |connection| {
        meta::REVERTED.set(connection, &reverted).map_err(|e| failed(path, e))
    })
}

/// Adds to the index at `path`, which only the caller uses, a tombstone for each entry that was put
/// in place of the index at `previous`, and the tombstones of that one. `kept` are the files of the
/// new index that are in place: they need none.
///
/// # Errors
/// SQLite fails.
pub fn add_tombstones(path: &Path, previous: &Path, placed: &Placed, kept: &RangeSet) -> Result<()> {
    let run = || -> rusqlite::Result<()> {
        let connection = open_private(path)?;
        connection.execute("ATTACH ? AS previous", params![previous.as_os_str().as_bytes()])?;
        connection.execute_batch(&format!("BEGIN; {}", schema::TOMBSTONE))?;
        if !meta::STREAM.is_in(&connection, "main")? {
            // One that comes as a log gets them at its end.
            connection.execute_batch(schema::PATH_INDEXES)?;
        }
        fill(&connection, "kept", kept)?;
        let known = schema::has_table(&connection, "previous", "tarlike_gone")?;
        if known && (placed.complete || meta::TOMBSTONES_ARE_PLACED.is_in(&connection, "previous")?) {
            // A file that is in place under its path needs its previous rows only where a hard link
            // may still be one of them.
            connection.execute_batch(&format!(
                "{FILES} SELECT {}, path, size, 0, -1, hash, blake3, mode, mtime_ns, uid, gid, died FROM previous.tarlike_gone o
                 WHERE NOT EXISTS(SELECT 1 FROM main.tar t WHERE t.path = o.path AND {})
                 OR path IN (SELECT target FROM previous.tarlike_node WHERE kind = 'h'
                             UNION ALL SELECT target FROM previous.tarlike_gone_node WHERE kind = 'h');
                 {NODES} SELECT * FROM previous.tarlike_gone_node;",
                ids(),
                is_in("kept", "t.id")
            ))?;
        }
        meta::TOMBSTONES_ARE_PLACED.set(&connection, &1)?;
        add_file_tombstones(&connection, "previous", placed, kept)?;
        connection.execute_batch("COMMIT; DETACH previous;")?;
        connection.close().map_err(|(_, e)| e)
    };
    run().map_err(|e| failed(path, e))
}

/// Adds tombstones for those of an index's own rows that were put in place: their ids may get other
/// meanings.
pub(in super::super) fn add_own_tombstones(connection: &Connection, placed: &Placed) -> rusqlite::Result<()> {
    let tx = connection.unchecked_transaction()?;
    tx.execute_batch(schema::TOMBSTONE)?;
    drop_unplaced(&tx, placed)?;
    add_file_tombstones(&tx, "main", placed, &RangeSet::default())?;
    tx.commit()
}

/// Drops the tombstones of an earlier version where it cannot be told whether their entries were
/// put in place.
pub(super) fn drop_unplaced(connection: &Connection, placed: &Placed) -> rusqlite::Result<()> {
    if !placed.complete && !meta::TOMBSTONES_ARE_PLACED.is_in(connection, "main")? {
        connection.execute_batch(
            "DELETE FROM tarlike_gone; DELETE FROM tarlike_gone_extent; DELETE FROM tarlike_gone_node;",
        )?;
    }
    meta::TOMBSTONES_ARE_PLACED.set(connection, &1)
}

/// Adds tombstones for rows of `schema` that were put in place, but not for files in place again:
/// those of `main` whose ids are in `kept`.
fn add_file_tombstones(
    connection: &Connection,
    schema: &str,
    placed: &Placed,
    kept: &RangeSet,
) -> rusqlite::Result<()> {
    fill(connection, "placed", &placed.files)?;
    fill(connection, "kept", kept)?;
    connection.execute_batch(&file_tombstones_query(schema, kept.covered() > 0))?;
    add_node_tombstones(connection, schema, placed)
}

/// The statement that adds tombstones of files; `any_kept` says whether any file is in place again.
fn file_tombstones_query(schema: &str, any_kept: bool) -> String {
    // An index that is about to go on as a log has no index of its paths, and nothing of what comes
    // is in place.
    let kept = match any_kept {
        true => format!(
            "AND NOT EXISTS(SELECT 1 FROM main.tar t LEFT JOIN main.tarlike_file m ON m.id = t.id WHERE t.path = o.path
                            AND t.size = o.size AND t.hash IS o.hash AND m.mtime_ns IS f.mtime_ns AND {})",
            is_in("kept", "t.id")
        ),
        false => String::new(),
    };
    format!(
        "{FILES} SELECT {}, path, size, 0, -1, hash, blake3, mode, mtime_ns, uid, gid, 0
         FROM {schema}.tar o LEFT JOIN {schema}.tarlike_file f ON f.id = o.id WHERE {}
         AND NOT EXISTS(SELECT 1 FROM main.tarlike_gone g WHERE g.path = o.path AND g.size = o.size AND g.hash IS o.hash
                        AND g.mtime_ns IS f.mtime_ns) {kept};",
        ids(),
        is_in("placed", "o.id")
    )
}

/// Adds tombstones for the directories and links in `schema` that were made, also for those that
/// stay: a later index cannot know whether they are made again.
pub(super) fn add_node_tombstones(
    connection: &Connection,
    schema: &str,
    placed: &Placed,
) -> rusqlite::Result<()> {
    let made = match placed.nodes {
        true => "",
        // Where files were published, their directories were made for them.
        false => {
            collect_folders(connection, schema, placed)?;
            "kind = 'd' AND path IN (SELECT path FROM temp.above) AND"
        }
    };
    connection.execute_batch(&format!(
        "{NODES} SELECT path, kind, target, mode, mtime_ns, uid, gid, 0 FROM {schema}.tarlike_node n WHERE {made}
         NOT EXISTS(SELECT 1 FROM main.tarlike_gone_node g WHERE g.path = n.path AND g.kind = n.kind AND g.target = n.target);"
    ))
}

/// Puts the directories that files in place lie in into the table `above`.
fn collect_folders(connection: &Connection, schema: &str, placed: &Placed) -> rusqlite::Result<()> {
    scratch::table(connection, "above", "(path PRIMARY KEY) WITHOUT ROWID")?;
    let query = format!("SELECT path FROM {schema}.tar WHERE rowid > ? AND rowid <= ? ORDER BY rowid");
    let mut select = connection.prepare(&query)?;
    let mut insert = connection.prepare("INSERT OR IGNORE INTO temp.above VALUES(?)")?;
    let mut noted: Vec<u8> = Vec::new();
    for ids in placed.files.iter() {
        let mut rows = select.query([sql_int(ids.start), sql_int(ids.end)])?;
        while let Some(row) = rows.next()? {
            let (ValueRef::Text(path) | ValueRef::Blob(path)) = row.get_ref(0)? else { continue };
            let parent = path.iter().rposition(|&byte| byte == b'/').map_or(0, |end| end);
            if path[..parent] == noted[..] {
                continue;
            }
            noted = path[..parent].to_vec();
            for end in (1..=parent).filter(|&end| end == parent || path[end] == b'/') {
                insert.execute([text_or_blob(&path[..end])])?;
            }
        }
    }
    Ok(())
}

/// Puts a set of ids into the temporary table `name`.
fn fill(connection: &Connection, name: &str, ids: &RangeSet) -> rusqlite::Result<()> {
    scratch::table(connection, name, "(first INTEGER PRIMARY KEY, end INT NOT NULL)")?;
    let mut insert = connection.prepare(&format!("INSERT INTO temp.{name} VALUES(?,?)"))?;
    for range in ids.iter() {
        insert.execute([sql_int(range.start), sql_int(range.end)])?;
    }
    Ok(())
}

/// Whether `id` is in the set that the temporary table `name` holds.
fn is_in(name: &str, id: &str) -> String {
    format!(
        "coalesce((SELECT end FROM temp.{name} WHERE first <= {id} ORDER BY first DESC LIMIT 1), 0) > {id}"
    )
}
