//! What the stub answers: refusals, objects, and the faults of both.

use super::wire::{Answer, Request};
use super::{Fault, Object, State};
use std::fmt::Write;

impl State {
    /// Answers, and records in `request` what was answered and why.
    pub(super) fn answer(&mut self, request: &mut Request) -> Answer {
        let fault = self.fault_for(request);
        request.fault = format!("{fault:?}");
        if let Fault::ThenReplace(_) = fault {
            request.fault = "ThenReplace".into();
        }
        let mut answer = match &fault {
            Fault::Status(status) => error(*status, request),
            Fault::Answer(status, text) => Answer::new(*status, "application/xml", text.clone().into_bytes()),
            Fault::Endless(status) => Answer { status: *status, endless: true, ..Answer::default() },
            Fault::Hangup => Answer::default(),
            _ => self.refusal(request).unwrap_or_else(|| self.serve(request, &fault)),
        };
        request.status = answer.status;
        answer.delay = self.settings.delay;
        match fault {
            Fault::CutAfter(count) => answer.cut_after = Some(count),
            Fault::StallAfter(count, time) => answer.stall_after = Some((count, time)),
            Fault::Delay(time) => answer.delay += time,
            Fault::ThenReplace(object) => self.put(&request.key, object),
            _ => {}
        }
        answer
    }

    /// The answer to a request that the bucket, or an HCP, does not support.
    fn refusal(&self, request: &Request) -> Option<Answer> {
        if let Some(ahead_s) = self.settings.clock_ahead_s {
            let now_s = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
            let now_ms = (i64::try_from(now_s).unwrap() + ahead_s) * 1000;
            let asked = request.header("x-amz-date").unwrap_or_default();
            // S3 allows a quarter of an hour. Stamps of this form sort as their times do.
            let stamp = |ms| iso_date(ms)[..19].replace(['-', ':'], "") + "Z";
            if !(stamp(now_ms - 900_000)..=stamp(now_ms + 900_000)).contains(&asked.to_string()) {
                let mut answer = coded(403, "RequestTimeTooSkewed");
                answer.headers.push(("Date".into(), http_date(now_ms)));
                return Some(answer);
            }
        }
        if self.settings.hcp {
            if !request.is_virtual_host() {
                return Some(error(403, request));
            }
            let news = |(name, value): &(String, String)| {
                name.starts_with("x-amz-checksum-")
                    || name == "x-amz-sdk-checksum-algorithm"
                    || name == "content-encoding" && value.contains("aws-chunked")
                    || name == "x-amz-content-sha256" && value.starts_with("STREAMING-")
            };
            if request.headers.iter().any(news) {
                return Some(error(400, request));
            }
        }
        if request.bucket != self.settings.bucket {
            return Some(coded(404, "NoSuchBucket"));
        }
        (!matches!(&*request.method, "GET" | "HEAD")).then(|| error(501, request))
    }

    fn serve(&self, request: &Request, fault: &Fault) -> Answer {
        if !request.key.is_empty() {
            self.object(request, fault)
        } else if request.is_list() {
            self.list(request, fault)
        } else if request.method == "HEAD" {
            Answer { status: 200, ..Answer::default() }
        } else {
            error(501, request)
        }
    }

    fn object(&self, request: &Request, fault: &Fault) -> Answer {
        let versions = self.objects.get(&request.key).map_or(&[][..], Vec::as_slice);
        let found = match request.param("versionId") {
            Some(id) => {
                versions.iter().find(|object| object.version.as_deref().map(str::as_bytes) == Some(id))
            }
            None => versions.last(),
        };
        let Some(object) = found else { return error(404, request) };
        let names = |header: &str| {
            let etags = request.header(header)?;
            Some(
                etags
                    .split(',')
                    .any(|etag| matches!(etag.trim().trim_matches('"'), e if e == "*" || e == object.etag)),
            )
        };
        if names("if-match") == Some(false) && !matches!(fault, Fault::IgnoreIfMatch) {
            return error(412, request);
        }
        if names("if-none-match") == Some(true) {
            return Answer { status: 304, ..Answer::default() };
        }
        let size = object.size();
        let range = request.header("range");
        let range = range.filter(|_| self.settings.ranges && !matches!(fault, Fault::WholeObject));
        let mut answer = match range.map(|range| parse_range(range, size)) {
            None | Some(Asked::Nonsense) => Answer {
                status: 200,
                body: object.body.clone(),
                length: object.body.len(),
                ..Answer::default()
            },
            Some(Asked::Beyond) => {
                let mut answer = error(416, request);
                answer.headers.push(("Content-Range".into(), format!("bytes */{size}")));
                return answer;
            }
            Some(Asked::Piece(start, end)) => {
                let later = usize::from(matches!(fault, Fault::WrongContentRange));
                let said = format!("bytes {}-{}/{size}", start + later, end - 1 + later);
                let headers = vec![("Content-Range".to_string(), said)];
                let ((body, start), length) = (object.piece(start..end), end - start);
                Answer { status: 206, headers, body, start, length, ..Answer::default() }
            }
        };
        if request.method == "HEAD" {
            answer.length = if self.settings.heads_empty { 0 } else { size };
            answer.without_length = !self.settings.heads_length;
        }
        let mut headers = headers_of(object, fault);
        headers.retain(|(name, _)| self.settings.has_etags || name != "ETag");
        if let Some(date) = &self.settings.date {
            headers.retain(|(name, _)| name != "Last-Modified");
            headers.push(("Last-Modified".into(), date.clone()));
        }
        answer.headers.extend(headers);
        answer.headers.extend(self.settings.headers.clone());
        match fault {
            Fault::Shorter(count) => answer.length -= (*count).min(answer.length),
            Fault::Longer(count) => answer.zeros = *count,
            Fault::FromBeginning => answer.start = 0,
            Fault::Flip(at) => {
                let mut body = answer.body[answer.start..answer.start + answer.length].to_vec();
                body[*at] ^= 1;
                (answer.body, answer.start) = (body.into(), 0);
            }
            _ => {}
        }
        answer
    }
}

