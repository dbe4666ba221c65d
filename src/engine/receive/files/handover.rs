//! Handing over: one of several receivers on a folder publishes files, and the first one, which has
//! the journal of the whole archive, takes them over.
//!
//! What a receiver hands over is a file in its own folder on the shared file system, written and
//! synced when everything that it names is on stable storage (FORMAT.md 9.3). The first receiver
//! journals what it has seen in place, and only then renames that file, which says that it is taken.
//! Then the other one forgets what it had published: from there on, the first one's journal alone
//! says whether a file is in place. A crash before the rename has the same files taken over once
//! more, and one after it leaves the name for the next start.
//!
//! A handover names files that wait as well: all of them is here, and a folder stands in their
//! place, which the first receiver alone may empty.

use super::super::archive::gate::Shared;
use super::super::archive::progress::Invalid;
use super::super::archive::{Archive, Offer, Unpublished};
use super::super::context::Context;
use crate::archive::digest::{IndexDigest, blake3};
use crate::archive::protocol::{format_runs, parse_ids};
use crate::archive::ranges::RangeSet;
use crate::archive::slice::FOLDER_PREFIX;
use crate::error::{Error, Result};
use crate::sink::disk::FolderCache;
use std::io::{ErrorKind, Write};
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

/// A handover of a slice.
pub(crate) struct Handover {
    path: PathBuf,
    /// The index that the ids are of.
    pub(crate) index: IndexDigest,
    pub(crate) offer: Offer,
    /// Its slice is of another number of slices than there are now, so no other one will come.
    pub(crate) is_former: bool,
}

/// Where a slice hands over.
struct Place {
    folder: PathBuf,
    /// The same for people.
    shown: PathBuf,
}

impl Place {
    /// That of the slice whose folder is `slice`, which people know as `shown`.
    fn of(slice: &Path, shown: &Path) -> Self {
        Self { folder: slice.join(FOLDER), shown: shown.join(FOLDER) }
    }

    /// That of this receiver.
    fn own(context: &Context) -> Self {
        Self::of(&context.sink.state_path(), context.sink.state_name())
    }

    fn failed(&self, what: &str, error: std::io::Error) -> Error {
        Error::io(format!("cannot {what} {}", self.shown.display()), error)
    }

