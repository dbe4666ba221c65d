//! Flags of rsync that ask for what `sync` does without them.

use super::transfer::Compress;
use crate::error::{Error, ErrorKind};
use clap::{ArgAction, Args, ValueEnum};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// They are accepted, since users of rsync type them, and hidden, since they change nothing.
#[derive(Args)]
pub(super) struct RsyncFlags {
    #[arg(short, long, hide = true, action = ArgAction::Count)]
    archive: u8,
    #[arg(short, long, hide = true, action = ArgAction::Count)]
    recursive: u8,
    #[arg(short, long, hide = true, action = ArgAction::Count)]
    links: u8,
    #[arg(short = 'E', long, visible_alias = "executability", hide = true, action = ArgAction::Count)]
    perms: u8,
    #[arg(short, long, hide = true, action = ArgAction::Count)]
    times: u8,
    #[arg(short, long, hide = true, action = ArgAction::Count)]
    owner: u8,
    #[arg(short, long, hide = true, action = ArgAction::Count)]
    group: u8,
    #[arg(short = 'H', long, hide = true, action = ArgAction::Count)]
    hard_links: u8,
    #[arg(short = 'z', hide = true, action = ArgAction::Count)]
    compressed: u8,
    #[arg(short = 'P', long, visible_alias = "partial", hide = true, action = ArgAction::Count)]
    progress: u8,
    #[arg(long, hide = true, action = ArgAction::Append, value_parser = progress)]
    info: Vec<String>,
    #[arg(long, hide = true, action = ArgAction::Count)]
    human_readable: u8,
    #[arg(long, hide = true, action = ArgAction::Count)]
    numeric_ids: u8,
    #[arg(short = 'W', long, visible_alias = "no-whole-file", hide = true, action = ArgAction::Count)]
    whole_file: u8,
    #[arg(long, visible_aliases = OTHERS, hide = true, action = ArgAction::Count)]
    fsync: u8,
    #[arg(short = 'b', long, hide = true, requires = "backup_dir", action = ArgAction::Count)]
    backup: u8,
    #[arg(short = 'D', long, visible_alias = "specials", hide = true, action = ArgAction::Count)]
    devices: u8,
    #[arg(short = 'A', long, hide = true, action = ArgAction::Count)]
    acls: u8,
    #[arg(short = 'X', long, hide = true, action = ArgAction::Count)]
    xattrs: u8,
    #[arg(short = 'S', long, hide = true, action = ArgAction::Count)]
    sparse: u8,
}

/// Others of rsync, and of rclone.
const OTHERS: [&str; 7] = [
    "secluded-args",
    "protect-args",
    "inc-recursive",
    "no-inc-recursive",
    "create-empty-src-dirs",
    "track-renames",
    "metadata",
];

/// The value of `--info`: the progress is shown anyway.
fn progress(text: &str) -> Result<String, String> {
    match text.split(',').all(|word| word.starts_with("progress")) {
        true => Ok(text.to_owned()),
        false => Err("only progress is known here".to_string()),
    }
}

impl RsyncFlags {
    /// One sentence for each kind of entry or metadata that a flag asks for and `sync` does not
    /// copy.
    pub(super) fn warnings(&self) -> impl Iterator<Item = &'static str> {
        [
            (self.devices, "-D: FIFOs, sockets and devices are not copied; they are listed as skipped"),
            (self.acls, "-A: ACLs are not copied; modes and owners are"),
            (self.xattrs, "-X: extended attributes are not copied"),
            (self.sparse, "-S: holes of sparse files arrive as zeros"),
        ]
        .into_iter()
        .filter(|(times, _)| *times > 0)
        .map(|(_, warning)| warning)
    }
}

/// The letters of rsync's flags that take no value, but for those that take one here.
const SWITCHES: &[u8] = b"abcACdDEFgHhiIJkKlLmnNoOPqrRStuUvWXyz";

/// The arguments of `sync` as rsync reads them, where only this makes sense:
///
/// - `h` stands for sizes that people can read. It is help only where it is the only argument.
/// - `p` and `s` in a group such as `-rlptgoD` take no value, unless a number follows.
/// - `--compress` takes no value, unless it is one of [`Compress`].
///
/// Arguments of other commands stay as they are.
pub(super) fn as_meant(arguments: Vec<OsString>) -> Vec<OsString> {
    let Some((sync, end)) = flags_of_sync(&arguments) else { return arguments };
    let is_alone = arguments.len() == sync + 2;
    let mut all = arguments[..=sync].to_vec();
    for (number, argument) in arguments.iter().enumerate().take(end).skip(sync + 1) {
        let next = arguments.get(number + 1).map(OsString::as_os_str);
        match argument.as_bytes() {
            b"-h" if !is_alone => {}
            b"--compress" if !next.is_some_and(is_compression) => all.push("--compress=auto".into()),
            [b'-', letters @ ..] if letters.len() > 1 => all.extend(group(letters, next)),
            _ => all.push(argument.clone()),
        }
    }
    all.extend_from_slice(&arguments[end..]);
    all
}

