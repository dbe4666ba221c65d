//! The base of an index: a folder, or a single file or block device.

use crate::archive::path::EntryPath;
use crate::error::{Error, ErrorKind, Result};
use crate::folder::{Folder, is_kind};
use crate::unix_time::now_ns;
use rustix::fs::{FileType, Mode, OFlags, SeekFrom, Stat, fstat, seek};
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The permissions of a device's content as a file: only root, or a user with root's rights, may
/// read the device.
const DEVICE_MODE: u32 = 0o600;

/// The target of `-b`, or of the source of a `sync`.
pub enum Base {
    /// A folder with everything in it.
    Folder(Folder),
    /// One file or block device.
    Single(Single),
}

/// A regular file or block device that is a source by itself. It is opened again for each use, by
/// its name in a folder that is kept open.
///
/// Index and receiver see the content of a device as a file with permissions 0600, the device's
/// owner, and the time when the base was opened: a device does not record when it changed.
pub struct Single {
    /// The folder that has it, links resolved.
    folder: Folder,
    /// Its name in that folder.
    name: Vec<u8>,
    /// Its path, links resolved.
    real_path: PathBuf,
    /// Its path in the index: the last component of the path that the user gave.
    path: EntryPath,
    /// The device number; `None` for a regular file.
    device: Option<u64>,
    /// When the base was opened, in nanoseconds since 1970: the time of a device's content.
    opened_ns: i64,
}

/// The base at `path` by the name that an index records: a folder with all symbolic links resolved;
/// a single file by the name that the user gave, in its resolved folder. So a link to a device
/// (`/dev/mapper/…`) keeps its name while that of the device changes with every boot.
///
/// # Errors
/// It does not exist.
pub fn resolved(path: &Path) -> std::io::Result<PathBuf> {
    match (path.is_dir(), path.file_name()) {
        (false, Some(name)) => Ok(folder_of(path).canonicalize()?.join(name)),
        _ => path.canonicalize(),
    }
}

/// The folder part of `path`, as the user gave it.
#[must_use]
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

impl Base {
    /// Opens the folder, file or block device at `path`; a symbolic link is followed.
    ///
    /// # Errors
    /// It does not exist, is of another kind, or cannot be read; its name cannot be in an index, or
    /// a device has no medium.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |e: std::io::Error| Error::io(format!("cannot open the base {}", path.display()), e);
        let stat = rustix::fs::stat(path).map_err(|e| failed(e.into()))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Folder::open(path)
                .map(Self::Folder)
                .map_err(|e| Error::io(format!("cannot open the base folder {}", path.display()), e)),
            FileType::RegularFile => Single::open(path, None).map(Self::Single),
            FileType::BlockDevice => Single::open(path, Some(stat.st_rdev)).map(Self::Single),
            other => {
                let kind = match other {
                    FileType::Fifo => "a FIFO",
                    FileType::Socket => "a socket",
                    FileType::CharacterDevice => "a character device",
                    _ => "something else",
                };
                Err(Error::new(ErrorKind::Usage, format!("the base {} is {kind}", path.display()))
                    .with_hint("give a folder, a regular file or a block device"))
            }
        }
    }

    /// The single file or device; `None` for a folder.
    #[must_use]
    pub fn single(&self) -> Option<&Single> {
        match self {
            Self::Folder(_) => None,
            Self::Single(single) => Some(single),
        }
    }

    /// Whether it is a device, which does not record when it changed.
    #[must_use]
    pub fn is_device(&self) -> bool {
        self.single().is_some_and(|single| single.device.is_some())
    }

    /// Opens `path` for reading; see [`Folder::open_file`].
    ///
    /// # Errors
    /// The system's error.
    pub fn open_file(&self, path: &EntryPath) -> std::result::Result<File, Errno> {
        match self {
            Self::Folder(folder) => folder.open_file(path.as_bytes()),
            Self::Single(single) => single.file(path),
        }
    }

    /// Opens the target of the symbolic link `path`, inside of the base or not. Only for the rows
    /// of an index of the original program, which follows links to files, but not to folders.
    ///
    /// # Errors
    /// The system's error; `ELOOP` where a folder above it is a link.
    pub fn open_linked(&self, path: &EntryPath) -> std::result::Result<File, Errno> {
        let Self::Folder(base) = self else { return self.open_file(path) };
        let (parent, name) = path.split();
        let folder = base.open_folder(parent)?;
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        rustix::fs::openat(&folder, name, flags, Mode::empty()).map(File::from)
    }

    /// The attributes of an open file of this base; a device has those of its content as a file.
    ///
    /// # Errors
    /// The system's error; `ENODEV` if it is another device than when the base was opened.
    pub fn stat(&self, file: &File) -> std::result::Result<Stat, Errno> {
        match self {
            Self::Folder(_) => fstat(file),
            Self::Single(single) => single.stat_open(file),
        }
    }
}

impl Single {
    fn open(path: &Path, device: Option<u64>) -> Result<Self> {
        let failed = |e: std::io::Error| Error::io(format!("cannot open the base {}", path.display()), e);
        let name = path.file_name().map(OsStrExt::as_bytes).unwrap_or_default();
        let entry = EntryPath::new(name).map_err(|why| {
            Error::new(
                ErrorKind::Usage,
                format!("the base {} cannot be in an index: its name {why}", path.display()),
            )
            .with_hint("give it another name, or index the folder that it lies in")
        })?;
        let real_path = path.canonicalize().map_err(failed)?;
        let opened_ns = now_ns();
        let single = Self {
            folder: Folder::open(folder_of(&real_path)).map_err(failed)?,
            name: real_path.file_name().map(OsStrExt::as_bytes).unwrap_or_default().to_vec(),
            real_path,
            path: entry,
            device,
            opened_ns,
        };
        // An error now is clearer than an index that reports its only file as gone.
        let opened = single.file(&single.path).map_err(|e| failed(e.into()))?;
        let stat = single.stat_open(&opened).map_err(|e| failed(e.into()))?;
        if device.is_some() && stat.st_size == 0 {
            let message = format!("the block device {} has no content: its size is 0", path.display());
            return Err(
                Error::new(ErrorKind::Source, message).with_hint("is there a medium in it, is it set up?")
            );
        }
        Ok(single)
    }