fn headers_of(object: &Object, fault: &Fault) -> Vec<(String, String)> {
    let etag = if let Fault::OtherEtag(etag) = fault { etag } else { &object.etag };
    let mut headers: Vec<(String, String)> = vec![
        ("ETag".into(), format!("\"{etag}\"")),
        ("Last-Modified".into(), http_date(object.modified_ms)),
        ("Accept-Ranges".into(), "bytes".into()),
    ];
    headers.extend(object.version.iter().map(|version| ("x-amz-version-id".into(), version.clone())));
    if !object.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
        headers.push(("Content-Type".into(), "binary/octet-stream".into()));
    }
    headers.extend(object.headers.clone());
    headers
}

enum Asked {
    /// Not a range, or several: all is sent.
    Nonsense,
    Beyond,
    /// Half-open.
    Piece(usize, usize),
}

fn parse_range(range: &str, size: usize) -> Asked {
    let Some((first, last)) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Asked::Nonsense;
    };
    let (start, end) = match (first.parse::<usize>(), last.parse::<usize>()) {
        (Ok(first), Ok(last)) if first <= last => (first, last.saturating_add(1).min(size)),
        (Ok(first), Err(_)) if last.is_empty() => (first, size),
        (Err(_), Ok(count)) if first.is_empty() => (size.saturating_sub(count), size),
        _ => return Asked::Nonsense,
    };
    if start < end { Asked::Piece(start, end) } else { Asked::Beyond }
}

/// An error as S3 writes it.
pub(super) fn error(status: u16, request: &Request) -> Answer {
    let code = match status {
        400 => "InvalidRequest",
        403 => "AccessDenied",
        404 if request.param("versionId").is_some() => "NoSuchVersion",
        404 => "NoSuchKey",
        412 => "PreconditionFailed",
        416 => "InvalidRange",
        500 => "InternalError",
        501 => "NotImplemented",
        503 => "SlowDown",
        _ => "Other",
    };
    coded(status, code)
}

fn coded(status: u16, code: &str) -> Answer {
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let _ = write!(text, "<Error><Code>{code}</Code><Message>Said by the stub</Message>");
    let _ = write!(text, "<RequestId>STUB</RequestId></Error>");
    Answer::new(status, "application/xml", text.into_bytes())
}

/// Year, month, day, hour, minute, second, millisecond, and day of the week from Thursday.
fn civil(ms: i64) -> ([i64; 7], usize) {
    let (days, ms) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000));
    // Years begin in March here: the day that may be missing is the last.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day = day_of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = [
        year + era * 400 + i64::from(month >= 10),
        if month < 10 { month + 3 } else { month - 9 },
        day - (153 * month + 2) / 5 + 1,
        ms / 3_600_000,
        ms / 60_000 % 60,
        ms / 1000 % 60,
        ms % 1000,
    ];
    (date, usize::try_from(days.rem_euclid(7)).unwrap())
}

/// As in the header Last-Modified: whole seconds.
pub(super) fn http_date(ms: i64) -> String {
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let weekdays = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    let ([year, month, day, hour, minute, second, _], weekday) = civil(ms);
    let (weekday, month) = (weekdays[weekday], months[usize::try_from(month).unwrap() - 1]);
    format!("{weekday}, {day:02} {month} {year} {hour:02}:{minute:02}:{second:02} GMT")
}

/// As in lists: milliseconds.
pub(super) fn iso_date(ms: i64) -> String {
    let ([year, month, day, hour, minute, second, ms], _) = civil(ms);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}
