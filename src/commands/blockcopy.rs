//! `tar-like blockcopy`

use super::args;
use super::environment::threads;
use super::output::{Outcome, Output, human_bytes};
use super::signals::stop_signal;
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

Without --native, the processes use the formats of the original blockcopy, and each of them may be
the original.

Exit codes: 0 done, 1 stopped by an error (for example, the next process has ended), 2 wrong usage,
4 the destination is full, 130 interrupted.";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct BlockcopyArgs {
    #[command(subcommand)]
    step: Step,
}

const CHECKSUM_EXAMPLES: &str = "\
Examples:
  tar-like blockcopy checksum --native /dev/destination | ssh source tar-like blockcopy ... | ...
  pv /dev/destination | tar-like blockcopy checksum - | ...

Exit codes: 0 done, 1 stopped by an error, 2 wrong usage, 130 interrupted.";

const RETRIEVE_EXAMPLES: &str = "\
Examples:
  ... | ssh source tar-like blockcopy retrieve /dev/source | tar-like blockcopy save /dev/copy
  ... | ssh source tar-like blockcopy retrieve --lzma /dev/source | blockcopy save /dev/copy

Exit codes: 0 done, 1 stopped by an error, 2 wrong usage, 130 interrupted.";

const SAVE_EXAMPLES: &str = "\
Examples:
  ... | tar-like blockcopy save --dry-run /dev/destination
  ... | tar-like blockcopy save --backup /var/tmp/overwritten --verify /dev/destination

Exit codes: 0 done, 1 stopped by an error, 2 wrong usage, 4 the destination or the backup's disk is
full, 130 interrupted.";

const UNDO_EXAMPLES: &str = "\
After an interruption, run it again.

Examples:
  tar-like blockcopy undo --backup /var/tmp/overwritten /dev/destination

Exit codes: 0 done, 1 stopped by an error, 2 wrong usage, 4 the destination is full, 130
interrupted.";

#[derive(Subcommand)]
enum Step {
    /// Hash the blocks of the destination, for retrieve
    #[command(after_help = CHECKSUM_EXAMPLES)]
    Checksum(ChecksumArgs),
    /// Read hashes from checksum, and send the blocks of the source that differ to save
    #[command(after_help = RETRIEVE_EXAMPLES)]
    Retrieve(RetrieveArgs),
    /// Read blocks from retrieve, and write them into the destination
    #[command(after_help = SAVE_EXAMPLES)]
    Save(SaveArgs),
    /// Restore the content that a save with --backup has overwritten
    #[command(after_help = UNDO_EXAMPLES)]
    Undo(UndoArgs),
}

impl BlockcopyArgs {
    /// Whether the variable `DEBUG`, which the original program has, asks for debug messages.
    pub(super) fn wants_debug(&self) -> bool {
        std::env::var("DEBUG").is_ok_and(|value| !matches!(value.trim(), "" | "0"))
    }

    /// Whether standard output is the pipe to the next process.
    pub(super) fn is_stream(&self) -> bool {
        matches!(self.step, Step::Checksum(_) | Step::Retrieve(_))
    }
}

#[derive(Args)]
struct ChecksumArgs {
    /// The destination: a file or block device; - is standard input
    file: PathBuf,
    /// Show progress: on a terminal, where retrieve and save do so by default, or else as lines
    #[arg(long)]
    progress: bool,
    /// Copy from this offset on; K, M, G are powers of 1024, KB, MB, GB of 1000
    #[arg(long, value_name = "OFFSET", default_value = "0", value_parser = args::bytes)]
    start: u64,
    /// Copy up to this offset [default: to the source's end]
    #[arg(long, value_name = "OFFSET", value_parser = args::bytes)]
    end: Option<u64>,
    /// All three processes are tar-like: they use a faster hash and compression, verify the copy,
    /// and cut a longer destination to the source's size
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
    /// Compress blocks with xz where that makes them smaller (with checksum --native: with
    /// Zstandard)
    #[arg(long)]
    lzma: bool,
    /// With checksum --native: when to compress
    #[arg(long, value_enum, default_value_t = CompressArg::Auto)]
    compress: CompressArg,
}

