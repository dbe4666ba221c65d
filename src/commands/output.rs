//! What the user sees: progress on a terminal, notices, JSON lines, the summary.

use super::Global;
use crate::error::{Error, Result};
use crate::telemetry::{Counters, Monitor, Notice};
use indicatif::{
    FormattedDuration, HumanBytes, HumanCount, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState,
    ProgressStyle,
};
use serde_json::{Value, json};
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

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

/// Where everything for the user goes.
pub(super) struct Output {
    json: bool,
    quiet: bool,
    verbose: bool,
    terminal: bool,
    bar: ProgressBar,
    counters: Counters,
    cancelled: AtomicBool,
    verified: Arc<AtomicBool>,
    open: Arc<AtomicBool>,
    /// Standard output is for something else than lines.
    no_stdout: AtomicBool,
    /// The share of what was equal is shown, not the number of files.
    equal: AtomicBool,
    phase: Mutex<&'static str>,
    start: Instant,
}

const TICK: Duration = Duration::from_millis(100);
const JSON_TICK: Duration = Duration::from_secs(1);

impl Output {
    /// Sets up logging and finds out what standard error is.
    pub(super) fn new(global: &Global) -> Arc<Self> {
        let terminal = std::io::stderr().is_terminal() && !global.quiet && !global.json;
        let (verified, open) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::hidden());
        bar.set_style(style(verified.clone(), open.clone()));
        let output = Arc::new(Self {
            json: global.json,
            quiet: global.quiet,
            verbose: global.verbose > 0,
            terminal,
            bar,
            counters: Counters::default(),
            cancelled: AtomicBool::new(false),
            verified,
            open,
            no_stdout: AtomicBool::new(false),
            equal: AtomicBool::new(false),
            phase: Mutex::new(""),
            start: Instant::now(),
        });
        let bar = output.bar.clone();
        let level = log_level(global);
        let lines = tracing_subscriber::fmt::layer()
            .with_target(level >= Level::DEBUG)
            .with_ansi(terminal)
            .with_writer(move || BarWriter(bar.clone()));
        // The SDK logs whole requests, with what signs them.
        let kept = Targets::new().with_default(level).with_target("aws", level.min(Level::WARN));
        tracing_subscriber::registry().with(lines).with(kept).init();
        output
    }

    /// Shows how far the counters are until the guard is dropped.
    pub(super) fn watch(self: &Arc<Self>) -> Watch {
        let stop = Arc::new(AtomicBool::new(false));
        if !self.terminal && !self.json {
            return Watch { stop, thread: None, output: self.clone() };
        }
        if self.terminal {
            // A bar that was finished by an earlier phase shows no time left.
            self.bar.reset();
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        let (output, stopped) = (self.clone(), stop.clone());
        let thread =
            std::thread::Builder::new().name("progress".into()).spawn(move || output.tick(&stopped)).ok();
        Watch { stop, thread, output: self.clone() }
    }

    fn tick(&self, stop: &AtomicBool) {
        let mut last_line = Instant::now();
        let mut resumed = 0;
        while !stop.load(Ordering::Relaxed) {
            std::thread::park_timeout(TICK);
            let counters = &self.counters;
            if self.terminal {
                let now_resumed = counters.resumed_bytes.get();
                let open = counters.totals_open.get() > 0;
                self.open.store(open, Ordering::Relaxed);
                // Of a total that nobody knows yet, nothing is a fraction.
                self.bar.set_length(if open { u64::MAX } else { counters.total_bytes.get() });
                self.bar.set_position(counters.done_bytes.get());
                if now_resumed != resumed {
                    // What was there before is no speed.
                    resumed = now_resumed;
                    self.bar.reset_eta();
                }
                self.bar.set_prefix(match self.equal.load(Ordering::Relaxed) {
                    true => {
                        let share = counters.equal_bytes.get() * 100 / counters.done_bytes.get().max(1);
                        format!("{share}% equal")
                    }
                    false => format!("{} files", HumanCount(counters.files_total.get())),
                });
            } else if last_line.elapsed() >= JSON_TICK {
                last_line = Instant::now();
                let phase = *self.phase.lock().unwrap_or_else(PoisonError::into_inner);
                let _ = self.json_line(&json!({
                    "event": "progress", "phase": phase, "done_bytes": counters.done_bytes.get(),
                    "total_bytes": counters.total_bytes.get(), "totals_open": counters.totals_open.get() > 0,
                    "equal_bytes": counters.equal_bytes.get(), "files_done": counters.files_done.get(),
                    "files_total": counters.files_total.get(), "sent_bytes": counters.sent_bytes.get(),
                    "wire_bytes": counters.wire_bytes.get(), "retries": counters.retries.get(),
                    "seconds": self.start.elapsed().as_secs_f64(),
                }));
            }
        }
    }

    /// Shows the share of what was equal in place of the number of files.
    pub(super) fn shows_equal(&self) {
        self.equal.store(true, Ordering::Relaxed);
    }

    /// Sends JSON lines to standard error: standard output is for something else.
    pub(super) fn leaves_stdout(&self) {
        self.no_stdout.store(true, Ordering::Relaxed);
    }

    /// Whether no other process of a pipeline shows its progress on this terminal. Whoever asks first has it until he ends.
    pub(super) fn has_terminal_alone(&self) -> bool {
        use rustix::fs::{FlockOperation, fcntl_lock};
        let taken = || fcntl_lock(std::io::stderr(), FlockOperation::NonBlockingLockExclusive);
        !self.terminal || !matches!(taken(), Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS))
    }

    /// Says on the progress line that everything is proven.
    pub(super) fn verified(&self) {
        self.verified.store(true, Ordering::Relaxed);
    }

    /// Asks the running work to stop.
    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    fn json_line(&self, value: &Value) -> Result<()> {
        self.line(&value.to_string())
    }

    /// Writes a line of data to standard output.
    ///
    /// # Errors
    /// Nobody reads it any more, or the disk behind it is full.
    fn line(&self, text: &str) -> Result<()> {
        if self.no_stdout.load(Ordering::Relaxed) {
            self.say(text);
            return Ok(());
        }
        self.bar.suspend(|| {
            let mut stdout = std::io::stdout().lock();
            writeln!(stdout, "{text}")
                .and_then(|()| stdout.flush())
                .map_err(|e| Error::io("cannot write to standard output", e))
        })
    }

    /// Writes a line of data to standard output: as text, or as JSON.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub(super) fn data(&self, text: &str, value: impl FnOnce() -> Value) -> Result<()> {
        if self.json { self.json_line(&value()) } else { self.line(text) }
    }

    /// Writes a line for people to standard error, whatever it is; as JSON to standard output where that is wanted.
    pub(super) fn announce(&self, text: &str, value: &Value) {
        if self.json {
            let _ = self.json_line(value);
        }
        self.say(text);
    }

    fn say(&self, text: &str) {
        self.bar.suspend(|| {
            // Nothing can be done when standard error is gone.
            let _ = writeln!(std::io::stderr().lock(), "{text}");
        });
    }

    /// Ends the output with a summary; gives the exit code.
    pub(super) fn summary(&self, outcome: &Outcome) -> u8 {
        let seconds = self.start.elapsed().as_secs_f64();
        if self.json {
            let mut object = json!({"event": "summary", "command": outcome.command, "exit": outcome.exit, "seconds": seconds});
            if let (Some(object), Value::Object(fields)) = (object.as_object_mut(), &outcome.fields) {
                object.extend(fields.clone());
            }
            if let Err(e) = self.json_line(&object) {
                self.say(&format!("tar-like: {e}"));
                return 1;
            }
        }
        if outcome.fields["dry_run"] == true && !self.json {
            // The plan is what was asked for: data, whatever standard error is.
            return match self.line(&outcome.text) {
                Ok(()) => outcome.exit,
                Err(e) => self.error(&e),
            };
        }
        let wanted = self.terminal
            || self.verbose
            || outcome.exit != 0
            || matches!(outcome.command, "check" | "compact" | "history compact" | "gc");
        if wanted && !self.quiet && !self.json {
            self.say(&format!("{} ({seconds:.1} s)", outcome.text));
        }
        outcome.exit
    }

    /// Ends the output with an error; gives the exit code.
    pub(super) fn error(&self, error: &Error) -> u8 {
        let exit = error.kind().exit_code();
        self.say(&format!("tar-like: {error}"));
        if let Some(hint) = error.hint_text() {
            self.say(&format!("  hint: {hint}"));
        }
        if self.json {
            let _ = self.json_line(&json!({
                "event": "summary", "exit": exit, "error": error.to_string(), "hint": error.hint_text(),
                "seconds": self.start.elapsed().as_secs_f64(),
            }));
        }
        exit
    }
}

