//! The one error type: a kind that drives retry, HTTP status and exit code, a message for a person, and a hint.

use std::fmt;

/// What sort of thing went wrong. The table in [`ErrorKind::http_status`], [`ErrorKind::exit_code`] and
/// [`ErrorKind::is_transient`] is the only place where the three consequences are decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
    /// A body or block is over the receiver's limit.
    TooLarge,
    /// No token, or a wrong one.
    Unauthorized,
    /// A token that is good, but not for this.
    Forbidden,
    /// Too many requests without a good token from one address.
    Limited,
    /// The certificate of either side is not accepted by the other, or one of them does not speak TLS.
    Untrusted,
    /// The receiver has no index for this archive, or the path is not known.
    NotFound,
    /// The request's method is not served at this path.
    MethodNotAllowed,
    /// The request names another index than the active one.
    WrongIndex,
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
    /// Connection refused, reset or timed out, or an answer that leaves the outcome unknown.
    Unreachable,
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
    /// The user interrupted the work.
    Interrupted,
    /// A state that the program's own logic excludes.
    Internal,
}

impl ErrorKind {
    /// The HTTP status by which a receiver reports this kind (FORMATS 2.3).
    #[must_use]
    pub fn http_status(self) -> u16 {
        match self {
            Self::Usage | Self::Malformed => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::TooSlow => 408,
            Self::WrongIndex => 409,
            Self::LengthRequired => 411,
            Self::NoIndexNamed => 412,
            Self::TooLarge => 413,
            Self::BadBlock | Self::BadIndex => 422,
            Self::Limited => 429,
            Self::Degraded | Self::Busy => 503,
            Self::NoSpace => 507,
            Self::Unreachable
            | Self::Untrusted
            | Self::Source
            | Self::Partial
            | Self::Different
            | Self::Io
            | Self::Database
            | Self::InUse
            | Self::TooManyDeletions
            | Self::Interrupted
            | Self::Internal => 500,
        }
    }

    /// The process exit code (FORMATS 2.5).
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Usage => 2,
            Self::Partial => 3,
            Self::NoSpace | Self::Degraded => 4,
            Self::TooManyDeletions => 25,
            Self::Interrupted => 130,
            _ => 1,
        }
    }

    /// Whether sending the same request again may succeed without anybody changing anything on the sender.
    #[must_use]
    pub fn is_transient(self) -> bool {
        matches!(self, Self::NoSpace | Self::Degraded | Self::Busy | Self::Unreachable | Self::TooSlow)
    }
}

/// An error with what happened, to what, and what to do next.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The result of anything that can fail with an [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of `kind`; `message` says what happened and to which file, block or address.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, source: None }
    }

    /// Adds what the user can do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the cause, which is printed behind the message.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// A failed system call on `what`. A full disk or an exhausted quota becomes [`ErrorKind::NoSpace`].
    pub fn io(what: impl fmt::Display, error: impl Into<std::io::Error>) -> Self {
        let error = error.into();
        let kind = match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
            _ => ErrorKind::Io,
        };
        Self::new(kind, what.to_string()).because(error)
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

    /// What the user can do next, if anything is known.
    #[must_use]
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        let mut cause: Option<&(dyn std::error::Error + 'static)> =
            self.source.as_deref().map(|e| e as &(dyn std::error::Error + 'static));
        let mut last = self.message.clone();
        while let Some(error) = cause {
            let text = error.to_string();
            // Wrappers often repeat their cause; saying it once is enough.
            if !last.contains(&text) {
                write!(f, ": {text}")?;
            }
            last = text;
            cause = error.source();
        }
        Ok(())
    }
}

// `source` stays private to Display, which prints the whole chain: a caller that printed the chain again would repeat it.
impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_disk_is_its_own_kind() {
        let full = Error::io("write x", std::io::Error::from_raw_os_error(28));
        assert_eq!(full.kind(), ErrorKind::NoSpace);
        assert_eq!((full.kind().http_status(), full.kind().exit_code()), (507, 4));
        assert_eq!(Error::io("x", std::io::Error::from_raw_os_error(5)).kind(), ErrorKind::Io);
    }

    #[test]
    fn display_prints_the_chain_once() {
        let error = Error::new(ErrorKind::Io, "cannot read a").because("cannot read a").hint("try b");
        assert_eq!(error.to_string(), "cannot read a");
        let error = Error::new(ErrorKind::Io, "cannot read a").because("no such file");
        assert_eq!(error.to_string(), "cannot read a: no such file");
    }
}
