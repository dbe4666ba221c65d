//! The error for a command line that clap refuses: what is wrong, and what to type instead of the
//! flags of rsync, rclone, restic or a cloud's own program.

use crate::error::{Error, ErrorKind};
use clap::error::ContextKind;
use clap::{Arg, Command};
use std::ffi::OsString;

/// The error for `arguments` of the program `definition` that clap refuses.
///
/// It has the first lines of clap's own error. Clap's similar flag and usage line are left out: the
/// former is a flag that does something else, the latter a choice of flags. `variable` is the name
/// of the variable that has the wrong value, if it is not in `arguments`.
pub(super) fn error(
    error: &clap::Error,
    definition: &Command,
    arguments: &[OsString],
    variable: Option<&str>,
) -> Error {
    let rendered = error.render().to_string();
    let problem: Vec<&str> = rendered
        .lines()
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("tip:"))
        .collect();
    let problem = problem.join(" ");
    let message = problem.strip_prefix("error: ").unwrap_or(&problem).to_owned();
    let path = path_of(definition, arguments);
    let help = || {
        let names: Vec<&str> = path.iter().map(|command| command.get_name()).collect();
        format!("{} --help lists what it takes", names.join(" "))
    };
    let hint = match variable {
        Some(name) => {
            format!("this is the value of the variable {name}; tar-like config says where it is set")
        }
        None => hint(error, &path, arguments).map_or_else(help, str::to_owned),
    };
    Error::new(ErrorKind::Usage, message).with_hint(hint)
}

/// The program and the subcommands that `arguments` name, each below the previous one.
fn path_of<'c>(program: &'c Command, arguments: &[OsString]) -> Vec<&'c Command> {
    let mut path = vec![program];
    for word in arguments.iter().skip(1) {
        path.extend(path.last().and_then(|command| command.find_subcommand(word)));
    }
    path
}

/// What the user may have meant by `arguments`, which are for the last command of `path`.
fn hint(error: &clap::Error, path: &[&Command], arguments: &[OsString]) -> Option<&'static str> {
    let wrong = error.get(ContextKind::InvalidArg).map(ToString::to_string).unwrap_or_default();
    let flag = wrong.split(['=', ' ']).next().unwrap_or_default();
    let command = path.last().map_or("", |command| command.get_name());
    match error.kind() {
        clap::error::ErrorKind::UnknownArgument if flag == "-b" && command != "sync" => Some(
            "-b is for commands that read or write files, such as index, check and proxy; -db FILE or \
             --source SOURCE names an index where one is wanted",
        ),
        clap::error::ErrorKind::UnknownArgument if !flag.starts_with('-') => of_word(command),
        clap::error::ErrorKind::UnknownArgument => {
            let hint = of_flag(flag)?;
            let mut named = flags_in(hint).peekable();
            // What it says of a copy is true for the commands that copy; other commands may have
            // the flags that it names.
            let may_help = COPYING.contains(&command) || named.peek().is_some();
            (may_help && named.all(|named| named == flag || has_flag(path, named))).then_some(hint)
        }
        clap::error::ErrorKind::InvalidSubcommand => {
            let word = error.get(ContextKind::InvalidSubcommand).map(ToString::to_string)?;
            of_word(command).or_else(|| of_command(&word))
        }
        clap::error::ErrorKind::MissingRequiredArgument if has_short(arguments, 'x') => {
            Some("-x takes the next argument as a regular expression; rsync's -x is --one-file-system here")
        }
        clap::error::ErrorKind::MissingRequiredArgument if has_pattern_flag(arguments) => {
            Some("--exclude and --include take the next argument as their pattern: --exclude '*.tmp'")
        }
        clap::error::ErrorKind::MissingRequiredArgument if flag == "--backup-dir" => of_flag("--backup"),
        clap::error::ErrorKind::ValueValidation if flag == "--info" => of_flag(flag),
        _ if wrong.starts_with("--exclude <GLOB>") => Some(
            "a pattern has to follow: --exclude '*.tmp' leaves out files, --exclude cache/ folders of that name",
        ),
        _ if matches!(flag, "--exclude-regex" | "--exclude") => Some(
            "this is a regular expression on the relative path: '*.pyc' is written '\\.pyc$', or given to \
             --exclude of sync and plan, or to --exclude-glob of index",
        ),
        _ if flag == "--no-processes" => Some(
            "-p is the number of workers, for example -p 8; permissions are always kept, so rsync's \
             -p is not needed",
        ),
        _ => None,
    }
}

