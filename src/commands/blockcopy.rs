//! `tar-like blockcopy`

use super::output::{Outcome, Output, human_bytes};
use super::{args, stop_signal, threads};
use crate::archive::blockcopy::head::MIN_BLOCK;
use crate::archive::blockcopy::{MAX_BLOCK, NATIVE_BLOCK};
use crate::engine::blockcopy::backup::undo;
use crate::engine::blockcopy::checksum::{ChecksumInput, ChecksumOptions, checksum};
use crate::engine::blockcopy::retrieve::{Compress, RetrieveOptions, retrieve};
use crate::engine::blockcopy::save::{SaveOptions, save};
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::{Monitor, Notice};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;
use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const EXAMPLES: &str = "\
On the destination's host:
  tar-like blockcopy checksum --native /dev/destination |
      ssh source tar-like blockcopy retrieve /dev/source |
      tar-like blockcopy save /dev/destination

Without --native, the processes speak as the original blockcopy does, and each of them may be the original.

Exit codes: 0 done, 1 stopped by an error (a neighbour has ended, for instance), 2 wrong usage, 4 the destination is full,
130 interrupted.";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct BlockcopyArgs {
    #[command(subcommand)]
    step: Step,
}

const CHECKSUM_EXAMPLES: &str = "\
Examples:
  tar-like blockcopy checksum --native /dev/destination | ssh source tar-like blockcopy retrieve /dev/source | ...
  pv /dev/destination | tar-like blockcopy checksum - | ...

Exit codes: 0 done, 1 stopped by an error, 2 wrong usage, 130 interrupted.";

const RETRIEVE_EXAMPLES: &str = "\
Examples:
  ... | ssh source tar-like blockcopy retrieve /dev/source | tar-like blockcopy save /dev/destination
  ... | ssh source tar-like blockcopy retrieve --lzma /dev/source | blockcopy save /dev/destination

Exit codes: 0 done, 1 stopped by an error, 2 wrong usage, 130 interrupted.";

const SAVE_EXAMPLES: &str = "\
Examples:
  ... | tar-like blockcopy save --dry-run /dev/destination
  ... | tar-like blockcopy save --backup /var/tmp/overwritten --verify /dev/destination

Exit codes: 0 done, 1 stopped by an error, 2 wrong usage, 4 the destination or the backup's disk is full, 130 interrupted.";

const UNDO_EXAMPLES: &str = "\
May be run again where it was interrupted.

Examples:
  tar-like blockcopy undo --backup /var/tmp/overwritten /dev/destination

Exit codes: 0 done, 1 stopped by an error, 2 wrong usage, 4 the destination is full, 130 interrupted.";

#[derive(Subcommand)]
enum Step {
    /// Hash the blocks of the destination; to retrieve
    #[command(after_help = CHECKSUM_EXAMPLES)]
    Checksum(ChecksumArgs),
    /// Send what the source has and the destination has not; from checksum, to save
    #[command(after_help = RETRIEVE_EXAMPLES)]
    Retrieve(RetrieveArgs),
    /// Write it into the destination; from retrieve
    #[command(after_help = SAVE_EXAMPLES)]
    Save(SaveArgs),
    /// Put back what a save with --backup has overwritten
    #[command(after_help = UNDO_EXAMPLES)]
    Undo(UndoArgs),
}

impl BlockcopyArgs {
    /// Whether standard output is the stream between two processes.
    pub(super) fn is_stream(&self) -> bool {
        matches!(self.step, Step::Checksum(_) | Step::Retrieve(_))
    }
}

#[derive(Args)]
struct ChecksumArgs {
    /// The destination: a file or block device; - is standard input
    file: PathBuf,
    /// Show progress on a terminal: retrieve and save do without being asked
    #[arg(long)]
    progress: bool,
    /// Copy from this offset on; K, M, G, T are powers of 1024
    #[arg(long, value_name = "OFFSET", default_value = "0", value_parser = args::bytes)]
    start: u64,
    /// Copy up to this offset [default: to the source's end]
    #[arg(long, value_name = "OFFSET", value_parser = args::bytes)]
    end: Option<u64>,
    /// All three processes are tar-like: a faster hash, compression, a proof, and a longer file is cut to the source's size
    #[arg(long)]
    native: bool,
    /// With --native: the size of blocks
    #[arg(long, value_name = "BYTES", default_value_t = u64::from(NATIVE_BLOCK), value_parser = block_size, requires = "native")]
    block_size: u64,
}

