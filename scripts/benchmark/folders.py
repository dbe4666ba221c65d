"""The section folder to folder: on one machine, over loopback where a tool has a network side."""

from __future__ import annotations

import columns
from bench import Bench
from ends import databases, run_alone, run_rsync_once, run_with, start_proxy, verify
from section import Job, Row, Section

# --- Other tools ---


def run_cp(bench: Bench, data, first: bool):
    command = [bench.tools["cp"], "-a", "--reflink=never", f"{data.tree}/.", f"{bench.dest}/"]
    yield "cp", bench.runner.run(command, bench.log("cp"))
    if first:
        bench.compare_counts(data, "cp")


def run_rsync(bench: Bench, data, first: bool):
    for key in ("rsync", "rsync again"):
        yield key, run_rsync_once(bench, data, key)
    if first:
        bench.compare_counts(data, "rsync")


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
    for key in ("sync", "sync again"):
        sample = run_with(bench, proxy, ["sync", data.tree, url, *databases(bench)], key)
        if bench.runner.counter:
            # What it called is known when it has ended.
            sample.receiver = proxy.stop()
            proxy, url = start_proxy(bench)
        yield key, sample
    proxy.stop()
    yield "check", run_alone(bench, ["check", "-b", bench.dest, "-db", bench.run / "index.sqlite"], "check")
    if first:
        yield "sync", verify(bench, data)


def run_steps(bench: Bench, data, first: bool):
    index = bench.run / "index.sqlite"
    yield "index", run_alone(bench, ["index", "-b", data.tree, "-db", index], "index")
    proxy, url = start_proxy(bench)
    sample = run_with(bench, proxy, ["upload", "-b", data.tree, *databases(bench), "-u", url], "upload")
    whole = proxy.stop()
    if bench.runner.counter:
        sample.receiver = whole
    yield "upload", sample
    if first:
        bench.compare_counts(data, "upload")


SECTION = Section(
    name="folders",
    title="Folder to folder",
    about="beside other tools, over loopback",
    sets=["small", "big"],
    counted_sets=["small"],
    columns=[
        columns.ratio("rsync"),
        *columns.TIMES,
        *columns.CPU,
        *columns.CALLS,
        *columns.PEAKS,
    ],
    jobs=[
        Job("cp", "no network, no verification", ["cp"], [Row("cp", "`cp -a`: no network, no verification")], run_cp),
        Job(
            "rsync",
            "to a daemon on loopback; from nothing, then again",
            ["rsync"],
            [Row("rsync", "`rsync -a` to a daemon"), Row("rsync again", "rsync again, nothing changed")],
            run_rsync,
            counted=True,
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
            counted=True,
        ),
        Job(
            "steps",
            "tar-like index, then upload to a fresh proxy",
            ["tar-like"],
            [Row("index", "`tar-like index` alone"), Row("upload", "`tar-like upload` to a proxy, index given")],
            run_steps,
            counted=True,
        ),
    ],
)
