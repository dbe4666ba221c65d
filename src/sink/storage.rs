//! Whether the storage below the receiver is still there: mounted, writable, with the receiver's
//! own folder in it.

use super::disk::DiskSink;
use super::mount::{is_mounted, is_suspicious, write_below};
use crate::folder::Folder;
use rustix::fs::StatVfsMountFlags;
use rustix::io::Errno;
use std::time::Instant;

/// What has to be in the receiver's own folder, and where the journal is.
const NEEDED: [&str; 2] = ["staging", "incoming"];
const NEEDED_RECORDS: [&str; 3] = ["archives", "incoming", "journal.sqlite"];

impl DiskSink {
    /// Why nothing can be stored any more, if that is so. Looks only, unless `write` says that it
    /// may also try: a file system that has failed may look as ever.
    #[must_use]
    pub fn loss(&self, write: bool) -> Option<String> {
        let own = "the receiver's own folder .tar-like";
        let [mount, records_mount] = self.mounts;
        let (records, of_records) = match self.has_state_folder() {
            true => ("the state folder", "the state folder's"),
            false => (own, "the base folder's"),
        };
        loss_of(&self.state, own, "the base folder's", &NEEDED, mount)
            .or_else(|| loss_of(&self.records, records, of_records, &NEEDED_RECORDS, records_mount))
            .or_else(|| write.then(|| self.try_to_write().err().and_then(unusable)).flatten())
    }

    /// One thread at a time tries, whose success serves all that have asked before it began: they
    /// have one name for that, and where many files fail at once, everybody asks.
    pub(super) fn try_to_write(&self) -> Result<(), Errno> {
        let asked = Instant::now();
        let mut written = self.written.lock();
        if written.is_some_and(|began| began >= asked) {
            return Ok(());
        }
        let began = Instant::now();
        self.write_probe()?;
        *written = Some(began);
        Ok(())
    }

    fn write_probe(&self) -> Result<(), Errno> {
        write_below(&self.state)?;
        if self.has_state_folder() { write_below(&self.records) } else { Ok(()) }
    }
}

/// Why nothing can be stored in `folder`, as far as looking tells; `name` and `whose` are for the
/// text.
fn loss_of(folder: &Folder, name: &str, whose: &str, needed: &[&str], mount: Option<u64>) -> Option<String> {
    match rustix::fs::fstat(folder) {
        Ok(stat) if stat.st_nlink == 0 => return Some(format!("{name} was removed")),
        Ok(_) => {}
        Err(e) => return unusable(e),
    }
    for needed in needed {
        match folder.stat(needed.as_bytes()) {
            Ok(Some(_)) => {}
            Ok(None) => return Some(format!("{needed} was removed from {name}")),
            Err(e) => return unusable(e),
        }
    }
    match rustix::fs::fstatvfs(folder) {
        Ok(stat) if stat.f_flag.contains(StatVfsMountFlags::RDONLY) => {
            return Some(format!("{whose} file system is read-only"));
        }
        Ok(_) => {}
        Err(e) => return unusable(e),
    }
    (mount.and_then(is_mounted) == Some(false))
        .then(|| format!("{whose} file system is not mounted any more"))
}

fn unusable(error: Errno) -> Option<String> {
    is_suspicious(error).then(|| format!("the receiver's own folder cannot be used: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_removed_is_noticed() {
        for gone in ["", "archives", "staging", "incoming", "journal.sqlite"] {
            let base = tempfile::tempdir().unwrap();
            let sink = DiskSink::open(base.path()).unwrap();
            let state = base.path().join(".tar-like");
            std::fs::write(state.join("journal.sqlite"), "").unwrap();
            assert_eq!((sink.loss(false), sink.loss(true)), (None, None));
            // Moved away is not removed: the descriptors lead there.
            std::fs::rename(&state, base.path().join("moved")).unwrap();
            assert_eq!(sink.loss(true), None);
            let gone = base.path().join("moved").join(gone);
            let removed =
                if gone.is_dir() { std::fs::remove_dir_all(gone) } else { std::fs::remove_file(gone) };
            removed.unwrap();
            assert!(sink.loss(false).is_some_and(|why| why.contains("removed")));
        }
    }

    #[test]
    fn threads_that_ask_at_once_do_not_mislead_each_other() {
        let base = tempfile::tempdir().unwrap();
        let sink = DiskSink::open(base.path()).unwrap();
        std::fs::write(base.path().join(".tar-like/journal.sqlite"), "").unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..300).for_each(|_| assert_eq!(sink.loss(true), None)));
            }
        });
        // What was found a moment ago is no answer to who asks now.
        std::fs::remove_dir(base.path().join(".tar-like/incoming")).unwrap();
        assert!(sink.loss(true).is_some());
    }
}
