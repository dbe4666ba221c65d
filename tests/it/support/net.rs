//! Hosts with a link each: network namespaces around the bridge of a hub. The processes that hold
//! them end with the test, and nothing of them has a name outside.

use super::{is_root, need_tool, skip};
use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

/// For documentation only: no real network has such addresses.
const HUB: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// A hub and its hosts; gone when dropped.
pub(crate) struct Network {
    _hub: Namespace,
    hosts: Vec<Namespace>,
}

impl Network {
    /// Makes a hub and `hosts` hosts. The calling thread is at the hub from then on, with all that it
    /// starts. `None`, with a printed reason, where that is not permitted.
    pub(crate) fn enter(hosts: usize) -> Option<Self> {
        need_tool("ip", "apt-get install iproute2");
        need_tool("unshare", "apt-get install util-linux");
        if !is_root() {
            skip("only root may make network namespaces");
            return None;
        }
        let made: Option<Vec<_>> = (0..=hosts).map(|_| Namespace::new()).collect();
        let Some(mut hosts) = made else {
            skip("this machine permits no network namespaces");
            return None;
        };
        let hub = hosts.remove(0);
        let file = std::fs::File::open(format!("/proc/{}/ns/net", hub.0.id())).unwrap();
        rustix::thread::move_into_link_name_space(file.as_fd(), None).unwrap();
        let mut lines = format!(
            "link set lo up\nlink add hub type bridge\naddress add {HUB}/24 dev hub\nlink set hub up\n"
        );
        for (number, host) in hosts.iter().enumerate() {
            let pid = host.0.id();
            lines += &format!("link add host{number} type veth peer name cable netns {pid}\n");
            lines += &format!("link set host{number} master hub up\n");
        }
        ip(&[], &lines);
        for (number, host) in hosts.iter().enumerate() {
            let address = Ipv4Addr::new(192, 0, 2, 10 + number as u8);
            let lines = format!("link set lo up\naddress add {address}/24 dev cable\nlink set cable up\n");
            ip(&host.inside(), &lines);
        }
        Some(Self { _hub: hub, hosts })
    }

    /// The address of the hub, as hosts see it.
    pub(crate) fn hub(&self) -> Ipv4Addr {
        HUB
    }

    /// What the command of a process at this host begins with.
    pub(crate) fn inside(&self, host: usize) -> Vec<OsString> {
        self.hosts[host].inside()
    }

    /// Pulls the cable of this host, or plugs it in again.
    pub(crate) fn plug(&self, host: usize, is_in: bool) {
        ip(&[], &format!("link set host{host} {}\n", if is_in { "up" } else { "down" }));
    }

    /// Has this host send at most so many bytes a second; `None` for no limit.
    pub(crate) fn limit(&self, host: usize, bytes_per_s: Option<u64>) {
        need_tool("tc", "apt-get install iproute2");
        let what = match bytes_per_s {
            Some(rate) => format!("replace dev cable root tbf rate {}bit burst 3kb latency 500ms", rate * 8),
            None => "del dev cable root".to_string(),
        };
        let mut words = self.inside(host);
        words.extend(args!["tc", "qdisc"]);
        words.extend(what.split(' ').map(OsString::from));
        assert!(Command::new(&words[0]).args(&words[1..]).status().unwrap().success(), "{words:?}");
    }
}

/// A network namespace, as long as the process that holds it.
struct Namespace(Child);

impl Namespace {
    fn new() -> Option<Self> {
        let holder = Command::new("unshare")
            .args(["--net", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut namespace = Self(holder);
        // The answer comes out of the new namespace.
        let _ = namespace.0.stdin.as_mut().unwrap().write_all(b"\n");
        namespace.0.stdout.as_mut().unwrap().read_exact(&mut [0]).ok()?;
        Some(namespace)
    }

    fn inside(&self) -> Vec<OsString> {
        args!["nsenter", format!("--net=/proc/{}/ns/net", self.0.id()), "--"]
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs lines of commands of `ip`, in the namespace of `inside`.
fn ip(inside: &[OsString], lines: &str) {
    let mut words = inside.to_vec();
    words.extend(args!["ip", "-batch", "-"]);
    let mut child = Command::new(&words[0]).args(&words[1..]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "ip cannot do this:\n{lines}");
}
