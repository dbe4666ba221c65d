//! Both ends of a pipe, and the processes behind them. All waiting ends when a neighbour has died,
//! or the user wants to stop.

use crate::archive::blockcopy::{BadRecord, DONE, Tag};
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::Monitor;
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::fcntl_setpipe_size;
use std::fmt;
use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};

/// How often a thread that waits for a pipe looks whether to go on.
const POLL_INTERVAL: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// What a pipe holds, if the system allows it: larger ones make fewer switches between processes.
const PIPE_BYTES: usize = 1 << 20;

/// The process at the other end of a pipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Neighbour {
    /// Sends hashes to `retrieve`.
    Checksum,
    /// Takes hashes from `checksum`.
    RetrieveBehind,
    /// Sends data to `save`.
    RetrieveBefore,
    /// Takes data from `retrieve`.
    Save,
    /// Gives content to `checksum -`.
    Input,
}

impl fmt::Display for Neighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Checksum => "the process that sends us hashes (checksum)",
            Self::RetrieveBehind => "the process that reads our hashes (retrieve)",
            Self::RetrieveBefore => "the process that sends us blocks (retrieve)",
            Self::Save => "the process that reads our blocks (save)",
            Self::Input => "the process that writes to standard input",
        })
    }
}

impl Neighbour {
    /// The error for a record that this process should not have sent.
    pub(super) fn sent(self, bad: BadRecord) -> Error {
        let error = Error::new(ErrorKind::Malformed, format!("{self} sent {bad}"));
        match bad {
            BadRecord::Newer => error.with_hint("use the same version of tar-like on both hosts"),
            _ => error.with_hint(
                "the stream is damaged, or it is not that of blockcopy; nothing else may write to that pipe",
            ),
        }
    }

    fn ended(self) -> Error {
        Error::new(ErrorKind::Unreachable, format!("{self} has ended before all was done"))
            .with_hint("its own message tells why; when that is mended, run all three again")
    }
}

/// Tells all threads of one process to stop, and why.
pub(super) struct Stop<'m> {
    monitor: &'m dyn Monitor,
    stopped: AtomicBool,
    lost: Mutex<Option<Neighbour>>,
}

impl<'m> Stop<'m> {
    pub(super) fn new(monitor: &'m dyn Monitor) -> Self {
        Self { monitor, stopped: AtomicBool::new(false), lost: Mutex::new(None) }
    }

    /// Stops the other threads because of an error of this one.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    fn lose(&self, neighbour: Neighbour) {
        self.lost.lock().get_or_insert(neighbour);
        self.stop();
    }

    /// # Errors
    /// It is time to stop.
    pub(super) fn check(&self) -> Result<()> {
        if self.monitor.is_cancelled() {
            return Err(Error::new(ErrorKind::Interrupted, "interrupted")
                .with_hint("run all three again: blocks that are equal by then are not sent"));
        }
        if !self.stopped.load(Ordering::Relaxed) {
            return Ok(());
        }
        match *self.lost.lock() {
            Some(neighbour) => Err(neighbour.ended()),
            None => Err(Error::new(ErrorKind::Internal, "stopped by another thread")),
        }
    }

    /// Hands `result` on. An error stops the other threads.
    pub(super) fn pass<T>(&self, result: Result<T>) -> Result<T> {
        if result.is_err() {
            self.stop();
        }
        result
    }
}

/// The reading end of a pipe.
pub(super) struct Input<'s> {
    file: File,
    from: Neighbour,
    stop: &'s Stop<'s>,
    buffer: Vec<u8>,
    at: usize,
    bytes: u64,
}

impl<'s> Input<'s> {
    pub(super) fn new(file: File, from: Neighbour, stop: &'s Stop<'s>) -> Self {
        let _ = fcntl_setpipe_size(&file, PIPE_BYTES);
        Self { file, from, stop, buffer: Vec::with_capacity(1 << 18), at: 0, bytes: 0 }
    }

    /// Bytes that were read so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads what there is, at least one byte; 0 at the end.
    fn some(&mut self, to: &mut [u8]) -> Result<usize> {
        loop {
            self.stop.check()?;
            let ready = poll(&mut [PollFd::new(&self.file, PollFlags::IN)], Some(&POLL_INTERVAL));
            match ready {
                Ok(0) | Err(rustix::io::Errno::INTR) => continue,
                _ => {}
            }
            match self.file.read(to) {
                Ok(count) => {
                    self.bytes += count as u64;
                    return Ok(count);
                }
                Err(e)
                    if matches!(
                        e.kind(),
                        std::io::ErrorKind::Interrupted | std::io::ErrorKind::WouldBlock
                    ) => {}
                Err(e) => return Err(Error::io(format!("cannot read what comes from {}", self.from), e)),
            }
        }
    }

