//! `tar-like plan`

use super::index::refuse_other_index;
use super::output::{Outcome, Output, human_bytes, human_count, human_seconds};
use super::s3::S3Args;
use super::{args, default_database, default_progress, interruptible, threads, upload};
use crate::archive::layout::DEFAULT_BLOCK_SIZE;
use crate::engine::index::{Append, IndexOptions};
use crate::engine::plan::{BetweenOptions, Change, Plan, PlanOptions, Tally, What, between, plan};
use crate::engine::upload::UploadReport;
use crate::error::{ErrorKind, Result};
use crate::telemetry::{Monitor, Notice};
use clap::Args;
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::sync::Arc;

const EXAMPLES: &str = "\
Looks at names, sizes, times and owners, or lists the bucket, and compares with the newest generation of the index. Reads no content, changes
nothing, asks no receiver: what is to be sent is what a receiver lacks that has that generation. What became of a file:

  unchanged  index would not read it
  new        to be sent, unless it has the content of another file
  changed    another size or time: at most all of it is to be sent
  grown      larger than before, the same inode: believed to have grown at its end: that is to be
             sent; of a file that had less than 1 MiB, all of it
  renamed    device, inode, size and time of a file that is gone: believed to be that one
  touched    the same size and time, another mode, owner, inode, or time of the inode; or it changed
             just when the index was begun: believed to have nothing to send
  removed    nothing is at its path any more

What is believed shows when the next pass reads the file. In a bucket nothing is grown or renamed, and touched is an object with the same size
and ETag that was written again. With --from, two generations of the index are compared. Then contents are known, and all is exact: grown is
what is larger than before, and renamed is a file at a new path with the content of one that is gone.

With --paths, a line for each entry that is not unchanged, with tabs between: N, C, G, R, T or D (removed); f, d, l or h for file, folder,
symbolic link and hard link; bytes; path; and of a renamed file the path that it had.

Examples:
  tar-like plan -b /data
  tar-like plan -b /data -db /tmp/data.sqlite --rate 100M
  tar-like plan --use-s3 --s3-bucket photos --s3-prefix 2024 -db photos.sqlite --json
  tar-like plan -db photos.sqlite --from 3 --to 5 --paths

Exit codes: 0 done, 1 error, 2 wrong usage, 3 some entries would be skipped (they are listed), 130 interrupted.";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct PlanArgs {
    /// The folder, file or block device to look at
    #[arg(short, long, value_name = "PATH", default_value = ".")]
    base_folder: PathBuf,
    /// Look at a bucket in S3 instead of a folder
    #[arg(long)]
    use_s3: bool,
    /// The index to compare with, also -db [default: ~/.tar_like.sqlite]
    #[arg(long, value_name = "FILE", env = "TARLIKE_DATABASE")]
    database: Option<PathBuf>,
    /// Leave out relative paths that match this regular expression; may be given several times
    #[arg(short = 'x', long, value_name = "REGEX", value_parser = args::regex, allow_hyphen_values = true)]
    exclude: Vec<regex::bytes::Regex>,
    /// Compare this generation of the index with a later one, of those that tar-like history lists, and look at no source
    #[arg(long, value_name = "NUMBER", conflicts_with_all = ["base_folder", "use_s3", "exclude"])]
    from: Option<u64>,
    /// The later one [default: the newest]
    #[arg(long, value_name = "NUMBER", requires = "from")]
    to: Option<u64>,
    /// The size of a block in bytes; K, M, G are powers of 1024
    #[arg(short = 's', long, value_name = "BYTES", default_value_t = DEFAULT_BLOCK_SIZE, value_parser = args::some_bytes)]
    block_size: u64,
    /// Say how long it takes to send this many bytes a second; K, M, G are powers of 1024
    #[arg(long, value_name = "RATE", value_parser = args::some_bytes)]
    rate: Option<u64>,
    /// Name each entry that is not unchanged
    #[arg(long)]
    paths: bool,
    #[command(flatten)]
    s3: S3Args,
}

pub(super) async fn run(args: PlanArgs, output: &Arc<Output>) -> Result<Outcome> {
    let PlanArgs { block_size, rate, paths, from, to, .. } = args;
    let database = args.database.map_or_else(default_database, Ok)?;
    let bucket = match args.use_s3 {
        true => Some(args.s3.connect(args.s3.place()?, output).await?),
        false => None,
    };
    let index = IndexOptions {
        base: args.base_folder,
        bucket,
        read_contents: true,
        database: database.clone(),
        exclude: args.exclude,
        own_files: default_progress().into_iter().collect(),
        reuse: true,
        checksum: false,
        append: Append::default(),
        threads: threads(),
    };
    refuse_other_index(&index, from.is_none())?;
    let plan = match from {
        None => look(index, block_size, paths, output).await?,
        Some(from) => {
            let options = BetweenOptions { database, from, to, block_size, scratch: std::env::temp_dir() };
            watched(output, move |sink| between(&options, sink, |change| tell(change, paths, sink))).await?
        }
    };
    let mut fields = fields(&plan);
    let seconds = rate.map(|rate| plan.send_bytes.div_ceil(rate));
    fields.extend([
        // It is what was asked for: to be said on standard output.
        ("dry_run".to_string(), true.into()),
        ("block_size".to_string(), block_size.into()),
        ("rate".to_string(), rate.into()),
        ("estimated_s".to_string(), seconds.into()),
    ]);
    let time = rate
        .zip(seconds)
        .map(|(rate, seconds)| format!("; {} at {} a second", human_seconds(seconds), human_bytes(rate)));
    Ok(Outcome {
        command: "plan",
        exit: exit(&plan),
        text: format!("{}\n{}", table(&plan), totals(&plan, block_size, &time.unwrap_or_default())),
        fields: Value::Object(fields),
    })
}

