//! Handing over: one of several receivers on a folder publishes files, and the first one, which has
//! the journal of the whole archive, takes them over.
//!
//! What a receiver hands over is a file in its own folder on the shared file system, written and
//! synced when everything that it names is on stable storage (FORMAT.md 9). The first receiver
//! journals what it has seen in place, and only then renames that file, which says that it is taken.
//! Then the other one forgets what it had published: from there on, the first one's journal alone
//! says whether a file is in place. A crash before the rename has the same files taken over once
//! more, and one after it leaves the name for the next start.

use super::super::archive::Archive;
use super::super::archive::gate::Shared;
use super::super::archive::progress::Invalid;
use super::super::context::Context;
use crate::archive::digest::{IndexDigest, blake3};
use crate::archive::protocol::{format_runs, parse_ids};
use crate::archive::ranges::RangeSet;
use crate::archive::slice::FOLDER_PREFIX;
use crate::error::{Error, Result};
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The folder below that of a slice.
const FOLDER: &str = "handover";
/// What follows the name of one that was taken over.
const TAKEN: &str = ".taken";
/// Its first line.
const HEAD: &str = "tar-like handover 1";
/// How many digits of the digest of its text its name has.
const NAME_DIGITS: usize = 16;

/// Files that a receiver has published and hands over.
pub(crate) struct Handover {
    path: PathBuf,
    /// The index that the ids are of.
    pub(crate) index: IndexDigest,
    pub(crate) ids: RangeSet,
    /// Its slice is of another number of slices than there are now, so no other one will come.
    pub(crate) is_former: bool,
}

impl Handover {
    /// Those of archive `tar_id` in the folder `folder` of a slice; `taken` says which ones.
    fn list(folder: &Path, tar_id: u64, taken: bool) -> Result<Vec<Self>> {
        let (folder, prefix) = (folder.join(FOLDER), format!("{tar_id}."));
        let failed = |e| Error::io(format!("cannot read {}", folder.display()), e);
        let entries = match std::fs::read_dir(&folder) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(failed)?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().into_string().unwrap_or_default();
            let Some(rest) = name.strip_prefix(&prefix) else { continue };
            let rest = match (rest.strip_suffix(TAKEN), taken) {
                (Some(rest), true) => rest,
                (None, false) => rest,
                _ => continue,
            };
            let index = rest
                .split_once('.')
                .and_then(|(index, hash)| (hash.len() == NAME_DIGITS).then_some(index)?.parse().ok());
            // One that is just being written has another name.
            let Some(index) = index else { continue };
            match std::fs::read_to_string(entry.path()) {
                Ok(text) => match ids_of(&text) {
                    Some(ids) => {
                        let (path, is_former) = (entry.path(), false);
                        found.push(Self { path, index, ids, is_former });
                    }
                    None => tracing::warn!("{} is damaged, and is not read", entry.path().display()),
                },
                // The other receiver has taken it, or has written a later one.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(failed(e)),
            }
        }
        Ok(found)
    }

    /// Says that everything in it is taken over, and in the journal.
    pub(crate) fn set_taken(&self) -> Result<()> {
        let mut name = self.path.clone().into_os_string();
        name.push(TAKEN);
        match std::fs::rename(&self.path, name) {
            // Its receiver has written a later one that has the same files, too.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(|e| Error::io(format!("cannot rename {}", self.path.display()), e)),
        }
    }
}

fn ids_of(text: &str) -> Option<RangeSet> {
    let mut lines = text.lines();
    let (head, ids, digest) = (lines.next()?, lines.next()?, lines.next()?);
    (head == HEAD && digest == blake3(ids.as_bytes()).to_string()).then(|| parse_ids(ids)).flatten()
}

/// Those of archive `tar_id` that were not taken over, of all slices of the folder, however many
/// slices there were when they were written.
///
/// # Errors
/// The system's error.
pub(crate) fn offered(context: &Context, tar_id: u64) -> Result<Vec<Handover>> {
    let state = context.sink.state_path();
    let failed = |e| Error::io(format!("cannot read {}", context.sink.state_name().display()), e);
    let mut found = Vec::new();
    let count = context.options.slice.map_or(1, |options| options.slice.count());
    let of_now = format!("-of-{count}");
    for entry in std::fs::read_dir(&state).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().into_string().unwrap_or_default();
        if name.starts_with(FOLDER_PREFIX) {
            let is_former = !name.ends_with(&of_now);
            let list = Handover::list(&entry.path(), tar_id, false)?;
            found.extend(list.into_iter().map(|handover| Handover { is_former, ..handover }));
        }
    }
    Ok(found)
}

/// How often a receiver hands over what is new, unless it is told to: a sender may end at any time,
/// and the next one has another index.
const INTERVAL: Duration = Duration::from_secs(2);

/// Starts the thread that hands over what is published, as long as the context lives.
///
/// # Errors
/// It cannot be started.
pub(crate) fn start(context: &Arc<Context>) -> Result<()> {
    let theirs = Arc::downgrade(context);
    let work = move || {
        loop {
            std::thread::sleep(INTERVAL);
            let Some(context) = theirs.upgrade() else { return };
            for archive in context.archives.all() {
                // What hinders it, the next request meets, too.
                if let Err(e) = hand_over(&context, &archive) {
                    tracing::debug!("{e}");
                }
            }
        }
    };
    std::thread::Builder::new().name("handover".into()).spawn(work).map(drop).map_err(Error::thread)
}