    /// Fills `to` as far as the stream goes, and says how far.
    pub(super) fn fill(&mut self, to: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while done < to.len() {
            let buffered = &self.buffer[self.at..];
            if !buffered.is_empty() {
                let now = buffered.len().min(to.len() - done);
                to[done..done + now].copy_from_slice(&buffered[..now]);
                (done, self.at) = (done + now, self.at + now);
            } else if to.len() - done >= self.buffer.capacity() / 2 {
                // Long content needs no buffer between.
                match self.some(&mut to[done..])? {
                    0 => break,
                    count => done += count,
                }
            } else {
                let mut buffer = std::mem::take(&mut self.buffer);
                buffer.resize(buffer.capacity(), 0);
                let count = self.some(&mut buffer)?;
                buffer.truncate(count);
                (self.buffer, self.at) = (buffer, 0);
                if count == 0 {
                    break;
                }
            }
        }
        Ok(done)
    }

    /// Fills all of `to`.
    ///
    /// # Errors
    /// The stream ends before that.
    pub(super) fn exact(&mut self, to: &mut [u8]) -> Result<()> {
        if self.fill(to)? == to.len() { Ok(()) } else { Err(self.from.ended()) }
    }

    /// The next record: its tag, and its head in `head`.
    pub(super) fn record(
        &mut self,
        head: &mut Vec<u8>,
        length: impl Fn(Tag) -> std::result::Result<usize, BadRecord>,
    ) -> Result<Tag> {
        let mut tag = DONE;
        self.exact(&mut tag)?;
        head.resize(length(tag).map_err(|bad| self.bad(bad))?, 0);
        self.exact(head)?;
        Ok(tag)
    }

    /// The error for a record of this stream.
    pub(super) fn bad(&self, bad: BadRecord) -> Error {
        self.from.sent(bad)
    }

    /// Whether the stream has ended; waits until that is known.
    pub(super) fn at_end(&mut self) -> Result<bool> {
        if self.at < self.buffer.len() {
            return Ok(false);
        }
        let mut buffer = vec![0; self.buffer.capacity().max(1)];
        let count = self.some(&mut buffer)?;
        buffer.truncate(count);
        (self.buffer, self.at) = (buffer, 0);
        Ok(count == 0)
    }
}

/// The writing end of a pipe.
pub(super) struct Output {
    file: File,
    to: Neighbour,
    bytes: u64,
}

impl Output {
    pub(super) fn new(file: File, to: Neighbour) -> Self {
        let _ = fcntl_setpipe_size(&file, PIPE_BYTES);
        Self { file, to, bytes: 0 }
    }

    /// Bytes that were written so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes all pieces.
    ///
    /// # Errors
    /// The neighbour has ended, or the disk behind a file is full.
    pub(super) fn write(&mut self, pieces: &[&[u8]]) -> Result<()> {
        let mut slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        let mut left = &mut slices[..];
        IoSlice::advance_slices(&mut left, 0);
        while !left.is_empty() {
            match self.file.write_vectored(left) {
                Ok(0) => return Err(self.to.ended()),
                Ok(count) => {
                    self.bytes += count as u64;
                    IoSlice::advance_slices(&mut left, count);
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                // Another process that shares this pipe, a shell for instance, made it
                // non-blocking.
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                    let _ = poll(&mut [PollFd::new(&self.file, PollFlags::OUT)], Some(&POLL_INTERVAL));
                }
                Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => return Err(self.to.ended()),
                Err(e) => return Err(Error::io(format!("cannot write to {}", self.to), e)),
            }
        }
        Ok(())
    }
}

/// Runs `work`, while another thread watches whether the reader of `out` is still there: a process
/// that has nothing to write would not learn it otherwise.
pub(super) fn watching<T>(
    out: &File,
    reader: Neighbour,
    stop: &Stop<'_>,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    // A pipe that closes ends the watch at once.
    let (wake, waker) = std::io::pipe().map_err(|e| Error::io("cannot make a pipe", e))?;
    std::thread::scope(|scope| {
        let watch = move || {
            loop {
                // No event is asked for: errors are always reported.
                let mut wanted = [PollFd::new(out, PollFlags::empty()), PollFd::new(&wake, PollFlags::IN)];
                let polled = poll(&mut wanted, None);
                if wanted[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) {
                    return stop.lose(reader);
                }
                if !wanted[1].revents().is_empty() || !matches!(polled, Ok(_) | Err(rustix::io::Errno::INTR))
                {
                    return;
                }
            }
        };
        std::thread::Builder::new().spawn_scoped(scope, watch).map_err(Error::thread)?;
        let result = work();
        drop(waker);
        match result {
            // This thread was stopped by another one, which knows the reason.
            Err(e) if e.kind() == ErrorKind::Internal => Err(stop.check().err().unwrap_or(e)),
            result => result,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{OFlags, fcntl_setfl};
    use std::os::fd::OwnedFd;

    #[test]
    fn a_pipe_that_does_not_block_is_waited_for() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
        let mut output = Output::new(File::from(OwnedFd::from(writer)), Neighbour::Save);
        let content = vec![7; 5 << 20];
        std::thread::scope(|scope| {
            let read = scope.spawn(move || {
                // By then it is full.
                std::thread::sleep(std::time::Duration::from_millis(50));
                let mut all = Vec::new();
                reader.read_to_end(&mut all).map(|_| all)
            });
            output.write(&[&content, b"end"]).unwrap();
            drop(output);
            assert!(read.join().unwrap().unwrap() == [&content[..], b"end"].concat());
        });
    }
}
