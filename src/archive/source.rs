//! The identity of a source: which folder of which host, or which bucket, an index is of. A
//! receiver binds the number of an archive to it, so that no other source gets that number by
//! mistake.

use super::digest::Digest;
use super::shown::shown;
use crate::error::{Error, ErrorKind};

/// Names a source. An index has it from its first generation on.
pub type SourceId = Digest<16>;

/// A source, and what people call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceIdentity {
    /// Names the source.
    pub id: SourceId,
    /// `host:/path`, or the address of a bucket.
    pub name: String,
}

/// What a sender says of the source whose archive it sends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceClaim {
    /// The source; `None` if the sender does not know it.
    pub source: Option<SourceIdentity>,
    /// The archive number is taken from whatever other source has it.
    pub replaces: bool,
}

/// The longest name that is sent and kept, in bytes.
const MAX_NAME_BYTES: usize = 512;

/// Keeps these ids apart from all other uses of BLAKE3.
const CONTEXT: &str = "tar-like 2026 identity of a source";

/// The id of `path`, resolved, on the host with these names; any of them may be empty.
#[must_use]
pub fn id_of_path(machine_id: &[u8], host: &[u8], path: &[u8]) -> SourceId {
    id_of(&[b"path", machine_id, host, path])
}

/// The id of a bucket: all hosts that read it have one source.
#[must_use]
pub fn id_of_bucket(address: &[u8]) -> SourceId {
    id_of(&[b"bucket", address])
}

fn id_of(parts: &[&[u8]]) -> SourceId {
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let mut id = [0; 16];
    hasher.finalize_xof().fill(&mut id);
    id.into()
}

/// The number that the archive of a source has, unless the user gives another one: from 1 to
/// 2^31-1, so that no sender of the original program, which begins at 0, meets it.
#[must_use]
pub fn archive_number(id: &SourceId) -> u64 {
    let [a, b, c, d, ..] = *id.as_bytes();
    u64::from(u32::from_le_bytes([a, b, c, d]) & 0x7fff_ffff).max(1)
}

/// The longest readable part of [`file_name`], in bytes.
const MAX_READABLE_BYTES: usize = 40;

/// The file name of the index that is kept for a source: the end of its name, as far as any file
/// system takes it, and the start of its id.
#[must_use]
pub fn file_name(source: &SourceIdentity) -> String {
    let last = source.name.trim_end_matches('/').rsplit(['/', ':']).next().unwrap_or_default();
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let readable: String =
        last.chars().map(|c| if fits(c) { c } else { '_' }).take(MAX_READABLE_BYTES).collect();
    let readable = readable.trim_start_matches('.');
    let id = source.id.to_string();
    let start = id.get(..8).unwrap_or_default();
    format!("{}-{start}.sqlite", if readable.is_empty() { "source" } else { readable })
}

/// The name of a source as the value of a header, as [`encode_header`] writes it.
#[must_use]
pub fn encode_name(name: &str) -> String {
    encode_header(&name.as_bytes()[..name.floor_char_boundary(MAX_NAME_BYTES)])
}

/// The reverse of [`encode_name`], fit to be shown; `None` if it is too long or malformed.
#[must_use]
pub fn decode_name(encoded: &[u8]) -> Option<String> {
    let bytes = decode_header(encoded)?;
    (bytes.len() <= MAX_NAME_BYTES).then(|| shown(&String::from_utf8_lossy(&bytes)))
}

