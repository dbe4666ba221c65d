//! Why a request to the store failed: classes that decide whether it is made again.

use super::http::NO_CODE;
use crate::archive::shown::shown;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_types::retry::ErrorKind;

/// Why a request did not give what it asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum S3Error {
    /// The object has another content than the one that the request named.
    Changed,
    /// There is no such object (any more), or no such bucket.
    NotFound(String),
    /// The same request will fail again; the number is the HTTP status, 0 without an answer.
    Rejected(u16, String),
    /// The store accepts no request that is signed with these credentials.
    Credentials {
        why: String,
        /// It accepted them before.
        were_valid: bool,
    },
    /// The same request may succeed later.
    Transient(String),
    /// The store has not answered at all; it may later.
    Unreachable(String),
}

impl S3Error {
    /// What is wrong with the object of the request, for a person.
    pub(super) fn reason(self) -> String {
        match self {
            Self::Changed => "it changed after it was listed".to_string(),
            Self::NotFound(_) => "it is gone".to_string(),
            Self::Rejected(403, why) => {
                format!("the store refuses access ({})", shown(&why))
            }
            Self::Credentials { why, were_valid: true } => {
                format!("the store no longer accepts the credentials ({})", shown(&why))
            }
            Self::Credentials { why, .. } => {
                format!("the store does not accept the credentials ({})", shown(&why))
            }
            Self::Rejected(_, why) | Self::Transient(why) | Self::Unreachable(why) => shown(&why),
        }
    }

    /// The same for a request that is not about one object.
    pub(super) fn message(self) -> String {
        match self {
            Self::NotFound(why) | Self::Rejected(_, why) => shown(&why),
            error => error.reason(),
        }
    }

    /// The store's own words, or those about the connection.
    pub(super) fn why(&self) -> &str {
        match self {
            Self::Changed => "it changed",
            Self::Credentials { why, .. }
            | Self::NotFound(why)
            | Self::Rejected(_, why)
            | Self::Transient(why)
            | Self::Unreachable(why) => why,
        }
    }

    /// Whether the same request may succeed later.
    pub(super) fn is_transient(&self) -> bool {
        matches!(self, Self::Transient(_) | Self::Unreachable(_))
    }

    /// Of an answer that does not belong to the request. The store may answer correctly next time.
    pub(super) fn unexpected(why: impl std::fmt::Display) -> Self {
        Self::Transient(format!("a wrong answer: {why}"))
    }

    /// Of a body that has fewer bytes than its head announced.
    pub(super) fn ended_early() -> Self {
        Self::Transient("the answer ended too early".to_string())
    }

    /// Of a body whose connection failed.
    pub(super) fn cut() -> Self {
        Self::Transient("the answer was cut, or stood still".to_string())
    }

    /// Of a request that the user's interruption ended.
    pub(super) fn interrupted() -> Self {
        Self::Rejected(0, "interrupted".to_string())
    }
}

/// Codes of the error document that mean "later" although their status does not.
const TRANSIENT_CODES: [&str; 3] = ["RequestTimeout", "SlowDown", "InternalError"];

/// Codes that say that no request with these credentials will succeed.
const CREDENTIALS_CODES: [&str; 18] = [
    "ExpiredToken",
    "ExpiredTokenException",
    "TokenRefreshRequired",
    "RequestExpired",
    "CredentialsExpired",
    "SecurityTokenExpired",
    "ExpiredSecurityToken",
    "InvalidToken",
    "InvalidSecurityToken",
    "InvalidSecurity",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "UnrecognizedClientException",
    "AccountProblem",
    "AllAccessDisabled",
    "NotSignedUp",
    "UserSuspended",
    "UserDisable",
];

/// Whether one of these codes says that the credentials were valid before.
fn is_expiry(code: &str) -> bool {
    code.contains("Expired") || code == "TokenRefreshRequired"
}

/// The code of a store whose clock differs from that of this host.
pub(super) const SKEWED_CODE: &str = "RequestTimeTooSkewed";

