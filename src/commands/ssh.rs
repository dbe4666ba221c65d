//! Flags for a place on another host, and the receiver that is started there.

use super::connect::Connection;
use crate::engine::destination::{StartReceiver, StartedReceiver};
use crate::error::{Error, ErrorKind, Result};
use crate::remote::Answer;
use crate::remote::ssh::{Shell, SshPlace, SshReceiver};
use clap::Args;
use std::path::{Path, PathBuf};

/// How another host's shell is reached.
#[derive(Args, Clone)]
pub(super) struct SshArgs {
    /// The program that reaches the shell of another host, with its arguments: "ssh -p 2222"
    #[arg(short = 'e', long, value_name = "COMMAND", default_value = "ssh", env = "TARLIKE_RSH")]
    rsh: String,
    /// tar-like over there, as its shell takes it: a path, or "sudo tar-like"
    #[arg(
        long,
        visible_alias = "rsync-path",
        value_name = "PROGRAM",
        default_value = "tar-like",
        env = "TARLIKE_REMOTE_PATH"
    )]
    remote_path: String,
}

impl SshArgs {
    /// The shell that reaches `place`.
    ///
    /// # Errors
    /// `--rsh` names no program that is here, or has a quote without an end.
    pub(super) fn shell(&self, place: SshPlace, dry_run: bool) -> Result<Shell> {
        let rsh = words(&self.rsh)?;
        if let Some(program) = rsh.first().filter(|program| !is_here(program)) {
            let error =
                Error::new(ErrorKind::Usage, format!("cannot start {program}: there is no such program"));
            return Err(
                error.with_hint("install an ssh client (openssh-client), or name one with --rsh COMMAND")
            );
        }
        Ok(Shell { rsh, remote_path: self.remote_path.clone(), place, dry_run })
    }
}

/// Whether `program` is found as a command is: by its path, or in PATH.
fn is_here(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    match program.contains('/') {
        true => Path::new(program).exists(),
        false => std::env::split_paths(&path).any(|folder| folder.join(program).is_file()),
    }
}

/// The words of a command line, as rsync takes those of `--rsh`: quotes keep spaces together, and
/// nothing else is special.
fn words(text: &str) -> Result<Vec<String>> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in text.chars() {
        match (quote, c) {
            (Some(end), _) if c == end => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, _) if c.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    if quote.is_some() || words.is_empty() {
        let what = if words.is_empty() { "--rsh names no program" } else { "a quote in --rsh has no end" };
        return Err(Error::new(ErrorKind::Usage, what).with_hint("for example --rsh \"ssh -p 2222\""));
    }
    Ok(words)
}

/// Starts the receiver of a folder on another host.
pub(super) struct RemoteReceiver {
    pub(super) shell: Shell,
    pub(super) connection: Connection,
}

impl StartReceiver for RemoteReceiver {
    fn start(&self, _: PathBuf) -> Answer<'_, StartedReceiver> {
        Box::pin(async move {
            let receiver = SshReceiver::start(self.shell.clone(), self.connection.output.clone()).await?;
            let client = self.connection.ssh_client(&self.shell.place, receiver.socket())?;
            Ok(StartedReceiver { client, stop: Box::pin(receiver.end()) })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_has_words() {
        let of = |text| words(text).ok();
        let some = |words: &[&str]| Some(words.iter().map(|word| word.to_string()).collect::<Vec<_>>());
        assert_eq!(of("ssh"), some(&["ssh"]));
        assert_eq!(
            of(" ssh  -p 22 -i '/a b/key' \"\" x'y z'"),
            some(&["ssh", "-p", "22", "-i", "/a b/key", "", "xy z"])
        );
        for wrong in ["", "  ", "ssh 'x", "ssh \"x'"] {
            assert_eq!(words(wrong).unwrap_err().kind(), ErrorKind::Usage, "{wrong}");
        }
    }
}
