//! The flags that `upload` and `sync` share: how an archive is sent.

use super::args;
use super::connect::{ConnectArgs, Connection};
use super::environment::{default_progress, threads};
use super::output::Output;
use crate::archive::codec::Compression;
use crate::archive::layout::DEFAULT_BLOCK_SIZE;
use crate::engine::upload::{DeleteLimit, DeletePolicy, UploadOptions};
use crate::error::Result;
use crate::remote::Bandwidth;
use clap::{ArgGroup, Args, ValueEnum};
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Args)]
#[command(group = ArgGroup::new("deletes").args(["delete", "delete_excluded"]).multiple(true))]
pub(super) struct TransferArgs {
    /// A cache of the blocks that the receiver has accepted, also -dbp [default:
    /// ~/.tar_like_progress.sqlite]
    #[arg(long, value_name = "FILE", env = "TARLIKE_DATABASE_PROGRESS")]
    database_progress: Option<PathBuf>,
    /// How many blocks are read, compressed and sent at the same time
    #[arg(short = 'p', long, value_name = "NUMBER", default_value_t = 5, alias = "workers", env = "TARLIKE_WORKERS", value_parser = clap::value_parser!(u16).range(1..))]
    no_processes: u16,
    /// The size of a block in bytes; K, M, G are powers of 1024, KB, MB, GB of 1000
    #[arg(short = 's', long, value_name = "BYTES", default_value_t = DEFAULT_BLOCK_SIZE, value_parser = args::some_bytes)]
    block_size: u64,
    /// Send also blocks that the receiver has already
    #[arg(long)]
    ignore_done: bool,
    #[command(flatten)]
    pub(super) connect: ConnectArgs,
    /// Take the archive number from another source that has it at the receiver. With --delete, what
    /// that source has put there goes
    #[arg(long)]
    pub(super) replace_source: bool,
    /// Send at most this many bytes a second; K, M, G are powers of 1024, KB, MB, GB of 1000
    #[arg(long, value_name = "RATE", env = "TARLIKE_BWLIMIT", value_parser = args::some_bytes)]
    pub(super) bwlimit: Option<u64>,
    /// Send although the destination seems to have no room for it, as far as there is room
    #[arg(long)]
    no_space_check: bool,
    /// Change nothing; say what would be sent
    #[arg(short = 'n', long)]
    pub(super) dry_run: bool,
    /// How blocks are compressed: auto goes by the speed of the link and the cores; lz4; zstd, if
    /// the receiver takes it; none
    #[arg(long, value_name = "HOW", value_enum, default_value_t = Compress::Auto)]
    compress: Compress,
    /// Delete entries at the receiver that earlier generations of this index put there and this one
    /// does not have
    #[arg(long)]
    delete: bool,
    /// Delete also what the filter left out of the source, which stays otherwise; implies --delete
    #[arg(long)]
    delete_excluded: bool,
    /// Delete nothing if more entries than this would go: a number, or a percentage of the files
    /// [default: 1000 or 10%, whichever is more]
    #[arg(long, value_name = "NUMBER|N%", requires = "deletes", value_parser = args::limit)]
    max_delete: Option<DeleteLimit>,
    /// Move what is replaced, and with --delete what is deleted, to this folder below the receiver's
    /// base folder
    #[arg(long, value_name = "FOLDER", value_parser = args::backup_folder)]
    backup_dir: Option<String>,
    /// Delete although parts of the source could not be read; these parts, and what is below them,
    /// stay
    #[arg(long, requires = "deletes")]
    ignore_errors: bool,
    /// Have the receiver retain what the last NUMBER generations replaced or removed, for `rewind`.
    /// It lies below .tar-like/kept and takes disk space there. 0 removes what is retained
    /// [default: retain nothing more, remove nothing]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(..=1000))]
    keep: Option<u32>,
}

/// The compressions of blocks, as `--compress` names them.
#[derive(Clone, Copy, ValueEnum)]
pub(super) enum Compress {
    Auto,
    Lz4,
    Zstd,
    None,
}

impl From<Compress> for Compression {
    fn from(how: Compress) -> Self {
        match how {
            Compress::Auto => Self::Auto,
            Compress::Lz4 => Self::Lz4,
            Compress::Zstd => Self::Zstd,
            Compress::None => Self::None,
        }
    }
}

impl TransferArgs {
    /// The options of an upload of the whole archive. The caller adds the index.
    pub(super) fn options(&self) -> Result<UploadOptions> {
        let delete = DeletePolicy {
            limit: self.max_delete,
            backup: self.backup_dir.clone(),
            ignore_errors: self.ignore_errors,
            filtered: self.delete_excluded,
        };
        Ok(UploadOptions {
            progress: self.database_progress.clone().map_or_else(default_progress, Ok)?,
            tar_id: self.connect.tar_id.unwrap_or(0),
            block_size: self.block_size,
            workers: usize::from(self.no_processes),
            ignore_done: self.ignore_done,
            checks_space: !self.no_space_check,
            dry_run: self.dry_run,
            // What would be deleted depends on that.
            delete: (self.delete || self.delete_excluded).then_some(delete),
            backup: self.backup_dir.clone(),
            keep: self.keep.map(u64::from),
            compression: self.compress.into(),
            cores: threads(),
            scratch: std::env::temp_dir(),
            ..UploadOptions::default()
        })
    }

    /// How receivers are reached.
    pub(super) fn connection(&self, output: &Arc<Output>) -> Connection {
        Connection {
            connect: self.connect.clone(),
            connections: usize::from(self.no_processes),
            bandwidth: self.bwlimit.map(|rate| Arc::new(Bandwidth::new(rate))),
            output: output.clone(),
        }
    }
}
