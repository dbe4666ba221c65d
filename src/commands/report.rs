//! What indexing, planning and sending ended with, as a line for people and as fields for programs.

use super::output::{Outcome, Output, counted, human_bytes, human_count};
use super::terminal::columns_of;
use crate::archive::path::printable;
use crate::archive::protocol::Similarity;
use crate::engine::index::{Explanation, IndexReport};
use crate::engine::plan::{ChangeKind, EntrySink, Plan, PlannedChange, Tally};
use crate::engine::sync::SyncReport;
use crate::engine::upload::{FailedSlice, UploadReport};
use crate::error::{ErrorKind, Result};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;

/// The outcome of `sync`.
pub(super) fn copied(index: &IndexReport, upload: &UploadReport, similarity: Option<Similarity>) -> Outcome {
    let mut fields = upload_fields(upload);
    let mut text = format!("{}; {}", index_text(index), upload_text(upload));
    fields.insert("index".to_string(), index_fields(index).into());
    if let Some(similarity) = similarity {
        fields.insert("similarity".to_string(), similarity_fields(&similarity));
        text = similarity_text(&similarity) + &deleted_text(upload) + &would_fail(upload);
    }
    let exit = upload_exit(upload).max(index_exit(index));
    Outcome { command: "sync", exit, text, fields: fields.into() }
}

/// The outcome of a dry run of `sync` that read no content: `upload` is what the receiver misses of
/// the newest generation of the index.
pub(super) fn planned(plan: &Plan, upload: UploadReport) -> Outcome {
    let report = UploadReport {
        sent_bytes: planned_bytes(plan, &upload),
        sent_blocks: upload.sent_blocks.saturating_add(plan.blocks),
        total_bytes: upload.total_bytes.saturating_add(plan.send_bytes),
        content_bytes: plan.total_bytes,
        files: plan.total_files,
        complete: upload.complete && plan.is_idle(),
        ..upload
    };
    let mut fields = upload_fields(&report);
    fields.insert("plan".to_string(), plan_fields(plan).into());
    let at_most = if plan.at_most { ", at most" } else { "" };
    let (table, sends, deletes) = (plan_table(plan), would_send(&report), deleted_text(&report));
    let (fails, notes) = (would_fail(&report), plan_notes(plan, report.sent_bytes));
    let text = format!("{table}\n{sends}{at_most}{deletes}{fails}{notes}");
    let exit = plan_exit(plan).max(upload_exit(&report));
    Outcome { command: "sync", exit, text, fields: fields.into() }
}

/// What a run sends at most. What the receiver misses of the newest generation may be of files that
/// are left out, changed or gone by now: a run sends no more than the source has.
fn planned_bytes(plan: &Plan, upload: &UploadReport) -> u64 {
    upload.sent_bytes.saturating_add(plan.send_bytes).min(plan.total_bytes)
}

/// Why the source has no entries, if it has none: it may not be mounted.
pub(super) fn of_empty_source(entries: u64, excluded: u64, skipped: u64) -> Option<&'static str> {
    match (entries, excluded, skipped) {
        (1.., ..) => None,
        (_, 0, 0) => Some("the source is empty: is it mounted?"),
        (_, 0, _) => Some("nothing of the source is copied: all of it was skipped"),
        _ => Some("nothing of the source is copied: the filter leaves out all of it"),
    }
}

/// What of an index is not a file.
fn nodes(count: u64) -> String {
    match count {
        1 => "1 folder or link".to_string(),
        count => format!("{} folders and links", human_count(count)),
    }
}

/// The outcome of `--explain`.
pub(super) fn explained(command: &'static str, explanation: &Explanation) -> Outcome {
    let Explanation { path, decided, left_out, rule } = explanation;
    // Has the text written to standard output: it is the result of the command.
    let fields = json!({
        "dry_run": true, "path": printable(path), "decided": printable(decided), "left_out": left_out,
        "rule": rule,
    });
    Outcome { command, exit: 0, text: explanation.to_string(), fields }
}

/// 3 if entries of the source were skipped.
pub(super) fn index_exit(report: &IndexReport) -> u8 {
    if report.skipped > 0 { ErrorKind::Partial.exit_code() } else { 0 }
}

