//! The error for a command line that clap refuses: what is wrong, and what to type instead of the
//! flags of rsync, rclone, restic or a cloud's own program.

use crate::error::{Error, ErrorKind};
use clap::error::ContextKind;
use std::ffi::OsString;

/// The error for `arguments` that clap refuses.
///
/// It has the first lines of clap's own error. Clap's similar flag and usage line are left out: the
/// former is a flag that does something else, the latter a choice of flags. `variable` is the name
/// of the variable that has the wrong value, if it is not in `arguments`.
pub(super) fn error(error: &clap::Error, arguments: &[OsString], variable: Option<&str>) -> Error {
    let rendered = error.render().to_string();
    let problem: Vec<&str> = rendered
        .lines()
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information"))
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("tip:"))
        .collect();
    let problem = problem.join(" ");
    let message = problem.strip_prefix("error: ").unwrap_or(&problem).to_owned();
    // "Usage: tar-like sync [OPTIONS] …"
    let usage = rendered.lines().find_map(|line| line.strip_prefix("Usage: ")).unwrap_or("tar-like");
    let command: Vec<&str> = usage.split(' ').take_while(|word| !word.starts_with(['[', '<', '-'])).collect();
    let help = || format!("{} --help lists what it takes", command.join(" "));
    let hint = match variable {
        Some(name) => {
            format!("this is the value of the variable {name}; tar-like config says where it is set")
        }
        None => hint(error, arguments).map_or_else(help, str::to_owned),
    };
    Error::new(ErrorKind::Usage, message).with_hint(hint)
}

/// What the user may have meant by `arguments`.
fn hint(error: &clap::Error, arguments: &[OsString]) -> Option<&'static str> {
    let wrong = error.get(ContextKind::InvalidArg).map(ToString::to_string).unwrap_or_default();
    let flag = wrong.split(['=', ' ']).next().unwrap_or_default();
    match error.kind() {
        clap::error::ErrorKind::UnknownArgument => of_flag(flag),
        clap::error::ErrorKind::InvalidSubcommand => {
            let command = error.get(ContextKind::InvalidSubcommand).map(ToString::to_string)?;
            of_command(&command)
        }
        clap::error::ErrorKind::MissingRequiredArgument if has_short(arguments, 'x') => {
            Some("-x takes the next argument as a regular expression; rsync's -x is --one-file-system here")
        }
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
    (&["-u", "--update"], "a newer file in the destination is replaced as well; there is no --update"),
    (
        &["-e", "--rsh", "--rsync-path"],
        "ssh is not spoken yet: start `tar-like proxy -b FOLDER` on that host and give its address, \
         http://HOST:8000/tar",
    ),
    (
        &["-I", "--ignore-times", "--size-only", "-W", "--whole-file", "--no-whole-file"],
        "a file is read again if its size or one of its times has changed; --checksum reads every file",
    ),
    (
        &["--delete-before", "--delete-during", "--del", "--delete-delay", "--delete-after"],
        "--delete deletes when everything else is in place and verified",
    ),
    (&["--force"], "--delete deletes what an earlier run put there and this one does not have"),
    (&["-b", "--backup"], "--delete --backup-dir FOLDER moves entries away instead of deleting them"),
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
    (&["restore"], "sync in the other direction copies back; tar-like history restore gets an index back"),
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
    fn each_flag_and_command_stands_once() {
        for table in [FLAGS, COMMANDS] {
            let mut seen = BTreeSet::new();
            for word in table.iter().flat_map(|(words, _)| *words) {
                assert!(seen.insert(word), "{word}");
            }
        }
    }
}
