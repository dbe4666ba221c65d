//! `tar-like hcp-credentials`

use super::output::{Outcome, Output};
use super::signals::{interrupted, stop_signal};
use crate::error::{Error, ErrorKind, Result};
use crate::source::s3::{Credentials, hcp_credentials};
use clap::Args;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use serde_json::json;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const EXAMPLES: &str = "\
For an HCP (Hitachi Content Platform), the access key is the user's name in Base64, and the secret
key is the MD5 of the password.

Examples:
  eval \"$(tar-like hcp-credentials)\"               ask, and set both variables in this shell
  tar-like hcp-credentials secret.txt > hcp.sh     read a file: the user's name, then the password";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct HcpCredentialsArgs {
    /// A file with the user's name in its first line and the password in its second; - is standard
    /// input [default: ask on the terminal]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
}

pub(super) async fn run(args: HcpCredentialsArgs, output: &Arc<Output>) -> Result<Outcome> {
    let (user, password) = match &args.file {
        Some(path) => from_file(path)?,
        None => {
            let terminal = Terminal::open()?;
            (terminal.ask("HCP user: ", true).await?, terminal.ask("HCP password: ", false).await?)
        }
    };
    if user.is_empty() || password.is_empty() {
        return Err(Error::new(ErrorKind::Usage, "the user's name or the password is empty")
            .with_hint("the name belongs into the first line, the password into the second"));
    }
    let Credentials { access_key_id, secret_access_key } = hcp_credentials(&user, &password);
    // Both consist of characters of Base64, which single quotes hold unchanged.
    let text = format!(
        "export AWS_ACCESS_KEY_ID='{access_key_id}'\nexport AWS_SECRET_ACCESS_KEY='{secret_access_key}'"
    );
    output.data(&text, || {
        json!({"event": "credentials", "aws_access_key_id": access_key_id, "aws_secret_access_key": secret_access_key})
    })?;
    Ok(Outcome {
        command: "hcp-credentials",
        exit: 0,
        text: "derived both keys".to_string(),
        fields: json!({}),
    })
}

fn from_file(path: &Path) -> Result<(String, String)> {
    let what = || format!("cannot read the user and the password from {}", path.display());
    let usage = |e: std::io::Error| Error::io(what(), e).with_kind(ErrorKind::Usage);
    let mut text = String::new();
    if path.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut text).map_err(usage)?;
    } else {
        text = std::fs::read_to_string(path).map_err(usage)?;
    }
    let mut lines = text.lines().map(str::to_owned);
    Ok((lines.next().unwrap_or_default(), lines.next().unwrap_or_default()))
}

/// The controlling terminal. Standard input and output may be redirected.
struct Terminal(Arc<File>);

impl Terminal {
    fn open() -> Result<Self> {
        let opened = File::options().read(true).write(true).open("/dev/tty");
        let opened = opened.map_err(|e| {
            Error::io("there is no terminal to ask for the user and the password", e)
                .with_kind(ErrorKind::Usage)
                .with_hint(
                    "give a file with the user's name in its first line and the password in its second",
                )
        })?;
        Ok(Self(Arc::new(opened)))
    }

    async fn ask(&self, question: &str, echo: bool) -> Result<String> {
        let failed = |e: std::io::Error| Error::io("cannot ask on the terminal", e);
        let hidden = if echo { None } else { Some(Hidden::begin(self.0.clone()).map_err(failed)?) };
        (&*self.0).write_all(question.as_bytes()).map_err(failed)?;
        let terminal = self.0.clone();
        let line = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            BufReader::new(&*terminal).read_line(&mut line).map(|_| line)
        });
        let line = tokio::select! {
            line = line => line,
            // Returning drops `hidden`, so the terminal shows again what is typed.
            () = stop_signal() => return Err(interrupted()),
        };
        drop(hidden);
        if !echo {
            let _ = (&*self.0).write_all(b"\n");
        }
        let line = line.map_err(|e| Error::new(ErrorKind::Internal, "reading crashed").with_source(e))?;
        Ok(line.map_err(failed)?.trim_end_matches(['\r', '\n']).to_owned())
    }
}

/// While it lives, the terminal does not show what is typed.
struct Hidden {
    terminal: Arc<File>,
    before: Termios,
}

impl Hidden {
    fn begin(terminal: Arc<File>) -> std::io::Result<Self> {
        let before = tcgetattr(&*terminal)?;
        let mut hidden = before.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&*terminal, OptionalActions::Flush, &hidden)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        let _ = tcsetattr(&*self.terminal, OptionalActions::Flush, &self.before);
    }
}
