//! Globs of rsync and of gitignore as regular expressions on the bytes of a relative path.

/// Whose globs they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GlobSyntax {
    /// rsync's `--exclude` and `--include`. A pattern without a slash matches a name at any depth,
    /// one with a slash the last components of a path; a leading slash ties it to the base.
    Rsync,
    /// A line of a `.gitignore`. A slash at the start or in the middle ties a pattern to the folder
    /// of the file.
    Gitignore,
}

/// Two regular expressions that mean the same as a glob.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct GlobRegex {
    /// Matches the paths of directories.
    pub(super) dir: String,
    /// Matches all other paths; `None` if the glob is for directories only.
    pub(super) other: Option<String>,
}

/// The regular expressions for `pattern`.
pub(super) fn to_regex(pattern: &[u8], syntax: GlobSyntax) -> GlobRegex {
    let (pattern, only_dirs) = match pattern.strip_suffix(b"/") {
        Some(rest) if !rest.is_empty() => (rest, true),
        _ => (pattern, false),
    };
    // rsync takes a backslash for an escape only beside wildcards.
    let has_wildcards = pattern.iter().any(|byte| b"*[?".contains(byte));
    let both = match syntax {
        GlobSyntax::Rsync => rsync(pattern, has_wildcards),
        GlobSyntax::Gitignore => gitignore(pattern),
    };
    // `dir/***` matches the folder, too.
    let dir = match (syntax, pattern.strip_suffix(b"/***")) {
        (GlobSyntax::Rsync, Some(folder)) if !folder.is_empty() => {
            format!("{}(?:/.*)?", rsync(folder, has_wildcards))
        }
        _ => both.clone(),
    };
    let whole = |text: String| format!("(?s-u:{text}$)");
    GlobRegex { dir: whole(dir), other: (!only_dirs).then(|| whole(both)) }
}

fn rsync(pattern: &[u8], has_wildcards: bool) -> String {
    let (start, rest) = if let Some(rest) = pattern.strip_prefix(b"/") {
        ("^", rest)
    } else if pattern.starts_with(b"**") {
        let rest = &pattern[pattern.iter().take_while(|&&byte| byte == b'*').count()..];
        // `**/` matches the empty text before the first component, too.
        match rest.strip_prefix(b"/") {
            Some(rest) => ("(?:^|/)", rest),
            None => ("", rest),
        }
    } else {
        ("(?:^|/)", pattern)
    };
    let mut regex = start.to_string();
    if has_wildcards {
        Translation { pattern: rest, at: 0, syntax: GlobSyntax::Rsync }.run(&mut regex);
    } else {
        rest.iter().for_each(|&byte| literal(byte, &mut regex));
    }
    regex
}

fn gitignore(pattern: &[u8]) -> String {
    let is_tied = pattern.contains(&b'/');
    let pattern = pattern.strip_prefix(b"/").unwrap_or(pattern);
    let mut regex = if is_tied { "^" } else { "(?:^|/)" }.to_string();
    Translation { pattern, at: 0, syntax: GlobSyntax::Gitignore }.run(&mut regex);
    regex
}

/// Appends what matches `byte` and nothing else.
fn literal(byte: u8, regex: &mut String) {
    match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'_' => regex.push(char::from(byte)),
        _ => regex.push_str(&format!("\\x{byte:02x}")),
    }
}

/// The translation of a pattern, byte for byte.
struct Translation<'p> {
    pattern: &'p [u8],
    at: usize,
    syntax: GlobSyntax,
}

