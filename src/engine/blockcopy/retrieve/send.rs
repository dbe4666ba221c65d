//! Writing the outcomes to `save`, in order.

use super::super::wire::Output;
use super::compare::{Blocks, Compared, Verdict};
use super::job::{Job, RetrieveReport};
use crate::archive::blockcopy::DONE;
use crate::archive::blockcopy::data::{self, Block, Coding};
use crate::archive::blockcopy::root::Root;
use crate::archive::digest::Blake3;
use crate::error::Result;
use std::ops::Range;
use std::time::Instant;

/// A run of equal bytes is sent when it is so long, in bytes, so that `save` shows progress.
const MAX_RUN_BYTES: u64 = 256 << 20;

#[derive(Clone, Copy, PartialEq, Eq)]
enum RunKind {
    Equal,
    Zeros,
}

pub(super) struct Sender<'j> {
    job: &'j Job<'j>,
    output: Output,
    root: Option<Root>,
    /// Heads that wait to be written, with what belongs behind them.
    heads: Vec<u8>,
    run: Range<u64>,
    run_kind: RunKind,
    report: RetrieveReport,
}

impl<'j> Sender<'j> {
    pub(super) fn new(job: &'j Job<'j>, output: Output) -> Self {
        let report = RetrieveReport {
            source_bytes: job.device.size(),
            is_native: job.head.is_some(),
            ..RetrieveReport::default()
        };
        let root = job.head.as_ref().map(|head| Root::new(head, job.hasher.zero()));
        let run_kind = RunKind::Equal;
        Self { job, output, root, heads: Vec::new(), run: 0..0, run_kind, report }
    }

    pub(super) fn begin(&mut self) -> Result<()> {
        if let Some(head) = &self.job.head {
            head.push(&mut self.heads);
        }
        self.write(&[])
    }

    pub(super) fn take(&mut self, compared: Compared) -> Result<()> {
        let before = self.report;
        match compared {
            Compared::Equal(range) => {
                self.whole_zeros(&range);
                self.run(RunKind::Equal, range)?;
            }
            Compared::Zeros(range) => {
                self.whole_zeros(&range);
                self.run(RunKind::Zeros, range)?;
            }
            Compared::Blocks(blocks) => self.blocks(&blocks)?,
        }
        let counters = self.job.monitor.counters();
        let equal = self.report.equal_bytes - before.equal_bytes;
        counters.equal_bytes.add(equal);
        counters.done_bytes.add(equal + self.report.sent_bytes - before.sent_bytes);
        counters.sent_bytes.set(self.report.sent_bytes);
        counters.wire_bytes.set(self.output.bytes());
        Ok(())
    }

    fn whole_zeros(&mut self, range: &Range<u64>) {
        if let Some(root) = &mut self.root {
            root.push_zeros((range.end - range.start) / self.job.hasher.block() as u64);
        }
    }

    fn run(&mut self, kind: RunKind, range: Range<u64>) -> Result<()> {
        let length = range.end - range.start;
        match kind {
            RunKind::Equal => self.report.equal_bytes += length,
            RunKind::Zeros => {
                self.report.sent_bytes += length;
                self.report.zero_bytes += length;
            }
        }
        if self.run.end != range.start || self.run_kind != kind {
            self.end_run();
            (self.run, self.run_kind) = (range, kind);
        } else {
            self.run.end = range.end;
        }
        if self.run.end - self.run.start >= MAX_RUN_BYTES {
            self.end_run();
            self.write(&[])?;
        }
        Ok(())
    }

    /// Puts the run that was collected among the heads.
    fn end_run(&mut self) {
        let run = std::mem::take(&mut self.run);
        if run.is_empty() || self.job.head.is_none() {
            return;
        }
        match self.run_kind {
            RunKind::Equal => data::push_equal(&mut self.heads, run.start, run.end - run.start),
            RunKind::Zeros => data::push_zeros(&mut self.heads, run.start, run.end - run.start),
        }
    }

    fn blocks(&mut self, blocks: &Blocks) -> Result<()> {
        if let Some(root) = &mut self.root {
            root.push(&blocks.hashes);
        }
        // Pairs of where heads end and the content behind them.
        let mut bodies: Vec<(usize, &[u8])> = Vec::new();
        let width = self.job.hasher.width();
        for (number, (content, verdict)) in
            blocks.content.chunks(blocks.block).zip(&blocks.verdicts).enumerate()
        {
            let position = blocks.position + (number * blocks.block) as u64;
            let range = position..position + content.len() as u64;
            let body = match verdict {
                Verdict::Equal => {
                    self.run(RunKind::Equal, range)?;
                    continue;
                }
                Verdict::Zeros => {
                    self.run(RunKind::Zeros, range)?;
                    continue;
                }
                Verdict::Plain => content,
                Verdict::Packed(packed) => packed,
            };
            self.end_run();
            self.report.sent_bytes += content.len() as u64;
            let coded_length = body.len() as u32;
            let is_packed = matches!(verdict, Verdict::Packed(_));
            let hash = blocks.hashes.get(number * width..).and_then(<[u8]>::first_chunk);
            match (self.job.head, hash) {
                (Some(_), Some(hash)) => {
                    let coding = if is_packed { Coding::Zstd } else { Coding::Plain };
                    let length = content.len() as u32;
                    let hash = Blake3::from(*hash);
                    let block = Block { position, length, coding, coded_length, hash };
                    data::push_block(&mut self.heads, &block);
                }
                _ if is_packed => data::push_xz(&mut self.heads, position, coded_length),
                _ => data::push_data(&mut self.heads, position, coded_length),
            }
            bodies.push((self.heads.len(), body));
        }
        if bodies.is_empty() { Ok(()) } else { self.write(&bodies) }
    }

    /// Writes the heads, each with its body; heads behind the last body stay.
    fn write(&mut self, bodies: &[(usize, &[u8])]) -> Result<()> {
        let heads = std::mem::take(&mut self.heads);
        let (mut pieces, mut at) = (Vec::with_capacity(bodies.len() * 2), 0);
        for &(head_end, body) in bodies {
            pieces.extend([&heads[at..head_end], body]);
            at = head_end;
        }
        if bodies.is_empty() {
            pieces.push(&heads);
            at = heads.len();
        }
        let (before, began) = (self.output.bytes(), Instant::now());
        self.output.write(&pieces)?;
        self.job.coder.record_write(self.output.bytes() - before, began.elapsed());
        self.heads = heads;
        self.heads.drain(..at);
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<RetrieveReport> {
        // A source that lost a part meanwhile was not copied, whatever was read.
        self.job.device.check_size()?;
        self.end_run();
        if let (Some(root), Some(head)) = (&self.root, &self.job.head) {
            data::push_root(&mut self.heads, head.copy_end(), &root.finish());
        }
        self.heads.extend(DONE);
        self.write(&[])?;
        Ok(RetrieveReport { wire_bytes: self.output.bytes(), ..self.report })
    }
}
