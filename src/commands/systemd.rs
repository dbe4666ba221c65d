//! The notification of systemd. Without systemd, it does nothing.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Tells the service manager that the program is ready, if one has started it and waits for that
/// (`Type=notify`).
pub(super) fn ready() {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else { return };
    let send = || {
        let address = match name.as_bytes() {
            // A name in the abstract namespace, which is no file.
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(&name)?,
        };
        UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address)
    };
    if let Err(e) = send() {
        tracing::warn!("cannot tell the service manager that the proxy is ready: {e}");
    }
}
