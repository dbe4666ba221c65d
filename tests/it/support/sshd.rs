//! A real sshd on loopback, with keys of its own; and a command that stands for ssh where only the
//! shell over there matters.

use super::stress::free_port;
use super::{Lab, need_tool, wait_until};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long sshd may take to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// An sshd; killed when dropped.
pub(crate) struct Sshd {
    child: Child,
    pub(crate) port: u16,
    /// The command that logs in there: `--rsh`.
    pub(crate) rsh: String,
}

/// Makes the key `name`.
fn key(lab: &Lab, name: &str) -> PathBuf {
    need_tool("ssh-keygen", "apt-get install openssh-client");
    let path = lab.path(name);
    let made =
        Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&path).status().unwrap();
    assert!(made.success());
    path
}

impl Sshd {
    /// Starts one that reads `more` at the end of its configuration.
    pub(crate) fn start(lab: &Lab, more: &str) -> Self {
        need_tool("sshd", "apt-get install openssh-server");
        let (host_key, user_key, port) = (key(lab, "host-key"), key(lab, "user-key"), free_port());
        let keys = lab.file("authorized_keys", std::fs::read(user_key.with_extension("pub")).unwrap());
        std::fs::set_permissions(&keys, PermissionsExt::from_mode(0o600)).unwrap();
        let config = lab.file(
            "sshd_config",
            format!(
                "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\n\
                 StrictModes no\nUsePAM no\nPermitRootLogin yes\nPasswordAuthentication no\n\
                 KbdInteractiveAuthentication no\n{more}\n",
                host_key.display(),
                keys.display()
            ),
        );
        // Where root separates privileges; Debian's package makes it when the service starts.
        let _ = std::fs::create_dir_all("/run/sshd");
        // sshd wants its full path, to start itself again for each connection.
        let program = std::env::split_paths(&std::env::var_os("PATH").unwrap())
            .map(|folder| folder.join("sshd"))
            .find(|path| path.is_file())
            .unwrap();
        let child = Command::new(program)
            .args(["-D", "-e", "-f"])
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_until("sshd listens", PATIENCE, || TcpStream::connect(("127.0.0.1", port)).is_ok());
        let known = lab.path("known_hosts");
        let rsh = format!(
            "ssh -F none -i {} -o IdentitiesOnly=yes -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile={}",
            user_key.display(),
            known.display()
        );
        Self { child, port, rsh }
    }

    /// The place `path` over there.
    pub(crate) fn place(&self, path: &std::path::Path) -> String {
        format!("ssh://127.0.0.1:{}{}", self.port, path.display())
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command in ssh's place that runs the shell of this host, in the folder `there` as home. It
/// runs `before` first, and leaves its number in `pid`.
pub(crate) fn rsh(lab: &Lab, before: &str) -> PathBuf {
    let (there, pid) = (lab.dir("there"), lab.path("pid"));
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = -p ] && shift 2\nshift\ncd '{there}' || exit 255\nHOME='{there}'\nexport HOME\n\
         echo $$ >> '{pid}'\n{before}\nexec sh -c \"exec $*\"\n",
        there = there.display(),
        pid = pid.display(),
    );
    let path = lab.file("rsh", script);
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path
}