/// The place of `sync`, and of the end of what may be flags.
fn flags_of_sync(arguments: &[OsString]) -> Option<(usize, usize)> {
    let end = arguments.iter().position(|argument| argument == "--").unwrap_or(arguments.len());
    let sync = arguments[..end].iter().position(|argument| argument == "sync")?;
    Some((sync, end))
}

fn is_compression(value: &OsStr) -> bool {
    value.to_str().is_some_and(|value| Compress::from_str(value, false).is_ok())
}

fn begins_with_digit(text: &[u8]) -> bool {
    text.first().is_some_and(u8::is_ascii_digit)
}

/// A group of letters without those that mean nothing here; `None` if no other is left.
fn group(letters: &[u8], next: Option<&OsStr>) -> Option<OsString> {
    let mut left = vec![b'-'];
    for (number, letter) in letters.iter().enumerate() {
        let rest = &letters[number + 1..];
        let has_number = || {
            begins_with_digit(rest)
                || rest.is_empty() && next.is_some_and(|next| begins_with_digit(next.as_bytes()))
        };
        match letter {
            b'h' => {}
            b'p' | b's' if !has_number() => {}
            b'p' | b's' | b'x' => {
                left.extend_from_slice(&letters[number..]);
                break;
            }
            letter if SWITCHES.contains(letter) => left.push(*letter),
            // A long flag, or the value of another one.
            _ => return Some(OsString::from_vec([b"-", letters].concat())),
        }
    }
    (left.len() > 1).then(|| OsString::from_vec(left))
}

/// The error for a group of rsync's letters such as `-axH`: the `H` would be a regular expression
/// here, by which files are left out.
pub(super) fn misread(arguments: &[OsString]) -> Option<Error> {
    let (sync, end) = flags_of_sync(arguments)?;
    let is_misread = |argument: &&OsString| match argument.as_bytes().strip_prefix(b"-") {
        Some(letters) => letters.iter().position(|&letter| letter == b'x').is_some_and(|x| {
            let is_group =
                |letters: &[u8]| !letters.is_empty() && letters.iter().all(|l| SWITCHES.contains(l));
            is_group(&letters[..x]) && is_group(&letters[x + 1..])
        }),
        None => false,
    };
    let found = arguments[sync + 1..end].iter().find(is_misread)?;
    let what = format!("what follows x in {} would be a regular expression", found.display());
    Some(Error::new(ErrorKind::Usage, what).with_hint(
        "rsync's -x is --one-file-system here; -x REGEX, on its own, leaves out what matches the expression",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn arguments_are_read_as_rsync_reads_them() {
        let read = |line: &str| as_meant(words(line)).join(OsStr::new(" ")).into_string().unwrap();
        for (line, meant) in [
            ("t sync -h", "t sync -h"),
            ("t -h", "t -h"),
            ("t index -b x -h", "t index -b x -h"),
            ("t sync -av -h a b", "t sync -av a b"),
            ("t sync -avh a b", "t sync -av a b"),
            ("t sync -av a -- -h", "t sync -av a -- -h"),
            ("t sync -rlptgoD a b", "t sync -rltgoD a b"),
            ("t sync -avp a b", "t sync -av a b"),
            ("t sync -hp a b", "t sync a b"),
            ("t sync -avp 8 a b", "t sync -avp 8 a b"),
            ("t sync -p8 -as10M a b", "t sync -p8 -as10M a b"),
            ("t sync -p a b", "t sync -p a b"),
            ("t sync -avx ph a", "t sync -avx ph a"),
            ("t sync -vxph a b", "t sync -vxph a b"),
            ("t sync --help --hash -fh", "t sync --help --hash -fh"),
            ("t upload -rlptgoD --compress", "t upload -rlptgoD --compress"),
            ("t sync --compress a b", "t sync --compress=auto a b"),
            ("t sync --compress zstd b", "t sync --compress zstd b"),
            ("t sync a b --compress", "t sync a b --compress=auto"),
        ] {
            assert_eq!(read(line), meant);
        }
    }

    #[test]
    fn a_group_with_x_in_the_middle_is_refused() {
        let is_misread = |line| misread(&words(line)).is_some();
        assert!(is_misread("t sync -axHAX a b"));
        for line in [
            "t sync -ax a b",
            "t sync -xHAX a b",
            "t sync -ax^tmp a b",
            "t index -axH a",
            "t sync --exclude a",
        ] {
            assert!(!is_misread(line), "{line}");
        }
    }
}