pub(super) fn index_text(report: &IndexReport) -> String {
    let skipped =
        if report.skipped > 0 { format!(", {} skipped", human_count(report.skipped)) } else { String::new() };
    let excluded = match report.excluded {
        0 => String::new(),
        excluded => format!(", {} left out", human_count(excluded)),
    };
    let changes = match &report.changes {
        None => String::new(),
        Some(_) if report.unchanged => format!("; nothing changed since generation {}", report.generation),
        Some(changes) => format!(
            "; generation {}: {} new, {} changed, {} with new metadata, {} removed{}, {} to send",
            report.generation,
            human_count(changes.added.saturating_sub(changes.changed)),
            human_count(changes.changed),
            human_count(changes.touched),
            human_count(changes.removed),
            match changes.nodes {
                0 => String::new(),
                count => format!(", {}", nodes(count)),
            },
            human_bytes(changes.appended_bytes)
        ),
    };
    format!(
        "indexed {}, {}, {}{skipped}{excluded}{changes}",
        counted(report.files, "file"),
        nodes(report.nodes),
        human_bytes(report.content_bytes)
    )
}

pub(super) fn index_fields(report: &IndexReport) -> Map<String, Value> {
    object(json!({
        "files": report.files, "nodes": report.nodes, "total_bytes": report.total_bytes,
        "content_bytes": report.content_bytes, "skipped": report.skipped,
        "excluded": report.excluded,
        "digest": report.digest.to_string(), "unchanged": report.unchanged, "generation": report.generation,
        "changes": report.changes.map(|changes| json!({
            "added": changes.added, "changed": changes.changed, "known": changes.known, "touched": changes.touched,
            "removed": changes.removed, "nodes": changes.nodes, "appended_bytes": changes.appended_bytes,
        })),
    }))
}

/// 0 only if the receiver confirmed everything, or everything that this run had to send.
pub(super) fn upload_exit(report: &UploadReport) -> u8 {
    let confirmed = report.complete || report.dry_run || report.others_bytes > 0;
    // A file that waits for a folder to be deleted fails only because of the limit.
    let limited = report.blocked > 0 && report.failed_total <= report.blocked && report.others_bytes == 0;
    match report.too_many {
        Some(_) if limited => ErrorKind::TooManyDeletions.exit_code(),
        _ if !confirmed || report.failed_total > 0 => ErrorKind::Partial.exit_code(),
        Some(_) => ErrorKind::TooManyDeletions.exit_code(),
        None => 0,
    }
}

pub(super) fn upload_text(report: &UploadReport) -> String {
    let deleted = deleted_text(report);
    if report.dry_run {
        return would_send(report) + &deleted + &verified_text(report) + &would_fail(report);
    }
    let state = if report.failed_total > 0 {
        format!("{} FAILED", human_count(report.failed_total))
    } else if report.complete && !report.legacy {
        match report.files {
            1 => "the file is confirmed by the receiver".to_string(),
            files => format!("all {} confirmed by the receiver", counted(files, "file")),
        }
    } else if report.others_bytes > 0 {
        format!("this range is done, {} are left for other senders", human_bytes(report.others_bytes))
    } else if report.legacy {
        "accepted, but not verified: run check on the receiver's host".to_string()
    } else {
        "NOT confirmed by the receiver".to_string()
    };
    let (blocks, wire) = (blocks_text(report), human_bytes(report.wire_bytes));
    let (verified, slices) = (verified_text(report), failed_slices_text(report));
    format!("sent {blocks} ({wire} on the wire){deleted}{verified}; {state}{slices}")
}

/// Which of several receivers have not all of their files, and what to do.
fn failed_slices_text(report: &UploadReport) -> String {
    let Some(FailedSlice { slice, address, error, hint }) = report.failed_slices.first() else {
        return String::new();
    };
    let more = match report.failed_slices.len() as u64 {
        1 => String::new(),
        count => format!(" (and {} more)", counted(count - 1, "slice")),
    };
    format!("; slice {slice} at {address} lacks files: {error}{more}: {hint}")
}

/// What the receiver found when it read its files, if it did.
fn verified_text(report: &UploadReport) -> String {
    let Some(found) = &report.verified else { return String::new() };
    let read = counted(found.files, "file");
    let bytes = human_bytes(found.different_bytes);
    let (missing, changed) = (found.missing, found.different.saturating_sub(found.missing));
    let what = match (missing, changed) {
        (0, 0) => return format!("; the receiver looked at {read}: none differs"),
        (0, _) => format!("{} with {bytes} differed", human_count(changed)),
        (_, 0) => format!("{} with {bytes} missing", human_count(missing)),
        _ => format!("{} missing and {} different, with {bytes}", human_count(missing), human_count(changed)),
    };
    format!("; the receiver looked at {read}: {what}")
}

