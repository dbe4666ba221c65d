//! Compaction of an index: files follow each other without a gap, and previous generations end.

use super::super::file::folder_of;
use super::super::index_read::{IndexReader, WalkRows};
use super::super::index_state::failed;
use super::super::index_write::{IndexWriter, Written};
use super::super::{schema, sql_int};
use super::history::{Generation, History};
use crate::archive::chunk_map::MIN_CHUNK_MAP_BYTES;
use crate::archive::entry::{FileEntry, Node};
use crate::error::{Error, ErrorKind, Result};
use rusqlite::params;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What a fresh layout came to.
#[derive(Debug, Clone)]
pub struct Compacted {
    /// The index as it is now.
    pub written: Written,
    /// Its generation.
    pub generation: u64,
    /// The generation before.
    pub previous: Generation,
    /// How many generations ended.
    pub dropped: u64,
    /// Bytes of the database, before and after.
    pub database_bytes: [u64; 2],
    /// The index was compact already, and nothing was done.
    pub unchanged: bool,
}

/// Lays the archive of the index at `database` out again, as the next generation, and puts it in
/// the place of the index in one step. No content is read: digests, metadata and chunk maps stay.
/// Of previous generations only number and digest are kept. `created_s` is in seconds since 1970.
///
/// # Errors
/// It is no complete index of ours, its folder cannot be written to, or the archive would be larger
/// than 2^63 bytes.
pub fn compact(database: &Path, created_s: u64) -> Result<Compacted> {
    let length = || std::fs::metadata(database).map_or(0, |meta| meta.len());
    // Through links: what replaces the index does not replace a link to it.
    let target = std::fs::canonicalize(database).unwrap_or_else(|_| database.to_path_buf());
    let history = History::open(&target)?;
    let previous = history.active()?.clone();
    if !history.is_ours() {
        let what = format!("{} was made by the original program, and has no generations", database.display());
        return Err(Error::new(ErrorKind::Usage, what).with_hint("make a new one with: tar-like index -c"));
    }
    let (before, count) = (length(), history.generations().len() as u64);
    let unchanged = previous.format == 1 && count == 1;
    let (written, generation, dropped) = if unchanged {
        let Generation { digest, files, nodes, total_bytes, number, .. } = previous;
        (Written { digest, files, nodes, total_bytes }, number, 0)
    } else {
        let generation = history.counters()?.last_generation.saturating_add(1);
        let created_s = previous.created_s.min(created_s);
        (write(&target, history, generation, created_s)?, generation, count)
    };
    let database_bytes = [before, length()];
    Ok(Compacted { written, generation, previous, dropped, database_bytes, unchanged })
}

/// Writes the compact index as `generation`, and puts it in the place of that at `target`.
fn write(target: &Path, history: History, generation: u64, created_s: u64) -> Result<Written> {
    let reader = IndexReader::open(target)?;
    let base = reader.summary()?.base.map(|base| base.as_os_str().as_bytes().to_vec()).unwrap_or_default();
    let mut writer = IndexWriter::create(target)?;
    write_rows(&reader, &mut writer)?;
    if let Some(skipped) = reader.skipped()? {
        writer.skipped(generation, &skipped)?;
    }
    if let Some(source) = reader.source_id()? {
        writer.source(&source)?;
    }
    write_former(&writer, &history).map_err(|e| failed(target, e))?;
    drop(history);
    let mode = std::fs::metadata(target).map(|meta| meta.permissions());
    let sealed = writer.seal(&base, generation, created_s)?;
    if let Ok(mode) = mode {
        sealed.set_permissions(mode)?;
    }
    let written = sealed.put_in_place()?;
    std::fs::File::open(folder_of(target)).and_then(|folder| folder.sync_all()).map_err(|e| {
        Error::io(format!("cannot bring the name {} onto stable storage", target.display()), e)
    })?;
    Ok(written)
}

/// Writes the rows of `reader` in the order of the walk.
fn write_rows(reader: &IndexReader, writer: &mut IndexWriter) -> Result<()> {
    let mut files = WalkRows::<FileEntry, _>::new(reader)?;
    while let Some((_, file)) = files.pop()? {
        let (id, offset) = (writer.files(), writer.total_bytes());
        let chunk_map = if file.size < MIN_CHUNK_MAP_BYTES { None } else { reader.chunk_map(file.id)? };
        writer.file(&FileEntry { id, offset, fragmented: false, ..file })?;
        if let Some(chunk_map) = chunk_map {
            writer.chunk_map(id, &chunk_map)?;
        }
    }
    let mut nodes = WalkRows::<Node, _>::new(reader)?;
    while let Some((_, node)) = nodes.pop()? {
        writer.node(&node)?;
    }
    Ok(())
}

/// A backup of the index is recognised by the generations that it was made of.
fn write_former(writer: &IndexWriter, history: &History) -> rusqlite::Result<()> {
    writer.connection().execute_batch(schema::FORMER)?;
    let mut insert = writer.connection().prepare("INSERT OR REPLACE INTO tarlike_former VALUES(?,?,?)")?;
    let known = history.previous().unwrap_or_default();
    let earlier = known.iter().map(|previous| (previous.number, previous.digest, previous.abandoned));
    let lines = history.generations().iter().map(|line| (line.number, line.digest, line.abandoned));
    for (number, digest, abandoned) in earlier.chain(lines) {
        insert.execute(params![sql_int(number), digest.to_string(), abandoned])?;
    }
    Ok(())
}
