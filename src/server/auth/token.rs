//! A secret in a request.

use crate::archive::digest::blake3;
use crate::error::{Error, ErrorKind, Result};
use axum::http::{HeaderMap, header};
use std::fmt;
use subtle::ConstantTimeEq;

/// The shortest token that is accepted, in bytes.
pub const MIN_TOKEN_BYTES: usize = 16;

/// The BLAKE3 of a secret that requests carry as `Authorization: Bearer …`. A slow hash would gain
/// nothing: tokens are long and random, so they cannot all be tried, and every request would pay
/// for it.
#[derive(Clone, Copy)]
pub(super) struct TokenHash([u8; 32]);

/// How a hash is written; another algorithm would have another name.
const PREFIX: &str = "blake3:";

impl TokenHash {
    /// Takes the text of a token; white space around it does not count.
    pub(super) fn of(text: &str) -> Result<Self> {
        let text = text.trim();
        if text.len() < MIN_TOKEN_BYTES || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Error::new(
                ErrorKind::Usage,
                format!(
                    "the token must have at least {MIN_TOKEN_BYTES} printable ASCII characters and no space"
                ),
            )
            .with_hint("make one with: head -c 32 /dev/urandom | base64 | tr -d '\\n=' > token"));
        }
        Ok(Self::of_bytes(text.as_bytes()))
    }

    fn of_bytes(text: &[u8]) -> Self {
        Self(*blake3(text).as_bytes())
    }

    /// Takes what [`fmt::Display`] gives.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(PREFIX).filter(|digits| digits.len() == 64)?;
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(digits.as_bytes().chunks(2)) {
            let nibble = |digit: u8| char::from(digit).to_digit(16);
            *byte = u8::try_from(nibble(pair[0])? << 4 | nibble(pair[1])?).ok()?;
        }
        Some(Self(hash))
    }

    /// The hash of the secret in a request; `None` if it has none.
    pub(super) fn in_request(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return None };
        let (scheme, secret) = value.as_bytes().split_at_checked(7)?;
        let given = scheme.eq_ignore_ascii_case(b"bearer ") && !secret.is_empty();
        given.then(|| Self::of_bytes(secret))
    }

    /// Compares in constant time.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_counts() {
        let token = TokenHash::of(" 0123456789abcdef\n").unwrap();
        let check = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            TokenHash::in_request(&headers).is_some_and(|given| given.is(&token))
        };
        assert!(check("Bearer 0123456789abcdef") && check("bearer 0123456789abcdef"));
        for wrong in [
            "",
            "Bearer ",
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdef ",
            "Basic 0123456789abcdef",
            "0123456789abcdef",
        ] {
            assert!(!check(wrong), "{wrong}");
        }
        let mut twice = HeaderMap::new();
        twice.append(header::AUTHORIZATION, "Bearer 0123456789abcdef".parse().unwrap());
        twice.append(header::AUTHORIZATION, "Bearer 0123456789abcdef".parse().unwrap());
        assert!(
            TokenHash::in_request(&twice).is_none() && TokenHash::in_request(&HeaderMap::new()).is_none()
        );
        assert!(TokenHash::of("short").is_err() && TokenHash::of("with space in the middle").is_err());
    }

    #[test]
    fn written_and_read_again() {
        let token = TokenHash::of("0123456789abcdef").unwrap();
        let text = token.to_string();
        assert!(TokenHash::parse(&text).unwrap().is(&token));
        assert!(TokenHash::parse(&text.to_uppercase()).is_none());
        for wrong in ["", "blake3:", &text[..text.len() - 1], &format!("{text}0"), &text[7..]] {
            assert!(TokenHash::parse(wrong).is_none(), "{wrong}");
        }
        assert!(!format!("{token:?}").contains(&text[7..20]));
    }
}
