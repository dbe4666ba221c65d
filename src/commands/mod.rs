//! The command line: flags, environment, terminal, exit codes. The only place for clap, indicatif,
//! `std::env` and stdout.
//!
//! Its files form layers. A file imports from lower layers only, and files of one layer do not know
//! each other:
//!
//! ```text
//! mod                                                the program: all commands, and which one runs
//! sync upload rewind index plan check history ls …      one file for each command
//! destination several                                the places that sync and rewind are given
//! local_receiver transfer index_file credential_reloader report
//! connect s3 append rsync_flags                      groups of flags, and what they stand for
//! tls args address bind environment signals settings variables    values of flags; variables; SIGINT and SIGTERM
//! output rc_file limits systemd usage                the terminal, the settings file, the system; wrong usage
//! log progress_line meter                            log lines; the progress line, and its figures
//! terminal numbers                                   standard error with a line at its end; numbers for people
//! ```

mod address;
mod append;
mod args;
mod bind;
mod blockcopy;
mod check;
mod compact;
mod config;
mod connect;
mod credential_reloader;
mod destination;
mod digest;
mod environment;
mod filter_flags;
mod gc;
mod generate;
mod hcp_credentials;
mod health;
mod help;
mod history;
mod index;
mod index_file;
mod indexes;
mod limits;
mod local_receiver;
mod log;
mod ls;
mod meter;
mod numbers;
mod output;
mod plan;
mod progress_line;
mod proxy;
mod queue;
mod rc_file;
mod repair;
mod report;
mod rewind;
mod rsync_flags;
mod s3;
mod settings;
mod several;
mod signals;
mod ssh;
mod stdio;
mod sync;
mod systemd;
mod terminal;
mod tls;
mod token;
mod transfer;
mod upload;
mod usage;
mod variables;
mod worker;

use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::{Monitor, Notice};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use output::{Global, Outcome, Output};
use settings::Settings;
use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

/// Index, send, receive and verify folders and buckets: fast, resumable, verified.
#[derive(Parser)]
#[command(name = "tar-like", version, propagate_version = true, after_help = EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done and confirmed, 1 stopped by an error (check: differences found), 2 wrong usage, 3
finished, but some files or blocks failed, 4 receiver full or degraded, 25 more to delete than
allowed, 130 interrupted, 141 the reader of standard output has gone.

Examples:
  tar-like sync /data http://backup:8000/tar       the whole job in one command
  tar-like index /data                             make an index of /data in ~/.tar_like.sqlite
  tar-like proxy -b /srv/copy                      receive on 127.0.0.1:8000
  tar-like upload -b /data -u http://localhost:8000/tar
  tar-like check /srv/copy                         verify a copy against the index";

#[derive(Subcommand)]
enum Command {
    /// Record paths, sizes, digests and metadata of a folder in an index
    Index(index::IndexArgs),
    /// Say what changed since the index was made and what would be sent, without reading a file
    Plan(plan::PlanArgs),
    /// Receive archives over HTTP and put the files in place
    Proxy(proxy::ProxyArgs),
    /// Send the parts of an indexed source that are missing at a receiver
    Upload(upload::UploadArgs),
    /// Help hosts that upload with --queue: send a part of what they send
    Worker(worker::WorkerArgs),
    /// Compare a folder with an index
    Check(check::CheckArgs),
    /// Index, send and verify in one command
    Sync(Box<sync::SyncArgs>),
    /// List the generations of an index, save it to a backup, restore it: history | backup |
    /// restore | compact
    History(history::HistoryArgs),
    /// List the indexes that sync keeps
    Indexes(indexes::IndexesArgs),
    /// List what an index has
    Ls(ls::LsArgs),
    /// Take an index, and a receiver, back by one generation
    Rewind(rewind::RewindArgs),
    /// Close the gaps in the archive of an index, without reading a file
    Compact(compact::CompactArgs),
    /// Remove files that killed runs and replaced transfers left
    Gc(gc::GcArgs),
    /// Write a shell's completions to standard output
    Completions(generate::CompletionsArgs),
    /// Write the manual pages into a folder
    ManPages(generate::ManPagesArgs),
    /// Copy a huge file or block device over any pipe: checksum | retrieve | save
    /// | undo
    Blockcopy(blockcopy::BlockcopyArgs),
    /// Derive the keys for a Hitachi Content Platform from user name and password
    HcpCredentials(hcp_credentials::HcpCredentialsArgs),
    /// Show the settings in effect, and where each of them comes from
    Config(config::ConfigArgs),
    /// Make tokens for the senders of a proxy
    Token(token::TokenArgs),
    /// Ask whether a proxy is ready
    Health(health::HealthArgs),
}

