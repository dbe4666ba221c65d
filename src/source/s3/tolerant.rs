//! Filters answers before the SDK parses them.
//!
//! The SDK refuses an answer as a whole for one header or element that it cannot parse, even for
//! one that this program does not read, and stores of many makes write them in many ways. This
//! module drops every header and element that is read nowhere, and normalizes the others.

use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use reqwest::header::HeaderMap;

/// Headers that are passed on as they are.
const HEADERS: [&str; 11] = [
    "etag",
    "content-length",
    "content-range",
    "content-type",
    "date",
    "x-amz-version-id",
    "x-amz-server-side-encryption",
    "x-amz-server-side-encryption-customer-algorithm",
    "x-amz-bucket-region",
    "x-amz-request-id",
    "retry-after",
];

/// The prefix of the metadata that the writer of an object recorded with it.
const METADATA: &str = "x-amz-meta-";

/// The headers that are read, each once: the first one counts. A time of unknown form is dropped.
pub(super) fn headers(all: &HeaderMap) -> Vec<(String, String)> {
    let mut read = Vec::new();
    for name in all.keys() {
        // A value that is no text is dropped.
        let Some(value) = all.get(name).and_then(|value| std::str::from_utf8(value.as_bytes()).ok()) else {
            continue;
        };
        let name = name.as_str();
        if name == "last-modified" {
            let time = time_of(value).and_then(|time| time.fmt(Format::HttpDate).ok());
            read.extend(time.map(|time| (name.to_owned(), time)));
        } else if HEADERS.contains(&name) || name.starts_with(METADATA) {
            read.push((name.to_owned(), value.to_owned()));
        }
    }
    read
}

/// A time in any of the forms that stores write.
pub(super) fn time_of(text: &str) -> Option<DateTime> {
    let text = text.trim();
    [Format::HttpDate, Format::DateTimeWithOffset]
        .into_iter()
        .find_map(|format| DateTime::from_str(text, format).ok())
}

/// A list with only the elements that are read, in the forms that the SDK parses. `None` if the
/// document is no list, or ends in the middle: the SDK would accept that as a shorter list without
/// the missing keys. Takes one pass, whatever the document is.
pub(super) fn list(document: &[u8]) -> Option<Vec<u8>> {
    let mut list = ListFilter::default();
    let mut rest = document;
    loop {
        let at = rest.iter().position(|&byte| byte == b'<')?;
        list.text(&rest[..at]);
        rest = &rest[at + 1..];
        rest = if let Some(comment) = rest.strip_prefix(b"!--") {
            split_at_mark(comment, b"-->")?.1
        } else if let Some(text) = rest.strip_prefix(b"![CDATA[") {
            let (text, behind) = split_at_mark(text, b"]]>")?;
            list.text(&escape(text));
            behind
        } else if rest.starts_with(b"?") {
            split_at_mark(rest, b"?>")?.1
        } else if let Some(tag) = rest.strip_prefix(b"/") {
            let (name, behind) = split_at_mark(tag, b">")?;
            list.close(name.trim_ascii_end())?;
            behind
        } else {
            let end = end_of_tag(rest)?;
            let (tag, is_closed) = match rest[..end].strip_suffix(b"/") {
                Some(tag) => (tag, true),
                None => (&rest[..end], false),
            };
            let name = tag.split(u8::is_ascii_whitespace).next().unwrap_or_default();
            list.open(name)?;
            if is_closed {
                list.close(name)?;
            }
            &rest[end + 1..]
        };
        if list.open.is_empty() && !list.filtered.is_empty() {
            return rest.trim_ascii().is_empty().then_some(list.filtered);
        }
    }
}

/// The text before `mark`, and the text behind it.
fn split_at_mark<'t>(text: &'t [u8], mark: &[u8]) -> Option<(&'t [u8], &'t [u8])> {
    let at = text.windows(mark.len()).position(|window| window == mark)?;
    Some((&text[..at], &text[at + mark.len()..]))
}

/// The position of the `>` of a tag, which is not in the value of an attribute.
fn end_of_tag(text: &[u8]) -> Option<usize> {
    let mut quote = None;
    text.iter().position(|&byte| {
        match quote {
            Some(open) if open == byte => quote = None,
            None if matches!(byte, b'"' | b'\'') => quote = Some(byte),
            _ => {}
        }
        quote.is_none() && byte == b'>'
    })
}

fn escape(text: &[u8]) -> Vec<u8> {
    let escaped = |byte: &u8| match byte {
        b'&' => b"&amp;".to_vec(),
        b'<' => b"&lt;".to_vec(),
        b'>' => b"&gt;".to_vec(),
        byte => vec![*byte],
    };
    text.iter().flat_map(escaped).collect()
}

