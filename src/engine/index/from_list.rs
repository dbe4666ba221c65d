//! An index from a list of md5, size and path, as `md5sum` or a store's inventory gives it. No
//! content is read.

use super::listing::{ListedEntry, listed_entries};
use super::options::IndexOptions;
use super::report::IndexReport;
use super::stat::record_top_of;
use crate::archive::digest::{Md5, md5};
use crate::archive::entry::{FileEntry, Meta, Node};
use crate::archive::path::{EntryPath, printable};
use crate::archive::skipped::SkippedList;
use crate::archive::source::SourceIdentity;
use crate::db::index_write::{IndexWriter, Written};
use crate::db::listing::{Clash, ListedObject, Listing};
use crate::engine::identity::record_identity;
use crate::error::{Error, ErrorKind, Result};
use crate::folder::{Folder, is_kind, meta_of};
use crate::source::SkippedEntry;
use crate::source::base::folder_of;
use crate::telemetry::Monitor;
use crate::unix_time::{now_ns, now_s};
use rustix::fs::{FileType, Stat};
use std::borrow::Cow;
use std::io::BufRead;

/// Digits of an md5.
const MD5_DIGITS: usize = 32;
/// The mode of a file that is not there to be asked.
const FILE_MODE: u32 = 0o644;
/// The longest line that is no mistake, in bytes: a path of the largest length, all escaped.
const MAX_LINE_BYTES: u64 = 64 << 10;

const FORMS: &str = "a line is an md5, then the size in bytes if it is known, then the path: \
                     \"MD5  PATH\" as md5sum writes it, or \"MD5 SIZE PATH\" with one blank or tab each";

/// A line of a list.
#[derive(Debug, PartialEq, Eq)]
struct Line<'a> {
    md5: Md5,
    /// In bytes.
    size: Option<u64>,
    path: Cow<'a, [u8]>,
}

/// Makes a fresh index of the files that `list` names, which lie in the base folder. Metadata and
/// sizes that the list does not have are those of the files there.
///
/// The next generation of this index reads every file: a list does not say when a file was read.
///
/// # Errors
/// A line is wrong or cannot be read, a path comes twice, a size is not known, or the database
/// cannot be written.
pub fn index_from_list(
    list: impl BufRead,
    options: &IndexOptions,
    monitor: &dyn Monitor,
) -> Result<IndexReport> {
    let started_s = now_s();
    let source = options.identity()?;
    let mut base = ListedBase::open(options)?;
    let listing = Listing::create(folder_of(&options.database))?;
    read_lines(list, monitor, |line| {
        let path = EntryPath::new(line.path.strip_prefix(b"./").unwrap_or(&line.path))
            .map_err(|why| format!("{} {why}", printable(&line.path)))?;
        let size = match line.size {
            Some(size) => size,
            None => base.size(&path)?,
        };
        if size == 0 && line.md5 != md5(b"") {
            return Err(format!("{path} has 0 bytes, of which this is not the md5"));
        }
        let (etag, clash) = (line.md5.to_string(), Clash::None);
        let object = ListedObject { path, is_folder: false, size, etag, modified_ns: 0, clash };
        match listing.add(&object, None) {
            Ok(true) => Ok(()),
            Ok(false) => Err(format!("{} comes twice", object.path)),
            Err(e) => Err(e.to_string()),
        }
    })?;
    let report = write(&listing, &mut base, options, monitor, (&source, started_s))?;
    if base.folder.is_some() {
        record_top_of(options)?;
    }
    record_identity(&options.database, &source)?;
    Ok(report)
}

