//! The HTTP client below the SDK: the same as towards a receiver, so that there is one TLS stack,
//! one way to trust certificates and one way to find a proxy.

use super::options::BucketOptions;
use super::tolerant;
use crate::error::{Error, ErrorKind, Result};
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Body, Method, Request, Url, redirect};
use std::time::Duration;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Clones share their connections.
#[derive(Debug, Clone)]
pub(super) struct Http {
    client: reqwest::Client,
    /// The answers come from a store, not from a service that gives credentials.
    is_store: bool,
}

impl Http {
    pub(super) fn new(options: &BucketOptions) -> Result<Self> {
        let mut builder = reqwest::Client::builder()
            .http1_only()
            // The SDK signs for one host: a redirect is an error, which names the right region.
            .redirect(redirect::Policy::none())
            // Requests are made again by `Attempts`.
            .retry(reqwest::retry::never())
            .connect_timeout(CONNECT_TIMEOUT)
            // Until the next byte, not until the last: a slow body does not hang.
            .read_timeout(options.timeout)
            .pool_max_idle_per_host(options.requests)
            .tcp_nodelay(true);
        if let Some(path) = &options.ca_file {
            let what = || format!("cannot use the certificates in {} (AWS_CA_BUNDLE)", path.display());
            let pem = std::fs::read(path).map_err(|e| Error::io(what(), e).with_kind(ErrorKind::Usage))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem)
                .map_err(|e| Error::new(ErrorKind::Usage, what()).with_source(e))?;
            if certificates.is_empty() {
                return Err(Error::new(ErrorKind::Usage, format!("{}: there are none", what()))
                    .with_hint("it must be a PEM file"));
            }
            builder = builder.tls_certs_only(certificates);
        }
        let client = builder
            .tls_danger_accept_invalid_certs(!options.verify_tls)
            .build()
            .map_err(|e| Error::new(ErrorKind::Usage, "cannot set up HTTP for the bucket").with_source(e))?;
        Ok(Self { client, is_store: false })
    }

    /// The same client for requests to the store itself.
    pub(super) fn for_store(&self) -> Self {
        Self { is_store: true, ..self.clone() }
    }
}

