//! Keys in addresses and lists: opaque bytes, encoded.

use aws_smithy_runtime_api::client::orchestrator::HttpRequest;

/// Stands for the key in a request to the SDK, which accepts only text, and no key of white space
/// alone.
pub(super) const PLACEHOLDER: &str = "tar-like-key";

/// Puts the key into the address of a request before the SDK signs it.
pub(super) fn with_key(key: &[u8]) -> impl Fn(&mut HttpRequest) + Send + Sync + 'static {
    let key = percent_encode(key);
    move |request| {
        let address = request.uri();
        // Only at the end of the path: the bucket, or the host, may have the same name.
        let path = address.split('?').next().unwrap_or_default();
        let Some(before) = path.strip_suffix(PLACEHOLDER) else { return };
        let address = [before, &key, &address[path.len()..]].concat();
        // It cannot fail: the address was valid, and so are the characters of an encoded key.
        let _ = request.set_uri(address);
    }
}

/// All but the unreserved characters and `/` become `%XX`, as the signature requires.
fn percent_encode(key: &[u8]) -> String {
    use std::fmt::Write;
    let mut encoded = String::with_capacity(key.len() * 3);
    for &byte in key {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// Undoes the `encoding-type=url` of a list. A space comes as `+` or as `%20`.
pub(super) fn url_decode(text: &str) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        let hex = |digit: u8| char::from(digit).to_digit(16);
        match (byte, tail) {
            (b'+', _) => decoded.push(b' '),
            (b'%', [high, low, tail @ ..]) => match hex(*high).zip(hex(*low)) {
                Some((high, low)) => {
                    decoded.push((high * 16 + low) as u8);
                    rest = tail;
                }
                None => decoded.push(b'%'),
            },
            _ => decoded.push(*byte),
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_decoded_once() {
        assert_eq!(url_decode("a+b%20c%2Bd%2520%ff%0A"), b"a b c+d%20\xff\n");
        assert_eq!(url_decode("100%+%4%zz"), b"100% %4%zz");
    }
}
