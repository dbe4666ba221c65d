//! Numbers as people read them.

pub(super) use crate::archive::shown::{counted, separated as human_count};
use indicatif::{FormattedDuration, HumanBytes};
use std::time::Duration;

/// Bytes in binary units, as 1.23 MiB.
pub(super) fn human_bytes(bytes: u64) -> String {
    HumanBytes(bytes).to_string()
}

/// A duration in hours, minutes and seconds.
pub(super) fn human_seconds(seconds: u64) -> String {
    FormattedDuration(Duration::from_secs(seconds)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        let bytes = [0, 1023, 1024, 30_000_000, 1 << 40, u64::MAX].map(human_bytes);
        assert_eq!(bytes, ["0 B", "1023 B", "1.00 KiB", "28.61 MiB", "1.00 TiB", "16.00 EiB"]);
        assert_eq!([59, 3_661, 90_061].map(human_seconds), ["00:00:59", "01:01:01", "1d 01:01:01"]);
    }
}
