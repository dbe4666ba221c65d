//! The command line: flags, environment, terminal, exit codes. The only place for clap, indicatif, `std::env` and stdout.

mod adopt;
mod append;
mod args;
mod blockcopy;
mod check;
mod compact;
mod config;
mod connect;
mod embedded;
mod fresh;
mod gc;
mod generate;
mod hcp_credentials;
mod health;
mod history;
mod index;
mod output;
mod plan;
mod proxy;
mod rc_file;
mod rewind;
mod s3;
mod settings;
mod sync;
mod systemd;
mod tls;
mod token;
mod upload;

use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::{Monitor, Notice};
use clap::builder::Resettable;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use output::{Outcome, Output};
use settings::Settings;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// Index, send, receive and verify folders and buckets: fast, resumable, proven.
#[derive(Parser)]
#[command(name = "tar-like", version, propagate_version = true, after_help = EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done and confirmed, 1 stopped by an error (check: differences found), 2 wrong usage,
3 finished, but some files or blocks failed, 4 receiver full or degraded, 25 more to delete than allowed, 130 interrupted.

Examples:
  tar-like sync /data http://backup:8000/tar       the whole job in one command
  tar-like index -b /data                          make an index of /data in ~/.tar_like.sqlite
  tar-like proxy -b /srv/copy                      receive on 127.0.0.1:8000
  tar-like upload -b /data -u http://localhost:8000/tar
  tar-like check -b /srv/copy                      verify a copy against the index";

#[derive(Args, Clone)]
struct Global {
    /// Say more (-vv: even more)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Say nothing but errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Write one JSON object a line to standard output, a summary last
    #[arg(long, global = true)]
    json: bool,
    /// A file with settings, or '' for none [default: ~/.tar_like_rc]
    #[arg(long, global = true, value_name = "FILE", env = "TARLIKE_RC")]
    rc_file: Option<OsString>,
}

#[derive(Subcommand)]
enum Command {
    /// Record paths, sizes, digests and metadata of a folder in an index
    Index(index::IndexArgs),
    /// Say what changed since the index was made, and what there is to send, without reading a file
    Plan(plan::PlanArgs),
    /// Receive archives over HTTP and put the files in place
    Proxy(proxy::ProxyArgs),
    /// Send what a receiver misses of an indexed folder
    Upload(upload::UploadArgs),
    /// Compare a folder with an index
    Check(check::CheckArgs),
    /// Index, send and verify in one command
    Sync(sync::SyncArgs),
    /// List the generations of an index, save it to a backup, restore it: history | backup | restore | compact
    History(history::HistoryArgs),
    /// Take an index back to the generation before
    Rewind(rewind::RewindArgs),
    /// Lay the archive of an index out afresh, without reading a file
    Compact(compact::CompactArgs),
    /// Remove what killed runs and replaced transfers have left
    Gc(gc::GcArgs),
    /// Write a shell's completions to standard output
    Completions(generate::CompletionsArgs),
    /// Write the manual pages into a folder
    ManPages(generate::ManPagesArgs),
    /// Copy a huge file or block device over any pipe: checksum | retrieve | save
    Blockcopy(blockcopy::BlockcopyArgs),
    /// Derive the keys for a Hitachi Content Platform from a user's name and password
    HcpCredentials(hcp_credentials::HcpCredentialsArgs),
    /// Show the settings that count, and where each of them is from
    Config(config::ConfigArgs),
    /// Make tokens for the senders of a proxy
    Token(token::TokenArgs),
    /// Ask whether a proxy is ready
    Health(health::HealthArgs),
}

/// The index that commands use unless told otherwise.
fn default_database() -> Result<PathBuf> {
    home("-db FILE").map(|home| home.join(".tar_like.sqlite"))
}

/// The progress database that commands use unless told otherwise.
fn default_progress() -> Result<PathBuf> {
    home("-dbp FILE").map(|home| home.join(".tar_like_progress.sqlite"))
}

fn home(instead: &str) -> Result<PathBuf> {
    std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from).ok_or_else(|| {
        Error::new(ErrorKind::Usage, "HOME is not set, so there is no default place for databases")
            .hint(format!("give {instead}"))
    })
}

/// Threads for hashing: one a core.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The command line's definition. A variable that is set to nothing is not set.
fn command() -> clap::Command {
    fn without_empty(command: clap::Command) -> clap::Command {
        let command = command.mut_args(|argument| {
            let value = argument.get_env().and_then(std::env::var_os);
            if value.is_some_and(|value| value.is_empty()) {
                argument.env(Resettable::Reset)
            } else {
                argument
            }
        });
        command.mut_subcommands(without_empty)
    }
    without_empty(Cli::command())
}

