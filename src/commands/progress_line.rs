//! The progress line: one line of any width.

use super::numbers::{counted, human_bytes};
use std::time::Duration;

/// What the line tells.
#[derive(Debug, Default, Clone)]
pub(super) struct Figures {
    /// What is being done.
    pub(super) phase: &'static str,
    /// Bytes of content done.
    pub(super) done_bytes: u64,
    /// Bytes to be done; `None` as long as more may be found.
    pub(super) total_bytes: Option<u64>,
    /// Bytes a second, as of late.
    pub(super) rate: Option<f64>,
    /// Bytes a second, on average.
    pub(super) average: Option<f64>,
    /// When all bytes will be done.
    pub(super) eta: Option<Duration>,
    /// Since the command began.
    pub(super) elapsed: Duration,
    /// Files to be done.
    pub(super) files: u64,
    /// Files done, where the receiver has said it.
    pub(super) files_done: u64,
    /// Of what is done, what was equal at the other side, in percent, where that is what counts.
    pub(super) equal_percent: Option<u64>,
}

/// The bar is not shown with fewer characters, and not with more.
const BAR: std::ops::RangeInclusive<usize> = 10..=30;
/// Between two fields.
const GAP: &str = "  ";

/// The phase in which all bytes are there, and the receiver has to confirm them.
const VERIFYING: &str = "verifying";

/// A line of at most `width` characters. What does not fit is left out, the least important first.
pub(super) fn progress_line(figures: &Figures, width: usize) -> String {
    let fields = fields(figures);
    let mut chosen: Vec<usize> = Vec::new();
    let mut by_importance: Vec<usize> = (0..fields.len()).collect();
    by_importance.sort_by_key(|&at| fields[at].importance);
    let mut used = 0;
    for at in by_importance {
        let gap = if chosen.is_empty() { 0 } else { GAP.len() };
        if used + gap + fields[at].text.len() <= width {
            used += gap + fields[at].text.len();
            chosen.push(at);
        }
    }
    chosen.sort_unstable();
    let mut texts: Vec<String> = chosen.iter().map(|&at| fields[at].text.clone()).collect();
    let room = width.saturating_sub(used + GAP.len() + 2).min(*BAR.end());
    if let Some(share) = share(figures).filter(|_| room >= *BAR.start() && !texts.is_empty()) {
        texts.insert(1, bar(share, room));
    }
    if texts.is_empty() {
        texts.push(figures.phase.chars().take(width).collect());
    }
    texts.join(GAP)
}

struct Field {
    /// 0 is the most important.
    importance: u8,
    text: String,
}

/// The fields of the line, from left to right.
fn fields(figures: &Figures) -> Vec<Field> {
    let field = |importance, text: String| Field { importance, text };
    let mut fields = vec![field(1, format!("{:9}", figures.phase))];
    let elapsed = short_time(figures.elapsed);
    // 100 % means confirmed, and then there is no line any more.
    let percent = share(figures).map(|share| format!("{:2.0}%", (share * 100.0).floor().min(99.0)));
    if figures.phase == VERIFYING {
        let files = counted(figures.files, "file");
        fields.extend(percent.map(|percent| field(0, percent)));
        fields.push(field(2, format!("waiting for the receiver to confirm {files}")));
        fields.push(field(0, elapsed));
        return fields;
    }
    if figures.done_bytes == 0 && figures.total_bytes.is_none_or(|total| total == 0) {
        fields.push(field(0, elapsed));
        return fields;
    }
    fields.extend(percent.map(|percent| field(0, percent)));
    let total = figures.total_bytes.map_or_else(|| "?".to_owned(), human_bytes);
    fields.push(field(4, format!("{} of {total}", human_bytes(figures.done_bytes))));
    let rate = figures.rate.map_or_else(|| "--".to_owned(), |rate| human_bytes(rate as u64));
    fields.push(field(3, format!("{rate}/s")));
    fields.push(field(2, format!("ETA {}", figures.eta.map_or_else(|| "--".to_owned(), short_time))));
    fields.push(field(5, format!("{elapsed} elapsed")));
    match figures.equal_percent {
        Some(percent) => fields.push(field(6, format!("{percent}% equal"))),
        None if figures.files > 0 => fields.push(field(6, counted(figures.files, "file"))),
        None => {}
    }
    fields
}

/// How much is done, from 0 to 1: of the bytes, and when all are sent, of the files.
fn share(figures: &Figures) -> Option<f64> {
    let (done, total) = match figures.phase {
        VERIFYING => (figures.files_done, Some(figures.files).filter(|_| figures.files_done > 0)),
        _ => (figures.done_bytes, figures.total_bytes),
    };
    let total = total.filter(|total| *total > 0)?;
    Some((done as f64 / total as f64).min(1.0))
}

