//! The path of an entry: relative, `/`-separated, opaque bytes.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The receiver's own folder below its base. No entry may live there.
pub const STATE_DIR: &str = ".tar-like";

/// The end of the name of an index's lock file. The file exists while the lock is held, and after
/// its holder was killed.
pub const LOCK_SUFFIX: &str = "-lock";

/// Stands between an index's name and a random end in the name of an index that is being written.
pub const PARTIAL_INFIX: &str = ".partial-";

/// The longest path of an entry, in bytes: Linux' `PATH_MAX` less its final NUL.
pub const MAX_PATH_BYTES: usize = 4095;

/// The longest component of a path, in bytes: Linux' `NAME_MAX`.
pub const MAX_NAME_BYTES: usize = 255;

/// A path that is safe to join to a base folder: relative, without empty, `.` or `..` components,
/// without NUL, within the limits of the file system, and outside [`STATE_DIR`]. Any other byte may
/// occur.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryPath(Box<[u8]>);

/// Why bytes are no [`EntryPath`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// No byte at all.
    #[error("is empty")]
    Empty,
    /// Starts with `/`.
    #[error("is absolute")]
    Absolute,
    /// Has a NUL byte.
    #[error("contains a NUL byte")]
    Nul,
    /// Has `//` or ends in `/`.
    #[error("has an empty component")]
    EmptyComponent,
    /// Has `.` or `..` as a component.
    #[error("has a '.' or '..' component")]
    DotComponent,
    /// Longer than [`MAX_PATH_BYTES`], or a component longer than [`MAX_NAME_BYTES`].
    #[error("is too long")]
    TooLong,
    /// Lies in [`STATE_DIR`].
    #[error("lies in the receiver's own folder .tar-like")]
    Reserved,
}

/// The folder below the receiver's base folder that takes what is deleted. A `/` at its end
/// changes nothing.
///
/// # Errors
/// It is absolute, or breaks another rule of paths in an archive.
pub fn backup_folder(path: &[u8]) -> Result<EntryPath, PathError> {
    EntryPath::new(path.strip_suffix(b"/").unwrap_or(path))
}

impl EntryPath {
    /// Checks `bytes`.
    ///
    /// # Errors
    /// Says which rule is broken.
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Result<Self, PathError> {
        let bytes = bytes.into();
        if bytes.is_empty() {
            return Err(PathError::Empty);
        }
        if bytes[0] == b'/' {
            return Err(PathError::Absolute);
        }
        if bytes.len() > MAX_PATH_BYTES {
            return Err(PathError::TooLong);
        }
        for name in bytes.split(|&b| b == b'/') {
            match name {
                b"" => return Err(PathError::EmptyComponent),
                b"." | b".." => return Err(PathError::DotComponent),
                _ if name.len() > MAX_NAME_BYTES => return Err(PathError::TooLong),
                _ => {}
            }
        }
        if bytes.contains(&0) {
            return Err(PathError::Nul);
        }
        if bytes.strip_prefix(STATE_DIR.as_bytes()).is_some_and(|rest| matches!(rest, [] | [b'/', ..])) {
            return Err(PathError::Reserved);
        }
        Ok(Self(bytes))
    }

    /// The bytes, as in the index.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The same as a path relative to a base folder.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// Splits into the folder (empty for the base itself) and the last component.
    #[must_use]
    pub fn split(&self) -> (&[u8], &[u8]) {
        match self.0.iter().rposition(|&b| b == b'/') {
            Some(slash) => (&self.0[..slash], &self.0[slash + 1..]),
            None => (&[], &self.0),
        }
    }

    /// The bytes with every `/` replaced by NUL: in this form a folder sorts directly before all
    /// that it contains.
    #[must_use]
    pub fn sort_key(&self) -> Vec<u8> {
        self.0.iter().map(|&b| if b == b'/' { 0 } else { b }).collect()
    }
}

/// Escapes control characters and bytes that are not UTF-8, so that a name can neither break a line
/// nor drive a terminal.
impl fmt::Display for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&self.0))
    }
}

impl fmt::Debug for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Whether a terminal or an editor would not show `c` as a character in its place: control
/// characters, what ends a line, and what changes the direction of the text around it, so that a
/// name looks like another one.
fn is_unsafe(c: char) -> bool {
    let directs =
        matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || directs || matches!(c, '\u{2028}' | '\u{2029}')
}