    /// Those of archive `tar_id` that are there; `taken` says which ones.
    fn list(&self, tar_id: u64, taken: bool) -> Result<Vec<Handover>> {
        let (prefix, failed) = (format!("{tar_id}."), |e| self.failed("read", e));
        let entries = match std::fs::read_dir(&self.folder) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) if e.kind() == ErrorKind::NotADirectory => {
                tracing::warn!("{} is no folder: nothing is handed over there", self.shown.display());
                return Ok(Vec::new());
            }
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
            let shown = self.shown.join(&name);
            match read(&entry.path()) {
                Ok(Some(offer)) => {
                    found.push(Handover { path: entry.path(), index, offer, is_former: false })
                }
                Ok(None) => {
                    tracing::warn!("{} is no handover of this version, and is not read", shown.display());
                }
                // The other receiver has taken it, or has written a later one.
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(Error::io(format!("cannot read {}", shown.display()), e)),
            }
        }
        Ok(found)
    }

    /// Writes what is handed over of archive `tar_id` now, in place of what was said before.
    fn write(&self, tar_id: u64, index: &IndexDigest, offer: &Offer) -> std::io::Result<()> {
        let (text, prefix) = (text_of(offer), format!("{tar_id}."));
        let digest = blake3(text.as_bytes()).to_string();
        let name = format!("{prefix}{index}.{}", &digest[..NAME_DIGITS]);
        let is_empty = *offer == Offer::default();
        if !is_empty {
            std::fs::create_dir_all(&self.folder)?;
            // Another archive may be handed over at the same time.
            let written = self.folder.join(format!("written-{tar_id}"));
            let mut file = std::fs::File::create(&written)?;
            writeln!(file, "{text}{digest}")?;
            file.sync_all()?;
            std::fs::rename(&written, self.folder.join(&name))?;
        }
        let entries = match std::fs::read_dir(&self.folder) {
            Err(e) if is_empty && e.kind() == ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        // What it says is said by the last one alone.
        for entry in entries {
            let entry = entry?;
            let other = entry.file_name().into_string().unwrap_or_default();
            let is_stale = other.starts_with(&prefix) && !other.ends_with(TAKEN);
            if is_stale && (is_empty || other != name) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
        std::fs::File::open(&self.folder)?.sync_all()
    }
}

impl Handover {
    /// Says that everything in it is taken over, and in the journal.
    pub(crate) fn set_taken(&self) -> Result<()> {
        let mut name = self.path.clone().into_os_string();
        name.push(TAKEN);
        match std::fs::rename(&self.path, name) {
            // Its receiver has written a later one that has the same files, too.
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            Err(e) if matches!(e.kind(), ErrorKind::IsADirectory | ErrorKind::DirectoryNotEmpty) => {
                let name = self.path.file_name().unwrap_or_default().to_string_lossy();
                tracing::warn!(
                    "a folder has the name {name}{TAKEN} in the folder {FOLDER} of a slice; remove it"
                );
                Ok(())
            }
            other => other.map_err(|e| Error::io("cannot say that what a slice has handed over is taken", e)),
        }
    }
}

/// What the file at `path` says; `None` if it is no handover.
fn read(path: &Path) -> std::io::Result<Option<Offer>> {
    // Nothing else can be opened without waiting for another process, or leads to a place of its own.
    if !std::fs::symlink_metadata(path)?.is_file() {
        return Ok(None);
    }
    match std::fs::read_to_string(path) {
        Err(e) if e.kind() == ErrorKind::InvalidData => Ok(None),
        other => other.map(|text| offer_of(&text)),
    }
}

/// The lines of a handover before the last one, which is their digest.
fn text_of(offer: &Offer) -> String {
    format!("{HEAD}\n{}\n{}\n", format_runs(&offer.published), format_runs(&offer.waiting))
}

fn offer_of(text: &str) -> Option<Offer> {
    let (lines, digest) = text.strip_suffix('\n')?.rsplit_once('\n')?;
    let mut of = lines.split('\n');
    let (head, published, waiting, end) = (of.next()?, of.next()?, of.next()?, of.next());
    let is_whole =
        head == HEAD && end.is_none() && digest == blake3(&text.as_bytes()[..lines.len() + 1]).to_string();
    is_whole.then_some(Offer { published: parse_ids(published)?, waiting: parse_ids(waiting)? })
}

/// Those of archive `tar_id` that were not taken over, of all slices of the folder, however many
/// slices there were when they were written.
///
/// # Errors
/// The system's error.
pub(crate) fn offered(context: &Context, tar_id: u64) -> Result<Vec<Handover>> {
    let (state, shown) = (context.sink.state_path(), context.sink.state_name());
    let failed = |e| Error::io(format!("cannot read {}", shown.display()), e);
    let mut found = Vec::new();
    let count = context.options.slice.map_or(1, |options| options.slice.count());
    let of_now = format!("-of-{count}");
    for entry in std::fs::read_dir(&state).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().into_string().unwrap_or_default();
        if name.starts_with(FOLDER_PREFIX) {
            let is_former = !name.ends_with(&of_now);
            let list = Place::of(&entry.path(), &shown.join(&name)).list(tar_id, false)?;
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
                if let Err(e) = hand_over(&context, &archive, None) {
                    tracing::debug!("{e}");
                }
            }
        }
    };
    std::thread::Builder::new().name("handover".into()).spawn(work).map(drop).map_err(Error::thread)
}

/// Hands over what is published of `archive`, and with it the files that are `waiting` for their
/// places, if that is other than before. Without `waiting`, these are the same as before.
///
/// # Errors
/// Storage fails.
pub(crate) fn hand_over(context: &Context, archive: &Archive, waiting: Option<RangeSet>) -> Result<()> {
    let mut handed_over = archive.handed_over.lock();
    let mark = context.committer.mark();
    let published = archive.progress.published();
    let before = || handed_over.as_ref().map(|offer| offer.waiting.clone()).unwrap_or_default();
    let mut waiting = waiting.unwrap_or_else(before);
    published.iter().for_each(|ids| waiting.remove(ids));
    let offer = Offer { published, waiting };
    if handed_over.as_ref() == Some(&offer) {
        return Ok(());
    }
    // A file is published before its name is on stable storage.
    context.committer.flush(mark)?;
    let place = Place::own(context);
    let written = place.write(archive.tar_id, &archive.progress.head().digest, &offer);
    written.map_err(|e| {
        place.failed("hand over in", e).with_hint("what has no business there is to be moved away")
    })?;
    *handed_over = Some(offer);
    Ok(())
}

