//! What a monitoring system reads: the Prometheus text format 0.0.4.

use super::Server;
use crate::telemetry::Counter;
use std::fmt::Write;
use std::sync::atomic::Ordering;

/// Answers by the first digit of their status; index 0 counts 1xx.
#[derive(Debug, Default)]
pub(super) struct Requests([Counter; 5]);

impl Requests {
    pub(super) fn count(&self, status: u16) {
        if let Some(counter) = self.0.get(usize::from(status / 100).wrapping_sub(1)) {
            counter.add(1);
        }
    }
}

/// All metrics as text.
pub(super) fn render(server: &Server) -> String {
    let counters = &server.receiver.counters;
    let inflight = server.options.max_inflight - server.inflight.available_permits();
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
    let answers: Vec<(&str, u64)> =
        classes.iter().zip(&server.requests.0).map(|(class, counter)| (*class, counter.get())).collect();
    metric("http_responses_total", "counter", "Answers by class of status.", &answers);
    metric("inflight_blocks", "gauge", "Blocks in memory.", &[("", inflight as u64)]);
    metric("connections", "gauge", "Open connections.", &[("", server.connections.get())]);
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
    text
}
