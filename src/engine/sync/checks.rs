//! What is refused before anything is made.

use super::super::destination::Destination;
use crate::engine::index::IndexOptions;
use crate::error::{Error, ErrorKind, Result};
use crate::source::base::{Base, folder_of, resolved};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The destination with the path to which its folder really leads.
///
/// # Errors
/// The source cannot be opened, or the folder is none, or the copy would take the place of its
/// source or contain itself.
pub(super) fn resolve(destination: Destination, index: &IndexOptions) -> Result<Destination> {
    let source = index.bucket.is_none().then_some(&*index.base);
    source.map(Base::open).transpose()?;
    let Destination::Folder { path, starter } = destination else { return Ok(destination) };
    let path = folder(&path, source)?;
    Ok(Destination::Folder { path, starter })
}

/// `source` is the folder, file or device that is copied, if it is no bucket.
fn folder(given: &Path, source: Option<&Path>) -> Result<PathBuf> {
    let usage = |what: String, hint: &'static str| Error::new(ErrorKind::Usage, what).with_hint(hint);
    let folder = real_path(given)
        .map_err(|e| Error::io(format!("cannot resolve the destination folder {}", given.display()), e))?;
    if folder.exists() && !folder.is_dir() {
        let what = format!("the destination {} is not a folder", folder.display());
        return Err(usage(what, "the copy gets the names of the source in a folder; give that folder"));
    }
    let source = source.map(|source| {
        resolved(source).map_err(|e| Error::io(format!("cannot open the source {}", source.display()), e))
    });
    let Some(source) = source.transpose()? else { return Ok(folder) };
    if !source.is_dir() && is_same_folder(folder_of(&source), &folder) {
        let what = format!("the source {} lies in the destination {}", source.display(), folder.display());
        return Err(usage(what, "the copy would replace its own source; choose another folder"));
    }
    if source.is_file() && !folder.exists() && is_like(&source, &folder) {
        let what = format!(
            "the destination {} looks like a name for the file, but it is the folder that gets the file",
            folder.display()
        );
        return Err(usage(
            what,
            "give the folder alone; or make it before, if a folder is to have this name",
        ));
    }
    if folder.starts_with(&source) {
        let what = format!("the destination {} lies in the source {}", folder.display(), source.display());
        return Err(usage(what, "the copy would contain itself; choose a destination outside of the source"));
    }
    Ok(folder)
}

/// Whether both have the same name or the same ending, such as `.img`.
fn is_like(file: &Path, folder: &Path) -> bool {
    let has_ending = file.extension().is_some() && file.extension() == folder.extension();
    file.file_name() == folder.file_name() || has_ending
}

/// Whether both exist and are the same folder, by whatever names.
fn is_same_folder(one: &Path, other: &Path) -> bool {
    let inode = |path: &Path| path.metadata().map(|folder| (folder.dev(), folder.ino())).ok();
    inode(one).is_some_and(|one| Some(one) == inode(other))
}

/// Where `path` leads. It need not exist.
fn real_path(path: &Path) -> std::io::Result<PathBuf> {
    match path.canonicalize() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        other => return other,
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return std::path::absolute(path);
    };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    Ok(real_path(parent)?.join(name))
}
