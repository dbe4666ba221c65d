//! The flags that say what of a source is left out. Globs and lists have rsync's names and meaning;
//! for `index`, whose `--exclude` is the original program's regular expression, names of their own.

use super::args;
use super::output::Output;
use crate::archive::glob::GlobSyntax;
use crate::archive::path::printable;
use crate::archive::path_rules::{PathRule, RuleAction, RuleSyntax};
use crate::archive::shard::Shard;
use crate::error::{Error, ErrorKind, Result};
use crate::source::filter::{Filter, FilterOptions, FilterRule, ListedPaths};
use crate::telemetry::{Monitor, Notice};
use crate::unix_time::now_s;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, value_parser};
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// All of them; `OF_INDEX` says whether they have the names that they have for `index`.
#[derive(Args)]
pub(super) struct FilterFlags<const OF_INDEX: bool> {
    #[command(flatten)]
    rules: RuleFlags<OF_INDEX>,
    /// Read further rules from the file of this name in each folder, such as .gitignore, which says
    /// what is left out of its folder, in the syntax of git
    #[arg(long, value_name = "NAME", value_parser = file_name)]
    filter_file: Option<OsString>,
    /// Copy only the paths that FILE lists, one a line, relative to the source; a folder with
    /// everything in it. - is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "files_from0")]
    files_from: Option<OsString>,
    /// The same with a zero byte behind each path, as find -print0 writes it
    #[arg(long, value_name = "FILE")]
    files_from0: Option<OsString>,
    /// Leave out what is mounted below the source; its folders are copied empty
    #[arg(long)]
    one_file_system: bool,
    /// Leave out files of fewer bytes; K, M, G are powers of 1024, KB, MB, GB of 1000
    #[arg(long, value_name = "BYTES", value_parser = args::bytes)]
    min_size: Option<u64>,
    /// Leave out files of more bytes; K, M, G are powers of 1024, KB, MB, GB of 1000
    #[arg(long, value_name = "BYTES", value_parser = args::bytes)]
    max_size: Option<u64>,
    /// Leave out files that have not changed since this time: 2027-01-31, 2027-01-31T12:00 (UTC) or
    /// an age such as 36h or 7d; or since FILE has changed
    #[arg(long, value_name = "TIME|FILE", value_parser = newer, allow_hyphen_values = true)]
    newer: Option<i64>,
    /// Only part I of N: each host copies another part, and needs to know of no other. The files of a
    /// folder are of one part; folders are of all. Each part is an archive of its own
    #[arg(long, value_name = "I/N", value_parser = clap::value_parser!(Shard))]
    shard: Option<Shard>,
}

impl<const OF_INDEX: bool> FilterFlags<OF_INDEX> {
    /// Whether only listed paths are copied.
    pub(super) fn has_list(&self) -> bool {
        self.files_from.is_some() || self.files_from0.is_some()
    }

    /// Whether only a part of the source is copied.
    pub(super) fn has_shard(&self) -> bool {
        self.shard.is_some()
    }

    /// The filter for a bucket, or for a folder. Warns of patterns that look like those of another
    /// flag.
    pub(super) fn filter(&self, is_bucket: bool, output: &Output) -> Result<Filter> {
        if is_bucket && (self.filter_file.is_some() || self.one_file_system) {
            let what = "--filter-file and --one-file-system are for a folder, not for a bucket";
            return Err(Error::new(ErrorKind::Usage, what));
        }
        let listed = match (&self.files_from, &self.files_from0) {
            (Some(file), _) => {
                let text = read(file)?;
                Some(ListedPaths::new(lines(&text).filter(|line| !is_comment(line)))?)
            }
            (None, Some(file)) => {
                let text = read(file)?;
                Some(ListedPaths::new(text.split(|&byte| byte == 0).filter(|path| !path.is_empty()))?)
            }
            (None, None) => None,
        };
        Filter::new(FilterOptions {
            rules: self.rules.read(output)?,
            ignore_files: self.filter_file.as_ref().map(|name| name.as_bytes().to_vec()),
            listed,
            min_size: self.min_size,
            max_size: self.max_size,
            newer_ns: self.newer,
            one_file_system: self.one_file_system,
            shard: self.shard,
        })
    }
}