/// What to do where `command` takes no such word.
fn of_word(command: &str) -> Option<&'static str> {
    Some(match command {
        "check" => "check compares one folder with an index: tar-like check COPY --source SOURCE",
        "rewind" => "rewind takes the copy, and the source by a flag: tar-like rewind COPY --source SOURCE",
        "history" | "indexes" => {
            "--source SOURCE names the index that sync keeps for a source: tar-like history --source SOURCE"
        }
        _ => return None,
    })
}

/// The commands that copy, or say what would be copied.
const COPYING: [&str; 4] = ["sync", "index", "upload", "plan"];

/// The flags that a hint names.
fn flags_in(hint: &'static str) -> impl Iterator<Item = &'static str> {
    let words = hint.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
    words.filter(|word| word.starts_with('-') && word.ends_with(|c: char| c.is_ascii_alphanumeric()))
}

/// Whether one of the commands takes `flag`; those of the program are for all of them.
fn has_flag(path: &[&Command], flag: &str) -> bool {
    let is_it = |argument: &Arg| match flag.strip_prefix("--") {
        Some(long) => argument.get_long() == Some(long),
        None => argument.get_short() == flag.chars().nth(1),
    };
    path.iter().flat_map(|command| command.get_arguments()).any(is_it)
}

/// Whether a flag is among them that takes the next argument as a pattern.
fn has_pattern_flag(arguments: &[OsString]) -> bool {
    arguments.iter().any(|argument| argument == "--exclude" || argument == "--include")
}

/// Whether a group of short flags has `letter`.
fn has_short(arguments: &[OsString], letter: char) -> bool {
    let is_group = |text: &str| text.starts_with('-') && !text.starts_with("--");
    arguments
        .iter()
        .filter_map(|argument| argument.to_str())
        .any(|text| is_group(text) && text.contains(letter))
}

/// The hint for a flag of another program.
fn of_flag(flag: &str) -> Option<&'static str> {
    FLAGS.iter().find(|(flags, _)| flags.contains(&flag)).map(|(_, hint)| *hint)
}

/// The hint for a command of another program.
fn of_command(command: &str) -> Option<&'static str> {
    COMMANDS.iter().find(|(commands, _)| commands.contains(&command)).map(|(_, hint)| *hint)
}

type Hints = &'static [(&'static [&'static str], &'static str)];

