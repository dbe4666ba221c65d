//! Both ends of a pipe, and who is behind them. Nobody waits for a neighbour that has died, nor after the user wants to stop.

use super::malformed;
use crate::archive::blockcopy::{BadRecord, DONE, Tag};
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::Monitor;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::fcntl_setpipe_size;
use std::fmt;
use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// How often somebody who waits looks whether to go on.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// What a pipe may hold, if the system lets us: fewer changes between the processes.
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
    fn ended(self) -> Error {
        Error::new(ErrorKind::Unreachable, format!("{self} has ended before all was done"))
            .with_hint("its own message tells why; when that is mended, run all three again")
    }
}

/// Tells all threads of one process to stop, and why.
pub(super) struct Stop<'m> {
    monitor: &'m dyn Monitor,
    stopped: AtomicBool,
    gone: Mutex<Option<Neighbour>>,
}

impl<'m> Stop<'m> {
    pub(super) fn new(monitor: &'m dyn Monitor) -> Self {
        Self { monitor, stopped: AtomicBool::new(false), gone: Mutex::new(None) }
    }

    /// Stops the others because of an error of this thread.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    fn lost(&self, neighbour: Neighbour) {
        self.gone.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(neighbour);
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
        match *self.gone.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(neighbour) => Err(neighbour.ended()),
            None => Err(Error::new(ErrorKind::Internal, "stopped by another thread")),
        }
    }

    /// Gives `result` on; an error stops the others.
    pub(super) fn pass<T>(&self, result: Result<T>) -> Result<T> {
        if result.is_err() {
            self.stop();
        }
        result
    }
}

/// What comes in.
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

    /// Bytes that came so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads what is there, at least one byte; 0 at the end.
    fn some(&mut self, to: &mut [u8]) -> Result<usize> {
        loop {
            self.stop.check()?;
            let ready = poll(&mut [PollFd::new(&self.file, PollFlags::IN)], Some(&LOOK));
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

    /// Fills `to` as far as there is something; says how far.
    pub(super) fn fill(&mut self, to: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while done < to.len() {
            let buffered = &self.buffer[self.at..];
            if !buffered.is_empty() {
                let now = buffered.len().min(to.len() - done);
                to[done..done + now].copy_from_slice(&buffered[..now]);
                (done, self.at) = (done + now, self.at + now);
            } else if to.len() - done >= self.buffer.capacity() / 2 {
                // Long content goes to its place at once.
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
        malformed(self.from, bad)
    }

    /// Whether nothing more comes; waits until that is known.
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

/// What goes out.
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

    /// Bytes that went so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes all of it.
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
                // Somebody else who has this pipe, a shell's neighbour perhaps, wants not to wait there. We do.
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                    let _ = poll(&mut [PollFd::new(&self.file, PollFlags::OUT)], Some(&LOOK));
                }
                Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => return Err(self.to.ended()),
                Err(e) => return Err(Error::io(format!("cannot write to {}", self.to), e)),
            }
        }
        Ok(())
    }
}

/// Runs `work` while somebody looks whether the reader of `out` is still there: who has nothing to write would not learn it otherwise.
pub(super) fn watching<T>(
    out: &File,
    reader: Neighbour,
    stop: &Stop<'_>,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    // Its end is told by a pipe that closes: nobody waits for the watch.
    let (wake, waker) = std::io::pipe().map_err(|e| Error::io("cannot make a pipe", e))?;
    std::thread::scope(|scope| {
        let watch = move || {
            loop {
                // Asked for nothing: errors are always told.
                let mut wanted = [PollFd::new(out, PollFlags::empty()), PollFd::new(&wake, PollFlags::IN)];
                let polled = poll(&mut wanted, None);
                if wanted[0].revents().intersects(PollFlags::ERR | PollFlags::HUP) {
                    return stop.lost(reader);
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
            // The reason of all others.
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