/// The definition of the command line.
fn definition() -> clap::Command {
    help::wrapped(variables::with_variables(Cli::command()))
}

/// Runs the program with these arguments, the first of which is its name. Before anything else: it
/// may start the program again.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = rsync_flags::as_meant(args::old_spellings(arguments));
    let definition = definition();
    let settings = Settings::load(&arguments, &|name| variables::has(&definition, name));
    // Between the processes of blockcopy, standard output is no place for lines.
    let is_stream = arguments.iter().find(|word| ["blockcopy", "config"].iter().any(|name| *word == name));
    let is_stream = is_stream.is_some_and(|command| command == "blockcopy");
    let json = !is_stream
        && (arguments.iter().any(|argument| argument == "--json") || variables::is_on("TARLIKE_JSON"));
    if let Some(error) = rsync_flags::misread(&arguments) {
        return ExitCode::from(output::usage_error(&error, json));
    }
    let parsed = variables::without_unused(definition.clone(), &arguments)
        .try_get_matches_from(&arguments)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        // Help and version go to standard output and are a success; clap knows.
        Err(e) if !e.use_stderr() => {
            let _ = e.print();
            return ExitCode::SUCCESS;
        }
        // No command at all: the help says more than an error.
        Err(e) if e.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = e.print();
            return ExitCode::from(ErrorKind::Usage.exit_code());
        }
        Err(e) => {
            let error =
                usage::error(&e, &definition, &arguments, variables::at_fault(&definition, &e).as_deref());
            return ExitCode::from(output::usage_error(&error, json));
        }
    };
    let debug = matches!(&cli.command, Command::Blockcopy(args) if args.wants_debug());
    let names = matches!(&cli.command, Command::Sync(_) | Command::Upload(_));
    let output = match Output::new(&cli.global, debug, names) {
        Ok(output) => output,
        Err(e) => return ExitCode::from(output::usage_error(&e, json)),
    };
    if matches!(&cli.command, Command::Blockcopy(args) if args.is_stream()) {
        output.keep_stdout_for_stream();
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
    limits::raise();
    limits::check_threads()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::io("cannot start the runtime", e))?;
    let outcome = runtime.block_on(async {
        limits::survive_large_files();
        match command {
            Command::Index(args) => index::run(args, output).await.map_err(Error::as_sender),
            Command::Plan(args) => plan::run(args, output).await.map_err(Error::as_sender),
            Command::Proxy(args) => proxy::run(args, settings, output).await,
            Command::Upload(args) => upload::run(args, output).await.map_err(Error::as_sender),
            Command::Worker(args) => worker::run(args, output).await.map_err(Error::as_sender),
            Command::Check(args) => check::run(args, output).await.map_err(Error::as_sender),
            Command::Sync(args) => sync::run(*args, output).await.map_err(Error::as_sender),
            Command::History(args) => history::run(args, output).await.map_err(Error::as_sender),
            Command::Indexes(args) => indexes::run(&args, output),
            Command::Ls(args) => ls::run(args, output).await.map_err(Error::as_sender),
            Command::Rewind(args) => rewind::run(args, output).await.map_err(Error::as_sender),
            Command::Compact(args) => compact::run(args, output).await.map_err(Error::as_sender),
            Command::Gc(args) => gc::run(args, output).await,
            Command::Completions(args) => generate::completions(&args, definition(), output),
            Command::ManPages(args) => generate::man_pages(&args, definition()),
            Command::Blockcopy(args) => blockcopy::run(args, output).await,
            Command::HcpCredentials(args) => hcp_credentials::run(args, output).await,
            Command::Config(args) => config::run(args, definition(), settings, output).await,
            Command::Token(args) => token::run(args, output),
            Command::Health(args) => health::run(args, output).await,
        }
    });
    // A request that hangs in a blocking call must not keep the program from ending; and one that
    // waits for a store would crash, loudly, in a runtime that is shut down. The process ends in a
    // moment, and all of it with it.
    std::mem::forget(runtime);
    outcome
}