fn blocks_text(report: &UploadReport) -> String {
    format!("{}, {}", counted(report.sent_blocks, "block"), human_bytes(report.sent_bytes))
}

fn would_send(report: &UploadReport) -> String {
    let to = if report.legacy { " (the receiver knows only the original protocol)" } else { "" };
    let (blocks, files) = (blocks_text(report), counted(report.files, "file"));
    format!("would send {blocks} of {} in {files}{to}", human_bytes(report.content_bytes))
}

/// What a run would end without.
fn would_fail(report: &UploadReport) -> String {
    match report.failed_total {
        0 => String::new(),
        failed => format!("; {} would FAIL", human_count(failed)),
    }
}

/// What was deleted, or would be.
fn deleted_text(report: &UploadReport) -> String {
    let would = if report.dry_run { "would be " } else { "" };
    match (report.too_many, report.deleted, &report.moved_to) {
        (Some(count), ..) => {
            let nothing = if report.dry_run { "NOTHING WOULD BE DELETED" } else { "NOTHING DELETED" };
            format!("; {nothing}: {} would go, more than --max-delete allows", counted(count, "entry"))
        }
        (None, 0, _) if report.deletes_nothing => "; NOTHING DELETED: not everything is in place".to_string(),
        (None, 0, _) => String::new(),
        (None, count, Some(folder)) => format!("; {} {would}moved to {folder}", human_count(count)),
        (None, count, None) => format!("; {} {would}deleted", human_count(count)),
    }
}

pub(super) fn upload_fields(report: &UploadReport) -> Map<String, Value> {
    let failed: Vec<Value> =
        report.failed.iter().map(|entry| json!({"path": entry.path, "reason": entry.reason})).collect();
    let slice = |failed: &FailedSlice| {
        let FailedSlice { slice, address, error, hint } = failed;
        json!({"slice": slice.to_string(), "address": address, "error": error, "hint": hint})
    };
    let failed_slices: Vec<Value> = report.failed_slices.iter().map(slice).collect();
    object(json!({
        "tar_id": report.tar_id, "files": report.files, "total_bytes": report.total_bytes,
        "content_bytes": report.content_bytes, "sent_blocks": report.sent_blocks,
        "sent_bytes": report.sent_bytes, "reused_bytes": reused_bytes(report),
        "wire_bytes": report.wire_bytes, "stored_blocks": report.stored_blocks,
        "zstd_blocks": report.zstd_blocks,
        "retries": report.retries, "failed": failed, "failed_total": report.failed_total,
        "failed_slices": failed_slices, "complete": report.complete, "others_bytes": report.others_bytes, "legacy": report.legacy,
        "dry_run": report.dry_run, "deleted": report.deleted, "moved_to": report.moved_to,
        "too_many_to_delete": report.too_many, "deletes_nothing": report.deletes_nothing,
        "verified": report.verified.as_ref().map(|found| json!({
            "files": found.files, "bytes": found.bytes, "different": found.different,
            "missing": found.missing, "different_bytes": found.different_bytes, "unreadable": found.unreadable,
        })),
    }))
}

