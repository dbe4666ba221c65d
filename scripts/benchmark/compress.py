"""The section LZ4 at work: an upload that compresses every block, beside the compressing library alone."""

from __future__ import annotations

import json
import os
import subprocess

import columns
from bench import ROOT, Bench
from ends import databases, run_alone, run_with, start_proxy
from measure import Sample, Stop, say
from section import Job, Row, Section
from sets import TAR

UPLOAD = ["--compress", "lz4", "-p", "8", "-s", "30000000"]


def run_library(bench: Bench, data, first: bool):
    given = os.environ.get("TAR_LIKE_LZ4")
    if first and not given:
        say("building benches/lz4.rs (takes a few minutes the first time)")
    command = [given] if given else ["cargo", "bench", "--quiet", "--locked", "--bench", "lz4", "--"]
    try:
        done = subprocess.run(
            [*command, data.tree / TAR],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=bench.runner.timeout,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Stop(f"benches/lz4.rs: {error}", short="benches/lz4.rs does not run") from None
    if done.returncode != 0:
        raise Stop(f"benches/lz4.rs ended with {done.returncode}:\n{done.stderr}", short="benches/lz4.rs fails")
    # It does not count the reading of the file, and nor does cargo count.
    yield "library", Sample(json.loads(done.stdout.splitlines()[-1])["seconds"])


def run_upload(bench: Bench, data, first: bool):
    run_alone(bench, ["index", "-b", data.tree, "-db", bench.run / "index.sqlite"], "index")
    proxy, url = start_proxy(bench)
    command = ["upload", "-b", data.tree, *databases(bench), "-u", url, *UPLOAD]
    yield "upload", run_with(bench, proxy, command, "upload lz4")
    proxy.stop()
    if first:
        bench.compare_counts(data, "upload")


SECTION = Section(
    name="lz4",
    title="LZ4 at work, blocks of 30 MB",
    about="an upload that compresses everything, beside lz4_flex alone on two threads",
    sets=["tar"],
    columns=[columns.rate_ratio("library", "lz4_flex"), *columns.MB_PER_S, *columns.CPU, *columns.PEAKS],
    jobs=[
        Job(
            "library",
            "lz4_flex alone: benches/lz4.rs",
            [],
            [Row("library", "`lz4_flex` alone: compress and decompress, 2 threads")],
            run_library,
        ),
        Job(
            "upload-lz4",
            "tar-like upload --compress lz4, 8 workers",
            ["tar-like"],
            [Row("upload", f"**`tar-like upload {' '.join(UPLOAD[:4])}`** to a proxy, index given")],
            run_upload,
        ),
    ],
)
