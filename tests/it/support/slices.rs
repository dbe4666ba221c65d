//! Several receivers on one folder.

use super::stress::free_port;
use super::{Lab, Proxy};
use std::ffi::OsString;
use std::path::Path;

/// A stripe that the files of a test fill many times, in bytes.
const STRIPE_BYTES: &str = "20K";

impl Lab {
    /// So many receivers on `base`, the first one first; `host` is where senders reach them.
    pub(crate) fn slices(&self, base: &Path, count: usize, host: &str, more: &[OsString]) -> Vec<Proxy> {
        let ports: Vec<u16> = (0..count).map(|_| free_port()).collect();
        let peers: Vec<String> = ports.iter().map(|port| format!("http://{host}:{port}")).collect();
        self.slices_named(base, &ports, &peers.join(","), more)
    }

    /// The same at these ports, with what `--peers` says.
    pub(crate) fn slices_named(
        &self,
        base: &Path,
        ports: &[u16],
        peers: &str,
        more: &[OsString],
    ) -> Vec<Proxy> {
        let start = |(number, port): (usize, &u16)| {
            let slice = format!("{}/{}", number + 1, ports.len());
            let mut flags = args!["--slice", slice, "--peers", peers];
            if !more.iter().any(|flag| flag == "--stripe-size") {
                flags.extend(args!["--stripe-size", STRIPE_BYTES]);
            }
            self.proxy_cmd(*port, base).args(flags).args(more.to_vec()).serve()
        };
        ports.iter().enumerate().map(start).collect()
    }
}
