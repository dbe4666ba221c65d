//! Which rule decides whether a path of a source is copied.

use super::options::IndexOptions;
use super::stat::walk_of;
use crate::archive::path::printable;
use crate::error::{Error, ErrorKind, Result};
use crate::source::filter::Verdict;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What is decided about a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The path, relative to the source.
    pub path: Vec<u8>,
    /// The path or a folder above it: the one that a rule has decided about.
    pub decided: Vec<u8>,
    /// Whether the path is left out.
    pub left_out: bool,
    /// The rule that has decided; `None` if there was none.
    pub rule: Option<String>,
}

/// Says what the filter of `options` decides about `path`, which is relative to the source or lies
/// in it. Of a bucket, the path alone counts.
///
/// # Errors
/// The source cannot be opened, or the path leads out of it.
pub fn explain(options: &IndexOptions, path: &Path) -> Result<Explanation> {
    let inside = relative(options, path)?;
    let (verdict, decided) = match &options.bucket {
        Some(_) => options.filter.explain_key(&inside),
        None => walk_of(options)?.1.explain(inside.strip_suffix(b"/").unwrap_or(&inside)),
    };
    let (left_out, rule) = match verdict {
        Verdict::Kept(rule) => (false, rule),
        Verdict::LeftOut(rule) => (true, Some(rule)),
    };
    let decided = decided.to_vec();
    Ok(Explanation { path: inside, decided, left_out, rule })
}

fn relative(options: &IndexOptions, path: &Path) -> Result<Vec<u8>> {
    let outside = || {
        let what = format!("{} is no path in {}", path.display(), options.source_name().display());
        Error::new(ErrorKind::Usage, what).with_hint("give it relative to the source")
    };
    let inside = match path.is_absolute() && options.bucket.is_none() {
        true => {
            let of_source =
                path.strip_prefix(&options.base).or_else(|_| path.strip_prefix(options.source_name()));
            of_source.map_err(|_| outside())?
        }
        false => path,
    };
    let is_folder = path.as_os_str().as_bytes().ends_with(b"/");
    let names = inside.as_os_str().as_bytes().split(|&byte| byte == b'/');
    let names: Vec<&[u8]> = names.filter(|name| !matches!(*name, b"" | b".")).collect();
    if names.is_empty() || names.contains(&&b".."[..]) {
        return Err(outside());
    }
    Ok([&names.join(&b'/')[..], if is_folder { b"/" } else { b"" }].concat())
}

/// For people.
impl std::fmt::Display for Explanation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let word = if self.left_out { "left out" } else { "copied" };
        let path = self.path.strip_suffix(b"/").unwrap_or(&self.path);
        write!(f, "{} is {word}: ", printable(&self.path))?;
        match &self.rule {
            None => f.write_str("no rule matches it"),
            Some(rule) if *self.decided == *path => f.write_str(rule),
            Some(rule) => write!(f, "{rule} leaves out {}", printable(&self.decided)),
        }
    }
}
