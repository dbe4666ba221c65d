//! Whether the storage below the receiver is still there: mounted, writable, with the receiver's
//! own folder in it.

use super::disk::DiskSink;
use super::mount::{is_mounted, is_suspicious};
use rustix::fs::{AtFlags, Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;
use std::time::Instant;

/// What has to be in the receiver's own folder.
const NEEDED: [&str; 4] = ["archives", "staging", "incoming", "journal.sqlite"];

impl DiskSink {
    /// Why nothing can be stored any more, if that is so. Looks only, unless `write` says that it
    /// may also try: a file system that has failed may look as ever.
    #[must_use]
    pub fn loss(&self, write: bool) -> Option<String> {
        let failed =
            |e: Errno| is_suspicious(e).then(|| format!("the receiver's own folder cannot be used: {e}"));
        let linked = match rustix::fs::fstat(&self.state) {
            Ok(stat) => stat.st_nlink > 0,
            Err(e) => return failed(e),
        };
        if !linked {
            return Some("the receiver's own folder, .tar-like, was removed".to_string());
        }
        for name in NEEDED {
            match self.state.stat(name.as_bytes()) {
                Ok(Some(_)) => {}
                Ok(None) => {
                    return Some(format!("{name} was removed from the receiver's own folder, .tar-like"));
                }
                Err(e) => return failed(e),
            }
        }
        match rustix::fs::fstatvfs(&self.state) {
            Ok(stat) if stat.f_flag.contains(StatVfsMountFlags::RDONLY) => {
                return Some("the base folder's file system is read-only".to_string());
            }
            Ok(_) => {}
            Err(e) => return failed(e),
        }
        if self.mount.and_then(is_mounted) == Some(false) {
            return Some("the base folder's file system is not mounted any more".to_string());
        }
        write.then(|| self.try_to_write().err().and_then(failed)).flatten()
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
        let folder = self.state.open_folder(b"incoming")?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&folder, "probe", flags, Mode::from_raw_mode(0o600))?;
        let written = rustix::io::write(&file, b"x");
        rustix::fs::unlinkat(&folder, "probe", AtFlags::empty())?;
        written.map(drop)
    }
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
