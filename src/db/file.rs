//! The file of a database: what SQLite keeps beside it, and how one takes the place of another.
//!
//! A process that is killed while it writes leaves its journal or WAL beside the database. The next
//! one that opens the database for writing takes the write back, or completes it; one that opens it
//! for reading may not. And a journal that is left beside *another* database of the same name would
//! be rolled back into that one. So a database is opened for reading by `open_to_read`, copied byte
//! for byte after [`checkpoint`], and gets the name of another one after [`make_way`], nowhere
//! else.

use super::{db_error, is_cut, is_locked, keep_plans};
use crate::error::{Error, ErrorKind, Result};
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What SQLite appends to the name of a database for its own files.
const BESIDE: [&str; 3] = ["-journal", "-wal", "-shm"];

/// How long to wait for another process that uses the database.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// The folder that `path` is in.
pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

const WRITE: OpenFlags = OpenFlags::SQLITE_OPEN_READ_WRITE.union(OpenFlags::SQLITE_OPEN_NO_MUTEX);

/// The files that SQLite may have beside the database at `path`.
pub fn beside(path: &Path) -> impl Iterator<Item = PathBuf> + '_ {
    BESIDE.iter().map(|suffix| {
        let mut name = path.as_os_str().to_os_string();
        name.push(suffix);
        PathBuf::from(name)
    })
}

/// Opens the database at `path` for reading. A write that was cut is taken back first, which takes
/// the right to write.
pub(super) fn open_to_read(path: &Path) -> rusqlite::Result<Connection> {
    let open = || {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        Connection::open_with_flags(path, flags)
    };
    let connection = open()?;
    match read_anything(&connection) {
        Err(e) if is_cut(&e) => {
            drop(connection);
            recover(path)?;
            open()
        }
        // Whatever else is wrong meets the caller's own first read.
        _ => Ok(connection),
    }
}

/// Opens the database at `path` for writing, or makes it. Others use it too: each of them may hold
/// it for `timeout`.
pub(super) fn open_shared(path: &Path, timeout: Duration) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
    connection.busy_timeout(timeout)?;
    Ok(connection)
}

/// Opens the database at `path` for writing, or makes it. Only the caller uses it, until it is
/// synced as a whole: SQLite need not sync or keep a journal.
pub(super) fn open_private(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
    connection.execute_batch(
        "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-8000; PRAGMA temp_store=FILE;",
    )?;
    keep_plans(&connection)?;
    Ok(connection)
}

/// Has the file at `path` hold the whole database, so that it can be copied as a file. The caller
/// keeps other writers out.
///
/// # Errors
/// SQLite fails.
pub fn checkpoint(path: &Path) -> Result<()> {
    // SQLite has its files beside the real one.
    let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    if !beside(&real).any(|file| file.exists()) {
        return Ok(());
    }
    recover(&real).map_err(|e| db_error(format!("cannot read the index {}", path.display()), e))
}

/// Prepares that another database is renamed to `target`: whatever SQLite has beside the previous
/// one belongs to that one only.
///
/// # Errors
/// Another program uses the previous one ([`ErrorKind::InUse`]), or a file beside it cannot be
/// removed.
pub fn make_way(target: &Path) -> Result<()> {
    let left: Vec<PathBuf> = beside(target).filter(|file| std::fs::symlink_metadata(file).is_ok()).collect();
    if left.is_empty() {
        return Ok(());
    }
    // Should the rename never come, the previous database is whole. One that cannot be recovered is
    // of no use with its journal either.
    if target.exists()
        && let Err(e) = recover(target)
        && e.sqlite_error_code().is_some_and(is_locked)
    {
        return Err(db_error(format!("cannot replace {}", target.display()), e).with_kind(ErrorKind::InUse));
    }
    for file in left {
        match std::fs::remove_file(&file) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io(format!("cannot remove {}", file.display()), e));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Reads all pages of the index at `path`, also those that no row is in, and compares them with
/// each other.
///
/// # Errors
/// It is damaged ([`super::is_damage`]), or cannot be read.
pub fn check_pages(path: &Path) -> Result<()> {
    let what = || format!("cannot read the index {}", path.display());
    let check = || open_to_read(path)?.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0));
    let found: String = check().map_err(|e| db_error(what(), e))?;
    if found == "ok" { Ok(()) } else { Err(Error::new(ErrorKind::BadIndex, what()).with_source(found)) }
}

