//! The parser of the settings file, `~/.tar_like_rc`. Shell scripts source the file; this program
//! reads only assignments from it and never runs a command. A statement that is more than an
//! assignment of known text is refused with its line number, because a setting with an unintended
//! value is worse than a missing one.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// A variable that the file sets.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Assignment {
    pub(super) name: String,
    pub(super) value: OsString,
    pub(super) line: usize,
}

/// The content of a settings file.
#[derive(Debug, Default)]
pub(super) struct RcFile {
    /// In the order of the file. The last assignment of a name wins.
    pub(super) assignments: Vec<Assignment>,
    /// The numbers of refused lines, and why. The reasons hold no values, which may be secret.
    pub(super) refused: Vec<(usize, String)>,
}

/// Parses the text of a file. `environment` gives the variables that are set outside of it.
pub(super) fn parse(text: &[u8], environment: impl Fn(&str) -> Option<OsString>) -> RcFile {
    let mut parser =
        Parser { text, at: 0, line: 1, known: BTreeMap::new(), environment, found: RcFile::default() };
    while parser.at < text.len() {
        parser.statement();
    }
    parser.found
}

/// Why a statement is refused.
type Refused = String;

/// Words that begin a compound command. It may have several lines, and assignments in it must not
/// be taken.
const COMPOUND: [&[u8]; 9] = [b"if", b"for", b"while", b"until", b"case", b"select", b"function", b"{", b"("];

/// Words that end a compound command.
const ENDS: [&[u8]; 5] = [b"fi", b"done", b"esac", b"}", b")"];

struct Parser<'a, E> {
    text: &'a [u8],
    at: usize,
    line: usize,
    known: BTreeMap<String, Vec<u8>>,
    environment: E,
    found: RcFile,
}

