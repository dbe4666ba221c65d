//! The fence between slices: another slice than the first one puts files of an index in place only
//! while the first one has that index active (FORMAT.md 9.4). So the first one knows, when it
//! replaces an index, that all that others have put in place by it is there.
//!
//! The first slice says in a file which index is active. Another slice reads that before it puts
//! anything in place, and holds a lock from before it reads until it has put it there: a process
//! that was stopped in between keeps the first slice waiting. The lock goes with its process.

use super::disk::DiskSink;
use crate::archive::slice::Slice;
use crate::error::{Error, ErrorKind, Result};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

/// The folder of the first slice with a file for each archive.
const ACTIVE: &str = "active";
/// What it says while no index is active.
const NONE: &str = "none";
/// The longest content of such a file, in bytes.
const MAX_BYTES: u64 = 128;
/// The file of another slice that is locked while that slice puts files in place.
const PUBLISHING: &str = "publishing";
/// How often the first slice tries a lock.
const INTERVAL: Duration = Duration::from_millis(20);

/// The first slice waits for this slice as long as this lives.
pub struct PublishLock(#[expect(dead_code, reason = "it is held")] File);

impl DiskSink {
    /// Says as the slice `first` that `index` is the active one of archive `tar_id`, or that none is:
    /// on stable storage, and for others from one moment to the next.
    ///
    /// # Errors
    /// The system's error.
    pub fn set_active(&self, first: Slice, tar_id: u64, index: Option<&str>) -> Result<()> {
        let text = index.unwrap_or(NONE);
        if self.active(first, tar_id).is_ok_and(|said| said.as_deref() == Some(text)) {
            return Ok(());
        }
        // Never removed: hosts remember for a while that a name was not there.
        let write = || -> std::io::Result<()> {
            let folder = self.own.make_folder(&first.folder_name(), 0o700)?.make_folder(ACTIVE, 0o700)?;
            let (name, temporary) = (tar_id.to_string(), format!("{tar_id}.new"));
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
            let mut file =
                File::from(folder.open_at(temporary.as_bytes(), flags, Mode::from_raw_mode(0o600))?);
            writeln!(file, "{text}")?;
            file.sync_all()?;
            rustix::fs::renameat(&folder, &*temporary, &folder, &*name)?;
            Ok(rustix::fs::fsync(&folder)?)
        };
        write().map_err(|e| Error::io(format!("cannot say which index of archive {tar_id} is active"), e))
    }

    /// Says as the slice `first` that no index of other archives than `known` is active.
    ///
    /// # Errors
    /// The system's error.
    pub fn set_active_of_others(&self, first: Slice, known: &[u64]) -> Result<()> {
        let path = format!("{}/{ACTIVE}", first.folder_name());
        let names = match self.own.open_folder(path.as_bytes()).and_then(|folder| folder.names()) {
            Err(Errno::NOENT) => return Ok(()),
            other => other.map_err(|e| Error::io(format!("cannot read .tar-like/{path}"), e))?,
        };
        let ids = names.iter().filter_map(|name| std::str::from_utf8(name).ok()?.parse().ok());
        ids.filter(|id| !known.contains(id)).try_for_each(|id| self.set_active(first, id, None))
    }

    /// What the slice `first` says: the active index of archive `tar_id`. `None` if it says nothing,
    /// and an empty text if none is active.
    ///
    /// # Errors
    /// The system's error.
    pub fn active_at(&self, first: Slice, tar_id: u64) -> Result<Option<String>> {
        let said = self.active(first, tar_id);
        let said =
            said.map_err(|e| Error::io(format!("cannot read what slice {first} says of its index"), e))?;
        Ok(said.map(|text| if text == NONE { String::new() } else { text }))
    }

    fn active(&self, first: Slice, tar_id: u64) -> std::io::Result<Option<String>> {
        let path = format!("{}/{ACTIVE}/{tar_id}", first.folder_name());
        let file = match self.own.open_file(path.as_bytes()) {
            Err(Errno::NOENT) => return Ok(None),
            other => other?,
        };
        let mut text = String::new();
        file.take(MAX_BYTES).read_to_string(&mut text)?;
        Ok(Some(text.trim_end().to_owned()))
    }

    /// Keeps the first slice from replacing an index until the lock is dropped. `None` while the
    /// first slice is about to do that.
    ///
    /// # Errors
    /// The system's error.
    pub fn lock_publishing(&self) -> Result<Option<PublishLock>> {
        let failed = |e: Errno| Error::io("cannot lock the right to put files in place", e);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NONBLOCK;
        let file = self.state.open_at(PUBLISHING.as_bytes(), flags, Mode::from_raw_mode(0o600));
        let file = File::from(file.map_err(failed)?);
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(Some(PublishLock(file))),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(failed(e)),
        }
    }

    /// Waits until each of `slices` has put in place what it was about to put there when this was
    /// called.
    ///
    /// # Errors
    /// [`ErrorKind::Busy`]: one does not come to that within `timeout`. Or the system's error.
    pub fn wait_for_publishers(&self, slices: &[Slice], timeout: Duration) -> Result<()> {
        let start = Instant::now();
        for slice in slices {
            let path = format!("{}/{PUBLISHING}", slice.folder_name());
            let failed = |e: Errno| Error::io(format!("cannot lock .tar-like/{path}"), e);
            let lock = match self.own.open_at(path.as_bytes(), OFlags::RDWR | OFlags::NONBLOCK, Mode::empty())
            {
                // It has put nothing in place yet.
                Err(Errno::NOENT) => continue,
                other => other.map_err(failed)?,
            };
            loop {
                match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                    Ok(()) => break,
                    Err(Errno::WOULDBLOCK) if start.elapsed() < timeout => std::thread::sleep(INTERVAL),
                    Err(Errno::WOULDBLOCK) => {
                        let what = format!(
                            "no index can be replaced: slice {slice} is putting files in place, and has not answered for {} s",
                            timeout.as_secs()
                        );
                        return Err(Error::new(ErrorKind::Busy, what)
                            .with_hint("look whether its process or its mount hangs; continue or end it, then all goes on"));
                    }
                    Err(e) => return Err(failed(e)),
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::disk::Places;
    use std::path::Path;

    fn open(base: &Path, slice: &str) -> DiskSink {
        let slice = Some(slice.parse().unwrap());
        DiskSink::open_with(base, &Places { slice, state: None }).unwrap()
    }

    #[test]
    fn others_read_what_the_first_one_says() {
        let base = tempfile::tempdir().unwrap();
        let (one, two) = (open(base.path(), "1/2"), open(base.path(), "2/2"));
        let first: Slice = "1/2".parse().unwrap();
        let says = |tar_id| two.active_at(first, tar_id).unwrap();
        one.set_active_of_others(first, &[]).unwrap();
        assert_eq!(says(3), None);
        one.set_active(first, 3, Some("abc")).unwrap();
        one.set_active(first, 33, Some("other")).unwrap();
        assert_eq!((says(3).as_deref(), says(33).as_deref()), (Some("abc"), Some("other")));
        for index in [None, Some("def"), Some("def")] {
            one.set_active(first, 3, index).unwrap();
            assert_eq!(says(3).as_deref(), Some(index.unwrap_or_default()));
        }
        one.set_active_of_others(first, &[3]).unwrap();
        assert_eq!((says(3).as_deref(), says(33).as_deref()), (Some("def"), Some("")));
        // Slices of another number hear nothing any more. They run only when these have ended.
        drop((one, two));
        for opened in ["1/3", ""] {
            open(base.path(), "1/2").set_active(first, 3, Some("abc")).unwrap();
            match opened {
                "" => drop(DiskSink::open(base.path()).unwrap()),
                slice => drop(open(base.path(), slice)),
            }
            let two = open(base.path(), "2/2");
            assert_eq!(two.active_at(first, 3).unwrap(), None, "{opened}");
        }
    }

    #[test]
    fn the_first_one_waits_for_what_others_put_in_place() {
        let base = tempfile::tempdir().unwrap();
        let (one, two) = (open(base.path(), "1/2"), open(base.path(), "2/2"));
        let others: Vec<Slice> = one.other_slices().unwrap();
        assert_eq!(others, ["2/2".parse::<Slice>().unwrap()]);
        one.wait_for_publishers(&others, Duration::ZERO).unwrap();
        let locks = [(); 2].map(|()| two.lock_publishing().unwrap().unwrap());
        let busy = one.wait_for_publishers(&others, Duration::from_millis(50)).unwrap_err();
        assert_eq!(busy.kind(), ErrorKind::Busy);
        assert!(busy.to_string().contains("slice 2/2"), "{busy}");
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| one.wait_for_publishers(&others, Duration::from_secs(60)));
            drop(locks);
            waits.join().unwrap().unwrap();
        });
        drop(two.lock_publishing().unwrap().unwrap());
    }
}
