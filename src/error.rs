//! The one error type: a kind that drives retry, HTTP status and exit code, a message for a person,
//! and a hint.

use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What sort of thing went wrong. The table in [`ErrorKind::http_status`],
/// [`ErrorKind::exit_code`], [`ErrorKind::is_transient`] and [`ErrorKind::as_answered`] is the only
/// place where the consequences are decided. Its name in an answer is that of the variant in snake
/// case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// The command line or a setting is wrong.
    Usage,
    /// A request or answer is malformed.
    Malformed,
    /// A request's body came too slowly, or was cut.
    TooSlow,
    /// A request has no `Content-Length`.
    LengthRequired,
    /// A body or block is over the receiver's limit, or a database over what the system allows a
    /// file.
    TooLarge,
    /// No token, or a wrong one.
    Unauthorized,
    /// A token that is good, but not for this.
    Forbidden,
    /// Too many requests without a good token from one address.
    Limited,
    /// The certificate of either side is not accepted by the other, or one of them does not speak
    /// TLS.
    Untrusted,
    /// The receiver has no index for this archive, or the path is not known.
    NotFound,
    /// The request's method is not served at this path.
    MethodNotAllowed,
    /// The request names another index than the active one.
    WrongIndex,
    /// The archive number is that of another source.
    OtherSource,
    /// The request is for another one of several receivers, or for none that is a slice.
    WrongSlice,
    /// The request names no index and the receiver does not serve legacy clients.
    NoIndexNamed,
    /// A block's frame, length or digest is wrong.
    BadBlock,
    /// An index is refused: corrupt, hostile or not one of ours.
    BadIndex,
    /// The receiver has no space left.
    NoSpace,
    /// The receiver's storage failed; it accepts nothing until it is restarted.
    Degraded,
    /// The receiver is overloaded or stopping.
    Busy,
    /// The system has no file descriptor, thread or memory left for us; a little later it may have.
    Exhausted,
    /// Connection refused, reset or timed out, or an answer that leaves the outcome unknown.
    Unreachable,
    /// What answers is no receiver, and does not become one by asking again.
    NotAReceiver,
    /// A source file or folder cannot be read, or changed.
    Source,
    /// The work ended, but some files or blocks failed.
    Partial,
    /// A comparison found differences.
    Different,
    /// An operating-system call failed.
    Io,
    /// SQLite failed on a database of ours.
    Database,
    /// Another receiver uses the base folder.
    InUse,
    /// More was to be deleted than the user allows: everything else is done.
    TooManyDeletions,
    /// Who read standard output has closed it.
    ReaderGone,
    /// The user interrupted the work.
    Interrupted,
    /// A state that the program's own logic excludes.
    Internal,
}

impl ErrorKind {
    /// The HTTP status by which a receiver reports this kind (FORMAT.md 8.5).
    #[must_use]
    pub fn http_status(self) -> u16 {
        match self {
            Self::Usage | Self::Malformed => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::TooSlow => 408,
            Self::WrongIndex | Self::OtherSource => 409,
            Self::LengthRequired => 411,
            Self::NoIndexNamed => 412,
            Self::TooLarge => 413,
            Self::BadBlock | Self::BadIndex => 422,
            Self::WrongSlice => 421,
            Self::Limited => 429,
            Self::Degraded | Self::Busy | Self::Exhausted => 503,
            Self::NoSpace => 507,
            Self::Unreachable
            | Self::NotAReceiver
            | Self::Untrusted
            | Self::Source
            | Self::Partial
            | Self::Different
            | Self::Io
            | Self::Database
            | Self::InUse
            | Self::TooManyDeletions
            | Self::ReaderGone
            | Self::Interrupted
            | Self::Internal => 500,
        }
    }

    /// The kind of the error at a sender whose request a receiver answers with this kind.
    #[must_use]
    pub fn as_answered(self) -> Self {
        match self {
            Self::Usage => Self::Malformed,
            Self::Limited | Self::Exhausted => Self::Busy,
            // Whether the receiver did what was asked is unknown, so the request is sent again.
            _ if self.http_status() == 500 => Self::Unreachable,
            _ => self,
        }
    }

    /// The process exit code (FORMAT.md 12.2).
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Usage => 2,
            Self::Partial => 3,
            Self::NoSpace | Self::Degraded => 4,
            Self::TooManyDeletions => 25,
            Self::Interrupted => 130,
            // As a shell shows the end of a process by SIGPIPE.
            Self::ReaderGone => 141,
            _ => 1,
        }
    }

    /// Whether sending the same request again may succeed without a change at the sender.
    #[must_use]
    pub fn is_transient(self) -> bool {
        matches!(
            self,
            Self::NoSpace | Self::Degraded | Self::Busy | Self::Exhausted | Self::Unreachable | Self::TooSlow
        )
    }

    /// Whether a failure to put one file in place is about that file, and not about everything that
    /// the receiver does.
    #[must_use]
    pub fn is_of_one_file(self) -> bool {
        !matches!(
            self,
            Self::NoSpace | Self::Degraded | Self::Busy | Self::Exhausted | Self::Database | Self::Internal
        )
    }
}

