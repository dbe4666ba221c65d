//! Writing an index: one transaction into a new file that gets its name only when it is complete.

use super::belonging;
use super::file::{folder_of, open_private};
use super::index_read::check_replaceable;
use super::index_state;
use super::meta::{self, Md5s};
use super::running::RunningDigest;
use super::{db_error, schema, sql_int, text_or_blob};
use crate::archive::change::ChangeEnd;
use crate::archive::digest::{Blake3, IndexDigest, Md5};
use crate::archive::entry::{FileEntry, Meta, Node, ObjectId};
use crate::archive::index_digest::IndexDigester;
use crate::archive::log::Digests;
use crate::archive::path::PARTIAL_INFIX;
use crate::archive::skipped::SkippedList;
use crate::archive::source::SourceId;
use crate::error::{Error, ErrorKind, Result};
use rusqlite::{Connection, params};
use std::path::{Path, PathBuf};

/// What was written.
#[derive(Debug, Clone)]
pub struct Written {
    /// Names this state of the index.
    pub digest: IndexDigest,
    /// Rows of table `tar`.
    pub files: u64,
    /// Directories and links.
    pub nodes: u64,
    /// Size of the archive, in bytes.
    pub total_bytes: u64,
}

/// An index that is being written. Dropped without [`IndexWriter::finish`], it leaves nothing
/// behind.
pub struct IndexWriter {
    connection: Connection,
    partial: tempfile::TempPath,
    target: PathBuf,
    running: RunningDigest,
    written: Written,
    has_objects: bool,
    has_chunk_maps: bool,
    has_unprovable: bool,
}

/// Writes the row of a file; without its digests, which follow by [`set_digests`], unless `known`.
pub(super) fn insert_file(connection: &Connection, file: &FileEntry, known: bool) -> rusqlite::Result<()> {
    // The end is inclusive: an empty file at the very start ends at -1.
    let offset_end = sql_int(file.range().end) - 1;
    let insert = "INSERT INTO tar(rowid, id, path, size, offset, offset_end, hash) VALUES(?1 + 1, ?1, ?2, ?3, ?4, ?5, ?6)";
    connection.prepare_cached(insert)?.execute(params![
        sql_int(file.id),
        text_or_blob(file.path.as_bytes()),
        sql_int(file.size),
        sql_int(file.offset),
        offset_end,
        known.then(|| hash_column(file.md5, file.blake3)).flatten(),
    ])?;
    if file.blake3.is_some() || file.meta.is_some() || !known {
        let ([mode, mtime_ns, uid, gid], origin) = (meta_columns(file.meta), file.origin);
        connection.prepare_cached("INSERT INTO tarlike_file VALUES(?,?,?,?,?,?,?,?,?)")?.execute(params![
            sql_int(file.id),
            blake3_column(file.md5, file.blake3.as_ref()),
            mode,
            mtime_ns,
            uid,
            gid,
            // Device and inode numbers use all 64 bits: kept as the same bits, signed.
            origin.map(|o| o.dev.cast_signed()),
            origin.map(|o| o.ino.cast_signed()),
            origin.map(|o| o.ctime_ns),
        ])?;
    }
    Ok(())
}

/// The column `hash`: a content without md5 is found by its BLAKE3 instead.
pub(super) fn hash_column(md5: Option<Md5>, blake3: Option<Blake3>) -> Option<String> {
    md5.map(|md5| md5.to_string()).or_else(|| blake3.map(|blake3| blake3.to_string()))
}

/// The column `blake3`, which has what `hash` does not.
fn blake3_column(md5: Option<Md5>, blake3: Option<&Blake3>) -> Option<&[u8]> {
    blake3.filter(|_| md5.is_some()).map(|digest| &digest.as_bytes()[..])
}

/// Adds the digests of file `id`, whose row came without or with others.
pub(super) fn set_digests(connection: &Connection, id: u64, digests: &Digests) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE tar SET hash=? WHERE rowid=?")?
        .execute(params![hash_column(digests.0, Some(digests.1)), sql_int(id + 1)])?;
    connection
        .prepare_cached("UPDATE tarlike_file SET blake3=? WHERE id=?")?
        .execute(params![blake3_column(digests.0, Some(&digests.1)), sql_int(id)])?;
    Ok(())
}

/// Writes the row of a directory or link.
pub(super) fn insert_node(connection: &Connection, id: u64, node: &Node) -> rusqlite::Result<()> {
    let [mode, mtime_ns, uid, gid] = meta_columns(node.meta);
    connection
        .prepare_cached("INSERT INTO tarlike_node VALUES(?,?,?,?,?,?,?,?)")?
        .execute(params![
            sql_int(id),
            node.kind.letter(),
            text_or_blob(node.path.as_bytes()),
            text_or_blob(&node.target),
            mode,
            mtime_ns,
            uid,
            gid,
        ])
        .map(drop)
}