/// Any bytes as the value of a header: printable ASCII stays, all else is percent-encoded.
#[must_use]
pub fn encode_header(bytes: &[u8]) -> String {
    let mut encoded = String::new();
    for &byte in bytes {
        match byte {
            b'!'..=b'$' | b'&'..=b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// The reverse of [`encode_header`]; `None` if it is malformed.
#[must_use]
pub fn decode_header(encoded: &[u8]) -> Option<Vec<u8>> {
    let (mut bytes, mut rest) = (Vec::new(), encoded);
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, tail) = rest.split_at_checked(2)?;
        rest = tail;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
    }
    Some(bytes)
}

impl SourceClaim {
    /// The claim of a sender whose source is `source`.
    #[must_use]
    pub fn of(source: SourceIdentity) -> Self {
        Self { source: Some(source), replaces: false }
    }

    /// Whether a sender with this claim may send archive `tar_id`, which is bound to the source
    /// `bound` with the name `name`.
    ///
    /// # Errors
    /// [`ErrorKind::OtherSource`].
    pub fn check(&self, tar_id: u64, bound: &SourceId, name: &str) -> Result<(), Error> {
        match &self.source {
            _ if self.replaces => Ok(()),
            Some(source) if source.id == *bound => Ok(()),
            Some(source) => {
                let what = format!(
                    "archive {tar_id} of the receiver is the copy of {name}, and not of {}",
                    source.name
                );
                Err(Error::new(ErrorKind::OtherSource, what).with_hint(
                    "give each source a number of its own with --tar-id NUMBER, or leave --tar-id out of sync; \
                     --replace-source has this source take the other one's place",
                ))
            }
            None => {
                let what = format!(
                    "archive {tar_id} of the receiver is the copy of {name}, and this sender does not say of \
                     which source its index is"
                );
                Err(Error::new(ErrorKind::OtherSource, what).with_hint(
                    "send to another archive number (--tar-id). For the copy of that source, use the version \
                     of tar-like that made it, and run index or sync once on an index of an earlier version",
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_host_and_path_has_an_id_of_its_own() {
        let id = id_of_path(b"m", b"h", b"/a");
        for other in [
            id_of_path(b"n", b"h", b"/a"),
            id_of_path(b"m", b"i", b"/a"),
            id_of_path(b"m", b"h", b"/b"),
            id_of_path(b"mh", b"", b"/a"),
            id_of_bucket(b"/a"),
        ] {
            assert_ne!(id, other);
        }
        // Part of the formats: receivers keep it.
        assert_eq!(id_of_bucket(b"s3://photos/2024").to_string(), "fabc8c1841990f79e1bc807d4faf4905");
        assert_eq!((archive_number(&[0; 16].into()), archive_number(&[255; 16].into())), (1, 0x7fff_ffff));
    }

    #[test]
    fn the_file_of_an_index_is_named_after_its_source() {
        let named = |name: &str| file_name(&SourceIdentity { id: [0xab; 16].into(), name: name.to_string() });
        assert_eq!(named("host:/srv/photos"), "photos-abababab.sqlite");
        assert_eq!(named("s3://bkt/2024/"), "2024-abababab.sqlite");
        assert_eq!(named("host:/srv/caf\u{e9} 1"), "caf__1-abababab.sqlite");
        for odd in ["host:/", "", "host:/.."] {
            assert_eq!(named(odd), "source-abababab.sqlite", "{odd}");
        }
    }

    #[test]
    fn names_come_through_a_header() {
        for name in ["host:/srv/a b", "caf\u{e9}:/%41\n~", ""] {
            let encoded = encode_name(name);
            assert!(encoded.bytes().all(|b| b.is_ascii_graphic()), "{encoded}");
            assert_eq!(decode_name(encoded.as_bytes()), Some(shown(name)));
        }
        let long = "\u{e9}".repeat(1000);
        assert_eq!(decode_name(encode_name(&long).as_bytes()).map(|name| name.len()), Some(MAX_NAME_BYTES));
        for bad in ["%", "%4", "%zz", &"x".repeat(MAX_NAME_BYTES + 1)] {
            assert_eq!(decode_name(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn a_claim_is_refused_by_name() {
        let source = |id: u8, name: &str| SourceIdentity { id: [id; 16].into(), name: name.to_string() };
        let (ours, theirs) = (SourceClaim::of(source(1, "a:/x")), source(2, "b:/y"));
        assert!(ours.check(7, &ours.source.as_ref().unwrap().id, "a:/x").is_ok());
        let refused = ours.check(7, &theirs.id, &theirs.name).unwrap_err();
        for name in ["archive 7", "a:/x", "b:/y"] {
            assert!(refused.to_string().contains(name), "{refused}");
        }
        assert_eq!(
            SourceClaim::default().check(7, &theirs.id, "x").unwrap_err().kind(),
            ErrorKind::OtherSource
        );
        assert!(SourceClaim { replaces: true, ..ours }.check(7, &theirs.id, "x").is_ok());
    }
}