/// Gives every line to `each`, which says what is wrong with it.
fn read_lines(
    mut list: impl BufRead,
    monitor: &dyn Monitor,
    mut each: impl FnMut(Line<'_>) -> std::result::Result<(), String>,
) -> Result<()> {
    let (mut line, mut number) = (Vec::new(), 0u64);
    loop {
        line.clear();
        number += 1;
        let read = std::io::Read::take(&mut list, MAX_LINE_BYTES).read_until(b'\n', &mut line);
        if read.map_err(|e| Error::io(format!("cannot read line {number} of the list"), e))? == 0 {
            return Ok(());
        }
        if monitor.is_cancelled() {
            return Err(Error::new(ErrorKind::Interrupted, "interrupted"));
        }
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        if text.is_empty() {
            continue;
        }
        let parsed = parse(text).ok_or_else(|| "this is no md5 and path".to_string());
        parsed.and_then(&mut each).map_err(|why| {
            Error::new(ErrorKind::Usage, format!("line {number} of the list: {why}")).with_hint(FORMS)
        })?;
        monitor.counters().files_total.add(1);
    }
}

/// Reads a line; `None` if it is none.
fn parse(line: &[u8]) -> Option<Line<'_>> {
    let (line, escaped) = line.strip_prefix(b"\\").map_or((line, false), |line| (line, true));
    let (md5, rest) = line.split_at_checked(MD5_DIGITS)?;
    let md5 = std::str::from_utf8(md5).ok()?.to_ascii_lowercase().parse().ok()?;
    let (size, path) = match rest {
        [b' ', b' ' | b'*', path @ ..] => (None, path),
        [b' ' | b'\t', rest @ ..] => sized(rest),
        _ => return None,
    };
    if path.is_empty() {
        return None;
    }
    let path = if escaped { Cow::Owned(unescaped(path)?) } else { Cow::Borrowed(path) };
    Some(Line { md5, size, path })
}

/// Splits a size from the path behind it, if there is one.
fn sized(text: &[u8]) -> (Option<u64>, &[u8]) {
    let end = text.iter().position(|byte| matches!(byte, b' ' | b'\t'));
    let size = |end: usize| std::str::from_utf8(&text[..end]).ok()?.parse::<u64>().ok();
    let sized = end.and_then(|end| Some((size(end)?, &text[end + 1..])));
    match sized.filter(|(size, _)| i64::try_from(*size).is_ok()) {
        Some((size, path)) => (Some(size), path),
        None => (None, text),
    }
}

/// A path as `md5sum` writes it in a line that begins with a backslash.
fn unescaped(path: &[u8]) -> Option<Vec<u8>> {
    let (mut plain, mut bytes) = (Vec::with_capacity(path.len()), path.iter());
    while let Some(&byte) = bytes.next() {
        plain.push(match byte {
            b'\\' => match bytes.next()? {
                b'\\' => b'\\',
                b'n' => b'\n',
                b'r' => b'\r',
                _ => return None,
            },
            byte => byte,
        });
    }
    Some(plain)
}

/// The folder that the paths are relative to, if it is there.
struct ListedBase {
    folder: Option<Folder>,
    /// The last folder in it that was opened.
    parent: (Vec<u8>, Option<Folder>),
    name: String,
}

impl ListedBase {
    fn open(options: &IndexOptions) -> Result<Self> {
        let name = options.base.display().to_string();
        let folder = match Folder::open(&options.base) {
            Ok(folder) => Some(folder),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => return Err(Error::io(format!("cannot open the base folder {name}"), e)),
        };
        Ok(Self { folder, parent: (Vec::new(), None), name })
    }

    /// The attributes of what is at `path`, if it is there.
    fn stat(&mut self, path: &EntryPath) -> Option<Stat> {
        let base = self.folder.as_ref()?;
        let (parent, name) = path.split();
        if self.parent.1.is_none() || self.parent.0 != parent {
            self.parent = (parent.to_vec(), base.open_folder(parent).ok());
        }
        self.parent.1.as_ref()?.stat(name).ok().flatten()
    }

    /// The same of a file alone.
    fn file(&mut self, path: &EntryPath) -> Option<Stat> {
        self.stat(path).filter(|stat| is_kind(stat, FileType::RegularFile))
    }

    fn size(&mut self, path: &EntryPath) -> std::result::Result<u64, String> {
        let stat = self
            .file(path)
            .ok_or_else(|| format!("the line has no size, and there is no file {path} in {}", self.name))?;
        Ok(u64::try_from(stat.st_size).unwrap_or(0))
    }
}

