//! `tar-like upload`

use super::connect::ConnectArgs;
use super::output::{Outcome, Output, human_bytes, human_count};
use super::s3::S3Args;
use super::{args, default_database, default_progress, interrupted, interruptible, stop_signal, threads};
use crate::archive::codec::Compression;
use crate::archive::layout::DEFAULT_BLOCK_SIZE;
use crate::archive::log::LogDigest;
use crate::archive::protocol::{DeleteRequest, Similarity};
use crate::db::generation::History;
use crate::db::index_read::IndexReader;
use crate::engine::index::{IndexOptions, IndexReport};
use crate::engine::stream::stream;
use crate::engine::upload::{UploadOptions, UploadReport, compare, plan_from_nothing, upload};
use crate::error::{Error, ErrorKind, Result};
use crate::remote::Client;
use crate::source::Source;
use crate::source::disk::DiskSource;
use crate::telemetry::{Monitor, Notice};
use clap::{Args, ValueEnum};
use rand::RngExt;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const EXAMPLES: &str = "\
The receiver is asked what it misses, and only that is sent; after any interruption the same command goes on.
Several hosts may send at once: give each its own range of blocks with -f and -l.

Examples:
  tar-like upload -b /data -u http://backup:8000/tar
  tar-like upload -b /data -db /tmp/data.sqlite -u https://backup/tar --token-file token -p 8
  tar-like upload -b /data -f 0 -l 999            this host sends the first 1000 blocks
  tar-like upload --use-s3 --s3-bucket photos --s3-prefix 2024 -db photos.sqlite -u http://backup:8000/tar
  tar-like upload -b /data --dry-run              what would be sent

Exit codes: 0 the receiver confirmed every file (with -f/-l: every block of the range), 1 error, 2 wrong usage,
3 some files failed (they are listed), 4 receiver full or degraded, 25 more to delete than --max-delete, 130 interrupted.";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct UploadArgs {
    /// The folder, file or block device that was indexed
    #[arg(short, long, value_name = "PATH", default_value = ".")]
    base_folder: PathBuf,
    /// Read from the bucket that was indexed, not from a folder
    #[arg(long)]
    use_s3: bool,
    /// The index, also -db [default: ~/.tar_like.sqlite]
    #[arg(long, value_name = "FILE", env = "TARLIKE_DATABASE")]
    database: Option<PathBuf>,
    /// The receiver
    #[arg(
        short,
        long,
        value_name = "URL",
        default_value = "http://localhost:8000/tar",
        env = "TARLIKE_UPLOAD_URL",
        hide_env_values = true
    )]
    upload_url: String,
    /// Send from this block on
    #[arg(short, long, value_name = "BLOCK", default_value_t = 0)]
    first_block: u64,
    /// Send up to this block, inclusive [default: the last one]
    #[arg(short, long, value_name = "BLOCK")]
    last_block: Option<u64>,
    #[command(flatten)]
    transfer: TransferArgs,
    #[command(flatten)]
    s3: S3Args,
}

/// The flags that `upload` and `sync` share.
#[derive(Args)]
pub(super) struct TransferArgs {
    /// A cache of what was accepted, also -dbp [default: ~/.tar_like_progress.sqlite]
    #[arg(long, value_name = "FILE", env = "TARLIKE_DATABASE_PROGRESS")]
    database_progress: Option<PathBuf>,
    /// Blocks that are read, compressed and sent at once
    #[arg(short = 'p', long, value_name = "NUMBER", default_value_t = 5, alias = "workers", env = "TARLIKE_WORKERS", value_parser = clap::value_parser!(u16).range(1..))]
    no_processes: u16,
    /// The size of a block in bytes; K, M, G are powers of 1024
    #[arg(short = 's', long, value_name = "BYTES", default_value_t = DEFAULT_BLOCK_SIZE, value_parser = args::some_bytes)]
    pub(super) block_size: u64,
    /// Send also what the receiver has already
    #[arg(long)]
    pub(super) ignore_done: bool,
    #[command(flatten)]
    connect: ConnectArgs,
    /// Send at most this many bytes a second; K, M, G are powers of 1024
    #[arg(long, value_name = "RATE", env = "TARLIKE_BWLIMIT", value_parser = args::some_bytes)]
    bwlimit: Option<u64>,
    /// Only say what would be sent
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Compress blocks: as link and cores make it worth while; with LZ4; with Zstandard, if the receiver takes it; never
    #[arg(long, value_name = "HOW", value_enum, default_value_t = Compress::Auto)]
    compress: Compress,
    /// Delete at the receiver what a former generation of this index put there and this one does not have
    #[arg(long)]
    delete: bool,
    /// Delete nothing if there is more than this to delete, as a number or a percentage of the files [default: 1000 or 10%, whichever is
    /// more]
    #[arg(long, value_name = "NUMBER|N%", requires = "delete", value_parser = args::limit)]
    max_delete: Option<args::Limit>,
    /// Move what would be deleted to this folder, below the receiver's base folder
    #[arg(long, value_name = "FOLDER", requires = "delete")]
    backup_dir: Option<String>,
    /// Have the receiver keep what the last NUMBER generations replaced or took away, for `rewind`: under further names below .tar-like/kept, with
    /// the room that they take. 0 lets go of it [default: keep nothing more, let go of nothing]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(..=1000))]
    keep: Option<u32>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Compress {
    Auto,
    Lz4,
    Zstd,
    None,
}

/// What of an archive is sent.
#[derive(Clone, Copy)]
pub(super) struct Part {
    /// The first block, and the last one, inclusive.
    pub(super) range: (u64, Option<u64>),
    /// Also what the receiver has already.
    pub(super) ignore_done: bool,
    /// The look at what it has that was asked for just now.
    pub(super) looked: Option<u64>,
    /// The whole source was seen: what is not in the index is gone.
    pub(super) all_seen: bool,
    /// What the receiver was asked to adopt.
    pub(super) adopt: Option<u64>,
}

/// What may be deleted if the user says nothing: entries ...
const MOST_DELETED: u64 = 1000;
/// ... or percent of the files, whichever is more.
const MOST_DELETED_PERCENT: u64 = 10;

impl TransferArgs {
    /// The progress database.
    pub(super) fn progress(&self) -> Result<PathBuf> {
        self.database_progress.clone().map_or_else(default_progress, Ok)
    }

