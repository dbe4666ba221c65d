//! The output of all commands: progress on a terminal, notices, JSON lines, the summary.

use super::log::{self, LogFile, LogOptions, local_time};
use super::meter::Meter;
pub(super) use super::numbers::{counted, human_bytes, human_count, human_seconds};
use super::progress_line::{Figures, progress_line, short_time};
use super::terminal::{Terminal, columns_of};
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::{Counters, Monitor, Notice};
use clap::Args;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tracing::Level;

/// The flags that every command has.
#[derive(Args, Clone)]
pub(super) struct Global {
    /// Show more messages, or names of entries (-vv: even more)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Show errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Write JSON to standard output, one object a line, with a summary at the end
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Append messages, and the summary, to this file, with their times
    #[arg(long, global = true, value_name = "FILE")]
    log_file: Option<PathBuf>,
    /// The settings file, or '' for none [default: ~/.tar_like_rc]
    #[arg(long, global = true, value_name = "FILE", env = "TARLIKE_RC")]
    rc_file: Option<OsString>,
}

/// How a command ended.
pub(super) struct Outcome {
    /// The command's name.
    pub(super) command: &'static str,
    /// The exit code.
    pub(super) exit: u8,
    /// One line for people.
    pub(super) text: String,
    /// More fields for the JSON summary.
    pub(super) fields: Value,
}

/// Everything that a command says to its user goes through this.
pub(super) struct Output {
    json: bool,
    quiet: bool,
    verbose: bool,
    /// Standard error is a terminal, for people …
    is_terminal: bool,
    /// … that can show the progress line.
    has_line: bool,
    terminal: Arc<Terminal>,
    log_file: Option<LogFile>,
    counters: Counters,
    cancelled: AtomicBool,
    /// Standard output carries a stream of data, so lines go to standard error.
    stdout_is_stream: AtomicBool,
    /// Progress is shown as lines where there is no terminal.
    shows_lines: AtomicBool,
    /// The progress line shows the percentage of equal bytes instead of the number of files.
    shows_equal: AtomicBool,
    work: Mutex<Work>,
    start: Instant,
}

/// What is being done at present.
#[derive(Default)]
struct Work {
    phase: &'static str,
    meter: Meter,
}

const TICK: Duration = Duration::from_millis(200);
const LINE_INTERVAL: Duration = Duration::from_secs(1);

impl Output {
    /// Sets up logging, and looks whether standard error is a terminal. `debug` raises the log
    /// level unless flags or `LOGLEVEL` set it. `names` says that the first `-v` has the command name
    /// entries, which log lines between them would tear apart.
    ///
    /// # Errors
    /// The log file cannot be opened.
    pub(super) fn new(global: &Global, debug: bool, names: bool) -> Result<Arc<Self>> {
        let is_terminal = std::io::stderr().is_terminal() && !global.quiet && !global.json;
        let log_file = global.log_file.as_deref().map(LogFile::open).transpose()?;
        let terminal = Arc::new(Terminal::default());
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let colours = is_terminal && set("NO_COLOR").is_none();
        let file = log_file.clone();
        let level = log_level(global, debug, names);
        log::start(LogOptions { level, colours, file }, terminal.clone());
        Ok(Arc::new(Self {
            json: global.json,
            quiet: global.quiet,
            verbose: global.verbose > 0,
            is_terminal,
            has_line: is_terminal && set("TERM").is_none_or(|term| term != "dumb"),
            terminal,
            log_file,
            counters: Counters::default(),
            cancelled: AtomicBool::new(false),
            stdout_is_stream: AtomicBool::new(false),
            shows_lines: AtomicBool::new(false),
            shows_equal: AtomicBool::new(false),
            work: Mutex::default(),
            start: Instant::now(),
        }))
    }

