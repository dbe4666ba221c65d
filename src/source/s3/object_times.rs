//! Times and permissions of files in the metadata of objects, in the forms of other programs.

use aws_smithy_types::DateTime;
use std::collections::HashMap;

const NS: i64 = 1_000_000_000;

/// When an object was written, in nanoseconds since 1970.
pub(super) fn modified_ns(modified: Option<&DateTime>) -> i64 {
    modified.map_or(0, |time| time.secs().saturating_mul(NS).saturating_add(i64::from(time.subsec_nanos())))
}

/// The time of a file, in nanoseconds since 1970: `mtime` as rclone and s3fs write it (seconds
/// since 1970, with or without a fraction), or as s3cmd does, among other attributes in one string.
pub(super) fn mtime_of(metadata: &HashMap<String, String>) -> Option<i64> {
    let s3cmd = || s3cmd_attribute(metadata, "mtime").and_then(seconds);
    metadata.get("mtime").and_then(|text| seconds(text)).or_else(s3cmd)
}

/// The permission bits of a file: `mode` in octal as rclone writes it, in decimal as s3cmd and s3fs
/// do.
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

/// Seconds with a fraction as nanoseconds. Parsed as integers: a number of this size with nine
/// decimals fits no float.
fn seconds(text: &str) -> Option<i64> {
    let text = text.trim();
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |digits| (-1, digits));
    let (integer, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let is_digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if integer.is_empty() || !is_digits(integer) || !is_digits(fraction) {
        return None;
    }
    let fraction: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let ns = integer.parse::<i64>().ok()?.checked_mul(NS)?.checked_add(fraction.parse().ok()?)?;
    Some(sign * ns)
}

/// The bits of a mode with the kind of file.
const KIND: u32 = 0o170_000;
const FIFO: u32 = 0o010_000;
const CHARACTER_DEVICE: u32 = 0o020_000;
const FOLDER: u32 = 0o040_000;
const BLOCK_DEVICE: u32 = 0o060_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const SOCKET: u32 = 0o140_000;

/// The set-user-id and set-group-id bits. A bucket records no owners: a program with these bits
/// would run as another user.
const SET_ID: u32 = 0o6000;

/// The permissions of a mode with or without the bits for the kind of file; `None` for a kind that
/// is neither regular file nor folder.
///
/// A mode with a kind has five digits in decimal, or four (4096 to 8191) for a FIFO. In octal it
/// has six, or five (10000 to 67777) for FIFOs, folders and devices, which as decimals would be of
/// no known kind. Four octal digits that may be the decimal ones of a FIFO would set set-id bits,
/// which are dropped anyway: they count as unknown.
fn mode(text: &str) -> Option<u32> {
    let text = text.trim();
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let is_kind = |mode: &u32| {
        matches!(mode & KIND, FIFO | CHARACTER_DEVICE | FOLDER | BLOCK_DEVICE | REGULAR | SYMLINK | SOCKET)
            && mode & !0o177_777 == 0
    };
    let decimal = text.parse::<u32>().ok().filter(is_kind).filter(|_| {
        text.len() == 5 && !text.starts_with('0')
            || text.len() == 4 && (4096..8192).contains(&text.parse().unwrap_or(0))
    });
    let octal = u32::from_str_radix(text, 8).ok().filter(|mode| mode & !0o177_777 == 0);
    let mode = decimal.or(octal)?;
    matches!(mode & KIND, 0 | REGULAR | FOLDER).then_some(mode & 0o7777 & !SET_ID)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_parsed_exactly() {
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
    fn modes_are_parsed_in_octal_and_decimal() {
        assert_eq!((mode("100644"), mode("0755"), mode("644")), (Some(0o644), Some(0o755), Some(0o644)));
        assert_eq!((mode("33188"), mode("33261"), mode("16877")), (Some(0o644), Some(0o755), Some(0o755)));
        assert_eq!(
            (mode("104755"), mode("37777777777"), mode("rw"), mode("888")),
            (Some(0o755), None, None, None)
        );
        assert_eq!((mode("35309"), mode("06755"), mode("101777")), (Some(0o755), Some(0o755), Some(0o1777)));
        // s3fs: a symbolic link, a FIFO, a socket, a device; the same in octal.
        for other in
            ["41471", "4516", "49645", "25008", "8630", "120777", "010644", "140755", "60660", "", " "]
        {
            assert_eq!(mode(other), None, "{other}");
        }
        assert_eq!((mode("0644"), mode("40755"), mode("1777")), (Some(0o644), Some(0o755), Some(0o1777)));
    }

    #[test]
    fn attributes_of_rclone_and_s3cmd_are_read() {
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
