//! `tar-like upload`

use super::args;
use super::environment::default_database;
use super::index_file::warn_of_overwritten;
use super::output::{Outcome, Output};
use super::report::{upload_exit, upload_fields, upload_text};
use super::s3::S3Args;
use super::signals::cancelled_by_signal;
use super::transfer::TransferArgs;
use crate::archive::source::SourceClaim;
use crate::engine::identity::identity_of_index;
use crate::engine::index_source::refuse_other_base;
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
the same command again: it continues. Several hosts may send at the same time: give each host a
range of blocks with -f and -l.

Examples:
  tar-like upload -b /data -u http://backup:8000/tar
  tar-like upload -b /data -db /tmp/data.sqlite -u https://backup/tar --token-file token -p 8
  tar-like upload -b /data -f 0 -l 999            this host sends the first 1000 blocks
  tar-like upload --use-s3 --s3-bucket photos -db photos.sqlite -u http://backup:8000/tar
  tar-like upload -b /data --dry-run              say what would be sent

Exit codes: 0 the receiver confirmed every file (with -f/-l: every block of the range), 1 error, 2
wrong usage, 3 some files failed (they are listed), 4 receiver full or degraded, 25 more to delete
than --max-delete, 130 interrupted.";

const DEFAULT_BASE: &str = ".";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
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

pub(super) async fn run(args: UploadArgs, output: &Arc<Output>) -> Result<Outcome> {
    args::block_range(args.first_block, args.last_block)?;
    let database = args.database.map_or_else(default_database, Ok)?;
    warn_of_overwritten(&database, output)?;
    let (first, last) = (args.first_block, args.last_block);
    let options = UploadOptions { database, first, last, ..args.transfer.options()? };
    let source = identity_of_index(&options.database, false)?;
    let claim = SourceClaim { source, replaces: args.transfer.replace_source };
    let connection = args.transfer.connection(output);
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
    let sent = cancelled_by_signal(output, upload(source, client, &options, output.clone())).await;
    drop(watch);
    let report = sent?;
    Ok(Outcome {
        command: "upload",
        exit: upload_exit(&report),
        text: upload_text(&report),
        fields: upload_fields(&report).into(),
    })
}