/// A list that is being filtered.
#[derive(Default)]
struct ListFilter<'d> {
    /// The names of the open elements, as they are written.
    open: Vec<&'d [u8]>,
    /// The outermost of these, which are passed on.
    passed: Vec<Element>,
    /// The text in the innermost of those.
    text: Vec<u8>,
    filtered: Vec<u8>,
}

/// A document with more elements within each other is no list.
const MAX_DEPTH: usize = 32;

impl<'d> ListFilter<'d> {
    /// Whether the innermost open element is passed on.
    fn is_passed(&self) -> bool {
        self.open.len() == self.passed.len()
    }

    fn text(&mut self, text: &[u8]) {
        if self.is_passed() && self.passed.last().is_some_and(|element| element.form.is_some()) {
            self.text.extend(text);
        }
    }

    /// Opens an element. Its name may have any prefix for its namespace.
    fn open(&mut self, name: &'d [u8]) -> Option<()> {
        let local = name.rsplit(|&byte| byte == b':').next().unwrap_or_default();
        if self.is_passed() {
            let within = self.passed.last().map_or("", |element| element.name);
            let known =
                ELEMENTS.iter().find(|known| known.within == within && known.name.as_bytes() == local);
            match known {
                Some(element) => {
                    if element.form.is_none() {
                        self.filtered.extend(format!("<{}>", element.name).into_bytes());
                    }
                    self.passed.push(*element);
                    self.text.clear();
                }
                None if self.open.is_empty() => return None,
                None => {}
            }
        }
        self.open.push(name);
        (self.open.len() <= MAX_DEPTH).then_some(())
    }

    fn close(&mut self, name: &[u8]) -> Option<()> {
        let is_passed = self.is_passed();
        self.open.pop().filter(|open| *open == name)?;
        let Some(Element { name, form, .. }) = (if is_passed { self.passed.pop() } else { None }) else {
            return Some(());
        };
        let Some(form) = form else {
            self.filtered.extend(format!("</{name}>").into_bytes());
            return Some(());
        };
        let text = std::mem::take(&mut self.text);
        // Bytes that are no text are left for the SDK to refuse.
        let text = match std::str::from_utf8(&text) {
            Ok(text) => form(text).map(String::into_bytes),
            Err(_) => Some(text),
        };
        if let Some(text) = text {
            self.filtered.extend(format!("<{name}>").into_bytes());
            self.filtered.extend(text);
            self.filtered.extend(format!("</{name}>").into_bytes());
        }
        Some(())
    }
}

/// An element that is passed on.
#[derive(Clone, Copy)]
struct Element {
    within: &'static str,
    name: &'static str,
    /// Normalizes its text; `None` for an element that contains other elements.
    form: Option<Form>,
}

/// `None` drops the element.
type Form = fn(&str) -> Option<String>;

const LIST: &str = "ListBucketResult";
const OBJECT: &str = "Contents";

const ELEMENTS: [Element; 11] = [
    Element { within: "", name: LIST, form: None },
    Element { within: LIST, name: OBJECT, form: None },
    Element { within: LIST, name: "Name", form: Some(as_it_is) },
    Element { within: LIST, name: "EncodingType", form: Some(trimmed) },
    Element { within: LIST, name: "IsTruncated", form: Some(boolean) },
    Element { within: LIST, name: "NextContinuationToken", form: Some(as_it_is) },
    Element { within: LIST, name: "NextMarker", form: Some(as_it_is) },
    Element { within: OBJECT, name: "Key", form: Some(as_it_is) },
    Element { within: OBJECT, name: "LastModified", form: Some(time) },
    Element { within: OBJECT, name: "ETag", form: Some(trimmed) },
    Element { within: OBJECT, name: "Size", form: Some(trimmed) },
];

