//! How `--help` looks.

use clap::Command;

/// The widest line of a help text, as in the pages of the documentation.
const MAX_COLUMNS: usize = 100;

/// Has the help of `program`, and of its subcommands, wrapped where the terminal ends.
pub(super) fn wrapped(program: Command) -> Command {
    flowing_below(program).max_term_width(MAX_COLUMNS)
}

fn flowing_below(command: Command) -> Command {
    let command = match command.get_after_help().map(ToString::to_string) {
        Some(text) => command.after_help(flowing(&text)),
        None => command,
    };
    command.mut_subcommands(flowing_below)
}

/// `text` with each paragraph of prose on one line. Headings, and lines with an indent, stay.
fn flowing(text: &str) -> String {
    let mut flowing = String::with_capacity(text.len());
    let mut may_join = false;
    for line in text.lines() {
        let is_prose = !line.is_empty() && !line.starts_with(' ');
        if !flowing.is_empty() {
            flowing.push(if may_join && is_prose { ' ' } else { '\n' });
        }
        flowing.push_str(line);
        may_join = is_prose && !line.ends_with(':');
    }
    flowing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_flow_and_examples_stay() {
        let text = "One\ntwo.\n\nThree\nfour:\n\n  a  b\n     c\n\nExamples:\n  d\n  e\n\nExit codes: 0\nf";
        let flows = "One two.\n\nThree four:\n\n  a  b\n     c\n\nExamples:\n  d\n  e\n\nExit codes: 0 f";
        assert_eq!(flowing(text), flows);
    }
}