impl Monitor for Output {
    fn notice(&self, notice: Notice) {
        match notice {
            Notice::Phase(phase) => {
                *self.phase.lock().unwrap_or_else(PoisonError::into_inner) = phase;
                self.bar.set_message(phase);
                tracing::info!("{phase}");
            }
            Notice::Failed { path, reason } => {
                if self.json {
                    let _ = self.json_line(&json!({"event": "failed", "path": path, "reason": reason}));
                }
                self.say(&format!("failed: {path}: {reason}"));
            }
            Notice::Warning(text) => {
                if self.json {
                    let _ = self.json_line(&json!({"event": "warning", "text": text}));
                }
                if !self.quiet {
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

/// Shows progress as long as it lives.
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
        if self.output.verified.load(Ordering::Relaxed) {
            self.output.bar.finish();
        } else {
            // What was not proven leaves no line behind that looks like a result.
            self.output.bar.finish_and_clear();
        }
        self.output.bar.set_draw_target(ProgressDrawTarget::hidden());
    }
}

/// `open` says that nobody knows yet how much there is.
fn style(verified: Arc<AtomicBool>, open: Arc<AtomicBool>) -> ProgressStyle {
    let (no_total, no_end) = (open.clone(), open.clone());
    let total = move |state: &ProgressState, text: &mut dyn std::fmt::Write| {
        let _ = match state.len().filter(|_| !no_total.load(Ordering::Relaxed)) {
            Some(total) => write!(text, "{}", HumanBytes(total)),
            None => write!(text, "?"),
        };
    };
    let left = move |state: &ProgressState, text: &mut dyn std::fmt::Write| {
        let _ = match no_end.load(Ordering::Relaxed) {
            true => write!(text, "?"),
            false => write!(text, "{:#}", HumanDuration(state.eta())),
        };
    };
    let percent = move |state: &ProgressState, text: &mut dyn std::fmt::Write| {
        if open.load(Ordering::Relaxed) {
            let _ = write!(text, "?");
            return;
        }
        let fraction = f64::from(state.fraction()) * 100.0;
        // 100 % means proven, not sent.
        let percent = if verified.load(Ordering::Relaxed) { 100.0 } else { fraction.floor().min(99.0) };
        let _ = write!(text, "{percent:.0}%");
    };
    let template = "{msg:16} [{bar:30}] {checked} {bytes}/{total} {prefix} {bytes_per_sec} ETA {left}";
    match ProgressStyle::with_template(template) {
        Ok(style) => style
            .with_key("checked", percent)
            .with_key("total", total)
            .with_key("left", left)
            .progress_chars("=> "),
        Err(_) => ProgressStyle::default_bar(),
    }
}

/// `-q` and `-v` first, then `LOGLEVEL` in the spellings of Python and Rust, then warnings.
fn log_level(global: &Global) -> Level {
    match (global.quiet, global.verbose) {
        (true, _) => Level::ERROR,
        (_, 1) => Level::INFO,
        (_, 2) => Level::DEBUG,
        (_, 3..) => Level::TRACE,
        _ => match std::env::var("LOGLEVEL").unwrap_or_default().trim().to_ascii_uppercase().as_str() {
            "CRITICAL" | "FATAL" | "ERROR" => Level::ERROR,
            "INFO" => Level::INFO,
            "DEBUG" => Level::DEBUG,
            "TRACE" => Level::TRACE,
            _ => Level::WARN,
        },
    }
}

/// Log lines appear above the progress line, not in it.
struct BarWriter(ProgressBar);

impl Write for BarWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.suspend(|| std::io::stderr().write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

/// The last JSON line when the command line itself was wrong, so that nothing else could be set up.
pub(super) fn usage_summary(error: &str, exit: u8) {
    let line = json!({"event": "summary", "exit": exit, "error": error});
    // Nobody is left to be told that standard output is gone.
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// Bytes for people.
pub(super) fn human_bytes(bytes: u64) -> String {
    HumanBytes(bytes).to_string()
}

/// A count for people.
pub(super) fn human_count(count: u64) -> String {
    HumanCount(count).to_string()
}

/// A duration for people, in hours, minutes and seconds.
pub(super) fn human_seconds(seconds: u64) -> String {
    FormattedDuration(Duration::from_secs(seconds)).to_string()
}
