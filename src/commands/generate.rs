//! `tar-like man-pages` and `tar-like completions`: both come from the definitions that `--help` comes from.

use super::Cli;
use super::output::{Outcome, Output};
use crate::error::{Error, ErrorKind, Result};
use clap::{Args, Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, roman};
use serde_json::json;
use std::path::{Path, PathBuf};

/// The program's name in the shell.
const PROGRAM: &str = "tar-like";

const COMPLETIONS_EXAMPLES: &str = "\
The Debian package brings them along. Without it:

Examples:
  tar-like completions bash > ~/.local/share/bash-completion/completions/tar-like
  tar-like completions zsh > /usr/local/share/zsh/site-functions/_tar-like
  tar-like completions fish > ~/.config/fish/completions/tar-like.fish
  source <(tar-like completions bash)             for this shell alone

Exit codes: 0 written, 1 error, 2 wrong usage.";

const MAN_EXAMPLES: &str = "\
The Debian package brings them along. Pages of the same names are replaced.

Examples:
  tar-like man-pages ~/.local/share/man/man1
  tar-like man-pages . && man ./tar-like-upload.1

Exit codes: 0 written, 1 error, 2 wrong usage.";

#[derive(Args)]
#[command(after_help = COMPLETIONS_EXAMPLES)]
pub(super) struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

#[derive(Args)]
#[command(after_help = MAN_EXAMPLES)]
pub(super) struct ManPagesArgs {
    /// The folder to write into; made if missing
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// The date that the pages bear, as 2026-01-31 [default: none]
    #[arg(long, value_name = "DATE")]
    date: Option<String>,
}

pub(super) fn completions(args: &CompletionsArgs, output: &Output) -> Result<Outcome> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), PROGRAM, &mut script);
    // clap_complete (4.6.11) names the hyphen in the program's name in two ways, so that bash would know no command's options.
    let script = String::from_utf8_lossy(&script).replace("tar__subcmd__like", "tar__like");
    let shell = args.shell.to_string();
    output.data(script.trim_end(), || json!({"event": "completions", "shell": shell, "script": script}))?;
    Ok(Outcome {
        command: "completions",
        exit: 0,
        text: format!("completions for {shell} written"),
        fields: json!({"shell": shell}),
    })
}

pub(super) fn man_pages(args: &ManPagesArgs) -> Result<Outcome> {
    let folder = &args.folder;
    std::fs::create_dir_all(folder)
        .map_err(|e| Error::io(format!("cannot make the folder {}", folder.display()), e))?;
    let mut program = Cli::command().disable_help_subcommand(true);
    // Hands what holds for all commands down to each of them.
    program.build();
    let date = args.date.as_deref().unwrap_or_default();
    let pages = write_pages(folder, &program, None, date)?;
    Ok(Outcome {
        command: "man-pages",
        exit: 0,
        text: format!("{pages} manual pages written to {}", folder.display()),
        fields: json!({"pages": pages}),
    })
}

/// Writes the pages of a command and of those below it; tells how many.
fn write_pages(folder: &Path, command: &Command, above: Option<&Command>, date: &str) -> Result<usize> {
    let below: Vec<&Command> = command.get_subcommands().filter(|c| !c.is_hide_set()).collect();
    write_page(folder, command, above, &below, date)?;
    let mut pages = 1;
    for other in below {
        pages += write_pages(folder, other, Some(command), date)?;
    }
    Ok(pages)
}

fn write_page(
    folder: &Path,
    command: &Command,
    above: Option<&Command>,
    below: &[&Command],
    date: &str,
) -> Result<()> {
    let version = command.get_version().unwrap_or_default();
    let man =
        Man::new(command.clone()).date(date).source(format!("{PROGRAM} {version}")).manual("User Commands");
    let mut page = Vec::new();
    let parts = parts_of(&command.get_after_help().map(ToString::to_string).unwrap_or_default());
    let run = |page: &mut Vec<u8>| -> std::io::Result<()> {
        man.render_title(page)?;
        man.render_name_section(page)?;
        section("SYNOPSIS", synopsis(command)).to_writer(page)?;
        let mut description =
            vec![format!("{}.", command.get_about().map(ToString::to_string).unwrap_or_default())];
        description.extend(parts.notes);
        section("DESCRIPTION", paragraphs(&description)).to_writer(page)?;
        man.render_options_section(page)?;
        section("COMMANDS", command_list(below)).to_writer(page)?;
        section("EXIT STATUS", paragraphs(&parts.exit_codes)).to_writer(page)?;
        section("EXAMPLES", as_it_is(&parts.examples)).to_writer(page)?;
        section("SEE ALSO", see_also(above, below)).to_writer(page)
    };
    run(&mut page)
        .map_err(|e| Error::new(ErrorKind::Internal, "a manual page cannot be rendered").because(e))?;
    let path = folder.join(man.get_filename());
    std::fs::write(&path, tidy(&String::from_utf8_lossy(&page)))
        .map_err(|e| Error::io(format!("cannot write {}", path.display()), e))
}