    /// Shows the counters until the guard is dropped.
    pub(super) fn watch(self: &Arc<Self>) -> Watch {
        let stop = Arc::new(AtomicBool::new(false));
        let lines = self.shows_lines.load(Ordering::Relaxed) && !self.quiet;
        if !self.has_line && !self.json && !lines {
            return Watch { stop, thread: None, output: self.clone() };
        }
        let (output, stopped) = (self.clone(), stop.clone());
        let thread =
            std::thread::Builder::new().name("progress".into()).spawn(move || output.tick(&stopped)).ok();
        Watch { stop, thread, output: self.clone() }
    }

    fn tick(&self, stop: &AtomicBool) {
        let mut last_line = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            std::thread::park_timeout(TICK);
            let figures = self.figures();
            if self.has_line {
                self.terminal.show(|columns| progress_line(&figures, columns));
            } else if last_line.elapsed() >= LINE_INTERVAL {
                last_line += LINE_INTERVAL;
                self.progress_as_line(&figures);
            }
        }
    }

    /// What there is to tell now.
    fn figures(&self) -> Figures {
        let (counters, elapsed) = (&self.counters, self.start.elapsed());
        let (done_bytes, total_bytes) = (counters.done_bytes.get(), counters.total_bytes.get());
        let mut work = self.work.lock();
        work.meter.observe(elapsed, self.moved_bytes());
        if self.cancelled.load(Ordering::Relaxed) {
            return Figures { phase: "stopping", elapsed, ..Figures::default() };
        }
        let is_open = counters.totals_open.get() > 0;
        let eta = work.meter.eta(total_bytes.saturating_sub(done_bytes)).filter(|_| !is_open);
        let equal = || counters.equal_bytes.get() * 100 / done_bytes.max(1);
        Figures {
            phase: work.phase,
            done_bytes,
            total_bytes: (!is_open).then_some(total_bytes),
            rate: work.meter.rate(),
            average: work.meter.average(),
            eta,
            elapsed,
            files: counters.files_total.get(),
            files_done: counters.files_done.get(),
            equal_percent: self.shows_equal.load(Ordering::Relaxed).then(equal),
        }
    }

    /// Bytes that this run has moved itself.
    fn moved_bytes(&self) -> u64 {
        self.counters.done_bytes.get().saturating_sub(self.counters.resumed_bytes.get())
    }

    fn progress_as_line(&self, figures: &Figures) {
        let (phase, counters) = (figures.phase, &self.counters);
        if !self.json {
            let total = figures.total_bytes.map_or_else(|| "?".to_string(), human_bytes);
            self.say(&format!("{phase}: {} of {total}", human_bytes(figures.done_bytes)));
            return;
        }
        let whole = |rate: Option<f64>| rate.map(|rate| rate as u64);
        let _ = self.json_line(json!({
            "event": "progress", "phase": phase, "done_bytes": counters.done_bytes.get(),
            "total_bytes": counters.total_bytes.get(), "totals_open": figures.total_bytes.is_none(),
            "resumed_bytes": counters.resumed_bytes.get(), "equal_bytes": counters.equal_bytes.get(),
            "files_done": counters.files_done.get(), "files_total": counters.files_total.get(),
            "sent_bytes": counters.sent_bytes.get(), "wire_bytes": counters.wire_bytes.get(),
            "retries": counters.retries.get(), "rate": whole(figures.rate),
            "average_rate": whole(figures.average), "eta_s": figures.eta.map(|eta| eta.as_secs_f64()),
            "seconds": figures.elapsed.as_secs_f64(),
        }));
    }

    /// Shows the percentage of equal bytes instead of the number of files.
    pub(super) fn show_equal(&self) {
        self.shows_equal.store(true, Ordering::Relaxed);
    }

    /// Shows progress as a line each second where standard error is not a terminal.
    pub(super) fn show_lines(&self) {
        self.shows_lines.store(true, Ordering::Relaxed);
    }

    /// Sends lines to standard error, because standard output carries a stream of data.
    pub(super) fn keep_stdout_for_stream(&self) {
        self.stdout_is_stream.store(true, Ordering::Relaxed);
    }

    /// Whether this process may show its progress on the terminal. Of the processes of a pipeline,
    /// the first one that asks may until it ends.
    pub(super) fn takes_terminal(&self) -> bool {
        use rustix::fs::{FlockOperation, fcntl_lock};
        let taken = || fcntl_lock(std::io::stderr(), FlockOperation::NonBlockingLockExclusive);
        !self.has_line || !matches!(taken(), Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS))
    }

    /// Whether more messages are wanted.
    pub(super) fn is_verbose(&self) -> bool {
        self.verbose
    }

    /// Asks the running work to stop.
    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    fn json_line(&self, value: Value) -> Result<()> {
        self.line(&timed(value).to_string())
    }

    /// Writes a line of data to standard output.
    ///
    /// # Errors
    /// [`ErrorKind::ReaderGone`], or the disk behind it is full.
    fn line(&self, text: &str) -> Result<()> {
        if self.stdout_is_stream.load(Ordering::Relaxed) {
            self.say(text);
            return Ok(());
        }
        self.terminal.above(|| {
            let mut stdout = std::io::stdout().lock();
            writeln!(stdout, "{text}").and_then(|()| stdout.flush()).map_err(cannot_write)
        })
    }

    /// Writes a line of data to standard output, as text or as JSON.
    ///
    /// # Errors
    /// [`ErrorKind::ReaderGone`], or the disk behind it is full.
    pub(super) fn data(&self, text: &str, value: impl FnOnce() -> Value) -> Result<()> {
        if self.json { self.json_line(value()) } else { self.line(text) }
    }

    /// Writes bytes of data to standard output as they are.
    ///
    /// # Errors
    /// As [`Output::data`].
    pub(super) fn bytes(&self, bytes: &[u8]) -> Result<()> {
        std::io::stdout().lock().write_all(bytes).map_err(cannot_write)
    }

    /// Writes an item of a table: `line`, or each cell on a line of its own behind its head where
    /// standard output is a terminal with fewer columns than `width`.
    ///
    /// # Errors
    /// As [`Output::data`].
    pub(super) fn row(
        &self,
        width: usize,
        line: &str,
        cells: &[(&str, &str)],
        value: impl FnOnce() -> Value,
    ) -> Result<()> {
        match columns_of(std::io::stdout()) {
            Some(columns) if columns < width => self.data(&stacked(cells), value),
            _ => self.data(line, value),
        }
    }

    /// Writes the heads of a table to standard output, where its lines have such columns.
    ///
    /// # Errors
    /// As [`Output::data`].
    pub(super) fn heads(&self, width: usize, line: &str) -> Result<()> {
        match columns_of(std::io::stdout()) {
            Some(columns) if columns < width => Ok(()),
            _ => self.text(line),
        }
    }

    /// Writes lines for people to standard output; nothing with `--json`.
    ///
    /// # Errors
    /// As [`Output::data`].
    pub(super) fn text(&self, text: &str) -> Result<()> {
        if self.json { Ok(()) } else { self.line(text) }
    }

    /// How long the command has been running.
    pub(super) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Writes a line to standard error even if it is not a terminal; with `--json`, also `value` to
    /// standard output.
    pub(super) fn announce(&self, text: &str, value: &Value) {
        if self.json {
            let _ = self.json_line(value.clone());
        }
        self.say(text);
    }

    /// Names an entry that was not copied; `how` is the word for people. Programs get one event for
    /// all of them.
    fn entry_failed(&self, how: &str, path: &str, reason: &str) {
        if self.json {
            let _ = self.json_line(json!({"event": "failed", "path": path, "reason": reason}));
        }
        self.say(&format!("{how}: {path}: {reason}"));
    }

    fn say(&self, text: &str) {
        self.log(text);
        self.terminal.above(|| {
            // There is no other place to report that standard error is closed.
            let _ = writeln!(std::io::stderr().lock(), "{text}");
        });
    }

    /// Appends to the log file, if there is one.
    fn log(&self, text: &str) {
        self.log_file.iter().for_each(|file| file.say(text));
    }

    /// Ends the output with a summary; gives the exit code.
    pub(super) fn summary(&self, outcome: &Outcome) -> u8 {
        let (elapsed, average) = (self.start.elapsed(), self.average_rate());
        if self.json {
            let object = json!({
                "event": "summary", "command": outcome.command, "exit": outcome.exit,
                "seconds": elapsed.as_secs_f64(), "average_rate": average,
            });
            if let Err(e) = self.json_line(with_fields(object, &outcome.fields)) {
                return self.error(&e);
            }
        }
        let average = average.map(|rate| format!(", {}/s", human_bytes(rate))).unwrap_or_default();
        let text = format!("{} ({}{average})", outcome.text, time_taken(elapsed));
        match self.tell(outcome, &outcome.text, &text) {
            Ok(()) => outcome.exit,
            Err(e) => self.error(&e),
        }
    }

    /// Says how the run of one of several sources ended.
    ///
    /// # Errors
    /// As [`Output::data`].
    pub(super) fn source_summary(&self, source: &str, ended: &Result<Outcome>, took: Duration) -> Result<()> {
        let event = |exit: u8| json!({"event": "source", "source": source, "exit": exit, "seconds": took.as_secs_f64()});
        match ended {
            Ok(outcome) => {
                if self.json {
                    self.json_line(with_fields(event(outcome.exit), &outcome.fields))?;
                }
                let text = format!("{source}: {} ({})", outcome.text, time_taken(took));
                self.tell(outcome, &format!("{source}:\n{}", outcome.text), &text)
            }
            Err(e) if e.kind() == ErrorKind::ReaderGone => Ok(()),
            Err(e) => {
                self.say_error(&format!("{source}: {e}"), e);
                let mut object = event(e.kind().exit_code());
                (object["error"], object["hint"]) = (e.to_string().into(), e.hint().into());
                if self.json { self.json_line(object) } else { Ok(()) }
            }
        }
    }

    /// Says how a command, or a part of it, ended: `plan` to standard output if that is its result,
    /// otherwise `text` to standard error, where it is wanted.
    fn tell(&self, outcome: &Outcome, plan: &str, text: &str) -> Result<()> {
        if outcome.fields["dry_run"] == true && !self.json {
            self.log(text);
            return self.line(plan);
        }
        let wanted = self.is_terminal
            || self.verbose
            || outcome.exit != 0
            || matches!(outcome.command, "check" | "compact" | "history compact" | "gc");
        if wanted && !self.quiet && !self.json {
            self.say(text);
        } else {
            self.log(text);
        }
        Ok(())
    }

    /// Bytes of content a second, on average over the whole command; `None` if none moved.
    fn average_rate(&self) -> Option<u64> {
        let bytes = match self.counters.sent_bytes.get() {
            0 => self.moved_bytes(),
            sent => sent,
        };
        (bytes > 0).then(|| (bytes as f64 / self.start.elapsed().as_secs_f64()) as u64)
    }

    /// Ends the output with an error; gives the exit code.
    pub(super) fn error(&self, error: &Error) -> u8 {
        let exit = error.kind().exit_code();
        if error.kind() == ErrorKind::ReaderGone {
            // As cat does: the reader that closed standard output has read enough.
            return exit;
        }
        self.say_error(&error.to_string(), error);
        if self.json {
            let _ = self.json_line(json!({
                "event": "summary", "exit": exit, "error": error.to_string(), "hint": error.hint(),
                "seconds": self.start.elapsed().as_secs_f64(),
            }));
        }
        exit
    }
}