/// `bytes` as text for a person, on one line: valid UTF-8 stays, but for backslashes and what no
/// terminal shows as it is. That, and any other byte, becomes `\xNN`. [`unprintable`] reverses it.
#[must_use]
pub fn printable(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if is_unsafe(c) || c == '\\' {
                let mut utf8 = [0; 4];
                for byte in c.encode_utf8(&mut utf8).bytes() {
                    let _ = write!(text, "\\x{byte:02x}");
                }
            } else {
                text.push(c);
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// The bytes that [`printable`] made `text` of, by this version or another one; `None` if it is
/// malformed.
#[must_use]
pub fn unprintable(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        let (digits, behind) = rest.strip_prefix(b"x")?.split_first_chunk::<2>()?;
        let digit = |digit: u8| char::from(digit).to_digit(16);
        let [high, low] = digits.map(digit);
        bytes.push(u8::try_from(high? * 16 + low?).ok()?);
        rest = behind;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(bytes: &[u8]) -> Result<EntryPath, PathError> {
        EntryPath::new(bytes)
    }

    #[test]
    fn refuses_what_could_leave_the_base() {
        assert_eq!(check(b""), Err(PathError::Empty));
        assert_eq!(check(b"/a"), Err(PathError::Absolute));
        assert_eq!(check(b"a//b"), Err(PathError::EmptyComponent));
        assert_eq!(check(b"a/"), Err(PathError::EmptyComponent));
        assert_eq!(check(b".."), Err(PathError::DotComponent));
        assert_eq!(check(b"a/../b"), Err(PathError::DotComponent));
        assert_eq!(check(b"a/./b"), Err(PathError::DotComponent));
        assert_eq!(check(b"a\0b"), Err(PathError::Nul));
        assert_eq!(check(&[b'a'; 256]), Err(PathError::TooLong));
        assert_eq!(check(&b"abc/".repeat(1100)), Err(PathError::TooLong));
        assert_eq!(check(b".tar-like"), Err(PathError::Reserved));
        assert_eq!(check(b".tar-like/x"), Err(PathError::Reserved));
    }

    #[test]
    fn keeps_odd_but_legal_names() {
        for name in [
            &b"a"[..],
            b"a b",
            b"..a",
            b"...",
            b"a/.tar-like/b",
            b"\xff\xfe",
            b"a\nb",
            b"-rf",
            b"\xc3\xa4/\\",
        ] {
            assert_eq!(check(name).unwrap().as_bytes(), name);
        }
        assert_eq!(check(&[b'a'; 255]).unwrap().as_bytes().len(), 255);
        assert_eq!(check(b"a/b/c").unwrap().split(), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(check(b"c").unwrap().split(), (&b""[..], &b"c"[..]));
    }

    #[test]
    fn printing_cannot_drive_a_terminal() {
        assert_eq!(printable(b"a\x1b[2J\n\xff\\"), "a\\x1b[2J\\x0a\\xff\\x5c");
        assert_eq!(printable("größe".as_bytes()), "größe");
        // A name that a terminal would show as another one, or as two lines.
        for c in [
            '\u{202e}', '\u{2066}', '\u{2069}', '\u{200f}', '\u{61c}', '\u{2028}', '\u{2029}', '\u{85}',
            '\u{7f}',
        ] {
            let name = format!("fdp{c}exe");
            assert!(printable(name.as_bytes()).is_ascii(), "{c:?}");
        }
        for kept in ["\u{200d}", "\u{fc}", "\u{1f980}", " "] {
            assert_eq!(printable(kept.as_bytes()), kept);
        }
    }

    proptest! {
        #[test]
        fn printing_can_be_taken_back(bytes: Vec<u8>, text: String) {
            prop_assert_eq!(unprintable(&printable(&bytes)), Some(bytes));
            prop_assert_eq!(unprintable(&printable(text.as_bytes())), Some(text.into_bytes()));
        }

        #[test]
        fn an_accepted_path_stays_below_its_base(bytes in proptest::collection::vec(prop_oneof![Just(b'/'), Just(b'.'), Just(0u8), any::<u8>()], 0..40)) {
            if let Ok(path) = EntryPath::new(bytes.clone()) {
                let joined = Path::new("/base").join(path.as_path());
                prop_assert!(joined.components().all(|c| !matches!(c, std::path::Component::ParentDir)));
                prop_assert!(joined.starts_with("/base") && joined != Path::new("/base"));
                prop_assert_eq!(path.as_bytes(), &bytes[..]);
            }
        }

        #[test]
        fn a_folder_sorts_directly_before_its_contents(a in "[a-c.!-]{1,4}", b in "[a-c.!-]{1,4}", other in "[a-c.!/-]{1,8}") {
            let (Ok(folder), Ok(inner), Ok(other)) = (
                EntryPath::new(a.as_bytes()), EntryPath::new(format!("{a}/{b}").as_bytes()), EntryPath::new(other.as_bytes()),
            ) else { return Ok(()) };
            let (folder_key, inner_key, key) = (folder.sort_key(), inner.sort_key(), other.sort_key());
            prop_assert!(folder_key < inner_key);
            if folder_key < key && key < inner_key {
                let inside = format!("{a}/");
                prop_assert!(other.as_bytes().starts_with(inside.as_bytes()));
            }
        }
    }
}
