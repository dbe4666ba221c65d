//! The indexes that `sync` keeps, one for each source, in a folder of their own.

use super::identity::identity_of_base;
use crate::archive::skipped::SkippedList;
use crate::archive::source::file_name;
use crate::db::generation::{Generation, History};
use crate::db::index_read::IndexReader;
use crate::error::{Error, ErrorKind, Result};
use crate::source::base::resolved;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// One of them, and what it says; an error where it cannot be read.
pub struct KeptIndex {
    /// The file.
    pub path: PathBuf,
    /// What is known of it.
    pub newest: Result<KeptGeneration>,
}

/// The newest generation of an index.
pub struct KeptGeneration {
    /// Its number.
    pub number: u64,
    /// When it was made, in seconds since 1970. Later runs that found nothing new do not count.
    pub created_s: u64,
    /// Regular files.
    pub files: u64,
    /// The bytes of all files together.
    pub bytes: u64,
    /// The source.
    pub base: Option<PathBuf>,
    /// What the last run left out of the source ([`SkippedList::filter_text`]).
    pub filter: Option<String>,
}

impl KeptGeneration {
    fn read(path: &Path) -> Result<Self> {
        let reader = IndexReader::open(path)?;
        let filter = reader.skipped()?.as_ref().and_then(SkippedList::filter_text);
        let base = reader.base()?;
        drop(reader);
        let history = History::open(path)?;
        let newest = history.active()?;
        let Generation { number, created_s, files, bytes, .. } = *newest;
        Ok(Self { number, created_s, files, bytes, base, filter })
    }
}

/// Where the index of `source`, as an index records it, is in `folder`. One that earlier versions
/// have made of the same source, at `earlier`, stays where it is.
#[must_use]
pub fn kept_index(folder: &Path, earlier: Option<&Path>, source: &Path) -> PathBuf {
    let is_of_source = |path: &&Path| {
        let base = IndexReader::open(path).and_then(|reader| reader.base());
        base.is_ok_and(|base| base.as_deref() == Some(source))
    };
    match earlier.filter(is_of_source) {
        Some(earlier) => earlier.to_path_buf(),
        None => folder.join(file_name(&identity_of_base(source.as_os_str().as_bytes()))),
    }
}

/// Makes `folder`, which other users of the host may not read.
///
/// # Errors
/// The system's error.
pub(super) fn make_folder(folder: &Path) -> Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|e| {
        Error::io(format!("cannot make the folder of the indexes {}", folder.display()), e)
            .with_hint("give -db FILE, or set XDG_STATE_HOME to a folder that can be written to")
    })
}

/// All indexes in `folder`, in the order of their names, and the one at `earlier`, if it is there.
///
/// # Errors
/// The folder cannot be read.
pub fn list(folder: &Path, earlier: Option<&Path>) -> Result<Vec<KeptIndex>> {
    let failed = |e| Error::io(format!("cannot read the folder of the indexes {}", folder.display()), e);
    let mut paths: Vec<PathBuf> =
        earlier.filter(|path| path.exists()).map(Path::to_path_buf).into_iter().collect();
    match std::fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        entries => {
            for entry in entries.map_err(failed)? {
                let path = entry.map_err(failed)?.path();
                if path.extension().is_some_and(|extension| extension == "sqlite") {
                    paths.push(path);
                }
            }
        }
    }
    paths.sort();
    Ok(paths.into_iter().map(|path| KeptIndex { newest: KeptGeneration::read(&path), path }).collect())
}

/// The index of `source`, a path or an address as people give it.
///
/// # Errors
/// There is none.
pub fn index_of_source(folder: &Path, earlier: Option<&Path>, source: &Path) -> Result<PathBuf> {
    let wanted = resolved(source).unwrap_or_else(|_| source.to_path_buf());
    let is_of_source = |index: &KeptIndex| {
        let base = index.newest.as_ref().ok().and_then(|newest| newest.base.as_ref());
        base.is_some_and(|base| same_address(base, &wanted))
    };
    list(folder, earlier)?.into_iter().find(is_of_source).map(|index| index.path).ok_or_else(|| {
        let what = format!("sync has no index of {}", source.display());
        Error::new(ErrorKind::Usage, what)
            .with_hint("tar-like indexes lists those that it has; -db FILE names another one")
    })
}

/// Whether both are one path or address, whatever slash is at their ends.
fn same_address(one: &Path, other: &Path) -> bool {
    let trimmed =
        |path: &Path| path.as_os_str().as_bytes().trim_ascii_end().strip_suffix(b"/").map(<[u8]>::to_vec);
    let bytes = |path: &Path| trimmed(path).unwrap_or_else(|| path.as_os_str().as_bytes().to_vec());
    one == other || bytes(one) == bytes(other)
}