impl Output {
    /// Writes `text` as an error, with the hint of `error`.
    fn say_error(&self, text: &str, error: &Error) {
        match error.hint() {
            Some(hint) if error.kind() == ErrorKind::Interrupted => {
                self.say(&format!("tar-like: {text}; {hint}"));
            }
            hint => {
                self.say(&format!("tar-like: {text}"));
                hint.iter().for_each(|hint| self.say(&format!("  hint: {hint}")));
            }
        }
    }
}

fn cannot_write(error: std::io::Error) -> Error {
    let is_gone = error.kind() == std::io::ErrorKind::BrokenPipe;
    // A full disk there is not a full receiver.
    let kind = if is_gone { ErrorKind::ReaderGone } else { ErrorKind::Io };
    Error::io("cannot write to standard output", error).with_kind(kind)
}

impl Monitor for Output {
    fn notice(&self, notice: Notice) {
        match notice {
            Notice::Phase(phase) => {
                // Each phase has a speed of its own.
                let mut work = self.work.lock();
                work.phase = phase;
                work.meter.restart(self.start.elapsed(), self.moved_bytes());
                drop(work);
                tracing::info!("{phase}");
            }
            Notice::Failed { path, reason } => self.entry_failed("failed", &path, &reason),
            Notice::Skipped { path, reason } => self.entry_failed("skipped", &path, &reason),
            Notice::Warning(text) => {
                if self.json {
                    let _ = self.json_line(json!({"event": "warning", "text": text}));
                }
                if self.quiet {
                    self.log(&format!("warning: {text}"));
                } else {
                    self.say(&format!("warning: {text}"));
                }
            }
            Notice::Info(text) => tracing::info!("{text}"),
        }
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// Shows progress while it lives.
pub(super) struct Watch {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
    output: Arc<Output>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
        // The summary says how it ended; a line that stays would look like a result.
        self.output.terminal.clear();
    }
}

/// The cells of an item of a table, a line each.
fn stacked(cells: &[(&str, &str)]) -> String {
    let line = |(number, (head, cell)): (usize, &(&str, &str))| {
        format!("{}{head}: {}", if number == 0 { "" } else { "  " }, cell.trim())
    };
    cells.iter().enumerate().map(line).collect::<Vec<_>>().join("\n")
}

/// How long a command took: 0.3 s, or 1:34 from a minute on.
fn time_taken(elapsed: Duration) -> String {
    match elapsed.as_secs() {
        0..60 => format!("{:.1} s", elapsed.as_secs_f64()),
        _ => short_time(elapsed),
    }
}

/// `object` with more fields.
fn with_fields(mut object: Value, fields: &Value) -> Value {
    if let (Some(object), Value::Object(fields)) = (object.as_object_mut(), fields) {
        object.extend(fields.clone());
    }
    object
}

/// A JSON line with the time at which it is written.
fn timed(mut value: Value) -> Value {
    if let Some(fields) = value.as_object_mut() {
        fields.insert("time".to_owned(), local_time().into());
    }
    value
}

/// `-q` and `-v` win over `LOGLEVEL`, which takes the spellings of Python and of Rust. The default
/// is warnings.
fn log_level(global: &Global, debug: bool, names: bool) -> Level {
    match (global.quiet, global.verbose.saturating_sub(u8::from(names))) {
        (true, _) => Level::ERROR,
        (_, 1) => Level::INFO,
        (_, 2) => Level::DEBUG,
        (_, 3..) => Level::TRACE,
        _ => match std::env::var("LOGLEVEL").unwrap_or_default().trim().to_ascii_uppercase().as_str() {
            "CRITICAL" | "FATAL" | "ERROR" => Level::ERROR,
            "INFO" => Level::INFO,
            "DEBUG" => Level::DEBUG,
            "TRACE" => Level::TRACE,
            "" if debug => Level::DEBUG,
            _ => Level::WARN,
        },
    }
}

/// Says what is wrong with the command line, before there is an [`Output`]. Gives the exit code.
pub(super) fn usage_error(error: &Error, json: bool) -> u8 {
    let exit = error.kind().exit_code();
    let hint = error.hint().map_or(String::new(), |hint| format!("  hint: {hint}\n"));
    // A closed stream is ignored: there is nobody left to tell.
    let _ = write!(std::io::stderr().lock(), "tar-like: {error}\n{hint}");
    if json {
        let line =
            json!({"event": "summary", "exit": exit, "error": error.to_string(), "hint": error.hint()});
        let _ = writeln!(std::io::stdout().lock(), "{}", timed(line));
    }
    exit
}
