//! The output of all commands: progress on a terminal, notices, JSON lines, the summary.

pub(super) use crate::archive::shown::{counted, separated as human_count};
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::{Counters, Monitor, Notice};
use clap::Args;
use indicatif::{
    FormattedDuration, HumanBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState,
    ProgressStyle,
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tracing::Level;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// The flags that every command has.
#[derive(Args, Clone)]
pub(super) struct Global {
    /// Show more messages (-vv: even more)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Show errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Write JSON to standard output, one object a line, with a summary at the end
    #[arg(long, global = true)]
    pub(super) json: bool,
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
    terminal: bool,
    bar: ProgressBar,
    counters: Counters,
    cancelled: AtomicBool,
    verified: Arc<AtomicBool>,
    is_total_open: Arc<AtomicBool>,
    /// Standard output carries a stream of data, so lines go to standard error.
    stdout_is_stream: AtomicBool,
    /// Progress is shown as lines where there is no terminal.
    shows_lines: AtomicBool,
    /// The progress line shows the percentage of equal bytes instead of the number of files.
    shows_equal: AtomicBool,
    phase: Mutex<&'static str>,
    start: Instant,
}

const TICK: Duration = Duration::from_millis(100);
const JSON_TICK: Duration = Duration::from_secs(1);

impl Output {
    /// Sets up logging, and looks whether standard error is a terminal. `debug` raises the log
    /// level unless flags or `LOGLEVEL` set it.
    pub(super) fn new(global: &Global, debug: bool) -> Arc<Self> {
        let terminal = std::io::stderr().is_terminal() && !global.quiet && !global.json;
        let (verified, is_total_open) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::hidden());
        bar.set_style(style(verified.clone(), is_total_open.clone()));
        let output = Arc::new(Self {
            json: global.json,
            quiet: global.quiet,
            verbose: global.verbose > 0,
            terminal,
            bar,
            counters: Counters::default(),
            cancelled: AtomicBool::new(false),
            verified,
            is_total_open,
            stdout_is_stream: AtomicBool::new(false),
            shows_lines: AtomicBool::new(false),
            shows_equal: AtomicBool::new(false),
            phase: Mutex::new(""),
            start: Instant::now(),
        });
        let bar = output.bar.clone();
        let level = log_level(global, debug);
        let lines = tracing_subscriber::fmt::layer()
            .with_target(level >= Level::DEBUG)
            .with_ansi(terminal)
            .with_writer(move || BarWriter(bar.clone()));
        // The SDK logs whole requests, signatures included. Its errors become errors of this
        // program where they matter.
        let sdk = if level >= Level::INFO { LevelFilter::WARN } else { LevelFilter::OFF };
        let targets = Targets::new().with_default(level).with_target("aws", sdk);
        tracing_subscriber::registry().with(lines).with(targets).init();
        output
    }

    /// Shows the counters until the guard is dropped.
    pub(super) fn watch(self: &Arc<Self>) -> Watch {
        let stop = Arc::new(AtomicBool::new(false));
        let lines = self.shows_lines.load(Ordering::Relaxed) && !self.quiet;
        if !self.terminal && !self.json && !lines {
            return Watch { stop, thread: None, output: self.clone() };
        }
        if self.terminal {
            // A bar that an earlier watch has finished shows no time left.
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
                self.is_total_open.store(open, Ordering::Relaxed);
                // Without a known total there is no fraction to show.
                self.bar.set_length(if open { u64::MAX } else { counters.total_bytes.get() });
                self.bar.set_position(counters.done_bytes.get());
                if now_resumed != resumed {
                    // Resumed bytes say nothing about the speed.
                    resumed = now_resumed;
                    self.bar.reset_eta();
                }
                self.bar.set_prefix(match self.shows_equal.load(Ordering::Relaxed) {
                    true => {
                        let share = counters.equal_bytes.get() * 100 / counters.done_bytes.get().max(1);
                        format!("{share}% equal")
                    }
                    false => counted(counters.files_total.get(), "file"),
                });
            } else if last_line.elapsed() >= JSON_TICK {
                last_line = Instant::now();
                let phase = *self.phase.lock();
                if !self.json {
                    let (done, total) = (counters.done_bytes.get(), counters.total_bytes.get());
                    let total =
                        if counters.totals_open.get() > 0 { "?".to_string() } else { human_bytes(total) };
                    self.say(&format!("{phase}: {} of {total}", human_bytes(done)));
                    continue;
                }
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
        !self.terminal || !matches!(taken(), Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS))
    }

    /// Shows on the progress line that everything is verified.
    pub(super) fn verified(&self) {
        self.verified.store(true, Ordering::Relaxed);
    }

    /// Whether more messages are wanted.
    pub(super) fn is_verbose(&self) -> bool {
        self.verbose
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
    /// The reader has closed it, or the disk behind it is full.
    fn line(&self, text: &str) -> Result<()> {
        if self.stdout_is_stream.load(Ordering::Relaxed) {
            self.say(text);
            return Ok(());
        }
        self.bar.suspend(|| {
            let mut stdout = std::io::stdout().lock();
            writeln!(stdout, "{text}")
                .and_then(|()| stdout.flush())
                // A full disk there is not a full receiver.
                .map_err(|e| Error::io("cannot write to standard output", e).with_kind(ErrorKind::Io))
        })
    }

    /// Writes a line of data to standard output, as text or as JSON.
    ///
    /// # Errors
    /// The reader has closed it, or the disk behind it is full.
    pub(super) fn data(&self, text: &str, value: impl FnOnce() -> Value) -> Result<()> {
        if self.json { self.json_line(&value()) } else { self.line(text) }
    }

    /// Writes a line to standard error even if it is not a terminal; with `--json`, also `value` to
    /// standard output.
    pub(super) fn announce(&self, text: &str, value: &Value) {
        if self.json {
            let _ = self.json_line(value);
        }
        self.say(text);
    }

    fn say(&self, text: &str) {
        self.bar.suspend(|| {
            // There is no other place to report that standard error is closed.
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
            // The plan is the result of the command, so it goes to standard output.
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
        if let Some(hint) = error.hint() {
            self.say(&format!("  hint: {hint}"));
        }
        if self.json {
            let _ = self.json_line(&json!({
                "event": "summary", "exit": exit, "error": error.to_string(), "hint": error.hint(),
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
                *self.phase.lock() = phase;
                self.bar.set_message(phase);
                // Each phase has a speed of its own.
                self.bar.reset_eta();
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
        if self.output.verified.load(Ordering::Relaxed) {
            self.output.bar.finish();
        } else {
            // A run that is not verified must not leave a line that looks like a result.
            self.output.bar.finish_and_clear();
        }
        self.output.bar.set_draw_target(ProgressDrawTarget::hidden());
    }
}

/// `open` says that the total is not known yet.
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
        // 100 % means verified, not sent.
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

/// `-q` and `-v` win over `LOGLEVEL`, which takes the spellings of Python and of Rust. The default
/// is warnings.
fn log_level(global: &Global, debug: bool) -> Level {
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
            "" if debug => Level::DEBUG,
            _ => Level::WARN,
        },
    }
}

/// Writes log lines above the progress line.
struct BarWriter(ProgressBar);

impl Write for BarWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.suspend(|| std::io::stderr().write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
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
        let _ = writeln!(std::io::stdout().lock(), "{line}");
    }
    exit
}

/// Bytes in binary units, as 1.23 MiB.
pub(super) fn human_bytes(bytes: u64) -> String {
    HumanBytes(bytes).to_string()
}

/// A duration in hours, minutes and seconds.
pub(super) fn human_seconds(seconds: u64) -> String {
    FormattedDuration(Duration::from_secs(seconds)).to_string()
}
