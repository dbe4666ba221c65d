//! `tar-like check`

use super::output::{Outcome, Output, human_count};
use super::{args, default_database, interruptible, threads};
use crate::archive::layout::DEFAULT_BLOCK_SIZE;
use crate::engine::check::{CheckOptions, Finding, check};
use crate::error::{ErrorKind, Result};
use crate::telemetry::{Monitor, Notice};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;

const EXAMPLES: &str = "\
Each difference is a line on standard output: `different`, `missing` or `extra`, the path, and how it differs.

Examples:
  tar-like check -b /srv/copy
  tar-like check -b /srv/copy -db /tmp/data.sqlite --extra
  tar-like check -b /srv/copy -f 0 -l 99          only files of the first 100 blocks

Exit codes: 0 no difference, 1 differences or an error, 2 wrong usage.";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct CheckArgs {
    /// The folder to compare
    #[arg(short, long, value_name = "FOLDER", default_value = "tmp/recv")]
    base_folder: PathBuf,
    /// The index, also -db [default: ~/.tar_like.sqlite]
    #[arg(long, value_name = "FILE")]
    database: Option<PathBuf>,
    /// Compare only files from this block on
    #[arg(short, long, value_name = "BLOCK", default_value_t = 0)]
    first_block: u64,
    /// Compare only files up to this block, inclusive [default: the last one]
    #[arg(short, long, value_name = "BLOCK")]
    last_block: Option<u64>,
    /// The size of these blocks in bytes; K, M, G are powers of 1024
    #[arg(short = 's', long, value_name = "BYTES", default_value_t = DEFAULT_BLOCK_SIZE, value_parser = args::some_bytes)]
    block_size: u64,
    /// Report what is in the folder and not in the index, too
    #[arg(long)]
    extra: bool,
    /// Compare names and contents only, not permissions, times and owners
    #[arg(long)]
    no_metadata: bool,
}

pub(super) async fn run(args: CheckArgs, output: &Arc<Output>) -> Result<Outcome> {
    args::block_range(args.first_block, args.last_block)?;
    let options = CheckOptions {
        base: args.base_folder,
        database: args.database.map_or_else(default_database, Ok)?,
        first: args.first_block,
        last: args.last_block,
        block_size: args.block_size,
        extra: args.extra,
        metadata: !args.no_metadata,
        threads: threads(),
        scratch: std::env::temp_dir(),
    };
    output.notice(Notice::Phase("checking"));
    let watch = output.watch();
    let sink = output.clone();
    let report = interruptible(output, move || {
        check(&options, &*sink, |finding| {
            let (what, path, why) = match finding {
                Finding::Different(path, why) => ("different", path, Some(why)),
                Finding::Missing(path) => ("missing", path, None),
                Finding::Extra(path) => ("extra", path, None),
            };
            let text = match why {
                Some(why) => format!("{what}\t{path}\t{why}"),
                None => format!("{what}\t{path}"),
            };
            sink.data(&text, || json!({"event": what, "path": path, "reason": why}))
        })
    })
    .await?;
    if report.is_equal() {
        output.verified();
    }
    drop(watch);
    Ok(Outcome {
        command: "check",
        exit: if report.is_equal() { 0 } else { ErrorKind::Different.exit_code() },
        text: format!(
            "{} ok, {} different, {} missing, {} extra",
            human_count(report.ok),
            human_count(report.different),
            human_count(report.missing),
            human_count(report.extra)
        ),
        fields: json!({
            "ok": report.ok, "different": report.different, "missing": report.missing, "extra": report.extra,
        }),
    })
}