/// Whether a flag reads the variable `name`.
fn has_flag(name: &str) -> bool {
    let command = Cli::command();
    let mut all = command.get_subcommands().chain([&command]).flat_map(|command| command.get_arguments());
    all.any(|argument| argument.get_env().is_some_and(|variable| variable == name))
}

/// Runs the program with these arguments, the first of which is its name. Before anything else: it may start the program again.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = args::old_spellings(arguments);
    let settings = Settings::load(&arguments, &has_flag);
    // Between the processes of blockcopy, standard output is no place for lines.
    let is_stream = arguments.iter().any(|argument| argument == "blockcopy");
    let json = !is_stream && arguments.iter().any(|argument| argument == "--json");
    let parsed =
        command().try_get_matches_from(arguments).and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        // Help and version go to standard output and are a success; clap knows.
        Err(e) if !e.use_stderr() => {
            let _ = e.print();
            return ExitCode::SUCCESS;
        }
        Err(e) => {
            let _ = e.print();
            let kind = ErrorKind::Usage;
            if json {
                output::usage_summary(&e.kind().to_string(), kind.exit_code());
            }
            return ExitCode::from(kind.exit_code());
        }
    };
    let output = Output::new(&cli.global);
    if matches!(&cli.command, Command::Blockcopy(args) if args.is_stream()) {
        output.leaves_stdout();
    }
    let outcome = settings.and_then(|settings| {
        for warning in &settings.warnings {
            output.notice(Notice::Warning(warning.clone()));
        }
        run(cli.command, &settings, &output)
    });
    ExitCode::from(match outcome {
        Ok(outcome) => output.summary(&outcome),
        Err(e) => output.error(&e),
    })
}

fn run(command: Command, settings: &Settings, output: &Arc<Output>) -> Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::io("cannot start the runtime", e))?;
    let outcome = runtime.block_on(async {
        match command {
            Command::Index(args) => index::run(args, output).await,
            Command::Plan(args) => plan::run(args, output).await,
            Command::Proxy(args) => proxy::run(args, settings, output).await,
            Command::Upload(args) => upload::run(args, output).await,
            Command::Check(args) => check::run(args, output).await,
            Command::Sync(args) => sync::run(args, output).await,
            Command::History(args) => history::run(args, output).await,
            Command::Rewind(args) => rewind::run(args, output).await,
            Command::Compact(args) => compact::run(args, output).await,
            Command::Gc(args) => gc::run(args, output).await,
            Command::Completions(args) => generate::completions(&args, output),
            Command::ManPages(args) => generate::man_pages(&args),
            Command::Blockcopy(args) => blockcopy::run(args, output).await,
            Command::HcpCredentials(args) => hcp_credentials::run(args, output).await,
            Command::Config(args) => config::run(args, settings, output).await,
            Command::Token(args) => token::run(args, output),
            Command::Health(args) => health::run(args, output).await,
        }
    });
    // A request that hangs in a blocking call must not keep the program from ending; and one that waits for a store would crash,
    // loudly, in a runtime that is shut down. The process ends in a moment, and all of it with it.
    std::mem::forget(runtime);
    outcome
}

/// Runs `work` on a thread of its own; on SIGINT or SIGTERM tells it to stop and waits until it has cleaned up.
async fn interruptible<T: Send + 'static>(
    output: &Arc<Output>,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let stop = stop_signal();
    let mut work = tokio::task::spawn_blocking(work);
    let ended = tokio::select! {
        ended = &mut work => ended,
        () = stop => {
            output.cancel();
            work.await
        }
    };
    ended.map_err(|e| {
        Error::new(ErrorKind::Internal, "the work crashed; this is a bug of tar-like").because(e)
    })?
}

/// Is ready when the user or the system wants the program to end. Signals count from this call on, not from the first poll.
fn stop_signal() -> impl Future<Output = ()> {
    use tokio::signal::unix::{SignalKind, signal};
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    async move {
        let (Ok(mut terminate), Ok(mut interrupt)) = signals else { return std::future::pending().await };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
}

fn interrupted() -> Error {
    Error::new(ErrorKind::Interrupted, "interrupted")
        .hint("run the same command again: it goes on where it was")
}
