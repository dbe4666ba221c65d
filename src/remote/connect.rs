//! How a connection to a receiver is made: address, certificates, proxies; and what it means when
//! that fails.

use super::answer::PROXY_PASSWORD;
use super::retry::Failed;
use crate::error::{Error, ErrorKind, Result};
use hyper_util::client::proxy::matcher::Matcher;
use reqwest::{Certificate, ClientBuilder, Identity, Url, redirect};
use rustls::{AlertDescription, CertificateError};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// Whom to trust, and how to be trusted.
#[derive(Debug, Clone, Default)]
pub struct TlsOptions {
    /// A PEM file with the certificates to trust beside the system's.
    pub ca_file: Option<PathBuf>,
    /// Do not verify the receiver's certificate.
    pub ignore_ca: bool,
    /// A PEM file with the sender's own certificate.
    pub client_cert: Option<PathBuf>,
    /// A PEM file with its key; `None` is that of the certificate.
    pub client_key: Option<PathBuf>,
}

fn usage(why: String) -> Error {
    Error::new(ErrorKind::Usage, why)
}

/// The address of something that speaks HTTP.
pub(super) fn address(text: &str) -> Result<Url> {
    let example = "for example http://host:8000/tar";
    let url =
        Url::parse(text).map_err(|e| usage(format!("\"{text}\" is no address: {e}")).with_hint(example))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(usage(format!("\"{text}\" is no http or https address")).with_hint(example));
    }
    if !url.username().is_empty()
        || url.password().is_some()
        || url.query().is_some()
        || url.fragment().is_some()
    {
        return Err(usage("the address must have no user, password, query or fragment".to_string())
            .with_hint("give the token by --token-file or TARLIKE_TOKEN"));
    }
    Ok(url)
}

/// The address of a receiver's archives as all clients write it: two addresses that are written
/// alike are those of one receiver.
///
/// # Errors
/// As of a client: it is no address, or not that of a receiver.
pub fn receiver_address(text: &str) -> Result<String> {
    base(text).map(|url| url.as_str().trim_end_matches('/').to_owned())
}

/// The address of a receiver's archives, with a slash at its end. Without a path it is that of a
/// receiver without a prefix.
///
/// # Errors
/// It is no address, or its path does not end in `/tar`: it would name no folder.
pub(super) fn base(text: &str) -> Result<Url> {
    let mut url = address(text)?;
    let path = url.path().trim_end_matches('/').to_owned();
    let names: Vec<&str> = path.split('/').skip(1).collect();
    let hint = match *names {
        [] | [.., "tar"] => {
            let path = if names.is_empty() { "/tar" } else { &*path };
            url.set_path(&format!("{path}/"));
            return Ok(url);
        }
        [.., "tar", number] if number.bytes().all(|b| b.is_ascii_digit()) => {
            let end = text.trim_end_matches('/').len() - number.len();
            let base = text.get(..end).unwrap_or(text).trim_end_matches('/');
            format!("the number of an archive is an option: {base} --tar-id {number}")
        }
        _ => {
            url.set_path("/tar");
            format!(
                "the path names no folder there, and is /tar unless a reverse proxy puts another one before it: \
                 give {url}. Each source is an archive of its own (--tar-id)"
            )
        }
    };
    Err(usage(format!("the path of {text} is not that of a receiver, which ends in /tar")).with_hint(hint))
}

/// Whether an address is what this host calls itself.
pub(super) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.to_canonical().is_loopback())
}

/// Whether what is sent to this address can be read on the way.
#[must_use]
pub fn is_readable_on_the_way(address: &str) -> bool {
    Url::parse(address).is_ok_and(|url| url.scheme() == "http" && !is_loopback(&url))
}

