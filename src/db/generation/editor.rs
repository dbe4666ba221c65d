//! An index that is being changed: rows go, come and change, with what is needed to take each
//! change back.

use super::super::file::open_private;
use super::super::index_read::{Side, WALK_ORDER, read_extents};
use super::super::index_rows::{Beside, FileRead, Kind, first_of, read_files, read_nodes};
use super::super::index_write::{insert_file, insert_node, meta_columns};
use super::super::meta::{self, Key, Md5s};
use super::super::{belonging, db_error, from_sql_int, index_state, schema, scratch, sql_int, text_or_blob};
use super::tombstones::{Placed, add_node_tombstones, drop_unplaced, next_id};
use crate::archive::change::ChangeEnd;
use crate::archive::entry::{FileEntry, Meta, Node, Origin};
use crate::archive::extent::Extent;
use crate::archive::index_digest::IndexDigester;
use crate::archive::path::EntryPath;
use crate::archive::skipped::SkippedList;
use crate::error::{Error, ErrorKind, Result};
use rusqlite::{Connection, OptionalExtension, params};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// A private copy of an index, open for changes.
pub(super) struct Editor {
    pub(super) connection: Connection,
    /// The index, for messages.
    name: PathBuf,
    /// What was put in place and is removed gets a tombstone, with this generation.
    tombstones: Option<(u64, Placed)>,
    has_objects: bool,
}

impl Editor {
    /// Opens the copy at `path`, which only the caller uses. With `tombstones`, what was put in
    /// place and is removed gets a tombstone, with that generation.
    pub(super) fn open(path: &Path, name: &Path, tombstones: Option<(u64, &Placed)>) -> Result<Self> {
        let connection = open_private(path)
            .map_err(|e| db_error(format!("cannot write the index {}", name.display()), e))?;
        let own = tombstones.map(|(died, placed)| (died, placed.clone()));
        let mut editor = Self { connection, name: name.to_path_buf(), tombstones: own, has_objects: false };
        let run = || -> rusqlite::Result<bool> {
            // Rows are found by paths and digests, all over the file.
            editor.connection.execute_batch("PRAGMA cache_size=-16000; BEGIN;")?;
            editor.connection.execute_batch(schema::EXTENT)?;
            editor.connection.execute_batch(schema::PATH_INDEXES)?;
            scratch::table(&editor.connection, "dirty_path", "(path, kind TEXT NOT NULL)")?;
            if let Some((_, placed)) = tombstones {
                // An index that came as a log is one no more: what it grew by means nothing for the
                // next generation.
                editor.connection.execute_batch(schema::NO_LOG)?;
                meta::STREAM.remove(&editor.connection)?;
                editor.connection.execute_batch(schema::TOMBSTONE)?;
                drop_unplaced(&editor.connection, placed)?;
                add_node_tombstones(&editor.connection, "main", placed)?;
            }
            schema::has_table(&editor.connection, "main", "tarlike_object")
        };
        editor.has_objects = run().map_err(|e| editor.error(e))?;
        Ok(editor)
    }

    pub(super) fn error(&self, error: rusqlite::Error) -> Error {
        db_error(format!("cannot write the index {}", self.name.display()), error)
    }

    pub(super) fn refused(&self, why: impl std::fmt::Display) -> Error {
        Error::new(ErrorKind::BadIndex, format!("the change of the index is refused: {why}"))
    }