    /// The token that the flags or the environment give.
    pub(super) fn token(&self) -> Result<Option<String>> {
        self.connect.token()
    }

    fn options(&self, database: PathBuf, range: (u64, Option<u64>)) -> Result<UploadOptions> {
        Ok(UploadOptions {
            database,
            progress: self.progress()?,
            tar_id: self.connect.tar_id,
            block_size: self.block_size,
            first: range.0,
            last: range.1,
            workers: usize::from(self.no_processes),
            ignore_done: self.ignore_done,
            dry_run: self.dry_run,
            looked: None,
            delete: None,
            adopt: None,
            keep: self.keep.map(u64::from),
            compression: match self.compress {
                Compress::Auto => Compression::Auto,
                Compress::Lz4 => Compression::Lz4,
                Compress::Zstd => Compression::Zstd,
                Compress::None => Compression::None,
            },
            cores: threads(),
            scratch: std::env::temp_dir(),
        })
    }

    /// Indexes a folder and sends it at once; `None` if the receiver does not know how to take that.
    pub(super) async fn stream(
        &self,
        index: IndexOptions,
        client: Arc<Client>,
        output: &Arc<Output>,
    ) -> Result<Option<IndexReport>> {
        let options = self.options(index.database.clone(), (0, None))?;
        let name = LogDigest::from(rand::rng().random::<[u8; 32]>());
        output.notice(Notice::Phase("asking"));
        let _watch = output.watch();
        let work = async {
            client.patience().start();
            match client.status(options.block_size, 0).await {
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Ok(None) => return Ok(None),
                answer => drop(answer?),
            }
            stream(index, &options, name, client, output.clone()).await.map(Some)
        };
        tokio::select! {
            outcome = work => outcome,
            () = stop_signal() => {
                output.cancel();
                Err(interrupted())
            }
        }
    }

    /// What the receiver may delete.
    fn delete_request(
        &self,
        database: &Path,
        all_seen: bool,
        output: &Arc<Output>,
    ) -> Result<Option<DeleteRequest>> {
        if !self.delete || self.dry_run {
            return Ok(None);
        }
        let index = IndexReader::open(database)?;
        let summary = index.summary()?;
        let all_seen = all_seen && index.skipped()? == 0;
        if summary.files + summary.nodes == 0 {
            return Err(Error::new(
                ErrorKind::Source,
                format!(
                    "the index {} is empty: with --delete, nothing would be left at the receiver",
                    database.display()
                ),
            )
            .hint("is the source mounted? Delete by hand what really is to go"));
        }
        if !all_seen {
            output.notice(Notice::Warning(
                "some entries of the source could not be read: nothing is deleted in this run".to_string(),
            ));
            return Ok(None);
        }
        let default = MOST_DELETED.max(summary.files.saturating_mul(MOST_DELETED_PERCENT) / 100);
        let history = History::open(database)?;
        let former = history.active()?.parent.and_then(|parent| history.generation(parent));
        // What there was before is what the percentage is of.
        let before = former.map_or(0, |former| former.files).max(summary.files);
        let most = self.max_delete.map_or(default, |limit| limit.of(before));
        Ok(Some(DeleteRequest { most, backup: self.backup_dir.clone(), taken_back: false }))
    }

    /// What would be sent to a receiver that has nothing.
    pub(super) async fn plan_from_nothing(
        &self,
        database: PathBuf,
        output: &Arc<Output>,
    ) -> Result<UploadReport> {
        let options = self.options(database, (0, None))?;
        interruptible(output, move || plan_from_nothing(&options)).await
    }

    /// How much the receiver has, as it has found out.
    pub(super) async fn compare(
        &self,
        database: &Path,
        adopt: Option<u64>,
        client: &Client,
        output: &Arc<Output>,
    ) -> Result<Similarity> {
        let options = UploadOptions { adopt, ..self.options(database.to_path_buf(), (0, None))? };
        output.notice(Notice::Phase("comparing"));
        tokio::select! {
            outcome = compare(client, &options) => outcome,
            () = stop_signal() => Err(interrupted()),
        }
    }

