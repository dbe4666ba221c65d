"""The section one million files: the smallest files, and very many of them."""

from __future__ import annotations

import columns
from bench import Bench
from ends import databases, run_rsync_once, run_with, start_proxy, verify
from section import Job, Row, Section


def run_rsync(bench: Bench, data, first: bool):
    yield "rsync", run_rsync_once(bench, data, "rsync")
    if first:
        bench.compare_counts(data, "rsync")


def run_sync(bench: Bench, data, first: bool):
    proxy, url = start_proxy(bench)
    yield "sync", run_with(bench, proxy, ["sync", data.tree, url, *databases(bench)], "sync")
    proxy.stop()
    if first:
        yield "sync", verify(bench, data)


SECTION = Section(
    name="million",
    title="One million files",
    about="100,000 and 1,000,000 files of 100 to 600 bytes; long",
    sets=["100k", "1m"],
    long=True,
    columns=[columns.ratio("rsync"), *columns.MICROSECONDS_PER_FILE, *columns.TIMES, *columns.PEAKS],
    jobs=[
        Job("rsync", "to a daemon", ["rsync"], [Row("rsync", "`rsync -a` to a daemon")], run_rsync),
        Job("sync", "to a proxy", ["tar-like"], [Row("sync", "**`tar-like sync`** to a proxy")], run_sync),
    ],
)