/// A bar with `room` characters between its brackets.
fn bar(share: f64, room: usize) -> String {
    let done = ((share * room as f64) as usize).min(room);
    let head = if done < room { ">" } else { "" };
    format!("[{:room$}]", "=".repeat(done) + head)
}

/// A time as 0:42, 1:02:03 or 6d 02h.
pub(super) fn short_time(time: Duration) -> String {
    let seconds = time.as_secs();
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    match hours {
        0 => format!("{minutes}:{:02}", seconds % 60),
        1..=47 => format!("{hours}:{minutes:02}:{:02}", seconds % 60),
        _ => format!("{}d {:02}h", hours / 24, hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sending() -> Figures {
        Figures {
            phase: "sending",
            done_bytes: 141_557_760,
            total_bytes: Some(314_572_800),
            rate: Some(3_355_443.2),
            average: None,
            eta: Some(Duration::from_secs(52)),
            elapsed: Duration::from_secs(42),
            files: 12_345,
            files_done: 0,
            equal_percent: None,
        }
    }

    #[test]
    fn the_line_says_as_much_as_fits() {
        let figures = sending();
        assert_eq!(
            progress_line(&figures, 129),
            "sending    [=============>                ]  45%  135.00 MiB of 300.00 MiB  3.20 MiB/s  ETA 0:52  0:42 elapsed  12,345 files"
        );
        assert_eq!(
            progress_line(&figures, 79),
            "sending    45%  135.00 MiB of 300.00 MiB  3.20 MiB/s  ETA 0:52  0:42 elapsed"
        );
        assert_eq!(progress_line(&figures, 39), "sending    45%  3.20 MiB/s  ETA 0:52");
        assert_eq!(progress_line(&figures, 14), "sending    45%");
        assert_eq!(progress_line(&figures, 5), "45%");
        assert_eq!(progress_line(&figures, 2), "se");
        assert_eq!(progress_line(&figures, 0), "");
    }

    #[test]
    fn no_line_is_longer_than_its_width() {
        let waiting = Figures { phase: "verifying", ..sending() };
        let open = Figures { total_bytes: None, eta: None, rate: None, ..sending() };
        let asking = Figures { phase: "sending the change of the index", ..Figures::default() };
        let huge = Figures {
            done_bytes: u64::MAX,
            total_bytes: Some(u64::MAX),
            rate: Some(1e18),
            eta: Some(Duration::from_secs(30_000_000)),
            elapsed: Duration::from_secs(10_000_000),
            equal_percent: Some(100),
            ..sending()
        };
        for figures in [sending(), waiting, open, asking, huge] {
            for width in 0..200 {
                let line = progress_line(&figures, width);
                assert!(line.len() <= width && line.is_ascii(), "{width}: {line:?}");
            }
        }
    }

    #[test]
    fn what_is_not_known_is_not_claimed() {
        let open = Figures { total_bytes: None, eta: None, rate: None, ..sending() };
        assert_eq!(
            progress_line(&open, 79),
            "sending    135.00 MiB of ?  --/s  ETA --  0:42 elapsed  12,345 files"
        );
        let asking = Figures { phase: "asking", elapsed: Duration::from_secs(3), ..Figures::default() };
        assert_eq!(progress_line(&asking, 79), "asking     0:03");
    }

    #[test]
    fn all_that_was_sent_is_not_all_that_was_confirmed() {
        let sent = Figures { done_bytes: 314_572_800, eta: None, ..sending() };
        let line = progress_line(&sent, 119);
        assert!(line.contains(" 99% ") && !line.contains("100%"), "{line}");
        let waiting = Figures { phase: "verifying", files: 1, ..sent };
        assert_eq!(
            progress_line(&waiting, 79),
            "verifying  waiting for the receiver to confirm 1 file  0:42"
        );
        assert_eq!(progress_line(&waiting, 39), "verifying  0:42");
        let confirming = Figures { files: 12_345, files_done: 9_000, ..waiting };
        assert_eq!(
            progress_line(&confirming, 79),
            "verifying  72%  waiting for the receiver to confirm 12,345 files  0:42"
        );
        assert_eq!(progress_line(&confirming, 39), "verifying  [==========>    ]  72%  0:42");
        let confirmed = Figures { files_done: 12_345, ..confirming };
        assert_eq!(progress_line(&confirmed, 20), "verifying  99%  0:42");
    }

    #[test]
    fn times_are_short() {
        let shown = [0, 59, 60, 3_599, 3_723, 172_799, 525_600].map(|s| short_time(Duration::from_secs(s)));
        assert_eq!(shown, ["0:00", "0:59", "1:00", "59:59", "1:02:03", "47:59:59", "6d 02h"]);
    }
}
