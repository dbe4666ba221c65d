"""The two ends of a transfer: where they are, the receivers, and running tar-like."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
from pathlib import Path

from bench import Bench
from measure import Daemon, Sample, Stop


def rsync_daemon(bench: Bench) -> tuple[Daemon, str]:
    port, place = free_port(), bench.place
    config = bench.run / "rsyncd.conf"
    lines = ["use chroot = no", "munge symlinks = no", "reverse lookup = no"]
    lines += ["[dest]", f"path = {bench.dest}", "read only = no"]
    if os.geteuid() == 0:
        lines += ["uid = 0", "gid = 0"]
    config.write_text("\n".join(lines) + "\n")
    log = bench.log("rsync daemon")
    command = [*place.receiver, bench.tools["rsync"], "--daemon", "--no-detach", f"--config={config}"]
    daemon = bench.runner.start([*command, f"--address={place.address}", f"--port={port}", f"--log-file={log}"], log)
    daemon.until(lambda: listens(daemon.pid, port), f"on port {port}")
    return daemon, f"rsync://{place.address}:{port}/dest"


def run_rsync_once(bench: Bench, data, key: str, options: str = "-a") -> Sample:
    return run_rsync_from(bench, data.tree, key, options)


def run_rsync_from(bench: Bench, tree: Path, key: str, *options: str) -> Sample:
    daemon, url = rsync_daemon(bench)
    command = [*bench.place.sender, bench.tools["rsync"], *options, f"{tree}/", f"{url}/"]
    sample = bench.runner.run(command, bench.log(key))
    # It forks for every connection; 20 is its exit code for a signal.
    daemon.until_idle()
    sample.receiver = daemon.stop(expected=(0, 20))
    return sample


def run_alone(bench: Bench, arguments: list, name: str) -> Sample:
    command = [*bench.place.sender, bench.tools["tar-like"], *arguments]
    return bench.runner.run(command, bench.log(f"tar-like {name}"), env=environment(bench))


def run_with(bench: Bench, proxy: Daemon, arguments: list, name: str) -> Sample:
    proxy.mark()
    sample = run_alone(bench, arguments, name)
    sample.receiver = proxy.since_mark()
    return sample


def databases(bench: Bench) -> list:
    return ["-db", bench.run / "index.sqlite", "-dbp", bench.run / "progress.sqlite"]


def start_proxy(bench: Bench, *options: str) -> tuple[Daemon, str]:
    log, place = bench.log("tar-like proxy"), bench.place
    log.unlink(missing_ok=True)
    command = [*place.receiver, bench.tools["tar-like"], "proxy", "0", "-b", bench.dest, *options]
    if place.receiver:
        command += ["--bind", place.address, "--insecure"]
    daemon = bench.runner.start(command, log, env=environment(bench))

    def url() -> str | None:
        found = re.search(r"listening on (http://[^\s/]+)", log.read_text(errors="replace"))
        return f"{found[1]}/tar" if found else None

    return daemon, daemon.until(url, "no line 'listening on'")


def environment(bench: Bench) -> dict[str, str]:
    """Nothing of the user's: no settings, no databases in the home folder, no HTTP proxy between the two ends."""
    hosts = bench.place.address
    return {"HOME": str(bench.run), "PATH": os.environ["PATH"], "NO_PROXY": hosts, "no_proxy": hosts}


def verify(bench: Bench, data) -> str:
    """Compares source and destination with tools that are not tar-like."""
    said = []
    environment = {**os.environ, "LC_ALL": "C"}
    if "rsync" in bench.tools:
        command = [bench.tools["rsync"], "-anci", "--delete", "--exclude=/.tar-like", f"{data.tree}/", f"{bench.dest}/"]
        result = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment)
        # The root folder's own time is not what was transferred.
        lines = [line for line in result.stdout.splitlines() if not re.fullmatch(r"\.d\S+ \./", line)]
        refuse_differences("rsync -anc --delete", result, lines)
        said.append("`rsync -anc --delete`")
    command = [bench.tools["diff"], "-r", "--no-dereference", "--exclude=.tar-like", str(data.tree), str(bench.dest)]
    result = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment)
    refuse_differences("diff -r", result, result.stdout.splitlines())
    said.append("`diff -r --no-dereference`")
    return f"The tree that `sync` wrote was compared with the source: no difference ({', '.join(said)})."


def refuse_differences(name: str, result: subprocess.CompletedProcess, lines: list[str]) -> None:
    lines = lines + result.stderr.splitlines()
    if result.returncode != 0 or lines:
        shown = "\n".join(f"    {line}" for line in lines[:20])
        raise Stop(
            f"VERIFICATION FAILED: {name} ended with {result.returncode} and {len(lines)} lines\n{shown}",
            short="WRONG TREE",
        )


# --- Ports ---


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listens(pid: int | None, port: int) -> bool:
    """Whether somebody listens on the port where that process is: the table is that of its network namespace."""
    with contextlib.suppress(OSError):
        rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
        return any(row[1].endswith(f":{port:04X}") and row[3] == "0A" for row in rows)
    return False
