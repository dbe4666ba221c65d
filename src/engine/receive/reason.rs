//! How an error reads in an answer.

use crate::error::Error;

/// The error with its hint in parentheses.
pub(crate) fn reason(error: &Error) -> String {
    match error.hint() {
        Some(hint) => format!("{error} ({hint})"),
        None => error.to_string(),
    }
}