/// Compares a source with its index, with progress; with `paths`, tells of each entry that is not unchanged.
pub(super) async fn look(
    index: IndexOptions,
    block_size: u64,
    paths: bool,
    output: &Arc<Output>,
) -> Result<Plan> {
    let options = PlanOptions { index, block_size, scratch: std::env::temp_dir() };
    watched(output, move |sink| plan(&options, sink, |change| tell(change, paths, sink))).await
}

async fn watched(
    output: &Arc<Output>,
    work: impl FnOnce(&Output) -> Result<Plan> + Send + 'static,
) -> Result<Plan> {
    output.notice(Notice::Phase("planning"));
    let _watch = output.watch();
    let sink = output.clone();
    interruptible(output, move || work(&sink)).await
}

/// The outcome of a dry run: what changed in the source, and in `lacks` what the receiver lacks of the newest generation.
pub(super) fn with_receiver(plan: &Plan, lacks: UploadReport) -> Outcome {
    let report = UploadReport {
        sent_bytes: lacks.sent_bytes.saturating_add(plan.send_bytes),
        sent_blocks: lacks.sent_blocks.saturating_add(plan.blocks),
        total_bytes: lacks.total_bytes.saturating_add(plan.send_bytes),
        files: plan.total_files,
        complete: lacks.complete && plan.is_idle(),
        ..lacks
    };
    let mut fields = upload::fields(&report);
    if let Some(all) = fields.as_object_mut() {
        all.insert("plan".to_string(), Value::Object(self::fields(plan)));
    }
    let mut text = format!("{}\n{}", table(plan), upload::describe(&report));
    if plan.at_most {
        text.push_str(", at most");
    }
    text.push_str(&rest(plan));
    let exit = exit(plan).max(upload::exit(&report));
    Outcome { command: "sync", exit, text, fields }
}

fn exit(plan: &Plan) -> u8 {
    if plan.skipped > 0 { ErrorKind::Partial.exit_code() } else { 0 }
}

fn tell(change: &Change<'_>, paths: bool, output: &Output) -> Result<()> {
    if !paths {
        return Ok(());
    }
    let Change { what, kind, path, from, bytes, send_bytes } = change;
    let (letter, kind) = (what.letter(), kind.map_or("f", |kind| kind.letter()));
    let before = from.map(|from| format!("\t{from}")).unwrap_or_default();
    output.data(&format!("{letter}\t{kind}\t{bytes}\t{path}{before}"), || {
        json!({
            "event": "path", "what": what.word(), "kind": kind, "path": path.to_string(),
            "from": from.map(ToString::to_string), "bytes": bytes, "send_bytes": send_bytes,
        })
    })
}

fn row(cells: [&str; 5]) -> String {
    let widths = [0, 12, 12, 12, 18];
    let mut line = format!("{:9}", cells[0]);
    for (cell, width) in cells.iter().zip(widths).skip(1) {
        line.push_str(&format!("  {cell:>width$}"));
    }
    line
}

fn table(plan: &Plan) -> String {
    let mut lines = vec![
        match (plan.from, plan.to) {
            (None, _) => "there is no index yet: everything is new".to_string(),
            (Some(from), None) => format!("since generation {from}"),
            (Some(from), Some(to)) => format!("from generation {from} to generation {to}"),
        },
        row(["", "files", "bytes", "to send", "folders and links"]),
    ];
    lines.extend(What::ALL.map(|what| {
        let Tally { files, bytes, send_bytes } = plan.files(what);
        row([
            what.word(),
            &human_count(files),
            &human_bytes(bytes),
            &human_bytes(send_bytes),
            &human_count(plan.nodes(what)),
        ])
    }));
    lines.join("\n")
}

/// What has to be sent. `time` says how long that takes.
fn totals(plan: &Plan, block_size: u64, time: &str) -> String {
    let at_most = if plan.at_most { "at most " } else { "" };
    let (bytes, blocks) = (human_bytes(plan.send_bytes), human_count(plan.blocks));
    let size = human_bytes(block_size);
    format!("{at_most}{bytes} to send in {blocks} blocks of {size}{time}{}", rest(plan))
}

/// What else is to be known, each on a line of its own.
fn rest(plan: &Plan) -> String {
    let mut text = String::new();
    if plan.believed_bytes > 0 {
        let bytes = human_bytes(plan.believed_bytes);
        text.push_str(&format!("\n{bytes} more are believed to be what they were until they are read"));
    }
    if plan.skipped > 0 {
        text.push_str(&format!("\n{} entries would be skipped", human_count(plan.skipped)));
    }
    text
}

/// The plan for programs.
fn fields(plan: &Plan) -> Map<String, Value> {
    let mut fields = Map::new();
    for what in What::ALL {
        let Tally { files, bytes, send_bytes } = plan.files(what);
        fields.insert(
            what.word().to_string(),
            json!({"files": files, "bytes": bytes, "send_bytes": send_bytes, "nodes": plan.nodes(what)}),
        );
    }
    let all = [
        ("generation", json!(plan.from)),
        ("to_generation", json!(plan.to)),
        ("skipped", plan.skipped.into()),
        ("total_files", plan.total_files.into()),
        ("total_bytes", plan.total_bytes.into()),
        ("send_bytes", plan.send_bytes.into()),
        ("at_most", plan.at_most.into()),
        ("believed_bytes", plan.believed_bytes.into()),
        ("blocks", plan.blocks.into()),
    ];
    fields.extend(all.map(|(name, value)| (name.to_string(), value)));
    fields
}