/// Hands over what is published of `archive`, if that is other than before.
///
/// # Errors
/// Storage fails.
pub(crate) fn hand_over(context: &Context, archive: &Archive) -> Result<()> {
    let mut handed_over = archive.handed_over.lock();
    let mark = context.committer.mark();
    let published = archive.progress.published();
    if *handed_over == published {
        return Ok(());
    }
    // A file is published before its name is on stable storage.
    context.committer.flush(mark)?;
    if published.covered() > 0 {
        write(context, archive, &published)?;
    }
    *handed_over = published;
    Ok(())
}

fn write(context: &Context, archive: &Archive, published: &RangeSet) -> Result<()> {
    let ids = format_runs(published);
    let digest = blake3(ids.as_bytes()).to_string();
    let folder = context.sink.state_path().join(FOLDER);
    let prefix = format!("{}.", archive.tar_id);
    let name = format!("{prefix}{}.{}", archive.progress.head().digest, &digest[..NAME_DIGITS]);
    let put = || -> std::io::Result<()> {
        std::fs::create_dir_all(&folder)?;
        // Another archive may be handed over at the same time.
        let written = folder.join(format!("written-{}", archive.tar_id));
        let mut file = std::fs::File::create(&written)?;
        writeln!(file, "{HEAD}\n{ids}\n{digest}")?;
        file.sync_all()?;
        std::fs::rename(&written, folder.join(&name))?;
        // What it says is said by the last one alone.
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            let other = entry.file_name().into_string().unwrap_or_default();
            if other.starts_with(&prefix) && other != name && !other.ends_with(TAKEN) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
        std::fs::File::open(&folder)?.sync_all()
    };
    put().map_err(|e| Error::io("cannot hand over what is published", e))
}

/// Forgets what the first receiver has taken over of `archive`.
///
/// # Errors
/// The journal cannot be written, or the system's error.
pub(crate) fn forget_taken(context: &Context, archive: &Archive, shared: &Shared<'_>) -> Result<()> {
    // No thread may hand over what is about to be forgotten.
    let mut handed_over = archive.handed_over.lock();
    for taken in Handover::list(&context.sink.state_path(), archive.tar_id, true)? {
        let published = archive.progress.published();
        let is_other = archive.is_whole && taken.index != archive.progress.head().digest;
        // Ids of another whole index mean other files here.
        let ids: RangeSet = match is_other {
            true => published,
            false => taken.ids.iter().flat_map(|ids| published.common(ids)).collect(),
        };
        forget(context, archive, shared, ids)?;
        // The same files may be published once more.
        *handed_over = RangeSet::default();
        std::fs::remove_file(&taken.path)
            .map_err(|e| Error::io(format!("cannot remove {}", taken.path.display()), e))?;
    }
    Ok(())
}

fn forget(context: &Context, archive: &Archive, shared: &Shared<'_>, files: RangeSet) -> Result<()> {
    let mut bytes = RangeSet::default();
    archive.with_index(|index| {
        index.files_of(&files, |file| {
            bytes.insert(file.range());
            Ok(ControlFlow::Continue(()))
        })
    })?;
    let start = bytes.iter().next().map_or(0, |range| range.start);
    let end = bytes.iter().last().map_or(0, |range| range.end);
    let claim = shared.claim(start..end);
    let sharing = RangeSet::default();
    archive.progress.invalidate(&context.committer, &Invalid { bytes, files, sharing }, &claim)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::digest::Digest;

    /// The format stays: an earlier version may have written it.
    #[test]
    fn what_was_written_is_read_for_ever() {
        let whole = "tar-like handover 1\n0-4,7,9-10\n\
                     ee90066393dd84b6d29293e1c6f48f6b1904a43bd7cde35bead465a3f6566eff\n";
        assert_eq!(ids_of(whole), Some([0..5, 7..8, 9..11].into_iter().collect()));
        for bad in ["", HEAD, &whole[..whole.len() - 2], &whole.replace("9-10", "9-11"), &whole[1..]] {
            assert_eq!(ids_of(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_damaged_or_of_others_is_passed_over() {
        let slice = tempfile::tempdir().unwrap();
        let index: IndexDigest = Digest::from([7; 32]);
        let (folder, digest) = (slice.path().join(FOLDER), blake3(b"1-3").to_string());
        assert!(Handover::list(slice.path(), 5, false).unwrap().is_empty());
        std::fs::create_dir(&folder).unwrap();
        let good = format!("{HEAD}\n1-3\n{digest}\n");
        let name = |tar_id: u64| format!("{tar_id}.{index}.{}", &digest[..NAME_DIGITS]);
        for (name, text) in [
            (name(5), &*good),
            (name(55), &*good),
            ("written-5".to_string(), &*good),
            (format!("{}{TAKEN}", name(5)), &*good),
            (format!("5.{index}.0123456789abcdef"), "cut"),
            (format!("5.{index}.short"), &*good),
            ("5.nodigest.0123456789abcdef".to_string(), &*good),
        ] {
            std::fs::write(folder.join(name), text).unwrap();
        }
        for taken in [false, true] {
            let found = Handover::list(slice.path(), 5, taken).unwrap();
            assert_eq!(found.len(), 1, "{taken}");
            assert_eq!((found[0].index, found[0].ids.covered()), (index, 3));
        }
        let found = Handover::list(slice.path(), 5, false).unwrap();
        found[0].set_taken().unwrap();
        // Its receiver has removed it meanwhile.
        found[0].set_taken().unwrap();
        assert!(Handover::list(slice.path(), 5, false).unwrap().is_empty());
    }
}