/// The columns mode, mtime_ns, uid and gid.
pub(super) fn meta_columns(meta: Option<Meta>) -> [Option<i64>; 4] {
    match meta {
        Some(Meta { mode, mtime_ns, uid, gid }) => {
            [Some(mode.into()), Some(mtime_ns), Some(uid.into()), Some(gid.into())]
        }
        None => [None; 4],
    }
}

/// An index that is complete and has no name yet; it goes when it is dropped.
pub struct Sealed {
    partial: tempfile::TempPath,
    target: PathBuf,
    written: Written,
}

impl IndexWriter {
    /// Starts an index that will become `target`; the partial file lies beside it.
    ///
    /// # Errors
    /// The folder of `target` cannot be written to, or `target` is a file that is no index.
    pub fn create(target: &Path) -> Result<Self> {
        check_replaceable(target)?;
        let what = || format!("cannot write the index {}", target.display());
        let mut prefix = target.file_name().unwrap_or_default().to_os_string();
        prefix.push(PARTIAL_INFIX);
        let partial = tempfile::Builder::new()
            .prefix(&prefix)
            // An index is shared like any other file: as the umask says, which applies to this
            // mode.
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666))
            .tempfile_in(folder_of(target))
            .map_err(|e| Error::io(what(), e).with_hint("does the folder exist, and may you write there?"))?
            .into_temp_path();
        let connection = open_private(&partial).map_err(|e| db_error(what(), e))?;
        connection
            .execute_batch(schema::INDEX)
            .and_then(|()| connection.execute_batch("BEGIN"))
            .map_err(|e| db_error(what(), e))?;
        let digest = IndexDigester::default().finish();
        Ok(Self {
            connection,
            partial,
            target: target.to_path_buf(),
            running: RunningDigest::default(),
            written: Written { digest, files: 0, nodes: 0, total_bytes: 0 },
            has_objects: false,
            has_chunk_maps: false,
            has_unprovable: false,
        })
    }

    /// Size of the archive so far: where the next file starts.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.written.total_bytes
    }

    /// Files so far: the id of the next one.
    #[must_use]
    pub fn files(&self) -> u64 {
        self.written.files
    }

    /// Directories and links so far.
    #[must_use]
    pub fn nodes(&self) -> u64 {
        self.written.nodes
    }

    /// The digest of everything so far.
    ///
    /// # Errors
    /// SQLite fails, or a file has no digests yet.
    pub fn digest(&mut self) -> Result<IndexDigest> {
        self.running.catch_up(&self.connection, &self.target)?;
        Ok(self.running.digest())
    }

    /// Adds the next file. Its id and offset must be the next ones.
    ///
    /// # Errors
    /// The archive would be larger than 2^63 bytes, or SQLite fails.
    pub fn file(&mut self, file: &FileEntry) -> Result<()> {
        self.add(file, true)
    }

    /// The same for a file whose digests follow by [`IndexWriter::digests`]; those of the entry
    /// mean nothing.
    ///
    /// # Errors
    /// As [`IndexWriter::file`].
    pub fn file_without_digests(&mut self, file: &FileEntry) -> Result<()> {
        self.add(file, false)
    }

    fn add(&mut self, file: &FileEntry, known: bool) -> Result<()> {
        debug_assert_eq!((file.id, file.offset), (self.written.files, self.written.total_bytes));
        let total_bytes =
            file.offset.checked_add(file.size).filter(|&total| i64::try_from(total).is_ok()).ok_or_else(
                || Error::new(ErrorKind::BadIndex, "the archive would be larger than 2^63 bytes"),
            )?;
        insert_file(&self.connection, file, known).map_err(|e| self.error(e))?;
        self.has_unprovable |= known && file.md5.is_none() && file.blake3.is_none();
        if let Some(object) = &file.object {
            self.object(file.id, object).map_err(|e| self.error(e))?;
        }
        self.running.file(file, known);
        self.written.files += 1;
        self.written.total_bytes = total_bytes;
        Ok(())
    }

    fn object(&mut self, id: u64, object: &ObjectId) -> rusqlite::Result<()> {
        if !self.has_objects {
            self.connection.execute_batch(schema::OBJECT)?;
            self.has_objects = true;
        }
        self.connection.prepare_cached("INSERT INTO tarlike_object VALUES(?,?,?,?)")?.execute(params![
            sql_int(id),
            object.etag,
            object.version,
            object.modified_ns
        ])?;
        Ok(())
    }

    /// Adds the digests of file `id`. If they are not those of a content that it had for `sure`,
    /// the next run reads it again.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn digests(&mut self, id: u64, digests: &Digests, sure: bool) -> Result<()> {
        let mut run = || -> rusqlite::Result<()> {
            set_digests(&self.connection, id, digests)?;
            self.running.digests(id, digests);
            if !sure {
                let forget = "UPDATE tarlike_file SET dev=NULL, ino=NULL, ctime_ns=NULL WHERE id=?";
                self.connection.execute(forget, [sql_int(id)])?;
                if self.has_objects {
                    let forget = "UPDATE tarlike_object SET modified_ns=NULL WHERE id=?";
                    self.connection.execute(forget, [sql_int(id)])?;
                }
            }
            Ok(())
        };
        run().map_err(|e| self.error(e))
    }

    /// Adds the chunk map of file `id` ([`crate::archive::chunk_map`]); it is no part of what the
    /// digest names.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn chunk_map(&mut self, id: u64, chunk_map: &[u8]) -> Result<()> {
        let mut run = || -> rusqlite::Result<()> {
            if !self.has_chunk_maps {
                self.connection.execute_batch(schema::CHUNK_MAP)?;
                self.has_chunk_maps = true;
            }
            let insert = "INSERT OR REPLACE INTO tarlike_sketch VALUES(?,?)";
            self.connection.prepare_cached(insert)?.execute(params![sql_int(id), chunk_map]).map(drop)
        };
        run().map_err(|e| self.error(e))
    }

    /// Adds a directory or link.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn node(&mut self, node: &Node) -> Result<()> {
        insert_node(&self.connection, self.written.nodes, node).map_err(|e| self.error(e))?;
        self.running.node(self.written.nodes, node);
        self.written.nodes += 1;
        Ok(())
    }

    /// Says what the run that made this index, of this generation, left out.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn skipped(&self, generation: u64, list: &SkippedList) -> Result<()> {
        meta::set_skipped(&self.connection, generation, list).map_err(|e| self.error(e))
    }

    /// Says which source the index is of.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn source(&self, source: &SourceId) -> Result<()> {
        meta::SOURCE.set(&self.connection, source).map_err(|e| self.error(e))
    }

    /// For tables that only one kind of index has.
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    fn error(&self, error: rusqlite::Error) -> Error {
        db_error(format!("cannot write the index {}", self.target.display()), error)
    }

    /// Seals the index, syncs it and gives it its name, replacing an older one in one step. `base`
    /// is what was indexed and
    /// `created_s` when, in seconds since 1970; both are for people.
    ///
    /// # Errors
    /// SQLite fails, the disk is full, or the rename fails.
    pub fn finish(self, base: &[u8], generation: u64, created_s: u64) -> Result<Written> {
        self.seal(base, generation, created_s)?.put_in_place()
    }

    /// The first part of [`IndexWriter::finish`]: everything but the name.
    ///
    /// # Errors
    /// SQLite fails, or the disk is full.
    pub fn seal(mut self, base: &[u8], generation: u64, created_s: u64) -> Result<Sealed> {
        self.written.digest = self.digest()?;
        let Written { digest, files, nodes, total_bytes } = self.written;
        let end = ChangeEnd { format: 1, digest, files, nodes, total_bytes };
        let run = || -> rusqlite::Result<()> {
            // Files follow each other: the archive is as long as all of them.
            index_state::seal(&self.connection, &end, total_bytes, generation)?;
            let md5s = if self.has_unprovable { Md5s::Optional } else { Md5s::All };
            meta::HASH.set(&self.connection, &md5s)?;
            meta::CREATED.set(&self.connection, &created_s)?;
            meta::BASE.set(&self.connection, &base.to_vec())?;
            // A receiver's own index says nothing of a base, and no other program gets at it.
            if !base.is_empty() {
                belonging::name_rows(&self.connection)?;
            }
            self.connection.execute_batch(schema::ALL_INDEXES)
        };
        run().map_err(|e| self.error(e))?;
        index_state::close(self.connection, &self.target)?;
        index_state::sync(&self.partial, &self.target)?;
        Ok(Sealed { partial: self.partial, target: self.target, written: self.written })
    }
}

impl Sealed {
    /// Who may read and write it, where that is not as the umask says.
    ///
    /// # Errors
    /// The system's error.
    pub fn set_permissions(&self, permissions: std::fs::Permissions) -> Result<()> {
        std::fs::set_permissions(&self.partial, permissions)
            .map_err(|e| Error::io(format!("cannot set the permissions of {}", self.target.display()), e))
    }

    /// Gives the index its name, replacing an older one in one step.
    ///
    /// # Errors
    /// The rename fails.
    pub fn put_in_place(self) -> Result<Written> {
        index_state::put_in_place(self.partial, &self.target)?;
        Ok(self.written)
    }
}