impl HttpClient for Http {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        // Timeouts are set in `Http::new`.
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Http {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let Self { client, is_store } = self.clone();
        HttpConnectorFuture::new(async move {
            let kind = match request.method() {
                "GET" if is_store && request.uri().contains(OBJECT_MARK) => RequestKind::Object,
                "GET" if is_store => RequestKind::List,
                _ => RequestKind::Other,
            };
            let is_head = request.method() == "HEAD";
            let request = to_reqwest(&request).map_err(ConnectorError::user)?;
            let response = client.execute(request).await.map_err(failed)?;
            let (status, headers) = (response.status(), response.headers().clone());
            let mut headers = if is_store { tolerant::headers(&headers) } else { all_headers(&headers) };
            let body = match kind {
                RequestKind::Object if status.is_success() => SdkBody::from_body_1_x(Body::from(response)),
                kind => {
                    if !is_head {
                        // The SDK would compare it with the body, which the filter may have
                        // shortened.
                        headers.retain(|(name, _)| name != "content-length");
                    }
                    SdkBody::from(read_body(response, kind).await?)
                }
            };
            to_sdk(status.as_u16(), headers, body).map_err(|e| ConnectorError::other(e, None))
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum RequestKind {
    /// For the content of an object, which is read as it comes.
    Object,
    /// For a page of a list.
    List,
    Other,
}

/// The most bytes of a page of a list. Stores give at most 10,000 keys, each of up to 1,024 bytes,
/// which are three times as many when they are encoded.
const MAX_LIST_BYTES: usize = 32 << 20;

/// The most bytes of any other answer: errors, and the answers of services that give credentials.
const MAX_OTHER_BYTES: usize = 64 << 10;

/// Reads the body of an answer to its end. The store has answered: a failure from here on does not
/// mean that it is unreachable.
async fn read_body(
    response: reqwest::Response,
    kind: RequestKind,
) -> std::result::Result<Vec<u8>, ConnectorError> {
    let is_success = response.status().is_success();
    if kind == RequestKind::List && is_success {
        let document = at_most(response, MAX_LIST_BYTES).await.map_err(cut)?;
        return tolerant::list(&document).ok_or_else(|| match is_web_page(&document) {
            true => cut(format!("the answer is {WEB_PAGE}").into()),
            false => cut("the list ends in the middle, or is none".into()),
        });
    }
    match at_most(response, MAX_OTHER_BYTES).await {
        // The SDK gives the text of an error that is one of S3.
        Ok(body) if !is_success && is_web_page(&body) => {
            let message = format!("<Message>the answer is {WEB_PAGE}</Message>");
            Ok(format!("<Error><Code>{NO_CODE}</Code>{message}</Error>").into_bytes())
        }
        // The status tells enough.
        Err(_) if !is_success => Ok(Vec::new()),
        body => body.map_err(cut),
    }
}

/// What something else than a store answers with.
pub(super) const WEB_PAGE: &str = "a web page, not one of an S3 store";

/// The code of an error that is none of S3: the SDK drops the message of an error without a code.
pub(super) const NO_CODE: &str = "tar-like:none";

/// Whether the body is HTML.
fn is_web_page(body: &[u8]) -> bool {
    let start = body.trim_ascii_start();
    let has = |tag: &[u8]| start.get(..tag.len()).is_some_and(|start| start.eq_ignore_ascii_case(tag));
    has(b"<!doctype html") || has(b"<html")
}

/// The body of an answer, which ends before `limit` bytes.
async fn at_most(mut response: reqwest::Response, limit: usize) -> std::result::Result<Vec<u8>, BoxError> {
    let mut body = Vec::new();
    while let Some(bytes) = response.chunk().await? {
        if body.len() + bytes.len() > limit {
            return Err(format!("the answer has more than {limit} bytes, and goes on").into());
        }
        body.extend(bytes);
    }
    Ok(body)
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The SDK's request as one of the HTTP client.
fn to_reqwest(request: &HttpRequest) -> std::result::Result<Request, BoxError> {
    let url = Url::parse(request.uri())?;
    let mut converted = Request::new(Method::from_bytes(request.method().as_bytes())?, url);
    for (name, value) in request.headers().iter() {
        let name = HeaderName::from_bytes(name.as_bytes())?;
        let mut value = HeaderValue::from_str(value)?;
        value.set_sensitive(name == "authorization" || name == "x-amz-security-token");
        converted.headers_mut().append(name, value);
    }
    // All requests of this program have a short body, or none.
    let body = request.body().bytes().ok_or("a request with a body that streams")?;
    if !body.is_empty() {
        *converted.body_mut() = Some(Body::from(body.to_vec()));
    }
    Ok(converted)
}

/// An answer for the SDK.
fn to_sdk(
    status: u16,
    headers: Vec<(String, String)>,
    body: SdkBody,
) -> std::result::Result<HttpResponse, BoxError> {
    let mut answer = HttpResponse::new(status.try_into()?, body);
    for (name, value) in headers {
        answer.headers_mut().try_append(name, value)?;
    }
    Ok(answer)
}

/// All headers whose values are text.
fn all_headers(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |(name, value): (&HeaderName, &HeaderValue)| {
        Some((name.as_str().to_owned(), std::str::from_utf8(value.as_bytes()).ok()?.to_owned()))
    };
    headers.iter().filter_map(text).collect()
}

fn failed(error: reqwest::Error) -> ConnectorError {
    if error.is_timeout() { ConnectorError::timeout(error.into()) } else { ConnectorError::io(error.into()) }
}

/// The store has answered, but not to the end.
fn cut(error: BoxError) -> ConnectorError {
    ConnectorError::other(error, Some(aws_smithy_types::retry::ErrorKind::TransientError))
}

/// Part of the address of every GET of an object; every other GET is for a list. Keys and prefixes
/// have `=` encoded.
const OBJECT_MARK: &str = "x-id=GetObject";