#[derive(Clone, Copy, ValueEnum)]
enum CompressArg {
    /// When the pipe is slower than the compressor
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
    /// Store the overwritten content in this new file, so that undo can restore it
    #[arg(long, value_name = "FILE")]
    backup: Option<PathBuf>,
    /// Make holes instead of writing zeros
    #[arg(long)]
    sparse: bool,
    /// Write nothing; say how much would be written
    #[arg(long, conflicts_with_all = ["backup", "verify"])]
    dry_run: bool,
    /// At the end, read all of the destination and verify that it equals the source; needs checksum
    /// --native
    #[arg(long)]
    verify: bool,
}

#[derive(Args)]
struct UndoArgs {
    /// The file that save --backup made
    #[arg(long, value_name = "FILE")]
    backup: PathBuf,
    /// The destination of that save
    file: PathBuf,
    /// Accept a destination with another inode or device number: it was moved, or its disk was
    /// attached again
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
    output.show_equal();
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
    tracing::debug!("checksum from {} to {:?}, native blocks: {native:?}", args.start, args.end);
    let options = ChecksumOptions { input, start: args.start, end: args.end, native, threads: threads() };
    output.notice(Notice::Phase("checksum"));
    if args.progress {
        output.show_lines();
    }
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
    tracing::debug!("retrieve from {}", args.file.display());
    let options = RetrieveOptions { source: args.file, xz: args.lzma, compress, threads: threads() };
    output.notice(Notice::Phase("retrieve"));
    let watch = output.takes_terminal().then(|| output.watch());
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
    tracing::debug!("save to {}", args.file.display());
    let options = SaveOptions {
        destination: args.file,
        backup: args.backup,
        sparse: args.sparse,
        dry_run: args.dry_run,
        verify: args.verify,
        threads: threads(),
    };
    output.notice(Notice::Phase("save"));
    let watch = output.takes_terminal().then(|| output.watch());
    let report = work(output, move |monitor| save(&options, data, monitor)).await?;
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
    if report.verified.is_some() {
        text += ", all of it read again and verified";
    }
    Ok(Outcome {
        command: "blockcopy save",
        exit: 0,
        text,
        fields: json!({
            "written_bytes": report.written_bytes, "equal_bytes": report.is_native.then_some(report.equal_bytes),
            "zero_bytes": report.zero_bytes, "cut_bytes": report.cut_bytes, "wire_bytes": report.wire_bytes,
            "backup_bytes": report.backup_bytes, "native": report.is_native, "dry_run": args.dry_run,
            "root": report.verified.map(|root| root.to_string()),
        }),
    })
}

async fn run_undo(args: UndoArgs, output: &Arc<Output>) -> Result<Outcome> {
    let watch = output.watch();
    let report = work(output, move |monitor| undo(&args.backup, &args.file, args.moved, monitor)).await?;
    drop(watch);
    Ok(Outcome {
        command: "blockcopy undo",
        exit: 0,
        text: format!(
            "undo: {} restored; the size is {} bytes",
            human_bytes(report.restored_bytes),
            report.size_bytes
        ),
        fields: json!({
            "restored_bytes": report.restored_bytes, "size_bytes": report.size_bytes, "torn_bytes": report.torn_bytes,
        }),
    })
}

/// How long a cancelled process waits for a write to a pipe that the next process does not read.
const GRACE: Duration = Duration::from_secs(2);

/// Runs `work` on a thread of its own. SIGINT or SIGTERM cancels it, and it is waited for only for
/// a short time: it may be blocked by a pipe whose other process does nothing.
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
        Error::new(ErrorKind::Internal, "the work crashed; this is a bug of tar-like").with_source(e)
    })?
}

fn is_no_stream(file: &Path) -> Result<()> {
    match file.as_os_str() == "-" {
        true => Err(Error::new(
            ErrorKind::Usage,
            "only checksum takes - for standard input; name a file or block device",
        )),
        false => Ok(()),
    }
}

fn stream_out(reader: &str) -> Result<File> {
    let stdout = std::io::stdout();
    if stdout.is_terminal() {
        return Err(Error::new(
            ErrorKind::Usage,
            "standard output is a terminal, and binary data is not written to one",
        )
        .with_hint(format!("connect a pipe: ... | tar-like blockcopy {reader} FILE")));
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
        .with_hint(format!("connect a pipe: {writer} | tar-like blockcopy {reader} ...")));
    }
    let file = stdin.as_fd().try_clone_to_owned();
    file.map(File::from).map_err(|e| Error::io("cannot use standard input", e))
}