/// The figures of a run, a line each.
pub(super) fn stats(report: &SyncReport, elapsed: Duration) -> String {
    let upload = report.upload();
    let mut lines: Vec<(&str, String)> = Vec::new();
    let files = match report {
        SyncReport::Planned { plan, .. } => {
            let (files, entries) = (plan.total_files, plan.total_entries());
            lines.push(("folders and links", human_count(entries - files)));
            lines.push(("left out", human_count(plan.excluded)));
            lines.push(("skipped", human_count(plan.skipped.total())));
            for kind in &ChangeKind::ALL[1..] {
                lines.push((kind.word(), human_count(plan.files(*kind).files)));
            }
            lines.push(("to send, at most", human_bytes(planned_bytes(plan, upload))));
            (files, plan.total_bytes)
        }
        SyncReport::Copied { index, .. } => {
            lines.push(("folders and links", human_count(index.nodes)));
            lines.push(("left out", human_count(index.excluded)));
            lines.push(("skipped", human_count(index.skipped)));
            if let Some(changes) = &index.changes {
                lines.push(("new", human_count(changes.added.saturating_sub(changes.changed))));
                lines.push(("changed", human_count(changes.changed)));
                lines.push(("with new metadata", human_count(changes.touched)));
                lines.push(("removed", human_count(changes.removed)));
            }
            let rate = upload.sent_bytes as f64 / elapsed.as_secs_f64().max(0.001);
            lines.push(("sent", format!("{} ({} a second)", blocks_text(upload), human_bytes(rate as u64))));
            lines.push(("on the wire", human_bytes(upload.wire_bytes)));
            lines.push(("reused", human_bytes(reused_bytes(upload))));
            (index.files, index.content_bytes)
        }
    };
    lines.insert(0, ("files", format!("{}, {}", human_count(files.0), human_bytes(files.1))));
    let deleted = if upload.moved_to.is_some() { "moved to the backup folder" } else { "deleted" };
    lines.push((deleted, human_count(upload.deleted)));
    lines.push(("failed", human_count(upload.failed_total)));
    lines.push(("time", format!("{:.1} s", elapsed.as_secs_f64())));
    let line = |(name, value): &(&str, String)| format!("{:27}{value}", format!("{name}:"));
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Bytes of files that did not have to be sent: the receiver has them, or another file has the same.
fn reused_bytes(report: &UploadReport) -> u64 {
    report.content_bytes.saturating_sub(report.sent_bytes)
}

/// Rounded down to tenths: 100 means all of it.
fn percent(similarity: &Similarity) -> f64 {
    match similarity.total_bytes {
        0 => 100.0,
        total => (similarity.same_bytes as f64 / total as f64 * 1000.0).floor() / 10.0,
    }
}

fn similarity_text(similarity: &Similarity) -> String {
    format!(
        "{}% of {} is there already: {} of {} as they are, {} elsewhere, {} in part; {} would be sent",
        percent(similarity),
        human_bytes(similarity.total_bytes),
        human_count(similarity.same_files),
        counted(similarity.files, "file"),
        human_count(similarity.known_files),
        human_count(similarity.similar_files),
        human_bytes(similarity.total_bytes.saturating_sub(similarity.same_bytes)),
    )
}

fn similarity_fields(similarity: &Similarity) -> Value {
    let Similarity { files, same_files, known_files, similar_files, total_bytes, same_bytes } = similarity;
    json!({
        "percent": percent(similarity), "files": files, "same_files": same_files, "known_files": known_files,
        "similar_files": similar_files, "total_bytes": total_bytes, "same_bytes": same_bytes,
    })
}

/// 3 if entries of the source would be left out.
pub(super) fn plan_exit(plan: &Plan) -> u8 {
    if plan.skipped.total() > 0 { ErrorKind::Partial.exit_code() } else { 0 }
}

/// Names an entry that is not unchanged, with tabs between the columns.
pub(super) fn plan_entry(change: &PlannedChange<'_>, output: &Output) -> Result<()> {
    let PlannedChange { kind, node, path, from, bytes, .. } = change;
    let (letter, node) = (kind.letter(), node.map_or("f", |node| node.letter()));
    let before = from.map(|from| format!("\t{from}")).unwrap_or_default();
    output.data(&format!("{letter}\t{node}\t{bytes}\t{path}{before}"), || entry_fields(change))
}

/// Writes the names of entries to standard output, if they are wanted: `itemize` with what is new
/// about each. Without `deletes`, what left the source is no change of the destination.
pub(super) fn entry_sink(itemize: bool, deletes: bool, output: &Arc<Output>) -> Option<EntrySink> {
    let output = output.clone();
    (itemize || output.is_verbose()).then(|| {
        EntrySink::new(move |change| match change.kind {
            kind if kind.is_absent() && !deletes => Ok(()),
            _ if itemize => plan_entry(change, &output),
            _ => entry_name(change, &output),
        })
    })
}

/// Writes the name of an entry alone, as rsync does.
fn entry_name(change: &PlannedChange<'_>, output: &Output) -> Result<()> {
    let PlannedChange { kind, path, .. } = change;
    let deleting = if kind.is_absent() { "deleting " } else { "" };
    output.data(&format!("{deleting}{path}"), || entry_fields(change))
}

fn entry_fields(change: &PlannedChange<'_>) -> Value {
    let PlannedChange { kind, node, path, from, bytes, send_bytes } = change;
    json!({
        "event": "path", "what": kind.word(), "kind": node.map_or("f", |node| node.letter()),
        "path": path.to_string(), "from": from.map(ToString::to_string), "bytes": bytes,
        "send_bytes": send_bytes,
    })
}

/// The heads of the table of a plan, ...
const PLAN_HEADS: [&str; 5] = ["", "files", "bytes", "to send", "folders and links"];
/// ... and the width of its rows.
const PLAN_COLUMNS: usize = 71;

fn plan_row(cells: [&str; 5]) -> String {
    let widths = [0, 12, 12, 12, 18];
    let mut line = format!("{:9}", cells[0]);
    for (cell, width) in cells.iter().zip(widths).skip(1) {
        line.push_str(&format!("  {cell:>width$}"));
    }
    line
}

pub(super) fn plan_table(plan: &Plan) -> String {
    let columns = columns_of(std::io::stdout());
    table_in(plan, columns.is_some_and(|columns| columns < PLAN_COLUMNS))
}

/// The table; in a narrow window each cell has a line of its own, and rows without a count are left
/// out.
fn table_in(plan: &Plan, is_narrow: bool) -> String {
    let mut lines = vec![match (plan.from, plan.to) {
        (None, _) => "there is no index yet: everything is new".to_string(),
        (Some(from), None) => format!("since generation {from}"),
        (Some(from), Some(to)) => format!("from generation {from} to generation {to}"),
    }];
    if !is_narrow {
        lines.push(plan_row(PLAN_HEADS));
    }
    let is_always_shown = |kind: &ChangeKind| match kind {
        // Only a receiver that was asked, or a filter, makes these.
        ChangeKind::Missing | ChangeKind::Filtered => false,
        _ => !is_narrow,
    };
    let is_shown =
        |kind: &ChangeKind| is_always_shown(kind) || plan.files(*kind).files + plan.nodes(*kind) > 0;
    lines.extend(ChangeKind::ALL.into_iter().filter(is_shown).map(|kind| {
        let Tally { files, bytes, send_bytes } = plan.files(kind);
        let (bytes, send_bytes) = (human_bytes(bytes), human_bytes(send_bytes));
        let (files, nodes) = (human_count(files), human_count(plan.nodes(kind)));
        let cells = [kind.word(), &files, &bytes, &send_bytes, &nodes];
        if !is_narrow {
            return plan_row(cells);
        }
        let rows: Vec<String> =
            (1..cells.len()).map(|cell| format!("  {}: {}", PLAN_HEADS[cell], cells[cell])).collect();
        format!("{}\n{}", kind.word(), rows.join("\n"))
    }));
    lines.join("\n")
}

/// What else there is to know, each on a line of its own, where so many bytes are to be sent.
pub(super) fn plan_notes(plan: &Plan, send_bytes: u64) -> String {
    let mut text = String::new();
    if plan.assumed_bytes > 0 && send_bytes > 0 {
        let bytes = human_bytes(plan.assumed_bytes);
        text.push_str(&format!("\n{bytes} more are assumed to be unchanged until they are read"));
    }
    if plan.skipped.total() > 0 {
        text.push_str(&format!("\n{} would be skipped", counted(plan.skipped.total(), "entry")));
    }
    if plan.excluded > 0 {
        text.push_str(&format!("\n{} would be left out by the filter", counted(plan.excluded, "entry")));
    }
    text
}

pub(super) fn plan_fields(plan: &Plan) -> Map<String, Value> {
    let mut fields = Map::new();
    for kind in ChangeKind::ALL {
        let Tally { files, bytes, send_bytes } = plan.files(kind);
        fields.insert(
            kind.word().to_string(),
            json!({"files": files, "bytes": bytes, "send_bytes": send_bytes, "nodes": plan.nodes(kind)}),
        );
    }
    fields.extend(object(json!({
        "generation": plan.from, "to_generation": plan.to, "skipped": plan.skipped.total(),
        "excluded": plan.excluded,
        "total_files": plan.total_files, "total_bytes": plan.total_bytes, "send_bytes": plan.send_bytes,
        "at_most": plan.at_most, "believed_bytes": plan.assumed_bytes, "blocks": plan.blocks,
    })));
    fields
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_a_plan_fits_its_window() {
        let mut plan = Plan::default();
        plan.from = Some(1);
        let wide = table_in(&plan, false);
        assert!(wide.lines().all(|line| line.len() <= PLAN_COLUMNS), "{wide}");
        assert_eq!(wide.lines().count(), 9, "{wide}");
        assert_eq!(table_in(&plan, true), "since generation 1");
    }
}
