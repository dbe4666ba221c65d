//! `tar-like config`

use super::args::without_empty_variables;
use super::output::{Outcome, Output};
use super::settings::{Settings, VARIABLES, is_secret};
use crate::archive::path::printable;
use crate::error::{Error, ErrorKind, Result};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command};
use serde_json::json;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

const EXAMPLES: &str = "\
Each line has three columns separated by tabs: the setting, its value, and the origin of the value.
Secrets are hidden. A flag wins over the environment, the environment over ~/.tar_like_rc, and that
file over the default.

Examples:
  tar-like config                                 every variable that tar-like reads
  tar-like config upload -p 8                     every setting of this command
  TARLIKE_RC= tar-like config                     ignore ~/.tar_like_rc

Exit codes: 0 done, 1 error, 2 wrong usage, also in the given command line.";

#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ConfigArgs {
    /// A command with its arguments; the command is not run
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    command_line: Vec<OsString>,
}

/// Where a value comes from.
enum Origin {
    Flag,
    Environment,
    RcFile(usize),
    Default,
}

/// A setting with the value that is in effect.
struct Row {
    /// The variable, or the flag where there is none.
    name: String,
    flag: Option<String>,
    /// `None` if it is not set and has no default.
    value: Option<String>,
    secret: bool,
    origin: Origin,
}

/// `definition` is that of the whole command line.
pub(super) async fn run(
    args: ConfigArgs,
    definition: Command,
    settings: &Settings,
    output: &Arc<Output>,
) -> Result<Outcome> {
    let rows = match args.command_line.is_empty() {
        true => of_all_commands(&definition, settings),
        false => of_command(args.command_line, definition, settings)?,
    };
    let file = settings.file.as_ref().map(|file| printable(file.as_os_str().as_bytes()));
    for row in &rows {
        row.print(file.as_deref(), output)?;
    }
    Ok(Outcome {
        command: "config",
        exit: 0,
        text: format!("{} settings", rows.len()),
        fields: json!({"settings": rows.len(), "rc_file": file, "warnings": settings.warnings}),
    })
}

impl Row {
    fn print(&self, file: Option<&str>, output: &Output) -> Result<()> {
        let value = match &self.value {
            Some(_) if self.secret => "set (hidden)",
            Some(value) => value,
            None => "",
        };
        let (from, line) = match self.origin {
            Origin::Flag => ("flag".to_string(), None),
            Origin::Environment => ("environment".to_string(), None),
            Origin::RcFile(line) => (format!("{}, line {line}", file.unwrap_or("rc file")), Some(line)),
            Origin::Default => ("default".to_string(), None),
        };
        let kind = match self.origin {
            Origin::RcFile(_) => "rc_file",
            _ => &from,
        };
        output.data(&format!("{}\t{value}\t{from}", self.name), || {
            json!({
                "event": "setting", "name": self.name, "flag": self.flag, "secret": self.secret,
                "value": self.value.as_ref().map(|_| value), "from": kind,
                "file": line.and(file), "line": line,
            })
        })
    }
}

/// Every variable that any command reads.
fn of_all_commands(program: &Command, settings: &Settings) -> Vec<Row> {
    let mut seen = BTreeSet::new();
    let mut rows = Vec::new();
    for argument in program.get_subcommands().chain([program]).flat_map(Command::get_arguments) {
        let Some(name) = argument.get_env().and_then(OsStr::to_str) else { continue };
        if seen.insert(name.to_owned()) {
            let default = default_of(argument);
            rows.push(Row { flag: flag_of(argument), ..of_variable(name, default, settings) });
        }
    }
    rows.extend(of_other_variables(settings));
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    rows
}

/// Variables that do not belong to a flag.
fn of_other_variables(settings: &Settings) -> Vec<Row> {
    let named = |name: &str| VARIABLES.iter().any(|variable| variable.name == name);
    let mut rows: Vec<Row> = VARIABLES
        .iter()
        .map(|variable| {
            let default = Some(variable.default.to_owned()).filter(|default| !default.is_empty());
            of_variable(variable.name, default, settings)
        })
        .collect();
    // Further variables of the SDK and the HTTP client are shown only if they are set.
    let others = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let proxies = ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "all_proxy", "SSL_CERT_DIR"];
    rows.extend(
        others
            .filter(|name| !named(name) && name != "AWS_CA_BUNDLE")
            .filter(|name| name.starts_with("AWS_") || proxies.contains(&&**name))
            .map(|name| of_variable(&name, None, settings)),
    );
    rows
}

