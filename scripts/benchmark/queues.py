"""The section several senders: one archive over links of their own, shared by a queue, and what the queue costs."""

from __future__ import annotations

import contextlib
import re
import socket
import statistics
import threading

import columns
from bench import LOOPBACK, ROOT, Bench, Place
from columns import Column
from ends import environment, free_port, run_alone, start_proxy
from lease_load import Load
from link import CABLE, Namespaces, require_namespaces
from measure import Sample
from section import Job, Row, Section

HUB = "192.0.2.1"  # for documentation only: no real network has it
# 600 of them, as many as 18 GB have by default.
BLOCK_BYTES = 1_000_000
# Of what a link carries, the part that is content: TCP segments of 1448 bytes in Ethernet frames.
CONTENT = 1448 / 1514


class Star(Namespaces):
    """A hub for the receiver and the engine, and a sender at each of the cables that lead there."""

    def __init__(self, megabits: list[int]):
        self.megabits = megabits
        super().__init__()

    def connect(self) -> None:
        self.hold(1 + len(self.megabits))
        self.command(0, "ip", "link", "set", "lo", "up")
        self.command(0, "ip", "link", "add", "hub", "type", "bridge")
        self.command(0, "ip", "address", "add", f"{HUB}/24", "dev", "hub")
        self.command(0, "ip", "link", "set", "hub", "up")
        for end, megabits in enumerate(self.megabits, start=1):
            holder, port = str(self.holders[end].pid), f"port{end}"
            self.command(0, "ip", "link", "add", port, "type", "veth", "peer", "name", CABLE, "netns", holder)
            self.command(0, "ip", "link", "set", port, "master", "hub", "up")
            self.command(end, "ip", "address", "add", f"192.0.2.{10 + end}/24", "dev", CABLE)
            self.command(end, "ip", "link", "set", "lo", "up")
            self.command(end, "ip", "link", "set", CABLE, "up")
            self.limit(end, f"{megabits}mbit")


def starred(megabits: list[int]):
    @contextlib.contextmanager
    def around(bench: Bench):
        require_namespaces(bench)
        with contextlib.closing(Star(megabits)) as star:
            bench.place = Place(HUB, star.inside(1), star.inside(0))
            bench.senders = [star.inside(end) for end in range(1, 1 + len(megabits))]
            try:
                yield
            finally:
                bench.place, bench.senders = LOOPBACK, [()]

    return around


def start_engine(bench: Bench) -> str:
    """Gives its address. It ends with the run."""
    port, log = free_port(), bench.log("redis-server")
    log.unlink(missing_ok=True)
    options = ["--port", str(port), "--bind", bench.place.address, "--protected-mode", "no", "--save", "", "--dir", bench.run]
    daemon = bench.runner.start([*bench.place.receiver, bench.tools["redis-server"], *options], log)
    daemon.until(lambda: "Ready to accept connections" in log.read_text(errors="replace"), f"on port {port}")
    return f"redis://{bench.place.address}:{port}"


def make_index(bench: Bench, data):
    index = bench.run / "index.sqlite"
    run_alone(bench, ["index", "-c", "-b", data.tree, "-db", index], "index")
    return index


def upload_command(bench: Bench, data, index, url: str, number: int, *options) -> list:
    progress = ["-dbp", bench.run / f"progress-{number}.sqlite"]
    flags = ["-b", data.tree, "-db", index, *progress, "-u", url, "-s", str(BLOCK_BYTES), "--json", *options]
    return [bench.tools["tar-like"], "upload", *flags]


def send(bench: Bench, data, senders: list, key: str, has_queue: bool) -> Sample:
    """Uploads at the same time, each with the index and the queue, until all have ended."""
    proxy, url = start_proxy(bench)
    options = ["--queue", start_engine(bench)] if has_queue else []
    index = make_index(bench, data)
    commands, logs = [], []
    for number, inside in enumerate(senders):
        commands.append([*inside, *upload_command(bench, data, index, url, number, *options)])
        logs.append(bench.log(f"tar-like {key} {number}"))
        logs[-1].unlink(missing_ok=True)
    proxy.mark()
    sample = bench.runner.run_beside(commands, logs, env=environment(bench))
    sample.receiver = proxy.since_mark()
    # What was sent, with what was sent twice.
    sample.wire = sum(int(found) for log in logs for found in re.findall(r'"sent_bytes":(\d+)', log.read_text())[-1:])
    ends = (re.findall(r'"seconds":([\d.]+)', log.read_text())[-1:] for log in logs)
    sample.complete = min(float(found) for end in ends for found in end)
    proxy.stop()
    bench.compare_counts(data, "tar-like upload")
    return sample


def sending(key: str, count: int, has_queue: bool = True):
    def run(bench: Bench, data, first: bool):
        yield key, send(bench, data, bench.senders[:count], key, has_queue)

    return run