impl<E: Fn(&str) -> Option<OsString>> Parser<'_, E> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        self.line += usize::from(byte == b'\n');
        Some(byte)
    }

    /// Parses one statement: a line, or several lines that belong together.
    fn statement(&mut self) {
        let (start, line) = (self.at, self.line);
        match self.assignments() {
            Ok(assignments) => {
                for (name, value) in assignments {
                    self.known.insert(name.clone(), value.clone());
                    self.found.assignments.push(Assignment { name, value: OsString::from_vec(value), line });
                }
            }
            Err(why) => {
                (self.at, self.line) = (start, line);
                let after = self.skip();
                self.found.refused.push((line, why + after));
            }
        }
    }

    /// Parses `[export] NAME=value...`, a comment, or an empty line.
    fn assignments(&mut self) -> Result<Vec<(String, Vec<u8>)>, Refused> {
        let mut taken: Vec<(String, Vec<u8>)> = Vec::new();
        let mut exported = false;
        loop {
            while matches!(self.peek(), Some(b' ' | b'\t')) {
                self.next();
            }
            match self.peek() {
                None => return Ok(taken),
                Some(b'\n') => {
                    self.next();
                    return Ok(taken);
                }
                Some(b'#') => {
                    while !matches!(self.peek(), None | Some(b'\n')) {
                        self.next();
                    }
                }
                Some(b'\r') => return Err("ends as lines of Windows do".to_string()),
                Some(_) => {}
            }
            if matches!(self.peek(), None | Some(b'\n')) {
                continue;
            }
            let name = self.name();
            match (name.as_str(), self.peek()) {
                ("export", Some(b' ' | b'\t')) if taken.is_empty() && !exported => exported = true,
                // `export NAME` without a value.
                (_, None | Some(b' ' | b'\t' | b'\n')) if exported && !name.is_empty() => {}
                ("set", Some(b' ' | b'\t')) if taken.is_empty() && !exported => {
                    return self.options_of_the_shell();
                }
                (_, Some(b'=')) if !name.is_empty() => {
                    self.next();
                    // As in a shell, the value sees the assignments before it in the same line.
                    let value = self.value(&taken)?;
                    taken.push((name, value));
                }
                _ => return Err("is not of the form NAME=value".to_string()),
            }
        }
    }

    /// Accepts `set -a` and the like, which set no variable.
    fn options_of_the_shell(&mut self) -> Result<Vec<(String, Vec<u8>)>, Refused> {
        let start = self.at;
        while !matches!(self.peek(), None | Some(b'\n')) {
            self.next();
        }
        let rest = &self.text[start..self.at];
        let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b' ' | b'\t' | b'-' | b'+');
        match rest.iter().all(plain) && matches!(rest.trim_ascii_start(), [b'-' | b'+', ..]) {
            true => Ok(Vec::new()),
            false => Err("is not of the form NAME=value".to_string()),
        }
    }

    fn name(&mut self) -> String {
        let start = self.at;
        while let Some(byte) = self.peek() {
            let letter = byte.is_ascii_alphabetic() || byte == b'_';
            if !(letter || byte.is_ascii_digit() && self.at > start) {
                break;
            }
            self.next();
        }
        String::from_utf8_lossy(&self.text[start..self.at]).into_owned()
    }

    fn value(&mut self, before: &[(String, Vec<u8>)]) -> Result<Vec<u8>, Refused> {
        let mut value = Vec::new();
        if self.peek() == Some(b'~') {
            self.next();
            if !matches!(self.peek(), None | Some(b'/' | b' ' | b'\t' | b'\n')) {
                return Err("has ~ with a user's name".to_string());
            }
            value = self.variable("HOME", before)?;
        }
        loop {
            match self.peek() {
                None | Some(b' ' | b'\t' | b'\n') => return Ok(value),
                Some(b'\'') => {
                    self.next();
                    while let Some(byte) = self.quoted()? {
                        match byte {
                            b'\'' => break,
                            _ => value.push(byte),
                        }
                    }
                }
                Some(b'"') => {
                    self.next();
                    self.in_double_quotes(&mut value, before)?;
                }
                Some(b'$') if self.text.get(self.at + 1) == Some(&b'\'') => {
                    self.next();
                    self.next();
                    self.with_escapes(&mut value)?;
                }
                Some(b'$') => self.expansion(&mut value, before)?,
                Some(b'`') => return Err(COMMAND.to_string()),
                Some(b'\\') => {
                    self.next();
                    match self.next() {
                        None | Some(b'\n') => return Err("goes on in the next line".to_string()),
                        Some(byte) => value.push(byte),
                    }
                }
                Some(b'\r') => return Err("ends as lines of Windows do".to_string()),
                Some(byte @ (b';' | b'&' | b'|' | b'<' | b'>' | b'(' | b')')) => {
                    return Err(format!("has {} outside of quotes", char::from(byte)));
                }
                Some(0) => return Err("has a NUL byte".to_string()),
                Some(byte) => {
                    self.next();
                    value.push(byte);
                }
            }
        }
    }

    /// Parses the rest of `$'...'`, which may hold several lines as `\n`.
    fn with_escapes(&mut self, value: &mut Vec<u8>) -> Result<(), Refused> {
        loop {
            match self.quoted()? {
                None | Some(b'\'') => return Ok(()),
                Some(b'\\') => value.push(match self.quoted()? {
                    Some(b'n') => b'\n',
                    Some(b't') => b'\t',
                    Some(byte @ (b'\\' | b'\'' | b'"')) => byte,
                    _ => {
                        return Err(
                            "has an escape in $'...' that is not \\n, \\t, \\\\ or a quote".to_string()
                        );
                    }
                }),
                Some(byte) => value.push(byte),
            }
        }
    }

    /// The next byte within quotes. They must end in the same line.
    fn quoted(&mut self) -> Result<Option<u8>, Refused> {
        match self.next() {
            None | Some(b'\n') => Err("has a quote that does not end in the same line".to_string()),
            Some(0) => Err("has a NUL byte".to_string()),
            byte => Ok(byte),
        }
    }

    fn in_double_quotes(&mut self, value: &mut Vec<u8>, before: &[(String, Vec<u8>)]) -> Result<(), Refused> {
        loop {
            if self.peek() == Some(b'$') {
                self.expansion(value, before)?;
                continue;
            }
            match self.quoted()? {
                None | Some(b'"') => return Ok(()),
                Some(b'`') => return Err(COMMAND.to_string()),
                Some(b'\\') => match self.quoted()? {
                    Some(byte @ (b'$' | b'`' | b'"' | b'\\')) => value.push(byte),
                    other => {
                        value.push(b'\\');
                        value.extend(other);
                    }
                },
                Some(byte) => value.push(byte),
            }
        }
    }

    /// Expands `$NAME` or `${NAME}`; the next byte is the `$`.
    fn expansion(&mut self, value: &mut Vec<u8>, before: &[(String, Vec<u8>)]) -> Result<(), Refused> {
        self.next();
        let name = match self.peek() {
            Some(b'(') => return Err(COMMAND.to_string()),
            Some(b'{') => {
                self.next();
                let name = self.name();
                if name.is_empty() || self.peek() != Some(b'}') {
                    return Err("has a ${...} that is more than a name".to_string());
                }
                self.next();
                name
            }
            // A dollar sign before anything else stands for itself.
            None | Some(b' ' | b'\t' | b'\n' | b'/' | b'.' | b',' | b':' | b'=' | b'%' | b'+') => {
                value.push(b'$');
                return Ok(());
            }
            Some(_) => self.name(),
        };
        if name.is_empty() {
            return Err("has a $ that begins no name".to_string());
        }
        value.extend(self.variable(&name, before)?);
        Ok(())
    }

    fn variable(&self, name: &str, before: &[(String, Vec<u8>)]) -> Result<Vec<u8>, Refused> {
        let here = before.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        here.or_else(|| self.known.get(name).cloned())
            .or_else(|| (self.environment)(name).map(OsStringExt::into_vec))
            .ok_or_else(|| format!("uses {name}, which is not set"))
    }

    /// Skips a statement that is not understood. If it may continue in later lines, all of them are
    /// skipped, because its end is not known. Returns what the reason says about that.
    fn skip(&mut self) -> &'static str {
        let start = self.at;
        let (mut quote, mut escaped, mut last) = (None, false, b' ');
        // Within $'...', a backslash escapes the next byte.
        let mut has_escapes = false;
        while let Some(byte) = self.next() {
            match (quote, byte) {
                _ if escaped => escaped = false,
                (None | Some(b'"' | b'`'), b'\\') => escaped = true,
                (Some(b'\''), b'\\') if has_escapes => escaped = true,
                (None, b'\n') => break,
                (None, b'#') if last.is_ascii_whitespace() => {
                    while !matches!(self.peek(), None | Some(b'\n')) {
                        self.next();
                    }
                }
                (None, b'\'' | b'"' | b'`') => {
                    has_escapes = byte == b'\'' && last == b'$';
                    quote = Some(byte);
                }
                (Some(open), _) if open == byte => quote = None,
                _ => {}
            }
            last = byte;
        }
        let statement = self.text[start..self.at].trim_ascii();
        let mut words = statement
            .split(|byte| byte.is_ascii_whitespace() || *byte == b';')
            .filter(|word| !word.is_empty());
        // Such a word also begins a compound command behind a semicolon.
        let compound = words.clone().any(|word| COMPOUND.contains(&word));
        let count = |byte: u8| statement.iter().filter(|&&other| other == byte).count();
        let goes_on = quote.is_some()
            || compound && !words.next_back().is_some_and(|last| ENDS.contains(&last))
            || statement.windows(2).any(|two| two == b"<<")
            || count(b'(') != count(b')')
            || count(b'{') != count(b'}')
            || [&b"&&"[..], b"|"].iter().any(|end| statement.ends_with(end));
        if !goes_on {
            return "";
        }
        self.at = self.text.len();
        "; the lines after it are ignored, too, because they may belong to it"
    }
}

