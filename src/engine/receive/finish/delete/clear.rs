//! Folders that stand where files or links of the index belong: emptied for them, if all that is in
//! them may go.

use super::super::super::files::verify::verify_now;
use super::Deletion;
use super::form::{Form, form_of};
use super::live::Live;
use super::others::DeletionCandidate;
use super::remover::Remover;
use crate::archive::entry::FileEntry;
use crate::archive::path::EntryPath;
use crate::archive::protocol::{FAILED_NAMES, FailedFile};
use crate::archive::ranges::RangeSet;
use crate::db::index_read::Row;
use crate::error::Result;
use crate::folder::is_kind;
use crate::sink::Scratch;
use crate::sink::disk::FolderCache;
use rustix::fs::{FileType, Stat};
use std::collections::BTreeSet;
use std::ops::ControlFlow;

impl Deletion<'_> {
    /// Empties folders that stand where files or links of the index belong, if these are staged and
    /// verified, and puts the files there. Those of the ids `waiting` are so at other receivers,
    /// which put them there the next time that they finish. `others` says whether what no block
    /// brings is made in this run.
    pub(crate) fn clear_the_way(&mut self, waiting: &RangeSet, others: bool) -> Result<()> {
        let replacements = std::mem::take(&mut self.replacements);
        let mut live = None;
        if self.folds && !replacements.is_empty() {
            live = Some(self.learn_live(|path, _| is_below_any(path, &replacements))?);
        }
        for path in replacements {
            if !self.context.sink.is_folder(&path, &mut FolderCache::default()) {
                continue;
            }
            let file = self.archive.with_index(|index| index.file_at(&path))?.filter(|file| file.size > 0);
            let waits = file.as_ref().is_some_and(|file| waiting.contains(file.id..file.id + 1));
            let ready = match &file {
                Some(file) => waits || self.is_staged(file)?,
                None => others && self.can_be_made(&path)?,
            };
            if !ready {
                continue;
            }
            let Some(why) = self.clear(&path, &mut live)? else {
                if let Some(file) = file.as_ref().filter(|_| !waits) {
                    verify_now(self.context, self.archive, file)?;
                }
                continue;
            };
            match &file {
                // Another receiver has it, and may put it in place without this one.
                Some(file) if waits => {
                    let (id, path, reason) = (Some(file.id), path.to_string(), why.clone());
                    self.deleted.failed.add(FailedFile { id, path, reason });
                }
                Some(file) => self.archive.progress.fail(file.id, &path, &why),
                None => {}
            }
            if self.deleted.in_the_way.len() < FAILED_NAMES {
                self.deleted.in_the_way.insert(path.to_string(), why);
            }
        }
        Ok(())
    }

    /// Whether all of a file is here and only its name is missing. It was verified: what is not as
    /// the index says is taken back.
    fn is_staged(&self, file: &FileEntry) -> Result<bool> {
        let progress = &self.archive.progress;
        let waits = !progress.is_published(file.id) && !progress.is_awaiting_digests(file.id);
        let is_durable = waits && progress.are_durable(&self.archive.pieces_of(file)?);
        Ok(is_durable && self.archive.staging.open(file.id)?.is_some())
    }

    /// Whether an empty file or a link can be made when its place is free.
    fn can_be_made(&self, path: &EntryPath) -> Result<bool> {
        self.archive.with_index(|index| {
            let Some(target) = index.hardlink_at(path)? else { return Ok(true) };
            // An empty file is made in the same run, before the links.
            let file = index.file_at(&target)?;
            Ok(file.is_some_and(|file| file.size == 0 || self.archive.progress.is_published(file.id)))
        })
    }

    /// Empties the folder `path`, or says why it stays as it is.
    fn clear(&mut self, path: &EntryPath, live: &mut Option<Live>) -> Result<Option<String>> {
        let mut inside = Vec::new();
        if let Some(why) = self.survey(path, live, &mut inside)? {
            return Ok(Some(format!("a folder stands in its place, and {why}")));
        }
        if let Some(count) = self.deleted.too_many.filter(|_| !inside.is_empty()) {
            self.deleted.blocked += 1;
            return Ok(Some(format!(
                "a folder stands in its place, and {count} entries would have to be deleted, more than --max-delete allows"
            )));
        }
        let Some(places) = &self.places else { return Ok(None) };
        let (mut deleted, sink) = (std::mem::take(&mut self.deleted), &self.context.sink);
        let mut remover = Remover::new(self.context, self.archive, places);
        // A folder was found before what is in it.
        let outcome = inside.iter().rev().try_for_each(|path| {
            let Some(stat) = sink.stat(path, &mut FolderCache::default())? else { return Ok(()) };
            self.known(path, &stat, |form| remover.remove(&mut deleted, path, &form)).map(drop)
        });
        drop(remover);
        self.deleted = deleted;
        outcome.map(|()| None)
    }

    /// Finds what is in the folder `path`; says why it must stay, if there is anything that must.
    fn survey(
        &self,
        path: &EntryPath,
        live: &mut Option<Live>,
        inside: &mut Vec<EntryPath>,
    ) -> Result<Option<String>> {
        let sink = &self.context.sink;
        let stranger =
            |path: &EntryPath| Some(format!("\"{path}\" in it is not of this archive; move it away"));
        let mut folders = vec![path.clone()];
        while let Some(folder) = folders.pop() {
            for name in sink.names_in(&folder)? {
                let mut bytes = folder.as_bytes().to_vec();
                bytes.push(b'/');
                bytes.extend(name);
                let Ok(path) = EntryPath::new(bytes) else { return Ok(stranger(&folder)) };
                let Some(stat) = sink.stat(&path, &mut FolderCache::default())? else { continue };
                if self.spared.has(&path, is_kind(&stat, FileType::Directory)) {
                    return Ok(Some(format!("\"{path}\" in it is left alone: the source may still have it")));
                }
                let mut is_folder = false;
                let is_known = self.known(&path, &stat, |form| {
                    is_folder = matches!(form, Form::Folder);
                    Ok(())
                })?;
                if !is_known {
                    return Ok(stranger(&path));
                }
                if let Some(live) = live
                    && !live.is_free(sink, &path, &stat)?
                {
                    return Ok(Some(format!("\"{path}\" in it is something else's under another name")));
                }
                if is_folder {
                    folders.push(path.clone());
                }
                inside.push(path);
                if inside.len() as u64 > self.most {
                    // More than may go, whatever else there is.
                    return Ok(None);
                }
            }
        }
        Ok(None)
    }

    /// Whether a previous generation of this archive put there what `path` is now, by its `stat`.
    /// If so, `then` is told what it is, while no other archive puts anything in place.
    fn known(
        &self,
        path: &EntryPath,
        stat: &Stat,
        mut then: impl FnMut(Form<'_>) -> Result<()>,
    ) -> Result<bool> {
        let is_dir = is_kind(stat, FileType::Directory);
        let Some(since) = self.since.filter(|_| !self.spared.has(path, is_dir)) else { return Ok(false) };
        let mut rows = Vec::new();
        self.archive.with_index(|index| {
            index.file_tombstones_at(path, since, |file| {
                rows.push(Row::File(file));
                Ok(ControlFlow::Continue(()))
            })?;
            rows.extend(index.node_tombstone_at(path, since)?.map(Row::Node));
            Ok(())
        })?;
        let mut found = false;
        for row in rows {
            if form_of(self.context, self.archive, &row, stat, &mut Scratch::default())?.is_none() {
                continue;
            }
            let mut page = vec![DeletionCandidate { row, stat: *stat, has_our_content: false }];
            self.turn(&mut page, &mut |_, _, form| {
                found = true;
                then(form)
            })?;
            if found {
                break;
            }
        }
        Ok(found)
    }
}

fn is_below_any(path: &EntryPath, above: &BTreeSet<EntryPath>) -> bool {
    let path = path.as_bytes();
    let mut ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| end);
    ends.any(|end| EntryPath::new(&path[..end]).is_ok_and(|path| above.contains(&path)))
}