def sent_twice(result, row) -> str:
    bytes_ = result.data.counts["bytes"]
    twice = statistics.median(sample.wire / bytes_ - 1 for sample in result.samples[row.key])
    return f"{twice * 100:.1f} %"


def of_ideal(megabits: list[int], what: str, seconds=lambda sample: sample.wall) -> Column:
    def cell(result, row) -> str:
        ideal = result.data.counts["bytes"] * 8 / (sum(megabits) * 1e6 * CONTENT)
        return f"{statistics.median(map(seconds, result.samples[row.key])) / ideal:.3f}"

    return Column(f"× {what}", cell)


def paired(base: str) -> Column:
    """The median of the ratios of two runs of the same round: what disturbs a round disturbs both of them."""

    def cell(result, row) -> str:
        pairs = zip(result.samples[row.key], result.samples[base])
        return f"{statistics.median(sample.wall / other.wall for sample, other in pairs):.3f}"

    return Column(f"× {base}, in pairs", cell)


PAIR = [200, 200]
EIGHT = [20] * 7 + [2]
NEEDS = ["tar-like", "redis-server"]
ABOUT = "two and eight senders that share a queue, beside one; what the queue costs; needs root"
TITLE = "Several senders, one job"
TWICE = Column("sent twice", sent_twice)
MICROSECONDS = columns.spread("µs", lambda sample, _: sample.wall * 1e6, 1)


def run_leases(bench: Bench, data, first: bool):
    port = int(start_engine(bench).rpartition(":")[2])
    load = Load(("127.0.0.1", port), ROOT / "src/queue/lease", hosts=1000)
    seconds = load.run(ranges=20_000)
    yield "leases", Sample(seconds / load.operations)


def operations(result, row) -> str:
    return f"{1 / result.median(row.key):,.0f}"


SECTIONS = [
    Section(
        name="queue",
        title=TITLE,
        about=ABOUT,
        case="two senders, 200 Mbit/s each",
        sets=["shared"],
        around=starred(PAIR),
        columns=[
            columns.rate_ratio("one", "one sender"),
            of_ideal(PAIR[:1], "one link"),
            TWICE,
            *columns.TIMES,
            *columns.CPU,
        ],
        notes=[f"Blocks of {BLOCK_BYTES:,} bytes: 600 of them. Goal: two senders are 1.9 × as fast as one."],
        jobs=[
            Job("one", "without a queue", NEEDS, [Row("one", "one sender, no queue")], sending("one", 1, False)),
            Job("queue-one", "one sender", NEEDS, [Row("queue one", "one sender, `--queue`")], sending("queue one", 1)),
            Job("queue-two", "two", NEEDS, [Row("queue two", "**two senders, `--queue`**")], sending("queue two", 2)),
        ],
    ),
    Section(
        name="queue",
        title=TITLE,
        about=ABOUT,
        case="eight senders: seven of 20 Mbit/s, one of 2",
        sets=["shared"],
        around=starred(EIGHT),
        columns=[
            of_ideal(EIGHT, "all links: copy complete", lambda sample: sample.complete),
            of_ideal(EIGHT, "all links: all have ended", lambda sample: sample.wall),
            TWICE,
            *columns.TIMES,
            *columns.CPU,
        ],
        notes=[
            "Goal: 1.1 × the time in which all links together carry the content. The copy is complete when the first sender "
            "has the receiver's word for everything; the slow host ends later, when what is on its way has left its link."
        ],
        jobs=[
            Job("eight", "senders", NEEDS, [Row("eight", "**eight senders, `--queue`**")], sending("eight", 8)),
        ],
    ),
    Section(
        name="queue",
        title=TITLE,
        about=ABOUT,
        case="what a queue costs one sender, over loopback",
        sets=["object"],
        rounds=15,
        columns=[paired("plain"), *columns.TIMES, *columns.CPU],
        notes=[
            "Goal: 2 %. Sender, receiver and engine share the cores. Each round has a run of both, and the ratio is the "
            "median of those of the rounds."
        ],
        jobs=[
            Job("plain", "no queue", NEEDS, [Row("plain", "`tar-like upload`")], sending("plain", 1, False)),
            Job("queued", "a queue", NEEDS, [Row("queued", "`tar-like upload --queue`")], sending("queued", 1)),
        ],
    ),
    Section(
        name="queue",
        title=TITLE,
        about=ABOUT,
        case="leases of 1000 hosts",
        sets=["shared"],
        columns=[Column("operations/s", operations), *MICROSECONDS],
        notes=[
            "The scripts of `src/queue/lease`, on one server, called by a client on the same machine that holds 32 "
            "connections, for 20,000 ranges: a range is claimed, renewed once, and reported done by the next claim. "
            "Goal: 2,000 operations a second."
        ],
        jobs=[Job("leases", "alone", ["redis-server"], [Row("leases", "claims and renewals")], run_leases)],
    ),
]