const COMMAND: &str = "has a command in it, and commands are not run";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> RcFile {
        let environment = |name: &str| match name {
            "HOME" => Some("/home/me".into()),
            "SET" => Some("outside".into()),
            _ => None,
        };
        parse(text.as_bytes(), environment)
    }

    #[track_caller]
    fn takes(text: &str, wanted: &[(&str, &str, usize)]) {
        let found = read(text);
        assert!(found.refused.is_empty(), "{text:?}: {found:?}");
        let found: Vec<_> =
            found.assignments.iter().map(|a| (&*a.name, a.value.to_str().unwrap(), a.line)).collect();
        assert_eq!(found, wanted, "{text:?}");
    }

    #[test]
    fn reads_assignments_as_a_shell_does() {
        takes("", &[]);
        takes("# a comment\n\n   \t# another\nA=1", &[("A", "1", 4)]);
        takes(
            "A=1\nexport B=2\n  export\tC=3  D=4 # five\n",
            &[("A", "1", 1), ("B", "2", 2), ("C", "3", 3), ("D", "4", 3)],
        );
        takes("A=\nB=''\nC=\"\"", &[("A", "", 1), ("B", "", 2), ("C", "", 3)]);
        takes("A='a b'c\"d e\"\\ f#g", &[("A", "a bcd e f#g", 1)]);
        takes(r#"A='$HOME `x` $(x) \n'"#, &[("A", r"$HOME `x` $(x) \n", 1)]);
        takes(r#"A=x$'a\n\tb\\ \' \" $HOME'y"#, &[("A", "xa\n\tb\\ ' \" $HOMEy", 1)]);
        takes(r#"A="\$HOME \`x\` \" \\ \n""#, &[("A", r#"$HOME `x` " \ \n"#, 1)]);
        takes(
            "A=$HOME/x\nB=${A}y\nC=\"$B z\" D=$C",
            &[
                ("A", "/home/me/x", 1),
                ("B", "/home/me/xy", 2),
                ("C", "/home/me/xy z", 3),
                ("D", "/home/me/xy z", 3),
            ],
        );
        takes(
            "A=~\nB=~/x\nC='~'\nD=x~",
            &[("A", "/home/me", 1), ("B", "/home/me/x", 2), ("C", "~", 3), ("D", "x~", 4)],
        );
        takes(
            "A=*.[ab]?!{x,y}=%\nB=a$ C=5$/x",
            &[("A", "*.[ab]?!{x,y}=%", 1), ("B", "a$", 2), ("C", "5$/x", 2)],
        );
        takes("set -a\nA=1\nset +a\nexport A\nset -eu -o pipefail\n", &[("A", "1", 2)]);
        takes("SET=here\nA=$SET\nSET=again\n", &[("SET", "here", 1), ("A", "here", 2), ("SET", "again", 3)]);
    }

    /// Each line stands between two good ones.
    #[test]
    fn refuses_everything_but_assignments() {
        for line in [
            "A=$(touch /tmp/x)",
            "A=`touch /tmp/x`",
            "A=\"$(id)\"",
            r"A=$'\x41'",
            r"A=$'it\'s'\ $(id)",
            "A=\"$'a'\"",
            "A=\"`id`\"",
            "A=$((1+1))",
            "A=${B:-x}",
            "A=${!B}",
            "A=$1",
            "A=$$",
            "A=${}",
            "A=$UNSET",
            "A=\"${UNSET}\"",
            "A=~root/x",
            "A=1; B=2",
            "A=1 && B=2",
            "A=1 true",
            "A=1 touch x",
            "true",
            ". other",
            "source other",
            "A = 1",
            "A+=1",
            "A[1]=2",
            "1A=2",
            "A-B=1",
            "=1",
            "unset GOOD",
            "readonly A=1",
            "declare -x A=1",
            "export -n GOOD",
            "export A=1 -p",
            "set GOOD",
            "set -- $(x)",
            "A=(1 2)",
            "A=1 > file",
            "A=1\r",
            "A='1'\r",
            "\r",
            "\u{feff}A=1",
            "A=a\0b",
            "A='a\0b'",
            "[[ -f x ]] && A=1",
            "[ -f x ] || A=1 # don't",
            "if true; then A=1; fi",
            "A=1 \\\nB=2",
            "eval A=1",
            "trap 'A=1' EXIT",
            ": ${A:=1}",
            "f() { A=1; }",
        ] {
            let found = read(&format!("GOOD=1\n{line}\nLAST=2\n"));
            let names: Vec<_> = found.assignments.iter().map(|a| (&*a.name, a.line)).collect();
            let last = 3 + line.matches('\n').count();
            assert_eq!(names, [("GOOD", 1), ("LAST", last)], "{line:?}: {found:?}");
            assert_eq!(
                found.refused.iter().map(|(line, _)| *line).collect::<Vec<_>>(),
                [2],
                "{line:?}: {found:?}"
            );
        }
    }

    /// Later lines may belong to the statement, even if they look like settings.
    #[test]
    fn takes_nothing_after_a_statement_that_may_continue() {
        for text in [
            "if false; then\nA=1\nfi",
            "f() {\nA=1\n}",
            "f()\n{\nA=1\n}",
            "cat <<END\nA=1\nEND",
            "B='\nA=1\n'",
            "B=$'\nA=1\n'",
            "B=$'\\'\nA=1\n'",
            "B=\"x\nA=1\n\"",
            "B=`\nA=1\n`",
            "B=$(\nA=1\n)",
            "B=(\nA=1\n)",
            "false &&\nA=1",
            "false ||\nA=1",
            "true |\nA=1",
            "while false\ndo\nA=1\ndone",
            "case x in\ny)\nA=1\nesac",
            "(\nA=1\n)",
            "{\nA=1\n}",
            "function f {\nA=1\n}",
            "for x in 1; do\nA=1\ndone",
            "echo \"\nA=1\n\"",
        ] {
            let found = read(&format!("GOOD=1\n{text}\n"));
            assert_eq!(found.assignments.len(), 1, "{text:?}: {found:?}");
            // The end of quotes is known, so later lines are taken.
            let quoted = text.contains(['\'', '"', '`']);
            let said = found.refused.iter().any(|(_, why)| why.contains("the lines after it are ignored"));
            assert!(said != quoted, "{text:?}: {found:?}");
        }
    }

    #[test]
    fn reasons_hold_no_values() {
        let found = read("A=geheim$(x)\nB='geheim\n");
        assert_eq!(found.refused.len(), 2, "{found:?}");
        assert!(!format!("{:?}", found.refused).contains("geheim"), "{found:?}");
    }

    proptest! {
        #[test]
        fn reads_any_bytes_to_the_end(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            parse(&text, |_| None);
        }

        /// Single quotes keep every value unchanged.
        #[test]
        fn keeps_quoted_values(value in "[^\0\n]{0,40}") {
            let text = format!("A='{}'", value.replace('\'', r"'\''"));
            let found = parse(text.as_bytes(), |_| None);
            prop_assert_eq!(found.assignments.len(), 1);
            prop_assert_eq!(found.assignments[0].value.to_str().unwrap(), value);
        }
    }
}
