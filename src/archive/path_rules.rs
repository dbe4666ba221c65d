//! Rules that leave paths out: the first one that matches decides. A sender's rules hold for its
//! source, and, so that a receiver leaves alone what they leave out, for the copy.

use super::glob::{GlobSyntax, to_regex};
use super::path::{printable, unprintable};
use super::shown::shown;
use crate::error::{Error, ErrorKind, Result};
use regex::bytes::{RegexSet, RegexSetBuilder};

/// What a rule does with the paths that it matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RuleAction {
    /// They are left out, folders with all that is in them.
    Exclude,
    /// No later rule leaves them out.
    Include,
}

/// How a rule is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RuleSyntax {
    /// A regular expression that matches anywhere in the path.
    Regex,
    /// A glob.
    Glob(GlobSyntax),
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PathRule {
    /// What it does.
    pub action: RuleAction,
    /// How the pattern is written.
    pub syntax: RuleSyntax,
    /// The pattern. A regular expression is UTF-8.
    pub pattern: Box<[u8]>,
}

/// The letters of rules, as a text says them.
const LETTERS: [(char, RuleAction, RuleSyntax); 3] = [
    ('x', RuleAction::Exclude, RuleSyntax::Regex),
    ('-', RuleAction::Exclude, RuleSyntax::Glob(GlobSyntax::Rsync)),
    ('+', RuleAction::Include, RuleSyntax::Glob(GlobSyntax::Rsync)),
];

impl PathRule {
    /// The rule as a text: `x REGEX`, `- GLOB` or `+ GLOB`, the pattern as [`printable`] text.
    /// `None`: a line of a `.gitignore` has none.
    #[must_use]
    pub fn to_text(&self) -> Option<String> {
        let wanted = (self.action, self.syntax);
        let (letter, ..) = LETTERS.iter().find(|(_, action, syntax)| (*action, *syntax) == wanted)?;
        Some(format!("{letter} {}", printable(&self.pattern)))
    }

    /// Reads what [`PathRule::to_text`] made; `None` if it is something else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (letter, pattern) = text.split_once(' ')?;
        let (_, action, syntax) = *LETTERS.iter().find(|(known, ..)| letter.chars().eq([*known]))?;
        Some(Self { action, syntax, pattern: unprintable(pattern)?.into() })
    }

    /// The pattern for people, in quotes.
    #[must_use]
    pub fn quoted(&self) -> String {
        let is_negated =
            (self.action, self.syntax) == (RuleAction::Include, RuleSyntax::Glob(GlobSyntax::Gitignore));
        let sign = if is_negated { "!" } else { "" };
        format!("'{sign}{}'", shown(&String::from_utf8_lossy(&self.pattern)))
    }

    /// What the rule takes of [`MAX_RULE_BYTES`].
    fn bytes(&self) -> usize {
        let escaped = self.pattern.iter().filter(|byte| !matches!(byte, b' '..=b'~') || **byte == b'\\');
        self.pattern.len() + escaped.count() * ESCAPE_BYTES + RULE_BYTES
    }
}

/// The most rules of a list.
pub const MAX_RULES: usize = 10_000;
/// The most bytes that all rules may have on their way to a receiver.
pub const MAX_RULE_BYTES: usize = 256 << 10;
/// What a rule costs on that way beside its pattern, and a byte that is not plain text.
const RULE_BYTES: usize = 8;
const ESCAPE_BYTES: usize = 4;
/// How much memory the rules may take when they are compiled, in bytes: a short one can become a
/// very large program.
const MAX_COMPILED_BYTES: usize = 8 << 20;
/// Matches no path.
const NEVER: &str = "[^\\s\\S]";

/// Rules in their order.
#[derive(Debug, Clone)]
pub struct PathRules {
    rules: Vec<PathRule>,
    /// Matches directories.
    dirs: RegexSet,
    /// Matches everything else.
    others: RegexSet,
}

impl Default for PathRules {
    fn default() -> Self {
        Self { rules: Vec::new(), dirs: RegexSet::empty(), others: RegexSet::empty() }
    }
}

