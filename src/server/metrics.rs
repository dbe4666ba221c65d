//! What a monitoring system reads: the Prometheus text format 0.0.4.

use super::Server;
use super::reload::Reloads;
use crate::telemetry::Counter;
use std::fmt::Write;
use std::sync::atomic::Ordering;

/// Statuses that ask an operator for something different each.
const REFUSALS: [u16; 12] = [401, 403, 404, 408, 409, 412, 413, 422, 429, 431, 503, 507];

/// Answers by the first digit of their status, of which index 0 counts 1xx; and refusals by their status.
#[derive(Debug, Default)]
pub(super) struct Requests {
    classes: [Counter; 5],
    refusals: [Counter; REFUSALS.len()],
}

impl Requests {
    pub(super) fn count(&self, status: u16) {
        if let Some(counter) = self.classes.get(usize::from(status / 100).wrapping_sub(1)) {
            counter.add(1);
        }
        for (_, counter) in REFUSALS.iter().zip(&self.refusals).filter(|(refusal, _)| **refusal == status) {
            counter.add(1);
        }
    }
}

/// All metrics as text.
pub(super) fn render(server: &Server) -> String {
    let counters = &server.receiver.counters;
    let inflight = server.inflight.held();
    let mut text = String::new();
    let mut metric = |name: &str, kind: &str, help: &str, values: &[(&str, u64)]| {
        let _ = writeln!(text, "# HELP tarlike_{name} {help}\n# TYPE tarlike_{name} {kind}");
        for (labels, value) in values {
            let _ = writeln!(text, "tarlike_{name}{labels} {value}");
        }
    };
    metric("blocks_accepted_total", "counter", "Blocks on stable storage.", &[("", counters.blocks.get())]);
    metric(
        "block_bytes_total",
        "counter",
        "Bytes of content in accepted blocks.",
        &[("", counters.block_bytes.get())],
    );
    metric(
        "wire_bytes_total",
        "counter",
        "Bytes of bodies of accepted blocks.",
        &[("", counters.wire_bytes.get())],
    );
    metric(
        "files_published_total",
        "counter",
        "Files that got their final name.",
        &[("", counters.files_published.get())],
    );
    let classes =
        ["{class=\"1xx\"}", "{class=\"2xx\"}", "{class=\"3xx\"}", "{class=\"4xx\"}", "{class=\"5xx\"}"];
    let answers: Vec<(&str, u64)> = classes
        .iter()
        .zip(&server.requests.classes)
        .map(|(class, counter)| (*class, counter.get()))
        .collect();
    metric("http_responses_total", "counter", "Answers by class of status.", &answers);
    let labels = REFUSALS.map(|status| format!("{{status=\"{status}\"}}"));
    let refusals: Vec<(&str, u64)> = labels
        .iter()
        .zip(&server.requests.refusals)
        .map(|(label, counter)| (label.as_str(), counter.get()))
        .collect();
    metric("http_refusals_total", "counter", "Refusals by status.", &refusals);
    metric(
        "max_inflight_blocks",
        "gauge",
        "Blocks that may be in memory.",
        &[("", server.options.max_inflight as u64)],
    );
    metric("inflight_blocks", "gauge", "Blocks in memory.", &[("", inflight as u64)]);
    metric("connections", "gauge", "Open connections.", &[("", server.connections.get())]);
    let refusals = &server.options.access.refusals;
    let reasons = [
        ("{reason=\"missing\"}", refusals.missing.get()),
        ("{reason=\"wrong\"}", refusals.wrong.get()),
        ("{reason=\"expired\"}", refusals.expired.get()),
        ("{reason=\"forbidden\"}", refusals.forbidden.get()),
    ];
    metric("auth_failures_total", "counter", "Requests refused for their token.", &reasons);
    let limited = refusals.limited.get();
    metric("auth_limited_total", "counter", "Those of them that were too many.", &[("", limited)]);
    let failed = server.failed_handshakes.get();
    metric(
        "tls_handshake_failures_total",
        "counter",
        "Connections without a TLS handshake.",
        &[("", failed)],
    );
    let tokens = &server.options.access.reloads;
    let tls = server.options.tls.as_ref().map(|tls| &tls.reloads);
    let of_tls = |counter: fn(&Reloads) -> &Counter| tls.map_or(0, |tls| counter(tls).get());
    let reloads = [
        ("{what=\"tokens\",result=\"ok\"}", tokens.ok.get()),
        ("{what=\"tokens\",result=\"failed\"}", tokens.failed.get()),
        ("{what=\"tls\",result=\"ok\"}", of_tls(|tls| &tls.ok)),
        ("{what=\"tls\",result=\"failed\"}", of_tls(|tls| &tls.failed)),
    ];
    metric("reloads_total", "counter", "Settings read again while running.", &reloads);
    let stale = [("{what=\"tokens\"}", tokens.stale.get()), ("{what=\"tls\"}", of_tls(|tls| &tls.stale))];
    metric("reload_stale", "gauge", "1 while the files are wrong and older settings in use.", &stale);
    metric(
        "degraded",
        "gauge",
        "1 after storage failed, until a restart.",
        &[("", u64::from(server.receiver.is_degraded()))],
    );
    metric(
        "stopping",
        "gauge",
        "1 while the receiver stops.",
        &[("", u64::from(server.stopping.load(Ordering::SeqCst)))],
    );
    metric(
        "last_block_timestamp_seconds",
        "gauge",
        "When the last block was accepted, 0 if none was since the start.",
        &[("", counters.last_block_s.get())],
    );
    let (finished, unfinished) = server.receiver.archives_by_state();
    metric(
        "archives",
        "gauge",
        "Archives by state.",
        &[("{state=\"finished\"}", finished), ("{state=\"unfinished\"}", unfinished)],
    );
    // Where the file system does not answer, no number is better than a wrong one.
    if let Ok(free_bytes) = server.receiver.free_bytes() {
        metric("free_bytes", "gauge", "Bytes free below the base folder.", &[("", free_bytes)]);
    }
    let version = concat!("{version=\"", env!("CARGO_PKG_VERSION"), "\"}");
    metric("build_info", "gauge", "The program's version.", &[(version, 1)]);
    text
}
