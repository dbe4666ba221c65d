//! The tokens file: what each token may do, with its hash in place of the secret.

use super::token::TokenHash;
use crate::error::{Error, ErrorKind, Result};
use std::fmt;
use std::str::FromStr;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// What the file begins with when it is made.
pub const TOKENS_HEADER: &str = "\
# The tokens of a tar-like proxy, for --tokens. One a line:
#   name=NAME hash=blake3:HEX scope=upload,index,status,metrics tar-id=0,1 [expires=2027-01-31]
# upload includes the status of the same archives; index lets a worker read their index; tar-id=* is every archive; a token is good to the end (UTC) of the day that it
# expires on, or to a time such as 2027-01-31T12:00:00Z. A running proxy notices changes. Make a token with: tar-like token new
";

/// More are no list of senders any more.
const MAX_TOKENS: usize = 1000;
const MAX_NAME_BYTES: usize = 64;

/// Something that a token may be for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// To send an archive.
    Upload,
    /// To read the index of an archive, as a worker does.
    Index,
    /// To ask how far an archive is.
    Status,
    /// To read the counters.
    Metrics,
}

const SCOPES: [(Scope, &str); 4] = [
    (Scope::Upload, "upload"),
    (Scope::Index, "index"),
    (Scope::Status, "status"),
    (Scope::Metrics, "metrics"),
];

impl Scope {
    fn name(self) -> &'static str {
        SCOPES.iter().find(|(scope, _)| *scope == self).map_or("?", |(_, name)| name)
    }
}

impl FromStr for Scope {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let known = SCOPES.iter().find(|(_, name)| *name == text).map(|(scope, _)| *scope);
        known.ok_or_else(|| {
            wrong(format!(
                "\"{text}\" is no scope: there are upload, index, status and metrics, with commas between"
            ))
        })
    }
}

/// The archives that a token is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TarIds {
    /// All, also those that are to come.
    All,
    /// These.
    Only(Vec<u64>),
}

impl FromStr for TarIds {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "*" {
            return Ok(Self::All);
        }
        let ids: Option<Vec<u64>> = text.split(',').map(|id| id.parse().ok()).collect();
        ids.map(Self::Only).ok_or_else(|| {
            wrong(format!("\"{text}\" is no list of archives: numbers with commas between, or *"))
        })
    }
}

impl fmt::Display for TarIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Only(ids) => f.write_str(&ids.iter().map(u64::to_string).collect::<Vec<_>>().join(",")),
        }
    }
}

/// When a token ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expiry {
    text: String,
    end: OffsetDateTime,
}

impl Expiry {
    /// Whether a token with this end is good no more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        OffsetDateTime::now_utc() >= self.end
    }
}

impl FromStr for Expiry {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let date = text.len() == 10;
        let time = if date { format!("{text}T00:00:00Z") } else { text.to_owned() };
        let parsed = OffsetDateTime::parse(&time, &Rfc3339).ok();
        // All of that day is in.
        let end =
            parsed.and_then(|time| if date { time.checked_add(time::Duration::DAY) } else { Some(time) });
        match end {
            Some(end) => Ok(Self { text: text.to_owned(), end }),
            None => Err(wrong(format!(
                "\"{text}\" is no time to expire at: 2027-01-31, or 2027-01-31T12:00:00Z for another time than the end of that day"
            ))),
        }
    }
}

impl fmt::Display for Expiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A line of the file.
#[derive(Debug, Clone)]
pub struct TokenEntry {
    pub(super) name: String,
    pub(super) hash: TokenHash,
    scopes: Vec<Scope>,
    tar_ids: TarIds,
    expires: Option<Expiry>,
}

impl TokenEntry {
    /// The line for a token.
    ///
    /// # Errors
    /// Something is not valid.
    pub fn new(
        name: &str,
        secret: &str,
        scopes: &[Scope],
        tar_ids: TarIds,
        expires: Option<Expiry>,
    ) -> Result<Self> {
        check_name(name)?;
        let (name, scopes) = (name.to_owned(), scopes.to_owned());
        Ok(Self { name, hash: TokenHash::of(secret)?, scopes, tar_ids, expires })
    }

    /// A token for everything.
    pub(super) fn all(name: &str, secret: &str) -> Result<Self> {
        Self::new(name, secret, &SCOPES.map(|(scope, _)| scope), TarIds::All, None)
    }

    /// Its name, for people.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn is_over(&self) -> bool {
        self.expires.as_ref().is_some_and(Expiry::is_over)
    }

    pub(super) fn has(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope) || scope == Scope::Status && self.scopes.contains(&Scope::Upload)
    }

    pub(super) fn is_for(&self, tar_id: u64) -> bool {
        match &self.tar_ids {
            TarIds::All => true,
            TarIds::Only(ids) => ids.contains(&tar_id),
        }
    }
}

impl fmt::Display for TokenEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scopes: Vec<&str> = self.scopes.iter().map(|scope| scope.name()).collect();
        let Self { name, hash, tar_ids, .. } = self;
        write!(f, "name={name} hash={hash} scope={} tar-id={tar_ids}", scopes.join(","))?;
        self.expires.as_ref().map_or(Ok(()), |expires| write!(f, " expires={expires}"))
    }
}

impl FromStr for TokenEntry {
    type Err = Error;