#[derive(Args)]
struct RetrieveArgs {
    /// The source: a file or block device
    file: PathBuf,
    /// Send blocks as xz streams where that is smaller (with checksum --native: Zstandard)
    #[arg(long)]
    lzma: bool,
    /// With checksum --native: when to compress
    #[arg(long, value_enum, default_value_t = CompressArg::Auto)]
    compress: CompressArg,
}

#[derive(Clone, Copy, ValueEnum)]
enum CompressArg {
    /// Where the pipe is slower than the compressor
    Auto,
    /// Always
    Zstd,
    /// Never
    None,
}

#[derive(Args)]
struct SaveArgs {
    /// The destination: a file or block device
    file: PathBuf,
    /// Keep what is overwritten in this new file, so that undo can put it back
    #[arg(long, value_name = "FILE")]
    backup: Option<PathBuf>,
    /// Make holes of zeros
    #[arg(long)]
    sparse: bool,
    /// Write nothing; say what would be written
    #[arg(long, conflicts_with_all = ["backup", "verify"])]
    dry_run: bool,
    /// Read all of the destination at the end and prove that it is what the source was; needs checksum --native
    #[arg(long)]
    verify: bool,
}

#[derive(Args)]
struct UndoArgs {
    /// The file that save --backup has made
    #[arg(long, value_name = "FILE")]
    backup: PathBuf,
    /// The destination of that save
    file: PathBuf,
    /// The destination may be another file than the one that was overwritten: it was moved, or its disk has another number
    #[arg(long)]
    moved: bool,
}

fn block_size(text: &str) -> std::result::Result<u64, String> {
    let bytes = args::bytes(text)?;
    if bytes.is_power_of_two() && (u64::from(MIN_BLOCK)..=u64::from(MAX_BLOCK)).contains(&bytes) {
        return Ok(bytes);
    }
    Err(format!("must be a power of 2 between {MIN_BLOCK} and {MAX_BLOCK}"))
}

pub(super) async fn run(args: BlockcopyArgs, output: &Arc<Output>) -> Result<Outcome> {
    output.shows_equal();
    match args.step {
        Step::Checksum(args) => run_checksum(args, output).await,
        Step::Retrieve(args) => run_retrieve(args, output).await,
        Step::Save(args) => run_save(args, output).await,
        Step::Undo(args) => run_undo(args, output).await,
    }
}

async fn run_checksum(args: ChecksumArgs, output: &Arc<Output>) -> Result<Outcome> {
    let out = stream_out("retrieve")?;
    let input = match args.file.as_os_str() == "-" {
        true => ChecksumInput::Pipe(stream_in("checksum -", "pv /dev/x")?),
        false => ChecksumInput::Path(args.file),
    };
    let native = args.native.then_some(args.block_size as u32);
    let options = ChecksumOptions { input, start: args.start, end: args.end, native, threads: threads() };
    output.notice(Notice::Phase("checksum"));
    let watch = args.progress.then(|| output.watch());
    let report = work(output, move |monitor| checksum(options, out, monitor)).await?;
    drop(watch);
    Ok(Outcome {
        command: "blockcopy checksum",
        exit: 0,
        text: format!("checksum: {} hashed", human_bytes(report.hashed_bytes)),
        fields: json!({
            "hashed_bytes": report.hashed_bytes, "hole_bytes": report.hole_bytes, "wire_bytes": report.wire_bytes,
        }),
    })
}

async fn run_retrieve(args: RetrieveArgs, output: &Arc<Output>) -> Result<Outcome> {
    is_no_stream(&args.file)?;
    let out = stream_out("save")?;
    let hashes = stream_in("retrieve", "tar-like blockcopy checksum FILE")?;
    let compress = match args.compress {
        CompressArg::Auto => Compress::Auto,
        CompressArg::Zstd => Compress::Zstd,
        CompressArg::None => Compress::None,
    };
    let options = RetrieveOptions { source: args.file, xz: args.lzma, compress, threads: threads() };
    output.notice(Notice::Phase("retrieve"));
    let watch = output.has_terminal_alone().then(|| output.watch());
    let report = work(output, move |monitor| retrieve(&options, hashes, out, monitor)).await?;
    drop(watch);
    Ok(Outcome {
        command: "blockcopy retrieve",
        exit: 0,
        text: format!(
            "retrieve: {} equal, {} to write, {} on the wire",
            human_bytes(report.equal_bytes),
            human_bytes(report.sent_bytes),
            human_bytes(report.wire_bytes)
        ),
        fields: json!({
            "source_bytes": report.source_bytes, "equal_bytes": report.equal_bytes, "sent_bytes": report.sent_bytes,
            "zero_bytes": report.zero_bytes, "wire_bytes": report.wire_bytes, "native": report.is_native,
        }),
    })
}

