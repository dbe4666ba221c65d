//! Numbers as people read them.

pub(super) use crate::archive::shown::{counted, separated as human_count};

/// Bytes in binary units, as 1.23 MiB.
pub(super) fn human_bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"].into_iter();
    let mut unit = "B";
    while value >= 1024.0
        && let Some(next) = units.next()
    {
        (value, unit) = (value / 1024.0, next);
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.2} {unit}") }
}

/// A duration in hours, minutes and seconds.
pub(super) fn human_seconds(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let days = if days > 0 { format!("{days}d ") } else { String::new() };
    format!("{days}{hours:02}:{:02}:{:02}", seconds / 60 % 60, seconds % 60)
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