/// Flags of other programs.
const FLAGS: Hints = &[
    (&["-c"], "rsync's -c is --checksum here; --clean drops the index and reads everything"),
    (&["-u", "--update"], "a newer file in the destination is replaced as well"),
    (
        &["-I", "--ignore-times", "--size-only", "--modify-window"],
        "a file is read again if its size or one of its times has changed; --checksum reads every file",
    ),
    (
        &["--delete-before", "--delete-during", "--del", "--delete-delay", "--delete-after"],
        "--delete deletes when everything else is in place and verified",
    ),
    (&["--force"], "--delete deletes what an earlier run put there and this one does not have"),
    (
        &["-b", "--backup"],
        "--backup-dir FOLDER moves away what is replaced, and what --delete deletes; the source is the first \
         argument, without -b",
    ),
    (
        &["--filter", "-f", "-F", "-C", "--cvs-exclude", "--filter-from", "--iexclude"],
        "--exclude, --include, --exclude-from and --include-from take patterns; --filter-file .gitignore \
         reads a file in each folder",
    ),
    (&["-0", "--from0"], "--files-from0 FILE reads a list of paths with a zero byte behind each"),
    (&["--max-age", "--min-age"], "--newer 7d leaves out files that have not changed for so long"),
    (&["--exclude-if-present", "--exclude-caches"], "--exclude PATTERN leaves out the folders"),
    (
        &["--append-verify", "--append-only", "--inplace"],
        "--append spot reads only the end of files that have grown; the copy is never written in place",
    ),
    (
        &["--link-dest", "--compare-dest", "--copy-dest"],
        "--keep NUMBER retains what the last runs replaced, and `tar-like rewind` takes a copy back",
    ),
    (
        &["--transfers", "--checkers", "--concurrency", "--numworkers", "--multi-thread-streams", "-j"],
        "-p NUMBER is how many blocks are read, compressed and sent at the same time",
    ),
    (&["--bw-limit", "--limit-upload", "--limit", "--throttle"], "--bwlimit RATE limits what is sent"),
    (
        &["--info", "--out-format", "--log-format"],
        "the last line is a summary; -v names what is sent, --itemize says what is new about it, and \
         --json gives both for machines",
    ),
    (
        &["-R", "--relative", "--no-implied-dirs"],
        "the contents of the source come into the destination: tar-like sync a/b DESTINATION/a/b",
    ),
    (
        &["-d", "--dirs", "--old-dirs", "--no-recursive"],
        "--exclude '/*/' leaves out the folders of the source",
    ),
    (&["-m", "--prune-empty-dirs"], "empty folders are copied, too"),
    (
        &["-U", "--atimes", "-N", "--crtimes"],
        "times of modification are copied; those of access and creation are not",
    ),
    (
        &["-T", "--temp-dir", "--partial-dir", "--delay-updates"],
        "a file is complete before it gets its name, and a run resumes by itself: there is no such choice",
    ),
    (
        &[
            "--compress-level",
            "--compress-choice",
            "--skip-compress",
            "--new-compress",
            "--old-compress",
            "--no-compress",
            "--zl",
            "--zc",
            "--zz",
        ],
        "--compress HOW takes auto, lz4, zstd or none",
    ),
    (&["--suffix"], "--backup-dir FOLDER has what is replaced, under its own name"),
    (&["--list-only"], "-n -v names what would be sent; tar-like ls lists an index"),
    (&["--port"], "the port is a part of the address: http://HOST:8000/tar"),
    (
        &["--copy-devices", "--write-devices"],
        "a block device as the source becomes a file; tar-like blockcopy writes to a device",
    ),
    (&["--super", "--fake-super"], "owners are copied if the receiver runs as root"),
    (&["--interactive", "--dryrun", "--whatif"], "--dry-run says what would be sent and changes nothing"),
    (
        &["-L", "--copy-links", "--copy-unsafe-links", "--safe-links", "-k", "--copy-dirlinks"],
        "symbolic links are copied as links",
    ),
    (
        &[
            "--chmod",
            "--chown",
            "--usermap",
            "--groupmap",
            "--no-perms",
            "--no-owner",
            "--no-group",
            "--no-times",
            "-O",
            "--omit-dir-times",
            "-J",
            "--omit-link-times",
        ],
        "modes, owners and times are copied as they are",
    ),
    (&["--existing", "--ignore-existing"], "every file of the source is copied"),
    (&["--remove-source-files", "--delete-source"], "nothing is ever deleted at the source"),
    (&["--password-file"], "--token-file FILE has the token of the receiver"),
    (
        &["--timeout", "--contimeout"],
        "--stall-timeout SECONDS and --block-timeout SECONDS say how long to wait",
    ),
    (&["--endpoint-url", "--s3-endpoint-url", "--endpoint"], "--s3-endpoint URL is the address of the store"),
    (&["--repo", "--repository"], "give the source and the destination: tar-like sync SOURCE DESTINATION"),
];

/// Commands of other programs.
const COMMANDS: Hints = &[
    (&["copy", "cp", "mirror", "push", "backup", "mv", "move"], "tar-like sync SOURCE DESTINATION copies"),
    (&["serve", "server", "serve-http", "receive", "daemon"], "tar-like proxy -b FOLDER receives"),
    (
        &["verify", "md5sum", "cryptcheck", "diff"],
        "tar-like check -b FOLDER compares a folder with the index",
    ),
    (
        &["restore"],
        "tar-like sync COPY SOURCE on the host of the copy gets files back, and rewind an earlier state; \
         tar-like history restore gets an index back",
    ),
    (&["snapshots", "log", "versions"], "tar-like history lists the generations of an index"),
    (&["prune", "forget", "cleanup", "clean"], "tar-like gc removes what interrupted runs left"),
    (&["completion"], "tar-like completions SHELL writes them"),
    (&["configure", "env"], "tar-like config shows the settings in effect"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn hints_name_flags_of_sync() {
        let program = super::super::definition();
        let path = path_of(&program, &["tar-like", "--json", "sync", "index"].map(OsString::from));
        assert_eq!(path.last().unwrap().get_name(), "sync");
        for (flags, hint) in FLAGS {
            for named in flags_in(hint).filter(|named| !flags.contains(named)) {
                assert!(has_flag(&path, named), "{named}: {hint}");
            }
        }
    }

    #[test]
    fn each_flag_and_command_stands_once() {
        for table in [FLAGS, COMMANDS] {
            let mut seen = BTreeSet::new();
            for word in table.iter().flat_map(|(words, _)| *words) {
                assert!(seen.insert(word), "{word}");
            }
        }
    }
}