/// The HTTP proxy through which the environment wants `url` to be reached, without name and
/// password.
pub(super) fn proxy_of(url: &Url) -> Option<String> {
    let environment = Matcher::from_env();
    let by_proxy = |url: &str| environment.intercept(&url.parse().ok()?);
    let proxy = by_proxy(url.as_str())?;
    // `NO_PROXY=*` is meant for addresses, too, which the matcher takes it for names only.
    let all_direct = by_proxy(&format!("{}://any-other-host.invalid/", url.scheme())).is_none();
    // What this host calls itself cannot be reached from elsewhere.
    (!all_direct && !is_loopback(url)).then(|| proxy.uri().to_string().trim_end_matches('/').to_string())
}

/// The beginning of a client for `url`.
pub(super) fn builder(url: &Url, tls: &TlsOptions) -> Result<ClientBuilder> {
    let mut http = reqwest::Client::builder()
        .http1_only()
        .redirect(redirect::Policy::none())
        .connect_timeout(CONNECT_DEADLINE)
        .tcp_nodelay(true)
        .user_agent(concat!("tar-like/", env!("CARGO_PKG_VERSION")));
    if proxy_of(url).is_none() {
        http = http.no_proxy();
    }
    if url.scheme() == "http" {
        // No certificate is read: a host without any trusted one can still talk plain HTTP.
        return Ok(http.tls_certs_only([]));
    }
    if let Some(certificate) = &tls.client_cert {
        http = http.identity(identity(certificate, tls.client_key.as_deref())?);
    }
    if tls.ignore_ca {
        return Ok(http.tls_certs_only([]).tls_danger_accept_invalid_certs(true));
    }
    match &tls.ca_file {
        Some(path) => Ok(http.tls_certs_merge(authorities(path)?)),
        None => Ok(http),
    }
}

/// The client that was begun.
pub(super) fn build(http: ClientBuilder) -> Result<reqwest::Client> {
    http.build().map_err(|e| {
        usage("cannot set up the HTTP client".to_string()).with_source(e).with_hint(
            "for https: is the package ca-certificates installed, does SSL_CERT_FILE name a file, do key and certificate fit?",
        )
    })
}

fn read(what: &str, path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| {
        Error::io(format!("cannot read {what} {}", path.display()), e).with_kind(ErrorKind::Usage)
    })
}

fn authorities(path: &Path) -> Result<Vec<Certificate>> {
    let certificates = Certificate::from_pem_bundle(&read("the CA file", path)?)
        .map_err(|e| usage(format!("{} is no PEM file of certificates", path.display())).with_source(e))?;
    if certificates.is_empty() {
        return Err(usage(format!("{} has no certificate", path.display())));
    }
    Ok(certificates)
}

fn identity(certificate: &Path, key: Option<&Path>) -> Result<Identity> {
    let mut pem = read("the client certificate", certificate)?;
    if let Some(key) = key {
        pem.push(b'\n');
        pem.extend(read("the client key", key)?);
    }
    let key = key.unwrap_or(certificate);
    Identity::from_pem(&pem).map_err(|e| {
        let (certificate, key) = (certificate.display(), key.display());
        usage(format!("{certificate} and {key} have no certificate with a key that can be used"))
            .with_source(e)
            .with_hint("both must be PEM, and the key not encrypted")
    })
}

/// What a request that got no answer means. `was_reached` says that a receiver has answered before,
/// so that this one is there, too; `proxy` leads to it.
pub(super) fn failure(e: reqwest::Error, was_reached: bool, proxy: Option<&str>) -> Failed {
    if let Some(proxy) = proxy.filter(|_| e.is_connect() && tls_error(&e).is_none()) {
        return proxy_failure(e, proxy);
    }
    if let Some((what, hint)) = tls_error(&e).and_then(|error| meaning(error, was_reached)) {
        return Error::new(ErrorKind::Untrusted, what).with_source(e.without_url()).with_hint(hint).into();
    }
    let what =
        if e.is_timeout() { "the receiver did not answer in time" } else { "cannot reach the receiver" };
    // An address that is none does not get better by trying again; everything else may.
    let kind = if e.is_builder() { ErrorKind::Internal } else { ErrorKind::Unreachable };
    Error::new(kind, what).with_source(e.without_url()).into()
}

