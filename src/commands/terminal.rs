//! Standard error as a terminal with a progress line at its end.
//!
//! The cursor stays at the first character of the line. So whatever makes the line wrap, such as a
//! window that becomes narrower, all of it is behind the cursor, and can be erased.

use parking_lot::Mutex;
use std::io::Write;
use std::os::fd::AsFd;

/// Assumed where the terminal does not tell its width.
const DEFAULT_COLUMNS: usize = 80;
/// Erases from the cursor to the end of its line.
const ERASE_LINE: &str = "\x1b[K";
/// Erases from the cursor to the end of the screen.
const ERASE_BELOW: &str = "\x1b[J";
/// Characters behind the last column are dropped, or begin a new line again. The window may have
/// become narrower since its width was asked for.
const NO_WRAP: &str = "\x1b[?7l";
const WRAP: &str = "\x1b[?7h";

/// Where everything goes that the program says beside its data.
#[derive(Default)]
pub(super) struct Terminal {
    line: Mutex<Line>,
}

/// The line that is shown; nothing where it is empty.
#[derive(Default)]
struct Line {
    text: String,
    columns: usize,
}

impl Terminal {
    /// Shows a line in place of the previous line; `text` gets its greatest length in characters.
    pub(super) fn show(&self, text: impl FnOnce(usize) -> String) {
        let mut line = self.line.lock();
        let columns = columns();
        // Of the last column some terminals keep the cursor, others wrap.
        let text = text(columns.saturating_sub(1));
        if text == line.text && columns == line.columns {
            return;
        }
        let erase = if columns == line.columns || line.text.is_empty() { "" } else { ERASE_BELOW };
        *line = Line { text, columns };
        line.write(erase);
    }

    /// Removes the line.
    pub(super) fn clear(&self) {
        self.line.lock().clear();
    }

    /// Does what writes to the terminal in another way; the line comes after it.
    pub(super) fn above<T>(&self, work: impl FnOnce() -> T) -> T {
        let mut line = self.line.lock();
        let shown = line.clear();
        let outcome = work();
        if let Some(Line { text, columns }) = shown.filter(|line| line.columns == columns()) {
            *line = Line { text, columns };
            line.write("");
        }
        outcome
    }
}

impl Line {
    fn write(&self, erase: &str) {
        write(&format!("\r{erase}{NO_WRAP}{}{ERASE_LINE}{WRAP}\r", self.text));
    }

    fn clear(&mut self) -> Option<Self> {
        if self.text.is_empty() {
            return None;
        }
        let erase = if columns() == self.columns { ERASE_LINE } else { ERASE_BELOW };
        write(&format!("\r{erase}"));
        Some(std::mem::take(self))
    }
}

fn write(text: &str) {
    let mut stderr = std::io::stderr().lock();
    // There is no other place to report that standard error is closed.
    let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
}

fn columns() -> usize {
    columns_of(std::io::stderr()).unwrap_or(DEFAULT_COLUMNS)
}

/// How wide the terminal is that `stream` leads to; `None` if it is no terminal, or does not tell.
pub(super) fn columns_of(stream: impl AsFd) -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(stream).ok()?;
    (size.ws_col > 0).then_some(size.ws_col.into())
}
