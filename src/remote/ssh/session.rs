//! One run of the user's ssh, which starts the remote receiver.

use super::hello::{Greeting, Hello};
use super::mux::{Mux, Side};
use super::place::SshPlace;
use crate::error::{Error, ErrorKind, Result};
use crate::telemetry::{Monitor, Notice};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};

/// What a shell exits with that does not find a program.
const NOT_FOUND: i32 = 127;
/// The same for one that it may not run.
const NOT_EXECUTABLE: i32 = 126;
/// What ssh exits with that has failed itself.
const SSH_FAILED: i32 = 255;
/// So many of the last lines of standard error are kept for the error message.
const KEPT_LINES: usize = 4;
/// The receiver finishes what is in flight in 25 s; after this time it is left alone.
const END_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a session that is started again may take to greet: no user waits to type a password.
const AGAIN_TIMEOUT: Duration = Duration::from_secs(40);

/// How the other host's shell is reached, and what it is to start.
#[derive(Debug, Clone)]
pub struct Shell {
    /// The program and its arguments, as `ssh`.
    pub rsh: Vec<String>,
    /// The remote program, as its shell takes it.
    pub remote_path: String,
    /// The host and the folder.
    pub place: SshPlace,
    /// Nothing is to be made or changed there.
    pub dry_run: bool,
}

impl Shell {
    /// Whether it is OpenSSH's, whose options are known.
    fn is_ssh(&self) -> bool {
        let program = self.rsh.first().map(Path::new).and_then(Path::file_name);
        program.is_some_and(|name| name == "ssh")
    }

    fn command(&self, again: bool) -> Result<Command> {
        let [program, arguments @ ..] = &self.rsh[..] else {
            return Err(Error::new(ErrorKind::Usage, "--rsh names no program"));
        };
        let mut command = Command::new(program);
        command.args(arguments);
        if self.is_ssh() {
            // No remote terminal. A session that begins again by itself must not ask for a password.
            command.arg("-T");
            if again {
                command.args(["-o", "BatchMode=yes"]);
            }
        }
        if let Some(port) = self.place.port {
            command.args(["-p", &port.to_string()]);
        }
        command.arg(&self.place.login).arg(format!("{} proxy --stdio", self.remote_path));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        Ok(command)
    }
}

/// A remote receiver, as long as ssh runs.
pub(super) struct Session {
    pub(super) mux: Mux,
    child: Child,
    said: Said,
}

/// What came over standard error.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<SaidState>>);

#[derive(Default)]
struct SaidState {
    last: VecDeque<String>,
    /// The receiver has greeted: what comes now is its own.
    is_greeted: bool,
}

impl Session {
    /// Starts ssh, and waits until the receiver greets. `again` says that no user is asked for a
    /// password.
    ///
    /// # Errors
    /// ssh fails, or what the receiver says.
    pub(super) async fn start(shell: &Shell, again: bool, monitor: &Arc<dyn Monitor>) -> Result<Self> {
        let mut command = shell.command(again)?;
        let mut child = command.spawn().map_err(|e| cannot_run(shell, e))?;
        let (Some(mut input), Some(output), Some(errors)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(Error::new(ErrorKind::Internal, "ssh was started without its pipes"));
        };
        let (said, mut output, mut noise) = (Said::default(), BufReader::new(output), Vec::new());
        let listener = tokio::spawn(said.clone().listen(errors, shell.place.login.clone(), monitor.clone()));
        let hello = Hello::new(Path::new(&shell.place.path), shell.dry_run);
        let greet = async {
            // Where ssh has failed already, its exit says more than the pipe.
            let _ = hello.write(&mut input).await;
            Greeting::read(&mut output, &mut noise).await
        };
        let greeted = match again {
            true => tokio::time::timeout(AGAIN_TIMEOUT, greet).await.map_err(|_| {
                let what = format!("{} does not greet within {} s", shell.place, AGAIN_TIMEOUT.as_secs());
                Error::new(ErrorKind::Unreachable, what)
            })?,
            false => greet.await,
        };
        if greeted.map_err(|e| of_other_host(shell, e))?.is_none() {
            let status = tokio::time::timeout(END_TIMEOUT, child.wait()).await;
            let status = status.ok().and_then(std::io::Result::ok);
            // All that it has said.
            let _ = tokio::time::timeout(Duration::from_secs(1), listener).await;
            return Err(no_receiver(shell, status, &said, &noise));
        }
        said.0.lock().is_greeted = true;
        if let Some(line) = noise.iter().find(|line| !line.trim().is_empty()) {
            monitor.notice(Notice::Warning(format!(
                "the shell at {} writes to standard output (\"{line}\"), which was passed over",
                shell.place.login
            )));
        }
        // Nothing connects to this side.
        let (mux, _) = Mux::start(tokio::io::join(output, input), Side::Starter)
            .await
            .map_err(|e| Error::io(format!("{} greets, and says no more", shell.place), e))?;
        Ok(Self { mux, child, said })
    }