    pub(super) fn read(&self) -> FileRead<'_> {
        let beside = Beside { md5_is_optional: true, objects: self.has_objects, chunk_maps: false };
        FileRead { kind: Kind::Fragmented(beside), name: &self.name }
    }

    /// A file with its extents.
    pub(super) fn file(&self, id: u64) -> Result<Option<(FileEntry, Vec<Extent>)>> {
        let Some(file) = Side::Live.file(&self.connection, self.read(), id)? else { return Ok(None) };
        let extents = read_extents(Side::Live, &self.connection, self.read(), &file)?;
        Ok(Some((file, extents)))
    }

    /// Takes a file out, and gives it.
    pub(super) fn remove_file(&self, id: u64) -> Result<(FileEntry, Vec<Extent>)> {
        let (file, extents) = self.file(id)?.ok_or_else(|| self.refused(format!("there is no file {id}")))?;
        let run = || -> rusqlite::Result<()> {
            let row = sql_int(id);
            if let Some((died, _)) = self.placed_file(id) {
                self.connection
                    .prepare_cached(
                        "INSERT OR REPLACE INTO tarlike_gone SELECT tar.id, path, size, offset, offset_end, hash, blake3, mode, mtime_ns,
                         uid, gid, ?2 FROM tar LEFT JOIN tarlike_file f ON f.id = tar.id WHERE tar.rowid = ?1 + 1",
                    )?
                    .execute([row, sql_int(*died)])?;
                self.connection
                    .prepare_cached("INSERT OR REPLACE INTO tarlike_gone_extent SELECT * FROM tarlike_extent WHERE file=?")?
                    .execute([row])?;
            }
            self.connection.prepare_cached("DELETE FROM tar WHERE rowid = ? + 1")?.execute([row])?;
            self.connection.prepare_cached("DELETE FROM tarlike_file WHERE id = ?")?.execute([row])?;
            self.connection.prepare_cached("DELETE FROM tarlike_extent WHERE file = ?")?.execute([row])?;
            if self.has_objects {
                self.connection.prepare_cached("DELETE FROM tarlike_object WHERE id = ?")?.execute([row])?;
            }
            Ok(())
        };
        run().map_err(|e| self.error(e))?;
        Ok((file, extents))
    }

    /// Adds a file; the extents of a fragmented one follow by [`Editor::extent`].
    pub(super) fn add_file(&mut self, file: &FileEntry) -> Result<()> {
        self.check_place(file)?;
        let run = || -> rusqlite::Result<()> {
            if self.tombstones.is_some() {
                // It comes back. As long as it is not in place again, the previous one may be.
                let row = [sql_int(file.id)];
                let renumber = format!(
                    "UPDATE tarlike_gone SET id = {}, offset = 0, offset_end = -1 WHERE id = ?",
                    next_id()
                );
                self.connection.prepare_cached(&renumber)?.execute(row)?;
                self.connection
                    .prepare_cached("DELETE FROM tarlike_gone_extent WHERE file = ?")?
                    .execute(row)?;
            }
            insert_file(&self.connection, file, true)?;
            self.connection
                .prepare_cached("INSERT INTO dirty_path VALUES(?, 'f')")?
                .execute([text_or_blob(file.path.as_bytes())])
                .map(drop)
        };
        run().map_err(|e| self.error(e))?;
        self.set_object(file)
    }

    /// Adds the extent of file `id` that starts at `file_offset`.
    pub(super) fn extent(&self, id: u64, file_offset: u64, extent: &Extent) -> Result<()> {
        self.connection
            .prepare_cached("INSERT INTO tarlike_extent VALUES(?,?,?,?)")
            .and_then(|mut insert| {
                let values = [id, file_offset, extent.length, extent.offset].map(sql_int);
                insert.execute(values)
            })
            .map(drop)
            .map_err(|e| self.error(e))
    }

    /// The generation with which file `id` goes, if it was put in place.
    fn placed_file(&self, id: u64) -> Option<&(u64, Placed)> {
        self.tombstones.as_ref().filter(|(_, placed)| placed.files.contains(id..id + 1))
    }

    /// Sets metadata of a file and gives the previous ones.
    pub(super) fn set_meta(&mut self, id: u64, meta: Option<Meta>) -> Result<Option<Meta>> {
        let previous = Side::Live
            .file(&self.connection, self.read(), id)?
            .ok_or_else(|| self.refused(format!("there is no file {id}")))?;
        if let Some((died, _)) = self.placed_file(id) {
            // Until it has the new ones, it is known by these.
            let insert = format!(
                "INSERT INTO tarlike_gone SELECT {}, path, size, 0, -1, hash, blake3, mode, mtime_ns, uid, gid, ?2
                 FROM tar LEFT JOIN tarlike_file f ON f.id = tar.id WHERE tar.rowid = ?1 + 1",
                next_id()
            );
            self.connection
                .prepare_cached(&insert)
                .and_then(|mut insert| insert.execute([sql_int(id), sql_int(*died)]))
                .map_err(|e| self.error(e))?;
        }
        if let Some((_, placed)) = &mut self.tombstones {
            placed.files.remove(id..id + 1);
        }
        let [mode, mtime_ns, uid, gid] = meta_columns(meta);
        self.connection
            .prepare_cached(
                "INSERT INTO tarlike_file(id, mode, mtime_ns, uid, gid) VALUES(?1, ?2, ?3, ?4, ?5)
                 ON CONFLICT(id) DO UPDATE SET mode=?2, mtime_ns=?3, uid=?4, gid=?5",
            )
            .and_then(|mut update| update.execute(params![sql_int(id), mode, mtime_ns, uid, gid]))
            .map_err(|e| self.error(e))?;
        Ok(previous.meta)
    }

    /// Sets where a file was seen; that is no part of any generation.
    pub(super) fn set_origin(&self, file: &FileEntry) -> Result<()> {
        let Origin { dev, ino, ctime_ns } = match file.origin {
            Some(origin) => origin,
            None => return Ok(()),
        };
        self.connection
            .prepare_cached("UPDATE tarlike_file SET dev=?2, ino=?3, ctime_ns=?4 WHERE id=?1")
            .and_then(|mut update| {
                update.execute([sql_int(file.id), dev.cast_signed(), ino.cast_signed(), ctime_ns])
            })
            .map(drop)
            .map_err(|e| self.error(e))
    }

    /// Sets which state of an object a file is; no part of any generation either.
    pub(super) fn set_object(&mut self, file: &FileEntry) -> Result<()> {
        let Some(object) = &file.object else { return Ok(()) };
        if !self.has_objects {
            self.connection.execute_batch(schema::OBJECT).map_err(|e| self.error(e))?;
            self.has_objects = true;
        }
        self.connection
            .prepare_cached("INSERT OR REPLACE INTO tarlike_object VALUES(?,?,?,?)")
            .and_then(|mut insert| {
                insert.execute(params![sql_int(file.id), object.etag, object.version, object.modified_ns])
            })
            .map(drop)
            .map_err(|e| self.error(e))
    }

    /// The directory or link of this path.
    pub(super) fn node(&self, path: &EntryPath) -> Result<Option<Node>> {
        let path = text_or_blob(path.as_bytes());
        first_of(|each| read_nodes(&self.connection, &self.name, "WHERE path = ?", [path], each))
    }

    /// Takes a directory or link out, and gives it.
    pub(super) fn remove_node(&self, path: &EntryPath) -> Result<Node> {
        let node = self.node(path)?.ok_or_else(|| self.refused(format!("there is no \"{path}\"")))?;
        let run = || -> rusqlite::Result<()> {
            let path = text_or_blob(path.as_bytes());
            if let Some((died, _)) = &self.tombstones {
                self.connection
                    .prepare_cached("UPDATE tarlike_gone_node SET died=? WHERE path=?")?
                    .execute(params![sql_int(*died), &path])?;
            }
            self.connection.prepare_cached("DELETE FROM tarlike_node WHERE path=?")?.execute([path]).map(drop)
        };
        run().map_err(|e| self.error(e))?;
        Ok(node)
    }

    /// Adds a directory or link, or changes that of the same path, and gives the previous one.
    pub(super) fn put_node(&self, node: &Node) -> Result<Option<Node>> {
        let previous = self.node(&node.path)?;
        let run = || -> rusqlite::Result<()> {
            let path = || text_or_blob(node.path.as_bytes());
            // A directory keeps its number: what is in it has higher ones.
            let id: Option<i64> = self
                .connection
                .prepare_cached("SELECT id FROM tarlike_node WHERE path=?")?
                .query_row([path()], |row| row.get(0))
                .optional()?;
            let id = match id {
                Some(id) => {
                    self.connection.prepare_cached("DELETE FROM tarlike_node WHERE id=?")?.execute([id])?;
                    id
                }
                None => self
                    .connection
                    .prepare_cached("SELECT coalesce(max(id) + 1, 0) FROM tarlike_node")?
                    .query_row([], |row| row.get(0))?,
            };
            insert_node(&self.connection, from_sql_int(id), node)?;
            self.connection
                .prepare_cached("INSERT INTO dirty_path VALUES(?, ?)")?
                .execute(params![path(), node.kind.letter()])
                .map(drop)
        };
        run().map_err(|e| self.error(e))?;
        Ok(previous)
    }

    pub(super) fn number(&self, query: &str) -> Result<Option<u64>> {
        self.connection
            .prepare_cached(query)
            .and_then(|mut statement| statement.query_row([], |row| row.get::<_, Option<i64>>(0)))
            .map(|number| number.map(from_sql_int))
            .map_err(|e| self.error(e))
    }

    /// A number that the index says of itself; 0 if it does not.
    pub(super) fn meta(&self, key: &Key<u64>) -> Result<u64> {
        key.get(&self.connection).map(|number| number.unwrap_or(0)).map_err(|e| self.error(e))
    }

    pub(super) fn set_meta_number(&self, key: &Key<u64>, number: u64) -> Result<()> {
        key.set(&self.connection, &number).map_err(|e| self.error(e))
    }

    /// Sets what was left out of the generation `number`. Of the others, only `parent` keeps what
    /// it says: the index may go back to it.
    pub(super) fn set_skipped(&self, number: u64, parent: Option<u64>, list: &SkippedList) -> Result<()> {
        meta::prune_skipped(&self.connection, parent)
            .and_then(|()| meta::set_skipped(&self.connection, number, list))
            .map_err(|e| self.error(e))
    }

    /// Size of the archive, in bytes: the end of the last piece of any file.
    pub(super) fn total_bytes(&self) -> Result<u64> {
        // Rows of fragmented and of empty files only say where the archive ended when they were
        // made.
        let contiguous =
            self.number("SELECT max(offset_end) + 1 FROM tar WHERE offset_end >= offset")?.unwrap_or(0);
        let extents = self.number("SELECT max(offset + length) FROM tarlike_extent")?.unwrap_or(0);
        Ok(contiguous.max(extents))
    }

    /// What the index comes to as one of `format`, read from its rows: they are all there is. Also
    /// gives the bytes of all files.
    pub(super) fn end(&self, format: u8) -> Result<(ChangeEnd, u64)> {
        let total_bytes = self.total_bytes()?;
        if format == 1 && !self.is_compact(total_bytes)? {
            return Err(self.refused("its files do not follow each other without a gap"));
        }
        let mut digester = IndexDigester::of_format(format);
        let (mut files, mut nodes, mut bytes) = (0, 0, 0u64);
        read_files(&self.connection, self.read(), "ORDER BY tar.rowid", [], |file| {
            digester.file(&file);
            if file.fragmented {
                for extent in read_extents(Side::Live, &self.connection, self.read(), &file)? {
                    digester.extent(&extent);
                }
            }
            files += 1;
            bytes = bytes.saturating_add(file.size);
            Ok(ControlFlow::Continue(()))
        })?;
        // In the order of the walk: what went and came again has another number.
        let order = format!("ORDER BY {WALK_ORDER}");
        read_nodes(&self.connection, &self.name, &order, [], |node| {
            digester.node(&node);
            nodes += 1;
            Ok(ControlFlow::Continue(()))
        })?;
        Ok((ChangeEnd { format, digest: digester.finish(), files, nodes, total_bytes }, bytes))
    }

    /// Whether ids are dense and files follow each other without a gap, as in an index that was
    /// made in one go.
    fn is_compact(&self, total_bytes: u64) -> Result<bool> {
        let rows = "SELECT count(*) = coalesce(max(rowid), 0) AND coalesce(sum(size), 0) = ?
                    AND NOT EXISTS(SELECT 1 FROM tarlike_extent) FROM tar";
        self.connection.query_row(rows, [sql_int(total_bytes)], |row| row.get(0)).map_err(|e| self.error(e))
    }

    /// Numbers directories and links as a fresh index does: from 0 in the order of the walk. What
    /// went and came again has another number.
    pub(super) fn renumber_nodes(&self) -> Result<()> {
        self.connection
            .execute_batch(&format!(
                "CREATE TEMP TABLE renumbered AS SELECT kind, path, target, mode, mtime_ns, uid, gid FROM tarlike_node ORDER BY {WALK_ORDER};
                 DELETE FROM tarlike_node;
                 INSERT INTO tarlike_node SELECT rowid - 1, * FROM renumbered;
                 DROP TABLE renumbered;"
            ))
            .map_err(|e| self.error(e))
    }

    /// Writes what the index comes to, with the bytes of all files, and closes it, synced.
    pub(super) fn close(
        self,
        path: &Path,
        (end, content_bytes): (&ChangeEnd, u64),
        generation: u64,
        created_s: u64,
    ) -> Result<()> {
        let connection = &self.connection;
        let run = || -> rusqlite::Result<()> {
            // Before the next generation has its number.
            meta::end_top(connection)?;
            index_state::seal(connection, end, content_bytes, generation)?;
            let without_md5 = "SELECT EXISTS(SELECT 1 FROM tar WHERE hash IS NULL)";
            let is_optional = connection.query_row(without_md5, [], |row| row.get::<_, bool>(0))?;
            meta::HASH.set(connection, &if is_optional { Md5s::Optional } else { Md5s::All })?;
            meta::CREATED.set(connection, &created_s)?;
            meta::REWINDING.remove(connection)?;
            match &self.tombstones {
                None => belonging::name_rows(connection),
                // A receiver's own index, which no other program gets at.
                Some(_) => belonging::forget(connection),
            }
        };
        run().map_err(|e| self.error(e))?;
        index_state::close(self.connection, &self.name)?;
        index_state::sync(path, &self.name)
    }
}
