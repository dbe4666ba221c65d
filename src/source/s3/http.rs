//! The HTTP below the SDK: the same client as towards a receiver, so that there is one TLS stack, one way to trust certificates
//! and one way to find a proxy.

use super::BucketOptions;
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

const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// Clones share their connections.
#[derive(Debug, Clone)]
pub(super) struct Http(reqwest::Client);

impl Http {
    pub(super) fn new(options: &BucketOptions) -> Result<Self> {
        let mut builder = reqwest::Client::builder()
            .http1_only()
            // The SDK signs for one host: a redirect is an error, which names the region that is right.
            .redirect(redirect::Policy::none())
            // We are the ones who try again.
            .retry(reqwest::retry::never())
            .connect_timeout(CONNECT_DEADLINE)
            // Until the next byte, not until the last: a slow body is none that hangs.
            .read_timeout(options.timeout)
            .pool_max_idle_per_host(options.requests)
            .tcp_nodelay(true);
        if let Some(path) = &options.ca_file {
            let what = || format!("cannot use the certificates in {} (AWS_CA_BUNDLE)", path.display());
            let pem = std::fs::read(path).map_err(|e| Error::io(what(), e).with_kind(ErrorKind::Usage))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem)
                .map_err(|e| Error::new(ErrorKind::Usage, what()).because(e))?;
            if certificates.is_empty() {
                return Err(Error::new(ErrorKind::Usage, format!("{}: there are none", what()))
                    .hint("it must be a PEM file"));
            }
            builder = builder.tls_certs_only(certificates);
        }
        let client = builder
            .tls_danger_accept_invalid_certs(!options.verify_tls)
            .build()
            .map_err(|e| Error::new(ErrorKind::Usage, "cannot set up HTTP for the bucket").because(e))?;
        Ok(Self(client))
    }
}

impl HttpClient for Http {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        // Deadlines are set above, once for all.
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Http {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let client = self.0.clone();
        HttpConnectorFuture::new(async move {
            let is_list = request.uri().contains(LIST_MARK);
            let request = outgoing(&request).map_err(ConnectorError::user)?;
            let response = client.execute(request).await.map_err(failed)?;
            let (status, headers) = (response.status(), response.headers().clone());
            let body = if is_list && status.is_success() {
                let bytes = response.bytes().await.map_err(failed)?;
                if !is_whole_list(&bytes) {
                    return Err(ConnectorError::io("the list ends in the middle".into()));
                }
                SdkBody::from(bytes)
            } else {
                SdkBody::from_body_1_x(Body::from(response))
            };
            incoming(status.as_u16(), &headers, body).map_err(|e| ConnectorError::other(e, None))
        })
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

fn outgoing(request: &HttpRequest) -> std::result::Result<Request, BoxError> {
    let url = Url::parse(request.uri())?;
    let mut outgoing = Request::new(Method::from_bytes(request.method().as_bytes())?, url);
    for (name, value) in request.headers().iter() {
        let name = HeaderName::from_bytes(name.as_bytes())?;
        let mut value = HeaderValue::from_str(value)?;
        value.set_sensitive(name == "authorization" || name == "x-amz-security-token");
        outgoing.headers_mut().append(name, value);
    }
    // Whatever we ask for has a short body, or none.
    let body = request.body().bytes().ok_or("a request with a body that streams")?;
    if !body.is_empty() {
        *outgoing.body_mut() = Some(Body::from(body.to_vec()));
    }
    Ok(outgoing)
}

fn incoming(status: u16, headers: &HeaderMap, body: SdkBody) -> std::result::Result<HttpResponse, BoxError> {
    let mut incoming = HttpResponse::new(status.try_into()?, body);
    for (name, value) in headers {
        // One that is no text means nothing to us.
        if let Ok(value) = std::str::from_utf8(value.as_bytes()) {
            incoming.headers_mut().try_append(name.as_str().to_owned(), value.to_owned())?;
        }
    }
    Ok(incoming)
}

fn failed(error: reqwest::Error) -> ConnectorError {
    if error.is_timeout() { ConnectorError::timeout(error.into()) } else { ConnectorError::io(error.into()) }
}

/// What every list is asked for with, and nothing else.
const LIST_MARK: &str = "encoding-type=url";

/// The SDK takes a document that ends in the middle for a shorter one: its keys would be missed by nobody.
fn is_whole_list(document: &[u8]) -> bool {
    document.trim_ascii_end().ends_with(b"</ListBucketResult>")
}
