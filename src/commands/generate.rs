//! `tar-like man-pages` and `tar-like completions`. Both are made from the definitions of `--help`.

use super::output::{Outcome, Output};
use crate::error::{Error, ErrorKind, Result};
use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, bold, roman};
use serde_json::json;
use std::path::{Path, PathBuf};

/// The program's name in the shell.
const PROGRAM: &str = "tar-like";

const COMPLETIONS_EXAMPLES: &str = "\
The Debian package contains the completions. Without it:

Examples:
  tar-like completions bash > ~/.local/share/bash-completion/completions/tar-like
  tar-like completions zsh > /usr/local/share/zsh/site-functions/_tar-like
  tar-like completions fish > ~/.config/fish/completions/tar-like.fish
  source <(tar-like completions bash)             only for this shell

Exit codes: 0 written, 1 error, 2 wrong usage.";

const MAN_EXAMPLES: &str = "\
The Debian package contains the pages. Existing pages of the same names are replaced.

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
    /// The folder to write into; a missing one is made
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
    /// The date in the pages, as 2026-01-31 [default: none]
    #[arg(long, value_name = "DATE")]
    date: Option<String>,
}

pub(super) fn completions(args: &CompletionsArgs, mut program: Command, output: &Output) -> Result<Outcome> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut program, PROGRAM, &mut script);
    // clap_complete (4.6.11) names the hyphen in the program's name in two ways, so that bash would
    // know no command's options.
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

pub(super) fn man_pages(args: &ManPagesArgs, program: Command) -> Result<Outcome> {
    let folder = &args.folder;
    std::fs::create_dir_all(folder)
        .map_err(|e| Error::io(format!("cannot make the folder {}", folder.display()), e))?;
    let mut program = program.disable_help_subcommand(true);
    // Copies the global flags into each command.
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

/// Writes the pages of a command and of its subcommands; returns their number.
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
        section("EXAMPLES", preformatted(&parts.examples)).to_writer(page)?;
        section("SEE ALSO", see_also(above, below)).to_writer(page)
    };
    run(&mut page)
        .map_err(|e| Error::new(ErrorKind::Internal, "a manual page cannot be rendered").with_source(e))?;
    let path = folder.join(man.get_filename());
    std::fs::write(&path, tidy(&String::from_utf8_lossy(&page)))
        .map_err(|e| Error::io(format!("cannot write {}", path.display()), e))
}

/// The paragraphs below the options of a help text, by subject.
#[derive(Default)]
struct Parts {
    notes: Vec<String>,
    exit_codes: Vec<String>,
    examples: Vec<String>,
}

/// Splits a text at empty lines. The first words of a paragraph tell its subject.
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

/// Mends what `mandoc -Tlint` warns about in the rendering.
fn tidy(page: &str) -> String {
    // A visible backslash is written \e. An empty line breaks the line by itself.
    page.replace(r"\\", r"\e").replace("\n.br\n\n.br\n", "\n.sp\n")
}

/// The usage of the command, without the names of all options.
fn synopsis(command: &Command) -> Roff {
    let usage = command.clone().render_usage().to_string();
    let mut roff = Roff::new();
    roff.text([roman(usage.trim_start_matches("Usage: "))]);
    roff
}

/// A section with this content; nothing if there is no content.
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

/// Preformatted lines.
fn preformatted(texts: &[String]) -> Roff {
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

/// Each page refers to the pages of its subcommands and to the page above.
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
    use super::super::Cli;
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn splits_help_by_its_first_words() {
        let parts =
            parts_of("A note\nof two lines.\n\nExamples:\n  tar-like a\n\nExit codes: 0 done.\n\nMore.");
        assert_eq!(parts.notes, ["A note\nof two lines.", "More."]);
        assert_eq!((parts.examples, parts.exit_codes), (vec!["  tar-like a".into()], vec!["0 done.".into()]));
    }

    /// The help of every command has both, with the words that [`parts_of`] looks for.
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