    fn from_str(line: &str) -> Result<Self> {
        let (mut name, mut hash, mut scopes, mut tar_ids, mut expires) = (None, None, None, None, None);
        for field in line.split_whitespace().take_while(|field| !field.starts_with('#')) {
            let (key, value) = field
                .split_once('=')
                .ok_or_else(|| wrong("not KEY=VALUE with spaces between".to_string()))?;
            let twice = match key {
                "name" => name.replace(value).is_some(),
                "hash" => hash.replace(value).is_some(),
                "scope" => scopes.replace(value).is_some(),
                "tar-id" => tar_ids.replace(value).is_some(),
                "expires" => expires.replace(value).is_some(),
                // Neither key nor value is said: a secret may be there by mistake.
                _ => {
                    return Err(wrong(
                        "there is a key that is none of name, hash, scope, tar-id, expires".to_string(),
                    ));
                }
            };
            if twice {
                return Err(wrong(format!("{key} is there twice")));
            }
        }
        let missing = |key: &str| wrong(format!("there is no {key}="));
        let name = name.ok_or_else(|| missing("name"))?;
        check_name(name)?;
        let hash = TokenHash::parse(hash.ok_or_else(|| missing("hash"))?)
            .ok_or_else(|| wrong("hash= is not blake3: and 64 lowercase hexadecimal digits".to_string()))?;
        let scopes: Vec<Scope> =
            scopes.ok_or_else(|| missing("scope"))?.split(',').map(str::parse).collect::<Result<_>>()?;
        let tar_ids = match tar_ids {
            Some(ids) => ids.parse()?,
            None if scopes == [Scope::Metrics] => TarIds::Only(Vec::new()),
            None => return Err(missing("tar-id")),
        };
        let expires = expires.map(str::parse).transpose()?;
        Ok(Self { name: name.to_owned(), hash, scopes, tar_ids, expires })
    }
}

/// Reads the text of a file.
///
/// # Errors
/// A line is wrong: its number, and what it is.
pub fn parse_tokens(text: &str) -> Result<Vec<TokenEntry>> {
    let mut entries: Vec<TokenEntry> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let at = |e: Error| wrong(format!("line {number}: {e}"));
        let entry: TokenEntry = line.parse().map_err(at)?;
        if entries.iter().any(|other| other.name == entry.name) {
            return Err(at(wrong(format!("another token is called {}, too", entry.name))));
        }
        if let Some(other) = entries.iter().find(|other| other.hash.is(&entry.hash)) {
            return Err(at(wrong(format!("it is the same token as {}", other.name))));
        }
        if entries.len() >= MAX_TOKENS {
            return Err(at(wrong(format!("there are more than {MAX_TOKENS} tokens"))));
        }
        entries.push(entry);
    }
    Ok(entries)
}

fn check_name(name: &str) -> Result<()> {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._@".contains(&b));
    if plain && !name.is_empty() && name.len() <= MAX_NAME_BYTES {
        return Ok(());
    }
    Err(wrong(format!(
        "a name has 1 to {MAX_NAME_BYTES} characters, all of them letters, digits, or one of - . _ @"
    )))
}

fn wrong(why: String) -> Error {
    Error::new(ErrorKind::Usage, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "blake3:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    #[test]
    fn written_and_read_again() {
        let scopes = [Scope::Upload, Scope::Metrics];
        let expires = Some("2099-01-31".parse().unwrap());
        let entry =
            TokenEntry::new("a.b@c-1", "0123456789abcdef", &scopes, TarIds::Only(vec![0, 7]), expires)
                .unwrap();
        let text = format!("{TOKENS_HEADER}\n{entry} # a comment\n");
        assert!(!text.contains("0123456789abcdef") && !format!("{entry:?}").contains("0123456789abcdef"));
        let read = parse_tokens(&text).unwrap();
        assert_eq!(read.len(), 1);
        assert_eq!(read[0].to_string(), entry.to_string());
        assert!(read[0].has(Scope::Status) && read[0].has(Scope::Metrics) && !read[0].is_over());
        assert!(read[0].is_for(7) && !read[0].is_for(1));
    }

    #[test]
    fn lines_that_are_wrong() {
        let good = format!("name=a hash={HASH} scope=upload tar-id=*");
        assert!(parse_tokens(&good).unwrap()[0].is_for(u64::MAX));
        assert!(parse_tokens(&format!("name=a hash={HASH} scope=metrics")).is_ok());
        for wrong in [
            "0123456789abcdef".to_string(),
            "name=a".to_string(),
            format!("name=a hash={HASH} scope=upload"),
            format!("name=a hash={HASH} scope= tar-id=0"),
            format!("name=a hash={HASH} scope=all tar-id=0"),
            format!("name=a hash={HASH} scope=upload tar-id=-1"),
            format!("name=a hash={HASH} scope=upload tar-id="),
            format!("name= hash={HASH} scope=upload tar-id=0"),
            format!("name=a hash={} scope=upload tar-id=0", &HASH[7..]),
            format!("name=a hash=md5:{} scope=upload tar-id=0", &HASH[7..]),
            format!("{good} tar-id=0"),
            format!("{good} secret=x"),
            format!("{good} expires=tomorrow"),
            format!("{good}\n{good}"),
            format!("{good}\n{}", good.replace("name=a", "name=b")),
        ] {
            let error = parse_tokens(&format!("# comment\n{wrong}")).unwrap_err().to_string();
            assert!(error.starts_with("line 2: ") || error.starts_with("line 3: "), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_day_counts_to_its_end() {
        let over = |text: &str| text.parse::<Expiry>().unwrap().is_over();
        let today = OffsetDateTime::now_utc().date().to_string();
        assert!(!over(&today) && over("2001-01-31") && !over("9999-12-30"));
        assert!(over("2001-01-31T12:00:00Z") && !over("2999-01-31T12:00:00+02:00"));
        for wrong in
            ["", "2027-1-31", "2027-02-30", "2027-01-31T12:00:00", "31.01.2027", "1800000000", "9999-12-31"]
        {
            assert!(wrong.parse::<Expiry>().is_err(), "{wrong}");
        }
    }
}
