//! The sender's progress database: the original's table `res`, and beside it which index and
//! receiver the rows are about. It is a cache of what the receiver knows; losing it costs nothing
//! but questions.

use super::file::open_shared;
use super::{db_error, from_sql_int, schema, sql_int};
use crate::archive::digest::IndexDigest;
use crate::error::Result;
use rusqlite::{Connection, OptionalExtension, params};
use std::path::Path;
use std::time::Duration;

/// Blocks that a receiver accepted, of one archive cut in one block size.
pub struct Progress {
    connection: Connection,
    tar_id: u64,
    block_size: u64,
}

impl Progress {
    /// Opens or makes the database at `path`. Rows about another index or receiver than these are
    /// dropped: the original kept them, and skipped blocks that had never been sent.
    ///
    /// # Errors
    /// The file cannot be opened or is no database.
    pub fn open(path: &Path, tar_id: u64, block_size: u64, digest: &IndexDigest, url: &str) -> Result<Self> {
        let what = || format!("cannot use the progress database {}", path.display());
        let error = |e| db_error(what(), e).with_hint("remove the file; it is only a cache");
        // Others write a row at a time. This run does without a database that is held longer.
        let connection = open_shared(path, Duration::from_secs(2)).map_err(error)?;
        let digest = digest.to_string();
        let run = || -> rusqlite::Result<()> {
            // A lost row costs one question to the receiver: no need to wait for the disk.
            connection.execute_batch("PRAGMA synchronous=OFF;")?;
            connection.execute_batch(schema::PROGRESS)?;
            let bound: Option<(String, String)> = connection
                .query_row("SELECT digest, url FROM tarlike_bound WHERE tar_id=?", [sql_int(tar_id)], |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })
                .optional()?;
            if bound.as_ref().is_none_or(|(d, u)| *d != digest || u != url) {
                connection.execute("DELETE FROM res WHERE tar_id=?", [sql_int(tar_id)])?;
                connection.execute(
                    "INSERT INTO tarlike_bound VALUES(?,?,?) ON CONFLICT(tar_id) DO UPDATE SET digest=excluded.digest, url=excluded.url",
                    params![sql_int(tar_id), digest, url],
                )?;
            }
            Ok(())
        };
        run().map_err(error)?;
        Ok(Self { connection, tar_id, block_size })
    }

    /// Forgets all blocks of this archive.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn clear(&self) -> Result<()> {
        self.connection
            .execute("DELETE FROM res WHERE tar_id=?", [sql_int(self.tar_id)])
            .map(drop)
            .map_err(|e| db_error("cannot write the progress database", e))
    }

    /// Remembers that `block` was accepted.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn add(&self, block: u64) -> Result<()> {
        self.connection
            .prepare_cached("INSERT INTO res VALUES(?,?,?)")
            .and_then(|mut s| s.execute([sql_int(self.tar_id), sql_int(self.block_size), sql_int(block)]))
            .map(drop)
            .map_err(|e| db_error("cannot write the progress database", e))
    }

    /// The numbers of all blocks that were accepted.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn blocks(&self) -> Result<Vec<u64>> {
        let run = || -> rusqlite::Result<Vec<u64>> {
            self.connection
                .prepare("SELECT DISTINCT blk_id FROM res WHERE tar_id=? AND blk_size=? ORDER BY blk_id")?
                .query_map([sql_int(self.tar_id), sql_int(self.block_size)], |row| {
                    row.get(0).map(from_sql_int)
                })?
                .collect()
        };
        run().map_err(|e| db_error("cannot read the progress database", e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::digest::Digest;

    #[test]
    fn rows_are_bound_to_index_and_receiver() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.sqlite");
        let (one, two) = (Digest::from([1; 32]), Digest::from([2; 32]));
        let progress = Progress::open(&path, 0, 10, &one, "u").unwrap();
        progress.add(3).unwrap();
        progress.add(3).unwrap();
        drop(progress);
        assert_eq!(Progress::open(&path, 0, 10, &one, "u").unwrap().blocks().unwrap(), [3]);
        assert_eq!(Progress::open(&path, 0, 11, &one, "u").unwrap().blocks().unwrap(), [] as [u64; 0]);
        assert_eq!(Progress::open(&path, 0, 10, &two, "u").unwrap().blocks().unwrap(), [] as [u64; 0]);
        Progress::open(&path, 0, 10, &two, "u").unwrap().add(1).unwrap();
        assert_eq!(Progress::open(&path, 0, 10, &two, "other").unwrap().blocks().unwrap(), [] as [u64; 0]);
    }
}