/// The files that have all they need but their place: a folder stands there.
///
/// # Errors
/// The index cannot be read, or the system's error.
pub(crate) fn waiting(context: &Context, archive: &Archive) -> Result<RangeSet> {
    let (mut waiting, mut cache) = (RangeSet::default(), FolderCache::default());
    if archive.progress.named_failures() == 0 {
        return Ok(waiting);
    }
    archive.each_unpublished(Unpublished::FIRST, |file| {
        if context.sink.is_folder(&file.path, &mut cache) && archive.staging.open(file.id)?.is_some() {
            waiting.insert(file.id..file.id + 1);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(waiting)
}

/// Forgets what the first receiver has taken over of `archive`.
///
/// # Errors
/// The journal cannot be written, or the system's error.
pub(crate) fn forget_taken(context: &Context, archive: &Archive, shared: &Shared<'_>) -> Result<()> {
    // No thread may hand over what is about to be forgotten.
    let mut handed_over = archive.handed_over.lock();
    for taken in Place::own(context).list(archive.tar_id, true)? {
        let published = archive.progress.published();
        let is_other = archive.is_whole && taken.index != archive.progress.head().digest;
        // Ids of another whole index mean other files here.
        let ids: RangeSet = match is_other {
            true => published,
            false => taken.offer.published.iter().flat_map(|ids| published.common(ids)).collect(),
        };
        forget(context, archive, shared, ids)?;
        // The same files may be published once more.
        *handed_over = None;
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
        let whole = "tar-like handover 1\n0-4,7,9-10\n5,8\n\
                     75bf8bd9b8e8ccd67ef48905dfc198d9c7b880641a0d1b712583b06f34b93a9b\n";
        let offer = Offer {
            published: [0..5, 7..8, 9..11].into_iter().collect(),
            waiting: [5..6, 8..9].into_iter().collect(),
        };
        assert_eq!(offer_of(whole), Some(offer));
        for bad in ["", HEAD, &whole[..whole.len() - 2], &whole.replace("9-10", "9-11"), &whole[1..]] {
            assert_eq!(offer_of(bad), None, "{bad}");
        }
        for offer in
            [Offer::default(), Offer { waiting: std::iter::once(3..4).collect(), ..Offer::default() }]
        {
            let text = text_of(&offer);
            let digest = blake3(text.as_bytes());
            assert_eq!(offer_of(&format!("{text}{digest}\n")), Some(offer));
        }
    }

    #[test]
    fn what_is_damaged_or_of_others_is_passed_over() {
        let slice = tempfile::tempdir().unwrap();
        let place = Place::of(slice.path(), slice.path());
        let index: IndexDigest = Digest::from([7; 32]);
        let offer = Offer { published: std::iter::once(1..4).collect(), waiting: RangeSet::default() };
        assert!(place.list(5, false).unwrap().is_empty());
        place.write(5, &index, &offer).unwrap();
        let name = place.list(5, false).unwrap()[0].path.file_name().unwrap().to_str().unwrap().to_string();
        let good = std::fs::read_to_string(place.folder.join(&name)).unwrap();
        for (name, text) in [
            (&*format!("5{name}"), &*good),
            ("written-5", &*good),
            (&*format!("{name}{TAKEN}"), &*good),
            (&*format!("5.{index}.0123456789abcdef"), "cut"),
            (&*format!("5.{index}.short"), &*good),
            ("5.nodigest.0123456789abcdef", &*good),
        ] {
            std::fs::write(place.folder.join(name), text).unwrap();
        }
        // What is no file at all.
        for taken in ["", TAKEN] {
            std::fs::create_dir(place.folder.join(format!("5.{index}.00000000deadbeef{taken}"))).unwrap();
            let fifo = place.folder.join(format!("5.{index}.00000000000f1f00{taken}"));
            std::os::unix::fs::symlink("/dev/zero", fifo).unwrap();
        }
        for taken in [false, true] {
            let found = place.list(5, taken).unwrap();
            assert_eq!(found.len(), 1, "{taken}");
            assert_eq!((found[0].index, &found[0].offer), (index, &offer));
        }
        let found = place.list(5, false).unwrap();
        found[0].set_taken().unwrap();
        // Its receiver has removed it meanwhile.
        found[0].set_taken().unwrap();
        assert!(place.list(5, false).unwrap().is_empty());
        // A folder has the name that says that it is taken: it is taken over again each time.
        std::fs::remove_file(place.folder.join(format!("{name}{TAKEN}"))).unwrap();
        std::fs::create_dir(place.folder.join(format!("{name}{TAKEN}"))).unwrap();
        place.write(5, &index, &offer).unwrap();
        place.list(5, false).unwrap()[0].set_taken().unwrap();
    }

    #[test]
    fn what_is_handed_over_takes_the_place_of_what_was() {
        let slice = tempfile::tempdir().unwrap();
        let place = Place::of(slice.path(), slice.path());
        let index: IndexDigest = Digest::from([7; 32]);
        let offers = |tar_id| -> Vec<Offer> {
            place.list(tar_id, false).unwrap().into_iter().map(|handover| handover.offer).collect()
        };
        place.write(1, &index, &Offer::default()).unwrap();
        assert!(!place.folder.exists());
        let waits = Offer { published: RangeSet::default(), waiting: std::iter::once(2..3).collect() };
        let has = Offer { published: std::iter::once(2..3).collect(), waiting: RangeSet::default() };
        place.write(11, &index, &waits).unwrap();
        for offer in [&waits, &has] {
            place.write(1, &index, offer).unwrap();
            assert_eq!(offers(1), std::slice::from_ref(offer));
        }
        place.write(1, &index, &Offer::default()).unwrap();
        assert!(offers(1).is_empty());
        assert_eq!(offers(11), [waits]);
    }
}