/// What the value of a flag is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Value {
    Regex,
    Glob(RuleAction),
    GlobFile(RuleAction),
}

/// A flag with rules.
struct RuleFlag {
    value: Value,
    /// Its name, which is also its id, ...
    name: &'static str,
    /// ... and its name for `index`.
    name_of_index: &'static str,
    value_name: &'static str,
    help: &'static str,
}

const RULE_FLAGS: [RuleFlag; 5] = [
    RuleFlag {
        value: Value::Regex,
        name: "exclude-regex",
        name_of_index: "exclude",
        value_name: "REGEX",
        help: "Leave out relative paths that match this regular expression; may be given several times",
    },
    RuleFlag {
        value: Value::Glob(RuleAction::Exclude),
        name: "exclude",
        name_of_index: "exclude-glob",
        value_name: "GLOB",
        help: "Leave out what matches this pattern, as rsync does: *.tmp and cache/ at any depth, /top at \
               the top of the source only. The first pattern that matches a path decides; may be given \
               several times",
    },
    RuleFlag {
        value: Value::Glob(RuleAction::Include),
        name: "include",
        name_of_index: "include-glob",
        value_name: "GLOB",
        help: "Do not leave out what matches this pattern, whatever later patterns say",
    },
    RuleFlag {
        value: Value::GlobFile(RuleAction::Exclude),
        name: "exclude-from",
        name_of_index: "exclude-glob-from",
        value_name: "FILE",
        help: "Leave out what the patterns in FILE match, one a line; those after \"+ \" keep what they \
               match. - is standard input",
    },
    RuleFlag {
        value: Value::GlobFile(RuleAction::Include),
        name: "include-from",
        name_of_index: "include-glob-from",
        value_name: "FILE",
        help: "Do not leave out what the patterns in FILE match; those after \"- \" leave out",
    },
];

impl RuleFlag {
    fn long(&self, of_index: bool) -> &'static str {
        if of_index { self.name_of_index } else { self.name }
    }
}

