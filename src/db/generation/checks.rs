//! What has to be true of the paths and places that a change touches. The rest of the index was
//! checked when it came.

use super::super::index_rows::is_leaf;
use super::super::{from_sql_int, sql_int};
use super::editor::Editor;
use super::tombstones::TOMBSTONE_IDS;
use crate::archive::entry::FileEntry;
use crate::archive::path::printable;
use crate::error::Result;
use rusqlite::types::{Value, ValueRef};
use rusqlite::{OptionalExtension, params};

fn bytes_of(value: ValueRef<'_>) -> &[u8] {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes,
        _ => &[],
    }
}

impl Editor {
    /// Files do not overlap, and ascend with their ids.
    pub(super) fn check_place(&self, file: &FileEntry) -> Result<()> {
        if sql_int(file.id) >= TOMBSTONE_IDS {
            return Err(self.refused(format!("{} is no id of a file", file.id)));
        }
        let edge = |query: &str| -> Result<Option<u64>> {
            self.connection
                .prepare_cached(query)
                .and_then(|mut statement| {
                    statement.query_row([sql_int(file.id) + 1], |row| row.get(0).map(from_sql_int)).optional()
                })
                .map_err(|e| self.error(e))
        };
        if edge("SELECT id FROM tar WHERE rowid = ?")?.is_some() {
            return Err(self.refused(format!("file {} comes twice", file.id)));
        }
        let before = edge("SELECT offset_end + 1 FROM tar WHERE rowid < ? ORDER BY rowid DESC LIMIT 1")?;
        let behind = edge("SELECT offset FROM tar WHERE rowid > ? ORDER BY rowid LIMIT 1")?;
        let end = file.range().end;
        if before.is_some_and(|before| before > file.offset) || behind.is_some_and(|behind| behind < end) {
            return Err(self.refused(format!(
                "file {} \"{}\" overlaps its neighbours in the archive",
                file.id, file.path
            )));
        }
        Ok(())
    }

    /// No path comes twice, nothing lies in what is no folder, and every hard link is one of a
    /// file.
    pub(super) fn check_paths(&self) -> Result<()> {
        let wrong = |path: &[u8], why: &str| Err(self.refused(format!("\"{}\" {why}", printable(path))));
        let first = |query: &str| -> Result<Option<Vec<u8>>> {
            self.connection
                .query_row(query, [], |row| Ok(bytes_of(row.get_ref(0)?).to_vec()))
                .optional()
                .map_err(|e| self.error(e))
        };
        let twice = "SELECT path FROM dirty_path t WHERE (SELECT count(*) FROM tar WHERE tar.path = t.path)
                     + (SELECT count(*) FROM tarlike_node n WHERE n.path = t.path) > 1 LIMIT 1";
        if let Some(path) = first(twice)? {
            return wrong(&path, "comes twice");
        }
        let lost = "SELECT path FROM tarlike_node n WHERE kind = 'h'
                    AND NOT EXISTS(SELECT 1 FROM tar WHERE tar.path = n.target) LIMIT 1";
        if let Some(path) = first(lost)? {
            return wrong(&path, "is a hard link to no file of it");
        }
        let mut statement =
            self.connection.prepare("SELECT path, kind FROM dirty_path").map_err(|e| self.error(e))?;
        let mut rows = statement.query([]).map_err(|e| self.error(e))?;
        let mut checked: Vec<u8> = Vec::new();
        while let Some(row) = rows.next().map_err(|e| self.error(e))? {
            let path = bytes_of(row.get_ref(0).map_err(|e| self.error(e))?).to_vec();
            let kind: String = row.get(1).map_err(|e| self.error(e))?;
            if kind != "d" && self.has_contents(&path)? {
                return wrong(&path, "is no folder, and yet has contents");
            }
            let parent = path.iter().rposition(|&byte| byte == b'/').map_or(0, |end| end);
            if path[..parent] == checked[..] {
                continue;
            }
            for end in (0..=parent).filter(|&end| end == parent || path[end] == b'/') {
                if end > 0 && is_leaf(&self.connection, &path[..end]).map_err(|e| self.error(e))? {
                    return wrong(&path, "lies in what is no folder");
                }
            }
            checked = path[..parent].to_vec();
        }
        Ok(())
    }

    /// Whether anything lies below `path`.
    fn has_contents(&self, path: &[u8]) -> Result<bool> {
        let (mut from, mut to) = (path.to_vec(), path.to_vec());
        from.push(b'/');
        to.push(b'/' + 1);
        // What is no UTF-8 is stored as a blob, and blobs stand behind all text.
        let as_text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok().map(Value::Text);
        let kinds = [as_text(&from).zip(as_text(&to)), Some((Value::Blob(from), Value::Blob(to)))];
        for (from, to) in kinds.into_iter().flatten() {
            let found = self
                .connection
                .prepare_cached(
                    "SELECT EXISTS(SELECT 1 FROM tar WHERE path >= ?1 AND path < ?2)
                     OR EXISTS(SELECT 1 FROM tarlike_node WHERE path >= ?1 AND path < ?2)",
                )
                .and_then(|mut statement| statement.query_row(params![from, to], |row| row.get::<_, bool>(0)))
                .map_err(|e| self.error(e))?;
            if found {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