    /// Ends it, and waits until the receiver has everything on stable storage.
    ///
    /// # Errors
    /// The receiver says that it has not.
    pub(super) async fn end(self, place: &SshPlace) -> Result<()> {
        let Self { mux, mut child, said } = self;
        drop(mux);
        match tokio::time::timeout(END_TIMEOUT, child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => {
                let what = format!("the receiver at {place} ended with {}{}", code_of(status), said.tail());
                Err(Error::new(ErrorKind::Unreachable, what)
                    .with_hint("run the same command again: it finds out what is in place"))
            }
            Ok(Err(e)) => Err(Error::io("cannot wait for ssh", e)),
            Err(_) => {
                let what = format!("the receiver at {place} did not end within {} s", END_TIMEOUT.as_secs());
                Err(Error::new(ErrorKind::Unreachable, what))
            }
        }
    }
}

impl Said {
    /// Passes on what ssh and the remote program write to standard error.
    async fn listen(self, errors: ChildStderr, login: String, monitor: Arc<dyn Monitor>) {
        let mut lines = BufReader::new(errors).split(b'\n');
        while let Ok(Some(line)) = lines.next_segment().await {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            let text = format!("{login}: {line}");
            let mut state = self.0.lock();
            let notice = match state.is_greeted {
                true => Notice::Warning(text),
                // Before, that is mostly what a host shows to all who come.
                false => Notice::Info(text),
            };
            state.last.push_back(line);
            if state.last.len() > KEPT_LINES {
                state.last.pop_front();
            }
            drop(state);
            monitor.notice(notice);
        }
    }

    /// The last lines, to be appended to a message.
    fn tail(&self) -> String {
        let state = self.0.lock();
        let lines: Vec<&str> =
            state.last.iter().map(|line| line.trim()).filter(|line| !line.is_empty()).collect();
        if lines.is_empty() { String::new() } else { format!(": {}", lines.join(" | ")) }
    }
}

fn code_of(status: ExitStatus) -> String {
    status.code().map_or_else(|| status.to_string(), |code| format!("exit code {code}"))
}

fn cannot_run(shell: &Shell, error: std::io::Error) -> Error {
    let program = shell.rsh.first().map_or("ssh", |program| program);
    Error::io(format!("cannot start {program}"), error).with_kind(ErrorKind::Usage)
}

/// An error that the receiver has said.
fn of_other_host(shell: &Shell, error: Error) -> Error {
    let named = Error::new(error.kind(), format!("{}: {error}", shell.place));
    match error.hint() {
        Some(hint) => named.with_hint(hint),
        None => named,
    }
}

/// Why there is no receiver: ssh, or the remote shell, has ended before it greeted.
fn no_receiver(shell: &Shell, status: Option<ExitStatus>, said: &Said, noise: &[String]) -> Error {
    let (host, tail, program) = (&shell.place.login, said.tail(), &shell.remote_path);
    let noise = noise.iter().find(|line| !line.trim().is_empty());
    match status.and_then(|status| status.code()) {
        Some(NOT_FOUND | NOT_EXECUTABLE) => Error::new(
            ErrorKind::Usage,
            format!("{program} cannot be started on {host}{tail}"),
        )
        .with_hint(format!(
            "install tar-like there (the same version), or say where it is with --remote-path PROGRAM; \
                     ssh {host} {program} --version shows what its shell finds"
        )),
        Some(SSH_FAILED) if shell.is_ssh() => {
            Error::new(ErrorKind::Unreachable, format!("ssh does not reach {host}{tail}"))
                .with_hint(format!("try: ssh {host} true"))
        }
        _ => {
            let code = status.map_or_else(|| "no exit code".to_owned(), code_of);
            let noise = noise.map(|line| format!(", and wrote \"{line}\"")).unwrap_or_default();
            let what = format!("no receiver greets at {host}: its shell ended with {code}{noise}{tail}");
            Error::new(ErrorKind::Unreachable, what)
                .with_hint(format!("what does this say: ssh {host} {program} --version"))
        }
    }
}
