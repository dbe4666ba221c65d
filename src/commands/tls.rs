//! The flags of commands that speak TLS with a receiver.

use super::output::Output;
use crate::remote::TlsOptions;
use crate::telemetry::{Monitor, Notice};
use clap::Args;
use std::ffi::OsString;
use std::path::PathBuf;

#[derive(Clone, Default, Args)]
pub(super) struct TlsArgs {
    /// Do not verify the receiver's certificate
    #[arg(long)]
    ignore_ca: bool,
    /// A PEM file with certificates to trust in addition to the system's, or to those in
    /// SSL_CERT_FILE
    #[arg(long, value_name = "FILE", conflicts_with = "ignore_ca")]
    ca_file: Option<PathBuf>,
    /// A PEM file with this sender's certificate, for a receiver that asks for one
    #[arg(long, value_name = "FILE")]
    client_cert: Option<PathBuf>,
    /// A PEM file with the key of that certificate [default: the file of the certificate]
    #[arg(long, value_name = "FILE", requires = "client_cert")]
    client_key: Option<PathBuf>,
}

impl TlsArgs {
    pub(super) fn options(&self) -> TlsOptions {
        TlsOptions {
            ca_file: self.ca_file.clone(),
            ignore_ca: self.ignore_ca,
            client_cert: self.client_cert.clone(),
            client_key: self.client_key.clone(),
        }
    }

    /// The flags as they are typed.
    pub(super) fn flags(&self) -> Vec<OsString> {
        let files = [
            ("--ca-file", &self.ca_file),
            ("--client-cert", &self.client_cert),
            ("--client-key", &self.client_key),
        ];
        let files = files.into_iter().filter_map(|(flag, file)| Some([flag.into(), file.as_ref()?.into()]));
        self.ignore_ca.then(|| "--ignore-ca".into()).into_iter().chain(files.flatten()).collect()
    }

    /// Warns that the certificate is not verified.
    pub(super) fn warn(&self, output: &Output) {
        if self.ignore_ca {
            output.notice(Notice::Warning(
                "--ignore-ca: the receiver's certificate is not verified".to_string(),
            ));
        }
    }
}