fn as_it_is(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn trimmed(text: &str) -> Option<String> {
    Some(text.trim().to_owned())
}

/// A text that is no boolean is left for the SDK to refuse: it must not count as an absent element.
fn boolean(text: &str) -> Option<String> {
    let text = text.trim().to_ascii_lowercase();
    Some(match &*text {
        "1" | "yes" => "true".to_owned(),
        "0" | "no" => "false".to_owned(),
        _ => text,
    })
}

fn time(text: &str) -> Option<String> {
    time_of(text)?.fmt(Format::DateTimeWithOffset).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::{HeaderName, HeaderValue};

    #[test]
    fn only_headers_that_are_read_are_passed_on() {
        let mut all = HeaderMap::new();
        for (name, value) in [
            ("etag", "\"a\""),
            ("etag", "\"b\""),
            ("last-modified", "2023-11-14T22:13:20.123+02:00"),
            ("expires", "soon"),
            ("x-amz-missing-meta", "some"),
            ("x-amz-meta-mode", "0644"),
        ] {
            all.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        all.insert("x-amz-meta-raw", HeaderValue::from_bytes(b"\xff").unwrap());
        let mut read = headers(&all);
        read.sort();
        let expected = [
            ("etag", "\"a\""),
            ("last-modified", "Tue, 14 Nov 2023 20:13:20 GMT"),
            ("x-amz-meta-mode", "0644"),
        ];
        assert_eq!(read, expected.map(|(name, value)| (name.to_string(), value.to_string())));
        all.insert("last-modified", HeaderValue::from_static("Yesterday"));
        assert!(headers(&all).iter().all(|(name, _)| name != "last-modified"));
    }

    fn listed(document: &str) -> Option<String> {
        list(document.as_bytes()).map(|list| String::from_utf8(list).unwrap())
    }

    #[test]
    fn only_elements_that_are_read_are_passed_on() {
        let document = "\u{feff}<?xml version=\"1.0\"?>\n<ListBucketResult xmlns=\"x>\"><Name>b</Name><MaxKeys>many</MaxKeys>\
                        <IsTruncated type='boolean'> True\n</IsTruncated><!-- <Contents> -->\
                        <Contents><Key> a&lt;MaxKeys&gt;</Key><LastModified>yesterday</LastModified><Size> 3 </Size><Owner><ID>1</ID>\
                        <Key>no</Key></Owner></Contents><Key>no</Key><Contents><Key><![CDATA[b>&]]>c</Key>\
                        <LastModified>Tue, 14 Nov 2023 22:13:20 GMT</LastModified><Restored/></Contents></ListBucketResult>\n";
        let expected = "<ListBucketResult><Name>b</Name><IsTruncated>true</IsTruncated>\
                        <Contents><Key> a&lt;MaxKeys&gt;</Key><Size>3</Size></Contents>\
                        <Contents><Key>b&gt;&amp;c</Key><LastModified>2023-11-14T22:13:20Z</LastModified></Contents>\
                        </ListBucketResult>";
        assert_eq!(listed(document).as_deref(), Some(expected));
        let prefixed = document.replace("<", "<s3:").replace("<s3:/", "</s3:");
        let prefixed = prefixed.replace("<s3:?", "<?").replace("<s3:!", "<!").replace("<!-- <s3:", "<!-- <");
        assert_eq!(listed(&prefixed).as_deref(), Some(expected));
        for (said, expected) in [("1", "true"), ("No", "false"), ("yes", "true"), ("0", "false"), ("", "")] {
            let list =
                listed(&format!("<ListBucketResult><IsTruncated>{said}</IsTruncated></ListBucketResult>"));
            assert!(list.unwrap().contains(&format!("<IsTruncated>{expected}</IsTruncated>")), "{said}");
        }
    }

    #[test]
    fn refuses_a_document_that_is_no_complete_list() {
        for document in [
            "",
            "<ListBucketResult>",
            "<ListBucketResult><Contents><Key>a</Key>",
            "<ListBucketResult><Contents><Key>a</Key></ListBucketResult>",
            "<ListBucketResult><Contents><Key>a</Key><Owner></Contents><Contents><Key>b</Key><Owner></Owner></Contents>\
             </ListBucketResult>",
            "<ListBucketResult></ListBucketResult><html>",
            "<Error><Code>SlowDown</Code></Error>",
            "<html><ListBucketResult></ListBucketResult></html>",
        ] {
            assert_eq!(listed(document), None, "{document}");
        }
        assert_eq!(listed("<ListBucketResult/>").as_deref(), Some("<ListBucketResult></ListBucketResult>"));
    }

    #[test]
    fn a_document_takes_one_pass_whatever_it_is() {
        let start = std::time::Instant::now();
        for part in [
            "<Owner>",
            "<Owner><Owner></Owner>",
            "<!--",
            "<",
            "<a \"",
            "</Owner>",
            "<![CDATA[",
            "<Size></Owner>",
        ] {
            let document = format!("<ListBucketResult>{}</ListBucketResult>", part.repeat(200_000));
            assert_eq!(listed(&document), None, "{part}");
        }
        assert!(start.elapsed() < std::time::Duration::from_secs(10), "{:?}", start.elapsed());
    }
}
