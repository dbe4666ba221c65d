//! Whether a file system folds names: takes upper and lower case, or two ways to write an accent,
//! for one name.

use crate::archive::path::STATE_DIR;
use crate::folder::Folder;
use rustix::fs::{AtFlags, Mode, OFlags};

/// Whether names are folded in `base` or in `state`, the receiver's own folder in it.
pub(super) fn folds(base: &Folder, state: &Folder) -> bool {
    let is_there =
        |folder: &Folder, name: &str| folder.stat(name.as_bytes()).is_ok_and(|stat| stat.is_some());
    if is_there(base, &STATE_DIR.to_ascii_uppercase()) || is_there(state, "STAGING") {
        return true;
    }
    // One character in two ways. Where this cannot be tried, nothing else can be written either.
    let (composed, decomposed) = ("incoming/\u{e9}", "incoming/e\u{301}");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if rustix::fs::openat(state, composed, flags, Mode::from_raw_mode(0o600)).is_err() {
        return false;
    }
    let folds = is_there(state, decomposed);
    let _ = rustix::fs::unlinkat(state, composed, AtFlags::empty());
    folds
}

/// Whether names are folded in `folder`, where the folder can say so: ext4, f2fs and tmpfs have a
/// flag for each folder, which new folders inherit.
pub(super) fn says_whether_it_folds(folder: &Folder) -> Option<bool> {
    const FS_CASEFOLD_FL: u32 = 0x4000_0000;
    rustix::fs::ioctl_getflags(folder).ok().map(|flags| flags.bits() & FS_CASEFOLD_FL != 0)
}