/// Takes back a write that was cut, and moves what is in a WAL into the file.
fn recover(path: &Path) -> rusqlite::Result<()> {
    let connection = Connection::open_with_flags(path, WRITE)?;
    connection.busy_timeout(LOCK_TIMEOUT)?;
    read_anything(&connection)?;
    connection.execute_batch("PRAGMA journal_mode=DELETE")?;
    connection.close().map_err(|(_, e)| e)
}

fn read_anything(connection: &Connection) -> rusqlite::Result<()> {
    connection.query_row("SELECT 1 FROM sqlite_schema LIMIT 1", [], |_| Ok(())).optional().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A database with the rows 1 to 2000, and beside it what a process left that was killed in the
    /// middle of its commit.
    fn cut(path: &Path, mode: &str) {
        let folder = tempfile::tempdir().unwrap();
        let scratch = folder.path().join("scratch");
        let connection = Connection::open(&scratch).unwrap();
        connection
            .execute_batch(&format!(
                "PRAGMA journal_mode={mode}; PRAGMA cache_size=5; PRAGMA wal_autocheckpoint=0; CREATE TABLE t(n, filler);
                 WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 2000)
                 INSERT INTO t SELECT n, randomblob(100) FROM r;
                 BEGIN; UPDATE t SET n = -n, filler = randomblob(100);"
            ))
            .unwrap();
        // The cache is small: much of it is in the file already, and what it replaced in a synced
        // journal.
        std::fs::copy(&scratch, path).unwrap();
        for (from, to) in beside(&scratch).zip(beside(path)) {
            if from.exists() {
                std::fs::copy(from, to).unwrap();
            }
        }
    }

    fn sum(connection: &Connection) -> i64 {
        let whole: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        assert_eq!(whole, "ok");
        connection.query_row("SELECT sum(n) FROM t", [], |row| row.get(0)).unwrap()
    }

    const SUM: i64 = 2000 * 2001 / 2;

    fn left(path: &Path) -> usize {
        beside(path).filter(|file| file.exists()).count()
    }

    #[test]
    fn a_reader_takes_back_what_was_cut() {
        let folder = tempfile::tempdir().unwrap();
        for mode in ["DELETE", "PERSIST", "WAL"] {
            let (path, copy) = (folder.path().join(mode), folder.path().join("copy"));
            cut(&path, mode);
            assert!(left(&path) > 0, "{mode}");
            assert_eq!(sum(&open_to_read(&path).unwrap()), SUM, "{mode}");
            // Through a link, too, and as a file of its own.
            cut(&path, mode);
            let link = folder.path().join(format!("link-{mode}"));
            std::os::unix::fs::symlink(&path, &link).unwrap();
            checkpoint(&link).unwrap();
            std::fs::copy(&path, &copy).unwrap();
            assert_eq!(sum(&Connection::open(&copy).unwrap()), SUM, "{mode}");
        }
    }

    #[test]
    fn what_is_left_beside_a_database_does_not_reach_the_next_one() {
        let folder = tempfile::tempdir().unwrap();
        for mode in ["DELETE", "PERSIST", "WAL"] {
            for previous_is_there in [true, false] {
                let (path, next) = (folder.path().join(mode), folder.path().join("next"));
                cut(&path, mode);
                Connection::open(&next)
                    .unwrap()
                    .execute_batch("CREATE TABLE t(n); INSERT INTO t VALUES(7)")
                    .unwrap();
                if !previous_is_there {
                    std::fs::remove_file(&path).unwrap();
                }
                make_way(&path).unwrap();
                assert_eq!(left(&path), 0, "{mode}");
                if previous_is_there {
                    assert_eq!(sum(&Connection::open(&path).unwrap()), SUM, "{mode}");
                }
                std::fs::rename(&next, &path).unwrap();
                assert_eq!(sum(&Connection::open(&path).unwrap()), 7, "{mode}");
                std::fs::remove_file(&path).unwrap();
            }
        }
    }

    #[test]
    fn a_database_that_another_program_writes_to_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("i");
        let other = Connection::open(&path).unwrap();
        other.execute_batch("CREATE TABLE t(n); BEGIN EXCLUSIVE; INSERT INTO t VALUES(1)").unwrap();
        assert_eq!(left(&path), 1);
        assert_eq!(make_way(&path).unwrap_err().kind(), ErrorKind::InUse);
        assert_eq!(left(&path), 1);
    }
}
