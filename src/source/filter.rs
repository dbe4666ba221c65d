//! What of a source is copied: rules for paths, files of rules in its folders, a list of paths, and
//! limits of size and time.

mod ignore_files;
mod listed;

use crate::archive::path_rules::{PathRule, PathRules, RuleAction, folders_above};
use crate::archive::shard::Shard;
use crate::error::Result;
use crate::telemetry::Counter;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub(super) use ignore_files::IgnoreFiles;
pub use listed::ListedPaths;

/// What to leave out.
#[derive(Debug, Default)]
pub struct FilterOptions {
    /// Rules in their order: the first that matches a path decides.
    pub rules: Vec<FilterRule>,
    /// The name of files with further rules for the folder that each lies in, in the syntax of
    /// `.gitignore`.
    pub ignore_files: Option<Vec<u8>>,
    /// Only these paths are copied, with what is in the folders among them.
    pub listed: Option<ListedPaths>,
    /// Files that have fewer bytes are left out.
    pub min_size: Option<u64>,
    /// Files that have more bytes are left out.
    pub max_size: Option<u64>,
    /// Files that changed at this time or before, in nanoseconds since 1970, are left out.
    pub newer_ns: Option<i64>,
    /// Leave out what is on other file systems than the base.
    pub one_file_system: bool,
    /// Only this part of the source is copied. What is of other parts is not left out: it is another
    /// source's.
    pub shard: Option<Shard>,
}

/// A rule with where it comes from.
#[derive(Debug, Clone)]
pub struct FilterRule {
    /// What it matches, and what follows.
    pub rule: PathRule,
    /// How messages name it, such as `--exclude '*.tmp'`.
    pub name: String,
    /// The file that has it, if it was not a flag.
    pub file: Option<String>,
}

/// What to leave out, and what it has matched since [`Filter::restart`]. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Filter(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    rules: PathRules,
    options: FilterOptions,
    /// Whether each rule has matched anything.
    matched: Vec<AtomicBool>,
    left_out: Counter,
}

/// What is decided about an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is copied, since no rule matches it or this one says so.
    Kept(Option<String>),
    /// It is left out, because of this.
    LeftOut(String),
}

/// What is decided about a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PathVerdict {
    /// Nothing that leaves it out.
    Kept,
    /// The rule of this number keeps it.
    Included(usize),
    /// The rule of this number leaves it out.
    Excluded(usize),
    /// It is not listed.
    Unlisted,
}

/// How many patterns of a file a warning names.
const NAMED_PATTERNS: usize = 5;

impl Filter {
    /// # Errors
    /// A pattern is wrong, or all of them are too large.
    pub fn new(options: FilterOptions) -> Result<Self> {
        let rules = PathRules::new(options.rules.iter().map(|rule| rule.rule.clone()).collect())?;
        let matched = options.rules.iter().map(|_| AtomicBool::default()).collect();
        Ok(Self(Arc::new(Inner { rules, options, matched, left_out: Counter::default() })))
    }

    /// The options that it was made of.
    #[must_use]
    pub fn options(&self) -> &FilterOptions {
        &self.0.options
    }

    /// Whether the entry at `path` is of the part that is copied.
    #[must_use]
    pub fn is_of_shard(&self, path: &[u8], is_dir: bool) -> bool {
        is_dir || self.0.options.shard.is_none_or(|shard| shard.has(path))
    }

    /// Whether it may leave out any path because of what the path is.
    #[must_use]
    pub fn has_path_rules(&self) -> bool {
        !self.0.options.rules.is_empty() || self.0.options.listed.is_some()
    }

    /// A scan begins: nothing has matched yet.
    pub fn restart(&self) {
        self.0.matched.iter().for_each(|matched| matched.store(false, Ordering::Relaxed));
        self.0.left_out.set(0);
        if let Some(listed) = &self.0.options.listed {
            listed.restart();
        }
    }

