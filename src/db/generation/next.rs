//! The next generation of an index: made beside the previous one, put in its place in one step.

use super::super::index_read::{IndexReader, Side, Summary, find_content};
use super::super::index_rows::{FileRead, first_of, read_files};
use super::super::index_write::Written;
use super::super::{index_state, meta, schema, scratch, sql_int, text_or_blob};
use super::copy::copy;
use super::editor::Editor;
use super::history::{Generation, History};
use crate::archive::change::{self, BATCH_BYTES, ChangeEnd, ChangeRecord};
use crate::archive::chunk_map::KnownPrefix;
use crate::archive::entry::{FileEntry, Node, NodeKind};
use crate::archive::extent::{Extents, Piece};
use crate::archive::path::EntryPath;
use crate::archive::skipped::SkippedList;
use crate::error::{Error, ErrorKind, Result};
use rusqlite::{OptionalExtension, params};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// A generation that is being made. Dropped without [`NextGeneration::finish`], it leaves nothing
/// behind.
pub struct NextGeneration {
    editor: Editor,
    partial: tempfile::TempPath,
    target: PathBuf,
    number: u64,
    previous: Summary,
    /// Where the next new byte goes. Never goes back, so that nothing of an abandoned generation is
    /// taken for something of this one.
    log_end: u64,
    log_start: u64,
    next_id: u64,
    changed: bool,
    change: Batches,
    undo: Batches,
}

/// Records on their way into the history.
struct Batches {
    undo: bool,
    seq: u64,
    batch: Vec<u8>,
}

impl NextGeneration {
    /// Begins the generation after that at `database`, which has to be an index of ours. It stays
    /// as it is until the new one is complete.
    ///
    /// # Errors
    /// It is no complete index, or its folder cannot be written to.
    pub fn begin(database: &Path) -> Result<Self> {
        let history = History::open(database)?;
        let previous_generation = history.active()?.clone();
        let last = history.generations().last().map_or(0, |last| last.number);
        let previous = IndexReader::open(database)?.summary()?;
        drop(history);
        let partial = copy(database)?;
        let editor = Editor::open(&partial, database, None)?;
        let total_bytes = editor.total_bytes()?;
        let log_end = editor.meta(&meta::LOG_END)?.max(total_bytes);
        let highest = editor.number("SELECT max(id) + 1 FROM tar")?.unwrap_or(0);
        let next_id = editor.meta(&meta::NEXT_ID)?.max(highest);
        if previous_generation.format == 1 {
            // Later ones come behind them.
            editor.set_meta_number(&meta::IN_ORDER, highest)?;
        }
        let number = editor.meta(&meta::LAST_GENERATION)?.max(last).saturating_add(1);
        let prepare = || -> rusqlite::Result<()> {
            for tables in [schema::HISTORY, schema::HASH_INDEX, schema::CHUNK_MAP] {
                editor.connection.execute_batch(tables)?;
            }
            scratch::table(&editor.connection, "removed_file", "(id INTEGER PRIMARY KEY)")?;
            editor
                .connection
                .execute("DELETE FROM tarlike_sketch WHERE id + 1 NOT IN (SELECT rowid FROM tar)", [])?;
            previous_generation.insert(&editor.connection)
        };
        prepare().map_err(|e| editor.error(e))?;
        let batches = |undo| Batches { undo, seq: 0, batch: Vec::new() };
        Ok(Self {
            editor,
            partial,
            target: database.to_path_buf(),
            number,
            previous,
            log_end,
            log_start: log_end,
            next_id,
            changed: false,
            change: batches(false),
            undo: batches(true),
        })
    }

    /// The id that the next file gets; those from here on are of this generation.
    #[must_use]
    pub fn next_id(&self) -> u64 {
        self.next_id
    }

