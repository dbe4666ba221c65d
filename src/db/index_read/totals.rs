//! What all rows of an index come to.

use super::super::meta::{self, Counts};
use super::super::schema::has_table;
use super::super::{from_sql_int, sql_int};
use super::IndexReader;
use crate::error::{Error, ErrorKind, Result};
use rusqlite::OptionalExtension;

impl IndexReader {
    /// Size of the archive, in bytes.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn archive_bytes(&self) -> Result<u64> {
        if self.is_fragmented() {
            return Ok(self.meta(&meta::TOTAL)?.unwrap_or(0));
        }
        let query = "SELECT coalesce((SELECT offset_end + 1 FROM tar ORDER BY rowid DESC LIMIT 1), 0)";
        self.connection.query_row(query, [], |row| row.get(0).map(from_sql_int)).map_err(|e| self.error(e))
    }

    /// Makes sure that the size of the archive is where its last file ends, for an index that is to
    /// be sent: no digest covers that number.
    ///
    /// # Errors
    /// [`ErrorKind::BadIndex`]: it is not. Or SQLite fails.
    pub fn check_archive_bytes(&self) -> Result<()> {
        if !self.is_ours() {
            return Ok(());
        }
        let (said, end) = (self.archive_bytes()?, self.content_end()?);
        let of_history = self.generation_bytes()?;
        let wrong = std::iter::once(said).chain(of_history).find(|&bytes| bytes != end);
        let Some(wrong) = wrong else { return Ok(()) };
        let what = format!(
            "the index {} says that its archive has {wrong} bytes, but its files end at byte {end}",
            self.path.display()
        );
        Err(Error::new(ErrorKind::BadIndex, what).with_hint(
            "it was edited or damaged after it was made: take it from a backup (tar-like history restore), \
             or give -db the name of a new index",
        ))
    }

    /// The end of the last piece of any file in the archive.
    fn content_end(&self) -> Result<u64> {
        if !self.is_fragmented() {
            return self.archive_bytes();
        }
        // Contiguous files ascend with their ids.
        let query = "SELECT max(
                coalesce((SELECT offset_end + 1 FROM tar WHERE offset_end >= offset ORDER BY rowid DESC LIMIT 1), 0),
                coalesce((SELECT max(offset + length) FROM tarlike_extent), 0))";
        self.connection.query_row(query, [], |row| row.get(0).map(from_sql_int)).map_err(|e| self.error(e))
    }

    /// Size of the archive as the history of the index says it, if there is one.
    fn generation_bytes(&self) -> Result<Option<u64>> {
        let Some(generation) = self.meta(&meta::GENERATION)? else { return Ok(None) };
        let read = || -> rusqlite::Result<Option<u64>> {
            if !has_table(&self.connection, "main", "tarlike_generation")? {
                return Ok(None);
            }
            let query = "SELECT total FROM tarlike_generation WHERE number = ?";
            let total =
                self.connection.query_row(query, [sql_int(generation)], |row| row.get::<_, Option<i64>>(0));
            Ok(total.optional()?.map(|total| total.map_or(0, from_sql_int)))
        };
        read().map_err(|e| self.error(e))
    }

    /// What is more than the id of any file.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn next_id(&self) -> Result<u64> {
        let query = "SELECT coalesce(max(rowid), 0) FROM tar";
        self.connection.query_row(query, [], |row| row.get(0).map(from_sql_int)).map_err(|e| self.error(e))
    }

    /// What is more than the id of any directory or link.
    ///
    /// # Errors
    /// SQLite fails.
    pub(super) fn next_node_id(&self) -> Result<u64> {
        let query = "SELECT coalesce(max(id) + 1, 0) FROM tarlike_node";
        self.connection.query_row(query, [], |row| row.get(0).map(from_sql_int)).map_err(|e| self.error(e))
    }

    /// What the rows come to, of an index that is complete. One that does not say so, or that an
    /// earlier version has changed, has its rows counted.
    pub(super) fn counts(&self) -> Result<Counts> {
        let digest = self.digest()?;
        if let Some(counts) = self.meta(&meta::COUNTS)?.filter(|counts| counts.digest == digest) {
            return Ok(counts);
        }
        let query = "SELECT count(*), (SELECT count(*) FROM tarlike_node), coalesce(sum(size), 0) FROM tar";
        self.connection
            .query_row(query, [], |row| {
                let number = |column| row.get(column).map(from_sql_int);
                Ok(Counts { digest, files: number(0)?, nodes: number(1)?, content_bytes: number(2)? })
            })
            .map_err(|e| self.error(e))
    }

    /// The bytes of all files together.
    ///
    /// # Errors
    /// SQLite fails, or the index has no digest.
    pub fn content_bytes(&self) -> Result<u64> {
        if self.is_ours() {
            return Ok(self.counts()?.content_bytes);
        }
        let query = "SELECT coalesce(sum(size), 0) FROM tar";
        self.connection.query_row(query, [], |row| row.get(0).map(from_sql_int)).map_err(|e| self.error(e))
    }

    /// How many files with a content have nothing by which it could be proven.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn unprovable(&self) -> Result<u64> {
        if !self.kind.beside().md5_is_optional {
            return Ok(0);
        }
        let query = "SELECT count(*) FROM tar WHERE hash IS NULL AND size > 0";
        self.connection.query_row(query, [], |row| row.get(0).map(from_sql_int)).map_err(|e| self.error(e))
    }

    /// How many files have a BLAKE3 and no md5, so that the original program cannot verify them.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn without_md5(&self) -> Result<u64> {
        let query = "SELECT count(*) FROM tar WHERE length(hash) > 32";
        self.connection.query_row(query, [], |row| row.get(0).map(from_sql_int)).map_err(|e| self.error(e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::digest::{blake3, md5};
    use crate::archive::entry::{FileEntry, Node, NodeKind};
    use crate::archive::path::EntryPath;
    use crate::db::index_write::IndexWriter;
    use std::path::Path;

    fn write(target: &Path) {
        let mut writer = IndexWriter::create(target).unwrap();
        for name in ["a", "bc"] {
            writer
                .file(&FileEntry {
                    id: writer.files(),
                    path: EntryPath::new(name.as_bytes()).unwrap(),
                    size: name.len() as u64,
                    offset: writer.total_bytes(),
                    fragmented: false,
                    md5: Some(md5(name.as_bytes())),
                    blake3: Some(blake3(name.as_bytes())),
                    meta: None,
                    origin: None,
                    object: None,
                })
                .unwrap();
        }
        let path = EntryPath::new(*b"d").unwrap();
        writer.node(&Node { kind: NodeKind::Dir, path, target: Box::default(), meta: None }).unwrap();
        writer.finish(b"/base", 1, 7).unwrap();
    }

    #[test]
    fn rows_are_counted_only_where_the_index_does_not_say_what_they_come_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("i");
        write(&path);
        let counts = || {
            let reader = IndexReader::open(&path).unwrap();
            let summary = reader.summary().unwrap();
            (summary.files, summary.nodes, reader.content_bytes().unwrap())
        };
        let set = |value: &str| {
            let connection = rusqlite::Connection::open(&path).unwrap();
            let query = "UPDATE tarlike_meta SET value=replace(value, ?1, ?2) WHERE key='counts'";
            let (old, new) = value.split_once('>').unwrap();
            assert_eq!(connection.execute(query, [old, new]).unwrap(), 1);
        };
        assert_eq!(counts(), (2, 1, 3));
        set(" 2 1 3> 7 8 9");
        assert_eq!(counts(), (7, 8, 9));
        // An earlier version has made another generation: its digest is another one.
        let digest = IndexReader::open(&path).unwrap().digest().unwrap();
        set(&format!("{digest} >{} ", "0".repeat(64)));
        assert_eq!(counts(), (2, 1, 3));
        // An earlier version has made the index.
        let connection = rusqlite::Connection::open(&path).unwrap();
        assert_eq!(connection.execute("DELETE FROM tarlike_meta WHERE key='counts'", []).unwrap(), 1);
        assert_eq!(counts(), (2, 1, 3));
    }
}
