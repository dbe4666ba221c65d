"""The section limited link: two network namespaces, one for each end, with a cable of a limited rate between them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import statistics
import subprocess
from pathlib import Path

import columns
from bench import LOOPBACK, Bench, Place
from columns import Column
from ends import databases, run_alone, run_rsync_once, run_with, start_proxy, verify
from measure import Sample, Unavailable
from section import Job, Row, Section

ADDRESSES = ["192.0.2.1", "192.0.2.2"]  # for documentation only: no real network has them
CABLE = "cable"


class Namespaces:
    """Live as long as the processes that hold them, which end when this script does, however it ends.
    Nothing of them has a name outside: no mount, no interface of the host."""

    def __init__(self):
        self.holders: list[subprocess.Popen] = []
        try:
            self.connect()
        except (OSError, subprocess.CalledProcessError) as error:
            self.close()
            said = (getattr(error, "stderr", None) or str(error)).strip()
            raise Unavailable(f"no network namespaces with a limited link here: {said}") from None

    def connect(self) -> None:
        raise NotImplementedError

    def hold(self, count: int) -> None:
        for _ in range(count):
            holder = subprocess.Popen(
                ["unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            self.holders.append(holder)
            # The answer comes out of the new namespace.
            with contextlib.suppress(BrokenPipeError):
                holder.stdin.write(b"\n")
                holder.stdin.flush()
            if not holder.stdout.readline():
                raise OSError(holder.stderr.read().decode(errors="replace"))

    def inside(self, end: int) -> tuple:
        return ("nsenter", f"--net=/proc/{self.holders[end].pid}/ns/net", "--")

    def command(self, end: int, *command: str) -> None:
        subprocess.run([*self.inside(end), *command], check=True, capture_output=True, text=True)

    def limit(self, end: int, rate: str) -> None:
        limit = ["rate", rate, "burst", "256kb", "latency", "50ms"]
        self.command(end, "tc", "qdisc", "add", "dev", CABLE, "root", "tbf", *limit)

    def close(self) -> None:
        for holder in self.holders:
            holder.kill()
            holder.communicate()


class Link(Namespaces):
    def __init__(self, megabits: int):
        self.rate = f"{megabits}mbit"
        super().__init__()

    def connect(self) -> None:
        self.hold(len(ADDRESSES))
        other = str(self.holders[1].pid)
        self.command(0, "ip", "link", "add", CABLE, "type", "veth", "peer", "name", CABLE, "netns", other)
        for end, address in enumerate(ADDRESSES):
            self.command(end, "ip", "address", "add", f"{address}/30", "dev", CABLE)
            self.command(end, "ip", "link", "set", "lo", "up")
            self.command(end, "ip", "link", "set", CABLE, "up")
            self.limit(end, self.rate)

    def sent(self) -> int:
        """Bytes that have left the sender's end, headers included."""
        table = Path(f"/proc/{self.holders[0].pid}/net/dev").read_text()
        return int(re.search(rf"{CABLE}:\s*(.*)", table)[1].split()[8])


def require_namespaces(bench: Bench) -> None:
    if os.geteuid() != 0:
        raise Unavailable("network namespaces need root")
    missing = bench.missing(["ip", "tc"])
    if missing:
        raise Unavailable(missing)


def linked(megabits: int):
    @contextlib.contextmanager
    def around(bench: Bench):
        require_namespaces(bench)
        with contextlib.closing(Link(megabits)) as link:
            bench.place = Place(ADDRESSES[1], link.inside(0), link.inside(1), link.sent)
            try:
                yield
            finally:
                bench.place = LOOPBACK

    return around


def measured(bench: Bench, run) -> Sample:
    before = bench.place.sent()
    sample = run()
    sample.wire = bench.place.sent() - before
    return sample


def run_rsync(bench: Bench, data, first: bool):
    yield "rsync", measured(bench, lambda: run_rsync_once(bench, data, "rsync"))
    if first:
        bench.compare_counts(data, "rsync")


def run_rsync_z(bench: Bench, data, first: bool):
    yield "rsync -z", measured(bench, lambda: run_rsync_once(bench, data, "rsync z", "-az"))
    if first:
        bench.compare_counts(data, "rsync -z")


def syncing(key: str, *options: str):
    def run(bench: Bench, data, first: bool):
        proxy, url = start_proxy(bench)
        command = ["sync", data.tree, url, *databases(bench), *options]
        yield key, measured(bench, lambda: run_with(bench, proxy, command, key))
        proxy.stop()
        if first:
            yield key, verify(bench, data)

    return run


def find_ratio(bench: Bench, result) -> None:
    """What LZ4 makes of the set, by a run that compresses every block; over loopback, not timed."""
    place, bench.place = bench.place, LOOPBACK
    try:
        with bench.fresh_run():
            _, url = start_proxy(bench)
            command = ["sync", result.data.tree, url, *databases(bench), "--compress", "lz4", "--json"]
            run_alone(bench, command, "ratio")
    finally:
        bench.place = place
    lines = bench.log("tar-like ratio").read_text().splitlines()
    summary = next(json.loads(line) for line in reversed(lines) if '"summary"' in line)
    ratio = result.data.counts["bytes"] / summary["wire_bytes"]
    result.facts["LZ4 ratio"] = ratio
    result.notes.append(f"LZ4 makes {ratio:.2f} times less of this set (`sync --compress lz4 --json`, not timed).")


def goodput(megabits: int) -> Column:
    def cell(result, row) -> str:
        possible = megabits * 1e6 / 8 * result.facts["LZ4 ratio"]
        return f"{result.data.counts['bytes'] / result.median(row.key) / possible * 100:.0f} %"

    return Column("goodput, of link × LZ4", cell)


def wire(result, row) -> str:
    return f"{statistics.median(sample.wire for sample in result.samples[row.key]) / 1e6:,.0f}"


def section(megabits: int, case: str, data: str) -> Section:
    return Section(
        name="link",
        title="Limited link",
        case=case,
        about="100 Mbit/s and 1 Gbit/s between two network namespaces; needs root",
        sets=[data],
        around=linked(megabits),
        prepare=find_ratio,
        columns=[
            columns.ratio("rsync"),
            columns.ratio("rsync -z"),
            goodput(megabits),
            *columns.TIMES,
            Column("MB on the link", wire),
            *columns.CPU,
        ],
        jobs=[
            Job("rsync", "to a daemon", ["rsync"], [Row("rsync", "`rsync -a` to a daemon")], run_rsync),
            Job("rsync-z", "compressed", ["rsync"], [Row("rsync -z", "`rsync -az` to a daemon")], run_rsync_z),
            Job("sync", "to a proxy", ["tar-like"], [Row("sync", "**`tar-like sync`** to a proxy")], syncing("sync")),
            Job(
                "sync-lz4",
                "with LZ4, as for receivers that know nothing else",
                ["tar-like"],
                [Row("sync lz4", "`tar-like sync --compress lz4`")],
                syncing("sync lz4", "--compress", "lz4"),
            ),
        ],
    )


SECTIONS = [section(100, "100 Mbit/s", "tenth"), section(1000, "1 Gbit/s", "small")]
