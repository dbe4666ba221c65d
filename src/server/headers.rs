//! What the headers of a request say.

use crate::archive::digest::Blake3;
use crate::archive::intake::Taken;
use crate::archive::log::LogDigest;
use crate::archive::protocol::{
    HEADER_BACKUP, HEADER_FAILED, HEADER_LENGTH, HEADER_RANGE, HEADER_REPLACE_SOURCE, HEADER_SLICE,
    HEADER_SOURCE, HEADER_SOURCE_DIGEST, HEADER_SOURCE_ID, parse_ids, source_digest,
};
use crate::archive::ranges::RangeSet;
use crate::archive::slice::Slice;
use crate::archive::source::{SourceClaim, SourceIdentity, decode_header, decode_name};
use crate::archive::zstd;
use crate::error::{Error, ErrorKind, Result};
use axum::http::{HeaderMap, HeaderValue, header};
use std::ops::Range;

pub(super) fn required_digest(headers: &HeaderMap, name: &str) -> Result<LogDigest> {
    digest_header(headers, name)?
        .ok_or_else(|| Error::new(ErrorKind::Malformed, format!("there is no header {name}")))
}

pub(super) fn number_header(headers: &HeaderMap, name: &str) -> Result<Option<u64>> {
    let Some(value) = only_header(headers, name)? else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| Error::new(ErrorKind::Malformed, format!("header {name} is no number")))
}

pub(super) fn length_header(headers: &HeaderMap) -> Result<u64> {
    number_header(headers, HEADER_LENGTH)?
        .ok_or_else(|| Error::new(ErrorKind::Malformed, format!("there is no header {HEADER_LENGTH}")))
}

pub(super) fn digest_header<D: std::str::FromStr>(headers: &HeaderMap, name: &str) -> Result<Option<D>> {
    only_header(headers, name)?
        .map(|value| {
            value.to_str().ok().and_then(|text| text.parse().ok()).ok_or_else(|| {
                Error::new(ErrorKind::Malformed, format!("header {name} is no lowercase hexadecimal digest"))
            })
        })
        .transpose()
}

/// A header that may be there once: of two, it is unknown which one a proxy on the way meant.
pub(super) fn only_header<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h HeaderValue>> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        _ => Err(Error::new(ErrorKind::Malformed, format!("header {name} is there more than once"))),
    }
}

/// What the sender says of the source whose archive it sends.
pub(super) fn claim_header(headers: &HeaderMap) -> Result<SourceClaim> {
    let replaces = number_header(headers, HEADER_REPLACE_SOURCE)? == Some(1);
    let value = |name| only_header(headers, name).map(|value| value.map_or(&[][..], HeaderValue::as_bytes));
    let (id, name) = (value(HEADER_SOURCE_ID)?, value(HEADER_SOURCE)?);
    // A number that was bound to another source than the sender's would be refused to it for ever.
    let digest = digest_header::<Blake3>(headers, HEADER_SOURCE_DIGEST)?;
    if digest.is_some_and(|digest| digest != source_digest(id, name)) {
        return Err(Error::new(ErrorKind::BadBlock, "the identity of the source was changed on the way"));
    }
    let Some(id) = digest_header(headers, HEADER_SOURCE_ID)? else {
        return Ok(SourceClaim { source: None, replaces });
    };
    let name = decode_name(name);
    let name =
        name.ok_or_else(|| Error::new(ErrorKind::Malformed, format!("header {HEADER_SOURCE} is no name")))?;
    Ok(SourceClaim { source: Some(SourceIdentity { id, name }), replaces })
}

/// Which of several receivers the sender speaks to.
pub(super) fn slice_header(headers: &HeaderMap) -> Result<Option<Slice>> {
    let Some(value) = only_header(headers, HEADER_SLICE)? else { return Ok(None) };
    let slice = value.to_str().ok().and_then(|text| text.parse().ok());
    slice
        .map(Some)
        .ok_or_else(|| Error::new(ErrorKind::Malformed, format!("header {HEADER_SLICE} is no slice")))
}

/// The folder that gets what is about to be replaced.
pub(super) fn backup_header(headers: &HeaderMap) -> Result<Option<String>> {
    let Some(value) = only_header(headers, HEADER_BACKUP)? else { return Ok(None) };
    let name = decode_header(value.as_bytes()).and_then(|name| String::from_utf8(name).ok());
    name.map(Some)
        .ok_or_else(|| Error::new(ErrorKind::Malformed, format!("header {HEADER_BACKUP} is no path")))
}

/// What the body of a block is, as far as the request says.
pub(super) fn coding_header(headers: &HeaderMap) -> Result<Taken> {
    match only_header(headers, header::CONTENT_ENCODING.as_str())?.map(HeaderValue::as_bytes) {
        None => Ok(Taken::Body),
        Some(coding) if coding.eq_ignore_ascii_case(zstd::CODING.as_bytes()) => Ok(Taken::Zstd),
        Some(coding) if coding.eq_ignore_ascii_case(b"identity") => Ok(Taken::Body),
        Some(_) => Err(Error::new(ErrorKind::Malformed, "the Content-Encoding is not known here")
            .with_hint("send an LZ4 frame without that header, or a Zstandard frame as zstd")),
    }
}

/// The part of a block that comes, as `start-end`.
pub(super) fn range_header(headers: &HeaderMap) -> Result<Option<Range<u64>>> {
    let Some(value) = only_header(headers, HEADER_RANGE)? else { return Ok(None) };
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    let range = value.to_str().ok().and_then(|text| text.split_once('-'));
    range
        .and_then(|(start, end)| Some(Some(number(start)?..number(end)?)))
        .ok_or_else(|| Error::new(ErrorKind::Malformed, format!("header {HEADER_RANGE} is no range")))
}

pub(super) fn failed_header(headers: &HeaderMap) -> Result<RangeSet> {
    let Some(value) = only_header(headers, HEADER_FAILED)? else { return Ok(RangeSet::default()) };
    value.to_str().ok().and_then(parse_ids).ok_or_else(|| {
        Error::new(ErrorKind::Malformed, format!("header {HEADER_FAILED} is no list of file ids"))
    })
}
