//! A folder that is held open, and access to what lies beneath it that no symbolic link, `..` or
//! race can lead outside.

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::archive::entry::Meta;

/// A directory by its descriptor. Paths beneath it are bytes; the empty path is the folder itself.
#[derive(Debug)]
pub struct Folder(OwnedFd);

/// Set once the kernel (or a container's filter) refused `openat2`; then every component is opened
/// on its own.
static NO_OPENAT2: AtomicBool = AtomicBool::new(false);

/// Set once an owner could not be set, to say so only once.
static NO_OWNER: AtomicBool = AtomicBool::new(false);

const RESOLVE: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);
/// What the owner of a folder needs of its mode.
const OWNER_ALL: u32 = 0o700;
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);

impl Folder {
    /// Opens `path`, which may be a symbolic link: whoever names a base folder means where it
    /// leads.
    ///
    /// # Errors
    /// The system's error.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        Ok(Self(rustix::fs::open(path, DIRECTORY | OFlags::CLOEXEC, Mode::empty())?))
    }

    /// Opens what lies at `path` beneath this folder. Any symbolic link on the way is `ELOOP`.
    ///
    /// # Errors
    /// The system's error.
    pub fn open_at(&self, path: &[u8], flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NOCTTY;
        let path = if path.is_empty() { b"." } else { path };
        if !NO_OPENAT2.load(Ordering::Relaxed) {
            loop {
                match rustix::fs::openat2(&self.0, path, flags, mode, RESOLVE) {
                    // A rename elsewhere on the system raced with the look-up.
                    Err(Errno::AGAIN) => {}
                    // A folder on the way was moved out of the base just now: as good as a link
                    // that leads outside.
                    Err(Errno::XDEV) => return Err(Errno::LOOP),
                    // A path that is longer than the system takes at once is opened step by step,
                    // too.
                    Err(Errno::NOSYS | Errno::PERM | Errno::INVAL | Errno::NAMETOOLONG) => break,
                    other => return other,
                }
            }
            // EPERM and EINVAL may also be about this very file: only a refused call on ourselves
            // settles it.
            match rustix::fs::openat2(&self.0, ".", DIRECTORY | OFlags::CLOEXEC, Mode::empty(), RESOLVE) {
                Ok(_) => {}
                Err(_) => NO_OPENAT2.store(true, Ordering::Relaxed),
            }
        }
        self.walk(path, flags, mode)
    }

    /// The same for kernels without `openat2`, and for long paths: one component at a time, none of
    /// them a link.
    fn walk(&self, path: &[u8], flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let mut held: Option<OwnedFd> = None;
        let mut names = path.split(|&b| b == b'/').peekable();
        while let Some(name) = names.next() {
            if name == b".." || name.is_empty() {
                return Err(Errno::XDEV);
            }
            let at = held.as_ref().map_or(self.0.as_fd(), AsFd::as_fd);
            let last = names.peek().is_none();
            let (flags, mode) = if last {
                (flags, mode)
            } else {
                (DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
            };
            held = Some(rustix::fs::openat(at, name, flags, mode)?);
        }
        held.ok_or(Errno::NOENT)
    }

    /// Opens a regular file for reading; it never waits for the other end of a FIFO.
    ///
    /// # Errors
    /// The system's error.
    pub fn open_file(&self, path: &[u8]) -> Result<File, Errno> {
        self.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).map(File::from)
    }

    /// Opens the folder at `path` beneath this one.
    ///
    /// # Errors
    /// The system's error.
    pub fn open_folder(&self, path: &[u8]) -> Result<Self, Errno> {
        self.open_at(path, DIRECTORY, Mode::empty()).map(Self)
    }

    /// Opens the folder `name` directly in this one, making it with `mode` if it is not there.
    ///
    /// # Errors
    /// The system's error; `ELOOP` or `ENOTDIR` if something else has that name.
    pub fn make_folder(&self, name: &str, mode: u32) -> Result<Self, Errno> {
        match rustix::fs::mkdirat(&self.0, name, Mode::from_raw_mode(mode)) {
            Ok(()) | Err(Errno::EXIST) => self.open_folder(name.as_bytes()),
            Err(e) => Err(e),
        }
    }

    /// The names in this folder.
    ///
    /// # Errors
    /// The system's error.
    pub fn names(&self) -> Result<Vec<Vec<u8>>, Errno> {
        let names =
            rustix::fs::Dir::read_from(&self.0)?.map(|entry| Ok(entry?.file_name().to_bytes().to_vec()));
        names.filter(|name| !matches!(name.as_deref(), Ok(b"." | b".."))).collect()
    }

    /// What stands at `name` directly in this folder, links not followed; `None` if nothing does.
    ///
    /// # Errors
    /// The system's error.
    pub fn stat(&self, name: &[u8]) -> Result<Option<Stat>, Errno> {
        match rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Gives the owner of this folder all rights to it; false if there was nothing to give, or the
    /// folder belongs to another user.
    ///
    /// # Errors
    /// The system's error.
    pub fn make_writable(&self) -> Result<bool, Errno> {
        let mode = rustix::fs::fstat(&self.0)?.st_mode & 0o7777;
        if mode & OWNER_ALL == OWNER_ALL {
            return Ok(false);
        }
        match rustix::fs::fchmod(&self.0, Mode::from_raw_mode(mode | OWNER_ALL)) {
            Ok(()) => Ok(true),
            Err(Errno::PERM) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Gives the owner of `name` directly in this folder, which is of this kind, all rights to it,
    /// whose mode forbids even to open it; false if there was nothing to give, or it is of another
    /// kind or belongs to another user. No symbolic link is followed.
    ///
    /// # Errors
    /// The system's error.
    pub fn open_up(&self, name: &[u8], kind: FileType) -> Result<bool, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let held = rustix::fs::openat(&self.0, name, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&held)?;
        let lacks = stat.st_mode & OWNER_ALL != OWNER_ALL;
        if !lacks || !is_kind(&stat, kind) || stat.st_uid != rustix::process::geteuid().as_raw() {
            return Ok(false);
        }
        // A descriptor that was opened for its path alone takes no `fchmod`.
        let path = format!("/proc/self/fd/{}", held.as_raw_fd());
        rustix::fs::chmod(path, Mode::from_raw_mode(stat.st_mode & 0o7777 | OWNER_ALL)).map(|()| true)
    }

    /// Opens the folder at `path` beneath this one, also where its own mode, or that of a folder on
    /// the way, forbids that to its owner: it gets all rights for its owner first, and `opened_up`
    /// is set.
    ///
    /// # Errors
    /// The system's error.
    pub fn enter(&self, path: &[u8], opened_up: &AtomicBool) -> Result<Self, Errno> {
        match self.open_folder(path) {
            Err(Errno::ACCESS) => {}
            other => return other,
        }
        let mut folder = None::<Self>;
        for name in path.split(|&b| b == b'/').filter(|name| !name.is_empty()) {
            let at = folder.as_ref().unwrap_or(self);
            folder = Some(at.within_reach(name, opened_up, |at| at.open_folder(name))?);
        }
        match folder {
            Some(folder) => Ok(folder),
            None => self.within_reach(b".", opened_up, |at| at.open_folder(b"")),
        }
    }

    /// Does `work` with the folder `name` in this one; if modes forbid it, once more with all
    /// rights for the owner of both.
    fn within_reach<T>(
        &self,
        name: &[u8],
        opened_up: &AtomicBool,
        work: impl Fn(&Self) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        match work(self) {
            Err(Errno::ACCESS) => {}
            other => return other,
        }
        let (mine, its) = (self.make_writable()?, self.open_up(name, FileType::Directory)?);
        if mine || its {
            opened_up.store(true, Ordering::SeqCst);
            return work(self);
        }
        Err(Errno::ACCESS)
    }

    /// Opens the regular file at `path` beneath this folder for reading, as [`Folder::enter`] opens
    /// a folder.
    ///
    /// # Errors
    /// The system's error.
    pub fn enter_file(&self, path: &[u8], opened_up: &AtomicBool) -> Result<File, Errno> {
        match self.open_file(path) {
            Err(Errno::ACCESS) => {}
            other => return other,
        }
        let cut = path.iter().rposition(|&b| b == b'/');
        let (parent, name) = cut.map_or((&[][..], path), |cut| (&path[..cut], &path[cut + 1..]));
        self.enter(parent, opened_up)?.open_file(name)
    }

    /// What stands at `name` directly in this folder, as [`Folder::stat`], also where the folder's
    /// mode forbids to look.
    ///
    /// # Errors
    /// The system's error.
    pub fn stat_within(&self, name: &[u8], opened_up: &AtomicBool) -> Result<Option<Stat>, Errno> {
        match self.stat(name) {
            Err(Errno::ACCESS) if self.make_writable()? => {
                opened_up.store(true, Ordering::SeqCst);
                self.stat(name)
            }
            other => other,
        }
    }

    /// The folder `path` beneath this one, made with all its parents where missing. What is no
    /// folder and stands in the way, a symbolic link included, is replaced, as rsync does;
    /// `replaced` is told.
    ///
    /// # Errors
    /// The system's error.
    pub fn make_folders(
        &self,
        path: &[u8],
        opened_up: &AtomicBool,
        replaced: &mut dyn FnMut(&[u8]),
    ) -> Result<Self, Errno> {
        match self.enter(path, opened_up) {
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) if !path.is_empty() => {}
            other => return other,
        }
        let cut = path.iter().rposition(|&b| b == b'/');
        let (parent, name) = cut.map_or((&[][..], path), |cut| (&path[..cut], &path[cut + 1..]));
        let parent = self.make_folders(parent, opened_up, replaced)?;
        // Another thread may make or replace the same folder: a few rounds settle that.
        for _ in 0..8 {
            match rustix::fs::mkdirat(&parent.0, name, Mode::from_raw_mode(0o777)) {
                Ok(()) => {}
                Err(Errno::EXIST) => match parent.stat(name)? {
                    Some(stat) if !is_kind(&stat, FileType::Directory) => {
                        match rustix::fs::unlinkat(&parent.0, name, AtFlags::empty()) {
                            Ok(()) => replaced(path),
                            Err(Errno::NOENT | Errno::ISDIR) => {}
                            Err(e) => return Err(e),
                        }
                        continue;
                    }
                    _ => {}
                },
                // Ours, but without write permission for its owner; whoever made it so sets its
                // mode again.
                Err(Errno::ACCESS) if parent.make_writable()? => continue,
                Err(e) => return Err(e),
            }
            match parent.enter(name, opened_up) {
                Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => {}
                other => return other,
            }
        }
        Err(Errno::AGAIN)
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Whether `stat` is about something of `kind`.
#[must_use]
pub fn is_kind(stat: &Stat, kind: FileType) -> bool {
    FileType::from_raw_mode(stat.st_mode) == kind
}

/// Owner, permissions and time as an index records them.
#[must_use]
pub fn meta_of(stat: &Stat) -> Meta {
    Meta { mode: stat.st_mode & 0o7777, mtime_ns: mtime_ns(stat), uid: stat.st_uid, gid: stat.st_gid }
}

/// Time of the last change of the content, in nanoseconds since 1970. Of times before 1677-09-21
/// and after 2262-04-11, the nearest that is not.
#[must_use]
pub fn mtime_ns(stat: &Stat) -> i64 {
    nanoseconds(stat.st_mtime, stat.st_mtime_nsec)
}

/// Time of the last change of the inode, in nanoseconds since 1970.
#[must_use]
pub fn ctime_ns(stat: &Stat) -> i64 {
    nanoseconds(stat.st_ctime, stat.st_ctime_nsec)
}

fn nanoseconds(seconds: i64, nanoseconds: u64) -> i64 {
    let exact = i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
    i64::try_from(exact).unwrap_or(if exact < 0 { i64::MIN } else { i64::MAX })
}

/// Whether a file system that was given the time `wanted` may have kept it as `found`: many keep
/// whole microseconds, some whole seconds, FAT every second one. Both in nanoseconds since 1970.
#[must_use]
pub fn is_same_time(found: i64, wanted: i64) -> bool {
    let kept = |grain: i64| found % grain == 0 && found.abs_diff(wanted) < grain.unsigned_abs();
    found == wanted || [100, 1_000, 1_000_000, 1_000_000_000, 2_000_000_000].into_iter().any(kept)
}

/// The same for a time that the file system may not be able to keep: then it has the nearest that
/// it can, a limit of its own.
#[must_use]
pub fn is_kept_time(found: i64, wanted: i64) -> bool {
    // Of 32 bits with and without a sign, and of FAT, in seconds since 1970. Those of ext4 and XFS
    // lie beyond what an index keeps.
    const LOWEST: [i64; 3] = [-(1 << 31), 0, 315_532_800];
    const HIGHEST: [i64; 3] = [(1 << 31) - 1, (1 << 32) - 1, 4_354_819_198];
    let limits = if wanted < found { &LOWEST[..] } else { &HIGHEST[..] };
    let is_limit = || limits.iter().any(|&limit| found == limit * 1_000_000_000);
    is_same_time(found, wanted) || (!is_common_time(wanted) && is_limit())
}

/// Whether every file system can keep this time, in nanoseconds since 1970; some keep the nearest
/// that they know instead.
#[must_use]
pub fn is_common_time(mtime_ns: i64) -> bool {
    (0..=i64::from(i32::MAX) * 1_000_000_000).contains(&mtime_ns)
}

/// The times to set on an entry: the access time stays.
#[must_use]
pub fn timestamps(meta: &Meta) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
        last_modification: Timespec {
            tv_sec: meta.mtime_ns.div_euclid(1_000_000_000),
            tv_nsec: meta.mtime_ns.rem_euclid(1_000_000_000),
        },
    }
}