async fn run_save(args: SaveArgs, output: &Arc<Output>) -> Result<Outcome> {
    is_no_stream(&args.file)?;
    let data = stream_in("save", "... | tar-like blockcopy retrieve FILE")?;
    let options = SaveOptions {
        destination: args.file,
        backup: args.backup,
        sparse: args.sparse,
        dry_run: args.dry_run,
        verify: args.verify,
        threads: threads(),
    };
    output.notice(Notice::Phase("save"));
    let watch = output.has_terminal_alone().then(|| output.watch());
    let report = work(output, move |monitor| save(&options, data, monitor)).await?;
    output.verified();
    drop(watch);
    let mut text = format!("save: {} written", human_bytes(report.written_bytes));
    if args.dry_run {
        text = format!("save: {} would be written", human_bytes(report.written_bytes));
    }
    if report.is_native {
        text += &format!(", {} equal", human_bytes(report.equal_bytes));
    }
    if report.cut_bytes > 0 {
        text += &format!(", {} cut off", human_bytes(report.cut_bytes));
    }
    if report.proven.is_some() {
        text += ", all of it read again and proven";
    }
    Ok(Outcome {
        command: "blockcopy save",
        exit: 0,
        text,
        fields: json!({
            "written_bytes": report.written_bytes, "equal_bytes": report.is_native.then_some(report.equal_bytes),
            "zero_bytes": report.zero_bytes, "cut_bytes": report.cut_bytes, "wire_bytes": report.wire_bytes,
            "backup_bytes": report.backup_bytes, "native": report.is_native, "dry_run": args.dry_run,
            "root": report.proven.map(|root| root.to_string()),
        }),
    })
}

async fn run_undo(args: UndoArgs, output: &Arc<Output>) -> Result<Outcome> {
    let watch = output.watch();
    let report = work(output, move |monitor| undo(&args.backup, &args.file, args.moved, monitor)).await?;
    output.verified();
    drop(watch);
    Ok(Outcome {
        command: "blockcopy undo",
        exit: 0,
        text: format!(
            "undo: {} put back; the size is {} bytes",
            human_bytes(report.restored_bytes),
            report.size_bytes
        ),
        fields: json!({
            "restored_bytes": report.restored_bytes, "size_bytes": report.size_bytes, "torn_bytes": report.torn_bytes,
        }),
    })
}

/// How long a write to a pipe that nobody reads may hold up the end.
const GRACE: Duration = Duration::from_secs(2);

/// Runs `work` on a thread of its own; on SIGINT or SIGTERM tells it to stop, and does not wait long: what it waits for may be a
/// process that is there and does nothing.
async fn work<T: Send + 'static>(
    output: &Arc<Output>,
    work: impl FnOnce(&dyn Monitor) -> Result<T> + Send + 'static,
) -> Result<T> {
    let stop = stop_signal();
    let monitor = output.clone();
    let mut work = tokio::task::spawn_blocking(move || work(&*monitor));
    let ended = tokio::select! {
        ended = &mut work => ended,
        () = stop => {
            output.cancel();
            match tokio::time::timeout(GRACE, work).await {
                Ok(ended) => ended,
                Err(_) => return Err(Error::new(ErrorKind::Interrupted, "interrupted")),
            }
        }
    };
    ended.map_err(|e| {
        Error::new(ErrorKind::Internal, "the work crashed; this is a bug of tar-like").because(e)
    })?
}

fn is_no_stream(file: &Path) -> Result<()> {
    match file.as_os_str() == "-" {
        true => Err(Error::new(
            ErrorKind::Usage,
            "- stands for standard input of checksum only: name a file or block device",
        )),
        false => Ok(()),
    }
}

fn stream_out(reader: &str) -> Result<File> {
    let stdout = std::io::stdout();
    if stdout.is_terminal() {
        return Err(Error::new(
            ErrorKind::Usage,
            "standard output is a terminal; nothing binary is written there",
        )
        .hint(format!("put it into a pipe: ... | tar-like blockcopy {reader} FILE")));
    }
    let file = stdout.as_fd().try_clone_to_owned();
    file.map(File::from).map_err(|e| Error::io("cannot use standard output", e))
}

fn stream_in(reader: &str, writer: &str) -> Result<File> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        return Err(Error::new(
            ErrorKind::Usage,
            format!("{reader} reads from standard input, which is a terminal"),
        )
        .hint(format!("put a pipe there: {writer} | tar-like blockcopy {reader} ...")));
    }
    let file = stdin.as_fd().try_clone_to_owned();
    file.map(File::from).map_err(|e| Error::io("cannot use standard input", e))
}
