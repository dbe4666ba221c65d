//! TLS in: certificate, key and the authorities of clients, from files that may be replaced while
//! the server runs.

use super::reload::{Reloads, read};
use crate::error::{Error, ErrorKind, Result};
use parking_lot::RwLock;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The files, all PEM.
#[derive(Clone)]
pub struct TlsFiles {
    /// The server's certificate, and those between it and an authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Authorities: a client needs a certificate of one of them.
    pub client_ca: Option<PathBuf>,
}

/// How connections are encrypted.
pub struct Tls {
    files: TlsFiles,
    config: RwLock<Arc<ServerConfig>>,
    pub(super) reloads: Reloads,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// One cannot be read or is not what it should be, or key and certificate do not belong
    /// together.
    pub fn load(files: TlsFiles) -> Result<Self> {
        let config = RwLock::new(Arc::new(config(&files)?));
        Ok(Self { files, config, reloads: Reloads::default() })
    }

    /// Reads the files again, for connections that are yet to come. If anything is wrong with them,
    /// all stays as it is.
    ///
    /// # Errors
    /// As [`Tls::load`].
    pub fn reload(&self) -> Result<()> {
        let loaded = config(&self.files);
        self.reloads.count(&loaded);
        *self.config.write() = Arc::new(loaded?);
        Ok(())
    }

    /// Whether clients need a certificate.
    #[must_use]
    pub fn asks_for_certificate(&self) -> bool {
        self.files.client_ca.is_some()
    }

    pub(super) fn config(&self) -> Arc<ServerConfig> {
        self.config.read().clone()
    }
}

fn config(files: &TlsFiles) -> Result<ServerConfig> {
    let usage = |why: String| Error::new(ErrorKind::Usage, why);
    let chain = certificates("the certificate", &files.certificate)?;
    let key_path = files.key.display();
    let key = PrivateKeyDer::from_pem_slice(&read("the key", &files.key)?).map_err(|e| {
        usage(format!("{key_path} has no private key that can be used"))
            .with_source(e)
            .with_hint("it must be a PEM file with a key that is not encrypted")
    })?;
    warn_of_readers(&files.key);
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|e| Error::new(ErrorKind::Internal, "cannot set up TLS").with_source(e))?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let wrong = || usage(format!("{} has a certificate that is no authority's", path.display()));
            let mut roots = RootCertStore::empty();
            for certificate in certificates("the client CA", path)? {
                roots.add(certificate).map_err(|e| wrong().with_source(e))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|e| wrong().with_source(e))?)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|e| {
        let certificate = files.certificate.display();
        let why = match e {
            rustls::Error::InconsistentKeys(_) => {
                format!("the key in {key_path} is not that of the certificate in {certificate}")
            }
            _ => format!("cannot use the certificate in {certificate} with the key in {key_path}"),
        };
        usage(why).with_source(e).with_hint("in the certificate's file, the server's own must be the first")
    })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(what: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let pem = read(what, path)?;
    let found: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let no_pem =
        || Error::new(ErrorKind::Usage, format!("{what} {} is no PEM file of certificates", path.display()));
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(no_pem()),
        Err(e) => Err(no_pem().with_source(e)),
    }
}

fn warn_of_readers(key: &Path) {
    let mode = std::fs::metadata(key).map_or(0, |metadata| metadata.permissions().mode());
    if mode & 0o004 != 0 {
        tracing::warn!("every user of this host can read the key {}: chmod 600 it", key.display());
    }
}
