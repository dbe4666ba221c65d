//! What a batch says, beside the rows that are there.

use super::differences::Differences;
use super::index::{GrowingIndex, Head, refused};
use crate::archive::entry::{FileEntry, NodeKind};
use crate::archive::log::{self, Digests, FileRow, LogRecord};
use crate::archive::path::EntryPath;
use crate::error::Result;

impl GrowingIndex {
    /// Checks what of the records of `batch` depends on what came before, and finds out where they
    /// differ from what is there.
    pub(super) fn compare(&self, batch: &[u8]) -> Result<(Differences, Head)> {
        let (mut differences, mut head) = (Differences::default(), self.head.clone());
        let mut records = log::records(batch).peekable();
        while let Some(record) = records.next() {
            match &record.map_err(refused)? {
                LogRecord::File(row) => {
                    advance(&mut head, &row.path, false)?;
                    if differences.files_from.is_none() && head.files < self.stored.0 {
                        let there = self.file(head.files)?;
                        let same = there.as_ref().is_some_and(|(file, known)| is_same(row, file, *known));
                        if !same {
                            differences.files_from = Some((head.files, head.end));
                        }
                    }
                    head.files += 1;
                    head.end = head
                        .end
                        .checked_add(row.size)
                        .filter(|&end| i64::try_from(end).is_ok())
                        .ok_or_else(|| refused("the archive would be larger than 2^63 bytes"))?;
                }
                LogRecord::Node(node) => {
                    advance(&mut head, &node.path, node.kind == NodeKind::Dir)?;
                    if differences.nodes_from.is_none()
                        && head.nodes < self.stored.1
                        && self.node(head.nodes)?.as_ref() != Some(node)
                    {
                        differences.nodes_from = Some(head.nodes);
                    }
                    head.nodes += 1;
                }
                LogRecord::Digests(id, digests) => {
                    if *id >= head.files {
                        return Err(refused(format!("digests of file {id}, which it does not have")));
                    }
                    let cut = differences.files_from.map_or(self.stored.0, |(cut, _)| cut);
                    if *id < cut
                        && let Some((file, true)) = self.file(*id)?
                        && !has_digests(&file, digests)
                    {
                        differences.files.insert(*id, file.range());
                    }
                }
                LogRecord::End(end) => {
                    if records.peek().is_some()
                        || (end.files, end.nodes, end.total_bytes) != (head.files, head.nodes, head.end)
                    {
                        return Err(refused("its end does not fit what came before"));
                    }
                    if differences.files_from.is_none() && self.stored.0 > head.files {
                        differences.files_from = Some((head.files, head.end));
                    }
                    if differences.nodes_from.is_none() && self.stored.1 > head.nodes {
                        differences.nodes_from = Some(head.nodes);
                    }
                }
            }
        }
        Ok((differences, head))
    }
}

/// Files and nodes come in one strictly ascending order: so nothing comes twice, and what lies in
/// something that is no folder is noticed at once.
fn advance(head: &mut Head, path: &EntryPath, is_folder: bool) -> Result<()> {
    let key = path.sort_key();
    if head.files + head.nodes > 0 && key <= head.last_key {
        return Err(refused(format!("\"{path}\" is not in order, or comes twice")));
    }
    let inside = key.strip_prefix(&head.last_key[..]).is_some_and(|rest| rest.first() == Some(&0));
    if inside && !head.last_is_folder {
        return Err(refused(format!("\"{path}\" lies in what is no folder")));
    }
    (head.last_key, head.last_is_folder) = (key, is_folder);
    Ok(())
}

fn has_digests(file: &FileEntry, digests: &Digests) -> bool {
    (file.md5, file.blake3) == (digests.0, Some(digests.1))
}

fn is_same(row: &FileRow, file: &FileEntry, known: bool) -> bool {
    (&row.path, row.size, row.meta) == (&file.path, file.size, file.meta)
        && row.digests.is_none_or(|digests| !known || has_digests(file, &digests))
}
