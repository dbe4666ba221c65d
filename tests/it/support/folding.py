"""A folder as a file system on which names that differ in case only are one: folding.py FOLDER MOUNTPOINT [NAME]. With NAME, only in the folder
of that name and below it; then each folder says so by its flags, as on ext4. It ends when it is unmounted."""

import ctypes
import errno
import os
import sys

from mfusepy import FUSE, FuseOSError, Operations

NOREPLACE = 1
FS_IOC_GETFLAGS = 0x80086601
FS_CASEFOLD_FL = 0x40000000


class Folding(Operations):
    use_ns = True

    def __init__(self, root, only=None):
        self.root = root
        self.only = only

    def folds(self, real):
        return not self.only or (real + "/").startswith(os.path.join(self.root, self.only) + "/")

    def ioctl(self, path, cmd, arg, fip, flags, data):
        if cmd & 0xFFFFFFFF != FS_IOC_GETFLAGS or not self.only:
            raise FuseOSError(errno.ENOTTY)
        found = FS_CASEFOLD_FL if self.folds(self.real(path)) else 0
        ctypes.memmove(data, found.to_bytes(4, "little"), 4)
        return 0

    def real(self, path):
        """The path below the folder as it is written there; what is not there keeps its own spelling."""
        real = self.root
        for name in path.split("/"):
            if not name:
                continue
            if self.folds(real) and not os.path.lexists(os.path.join(real, name)):
                try:
                    same = [other for other in os.listdir(real) if other.lower() == name.lower()]
                except OSError:
                    same = []
                name = same[0] if same else name
            real = os.path.join(real, name)
        return real

    def new(self, path):
        """The path of an entry that gets the name as it is given."""
        parent, name = os.path.split(path)
        return os.path.join(self.real(parent), name)

    def getattr(self, path, fh=None):
        stat = os.fstat(fh) if fh else os.lstat(self.real(path))
        names = ("st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_ino", "st_blocks", "st_dev")
        found = {name: getattr(stat, name) for name in names}
        times = ("st_atime", "st_mtime", "st_ctime")
        return {**found, **{name: getattr(stat, name + "_ns") for name in times}}

    def readdir(self, path, fh):
        with os.scandir(self.real(path)) as entries:
            return [(entry.name, {"st_ino": entry.inode()}, 0) for entry in entries]

    def access(self, path, amode):
        if not os.access(self.real(path), amode):
            raise FuseOSError(errno.EACCES)

    def open(self, path, flags):
        return os.open(self.real(path), flags & ~os.O_NOFOLLOW)

    def create(self, path, mode, fi=None):
        return os.open(self.real(path), os.O_RDWR | os.O_CREAT, mode)

    def read(self, path, size, offset, fh):
        return os.pread(fh, size, offset)

    def write(self, path, data, offset, fh):
        return os.pwrite(fh, data, offset)

    def truncate(self, path, length, fh=None):
        os.truncate(fh or self.real(path), length)

    def fsync(self, path, datasync, fh):
        os.fsync(fh)

    def release(self, path, fh):
        os.close(fh)

    def statfs(self, path):
        stat = os.statvfs(self.root)
        names = ("f_bavail", "f_bfree", "f_blocks", "f_bsize", "f_favail", "f_ffree", "f_files", "f_frsize")
        return {**{name: getattr(stat, name) for name in names}, "f_namemax": 255}

    def chmod(self, path, mode):
        os.chmod(self.real(path), mode)

    def chown(self, path, uid, gid):
        os.chown(self.real(path), uid, gid, follow_symlinks=False)

    def utimens(self, path, times=None):
        os.utime(self.real(path), ns=times, follow_symlinks=False)

    def mkdir(self, path, mode):
        os.mkdir(self.real(path), mode)

    def rmdir(self, path):
        os.rmdir(self.real(path))

    def unlink(self, path):
        os.unlink(self.real(path))

    def symlink(self, path, target):
        os.symlink(target, self.real(path))

    def readlink(self, path):
        return os.readlink(self.real(path))

    def link(self, path, target):
        os.link(self.real(target), self.real(path), follow_symlinks=False)

    def rename(self, old, new, flags=0):
        old, place = self.real(old), self.real(new)
        if flags & ~NOREPLACE:
            raise FuseOSError(errno.EINVAL)
        if flags & NOREPLACE and os.path.lexists(place) and place != old:
            raise FuseOSError(errno.EEXIST)
        # As on casefolded ext4: what is replaced keeps its spelling; an entry that is renamed to itself gets the new one.
        os.rename(old, self.new(new) if place == old else place)


class Mount(FUSE):
    def rename_fuse_3(self, old, new, flags):
        decode = lambda path: path.decode(self.encoding, self.errors)
        return self.operations.rename(decode(old), decode(new), flags)


if __name__ == "__main__":
    Mount(
        Folding(os.path.realpath(sys.argv[1]), *sys.argv[3:]),
        sys.argv[2],
        foreground=True,
        nothreads=True,
        use_ino=True,
        hard_remove=True,
        entry_timeout=0,
        negative_timeout=0,
        attr_timeout=0,
        default_permissions=True,
        allow_other=True,
        fsname="folding",
    )
