//! What is refused before anything is made.

use super::super::destination::Destination;
use crate::engine::index::IndexOptions;
use crate::error::{Error, ErrorKind, Result};
use crate::source::base::{Base, folder_of, resolved};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Refuses what a run refuses of its places, ahead of it.
///
/// # Errors
/// As where the run begins.
pub fn check_places(destination: &Destination, index: &IndexOptions) -> Result<()> {
    resolve(destination.clone(), index).map(drop)
}

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
    let folder = real_path(given)?;
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
    if !source.is_dir() && !folder.exists() && is_name_of_file(&source, given) {
        return Err(refused_name(&source, given));
    }
    if folder.starts_with(&source) {
        let what = format!("the destination {} lies in the source {}", folder.display(), source.display());
        return Err(usage(what, "the copy would contain itself; choose a destination outside of the source"));
    }
    Ok(folder)
}

/// Whether a destination that does not exist seems to be the name that the copy of `source` is to
/// have: it has no slash at its end, and the source's name, or an ending such as `.img`.
fn is_name_of_file(source: &Path, given: &Path) -> bool {
    let has_slash = given.as_os_str().as_bytes().ends_with(b"/");
    !has_slash && (given.extension().is_some() || given.file_name() == source.file_name())
}

/// `given` would become a folder with the source in it, which rsync, cp and rclone do not make.
fn refused_name(source: &Path, given: &Path) -> Error {
    let name = given.display();
    let what = format!("the destination {name} looks like a name for the file, and it would be a folder");
    let folder = match given.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let copy = folder.join(source.file_name().unwrap_or_default());
    Error::new(ErrorKind::Usage, what).with_hint(format!(
        "the copy keeps the name of the file: type {} for {}, or {name}/ for a folder of that name",
        folder.display(),
        copy.display()
    ))
}

/// Whether both exist and are the same folder, by whatever names.
fn is_same_folder(one: &Path, other: &Path) -> bool {
    let inode = |path: &Path| path.metadata().map(|folder| (folder.dev(), folder.ino())).ok();
    inode(one).is_some_and(|one| Some(one) == inode(other))
}

/// Where the destination `path` leads. It need not exist.
///
/// # Errors
/// What exists of it cannot be entered. [`ErrorKind::Usage`]: nothing says where it would lead.
fn real_path(path: &Path) -> Result<PathBuf> {
    let shown = path.display();
    let failed = |e| Error::io(format!("cannot resolve the destination folder {shown}"), e);
    match path.canonicalize() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        other => return other.map_err(failed),
    }
    if let Ok(target) = path.read_link() {
        let what = format!(
            "the destination {shown} is a symbolic link to {}, which does not exist",
            target.display()
        );
        return Err(
            Error::new(ErrorKind::Usage, what).with_hint("make that folder, or name it as the destination")
        );
    }
    let Some(parent) = path.parent() else { return std::path::absolute(path).map_err(failed) };
    // Before the folder exists, `..` behind it leads nowhere; afterwards it could lead into the source.
    let Some(name) = path.file_name() else {
        let what = format!("the destination leads through {shown}, and {} does not exist", parent.display());
        return Err(Error::new(ErrorKind::Usage, what).with_hint("name the destination without this detour"));
    };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    Ok(real_path(parent)?.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_where_it_will_lead_or_refused() {
        let lab = tempfile::tempdir().unwrap();
        let base = lab.path().canonicalize().unwrap();
        std::fs::create_dir(base.join("b")).unwrap();
        std::os::unix::fs::symlink("b", base.join("link")).unwrap();
        std::os::unix::fs::symlink("gone", base.join("dangling")).unwrap();
        for (given, leads) in
            [("b/../new/x", "new/x"), ("link/x/y", "b/x/y"), ("b/./..", ""), ("new/.", "new")]
        {
            assert_eq!(real_path(&base.join(given)).unwrap(), base.join(leads), "{given}");
        }
        for given in ["nope/../b/z", "nope/..", "b/nope/../../b", "dangling", "dangling/x", "dangling/../b"] {
            let error = folder(&base.join(given), Some(&base.join("b"))).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage, "{given}: {error}");
            assert!(error.to_string().contains("does not exist"), "{given}: {error}");
        }
    }

    #[test]
    fn names_of_files_are_told_from_folders() {
        let is_name = |given: &str| is_name_of_file(Path::new("/src/disk.img"), Path::new(given));
        for name in ["/dst/disk.img", "/dst/other.img", "out.txt", "../disk.img", "/dst/v1.2"] {
            assert!(is_name(name), "{name}");
        }
        for folder in ["/dst", "dst/", "/dst/disk.img/", "/dst/out.d/", ".", "..", "/", ".hidden", "a.b/c"] {
            assert!(!is_name(folder), "{folder}");
        }
        let hint =
            |given| refused_name(Path::new("/src/disk.img"), Path::new(given)).hint().unwrap().to_owned();
        assert!(hint("/dst/out.img").contains("type /dst for /dst/disk.img, or /dst/out.img/ for"));
        assert!(hint("out").contains("type . for ./disk.img"));
    }
}
