//! The stub's lists: ListObjectsV2 and ListObjects, as XML.

use super::answer::{error, iso_date};
use super::wire::{Answer, Request};
use super::{Fault, Lists, Object, State};
use crate::support::s3::percent_encode;
use std::ops::Bound;

/// Tokens begin with what a client has to encode in a query.
const TOKEN: &str = "1+/=&";

/// The token that goes on behind `key`.
fn token(key: &[u8]) -> String {
    key.iter().fold(TOKEN.to_string(), |token, byte| token + &format!("{byte:02x}"))
}

fn key_of(token: &[u8]) -> Option<Vec<u8>> {
    let hex = std::str::from_utf8(token).ok()?.strip_prefix(TOKEN)?;
    let byte = |at: usize| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
    (0..hex.len()).step_by(2).map(byte).collect()
}

/// Text of an element. XML 1.0 has no way to write most control characters; S3 writes them like this all the same.
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
        self.element("LastModified", iso_date(object.modified_ms));
        if self.etags {
            self.element("ETag", format!("\"{}\"", object.etag));
        }
        self.element("Size", object.body.len().to_string());
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
            (false, _) => param("marker").to_vec(),
        };
        if matches!(fault, Fault::SamePage) {
            start.clear();
        }
        let prefix = param("prefix");
        let limit = std::str::from_utf8(param("max-keys")).ok().and_then(|text| text.parse().ok());
        let limit = limit.unwrap_or(1000).min(self.settings.page);
        let (page, more) =
            self.page(&start, prefix, if matches!(fault, Fault::EmptyPage) { 0 } else { limit });
        let more = more || matches!(fault, Fault::SamePage | Fault::EmptyPage);
        // An empty page is nowhere further.
        let last = page.last().map_or(start.clone(), |(key, _)| key.to_vec());

        let url = self.settings.encodes && request.param("encoding-type") == Some(b"url");
        let etags = self.settings.lists_etags;
        let mut xml = Writer { xml: b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".to_vec(), url, etags };
        xml.xml.extend(b"<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
        xml.element("Name", &self.settings.bucket);
        xml.key("Prefix", prefix);
        xml.element("MaxKeys", limit.to_string());
        xml.element("IsTruncated", more.to_string());
        if url {
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
            // No NextMarker: AWS sends it only with a delimiter. A client goes on behind the last key.
        }
        for (key, object) in page {
            xml.object(key, object);
        }
        xml.xml.extend(b"</ListBucketResult>");
        if matches!(fault, Fault::MalformedXml) {
            xml.xml.truncate(xml.xml.len() / 2);
        }
        Answer::new(200, "application/xml", xml.xml)
    }

    /// At most `limit` keys behind `start` that begin with `prefix`, and whether there are more.
    fn page(&self, start: &[u8], prefix: &[u8], limit: usize) -> (Vec<(&[u8], &Object)>, bool) {
        let from = if start < prefix { Bound::Included(prefix) } else { Bound::Excluded(start) };
        let mut found = self
            .objects
            .range::<[u8], _>((from, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .filter_map(|(key, versions)| Some((key.as_slice(), versions.last()?)));
        let page = found.by_ref().take(limit).collect();
        (page, found.next().is_some())
    }
}
