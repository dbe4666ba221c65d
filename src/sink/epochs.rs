//! What is left of slices, when there are other slices than before: the first slice removes their
//! folders below `.tar-like`, and each slice those in its own state folder.

use super::disk::DiskSink;
use super::pairing;
use super::running::slice_of;
use super::shared::LOCK;
use crate::archive::path::STATE_DIR;
use crate::archive::slice::Slice;
use crate::error::{Error, Result};
use crate::folder::Folder;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

/// The folder of a slice in which the first slice finds what it may take over (FORMAT.md 9).
const HANDOVER: &str = "handover";

impl DiskSink {
    /// The slices other than the first one that have a folder here, however many there are now.
    ///
    /// # Errors
    /// The system's error.
    pub fn other_slices(&self) -> Result<Vec<Slice>> {
        let names = self.own.names().map_err(|e| Error::io("cannot read .tar-like", e))?;
        Ok(names.iter().filter_map(|name| slice_of(name)).filter(|slice| !slice.is_first()).collect())
    }

    /// Removes what slices of another number of slices than that of `slice` have left, which is this
    /// receiver, if it is one.
    pub(super) fn remove_former(&self, slice: Option<Slice>) {
        let Some(slice) = slice else {
            // Alone, it is the first one: what former slices read says nothing any more.
            let first = former(&self.state, |found| found.is_first());
            return self.remove_folders(first);
        };
        if slice.is_first() {
            self.remove_former_slices(slice);
        }
        self.remove_former_states(slice);
    }

    /// Removes their folders below `.tar-like`. A folder that a receiver uses stays, and one that
    /// hands something over: the next `finish` takes it. What cannot be removed costs space only.
    fn remove_former_slices(&self, slice: Slice) {
        self.remove_folders(former(&self.state, |found| found.count() != slice.count()));
    }

    fn remove_folders(&self, former: Vec<(Slice, String)>) {
        for (former, name) in former {
            match self.remove_unused(&name) {
                Ok(true) => tracing::info!("removed what slice {former} had in .tar-like"),
                Ok(false) => {}
                Err(e) => tracing::warn!(".tar-like/{name} of slice {former} cannot be removed: {e}"),
            }
        }
    }

    /// Removes from the state folder what slices of another number of slices had there, whose folders
    /// below `.tar-like` are gone: their journals tell of nothing any more.
    fn remove_former_states(&self, slice: Slice) {
        let (true, Some(tree)) = (self.has_state_folder(), self.tree()) else { return };
        let path = match slice.is_first() {
            true => Some(self.records_name()),
            false => self.records_name().parent(),
        };
        let Some((path, root)) = path.and_then(|path| Some((path, Folder::open(path).ok()?))) else { return };
        let Ok(own) = self.base.open_folder(STATE_DIR.as_bytes()) else { return };
        for (former, name) in former(&root, |found| found.count() != slice.count()) {
            let is_gone = matches!(own.stat(name.as_bytes()), Ok(None));
            let is_of_base =
                root.open_folder(name.as_bytes()).is_ok_and(|state| pairing::is_of(&state, tree));
            if !is_gone || !is_of_base {
                continue;
            }
            match std::fs::remove_dir_all(path.join(&name)) {
                Ok(()) => tracing::info!("removed what slice {former} had in {}", path.display()),
                Err(e) => tracing::warn!("{} of slice {former} stays: {e}", path.join(&name).display()),
            }
        }
    }

    fn remove_unused(&self, name: &str) -> std::io::Result<bool> {
        let folder = self.state.open_folder(name.as_bytes())?;
        // Held until the folder is gone: a receiver that starts meanwhile is refused, or finds that
        // the lock has lost its name.
        let lock = match folder.open_at(LOCK.as_bytes(), OFlags::RDWR | OFlags::NONBLOCK, Mode::empty()) {
            Err(Errno::NOENT) => None,
            other => Some(other?),
        };
        if let Some(lock) = &lock {
            match rustix::fs::flock(lock, FlockOperation::NonBlockingLockExclusive) {
                Err(Errno::WOULDBLOCK) => {
                    tracing::warn!(".tar-like/{name}: a receiver of former slices still runs; stop it");
                    return Ok(false);
                }
                other => other?,
            }
        }
        let hands_over = match folder.open_folder(HANDOVER.as_bytes()) {
            Err(Errno::NOENT) => false,
            other => other?.names()?.iter().any(|name| is_offered(name)),
        };
        if hands_over {
            return Ok(false);
        }
        std::fs::remove_dir_all(self.state_path().join(name)).map(|()| true)
    }
}

/// Whether a file of this name in the folder of what is handed over was neither taken over nor cut
/// off while it was written.
fn is_offered(name: &[u8]) -> bool {
    !name.ends_with(b".taken") && !name.starts_with(b"written-")
}