    /// A client for the receiver at `url`.
    pub(super) fn client(
        &self,
        url: String,
        token: Option<String>,
        output: &Arc<Output>,
    ) -> Result<Arc<Client>> {
        let connections = usize::from(self.no_processes);
        self.connect.client(url, token, connections, self.bwlimit, output)
    }

    /// Sends the archive of `source` and `database`.
    pub(super) async fn send(
        &self,
        source: Arc<dyn Source>,
        database: PathBuf,
        client: Arc<Client>,
        part: Part,
        output: &Arc<Output>,
    ) -> Result<UploadReport> {
        let Part { range, ignore_done, looked, all_seen, adopt } = part;
        let delete = self.delete_request(&database, all_seen, output)?;
        let options = UploadOptions { ignore_done, looked, delete, adopt, ..self.options(database, range)? };
        let counters = output.counters();
        for counter in
            [&counters.files_total, &counters.files_done, &counters.total_bytes, &counters.done_bytes]
        {
            counter.set(0);
        }
        output.notice(Notice::Phase("asking"));
        let watch = output.watch();
        let outcome = tokio::select! {
            outcome = upload(source, client, &options, output.clone()) => outcome,
            () = stop_signal() => {
                // Whoever waits for a store is told, too.
                output.cancel();
                Err(interrupted())
            }
        };
        if outcome.as_ref().is_ok_and(|report| report.complete) {
            output.verified();
        }
        drop(watch);
        outcome
    }
}

pub(super) async fn run(args: UploadArgs, output: &Arc<Output>) -> Result<Outcome> {
    let database = args.database.map_or_else(default_database, Ok)?;
    let token = args.transfer.token()?;
    let range = (args.first_block, args.last_block);
    args::block_range(range.0, range.1)?;
    let client = args.transfer.client(args.upload_url, token, output)?;
    let part =
        Part { range, ignore_done: args.transfer.ignore_done, looked: None, all_seen: true, adopt: None };
    let source: Arc<dyn Source> = match args.use_s3 {
        true => args.s3.connect(args.s3.place()?, output).await?,
        false => Arc::new(DiskSource::open(&args.base_folder)?),
    };
    let report = args.transfer.send(source, database, client, part, output).await?;
    Ok(Outcome { command: "upload", exit: exit(&report), text: describe(&report), fields: fields(&report) })
}

/// 0 only if the receiver confirmed everything, or everything that was this run's to send.
pub(super) fn exit(report: &UploadReport) -> u8 {
    let confirmed = report.complete || report.legacy || report.dry_run || report.others_bytes > 0;
    match report.too_many {
        _ if !confirmed || report.failed_total > 0 => ErrorKind::Partial.exit_code(),
        Some(_) => ErrorKind::TooManyDeletions.exit_code(),
        None => 0,
    }
}

pub(super) fn describe(report: &UploadReport) -> String {
    let what = format!("{} blocks, {}", human_count(report.sent_blocks), human_bytes(report.sent_bytes));
    if report.dry_run {
        let to = if report.legacy { " (the receiver knows only the original protocol)" } else { "" };
        return format!(
            "would send {what} of {} in {} files{to}",
            human_bytes(report.total_bytes),
            human_count(report.files)
        );
    }
    let deleted = match (report.too_many, report.deleted) {
        (Some(count), _) => format!(
            "; NOTHING DELETED: {} entries would go, more than --max-delete allows",
            human_count(count)
        ),
        (None, 0) => String::new(),
        (None, deleted) => format!("; {} deleted", human_count(deleted)),
    };
    let state = if report.failed_total > 0 {
        format!("{} FAILED", human_count(report.failed_total))
    } else if report.complete && !report.legacy {
        format!("all {} files confirmed by the receiver", human_count(report.files))
    } else if report.others_bytes > 0 {
        format!("this range is done, {} are left for other senders", human_bytes(report.others_bytes))
    } else if report.legacy {
        "accepted, but not proven: run check on the receiver".to_string()
    } else {
        "NOT confirmed by the receiver".to_string()
    };
    format!("sent {what} ({} on the wire){deleted}; {state}", human_bytes(report.wire_bytes))
}

pub(super) fn fields(report: &UploadReport) -> Value {
    let failed: Vec<Value> =
        report.failed.iter().map(|entry| json!({"path": entry.path, "reason": entry.reason})).collect();
    json!({
        "files": report.files, "total_bytes": report.total_bytes, "sent_blocks": report.sent_blocks,
        "sent_bytes": report.sent_bytes, "wire_bytes": report.wire_bytes, "stored_blocks": report.stored_blocks,
        "zstd_blocks": report.zstd_blocks,
        "retries": report.retries, "failed": failed, "failed_total": report.failed_total,
        "complete": report.complete, "others_bytes": report.others_bytes, "legacy": report.legacy,
        "dry_run": report.dry_run, "deleted": report.deleted, "too_many_to_delete": report.too_many,
    })
}
