//! The first words over standard input and output: one line each way, before the mux. The sender
//! says what it wants, and the receiver that it is there, or why it is not. Both lines are JSON
//! (FORMAT.md 8.9).

use crate::archive::protocol::ErrorAnswer;
use crate::archive::source::{decode_header, encode_header};
use crate::error::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// What goes over standard input and output in this version.
const PROTOCOL: u32 = 1;
/// What the receiver's line begins with: what comes before it is of the remote shell.
const MARK: &str = "tar-like-stdio ";
/// The longest line, in bytes.
const MAX_LINE_BYTES: u64 = 64 << 10;
/// So many lines of a shell are passed over.
const MAX_LINES: usize = 1000;

/// What a sender wants of the receiver that its shell has started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The version of what goes over standard input and output.
    protocol: u32,
    /// The sender's version, for people.
    version: String,
    /// The base folder, percent-encoded where it is no printable ASCII.
    base: String,
    /// Nothing is to be made or changed there.
    #[serde(default)]
    pub dry_run: bool,
}

impl Hello {
    /// Asks for a receiver on the folder `base`.
    #[must_use]
    pub fn new(base: &Path, dry_run: bool) -> Self {
        let base = encode_header(base.as_os_str().as_bytes());
        Self { protocol: PROTOCOL, version: env!("CARGO_PKG_VERSION").to_owned(), base, dry_run }
    }

    /// The base folder.
    ///
    /// # Errors
    /// [`ErrorKind::Malformed`]: it is none.
    pub fn base(&self) -> Result<PathBuf> {
        decode_header(self.base.as_bytes())
            .map(|bytes| PathBuf::from(OsString::from_vec(bytes)))
            .ok_or_else(|| Error::new(ErrorKind::Malformed, "the sender names no folder"))
    }

    /// Reads the sender's line.
    ///
    /// # Errors
    /// The system's error, or no sender of this program speaks.
    pub async fn read(input: &mut (impl AsyncBufRead + Unpin)) -> Result<Self> {
        let line = line_of(input).await?.unwrap_or_default();
        let hello: Self = serde_json::from_slice(&line).map_err(|e| {
            Error::new(ErrorKind::Malformed, "no tar-like speaks at standard input")
                .with_source(e)
                .with_hint("a sender starts this by itself: tar-like sync FOLDER HOST:/FOLDER")
        })?;
        if hello.protocol != PROTOCOL {
            let what = format!(
                "the sender is version {}, which speaks another protocol over ssh than version {} here",
                hello.version,
                env!("CARGO_PKG_VERSION")
            );
            return Err(Error::new(ErrorKind::Usage, what)
                .with_hint("use the same version of tar-like on both hosts"));
        }
        Ok(hello)
    }

    /// Says it.
    ///
    /// # Errors
    /// The system's error.
    pub async fn write(&self, output: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        output.write_all(&line).await?;
        output.flush().await
    }
}

/// What the receiver answers.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Greeting {
    /// Its version, for people.
    version: String,
    /// Why it does not receive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<ErrorAnswer>,
}

impl Greeting {
    /// That of a receiver, or of one that could not start.
    #[must_use]
    pub fn new(outcome: &Result<()>) -> Self {
        let error = outcome.as_ref().err().map(ErrorAnswer::from);
        Self { version: env!("CARGO_PKG_VERSION").to_owned(), error }
    }

    /// Says it.
    ///
    /// # Errors
    /// The system's error.
    pub async fn write(&self, output: &mut (impl AsyncWrite + Unpin)) -> std::io::Result<()> {
        let line = format!("{MARK}{}\n", serde_json::to_string(self)?);
        output.write_all(line.as_bytes()).await?;
        output.flush().await
    }

    /// Reads the receiver's line; what the shell wrote before goes to `noise`. `None` if none came.
    ///
    /// # Errors
    /// What the receiver says, or the system's error.
    pub(super) async fn read(
        input: &mut (impl AsyncBufRead + Unpin),
        noise: &mut Vec<String>,
    ) -> Result<Option<()>> {
        while noise.len() < MAX_LINES {
            let Some(line) = line_of(input).await? else { return Ok(None) };
            let line = String::from_utf8_lossy(&line).into_owned();
            let Some((_, said)) = line.split_once(MARK) else {
                noise.push(line);
                continue;
            };
            let greeting: Self = serde_json::from_str(said).map_err(|e| {
                Error::new(ErrorKind::Malformed, "the remote tar-like does not greet as it should")
                    .with_source(e)
                    .with_hint("use the same version of tar-like on both hosts")
            })?;
            return greeting.outcome().map(Some);
        }
        Ok(None)
    }

    fn outcome(self) -> Result<()> {
        let Some(answer) = self.error else { return Ok(()) };
        let error = Error::new(answer.kind.unwrap_or(ErrorKind::Unreachable), answer.error);
        Err(match answer.hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        })
    }
}

/// The next line without its end; `None` at the end.
async fn line_of(input: &mut (impl AsyncBufRead + Unpin)) -> Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let read = input.take(MAX_LINE_BYTES).read_until(b'\n', &mut line).await;
    read.map_err(|e| Error::io("cannot read what the other side says", e))?;
    if line.is_empty() {
        return Ok(None);
    }
    while line.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
        line.pop();
    }
    Ok(Some(line))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;

    #[tokio::test]
    async fn any_path_goes_over() {
        for path in ["", "/srv/copy", "a b", "new\nline", "ü", "%41"] {
            let mut line = Vec::new();
            Hello::new(Path::new(path), false).write(&mut line).await.unwrap();
            assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
            assert_eq!(Hello::read(&mut &line[..]).await.unwrap().base().unwrap(), Path::new(path));
        }
        let odd = Path::new(OsStr::from_bytes(b"\xff\x01"));
        assert_eq!(Hello::new(odd, true).base().unwrap(), odd);
    }

    /// The lines stay as they are, so that versions can talk of what they are.
    #[tokio::test]
    async fn other_versions_are_refused_in_words() {
        let hello = |protocol| format!(r#"{{"protocol":{protocol},"version":"9.9","base":"/x"}}"#);
        assert_eq!(Hello::read(&mut hello(1).as_bytes()).await.unwrap().base().unwrap(), Path::new("/x"));
        let error = Hello::read(&mut hello(2).as_bytes()).await.unwrap_err();
        assert!(error.to_string().contains("version 9.9"), "{error}");
        for line in ["", "GET / HTTP/1.1\r\n", "{}"] {
            assert_eq!(Hello::read(&mut line.as_bytes()).await.unwrap_err().kind(), ErrorKind::Malformed);
        }
    }

    #[tokio::test]
    async fn what_a_shell_says_is_passed_over() {
        let mut said = b"Welcome!\nLast login: today\r\n".to_vec();
        Greeting::new(&Ok(())).write(&mut said).await.unwrap();
        let mut noise = Vec::new();
        assert!(Greeting::read(&mut &said[..], &mut noise).await.unwrap().is_some());
        assert_eq!(noise, ["Welcome!", "Last login: today"]);
        let mut refused = Vec::new();
        let error = Error::new(ErrorKind::InUse, "another one").with_hint("wait");
        Greeting::new(&Err(error)).write(&mut refused).await.unwrap();
        let error = Greeting::read(&mut &refused[..], &mut Vec::new()).await.unwrap_err();
        assert_eq!((error.kind(), error.hint()), (ErrorKind::InUse, Some("wait")));
        for end in ["", "only noise\n"] {
            assert!(Greeting::read(&mut end.as_bytes(), &mut Vec::new()).await.unwrap().is_none());
        }
    }
}
