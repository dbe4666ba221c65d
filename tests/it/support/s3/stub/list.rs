//! The stub's lists: ListObjectsV2 and ListObjects, as XML.

use super::answer::{error, iso_date};
use super::wire::{Answer, Request};
use super::{Fault, Lists, NextMarker, Object, State};
use crate::support::s3::percent_encode;

/// Tokens begin with what a client has to encode in a query.
const TOKEN: &str = "1+/=&";

/// Tokens of pages without keys have this and their number in the place of a key.
const EMPTY_PAGE: &[u8] = b"\0empty ";

/// The token that goes on behind `key`.
fn token(key: &[u8]) -> String {
    key.iter().fold(TOKEN.to_string(), |token, byte| token + &format!("{byte:02x}"))
}

fn key_of(token: &[u8]) -> Option<Vec<u8>> {
    let hex = std::str::from_utf8(token).ok()?.strip_prefix(TOKEN)?;
    let byte = |at: usize| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
    (0..hex.len()).step_by(2).map(byte).collect()
}

/// Text of an element. XML 1.0 has no way to write most control characters; S3 writes them like
/// this all the same.
fn escape(bytes: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(bytes.len());
    for &byte in bytes {
        match byte {
            b'&' => escaped.extend(b"&amp;"),
            b'<' => escaped.extend(b"&lt;"),
            b'>' => escaped.extend(b"&gt;"),
            b'"' => escaped.extend(b"&quot;"),
            b'\'' => escaped.extend(b"&#39;"),
            0..0x20 | 0x7f => escaped.extend(format!("&#x{byte:x};").bytes()),
            _ => escaped.push(byte),
        }
    }
    escaped
}

/// Keys in a list, in the encoding that was asked for. S3 writes a space as `+` there.
struct Writer {
    xml: Vec<u8>,
    url: bool,
    etags: bool,
    date: Option<String>,
}

impl Writer {
    fn element(&mut self, name: &str, text: impl AsRef<[u8]>) {
        self.xml.extend(format!("<{name}>").bytes());
        self.xml.extend(escape(text.as_ref()));
        self.xml.extend(format!("</{name}>").bytes());
    }

    fn key(&mut self, name: &str, key: &[u8]) {
        if self.url {
            self.element(name, percent_encode(key).replace("%20", "+"));
        } else {
            self.element(name, key);
        }
    }

    fn object(&mut self, key: &[u8], object: &Object) {
        self.xml.extend(b"<Contents>");
        self.key("Key", key);
        self.element("LastModified", self.date.clone().unwrap_or_else(|| iso_date(object.modified_ms)));
        if self.etags {
            self.element("ETag", format!("\"{}\"", object.etag));
        }
        self.element("Size", object.size().to_string());
        self.element("StorageClass", "STANDARD");
        self.xml.extend(b"</Contents>");
    }
}

impl State {
    pub(super) fn list(&self, request: &Request, fault: &Fault) -> Answer {
        let asks_v2 = request.param("list-type") == Some(b"2");
        // Nothing that walks a whole prefix needs one.
        let has_delimiter = request.param("delimiter").is_some_and(|delimiter| !delimiter.is_empty());
        if has_delimiter || asks_v2 && self.settings.lists == Lists::V2Refused {
            return error(501, request);
        }
        let v2 = asks_v2 && self.settings.lists == Lists::Both;
        let param = |name: &str| request.param(name).unwrap_or_default();
        let mut start = match (v2, request.param("continuation-token")) {
            (true, Some(token)) => match key_of(token) {
                Some(key) => key,
                None => return error(400, request),
            },
            (true, None) => param("start-after").to_vec(),
            (false, _) if self.settings.next_marker == NextMarker::Token => {
                key_of(param("marker")).unwrap_or_default()
            }
            (false, _) => param("marker").to_vec(),
        };
        let empty = match start.strip_prefix(EMPTY_PAGE) {
            Some(number) => std::str::from_utf8(number).unwrap().parse().unwrap(),
            None if start.is_empty() => 0,
            None => self.settings.empty_pages,
        };
        if empty >= self.settings.empty_pages && start.starts_with(EMPTY_PAGE) {
            start.clear();
        }
        if matches!(fault, Fault::SamePage) {
            start.clear();
        }
        let prefix = param("prefix");
        let limit = std::str::from_utf8(param("max-keys")).ok().and_then(|text| text.parse().ok());
        let limit = limit.unwrap_or(1000).min(self.settings.page);
        let is_empty = empty < self.settings.empty_pages;
        let (page, more) =
            self.page(&start, prefix, if is_empty || matches!(fault, Fault::EmptyPage) { 0 } else { limit });
        let more = more || is_empty || matches!(fault, Fault::SamePage | Fault::EmptyPage);
        // An empty page is nowhere further.
        let last = match is_empty {
            true => [EMPTY_PAGE, (empty + 1).to_string().as_bytes()].concat(),
            false => page.last().map_or(start.clone(), |(key, _)| key.to_vec()),
        };

        let url = self.settings.encodes && request.param("encoding-type") == Some(b"url");
        let etags = self.settings.lists_etags;
        let (head, date) =
            (b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".to_vec(), self.settings.date.clone());
        let mut xml = Writer { xml: head, url, etags, date };
        xml.xml.extend(b"<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
        xml.element("Name", &self.settings.bucket);
        xml.key("Prefix", prefix);
        xml.element("MaxKeys", limit.to_string());
        if self.settings.says_truncated {
            xml.element("IsTruncated", more.to_string());
        }
        let asks_url = request.param("encoding-type") == Some(b"url");
        if url || asks_url && self.settings.says_encoded {
            xml.element("EncodingType", "url");
        }
        if v2 {
            xml.element("KeyCount", page.len().to_string());
            if let Some(sent) = request.param("continuation-token") {
                xml.element("ContinuationToken", sent);
            }
            if more {
                let stuck = matches!(fault, Fault::SamePage);
                xml.element("NextContinuationToken", token(if stuck { b"" } else { &last }));
            }
        } else {
            xml.key("Marker", param("marker"));
            match self.settings.next_marker {
                NextMarker::Encoded if more => xml.key("NextMarker", &last),
                NextMarker::Raw if more => xml.element("NextMarker", &last),
                NextMarker::Token if more => xml.element("NextMarker", token(&last)),
                _ => {}
            }
        }
        for (key, object) in page {
            for _ in 0..=usize::from(self.settings.twice) {
                xml.object(key, object);
            }
        }
        xml.xml.extend(b"</ListBucketResult>");
        if matches!(fault, Fault::MalformedXml) {
            xml.xml.truncate(xml.xml.len() / 2);
        }
        Answer::new(200, "application/xml", xml.xml)
    }

    /// At most `limit` keys behind `start` that begin with `prefix`, and whether there are more.
    fn page(&self, start: &[u8], prefix: &[u8], limit: usize) -> (Vec<(&[u8], &Object)>, bool) {
        let order = self.settings.order;
        let all = self.objects.iter().filter(|(key, _)| key.starts_with(prefix));
        let behind = all.filter(|(key, _)| start.is_empty() || order(key) > order(start));
        let mut found: Vec<(&[u8], &Object)> =
            behind.filter_map(|(key, versions)| Some((key.as_slice(), versions.last()?))).collect();
        found.sort_by_key(|(key, _)| order(key));
        let more = found.len() > limit;
        found.truncate(limit);
        (found, more)
    }
}
