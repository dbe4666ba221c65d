//! Values and spellings of flags that clap does not know.

use crate::engine::upload::DeleteLimit;
use crate::error::{Error, ErrorKind};
use clap::Command;
use clap::builder::Resettable;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// The original program spells two long options with a single dash.
const OLD: [(&[u8], &str); 2] = [(b"-db", "--database"), (b"-dbp", "--database-progress")];

/// Replaces `-db` and `-dbp` by `--database` and `--database-progress`.
pub(super) fn old_spellings(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut only_values = false;
    arguments
        .into_iter()
        .map(|argument| {
            only_values |= argument == "--";
            if only_values { argument } else { replace(argument) }
        })
        .collect()
}

fn replace(argument: OsString) -> OsString {
    for (old, new) in OLD {
        if argument == OsStr::from_bytes(old) {
            return new.into();
        }
        if let Some(value) = argument.as_bytes().strip_prefix(old).and_then(|rest| rest.strip_prefix(b"=")) {
            return OsString::from_vec([new.as_bytes(), b"=", value].concat());
        }
    }
    argument
}

/// Makes clap treat a variable that is set to an empty text as not set.
pub(super) fn without_empty_variables(command: Command) -> Command {
    let command = command.mut_args(|argument| {
        let value = argument.get_env().and_then(std::env::var_os);
        if value.is_some_and(|value| value.is_empty()) { argument.env(Resettable::Reset) } else { argument }
    });
    command.mut_subcommands(without_empty_variables)
}

/// A number of bytes: digits, and K, M, G or T for powers of 1024.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.as_bytes().last().map(u8::to_ascii_uppercase) {
        Some(b'K') => (&text[..text.len() - 1], 1 << 10),
        Some(b'M') => (&text[..text.len() - 1], 1 << 20),
        Some(b'G') => (&text[..text.len() - 1], 1 << 30),
        Some(b'T') => (&text[..text.len() - 1], 1u64 << 40),
        _ => (text, 1),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "this is not a number of bytes such as 30000000, 512K, 16M or 1G".to_string())?;
    number.checked_mul(unit).filter(|&n| i64::try_from(n).is_ok()).ok_or_else(|| "too large".to_string())
}

/// Like [`bytes`], but not 0.
pub(super) fn some_bytes(text: &str) -> Result<u64, String> {
    match bytes(text)? {
        0 => Err("must not be 0".to_string()),
        n => Ok(n),
    }
}

/// A number of entries, or a percentage of the files from 0% to 100%.
pub(super) fn limit(text: &str) -> Result<DeleteLimit, String> {
    let number = |text: &str| text.parse::<u64>().map_err(|_| "not a number such as 500, or 10%".to_string());
    match text.strip_suffix('%') {
        None => number(text).map(DeleteLimit::Entries),
        Some(percent) => match number(percent)? {
            percent @ 0..=100 => Ok(DeleteLimit::Percent(percent)),
            _ => Err("more than 100%".to_string()),
        },
    }
}

/// Checks `-f` and `-l`, both inclusive.
pub(super) fn block_range(first: u64, last: Option<u64>) -> Result<(), Error> {
    match last {
        Some(last) if last < first => Err(Error::new(
            ErrorKind::Usage,
            format!("the last block, {last}, comes before the first, {first}"),
        )),
        _ => Ok(()),
    }
}

/// A regular expression on the bytes of a relative path.
pub(super) fn regex(text: &str) -> Result<regex::bytes::Regex, String> {
    regex::bytes::Regex::new(text).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_dash_spellings() {
        let given = ["t", "upload", "-db", "a", "-dbp=b", "--", "-db"].map(OsString::from);
        let wanted =
            ["t", "upload", "--database", "a", "--database-progress=b", "--", "-db"].map(OsString::from);
        assert_eq!(old_spellings(given), wanted);
    }

    #[test]
    fn sizes() {
        assert_eq!(bytes("30000000"), Ok(30_000_000));
        assert_eq!((bytes("1k"), bytes("2M"), bytes("1T")), (Ok(1024), Ok(2 << 20), Ok(1 << 40)));
        for bad in ["", "K", "-1", "1.5M", "9223372036854775808", "99999999999T", "1MB"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
        assert!(some_bytes("0").is_err());
    }
}