    /// Whether anything was changed so far that makes it another generation.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        self.changed
    }

    /// A file with the very content of `sought`, of this generation or of the previous one.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn find_content(&self, sought: &FileEntry) -> Result<Option<FileEntry>> {
        let Some(blake3) = &sought.blake3 else { return Ok(None) };
        let connection = &self.editor.connection;
        let accept = |file: &FileEntry| file.blake3.as_ref() == Some(blake3);
        let found = find_content(connection, self.read(), sought, accept)?;
        if found.is_some() || sought.md5.is_some() {
            return Ok(found);
        }
        connection.execute_batch(schema::BLAKE3_INDEX).map_err(|e| self.editor.error(e))?;
        let values = params![&blake3.as_bytes()[..], sql_int(sought.size)];
        let tail = "WHERE f.blake3 = ? AND tar.size = ? ORDER BY tar.rowid";
        first_of(|each| read_files(connection, self.read(), tail, values, each))
    }

    fn read(&self) -> FileRead<'_> {
        self.editor.read()
    }

    /// The previous or new file of this path that has the highest id.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn file_at(&self, path: &EntryPath) -> Result<Option<FileEntry>> {
        let values = [text_or_blob(path.as_bytes())];
        let tail = "WHERE tar.path = ? ORDER BY tar.rowid DESC";
        first_of(|each| read_files(&self.editor.connection, self.read(), tail, values, each))
    }

    /// The file of which `path` was a further name in the previous generation, whose ids are below
    /// `first_new_id`.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn file_linked_at(&self, path: &EntryPath, first_new_id: u64) -> Result<Option<FileEntry>> {
        let node = self.editor.node(path)?.filter(|node| node.kind == NodeKind::Hardlink);
        let Some(target) = node.and_then(|node| EntryPath::new(node.target).ok()) else { return Ok(None) };
        // What has that name now may be here already; the row that it had stays until the end.
        let tail = "WHERE tar.path = ? AND tar.id < ? ORDER BY tar.rowid DESC";
        let values = params![text_or_blob(target.as_bytes()), sql_int(first_new_id)];
        first_of(|each| read_files(&self.editor.connection, self.read(), tail, values, each))
    }

    /// Where the content of `file` is in the archive.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn pieces_of(&self, file: &FileEntry) -> Result<Vec<Piece>> {
        let mut pieces = Vec::new();
        Side::Live.pieces_of(&self.editor.connection, self.read(), file, |piece| {
            pieces.push(piece);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(pieces)
    }

    /// The chunk map of a file ([`crate::archive::chunk_map`]), if there is one.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn chunk_map(&self, id: u64) -> Result<Option<Vec<u8>>> {
        self.editor
            .connection
            .prepare_cached("SELECT data FROM tarlike_sketch WHERE id=?")
            .and_then(|mut statement| statement.query_row([sql_int(id)], |row| row.get(0)).optional())
            .map_err(|e| self.editor.error(e))
    }

    /// Sets the chunk map of a file.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn set_chunk_map(&self, id: u64, chunk_map: &[u8]) -> Result<()> {
        self.editor
            .connection
            .prepare_cached("INSERT OR REPLACE INTO tarlike_sketch VALUES(?,?)")
            .and_then(|mut insert| insert.execute(params![sql_int(id), chunk_map]))
            .map(drop)
            .map_err(|e| self.editor.error(e))
    }

    /// The file `id` is no part of this generation. What it consists of can still be found until
    /// [`NextGeneration::finish`].
    ///
    /// # Errors
    /// SQLite fails.
    pub fn remove_file(&mut self, id: u64) -> Result<()> {
        self.changed = true;
        self.editor
            .connection
            .prepare_cached("INSERT OR IGNORE INTO removed_file VALUES(?)")
            .and_then(|mut insert| insert.execute([sql_int(id)]))
            .map(drop)
            .map_err(|e| self.editor.error(e))
    }

    /// Where new content of the file that is added next begins in the archive.
    #[must_use]
    pub fn log_end(&self) -> u64 {
        self.log_end
    }

    /// Adds a file whose content is new; gives its id.
    ///
    /// # Errors
    /// The archive would be larger than 2^63 bytes, or SQLite fails.
    pub fn add_contiguous(&mut self, file: FileEntry) -> Result<u64> {
        let file = FileEntry { id: self.next_id, offset: self.log_end, fragmented: false, ..file };
        let end = self.grown(file.size)?;
        self.add(&file, &Extents::default())?;
        self.log_end = end;
        Ok(file.id)
    }

    /// Adds a file that consists of `extents`. Those that lie behind [`NextGeneration::log_end`]
    /// are new content, and follow each other from there on without a gap. Gives its id.
    ///
    /// # Errors
    /// The archive would be larger than 2^63 bytes, or SQLite fails.
    pub fn add_fragmented(&mut self, file: FileEntry, extents: &Extents) -> Result<u64> {
        debug_assert_eq!(extents.size(), file.size);
        let end = extents.list().iter().map(|extent| extent.offset + extent.length).max();
        let grown = end.unwrap_or(0).saturating_sub(self.log_end);
        let end = self.grown(grown)?;
        let file = FileEntry { id: self.next_id, offset: self.log_end, fragmented: true, ..file };
        self.add(&file, extents)?;
        self.log_end = end;
        Ok(file.id)
    }

    /// The file that was added last, a fragmented one, begins with the whole content of the
    /// previous file `previous`, which need not be read to prove it.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn set_prefix(&mut self, previous: u64, prefix: KnownPrefix) -> Result<()> {
        self.record(false, &ChangeRecord::Prefix(previous, prefix))
    }

    fn grown(&self, by: u64) -> Result<u64> {
        self.log_end.checked_add(by).filter(|&end| i64::try_from(end).is_ok()).ok_or_else(|| {
            Error::new(ErrorKind::BadIndex, "the archive would be larger than 2^63 bytes")
                .with_hint("lay it out again with: tar-like compact")
        })
    }

    fn add(&mut self, file: &FileEntry, extents: &Extents) -> Result<()> {
        self.changed = true;
        self.editor.add_file(file)?;
        self.record(false, &ChangeRecord::AddFile(file.clone()))?;
        let mut at = 0;
        for extent in extents.list() {
            self.editor.extent(file.id, at, extent)?;
            at += extent.length;
        }
        if file.fragmented {
            self.record(false, &ChangeRecord::Extents(extents.list().to_vec()))?;
        }
        self.record(true, &ChangeRecord::RemoveFile(file.id))?;
        self.next_id += 1;
        Ok(())
    }

    /// The file has the content that it had, but metadata as `file` says.
    ///
    /// # Errors
    /// SQLite fails, or there is no such file.
    pub fn set_meta(&mut self, file: &FileEntry) -> Result<()> {
        let previous = self.editor.set_meta(file.id, file.meta)?;
        self.set_origin(file)?;
        if previous != file.meta {
            self.changed = true;
            self.record(false, &ChangeRecord::SetMeta(file.id, file.meta))?;
            self.record(true, &ChangeRecord::SetMeta(file.id, previous))?;
        }
        Ok(())
    }

    /// The file is as it was, but was seen somewhere else. That alone makes no other generation.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn set_origin(&mut self, file: &FileEntry) -> Result<()> {
        self.editor.set_origin(file)?;
        self.editor.set_object(file)
    }

    /// The directory or link of this path is no part of this generation.
    ///
    /// # Errors
    /// SQLite fails, or there is none.
    pub fn remove_node(&mut self, path: &EntryPath) -> Result<()> {
        self.changed = true;
        let node = self.editor.remove_node(path)?;
        self.record(false, &ChangeRecord::RemoveNode(path.clone()))?;
        self.record(true, &ChangeRecord::PutNode(node))
    }

    /// Adds a directory or link, or changes that of the same path. A folder comes before what is in
    /// it.
    ///
    /// # Errors
    /// SQLite fails.
    pub fn put_node(&mut self, node: &Node) -> Result<()> {
        self.changed = true;
        let undo = match self.editor.put_node(node)? {
            Some(previous) => ChangeRecord::PutNode(previous),
            None => ChangeRecord::RemoveNode(node.path.clone()),
        };
        self.record(false, &ChangeRecord::PutNode(node.clone()))?;
        self.record(true, &undo)
    }

    fn record(&mut self, undo: bool, record: &ChangeRecord) -> Result<()> {
        let batches = if undo { &mut self.undo } else { &mut self.change };
        // A long list of extents is cut into records of its own.
        if let ChangeRecord::Extents(extents) = record {
            for part in extents.chunks(4096) {
                batches.push(&self.editor, self.number, &ChangeRecord::Extents(part.to_vec()))?;
            }
            return Ok(());
        }
        batches.push(&self.editor, self.number, record)
    }

    /// Completes the generation, syncs it and puts it in the place of the previous one. `created_s`
    /// is in seconds since 1970; `skipped` is what of the source was left out.
    ///
    /// # Errors
    /// SQLite fails, the disk is full, or what was added does not fit together.
    pub fn finish(mut self, created_s: u64, skipped: &SkippedList) -> Result<Written> {
        let removed: Vec<u64> = {
            let run = || -> rusqlite::Result<Vec<u64>> {
                let mut statement =
                    self.editor.connection.prepare("SELECT id FROM removed_file ORDER BY id")?;
                statement.query_map([], |row| row.get(0).map(super::super::from_sql_int))?.collect()
            };
            run().map_err(|e| self.editor.error(e))?
        };
        for id in removed {
            let (file, extents) = self.editor.remove_file(id)?;
            self.record(false, &ChangeRecord::RemoveFile(id))?;
            let fragmented = file.fragmented;
            self.record(true, &ChangeRecord::AddFile(file))?;
            if fragmented {
                self.record(true, &ChangeRecord::Extents(extents))?;
            }
        }
        self.editor.check_paths()?;
        let previous = self.previous_generation()?;
        let (end, bytes) = self.editor.end(2)?;
        self.record(false, &ChangeRecord::End(end))?;
        self.record(true, &ChangeRecord::End(previous.end()))?;
        let Self { editor, change, undo, number, .. } = &mut self;
        change.flush(editor, *number)?;
        undo.flush(editor, *number)?;
        let line = Generation {
            number: self.number,
            parent: Some(self.previous.generation),
            format: 2,
            digest: end.digest,
            created_s,
            files: end.files,
            nodes: end.nodes,
            bytes,
            total_bytes: end.total_bytes,
            appended_bytes: self.log_end - self.log_start,
            abandoned: false,
        };
        line.insert(&self.editor.connection).map_err(|e| self.editor.error(e))?;
        self.editor.set_skipped(self.number, Some(self.previous.generation), skipped)?;
        let number = self.number;
        self.put_in_place((&end, bytes), number, created_s)
    }

    /// The previous generation stands, but for where its files were seen, and what was left out
    /// this time: puts that in place.
    ///
    /// # Errors
    /// SQLite fails, or the disk is full.
    pub fn finish_unchanged(self, created_s: u64, skipped: &SkippedList) -> Result<Written> {
        let previous = self.previous_generation()?;
        let number = self.previous.generation;
        self.editor.set_skipped(number, previous.parent, skipped)?;
        self.put_in_place((&previous.end(), previous.bytes), number, created_s)
    }

    fn previous_generation(&self) -> Result<Generation> {
        let history = History::open(&self.target)?;
        history.active().cloned()
    }

    fn put_in_place(self, (end, bytes): (&ChangeEnd, u64), number: u64, created_s: u64) -> Result<Written> {
        let Self { editor, partial, target, log_end, next_id, .. } = self;
        editor.set_meta_number(&meta::LOG_END, log_end)?;
        editor.set_meta_number(&meta::NEXT_ID, next_id)?;
        editor.close(&partial, (end, bytes), number, created_s)?;
        index_state::put_in_place(partial, &target)?;
        Ok(Written { digest: end.digest, files: end.files, nodes: end.nodes, total_bytes: end.total_bytes })
    }
}

impl Batches {
    fn push(&mut self, editor: &Editor, generation: u64, record: &ChangeRecord) -> Result<()> {
        change::push(&mut self.batch, record);
        if self.batch.len() >= BATCH_BYTES { self.flush(editor, generation) } else { Ok(()) }
    }

    fn flush(&mut self, editor: &Editor, generation: u64) -> Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        editor
            .connection
            .prepare_cached("INSERT INTO tarlike_change VALUES(?,?,?,?)")
            .and_then(|mut insert| {
                insert.execute(params![sql_int(generation), self.undo, sql_int(self.seq), self.batch])
            })
            .map_err(|e| editor.error(e))?;
        self.seq += 1;
        self.batch.clear();
        Ok(())
    }
}