/// The folders in `folder` of slices that are no more, which `is_former` tells.
fn former(folder: &Folder, is_former: impl Fn(Slice) -> bool) -> Vec<(Slice, String)> {
    let names = folder.names().unwrap_or_default();
    let former = names.iter().filter_map(|name| slice_of(name));
    former.filter(|&found| is_former(found)).map(|found| (found, found.folder_name())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::sink::disk::Places;
    use std::path::PathBuf;

    struct World {
        folder: tempfile::TempDir,
    }

    impl World {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            std::fs::create_dir(folder.path().join("base")).unwrap();
            Self { folder }
        }

        fn own(&self) -> PathBuf {
            self.folder.path().join("base/.tar-like")
        }

        fn state(&self) -> PathBuf {
            self.folder.path().join("state")
        }

        fn open(&self, slice: &str, with_state: bool) -> Result<DiskSink> {
            let state = with_state.then(|| self.state());
            let slice = Some(slice.parse().unwrap());
            DiskSink::open_with(&self.folder.path().join("base"), &Places { slice, state })
        }
    }

    #[test]
    fn the_first_slice_removes_what_former_slices_have_left() {
        let world = World::new();
        drop([world.open("1/3", false).unwrap(), world.open("2/3", false).unwrap()]);
        let used = world.open("3/3", false).unwrap();
        let hands_over = world.own().join("slice-2-of-5/handover");
        std::fs::create_dir_all(&hands_over).unwrap();
        std::fs::write(hands_over.join("0"), "").unwrap();
        std::fs::create_dir_all(world.own().join("slice-2-of-6/handover")).unwrap();
        std::fs::create_dir(world.own().join("slice-x")).unwrap();
        let there = || {
            let names = std::fs::read_dir(world.own()).unwrap().map(|entry| entry.unwrap().file_name());
            let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
            names.retain(|name| name.starts_with("slice-"));
            names.sort();
            names
        };
        // As long as one of them runs, other slices do not.
        for other in ["2/4", "1/4", "1/1"] {
            let error = world.open(other, false).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::InUse, "{other}");
            assert!(error.to_string().contains("slices run: 3/3"), "{error}");
        }
        drop(used);
        std::fs::remove_dir_all(world.own().join("slice-2-of-4")).unwrap();
        // Slices of as many stay, and another slice than the first removes nothing.
        drop(world.open("2/4", false).unwrap());
        let others =
            ["slice-2-of-3", "slice-2-of-4", "slice-2-of-5", "slice-2-of-6", "slice-3-of-3", "slice-x"];
        assert_eq!(there(), others);
        drop(world.open("1/4", false).unwrap());
        assert_eq!(there(), ["slice-2-of-4", "slice-2-of-5", "slice-x"]);
        // The first slice has taken it over, and something was cut off.
        std::fs::rename(hands_over.join("0"), hands_over.join("0.taken")).unwrap();
        std::fs::write(hands_over.join("written-0"), "").unwrap();
        drop(world.open("1/4", false).unwrap());
        assert_eq!(there(), ["slice-2-of-4", "slice-x"]);
    }

    #[test]
    fn one_receiver_has_a_slice_wherever_its_journal_is() {
        let world = World::new();
        let first = world.open("1/3", false).unwrap();
        let second = world.open("2/3", false).unwrap();
        assert_eq!(first.tree(), second.tree());
        let kind = |outcome: Result<DiskSink>| outcome.err().map(|e| e.kind());
        for slice in ["1/3", "1/4", "2/3"] {
            for with_state in [false, true] {
                assert_eq!(kind(world.open(slice, with_state)), Some(ErrorKind::InUse), "{slice}");
            }
        }
        assert_eq!(kind(DiskSink::open(&world.folder.path().join("base"))), Some(ErrorKind::InUse));
        drop(second);
        // The first slice says of how many it is one.
        assert_eq!(kind(world.open("2/4", false)), Some(ErrorKind::InUse));
        let second = world.open("2/3", false).unwrap();
        drop(first);
        assert_eq!(kind(world.open("2/3", false)), Some(ErrorKind::InUse));
        let alone = || DiskSink::open(&world.folder.path().join("base"));
        assert_eq!(kind(alone()), Some(ErrorKind::InUse));
        drop(second);
        let alone = alone().unwrap();
        assert_eq!(kind(world.open("2/3", false)), Some(ErrorKind::InUse));
        drop(alone);
        drop(world.open("2/4", false).unwrap());
    }

    #[test]
    fn a_state_folder_forgets_what_the_first_slice_has_removed() {
        let world = World::new();
        let open = |slice: &str| {
            let sink = world.open(slice, true).unwrap();
            let is_new = !sink.records_name().join("journal.sqlite").exists();
            std::fs::write(sink.records_name().join("journal.sqlite"), "").unwrap();
            // The journal of the first slice is the same, whatever the number of slices.
            sink.pair(if slice.starts_with("1/") { "first" } else { slice }).unwrap();
            is_new
        };
        assert!(open("1/3") && open("2/3") && open("3/3"));
        assert!(!open("1/3") && !open("2/3"));
        // Other slices meanwhile.
        assert!(!open("1/2") && open("2/2"));
        assert!(world.own().join("slice-2-of-2").exists() && !world.own().join("slice-2-of-3").exists());
        assert!(!world.state().join("slice-2-of-3").exists(), "its host has removed its journal");
        assert!(!open("1/3"));
        assert!(open("2/3"), "it begins from nothing");
        // The state folder of another host is not told: the slice finds out when it comes back.
        std::fs::remove_dir_all(world.own().join("slice-2-of-3")).unwrap();
        assert!(open("2/3"), "its journal tells of what is gone");
        // A base folder that is another one is no reason to remove anything.
        std::fs::remove_dir_all(world.own()).unwrap();
        for slice in ["1/2", "2/3", "1/3"] {
            assert_eq!(world.open(slice, true).err().unwrap().kind(), ErrorKind::Usage, "{slice}");
        }
        assert!(world.state().join("slice-2-of-3/journal.sqlite").exists());
    }
}