/// The flags with rules, in the order of the command line: the first rule that matches decides.
struct RuleFlags<const OF_INDEX: bool>(Vec<(&'static RuleFlag, OsString)>);

impl<const OF_INDEX: bool> Args for RuleFlags<OF_INDEX> {
    fn augment_args(command: Command) -> Command {
        RULE_FLAGS.iter().fold(command, |command, flag| {
            let argument = Arg::new(flag.name)
                .long(flag.long(OF_INDEX))
                .value_name(flag.value_name)
                .help(flag.help)
                .action(ArgAction::Append)
                .allow_hyphen_values(true);
            command.arg(match flag.value {
                Value::Regex => argument.short('x').value_parser(args::regex),
                _ => argument.value_parser(value_parser!(OsString)),
            })
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<const OF_INDEX: bool> FromArgMatches for RuleFlags<OF_INDEX> {
    fn from_arg_matches(matches: &ArgMatches) -> std::result::Result<Self, clap::Error> {
        let mut given = Vec::new();
        for flag in &RULE_FLAGS {
            let places = matches.indices_of(flag.name).into_iter().flatten();
            let values = matches.get_many::<OsString>(flag.name).into_iter().flatten();
            given.extend(places.zip(values).map(|(place, value)| (place, flag, value.clone())));
        }
        given.sort_by_key(|(place, ..)| *place);
        Ok(Self(given.into_iter().map(|(_, flag, value)| (flag, value)).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> std::result::Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl<const OF_INDEX: bool> RuleFlags<OF_INDEX> {
    fn read(&self, output: &Output) -> Result<Vec<FilterRule>> {
        let mut rules = Vec::new();
        for (flag, value) in &self.0 {
            match flag.value {
                Value::Regex => rules.push(Self::rule(flag, regex(value), output)),
                Value::Glob(action) => rules.push(Self::rule(flag, glob(value.as_bytes(), action)?, output)),
                Value::GlobFile(action) => {
                    let (text, file) = (read(value)?, printable(value.as_bytes()));
                    for line in lines(&text).filter(|line| !is_comment(line)) {
                        let rule = glob(line, action)?;
                        let name = format!("{} in {file}", rule.quoted());
                        rules.push(FilterRule { rule, name, file: Some(file.clone()) });
                    }
                }
            }
        }
        Ok(rules)
    }

    /// A rule of a flag. Warns if it looks like another flag's.
    fn rule(flag: &RuleFlag, rule: PathRule, output: &Output) -> FilterRule {
        let spelling = if flag.value == Value::Regex { "-x" } else { &*format!("--{}", flag.long(OF_INDEX)) };
        let name = format!("{spelling} {}", rule.quoted());
        let hint = match flag.value {
            Value::Regex if looks_like_glob(&rule.pattern) => {
                let globs = RULE_FLAGS[1].long(OF_INDEX);
                Some(format!("{name} is a regular expression, and looks like a glob, which --{globs} takes"))
            }
            Value::Glob(_) if looks_like_regex(&rule.pattern) => {
                Some(format!("{name} is a glob, and looks like a regular expression, which -x takes"))
            }
            _ => None,
        };
        hint.into_iter().for_each(|hint| output.notice(Notice::Warning(hint)));
        FilterRule { rule, name, file: None }
    }
}

fn regex(value: &OsStr) -> PathRule {
    let (action, syntax) = (RuleAction::Exclude, RuleSyntax::Regex);
    PathRule { action, syntax, pattern: value.as_bytes().into() }
}

/// The rule for a glob; `+ ` or `- ` before it says what it does instead of `action`, as for rsync.
fn glob(text: &[u8], action: RuleAction) -> Result<PathRule> {
    let (action, pattern) = match text {
        [b'+', b' ', pattern @ ..] => (RuleAction::Include, pattern),
        [b'-', b' ', pattern @ ..] => (RuleAction::Exclude, pattern),
        pattern => (action, pattern),
    };
    if matches!(pattern, b"" | b"!") {
        let what = format!("'{}' is no pattern", printable(text));
        return Err(Error::new(ErrorKind::Usage, what));
    }
    let syntax = RuleSyntax::Glob(GlobSyntax::Rsync);
    Ok(PathRule { action, syntax, pattern: pattern.into() })
}

fn looks_like_regex(glob: &[u8]) -> bool {
    let has = |part: &[u8]| glob.windows(part.len()).any(|window| window == part);
    glob.starts_with(b"^") || glob.ends_with(b"$") || has(b"\\.") || has(b"(^|") || has(b".*\\")
}

fn looks_like_glob(regex: &[u8]) -> bool {
    let star = regex.iter().position(|&byte| byte == b'*');
    let is_plain = !regex.iter().any(|byte| b"\\^$()|+{}".contains(byte));
    is_plain && star.is_some_and(|at| at == 0 || !b".])".contains(&regex[at - 1]))
}

/// The content of a file of patterns or paths.
fn read(file: &OsStr) -> Result<Vec<u8>> {
    if file == "-" {
        let mut text = Vec::new();
        let read = std::io::stdin().read_to_end(&mut text);
        return read.map(|_| text).map_err(|e| Error::io("cannot read standard input", e));
    }
    let failed =
        |e| Error::new(ErrorKind::Usage, format!("cannot read {}", Path::new(file).display())).with_source(e);
    std::fs::read(file).map_err(failed)
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&byte| byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

fn is_comment(line: &[u8]) -> bool {
    matches!(line, [] | [b'#' | b';', ..])
}

/// A name without folders.
fn file_name(text: &str) -> std::result::Result<OsString, String> {
    match text {
        "" | "." | ".." => Err("not a name".to_string()),
        text if text.contains('/') => Err("a name such as .gitignore, not a path".to_string()),
        text => Ok(text.into()),
    }
}

/// A time, an age or the time of a file, in nanoseconds since 1970.
fn newer(text: &str) -> std::result::Result<i64, String> {
    let wrong = || "neither a time such as 2027-01-31 or 7d nor a file".to_string();
    let nanoseconds = |seconds: i64| seconds.checked_mul(1_000_000_000).ok_or_else(wrong);
    if let Some(age) = age_s(text) {
        return nanoseconds(i64::try_from(now_s()).unwrap_or(i64::MAX).saturating_sub(age));
    }
    if let Some(seconds) = text.strip_prefix('@') {
        return nanoseconds(seconds.parse().map_err(|_| wrong())?);
    }
    if let Some(time) = date(text) {
        return i64::try_from(time.unix_timestamp_nanos()).map_err(|_| wrong());
    }
    let metadata = std::fs::metadata(text).map_err(|_| wrong())?;
    nanoseconds(metadata.mtime()).map(|seconds| seconds.saturating_add(metadata.mtime_nsec()))
}

/// An age such as `36h`, in seconds.
fn age_s(text: &str) -> Option<i64> {
    let unit = match text.chars().last()? {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        'w' => 7 * 86_400,
        _ => return None,
    };
    text[..text.len() - 1].parse::<u32>().ok().map(|number| i64::from(number) * unit)
}

/// A date with or without a time, and a zone other than UTC.
fn date(text: &str) -> Option<OffsetDateTime> {
    let text = text.replacen(' ', "T", 1);
    let full = match text.len() {
        10 => format!("{text}T00:00:00Z"),
        16 => format!("{text}:00Z"),
        19 => format!("{text}Z"),
        _ => text,
    };
    OffsetDateTime::parse(&full, &Rfc3339).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_of_the_other_kind_are_seen() {
        for regex in [r"\.tmp$", "^foo", r"cache/.*\.o", "(^|/)x/", "foo$"] {
            assert!(looks_like_regex(regex.as_bytes()) && !looks_like_glob(regex.as_bytes()), "{regex}");
        }
        for glob in ["*.tmp", "foo*", "cache/*", "a/**/b", "*"] {
            assert!(looks_like_glob(glob.as_bytes()) && !looks_like_regex(glob.as_bytes()), "{glob}");
        }
        for both in ["foo", ".git", "a/b", ".*", "foo.*", "[ab]*"] {
            assert!(!looks_like_glob(both.as_bytes()) && !looks_like_regex(both.as_bytes()), "{both}");
        }
    }

    #[test]
    fn times() {
        let day = 86_400_000_000_000;
        assert_eq!(newer("1970-01-02"), Ok(day));
        assert_eq!((newer("@86400"), newer("1970-01-02 00:00")), (Ok(day), Ok(day)));
        assert_eq!(newer("1970-01-02T01:00:00+01:00"), Ok(day));
        let now_ns = i64::try_from(now_s()).unwrap() * 1_000_000_000;
        assert!((now_ns - day..=now_ns - day + 5_000_000_000).contains(&newer("24h").unwrap()));
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(newer(file.path().to_str().unwrap()).unwrap() > now_ns - day);
        for wrong in ["", "yesterday", "1970-02-31", "d", "@x"] {
            assert!(newer(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_sign_before_a_glob_says_what_it_does() {
        let action = |text: &str| glob(text.as_bytes(), RuleAction::Exclude).map(|rule| rule.action);
        assert_eq!(action("+ a").unwrap(), RuleAction::Include);
        assert_eq!(action("- a").unwrap(), RuleAction::Exclude);
        assert_eq!(action("+a").unwrap(), RuleAction::Exclude);
        assert!(action("").is_err() && action("+ ").is_err() && action("!").is_err());
    }
}
