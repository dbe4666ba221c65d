//! Three more S3 servers of others, in Python, which agree with each other and with moto in little
//! but what S3 demands. Each stores what is put there by a client, and says its ETags and times in
//! its own way. nanio checks signatures, the others do not.

use super::{KEY, PATIENCE, RcloneClient, SECRET, settings, tool};
use crate::support::run::{Lab, Running};
use crate::support::stress::free_port;
use crate::support::wait_until;
use std::net::TcpStream;

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Maker {
    LocalBucket,
    MiniStack,
    Nanio,
}

/// A running server; killed when dropped.
pub(crate) struct PythonServer {
    // Before the folder that it serves, so that it goes first.
    _running: Running,
    port: u16,
    _lab: Lab,
}

impl PythonServer {
    /// Starts one, without any bucket.
    pub(crate) fn start(maker: Maker) -> Self {
        let (lab, port) = (Lab::new(), free_port());
        let number = port.to_string();
        let root = lab.dir("buckets");
        let cmd = match maker {
            Maker::LocalBucket => lab.cmd(args!["--port", number, root]).program(&tool("localbucket")),
            Maker::Nanio => lab
                .cmd(args!["serve", "--data-dir", root, "--host", "127.0.0.1", "--port", number])
                .program(&tool("nanio"))
                .env("NANIO_ACCESS_KEY", KEY)
                .env("NANIO_SECRET_KEY", SECRET),
            Maker::MiniStack => lab
                .cmd(args!["-m", "ministack"])
                .program(&tool("python"))
                .env("BIND_HOST", "127.0.0.1")
                .env("GATEWAY_PORT", &number)
                .env("SERVICES", "s3"),
        };
        let running = cmd.spawn();
        wait_until(&format!("{maker:?} listens"), PATIENCE, || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Self { _running: running, port, _lab: lab }
    }

    /// `http://127.0.0.1:PORT`
    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The environment of a program that is to read `bucket`.
    pub(crate) fn env(&self, bucket: &str) -> Vec<(String, String)> {
        settings(&self.endpoint(), bucket)
    }

    /// A client of it.
    pub(crate) fn client(&self) -> RcloneClient {
        RcloneClient::new(&self.endpoint())
    }
}
