//! Files with rules for the folder that each lies in, such as `.gitignore`.

use crate::archive::path::printable;
use crate::archive::path_rules::{PathRules, RuleAction};
use crate::error::Error;
use crate::source::SkippedEntry;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The largest file of rules that is read, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The files of rules on the way to the present place of a walk.
pub(in crate::source) struct IgnoreFiles<'w> {
    base: &'w Path,
    name: &'w [u8],
    /// Folders, outermost first, each with the rules of its file.
    open: Vec<(Vec<u8>, PathRules)>,
}

/// What a file of rules decides.
pub(in crate::source) struct Decision {
    pub(in crate::source) leaves_out: bool,
    /// The rule, for people.
    pub(in crate::source) rule: String,
}

impl<'w> IgnoreFiles<'w> {
    /// Files called `name` in the folders of `base`.
    pub(in crate::source) fn new(base: &'w Path, name: &'w [u8]) -> Self {
        Self { base, name, open: Vec::new() }
    }

    /// What the files decide about `path`, which comes in the order of a walk; `None` if no rule
    /// matches. The file of the innermost folder comes first. A file that cannot be used goes to
    /// `failed`.
    pub(in crate::source) fn of_path(
        &mut self,
        path: &[u8],
        is_dir: bool,
        failed: impl FnOnce(SkippedEntry),
    ) -> Option<Decision> {
        let folder = path.iter().rposition(|&byte| byte == b'/').map_or(&b""[..], |end| &path[..end]);
        self.enter(folder, failed);
        self.open.iter().rev().find_map(|(folder, rules)| {
            let inside = if folder.is_empty() { path } else { &path[folder.len() + 1..] };
            let rule = &rules.rules()[rules.matching(inside, is_dir).next()?];
            let leaves_out = rule.action == RuleAction::Exclude;
            let rule = format!("{} in {}", rule.quoted(), printable(&self.path_in(folder)));
            Some(Decision { leaves_out, rule })
        })
    }

    /// Reads the file of `folder`, and lets go of those that are no way to it.
    fn enter(&mut self, folder: &[u8], failed: impl FnOnce(SkippedEntry)) {
        let is_above = |above: &[u8]| {
            above.is_empty()
                || folder.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
        };
        while self.open.last().is_some_and(|(open, _)| !is_above(open)) {
            self.open.pop();
        }
        if self.open.last().is_some_and(|(open, _)| open == folder) {
            return;
        }
        let rules = self.read(folder).unwrap_or_else(|e| {
            let reason = format!("this file of rules cannot be used, and leaves out nothing: {e}");
            failed(SkippedEntry::unreadable(&self.path_in(folder), reason));
            PathRules::default()
        });
        self.open.push((folder.to_vec(), rules));
    }

    fn path_in(&self, folder: &[u8]) -> Vec<u8> {
        if folder.is_empty() { self.name.to_vec() } else { [folder, b"/", self.name].concat() }
    }

    /// The rules of `folder`. A link is no file of rules, as for git.
    fn read(&self, folder: &[u8]) -> Result<PathRules, Error> {
        let path = self.base.join(OsStr::from_bytes(&self.path_in(folder)));
        let io = |e| Error::io("it cannot be read", e);
        match path.symlink_metadata() {
            Ok(meta) if meta.is_file() && meta.len() > MAX_FILE_BYTES => {
                Err(io(std::io::ErrorKind::FileTooLarge.into()))
            }
            Ok(meta) if meta.is_file() => PathRules::of_gitignore(&std::fs::read(&path).map_err(io)?),
            Ok(_) => Ok(PathRules::default()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(PathRules::default()),
            Err(e) => Err(io(e)),
        }
    }
}