fn write(
    listing: &Listing,
    base: &mut ListedBase,
    options: &IndexOptions,
    monitor: &dyn Monitor,
    (source, started_s): (&SourceIdentity, u64),
) -> Result<IndexReport> {
    let mut writer = IndexWriter::create(&options.database)?;
    let mut skipped_list = SkippedList::default();
    let mut skip = |skipped: &SkippedEntry| {
        skipped_list.add(skipped.kind, &skipped.path);
        skipped.report(monitor);
    };
    let default = Meta { mode: FILE_MODE, mtime_ns: now_ns(), uid: 0, gid: 0 };
    listed_entries(listing, |entry| {
        match entry {
            ListedEntry::Skipped(skipped) => skip(&skipped),
            ListedEntry::Folder(node) => {
                let stat = base.stat(&node.path).filter(|stat| is_kind(stat, FileType::Directory));
                if let Some(stat) = stat {
                    writer.node(&Node { meta: Some(meta_of(&stat)), ..node })?;
                }
            }
            ListedEntry::Object(object) => {
                let stat = base.file(&object.path);
                let other_size = stat.filter(|stat| u64::try_from(stat.st_size) != Ok(object.size));
                if let Some(stat) = other_size {
                    let reason = format!("it has {} bytes, the list says {}", stat.st_size, object.size);
                    skip(&SkippedEntry::unreadable(object.path.as_bytes(), reason));
                    return Ok(!monitor.is_cancelled());
                }
                let meta = stat.map_or(default, |stat| meta_of(&stat));
                writer.file(&row_of(object, meta, &writer)?)?;
                monitor.counters().files_done.add(1);
            }
        }
        Ok(!monitor.is_cancelled())
    })?;
    if monitor.is_cancelled() {
        return Err(Error::new(ErrorKind::Interrupted, "interrupted"));
    }
    writer.skipped(1, &skipped_list)?;
    writer.source(&source.id)?;
    let Written { digest, files, nodes, total_bytes } =
        writer.finish(&options.source_bytes(), 1, started_s)?;
    Ok(IndexReport {
        digest,
        files,
        nodes,
        total_bytes,
        content_bytes: total_bytes,
        skipped: skipped_list.total(),
        excluded: 0,
        unchanged: false,
        generation: 1,
        changes: None,
    })
}

/// The next row of `writer`.
fn row_of(object: ListedObject, meta: Meta, writer: &IndexWriter) -> Result<FileEntry> {
    let md5 = object.etag.parse().map_err(|_| {
        Error::new(ErrorKind::Internal, format!("the md5 of {} that was read is none", object.path))
    })?;
    Ok(FileEntry {
        id: writer.files(),
        path: object.path,
        size: object.size,
        offset: writer.total_bytes(),
        fragmented: false,
        md5: Some(md5),
        blake3: None,
        meta: Some(meta),
        origin: None,
        object: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MD5: &str = "0123456789abcdef0123456789ABCDEF";

    #[test]
    fn lines_of_each_form() {
        let cases: &[(&str, Option<u64>, &[u8])] = &[
            ("  a b", None, b"a b"),
            (" *a", None, b"a"),
            ("  12 a", None, b"12 a"),
            (" 12 a b", Some(12), b"a b"),
            ("\t12\ta\tb", Some(12), b"a\tb"),
            (" 0 ./a", Some(0), b"./a"),
            (" a b", None, b"a b"),
            ("\ta", None, b"a"),
            (" 12", None, b"12"),
            (" -1 a", None, b"-1 a"),
        ];
        for (rest, size, path) in cases {
            let line = format!("{MD5}{rest}");
            let parsed = parse(line.as_bytes()).unwrap_or_else(|| panic!("{line}"));
            assert_eq!((parsed.size, &*parsed.path), (*size, *path), "{line}");
            assert_eq!(parsed.md5.to_string(), MD5.to_ascii_lowercase());
        }
        let escaped = format!("\\{MD5}  a\\nb\\\\c\\r");
        assert_eq!(&*parse(escaped.as_bytes()).unwrap().path, b"a\nb\\c\r");
        for wrong in
            ["", "a", &MD5[1..], MD5, &format!("{MD5}a"), &format!("{MD5}  "), &format!("\\{MD5}  a\\x")]
        {
            assert_eq!(parse(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
