//! Addresses to listen on, as users write them.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::str::FromStr;

/// An address without a port. A link-local one includes its interface (`fe80::1%eth0`). Brackets
/// around it are accepted (`[::1]`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BindAddress {
    pub(super) ip: IpAddr,
    zone: u32,
}

impl BindAddress {
    pub(super) fn with_port(self, port: u16) -> SocketAddr {
        match self.ip {
            IpAddr::V4(_) => SocketAddr::new(self.ip, port),
            IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, self.zone).into(),
        }
    }
}

impl FromStr for BindAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        let wrong =
            || format!("\"{text}\" is not an address such as 127.0.0.1, 0.0.0.0, ::1 or fe80::1%eth0");
        let Some((ip, zone)) = bare.split_once('%') else {
            return Ok(Self { ip: bare.parse().map_err(|_| wrong())?, zone: 0 });
        };
        let ip = ip.parse::<Ipv6Addr>().map_err(|_| wrong())?.into();
        // In a URL the percent sign is written as %25.
        let zone = zone.strip_prefix("25").filter(|zone| !zone.is_empty()).unwrap_or(zone);
        let zone =
            interface(zone).ok_or_else(|| format!("\"{text}\": there is no network interface {zone}"))?;
        Ok(Self { ip, zone })
    }
}

/// The number of a network interface, which is given as that number or as a name.
fn interface(zone: &str) -> Option<u32> {
    let plain = zone.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:@".contains(&b));
    if !plain || zone.starts_with('.') {
        return None;
    }
    zone.parse().ok().or_else(|| {
        let index = std::fs::read_to_string(format!("/sys/class/net/{zone}/ifindex")).ok()?;
        index.trim().parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_people_write_them() {
        let bound = |text: &str| text.parse::<BindAddress>().unwrap().with_port(80).to_string();
        assert_eq!(bound("127.0.0.1"), "127.0.0.1:80");
        assert_eq!((bound("::1"), bound("[::1]")), ("[::1]:80".to_string(), "[::1]:80".to_string()));
        for link_local in ["fe80::1%lo", "[fe80::1%lo]", "fe80::1%1", "[fe80::1%25lo]"] {
            assert_eq!(bound(link_local), "[fe80::1%1]:80", "{link_local}");
        }
        for wrong in [
            "",
            "[]",
            "[::1",
            "::1]",
            "localhost",
            "127.0.0.1%lo",
            "fe80::1%",
            "fe80::1%no-such",
            "fe80::1%../lo",
        ] {
            assert!(wrong.parse::<BindAddress>().is_err(), "{wrong}");
        }
    }
}