    /// Its path in the index.
    #[must_use]
    pub fn path(&self) -> &EntryPath {
        &self.path
    }

    /// Its path, links resolved.
    #[must_use]
    pub fn real_path(&self) -> &Path {
        &self.real_path
    }

    /// Its attributes now.
    ///
    /// # Errors
    /// The system's error.
    pub fn stat(&self) -> std::result::Result<Stat, Errno> {
        self.stat_open(&self.file(&self.path)?)
    }

    fn file(&self, path: &EntryPath) -> std::result::Result<File, Errno> {
        if *path != self.path {
            return Err(Errno::NOENT);
        }
        if self.device.is_none() {
            return self.folder.open_file(&self.name);
        }
        // With O_NONBLOCK, some drives open without their medium.
        self.folder.open_at(&self.name, OFlags::RDONLY, Mode::empty()).map(File::from)
    }

    fn stat_open(&self, file: &File) -> std::result::Result<Stat, Errno> {
        let stat = fstat(file)?;
        match self.device {
            None => Ok(stat),
            Some(device) if is_kind(&stat, FileType::BlockDevice) && stat.st_rdev == device => {
                as_file(stat, file, self.opened_ns)
            }
            Some(_) => Err(Errno::NODEV),
        }
    }
}

/// The attributes of an open file or device now; `before` are its earlier ones from [`Base::stat`].
///
/// # Errors
/// The system's error.
pub fn restat(file: &File, before: &Stat) -> std::result::Result<Stat, Errno> {
    let stat = fstat(file)?;
    if is_kind(&stat, FileType::BlockDevice) {
        as_file(stat, file, crate::folder::mtime_ns(before))
    } else {
        Ok(stat)
    }
}

/// The attributes of a device's content as a file.
fn as_file(stat: Stat, file: &File, time_ns: i64) -> std::result::Result<Stat, Errno> {
    let mut stat = stat;
    // stat gives size 0; the size is the position of its end. The position of the file stays, for
    // the caller that reads on.
    let at = seek(file, SeekFrom::Current(0))?;
    let size = seek(file, SeekFrom::End(0))?;
    seek(file, SeekFrom::Start(at))?;
    stat.st_size = i64::try_from(size).map_err(|_| Errno::FBIG)?;
    stat.st_mode = FileType::RegularFile.as_raw_mode() | DEVICE_MODE;
    stat.st_nlink = 1;
    stat.st_dev = stat.st_rdev;
    let (seconds, nanoseconds) = (time_ns.div_euclid(1_000_000_000), time_ns.rem_euclid(1_000_000_000));
    (stat.st_mtime, stat.st_mtime_nsec) = (seconds, nanoseconds.unsigned_abs());
    (stat.st_ctime, stat.st_ctime_nsec) = (stat.st_mtime, stat.st_mtime_nsec);
    Ok(stat)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn message(path: &Path) -> (ErrorKind, String) {
        let error = Base::open(path).err().unwrap();
        (error.kind(), error.to_string())
    }

    #[test]
    fn a_link_is_followed_and_keeps_its_name() {
        let lab = tempfile::tempdir().unwrap();
        let lab = lab.path().canonicalize().unwrap();
        std::fs::create_dir(lab.join("far")).unwrap();
        std::fs::write(lab.join("far/file"), "content").unwrap();
        symlink("far/file", lab.join("link")).unwrap();
        symlink("far", lab.join("folder")).unwrap();
        let base = Base::open(&lab.join("link")).unwrap();
        let single = base.single().unwrap();
        assert_eq!((single.path().as_bytes(), single.real_path()), (&b"link"[..], &*lab.join("far/file")));
        assert_eq!(single.stat().unwrap().st_size, 7);
        assert!(base.open_file(&EntryPath::new(&b"file"[..]).unwrap()).is_err());
        assert_eq!(resolved(&lab.join("link")).unwrap(), lab.join("link"));
        assert_eq!(resolved(&lab.join("folder/file")).unwrap(), lab.join("far/file"));
        assert_eq!(resolved(&lab.join("folder")).unwrap(), lab.join("far"));
        assert_eq!(resolved(Path::new("/")).unwrap(), Path::new("/"));
        assert!(resolved(&lab.join("nothing/file")).is_err());
    }

    #[test]
    fn refuses_a_base_of_another_kind() {
        let lab = tempfile::tempdir().unwrap();
        let at = |name: &str| lab.path().join(name);
        let fifo = FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        std::fs::write(at(".tar-like"), "").unwrap();
        symlink("nowhere", at("broken")).unwrap();
        for (path, what) in [
            (at("fifo"), "is a FIFO"),
            (at("socket"), "is a socket"),
            ("/dev/null".into(), "is a character device"),
            (at(".tar-like"), "cannot be in an index"),
        ] {
            let (kind, text) = message(&path);
            assert!(kind == ErrorKind::Usage && text.contains(what), "{text}");
        }
        for name in ["broken", "missing", "fifo/x"] {
            assert_eq!(message(&at(name)).0, ErrorKind::Io, "{name}");
        }
    }
}