/// Every setting of a command line.
fn of_command(line: Vec<OsString>, mut definition: Command, settings: &Settings) -> Result<Vec<Row>> {
    let arguments = [OsString::from("tar-like")].into_iter().chain(line);
    definition = without_empty_variables(definition);
    definition.build();
    let matches = definition.clone().try_get_matches_from(arguments).map_err(|e| {
        // Only the first line says what is wrong; the others show how the command is used.
        let text = e.to_string();
        let first = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        Error::new(ErrorKind::Usage, first)
            .with_hint("give a command and its arguments, for example: tar-like config upload")
    })?;
    let (name, matches) = matches
        .subcommand()
        .ok_or_else(|| Error::new(ErrorKind::Usage, "no command is named after config"))?;
    let of_this = definition.find_subcommand(name).into_iter().flat_map(|command| command.get_arguments());
    let mut rows: Vec<Row> = of_this
        .filter(|argument| !matches!(argument.get_id().as_str(), "help" | "version" | "command_line"))
        .map(|argument| of_argument(argument, matches, settings))
        .collect();
    rows.extend(of_other_variables(settings));
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(rows)
}

fn of_argument(argument: &Arg, matches: &ArgMatches, settings: &Settings) -> Row {
    let id = argument.get_id().as_str();
    let variable = argument.get_env().and_then(OsStr::to_str);
    let flag = flag_of(argument);
    let name = variable.map(str::to_owned).or_else(|| flag.clone()).unwrap_or_else(|| id.to_uppercase());
    let given = || -> Option<String> {
        if !argument.get_action().takes_values() {
            return Some("yes".to_string());
        }
        let raw: Vec<String> =
            matches.try_get_raw(id).ok()??.map(|value| printable(value.as_bytes())).collect();
        Some(without_password(&raw.join(" ")))
    };
    let (value, origin) = match matches.value_source(id) {
        Some(ValueSource::CommandLine) => (given(), Origin::Flag),
        Some(ValueSource::EnvVariable) => (given(), from_outside(name.as_str(), settings)),
        _ => (default_of(argument), Origin::Default),
    };
    let secret = is_secret(&name);
    Row { name, flag, value, secret, origin }
}

fn of_variable(name: &str, default: Option<String>, settings: &Settings) -> Row {
    let value = std::env::var_os(name).filter(|value| !value.is_empty());
    let origin = if value.is_some() { from_outside(name, settings) } else { Origin::Default };
    let value = value.map(|value| without_password(&printable(value.as_bytes()))).or(default);
    Row { name: name.to_owned(), flag: None, value, secret: is_secret(name), origin }
}

fn from_outside(name: &str, settings: &Settings) -> Origin {
    settings.line_of(name).map_or(Origin::Environment, Origin::RcFile)
}

fn flag_of(argument: &Arg) -> Option<String> {
    argument.get_long().map(|long| format!("--{long}"))
}

/// The default that clap knows, or the one that the help names where the program finds it out
/// later.
fn default_of(argument: &Arg) -> Option<String> {
    if !argument.get_action().takes_values() {
        return Some("no".to_string());
    }
    let values = argument.get_default_values();
    if !values.is_empty() {
        return Some(values.iter().map(|value| printable(value.as_bytes())).collect::<Vec<_>>().join(" "));
    }
    let help = argument.get_help()?.to_string();
    let said = help.split_once("[default: ")?.1.split_once(']')?.0;
    Some(said.to_owned())
}

/// Replaces the user and password of an address by `(hidden)`.
fn without_password(text: &str) -> String {
    // The address of a proxy may have no scheme.
    let start = text.find("://").map_or(0, |at| at + 3);
    let (scheme, rest) = text.split_at(start);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    match authority.rsplit_once('@') {
        Some((user, _)) => format!("{scheme}(hidden){}", &rest[user.len()..]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_addresses_are_hidden() {
        for (text, shown) in [
            ("http://proxy:3128", "http://proxy:3128"),
            ("http://me:geheim@proxy:3128/", "http://(hidden)@proxy:3128/"),
            ("https://gehe@im@proxy", "https://(hidden)@proxy"),
            ("http://proxy/a@b", "http://proxy/a@b"),
            ("me:geheim@proxy:3128", "(hidden)@proxy:3128"),
            ("plain text", "plain text"),
        ] {
            assert_eq!(without_password(text), shown);
        }
    }
}