impl PathRules {
    /// Compiles `rules`.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`]: one is no regular expression, or all of them are too large.
    pub fn new(rules: Vec<PathRule>) -> Result<Self> {
        let bytes: usize = rules.iter().map(PathRule::bytes).sum();
        if rules.len() > MAX_RULES || bytes > MAX_RULE_BYTES {
            let what = format!("{} patterns, {bytes} bytes, are too many", rules.len());
            let hint = format!("{MAX_RULES} patterns and {MAX_RULE_BYTES} bytes are the most");
            return Err(Error::new(ErrorKind::Usage, what).with_hint(hint));
        }
        let (mut dirs, mut others) = (Vec::new(), Vec::new());
        for rule in &rules {
            let (dir, other) = match rule.syntax {
                RuleSyntax::Regex => {
                    let regex = std::str::from_utf8(&rule.pattern).map_err(|_| {
                        let what = format!("{} is not UTF-8", printable(&rule.pattern));
                        Error::new(ErrorKind::Usage, what)
                    })?;
                    (regex.to_owned(), regex.to_owned())
                }
                RuleSyntax::Glob(syntax) => {
                    let regex = to_regex(&rule.pattern, syntax);
                    (regex.dir, regex.other.unwrap_or_else(|| NEVER.to_string()))
                }
            };
            dirs.push(dir);
            others.push(other);
        }
        Ok(Self { rules, dirs: compile(&dirs)?, others: compile(&others)? })
    }

    /// Reads texts of rules, as a sender gives them ([`PathRule::to_text`]).
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`]: one is no rule, or all of them are too large.
    pub fn parse(texts: &[String]) -> Result<Self> {
        let malformed = |what: String| Error::new(ErrorKind::Malformed, what);
        let rule = |text: &String| {
            PathRule::parse(text).ok_or_else(|| malformed(format!("{text:?} is no rule for paths")))
        };
        let rules = texts.iter().map(rule).collect::<Result<Vec<_>>>()?;
        Self::new(rules).map_err(|e| malformed(e.to_string()))
    }

    /// Reads a file of lines in the syntax of `.gitignore`.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`]: there are too many.
    pub fn of_gitignore(content: &[u8]) -> Result<Self> {
        // There, the last rule that matches decides.
        Self::new(content.split(|&byte| byte == b'\n').rev().filter_map(gitignore_rule).collect())
    }

    /// The rules in their order.
    #[must_use]
    pub fn rules(&self) -> &[PathRule] {
        &self.rules
    }

    /// The numbers of the rules that match `path` itself, ascending: the first one decides. What
    /// they say of the folders above it is another question.
    pub fn matching(&self, path: &[u8], is_dir: bool) -> impl Iterator<Item = usize> {
        let set = if is_dir { &self.dirs } else { &self.others };
        let matches = (!self.rules.is_empty()).then(|| set.matches(path));
        matches.into_iter().flat_map(|matches| matches.into_iter())
    }

    /// Whether the rules leave out `path`, or a folder above it.
    #[must_use]
    pub fn leave_out(&self, path: &[u8], is_dir: bool) -> bool {
        let excludes = |path: &[u8], is_dir: bool| {
            let first = self.matching(path, is_dir).next();
            first.is_some_and(|rule| self.rules[rule].action == RuleAction::Exclude)
        };
        folders_above(path).any(|folder| excludes(folder, true)) || excludes(path, is_dir)
    }
}

/// The folders that `path` lies in, outermost first.
pub fn folders_above(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| &path[..end])
}

fn compile(patterns: &[String]) -> Result<RegexSet> {
    let mut builder = RegexSetBuilder::new(patterns);
    builder.size_limit(MAX_COMPILED_BYTES).dfa_size_limit(MAX_COMPILED_BYTES).build().map_err(|e| {
        // It shows a pattern in lines of its own.
        let what = "the patterns are no regular expressions, or too large ones";
        Error::new(ErrorKind::Usage, what).with_source(shown(&e.to_string()))
    })
}

/// The rule of a line of a `.gitignore`; `None` for an empty line and a comment.
fn gitignore_rule(line: &[u8]) -> Option<PathRule> {
    let mut line = line.strip_suffix(b"\r").unwrap_or(line);
    // Spaces at the end do not count, unless a backslash is before them.
    while let Some(rest) = line.strip_suffix(b" ").filter(|rest| !rest.ends_with(b"\\")) {
        line = rest;
    }
    if line.is_empty() || line.starts_with(b"#") {
        return None;
    }
    let (action, pattern) = match line.strip_prefix(b"!") {
        Some(rest) => (RuleAction::Include, rest),
        None => (RuleAction::Exclude, line),
    };
    let syntax = RuleSyntax::Glob(GlobSyntax::Gitignore);
    (!pattern.is_empty()).then(|| PathRule { action, syntax, pattern: pattern.into() })
}

#[cfg(test)]
mod tests;
