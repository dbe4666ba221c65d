//! `tar-like ls`: what an index has.

use super::index_file::{IndexFile, warn_of_overwritten};
use super::output::{Outcome, Output, counted};
use super::signals::interruptible;
use crate::archive::entry::{FileEntry, Meta, Node, NodeKind};
use crate::archive::glob::GlobSyntax;
use crate::archive::path::{EntryPath, printable};
use crate::archive::path_rules::{PathRule, PathRules, RuleAction, RuleSyntax};
use crate::db::generation::rebuild;
use crate::db::index_read::{IndexReader, WalkRows};
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::Monitor;
use crate::unix_time::local_date;
use clap::Args;
use serde_json::json;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const EXAMPLES: &str = "\
Writes a path a line, in the order of the walk. A byte that is not printable is \\x and two digits;
--print0 writes the bytes as they are. With -l, each line has the kind and mode, the size, the
local time and the path, with tabs between them; of a link also its target.

Patterns are those of --exclude, as rsync has them: *.jpg at any depth, /top at the top only. A
folder that matches is listed with everything in it.

Examples:
  tar-like ls -db photos.sqlite
  tar-like ls -l '*.jpg' -db photos.sqlite
  tar-like ls --generation 3 '2024/**' -db photos.sqlite

Exit codes: 0 listed, 1 error, or a pattern was given and nothing matches, 2 wrong usage.";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct LsArgs {
    /// List only what one of these patterns matches
    #[arg(value_name = "PATTERN")]
    patterns: Vec<OsString>,
    #[command(flatten)]
    index: IndexFile,
    /// List also kind and mode, size, time, and targets of links
    #[arg(short, long)]
    long: bool,
    /// List an earlier generation of the index; tar-like history lists them
    #[arg(long, value_name = "NUMBER")]
    generation: Option<u64>,
    /// End each path with a zero byte, and write its bytes as they are
    #[arg(short = '0', long, conflicts_with_all = ["long", "json"])]
    print0: bool,
}

pub(super) async fn run(args: LsArgs, output: &Arc<Output>) -> Result<Outcome> {
    let LsArgs { patterns, index, long, generation, print0 } = args;
    let database = index.path()?;
    warn_of_overwritten(&database, output)?;
    let has_patterns = !patterns.is_empty();
    let rules = rules_of(patterns)?;
    let theirs = output.clone();
    let count = interruptible(output, move || {
        let previous = generation.map(|number| rebuild(&database, number, &std::env::temp_dir()));
        let previous = previous.transpose()?;
        let database: PathBuf = previous.as_deref().map_or(database, Path::to_path_buf);
        each_entry(&database, &rules, &*theirs, |entry| match (print0, long) {
            (true, _) => theirs.bytes(&[entry.path().as_bytes(), b"\0"].concat()),
            (false, true) => {
                let cells = entry.cells();
                let named: Vec<_> = HEADS.into_iter().zip(cells.each_ref().map(String::as_str)).collect();
                theirs.row(LINE_COLUMNS, &cells.join("\t"), &named, || entry.fields())
            }
            (false, false) => theirs.data(&entry.path().to_string(), || entry.fields()),
        })
    })
    .await?;
    let exit = if has_patterns && count == 0 { ErrorKind::NotFound.exit_code() } else { 0 };
    let text = if exit == 0 { counted(count, "entry") } else { "nothing matches".to_string() };
    Ok(Outcome { command: "ls", exit, text, fields: json!({"entries": count}) })
}

const HEADS: [&str; 4] = ["mode", "size", "time", "path"];
/// How wide a line is with a short path.
const LINE_COLUMNS: usize = 60;

/// A row of an index.
enum Entry {
    File(FileEntry),
    Node(Node),
}

impl Entry {
    fn path(&self) -> &EntryPath {
        match self {
            Self::File(file) => &file.path,
            Self::Node(node) => &node.path,
        }
    }

    fn is_dir(&self) -> bool {
        matches!(self, Self::Node(node) if node.kind == NodeKind::Dir)
    }

    /// Its letter, size, metadata, and target.
    fn parts(&self) -> (&'static str, u64, Option<Meta>, Option<String>) {
        match self {
            Self::File(file) => ("f", file.size, file.meta, None),
            Self::Node(node) => {
                let target = (node.kind != NodeKind::Dir).then(|| printable(&node.target));
                (node.kind.letter(), 0, node.meta, target)
            }
        }
    }

    /// The cells of its line.
    fn cells(&self) -> [String; 4] {
        let (kind, size, meta, target) = self.parts();
        let mode = meta.map_or("-".to_string(), |meta| format!("{:04o}", meta.mode));
        let time = meta.map_or("-".to_string(), |meta| local_date(meta.mtime_ns));
        let arrow = target.map(|target| format!(" -> {target}")).unwrap_or_default();
        [format!("{kind} {mode}"), size.to_string(), time, format!("{}{arrow}", self.path())]
    }

    fn fields(&self) -> serde_json::Value {
        let (kind, size, meta, target) = self.parts();
        let md5 = match self {
            Self::File(file) => file.md5.map(|md5| md5.to_string()),
            Self::Node(_) => None,
        };
        json!({
            "event": "entry", "kind": kind, "path": self.path().to_string(), "bytes": size, "target": target,
            "mode": meta.map(|meta| format!("{:04o}", meta.mode)), "mtime_ns": meta.map(|meta| meta.mtime_ns),
            "uid": meta.map(|meta| meta.uid), "gid": meta.map(|meta| meta.gid), "md5": md5,
        })
    }
}

/// Gives every wanted entry of the index to `each`, files and nodes in one order; gives how many.
fn each_entry(
    database: &Path,
    rules: &PathRules,
    monitor: &dyn Monitor,
    mut each: impl FnMut(&Entry) -> Result<()>,
) -> Result<u64> {
    let reader = IndexReader::open(database)?;
    let mut files = WalkRows::<FileEntry, _>::new(&reader)?;
    let mut nodes = WalkRows::<Node, _>::new(&reader)?;
    let (mut file, mut node, mut count) = (files.pop()?, nodes.pop()?, 0);
    loop {
        let is_file = match (&file, &node) {
            (Some((file, _)), Some((node, _))) => file < node,
            (file, _) => file.is_some(),
        };
        let next = if is_file {
            std::mem::replace(&mut file, files.pop()?).map(|(_, file)| Entry::File(file))
        } else {
            std::mem::replace(&mut node, nodes.pop()?).map(|(_, node)| Entry::Node(node))
        };
        let Some(entry) = next else { return Ok(count) };
        if monitor.is_cancelled() {
            return Err(Error::new(ErrorKind::Interrupted, "interrupted"));
        }
        if rules.rules().is_empty() || rules.leave_out(entry.path().as_bytes(), entry.is_dir()) {
            count += 1;
            each(&entry)?;
        }
    }
}

/// The rules that leave out what `patterns` match, and so say what is to be listed.
fn rules_of(patterns: Vec<OsString>) -> Result<PathRules> {
    let rule = |pattern: OsString| PathRule {
        action: RuleAction::Exclude,
        syntax: RuleSyntax::Glob(GlobSyntax::Rsync),
        pattern: pattern.into_vec().into(),
    };
    PathRules::new(patterns.into_iter().map(rule).collect())
}