    /// How many entries were left out: a folder counts as one, with everything in it.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.0.left_out.get()
    }

    /// Counts an entry that is left out.
    pub fn count(&self, path: &[u8]) {
        self.0.left_out.add(1);
        self.not_missing(path);
    }

    /// Listed paths that lie in `path` are not missing in the source: it was not looked for them.
    pub(super) fn not_missing(&self, path: &[u8]) {
        if let Some(listed) = &self.0.options.listed {
            listed.meet_below(path);
        }
    }

    /// What is decided about `path` itself, relative to the base, if no folder above it is left
    /// out.
    pub(super) fn of_path(&self, path: &[u8], is_dir: bool) -> PathVerdict {
        if self.0.options.listed.as_ref().is_some_and(|listed| !listed.meet(path)) {
            return PathVerdict::Unlisted;
        }
        let mut first = None;
        for rule in self.0.rules.matching(path, is_dir) {
            self.0.matched[rule].store(true, Ordering::Relaxed);
            first = first.or(Some(rule));
        }
        first.map_or(PathVerdict::Kept, |rule| match self.0.rules.rules()[rule].action {
            RuleAction::Include => PathVerdict::Included(rule),
            RuleAction::Exclude => PathVerdict::Excluded(rule),
        })
    }

    /// Which limit leaves out a file of `size` bytes that changed at `mtime_ns`.
    #[must_use]
    pub fn of_file(&self, size: u64, mtime_ns: i64) -> Option<&'static str> {
        let FilterOptions { min_size, max_size, newer_ns, .. } = self.options();
        match () {
            () if min_size.is_some_and(|min| size < min) => Some("--min-size"),
            () if max_size.is_some_and(|max| size > max) => Some("--max-size"),
            () if newer_ns.is_some_and(|newer| mtime_ns <= newer) => Some("--newer"),
            () => None,
        }
    }

    /// What is decided about `path` by `of_entry`, which says it of one entry: the folders above
    /// it, outermost first, then itself. Gives also the path about which it was decided.
    pub(super) fn explain(
        path: &[u8],
        is_dir: bool,
        mut of_entry: impl FnMut(&[u8], bool) -> Verdict,
    ) -> (Verdict, &[u8]) {
        for folder in folders_above(path) {
            if let left_out @ Verdict::LeftOut(_) = of_entry(folder, true) {
                return (left_out, folder);
            }
        }
        (of_entry(path, is_dir), path)
    }

    /// The same in words.
    pub(super) fn verdict(&self, verdict: PathVerdict) -> Verdict {
        let name = |rule: usize| self.0.options.rules[rule].name.clone();
        match verdict {
            PathVerdict::Kept => Verdict::Kept(None),
            PathVerdict::Included(rule) => Verdict::Kept(Some(name(rule))),
            PathVerdict::Excluded(rule) => Verdict::LeftOut(name(rule)),
            PathVerdict::Unlisted => Verdict::LeftOut("--files-from, which does not list it".to_string()),
        }
    }

    /// What is decided about the key `path` of a bucket by its path alone, and about which part of
    /// the path. A key with a slash at its end is a folder.
    #[must_use]
    pub fn explain_key<'p>(&self, path: &'p [u8]) -> (Verdict, &'p [u8]) {
        let (path, is_dir) = path.strip_suffix(b"/").map_or((path, false), |path| (path, true));
        Self::explain(path, is_dir, |path, is_dir| self.verdict(self.of_path(path, is_dir)))
    }

    /// Whether [`Filter::explain_key`] leaves out the key.
    #[must_use]
    pub fn leaves_out_key(&self, path: &[u8]) -> bool {
        matches!(self.explain_key(path).0, Verdict::LeftOut(_))
    }

    /// Whether the key `path`, which is no folder, is left out, if none of its folders is.
    #[must_use]
    pub fn leaves_out_name(&self, path: &[u8]) -> bool {
        matches!(self.of_path(path, false), PathVerdict::Excluded(_) | PathVerdict::Unlisted)
    }

    /// The rules as a receiver gets them, so that it leaves alone what they leave out.
    #[must_use]
    pub fn rule_texts(&self) -> Vec<String> {
        self.0.rules.rules().iter().filter_map(PathRule::to_text).collect()
    }

    /// Listed paths that the source does not have.
    #[must_use]
    pub fn missing(&self) -> Vec<Vec<u8>> {
        self.0.options.listed.as_ref().map(ListedPaths::missing).unwrap_or_default()
    }

    /// What to warn of after a scan: rules that have matched nothing.
    #[must_use]
    pub fn unmatched(&self) -> Vec<String> {
        let rules = &self.0.options.rules;
        let is_matched = |number: &usize| self.0.matched[*number].load(Ordering::Relaxed);
        let (mut warnings, mut files) = (Vec::new(), Vec::new());
        for number in (0..rules.len()).filter(|number| !is_matched(number)) {
            match &rules[number].file {
                None => warnings.push(format!("{} matched nothing", rules[number].name)),
                Some(file) if files.contains(&file) => {}
                Some(file) => files.push(file),
            }
        }
        for file in files {
            let of_file = |number: &usize| rules[*number].file.as_ref() == Some(file);
            let all: Vec<usize> = (0..rules.len()).filter(of_file).collect();
            let none: Vec<usize> = all.iter().filter(|number| !is_matched(number)).copied().collect();
            let quoted = |number: &usize| rules[*number].rule.quoted();
            let named: Vec<String> = none.iter().take(NAMED_PATTERNS).map(quoted).collect();
            let more = if none.len() > NAMED_PATTERNS { ", …" } else { "" };
            let (count, total, named) = (none.len(), all.len(), named.join(", "));
            warnings.push(format!("{count} of {total} patterns in {file} matched nothing: {named}{more}"));
        }
        warnings
    }
}

#[cfg(test)]
mod tests;
