//! Log lines: on standard error, and in a file if the user names one.

use super::terminal::Terminal;
use crate::error::{Error, ErrorKind, Result};
use jiff::Zoned;
use parking_lot::Mutex;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use tracing::Level;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// A file to which lines are appended.
#[derive(Clone)]
pub(super) struct LogFile(Arc<Mutex<File>>);

impl LogFile {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// It cannot be opened for writing.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(path).map_err(|e| {
            let what = format!("cannot write to the log file {}", path.display());
            Error::io(what, e).with_kind(ErrorKind::Usage)
        })?;
        Ok(Self(Arc::new(Mutex::new(file))))
    }

    /// Appends what was said to the user, with its time.
    pub(super) fn say(&self, text: &str) {
        // Where the disk is full, the user still sees it on standard error.
        let _ = self.0.lock().write_all(format!("{} {text}\n", local_time()).as_bytes());
    }
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// How much is logged, and where.
pub(super) struct LogOptions {
    /// The least important lines of standard error.
    pub(super) level: Level,
    /// Standard error takes colours.
    pub(super) colours: bool,
    /// Takes at least the level INFO.
    pub(super) file: Option<LogFile>,
}

/// Sends log lines to `terminal` and to the file from now on.
pub(super) fn start(options: LogOptions, terminal: Arc<Terminal>) {
    let level = options.level;
    let lines = tracing_subscriber::fmt::layer()
        .with_timer(LocalTime)
        .with_target(level >= Level::DEBUG)
        .with_ansi(options.colours)
        .with_writer(move || AboveLine(terminal.clone()))
        .with_filter(targets(level));
    let file = options.file.map(|file| {
        tracing_subscriber::fmt::layer()
            .with_timer(LocalTime)
            .with_target(false)
            .with_ansi(false)
            .with_writer(move || file.clone())
            .with_filter(targets(level.max(Level::INFO)))
    });
    tracing_subscriber::registry().with(lines).with(file).init();
}

fn targets(level: Level) -> Targets {
    // The SDK logs whole requests, signatures included. Its errors become errors of this program
    // where they matter.
    let sdk = if level >= Level::INFO { LevelFilter::WARN } else { LevelFilter::OFF };
    Targets::new().with_default(level).with_target("aws", sdk)
}

/// Writes log lines above the progress line.
struct AboveLine(Arc<Terminal>);

impl Write for AboveLine {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.above(|| std::io::stderr().write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

struct LocalTime;

impl FormatTime for LocalTime {
    fn format_time(&self, line: &mut Writer<'_>) -> std::fmt::Result {
        line.write_str(&local_time())
    }
}

/// The time of this host with its offset from UTC, as 2026-01-31T13:59:00.123+01:00.
pub(super) fn local_time() -> String {
    Zoned::now().strftime("%Y-%m-%dT%H:%M:%S%.3f%:z").to_string()
}
