//! Values and spellings of flags that clap does not know.

use crate::archive::path;
use crate::engine::upload::DeleteLimit;
use crate::error::{Error, ErrorKind};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// The original program spells two long options with a single dash.
const OLD: [(&[u8], &str); 2] = [(b"-db", "--database"), (b"-dbp", "--database-progress")];

/// Replaces `-db` and `-dbp` by `--database` and `--database-progress`.
pub(super) fn old_spellings(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut only_values = false;
    let spelled = |argument: OsString| {
        only_values |= argument == "--";
        if only_values { argument } else { replace(argument) }
    };
    arguments.into_iter().map(spelled).collect()
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

/// A number of bytes, as rsync and rclone take it: a number with or without a fraction, then a
/// unit. `K`, `M`, `G`, `T` and `KiB`, `MiB`, … are powers of 1024; `KB`, `MB`, … are powers of
/// 1000; `B` or nothing is bytes.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || "this is not a number of bytes such as 30000000, 512K, 1.5M, 10MB or 1GiB".to_string();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let mut unit = unit.to_ascii_uppercase();
    let base: u128 = match (unit.len(), unit.as_str()) {
        (2, _) if unit.ends_with('B') => 1000,
        (1, "B") | (0 | 1, _) => 1024,
        (3, _) if unit.ends_with("IB") => 1024,
        _ => return Err(wrong()),
    };
    unit.truncate(1);
    let power = match unit.as_str() {
        "" | "B" => 0,
        letter => 1 + "KMGTP".find(letter).ok_or_else(wrong)? as u32,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let has_digits = !whole.is_empty() && (fraction.is_empty() != number.contains('.'));
    // Nine digits behind the point tell apart the bytes of a gigabyte.
    if !has_digits || fraction.len() > 9 || fraction.contains('.') || (power == 0 && !fraction.is_empty()) {
        return Err(wrong());
    }
    let large = || "too large".to_string();
    let scale = 10u128.pow(fraction.len() as u32);
    let digits: u128 = format!("{whole}{fraction}").parse().map_err(|_| large())?;
    let bytes = digits.checked_mul(base.pow(power)).ok_or_else(large)? / scale;
    i64::try_from(bytes).map(i64::unsigned_abs).map_err(|_| large())
}

/// Like [`bytes()`], but not 0.
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

/// A folder below the receiver's base folder. The receiver checks it, too, but only when
/// everything is sent.
pub(super) fn backup_folder(text: &str) -> Result<String, String> {
    match path::backup_folder(text.as_bytes()) {
        Ok(_) => Ok(text.to_owned()),
        Err(why) => {
            Err(format!("the path {why}; name a folder below the receiver's base folder, by a relative path"))
        }
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

/// A regular expression on the bytes of a relative path. Not the empty one, which every path
/// matches.
pub(super) fn regex(text: &str) -> Result<OsString, String> {
    if text.is_empty() {
        return Err("an empty expression matches every path".to_string());
    }
    regex::bytes::Regex::new(text).map(|_| text.into()).map_err(|e| e.to_string())
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
        assert_eq!(
            (bytes("1.5M"), bytes("10MB"), bytes("10MiB")),
            (Ok(3 << 19), Ok(10_000_000), Ok(10 << 20))
        );
        assert_eq!((bytes("7B"), bytes("0.001kb"), bytes("1p")), (Ok(7), Ok(1), Ok(1 << 50)));
        let wrong = [
            "", "K", ".", "1.", ".5M", "1.5", "1..5M", "-1", "+1", "1 M", "1MBB", "1iB", "1X", "1KX", "1Kib2",
        ];
        let large = ["9223372036854775808", "99999999999T", "340282366920938463463374607431768211456"];
        for bad in wrong.into_iter().chain(large) {
            assert!(bytes(bad).is_err(), "{bad}");
        }
        assert!(some_bytes("0").is_err());
    }
}
