//! `tar-like upload`

use super::args;
use super::environment::default_database;
use super::index_file::warn_of_overwritten;
use super::output::{Outcome, Output};
use super::queue::QueueArgs;
use super::report::{entry_sink, upload_exit, upload_fields, upload_text};
use super::s3::S3Args;
use super::signals::cancelled_by_signal;
use super::transfer::TransferArgs;
use crate::archive::shard::Shard;
use crate::archive::source::SourceClaim;
use crate::db::index_read::IndexReader;
use crate::engine::identity::identity_of_index;
use crate::engine::index_source::refuse_other_base;
use crate::engine::sync::name_upload;
use crate::engine::upload::{UploadOptions, upload};
use crate::error::Result;
use crate::source::Source;
use crate::source::disk::DiskSource;
use crate::telemetry::{Monitor, Notice};
use clap::Args;
use std::path::PathBuf;
use std::sync::Arc;

const EXAMPLES: &str = "\
upload asks the receiver which blocks are missing, and sends only these. After an interruption, run
the same command again: it continues. Several hosts may send at the same time: give all of them the
same --queue, or run `tar-like worker` on the others, or give each a part of the blocks with --shard, or with -f and -l.

Examples:
  tar-like upload -b /data -u http://backup:8000/tar
  tar-like upload -b /data -db /tmp/data.sqlite -u https://backup/tar --token-file token -p 8
  tar-like upload -b /data -f 0 -l 999            this host sends the first 1000 blocks
  tar-like upload -b /data --queue redis://queue  this host and others send what is missing
  tar-like upload --use-s3 --s3-bucket photos -db photos.sqlite -u http://backup:8000/tar
  tar-like upload -b /data --dry-run              say what would be sent

Exit codes: 0 the receiver confirmed every file (with -f/-l, --shard: every block of the range), 1
error, 2 wrong usage, 3 some files failed (they are listed), 4 receiver full or degraded, 25 more to
delete than --max-delete, 130 interrupted.";

const DEFAULT_BASE: &str = ".";

const TAR_ID_HELP: &str =
    "The number of the archive at the receiver; each source needs one of its own [default: 0]";

#[derive(Args)]
#[command(after_help = EXAMPLES, mut_arg("tar_id", |tar_id| tar_id.help(TAR_ID_HELP)))]
pub(super) struct UploadArgs {
    /// The folder, file or block device that was indexed; with --use-s3 the prefix of the bucket
    #[arg(short, long, value_name = "PATH", default_value = DEFAULT_BASE)]
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
    #[arg(short, long, value_name = "BLOCK", default_value_t = 0, conflicts_with = "queue")]
    first_block: u64,
    /// Send up to this block, inclusive [default: the last one]
    #[arg(short, long, value_name = "BLOCK", conflicts_with = "queue")]
    last_block: Option<u64>,
    /// Send only part I of N of the blocks: each host sends another part
    #[arg(long, value_name = "I/N", conflicts_with_all = ["first_block", "last_block", "queue"], value_parser = clap::value_parser!(Shard))]
    shard: Option<Shard>,
    #[command(flatten)]
    queue: QueueArgs,
    #[command(flatten)]
    transfer: TransferArgs,
    #[command(flatten)]
    s3: S3Args,
}

pub(super) async fn run(args: UploadArgs, output: &Arc<Output>) -> Result<Outcome> {
    args::block_range(args.first_block, args.last_block)?;
    let database = args.database.map_or_else(default_database, Ok)?;
    warn_of_overwritten(&database, output)?;
    let queue = args.queue.options(args.transfer.bwlimit)?;
    let options = args.transfer.options()?;
    let (first, last) = match args.shard {
        None => (args.first_block, args.last_block),
        Some(shard) => {
            let bytes = IndexReader::open(&database)?.summary()?.total_bytes;
            let blocks = shard.of_blocks(bytes.div_ceil(options.block_size));
            (blocks.start, blocks.end.checked_sub(1))
        }
    };
    let entries = entry_sink(false, options.delete.is_some(), output);
    let options = UploadOptions { database, first, last, queue, ..options }.telling(entries.is_some());
    let source = identity_of_index(&options.database, false)?;
    let claim = SourceClaim { source, replaces: args.transfer.replace_source };
    let mut connection = args.transfer.connection(output);
    if let Some(limit) = options.queue.as_ref().and_then(|queue| queue.limit.clone()) {
        connection.bandwidth = Some(limit.own);
    }
    let client = connection.client(args.upload_url, connection.token()?)?;
    let client = client.for_archive(options.tar_id, claim);
    let bucket = args.s3.bucket(args.use_s3, &args.base_folder, DEFAULT_BASE, output).await?;
    if let Some(warning) = refuse_other_base(&options.database, &args.base_folder, bucket.as_deref())? {
        output.notice(Notice::Warning(warning));
    }
    let source: Arc<dyn Source> = match bucket {
        Some(bucket) => bucket,
        None => Arc::new(DiskSource::open(&args.base_folder)?),
    };
    let watch = output.watch();
    let work = async {
        let report = upload(source, client.clone(), &options, output.clone()).await?;
        name_upload(&options, report, Some(&client), entries, output.clone()).await
    };
    let sent = cancelled_by_signal(output, work).await;
    drop(watch);
    let report = sent?;
    Ok(Outcome {
        command: "upload",
        exit: upload_exit(&report),
        text: upload_text(&report),
        fields: upload_fields(&report).into(),
    })
}