/// Whether an owner could be set. Not even root may everywhere: user namespaces, NFS and FAT refuse
/// it, and a file without its owner is better than no file.
///
/// # Errors
/// Any other error than that.
pub fn owner_set(outcome: Result<(), Errno>) -> Result<bool, Errno> {
    match outcome {
        Ok(()) => Ok(true),
        Err(Errno::PERM | Errno::INVAL | Errno::NOTSUP) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Says once that an owner could not be set. Only where everything else could be: an immutable file
/// refuses that as well.
pub fn note_no_owner() {
    if !NO_OWNER.swap(true, Ordering::Relaxed) {
        tracing::warn!("the file system does not let us set owners; they and the set-id bits are left out");
    }
}

/// Sets owner (where `owner`), permissions and time of an open file or folder. Without the owner
/// the set-id bits are left out: they would give the rights of whoever runs this program.
///
/// # Errors
/// The system's error.
pub fn apply_meta(fd: impl AsFd, meta: &Meta, owner: bool) -> Result<(), Errno> {
    let fd = fd.as_fd();
    let (uid, gid) = (rustix::fs::Uid::from_raw(meta.uid), rustix::fs::Gid::from_raw(meta.gid));
    let mut mode = meta.mode;
    let owned = owner && owner_set(rustix::fs::fchown(fd, Some(uid), Some(gid)))?;
    if !owned {
        mode &= 0o1777;
    }
    rustix::fs::fchmod(fd, Mode::from_raw_mode(mode))?;
    rustix::fs::futimens(fd, &timestamps(meta))?;
    if owner && !owned {
        note_no_owner();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn no_link_leads_outside() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("secret"), "x").unwrap();
        let base = tempfile::tempdir().unwrap();
        symlink(outside.path(), base.path().join("link")).unwrap();
        std::fs::create_dir(base.path().join("real")).unwrap();
        symlink("../link", base.path().join("real/nested")).unwrap();
        let folder = Folder::open(base.path()).unwrap();
        for fallback in [false, true] {
            let open = |path: &[u8]| {
                if fallback {
                    folder.walk(path, OFlags::RDONLY | OFlags::NOFOLLOW, Mode::empty())
                } else {
                    folder.open_at(path, OFlags::RDONLY, Mode::empty())
                }
            };
            for path in [&b"link"[..], b"link/secret", b"real/nested/secret", b"..", b"real/../../x"] {
                assert!(open(path).is_err(), "{path:?} {fallback}");
            }
            assert!(open(b"real").is_ok());
        }
        let mut replaced = Vec::new();
        folder
            .make_folders(b"link/a/b", &AtomicBool::new(false), &mut |path| replaced.push(path.to_vec()))
            .unwrap();
        assert_eq!(replaced, [b"link"]);
        assert!(base.path().join("link/a/b").is_dir() && !outside.path().join("a").exists());
    }

    #[test]
    fn coarse_file_systems_keep_the_same_time() {
        let wanted = 1_700_000_001_123_456_789;
        for found in [
            wanted,
            1_700_000_001_123_456_700,
            1_700_000_001_123_456_000,
            1_700_000_001_000_000_000,
            1_700_000_000_000_000_000,
        ] {
            assert!(is_same_time(found, wanted), "{found}");
        }
        for found in [wanted + 1, wanted - 1, 1_700_000_003_000_000_000, 1_699_999_999_000_000_000] {
            assert!(!is_same_time(found, wanted), "{found}");
        }
    }

    #[test]
    fn a_limit_of_the_file_system_is_as_near_as_it_gets() {
        let second = 1_000_000_000;
        for (found, wanted) in [
            (-(1 << 31) * second, i64::MIN),
            (0, -5),
            (((1 << 31) - 1) * second, i64::MAX),
            (((1 << 31) - 1) * second, 2_200_000_000 * second),
        ] {
            assert!(is_kept_time(found, wanted), "{found} {wanted}");
        }
        for (found, wanted) in [(0, 5 * second), (1, i64::MIN), (0, i64::MAX), (((1 << 31) - 1) * second, -1)]
        {
            assert!(!is_kept_time(found, wanted), "{found} {wanted}");
        }
    }

    #[test]
    fn what_is_clamped_stays_what_it_is() {
        for seconds in
            [i64::MIN, -11_676_096_000, -9_223_372_037, -9_223_372_036, -1, 0, 9_223_372_036, i64::MAX]
        {
            for fraction in [0, 1, 145_224_192, 145_224_193, 854_775_807, 999_999_999] {
                let at = nanoseconds(seconds, fraction);
                let set = timestamps(&Meta { mode: 0, mtime_ns: at, uid: 0, gid: 0 }).last_modification;
                assert_eq!(nanoseconds(set.tv_sec, set.tv_nsec.unsigned_abs()), at, "{seconds} {fraction}");
            }
        }
    }

    #[test]
    fn times_before_1970_survive() {
        let file = tempfile::tempfile().unwrap();
        for mtime_ns in [-1, -1_500_000_000, 0, 1_700_000_000_123_456_789] {
            let meta = Meta { mode: 0o640, mtime_ns, uid: 0, gid: 0 };
            apply_meta(&file, &meta, false).unwrap();
            let stat = rustix::fs::fstat(&file).unwrap();
            assert_eq!((super::mtime_ns(&stat), stat.st_mode & 0o7777), (mtime_ns, 0o640));
        }
    }
}
