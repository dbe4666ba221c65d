//! Who may talk to the receiver.

use crate::archive::digest::blake3;
use crate::error::{Error, ErrorKind, Result};
use axum::http::{HeaderMap, header};
use subtle::ConstantTimeEq;

/// The shortest token that is accepted, in bytes.
pub const MIN_TOKEN_BYTES: usize = 16;

/// A secret that every request must carry as `Authorization: Bearer …`. Only its hash is kept.
#[derive(Clone)]
pub struct Token([u8; 32]);

impl Token {
    /// Takes the text of a token; white space around it does not count.
    ///
    /// # Errors
    /// It is too short to be a secret, or has characters that no header can carry.
    pub fn new(text: &str) -> Result<Self> {
        let text = text.trim();
        if text.len() < MIN_TOKEN_BYTES || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Error::new(
                ErrorKind::Usage,
                format!(
                    "the token must have at least {MIN_TOKEN_BYTES} printable ASCII characters and no space"
                ),
            )
            .hint("make one with: head -c 32 /dev/urandom | base64 | tr -d '\\n=' > token"));
        }
        Ok(Self(*blake3(text.as_bytes()).as_bytes()))
    }

    /// Checks that a request carries this token. Hashes are compared in constant time.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<()> {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let given = match (values.next(), values.next()) {
            (Some(value), None) => value.as_bytes(),
            _ => &[],
        };
        let scheme = given.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"bearer "));
        let given = if scheme { &given[7..] } else { &[] };
        if bool::from(blake3(given).as_bytes().ct_eq(&self.0)) && !given.is_empty() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Unauthorized, "no token, or a wrong one")
            .hint("give the receiver's token by --token-file or TARLIKE_TOKEN"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_counts() {
        let token = Token::new(" 0123456789abcdef\n").unwrap();
        let check = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            token.check(&headers).is_ok()
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
        assert!(token.check(&twice).is_err() && token.check(&HeaderMap::new()).is_err());
        assert!(Token::new("short").is_err() && Token::new("with space in the middle").is_err());
    }
}
