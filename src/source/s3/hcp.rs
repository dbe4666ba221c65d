//! The keys of a Hitachi Content Platform (HCP): derived from a user's name and password.

use crate::archive::digest::md5;
use aws_smithy_types::base64;

/// An access key with its secret. Not `Debug`: the secret must not get into a message by accident.
pub struct Credentials {
    /// Goes into every request.
    pub access_key_id: String,
    /// Signs every request.
    pub secret_access_key: String,
}

/// The access key is the user's name in Base64, the secret the MD5 of the password in lowercase
/// hex.
#[must_use]
pub fn hcp_credentials(user: &str, password: &str) -> Credentials {
    Credentials {
        access_key_id: base64::encode(user),
        secret_access_key: md5(password.as_bytes()).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_known_answers() {
        // printf %s lgreen | base64; printf %s 'p4ssw0rd ü' | md5sum
        let keys = hcp_credentials("lgreen", "p4ssw0rd \u{fc}");
        assert_eq!(keys.access_key_id, "bGdyZWVu");
        assert_eq!(keys.secret_access_key, "62d017c8db56b84013b1e3acb41decea");
    }
}
