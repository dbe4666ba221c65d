//! Certificates, made by openssl, and a client that shows a server's certificate.

use super::http::{self, Response};
use super::{Lab, need_tool};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// A certificate with its key, as files.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

/// Signs certificates.
pub(crate) struct Authority {
    dir: PathBuf,
    own: Identity,
}

/// The names that a receiver of a test has.
pub(crate) const NAMES: &str = "subjectAltName=IP:127.0.0.1,IP:0.0.0.0,DNS:localhost,DNS:receiver.test";
/// The extensions of a certificate without names.
pub(crate) const SENDER: &str = "basicConstraints=CA:false";
const OF_CA: &str = "basicConstraints=critical,CA:true";

#[track_caller]
fn openssl(args: &[&str]) {
    need_tool("openssl", "apt-get install openssl");
    let output = Command::new("openssl").args(args).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

impl Authority {
    /// A self-signed authority.
    pub(crate) fn new(lab: &Lab, name: &str) -> Self {
        let dir = lab.dir(&format!("{name}-ca"));
        let own = Identity { cert: dir.join("ca.pem"), key: dir.join("ca.key") };
        let subject = format!("/CN={name}");
        let ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        let files = ["-keyout", text(&own.key), "-out", text(&own.cert), "-days", "30", "-subj", &subject];
        openssl(&[&["req", "-x509"][..], &ec, &files].concat());
        Self { dir, own }
    }

    /// An authority that this one has signed.
    pub(crate) fn intermediate(&self, name: &str) -> Self {
        Self { dir: self.dir.clone(), own: self.issue_for(name, OF_CA, 30) }
    }

    /// The files with which it signs.
    pub(crate) fn own(&self) -> &Identity {
        &self.own
    }

    /// Its certificate, for clients that trust it.
    pub(crate) fn pem(&self) -> &Path {
        &self.own.cert
    }

    /// A certificate for a receiver that runs here, or for a sender.
    pub(crate) fn issue(&self, name: &str) -> Identity {
        self.issue_for(name, NAMES, 30)
    }

    /// A certificate with other names, or for fewer days: with 0 it has expired a second later.
    pub(crate) fn issue_for(&self, name: &str, extension: &str, days: u32) -> Identity {
        let path = |end: &str| self.dir.join(format!("{name}.{end}"));
        let (cert, key, request, extensions) = (path("pem"), path("key"), path("csr"), path("ext"));
        std::fs::write(&extensions, extension).unwrap();
        let subject = format!("/CN={name}");
        let ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
        let files = ["-keyout", text(&key), "-out", text(&request), "-subj", &subject];
        openssl(&[&["req"][..], &ec, &files].concat());
        let days = days.to_string();
        let ca = ["-CA", text(&self.own.cert), "-CAkey", text(&self.own.key), "-CAcreateserial"];
        let files =
            ["-in", text(&request), "-out", text(&cert), "-days", &days, "-extfile", text(&extensions)];
        openssl(&[&["x509", "-req"][..], &ca, &files].concat());
        Identity { cert, key }
    }
}

/// A connection to a server with TLS, whose certificate must be of `ca`.
pub(crate) fn connect(
    addr: SocketAddr,
    ca: &Authority,
    own: Option<&Identity>,
) -> std::io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca.pem()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match own {
        None => config.with_no_client_auth(),
        Some(own) => {
            let chain = vec![CertificateDer::from_pem_file(&own.cert).unwrap()];
            config.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(&own.key).unwrap()).unwrap()
        }
    };
    let name = ServerName::from(addr.ip());
    let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream)?;
    }
    Ok(StreamOwned::new(connection, stream))
}

/// The certificate that the server presents.
pub(crate) fn shown(addr: SocketAddr, ca: &Authority, own: Option<&Identity>) -> Vec<u8> {
    let stream = connect(addr, ca, own).unwrap();
    stream.conn.peer_certificates().unwrap()[0].to_vec()
}

/// The first certificate in a file, in the same form.
pub(crate) fn der(identity: &Identity) -> Vec<u8> {
    CertificateDer::from_pem_file(&identity.cert).unwrap().to_vec()
}

/// A GET over TLS.
pub(crate) fn get(
    addr: SocketAddr,
    ca: &Authority,
    own: Option<&Identity>,
    path: &str,
    headers: &str,
) -> std::io::Result<Response> {
    let mut stream = connect(addr, ca, own)?;
    let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(head.as_bytes())?;
    stream.flush()?;
    // Only the first read reports a failed handshake.
    let mut first = [0];
    stream.read_exact(&mut first)?;
    http::read_response(&mut first.chain(stream)).ok_or_else(|| ErrorKind::UnexpectedEof.into())
}