/// What stands below the options in the help, by subject.
#[derive(Default)]
struct Parts {
    notes: Vec<String>,
    exit_codes: Vec<String>,
    examples: Vec<String>,
}

/// Paragraphs are set apart by empty lines; the first words tell what they are.
fn parts_of(after_help: &str) -> Parts {
    let mut parts = Parts::default();
    for paragraph in after_help.split("\n\n") {
        if let Some(codes) = paragraph.strip_prefix("Exit codes: ") {
            parts.exit_codes.push(codes.to_owned());
        } else if let Some(examples) = paragraph.strip_prefix("Examples:\n") {
            parts.examples.push(examples.to_owned());
        } else if !paragraph.trim().is_empty() {
            parts.notes.push(paragraph.to_owned());
        }
    }
    parts
}

/// What the checkers of manual pages find fault with in the rendering.
fn tidy(page: &str) -> String {
    // A backslash that is to be seen has an escape of its own; and an empty line breaks the line by itself.
    page.replace(r"\\", r"\e").replace("\n.br\n\n.br\n", "\n.sp\n")
}

/// The form of the command, without the names of all options.
fn synopsis(command: &Command) -> Roff {
    let usage = command.clone().render_usage().to_string();
    let mut roff = Roff::new();
    roff.text([roman(usage.trim_start_matches("Usage: "))]);
    roff
}

/// A section with this content, or nothing where there is none.
fn section(title: &str, content: Roff) -> Roff {
    let mut roff = Roff::new();
    if content != Roff::new() {
        roff.control("SH", [title]).extend([content]);
    }
    roff
}

fn paragraphs(texts: &[String]) -> Roff {
    let mut roff = Roff::new();
    for (number, text) in texts.iter().enumerate() {
        if number > 0 {
            roff.control("PP", []);
        }
        roff.text([roman(text.as_str())]);
    }
    roff
}

/// Lines that are kept as they are.
fn as_it_is(texts: &[String]) -> Roff {
    let mut roff = Roff::new();
    if !texts.is_empty() {
        roff.control("nf", []);
        for line in texts.iter().flat_map(|text| text.lines()) {
            roff.text([roman(line.trim_start())]);
        }
        roff.control("fi", []);
    }
    roff
}

fn command_list(commands: &[&Command]) -> Roff {
    let mut roff = Roff::new();
    for command in commands {
        roff.control("TP", []);
        roff.text(page_name(command));
        roff.text([roman(command.get_about().map(ToString::to_string).unwrap_or_default())]);
    }
    roff
}

/// Each page leads to those of the commands below it, and back to the one above.
fn see_also(above: Option<&Command>, below: &[&Command]) -> Roff {
    let mut line = Vec::new();
    for other in above.iter().chain(below) {
        if !line.is_empty() {
            line.push(roman(", "));
        }
        line.extend(page_name(other));
    }
    let mut roff = Roff::new();
    roff.text(line);
    roff
}

fn page_name(command: &Command) -> Vec<Inline> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    vec![bold(name), roman("(1)")]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_is_told_apart_by_its_first_words() {
        let parts =
            parts_of("A note\nof two lines.\n\nExamples:\n  tar-like a\n\nExit codes: 0 done.\n\nMore.");
        assert_eq!(parts.notes, ["A note\nof two lines.", "More."]);
        assert_eq!((parts.examples, parts.exit_codes), (vec!["  tar-like a".into()], vec!["0 done.".into()]));
    }

    /// Every command's help has both, by the words that are looked for here.
    #[test]
    fn every_command_has_examples_and_exit_codes() {
        let mut commands: Vec<Command> = Cli::command().get_subcommands().cloned().collect();
        while let Some(command) = commands.pop() {
            if command.has_subcommands() {
                commands.extend(command.get_subcommands().cloned());
                continue;
            }
            let parts = parts_of(&command.get_after_help().map(ToString::to_string).unwrap_or_default());
            let name = command.get_name();
            assert!(!parts.examples.is_empty(), "{name} has no examples");
            // hcp-credentials has only 0 and 1.
            assert!(!parts.exit_codes.is_empty() || name == "hcp-credentials", "{name} has no exit codes");
        }
    }
}