impl Translation<'_> {
    fn run(mut self, regex: &mut String) {
        while let Some(&byte) = self.pattern.get(self.at) {
            self.at += 1;
            match byte {
                b'*' => self.stars(regex),
                b'?' => regex.push_str("[^/]"),
                b'[' => match self.class() {
                    Some(class) => regex.push_str(&class),
                    // A class without an end matches nothing.
                    None => return regex.push_str("[^\\x00-\\xff]"),
                },
                b'\\' => {
                    let escaped = self.pattern.get(self.at).copied();
                    self.at += 1;
                    literal(escaped.unwrap_or(b'\\'), regex);
                }
                _ => literal(byte, regex),
            }
        }
    }

    /// One star stays within a component, several do not. In a gitignore, several mean more than
    /// one only as a whole component.
    fn stars(&mut self, regex: &mut String) {
        let start = self.at - 1;
        while self.pattern.get(self.at) == Some(&b'*') {
            self.at += 1;
        }
        let is_component = start == 0 || self.pattern[start - 1] == b'/';
        match (self.syntax, self.at - start, self.pattern.get(self.at)) {
            (_, 1, _) => regex.push_str("[^/]*"),
            (GlobSyntax::Rsync, ..) => regex.push_str(".*"),
            (GlobSyntax::Gitignore, 2, Some(b'/')) if is_component => {
                self.at += 1;
                regex.push_str("(?:.*/)?");
            }
            (GlobSyntax::Gitignore, 2, None) if is_component => regex.push_str(".+"),
            _ => regex.push_str("[^/]*"),
        }
    }

    /// A class such as `[a-z]`, behind its bracket; `None` if it has no end.
    fn class(&mut self) -> Option<String> {
        let mut set = [false; 256];
        let negated = matches!(self.pattern.get(self.at), Some(b'!' | b'^'));
        self.at += usize::from(negated);
        let start = self.at;
        loop {
            let byte = *self.pattern.get(self.at)?;
            self.at += 1;
            match byte {
                b']' if self.at > start + 1 => break,
                b'[' if self.pattern.get(self.at) == Some(&b':') => self.named(&mut set)?,
                _ => {
                    let first = self.escaped(byte)?;
                    let last = match (self.pattern.get(self.at), self.pattern.get(self.at + 1)) {
                        (Some(b'-'), Some(&end)) if end != b']' => {
                            self.at += 2;
                            self.escaped(end)?
                        }
                        _ => first,
                    };
                    (first..=last).for_each(|byte| set[usize::from(byte)] = true);
                }
            }
        }
        let mut class = String::from("[");
        // A class never matches a slash.
        for byte in (0..=u8::MAX).filter(|&byte| set[usize::from(byte)] != negated && byte != b'/') {
            class.push_str(&format!("\\x{byte:02x}"));
        }
        Some(if class.len() == 1 { "[^\\x00-\\xff]".to_string() } else { class + "]" })
    }

    /// The byte that `byte`, which was just taken from a class, stands for.
    fn escaped(&mut self, byte: u8) -> Option<u8> {
        if byte != b'\\' {
            return Some(byte);
        }
        self.at += 1;
        self.pattern.get(self.at - 1).copied()
    }

    /// A named class such as `[:alpha:]`, behind its first bracket.
    fn named(&mut self, set: &mut [bool; 256]) -> Option<()> {
        let rest = &self.pattern[self.at + 1..];
        let length = rest.windows(2).position(|end| end == b":]")?;
        let is_in: fn(&u8) -> bool = match &rest[..length] {
            b"alnum" => u8::is_ascii_alphanumeric,
            b"alpha" => u8::is_ascii_alphabetic,
            b"blank" => |byte| matches!(byte, b' ' | b'\t'),
            b"cntrl" => u8::is_ascii_control,
            b"digit" => u8::is_ascii_digit,
            b"graph" => u8::is_ascii_graphic,
            b"lower" => u8::is_ascii_lowercase,
            b"print" => |byte| byte.is_ascii_graphic() || *byte == b' ',
            b"punct" => u8::is_ascii_punctuation,
            b"space" => |byte| byte.is_ascii_whitespace() || *byte == 0x0b,
            b"upper" => u8::is_ascii_uppercase,
            b"xdigit" => u8::is_ascii_hexdigit,
            _ => return None,
        };
        (0..=u8::MAX).filter(is_in).for_each(|byte| set[usize::from(byte)] = true);
        self.at += 1 + length + 2;
        Some(())
    }
}
