//! What a monitoring system reads: the Prometheus text format 0.0.4.

use super::reload::Reloads;
use super::state::Server;
use crate::archive::slice::Slice;
use std::fmt::Write;

/// All metrics as text.
pub(super) fn render(server: &Server) -> String {
    let mut page = Page(String::new());
    page.blocks(server);
    page.responses(server);
    page.access(server);
    page.state(server);
    page.0
}

struct Page(String);

impl Page {
    /// A metric with a value for each set of labels.
    fn labelled<L: AsRef<str>>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        values: impl IntoIterator<Item = (L, u64)>,
    ) {
        let _ = writeln!(self.0, "# HELP tarlike_{name} {help}\n# TYPE tarlike_{name} {kind}");
        for (labels, value) in values {
            let _ = writeln!(self.0, "tarlike_{name}{} {value}", labels.as_ref());
        }
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.labelled(name, "counter", help, [("", value)]);
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.labelled(name, "gauge", help, [("", value)]);
    }

    fn blocks(&mut self, server: &Server) {
        let counters = &server.receiver.counters;
        self.counter("blocks_accepted_total", "Blocks on stable storage.", counters.blocks.get());
        self.counter("block_bytes_total", "Bytes of content in accepted blocks.", counters.block_bytes.get());
        self.counter("wire_bytes_total", "Bytes of bodies of accepted blocks.", counters.wire_bytes.get());
        let help = "Bytes that have come of bodies of blocks, accepted or not.";
        self.counter("received_bytes_total", help, server.inflight.received_bytes());
        let published = counters.files_published.get();
        self.counter("files_published_total", "Files that got their final name.", published);
        let help = "When the last block was accepted, 0 if none was since the start.";
        self.gauge("last_block_timestamp_seconds", help, counters.last_block_s.get());
        let max = server.options.max_inflight as u64;
        self.gauge("max_inflight_blocks", "Blocks that may be in memory.", max);
        self.gauge("inflight_blocks", "Blocks in memory.", server.inflight.held() as u64);
    }

    fn responses(&mut self, server: &Server) {
        let classes = (1..).zip(server.responses.classes());
        let classes = classes.map(|(class, count)| (format!("{{class=\"{class}xx\"}}"), count));
        self.labelled("http_responses_total", "counter", "Answers by class of status.", classes);
        let refusals = server.responses.refusals();
        let refusals = refusals.map(|(status, count)| (format!("{{status=\"{status}\"}}"), count));
        self.labelled("http_refusals_total", "counter", "Refusals by status.", refusals);
        self.gauge("connections", "Open connections.", server.connections.get());
    }

    fn access(&mut self, server: &Server) {
        let access = &server.options.access;
        let refusals = &access.refusals;
        let reasons = [
            ("{reason=\"missing\"}", refusals.missing.get()),
            ("{reason=\"wrong\"}", refusals.wrong.get()),
            ("{reason=\"expired\"}", refusals.expired.get()),
            ("{reason=\"forbidden\"}", refusals.forbidden.get()),
        ];
        self.labelled("auth_failures_total", "counter", "Requests refused for their token.", reasons);
        let limited = refusals.limited.get();
        self.counter("auth_limited_total", "Those of them that were too many.", limited);
        let failed = server.failed_handshakes.get();
        self.counter("tls_handshake_failures_total", "Connections without a TLS handshake.", failed);
        let counts = |reloads: &Reloads| [&reloads.ok, &reloads.failed, &reloads.stale].map(|c| c.get());
        let [ok, failed, stale] = counts(&access.reloads);
        let tls = server.options.tls.as_ref().map(|tls| counts(&tls.reloads));
        let [tls_ok, tls_failed, tls_stale] = tls.unwrap_or_default();
        let reloads = [
            ("{what=\"tokens\",result=\"ok\"}", ok),
            ("{what=\"tokens\",result=\"failed\"}", failed),
            ("{what=\"tls\",result=\"ok\"}", tls_ok),
            ("{what=\"tls\",result=\"failed\"}", tls_failed),
        ];
        self.labelled("reloads_total", "counter", "Settings read again while running.", reloads);
        let stale = [("{what=\"tokens\"}", stale), ("{what=\"tls\"}", tls_stale)];
        let help = "1 while the files are wrong and older settings in use.";
        self.labelled("reload_stale", "gauge", help, stale);
    }

    fn state(&mut self, server: &Server) {
        let degraded = u64::from(server.receiver.is_degraded());
        self.gauge("degraded", "1 after storage failed, until a restart.", degraded);
        self.gauge("stopping", "1 while the receiver stops.", u64::from(server.is_stopping()));
        // How far an archive is, the first slice knows: the others forget what that one has taken over.
        if server.receiver.slice().is_none_or(Slice::is_first) {
            let (finished, unfinished) = server.receiver.archives_by_state();
            let states = [("{state=\"finished\"}", finished), ("{state=\"unfinished\"}", unfinished)];
            self.labelled("archives", "gauge", "Archives by state.", states);
            let help = "Bytes that archives lack; of a first slice, as far as others have handed over.";
            self.gauge("missing_bytes", help, server.receiver.missing_bytes());
        }
        if let Some(slice) = server.receiver.slice() {
            let labels = format!("{{slice=\"{}\",of=\"{}\"}}", slice.number(), slice.count());
            self.labelled("slice_info", "gauge", "Which of several receivers it is.", [(labels, 1)]);
        }
        // Where the file system does not answer, no number is better than a wrong one.
        if let Ok(free_bytes) = server.receiver.free_bytes() {
            self.gauge("free_bytes", "Bytes free below the base folder.", free_bytes);
        }
        if let Some(free_bytes) = server.receiver.free_state_bytes() {
            self.gauge("state_free_bytes", "Bytes free in the state folder.", free_bytes);
        }
        let version = concat!("{version=\"", env!("CARGO_PKG_VERSION"), "\"}");
        self.labelled("build_info", "gauge", "The program's version.", [(version, 1)]);
    }
}
