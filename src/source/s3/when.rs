//! Times and permissions of files in the metadata of objects, in the forms in which other programs write them.

use aws_smithy_types::DateTime;
use std::collections::HashMap;

const NS: i64 = 1_000_000_000;

/// When an object was written, in nanoseconds since 1970.
pub(super) fn modified_ns(modified: Option<&DateTime>) -> i64 {
    modified.map_or(0, |time| time.secs().saturating_mul(NS).saturating_add(i64::from(time.subsec_nanos())))
}

/// `mtime` as rclone and s3fs write it (seconds since 1970, with or without a fraction), or as s3cmd does, among others in one
/// string.
pub(super) fn mtime_of(metadata: &HashMap<String, String>) -> Option<i64> {
    let s3cmd = || s3cmd_attribute(metadata, "mtime").and_then(seconds);
    metadata.get("mtime").and_then(|text| seconds(text)).or_else(s3cmd)
}

/// The permission bits of `mode`: octal as rclone writes it, decimal as s3cmd and s3fs do.
pub(super) fn mode_of(metadata: &HashMap<String, String>) -> Option<u32> {
    let s3cmd = || s3cmd_attribute(metadata, "mode").and_then(mode);
    metadata.get("mode").and_then(|text| mode(text)).or_else(s3cmd)
}

fn s3cmd_attribute<'m>(metadata: &'m HashMap<String, String>, name: &str) -> Option<&'m str> {
    metadata
        .get("s3cmd-attrs")?
        .split('/')
        .find_map(|pair| pair.split_once(':').filter(|(key, _)| *key == name))
        .map(|(_, value)| value)
}

/// Exactly: a number of this size with nine decimals fits no float.
fn seconds(text: &str) -> Option<i64> {
    let text = text.trim();
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |digits| (-1, digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let is_digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !is_digits(whole) || !is_digits(fraction) {
        return None;
    }
    let fraction: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let ns = whole.parse::<i64>().ok()?.checked_mul(NS)?.checked_add(fraction.parse().ok()?)?;
    Some(sign * ns)
}

/// A mode with or without the bits that say what sort of file it is. In decimal, a regular file's begins with 32768 to 36863;
/// in octal, with 100: no number is both.
fn mode(text: &str) -> Option<u32> {
    const REGULAR: u32 = 0o100_000;
    let text = text.trim();
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let decimal =
        text.parse::<u32>().ok().filter(|mode| mode & 0o170_000 == REGULAR || mode & 0o170_000 == 0o040_000);
    let octal = u32::from_str_radix(text, 8).ok();
    match decimal.filter(|_| text.len() == 5) {
        Some(mode) => Some(mode & 0o7777),
        None => octal.filter(|mode| mode & !0o177_777 == 0).map(|mode| mode & 0o7777),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(seconds("1354040105.123456789"), Some(1_354_040_105_123_456_789));
        assert_eq!(seconds("1354040105"), Some(1_354_040_105 * NS));
        assert_eq!(
            (seconds("1.5"), seconds("-1.5"), seconds("0.0000000019")),
            (Some(3 * NS / 2), Some(-3 * NS / 2), Some(1))
        );
        for bad in ["", ".5", "1e9", "1 2", "99999999999999999999", "9223372037", "-", "1.x"] {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }

    #[test]
    fn modes() {
        assert_eq!((mode("100644"), mode("0755"), mode("644")), (Some(0o644), Some(0o755), Some(0o644)));
        assert_eq!((mode("33188"), mode("33261"), mode("16877")), (Some(0o644), Some(0o755), Some(0o755)));
        assert_eq!(
            (mode("104755"), mode("37777777777"), mode("rw"), mode("888")),
            (Some(0o4755), None, None, None)
        );
    }

    #[test]
    fn both_programs_forms() {
        let of = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect::<HashMap<_, _>>()
        };
        let rclone = of(&[("mtime", "1.25"), ("mode", "100600")]);
        assert_eq!((mtime_of(&rclone), mode_of(&rclone)), (Some(NS * 5 / 4), Some(0o600)));
        let s3cmd = of(&[(
            "s3cmd-attrs",
            "atime:5/ctime:6/gid:0/gname:root/md5:00/mode:33184/mtime:7/uid:0/uname:root",
        )]);
        assert_eq!((mtime_of(&s3cmd), mode_of(&s3cmd)), (Some(7 * NS), Some(0o640)));
        assert_eq!((mtime_of(&of(&[("mtime", "soon")])), mode_of(&of(&[]))), (None, None));
    }
}
