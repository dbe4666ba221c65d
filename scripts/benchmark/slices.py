"""The section several receivers: one archive to one receiver, and to two on one folder, each behind a link of its own."""

from __future__ import annotations

import contextlib

import columns
from bench import LOOPBACK, Bench, Place
from ends import databases, run_alone, start_proxy
from link import require_namespaces
from queues import Star, of_ideal
from section import Job, Row, Section

LINKS = [200, 200]
NEEDS = ["tar-like"]


class Fan(Star):
    """A hub for the sender, and a receiver at each of the cables that lead from it."""

    def limit(self, end: int, rate: str) -> None:
        limit = ["rate", rate, "burst", "256kb", "latency", "50ms"]
        self.command(0, "tc", "qdisc", "add", "dev", f"port{end}", "root", "tbf", *limit)


@contextlib.contextmanager
def around(bench: Bench):
    require_namespaces(bench)
    with contextlib.closing(Fan(LINKS)) as fan:
        bench.receivers = [
            Place(f"192.0.2.{10 + end}", fan.inside(0), fan.inside(end)) for end in range(1, 1 + len(LINKS))
        ]
        try:
            yield
        finally:
            bench.place, bench.receivers = LOOPBACK, []


def start_slices(bench: Bench, count: int) -> tuple[list, str]:
    """The last one first, since the first one names the others."""
    daemons, urls = [], []
    for number in range(count, 0, -1):
        bench.place = bench.receivers[number - 1]
        # Senders have the address of the first one from the command line.
        peers = ",".join([f"http://{bench.place.address}", *urls])
        options = ["--slice", f"{number}/{count}"] if count > 1 else []
        daemon, url = start_proxy(bench, *options, *(["--peers", peers] if len(urls) == count - 1 > 0 else []))
        daemons.append(daemon)
        urls.insert(0, url)
    return daemons, urls[0]


def sending(key: str, count: int):
    def run(bench: Bench, data, first: bool):
        daemons, url = start_slices(bench, count)
        run_alone(bench, ["index", "-c", "-b", data.tree, "-db", bench.run / "index.sqlite"], "index")
        sample = run_alone(bench, ["upload", "-b", data.tree, *databases(bench), "-u", url], f"upload {key}")
        for daemon in daemons:
            daemon.stop()
        bench.compare_counts(data, "tar-like upload")
        yield key, sample

    return run


SECTIONS = [
    Section(
        name="slices",
        title="Several receivers, one folder",
        about="two receivers on one folder, beside one; needs root",
        case="each receiver behind a link of 200 Mbit/s",
        sets=["shared"],
        around=around,
        columns=[columns.rate_ratio("one", "one receiver"), of_ideal(LINKS[:1], "one link"), *columns.TIMES, *columns.CPU],
        notes=["Both receivers write to one file system. Goal: two receivers are 1.9 × as fast as one."],
        jobs=[
            Job("one", "receiver", NEEDS, [Row("one", "one receiver")], sending("one", 1)),
            Job("two", "receivers", NEEDS, [Row("two", "**two receivers, `--slice`**")], sending("two", 2)),
        ],
    )
]
