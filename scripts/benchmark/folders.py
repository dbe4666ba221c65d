"""The section folder to folder: on one machine, over loopback where a tool has a network side."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
from dataclasses import dataclass
from typing import Callable

from bench import Bench, file_system
from measure import Daemon, Stop


@dataclass
class Row:
    key: str
    label: str
    versus: str | None = None  # a second ratio, to this row


@dataclass
class Job:
    """Runs that belong together. run yields (row's key, Sample), or (row's key, text) for a note in the report."""

    name: str
    about: str
    needs: list[str]
    rows: list[Row]
    run: Callable


@dataclass
class Section:
    title: str
    sets: list[str]
    jobs: list[Job]
    base: str  # the row that ratios refer to


# --- Other tools ---


def run_cp(bench: Bench, data, first: bool):
    command = [bench.tools["cp"], "-a", "--reflink=never", f"{data.tree}/.", f"{bench.dest}/"]
    yield "cp", bench.runner.run(command, bench.log("cp"))
    if first:
        bench.compare_counts(data, "cp")


def run_rsync(bench: Bench, data, first: bool):
    for key in ("rsync", "rsync again"):
        daemon, url = rsync_daemon(bench)
        sample = bench.runner.run([bench.tools["rsync"], "-a", f"{data.tree}/", f"{url}/"], bench.log(key))
        # It forks for every connection; 20 is its exit code for a signal.
        daemon.until_idle()
        sample.receiver = daemon.stop(expected=(0, 20))
        yield key, sample
    if first:
        bench.compare_counts(data, "rsync")


def rsync_daemon(bench: Bench) -> tuple[Daemon, str]:
    port = free_port()
    config = bench.run / "rsyncd.conf"
    lines = ["use chroot = no", "munge symlinks = no", "reverse lookup = no"]
    lines += ["[dest]", f"path = {bench.dest}", "read only = no"]
    if os.geteuid() == 0:
        lines += ["uid = 0", "gid = 0"]
    config.write_text("\n".join(lines) + "\n")
    command = [bench.tools["rsync"], "--daemon", "--no-detach", f"--config={config}"]
    log = bench.log("rsync daemon")
    daemon = bench.runner.start([*command, "--address=127.0.0.1", f"--port={port}", f"--log-file={log}"], log)
    daemon.until(lambda: accepts(port), f"on port {port}")
    return daemon, f"rsync://127.0.0.1:{port}/dest"


def run_tar_lz4(bench: Bench, data, first: bool):
    tar, lz4 = bench.tools["tar"], bench.tools["lz4"]
    senders = [[tar, "-C", data.tree, "-cf", "-", "."], [lz4, "-q", "-c"]]
    receivers = [[lz4, "-q", "-d", "-c"], [tar, "-C", bench.dest, "-xpf", "-"]]
    yield "tar | lz4", bench.runner.run_linked(senders, receivers, bench.log("tar lz4"))
    if first:
        bench.compare_counts(data, "tar | lz4")


def run_rclone(bench: Bench, data, first: bool):
    config = bench.run / "rclone.conf"
    config.touch()
    command = [bench.tools["rclone"], "copy", "--config", config, "--transfers", "8", "--links"]
    command += ["--create-empty-src-dirs", "--quiet", data.tree, bench.dest]
    yield "rclone", bench.runner.run(command, bench.log("rclone"))
    if first:
        bench.compare_counts(data, "rclone")


# --- tar-like ---


def run_sync(bench: Bench, data, first: bool):
    proxy, url = start_proxy(bench)
    databases = ["-db", bench.run / "index.sqlite", "-dbp", bench.run / "progress.sqlite"]
    for key in ("sync", "sync again"):
        yield key, run_with(bench, proxy, ["sync", data.tree, url, *databases], key)
    proxy.stop()
    yield "check", run_alone(bench, ["check", "-b", bench.dest, "-db", bench.run / "index.sqlite"], "check")
    if first:
        yield "sync", verify(bench, data)


def run_steps(bench: Bench, data, first: bool):
    index = bench.run / "index.sqlite"
    yield "index", run_alone(bench, ["index", "-b", data.tree, "-db", index], "index")
    proxy, url = start_proxy(bench)
    command = ["upload", "-b", data.tree, "-db", index, "-dbp", bench.run / "progress.sqlite", "-u", url]
    yield "upload", run_with(bench, proxy, command, "upload")
    proxy.stop()
    if first:
        bench.compare_counts(data, "upload")


def run_alone(bench: Bench, arguments: list, name: str):
    return bench.runner.run([bench.tools["tar-like"], *arguments], bench.log(f"tar-like {name}"), env=environment(bench))


def run_with(bench: Bench, proxy: Daemon, arguments: list, name: str):
    proxy.mark()
    sample = run_alone(bench, arguments, name)
    sample.receiver = proxy.since_mark()
    return sample


def start_proxy(bench: Bench) -> tuple[Daemon, str]:
    log = bench.log("tar-like proxy")
    log.unlink(missing_ok=True)
    daemon = bench.runner.start([bench.tools["tar-like"], "proxy", "0", "-b", bench.dest], log, env=environment(bench))

    def url() -> str | None:
        found = re.search(r"listening on (http://[^\s/]+)", log.read_text(errors="replace"))
        return f"{found[1]}/tar" if found else None

    return daemon, daemon.until(url, "no line 'listening on'")


def environment(bench: Bench) -> dict[str, str]:
    """Nothing of the user's: no settings, no databases in the home folder, no HTTP proxy between the two ends."""
    return {"HOME": str(bench.run), "PATH": os.environ["PATH"], "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


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


def accepts(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    return False


SECTION = Section(
    title="Folder to folder",
    sets=["small", "big"],
    base="rsync",
    jobs=[
        Job("cp", "no network, no proof", ["cp"], [Row("cp", "`cp -a`: no network, no proof")], run_cp),
        Job(
            "rsync",
            "to a daemon on loopback; from nothing, then again",
            ["rsync"],
            [Row("rsync", "`rsync -a` to a daemon"), Row("rsync again", "rsync again, nothing changed")],
            run_rsync,
        ),
        Job(
            "tar-lz4",
            "over a TCP connection",
            ["tar", "lz4"],
            [Row("tar | lz4", "`tar`, `lz4`, socket, `lz4 -d`, `tar`")],
            run_tar_lz4,
        ),
        Job("rclone", "local to local", ["rclone"], [Row("rclone", "`rclone copy --transfers 8`")], run_rclone),
        Job(
            "sync",
            "tar-like sync to a proxy, then again, then check",
            ["tar-like"],
            [
                Row("sync", "**`tar-like sync`** to a proxy"),
                Row("sync again", "**`tar-like sync`** again, nothing changed", versus="rsync again"),
                Row("check", "`tar-like check` alone"),
            ],
            run_sync,
        ),
        Job(
            "steps",
            "tar-like index, then upload to a fresh proxy",
            ["tar-like"],
            [Row("index", "`tar-like index` alone"), Row("upload", "`tar-like upload` to a proxy, index given")],
            run_steps,
        ),
    ],
)