/// There is no connection by way of `proxy`.
fn proxy_failure(e: reqwest::Error, proxy: &str) -> Failed {
    let mut causes = Vec::new();
    let mut cause = std::error::Error::source(&e);
    while let Some(error) = cause {
        causes.push(error.to_string());
        cause = error.source();
    }
    // The library says it in words only.
    let says = |what: &str| causes.iter().any(|cause| cause.contains(what));
    let (kind, what, hint) = if says("proxy authorization required") {
        (
            ErrorKind::Unauthorized,
            format!("the HTTP proxy {proxy} wants a name and a password"),
            PROXY_PASSWORD,
        )
    } else if says("tunnel error") && !says("failed to create underlying connection") {
        let hint = "it may not know the receiver's name, or not be allowed to reach it: ask its operator, or name the receiver in NO_PROXY";
        (ErrorKind::Unreachable, format!("the HTTP proxy {proxy} does not lead to the receiver"), hint)
    } else {
        let hint = "the environment names it (http_proxy, https_proxy or all_proxy): correct that, or name the receiver in NO_PROXY";
        (ErrorKind::Unreachable, format!("cannot reach the HTTP proxy {proxy}"), hint)
    };
    Error::new(kind, what).with_source(e.without_url()).with_hint(hint).into()
}

/// What, and what to do, for an error that stays; `None` for what may have been an accident on the
/// way.
fn meaning(error: &rustls::Error, was_reached: bool) -> Option<(&'static str, &'static str)> {
    use AlertDescription as Alert;
    let untrusted = "the receiver's certificate is not valid";
    Some(match error {
        rustls::Error::InvalidCertificate(e) => match e {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                (untrusted, "it has expired: the receiver needs a new one (is the clock here right?)")
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                (untrusted, "it is for other names: use one of them in the address")
            }
            // An authority's own certificate, as `openssl req -x509` makes it. Its type is another
            // library's.
            CertificateError::Other(e) if format!("{e:?}").contains("CaUsedAsEndEntity") => (
                untrusted,
                "it is that of an authority (CA:TRUE), which no receiver may show, also where --ca-file names it: make another one with \
                 scripts/make-certificate, or with openssl req -x509 -addext basicConstraints=critical,CA:FALSE -addext subjectAltName=DNS:HOST",
            ),
            _ => (untrusted, "trust the receiver's CA with --ca-file FILE"),
        },
        rustls::Error::AlertReceived(
            Alert::CertificateRequired
            | Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::DecryptError,
        ) => (
            "the receiver does not accept this sender's certificate",
            "give one that its --client-ca has signed, with --client-cert FILE and --client-key FILE",
        ),
        _ if was_reached => return None,
        rustls::Error::AlertReceived(Alert::ProtocolVersion | Alert::HandshakeFailure)
        | rustls::Error::PeerIncompatible(_) => (
            "the receiver and this program have no version or cipher of TLS in common",
            "TLS 1.2 or 1.3 is needed",
        ),
        rustls::Error::InvalidMessage(_) => (
            "what answers at this address does not speak TLS",
            "is it a plain http:// address? A receiver speaks TLS with --tls-cert, or behind a proxy that does",
        ),
        _ => return None,
    })
}

fn tls_error(error: &reqwest::Error) -> Option<&rustls::Error> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(error);
    while let Some(e) = cause {
        // An I/O error hands out the causes of what is in it, but not that itself.
        let inner = e.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let found = e.downcast_ref().or_else(|| inner.and_then(|inner| inner.downcast_ref()));
        if found.is_some() {
            return found;
        }
        cause = match inner {
            Some(inner) => Some(inner),
            None => e.source(),
        };
    }
    None
}