/// An error with what happened, to what, and what to do next.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
    /// It is a file system of this host that is full, not one of a receiver that was asked.
    of_this_host: bool,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The result of anything that can fail with an [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of `kind`; `message` says what happened and to which file, block or address.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, of_this_host: false, source: None }
    }

    /// Adds what the user can do next.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the cause, which is printed behind the message.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// A failed system call on `what`. A full disk or an exhausted quota becomes
    /// [`ErrorKind::NoSpace`]; no descriptor or memory that is left, [`ErrorKind::Exhausted`].
    pub fn io(what: impl fmt::Display, error: impl Into<std::io::Error>) -> Self {
        let error = error.into();
        let kind = match (error.kind(), error.raw_os_error().map(Errno::from_raw_os_error)) {
            (std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded, _) => ErrorKind::NoSpace,
            (_, Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM)) => ErrorKind::Exhausted,
            _ => ErrorKind::Io,
        };
        let of_this_host = kind == ErrorKind::NoSpace;
        let failed = Self { of_this_host, ..Self::new(kind, what.to_string()).with_source(error) };
        match kind {
            ErrorKind::Exhausted => failed.with_hint("allow more open files (ulimit -n) or memory"),
            _ => failed,
        }
    }

    /// A thread that the system did not let us start.
    pub fn thread(error: std::io::Error) -> Self {
        Self::new(ErrorKind::Exhausted, "cannot start a thread")
            .with_source(error)
            .with_hint("allow more threads (ulimit -u, a container's pids limit) or memory")
    }

    /// The error that `what` was over the limit for files, if there is one. For a caller that knows
    /// only that a write has failed.
    pub fn over_limit(what: impl fmt::Display) -> Option<Self> {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Fsize);
        limit.current.map(|_| Self::io(what, Errno::FBIG).limited())
    }

    /// The same error of a file of our own that becomes larger than a limit allows: no disk has
    /// failed then, and trying again does not help.
    #[must_use]
    pub fn limited(self) -> Self {
        if self.os_error() != Some(Errno::FBIG) {
            return self;
        }
        self.with_kind(ErrorKind::TooLarge).with_hint(
            "a file may not become that large there: allow larger ones (ulimit -f), or use another file system",
        )
    }

    /// What the system said, if it was the system that failed.
    #[must_use]
    pub fn os_error(&self) -> Option<Errno> {
        self.cause::<std::io::Error>()?.raw_os_error().map(Errno::from_raw_os_error)
    }

    /// Says that the error is about a file system of this host.
    #[must_use]
    pub fn of_this_host(mut self) -> Self {
        self.of_this_host = true;
        self
    }

    /// The same error where that file system is the receiver's.
    #[must_use]
    pub fn of_receiver(mut self) -> Self {
        self.of_this_host = false;
        self
    }

    /// The same error where the program is a sender: its own full disk is no full receiver.
    #[must_use]
    pub fn as_sender(self) -> Self {
        if self.kind != ErrorKind::NoSpace || !self.of_this_host {
            return self;
        }
        let hint = "a file system of this host is full, not the receiver's; make room there, and run the same command again";
        let hint = self.hint.clone().unwrap_or_else(|| hint.to_string());
        self.with_kind(ErrorKind::Io).with_hint(hint)
    }

    /// What sort of error this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The same error as another kind.
    #[must_use]
    pub fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.kind = kind;
        self
    }

    /// The cause, if it is a `T`.
    #[must_use]
    pub fn cause<T: std::error::Error + 'static>(&self) -> Option<&T> {
        self.source.as_deref()?.downcast_ref()
    }

    /// What the user can do next, if anything is known.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.message.clone();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            let cause = error.to_string();
            // Wrappers often repeat their cause; saying it once is enough.
            if !text.contains(&cause) {
                text = format!("{text}: {cause}");
            }
            source = error.source();
        }
        f.write_str(&text)
    }
}

/// Display prints the whole chain of sources.
impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|error| error as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_disk_is_its_own_kind() {
        let full = Error::io("write x", std::io::Error::from_raw_os_error(28));
        assert_eq!(full.kind(), ErrorKind::NoSpace);
        assert_eq!((full.kind().http_status(), full.kind().exit_code()), (507, 4));
        let failed = Error::io("x", std::io::Error::from_raw_os_error(5));
        assert_eq!((failed.kind(), failed.os_error()), (ErrorKind::Io, Some(Errno::IO)));
        let exhausted = Error::io("x", Errno::MFILE).kind();
        assert!(exhausted.is_transient() && !exhausted.is_of_one_file());
        assert_eq!((exhausted, exhausted.http_status()), (ErrorKind::Exhausted, 503));
        // Of a sender, only the receiver's disk is meant by that code.
        let answered = Error::new(ErrorKind::NoSpace, "the receiver answered 507");
        assert_eq!((full.as_sender().kind().exit_code(), answered.as_sender().kind().exit_code()), (1, 4));
    }

    #[test]
    fn display_prints_the_chain_once() {
        let error =
            Error::new(ErrorKind::Io, "cannot read a").with_source("cannot read a").with_hint("try b");
        assert_eq!(error.to_string(), "cannot read a");
        let error = Error::new(ErrorKind::Io, "cannot read a").with_source("no such file");
        assert_eq!(error.to_string(), "cannot read a: no such file");
        let outer = Error::new(ErrorKind::Source, "cannot index b").with_source(error);
        assert_eq!(outer.to_string(), "cannot index b: cannot read a: no such file");
        let sources = std::iter::successors(Some(&outer as &dyn std::error::Error), |error| error.source());
        assert_eq!(sources.count(), 3);
    }
}