/// The class of the SDK's error. Only its status, code and message are read: its details may hold
/// headers with secrets.
pub(super) fn classify<E>(error: &SdkError<E, HttpResponse>) -> S3Error
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let status = error.raw_response().map_or(0, |response| response.status().as_u16());
    let unreadable = || format!("the answer ({status}) cannot be understood: {}", chain(Some(error)));
    match error {
        SdkError::DispatchFailure(failure) => {
            let connector = failure.as_connector_error().map(|e| e as &dyn std::error::Error);
            if let Some(why) = connector.and_then(missing_credentials) {
                return S3Error::Rejected(0, why);
            }
            let why = connector.map_or_else(|| "the request failed".to_string(), cause);
            // A certificate that is refused now is refused again in a minute.
            if failure.as_other() == Some(ErrorKind::TransientError) {
                S3Error::Transient(why)
            } else if (failure.is_io() || failure.is_timeout()) && !why.contains("certificate") {
                S3Error::Unreachable(why)
            } else {
                S3Error::Rejected(0, why)
            }
        }
        SdkError::TimeoutError(_) => S3Error::Unreachable("no answer in time".to_string()),
        SdkError::ResponseError(_) if (400..500).contains(&status) => S3Error::Rejected(status, unreadable()),
        SdkError::ResponseError(_) => S3Error::Transient(unreadable()),
        SdkError::ServiceError(_) if (200..300).contains(&status) => S3Error::Transient(unreadable()),
        SdkError::ServiceError(answer) => {
            let code = answer.err().code().filter(|code| *code != NO_CODE).unwrap_or_default();
            let mut why = match (code, answer.err().message().unwrap_or_default()) {
                ("", "") => format!("status {status}"),
                ("", message) => format!("status {status}: {message}"),
                (code, "") => format!("status {status}, {code}"),
                (code, message) => format!("status {status}, {code}: {message}"),
            };
            let headers = error.raw_response().map(HttpResponse::headers);
            if let Some(region) = headers.and_then(|headers| headers.get("x-amz-bucket-region"))
                && matches!(status, 301 | 307 | 400)
            {
                why.push_str(&format!("{OTHER_REGION}{region}"));
            }
            by_status(status, code, why)
        }
        other => S3Error::Rejected(0, missing_credentials(other).unwrap_or_else(|| chain(Some(other)))),
    }
}

fn by_status(status: u16, code: &str, why: String) -> S3Error {
    match status {
        _ if TRANSIENT_CODES.contains(&code) => S3Error::Transient(why),
        400 | 401 | 403 if CREDENTIALS_CODES.contains(&code) => {
            S3Error::Credentials { why, were_valid: is_expiry(code) }
        }
        404 => S3Error::NotFound(why),
        // 416: the range lies behind the end of the object that the key has now.
        412 | 416 => S3Error::Changed,
        501 => S3Error::Rejected(status, why),
        408 | 429 | 500.. => S3Error::Transient(why),
        _ => S3Error::Rejected(status, why),
    }
}

/// Stands before the region in which the store says that the bucket lies.
pub(super) const OTHER_REGION: &str = "; the bucket lies in the region ";

/// What to say if the SDK has found no credentials: it names all places where it has looked.
fn missing_credentials(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let all = chain(Some(error));
    if !["loading credentials", "no credentials found"].iter().any(|text| all.contains(text)) {
        return None;
    }
    Some(match cause(error) {
        why if why.contains("profile") => format!("there are no credentials: {why}"),
        _ => "there are no credentials".to_string(),
    })
}

/// The first cause of a connection's failure, in words for a person. The errors above it say only
/// that a request to an address failed.
fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut first = error;
    while let Some(source) = first.source() {
        first = source;
    }
    let text = first.to_string();
    if text.contains("corrupt message") {
        return "it does not speak TLS; is its address one with http://?".to_string();
    }
    let Some((_, fault)) = text.split_once("invalid peer certificate: ") else { return text };
    let known = [
        ("UnknownIssuer", "its authority is not trusted"),
        ("NotValidForName", "it is for another name"),
        ("Expired", "it has expired"),
        ("NotValidYet", "it is not valid yet"),
        ("Revoked", "it was revoked"),
        ("CaUsedAsEndEntity", "it is that of an authority, not of a server"),
        ("not valid for name", "it is for another name"),
        ("expired", "it has expired"),
    ];
    let fault = known.iter().find(|(name, _)| fault.contains(name)).map_or(fault, |(_, words)| words);
    format!("the certificate of the store is refused: {fault}")
}

/// An error with all of its causes, each text once.
fn chain(error: Option<&dyn std::error::Error>) -> String {
    let (mut text, mut next) = (String::new(), error);
    while let Some(error) = next {
        let message = error.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        if !text.contains(&message) {
            let between = if text.is_empty() { "" } else { ": " };
            text.push_str(between);
            text.push_str(&message);
        }
        next = error.source();
    }
    if text.is_empty() { "the request failed".to_string() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_and_code_give_the_class() {
        let class = |status, code: &str| by_status(status, code, String::new());
        assert_eq!(class(404, "NoSuchKey"), S3Error::NotFound(String::new()));
        assert_eq!((class(412, ""), class(416, "InvalidRange")), (S3Error::Changed, S3Error::Changed));
        for (status, code, were_valid) in [
            (400, "ExpiredToken", true),
            (403, "RequestExpired", true),
            (403, "InvalidAccessKeyId", false),
            (401, "ExpiredTokenException", true),
        ] {
            let credentials = S3Error::Credentials { why: String::new(), were_valid };
            assert_eq!(class(status, code), credentials, "{status} {code}");
        }
        for (status, code) in [(500, ""), (503, "SlowDown"), (429, ""), (400, "RequestTimeout"), (408, "")] {
            assert_eq!(class(status, code), S3Error::Transient(String::new()), "{status} {code}");
        }
        for status in [400, 401, 403, 301, 501] {
            assert_eq!(class(status, ""), S3Error::Rejected(status, String::new()));
        }
    }
}
