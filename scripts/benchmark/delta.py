"""The section delta: an incremental run over what has changed since, where the receiver has an older version."""

from __future__ import annotations

import contextlib
import filecmp
import json
import os
import random
import re
import shutil
import statistics
import subprocess
from pathlib import Path
from typing import Callable

import columns
from bench import Bench
from columns import NOTHING, Column
from ends import databases, free_port, listens, run_rsync_from, run_with, start_proxy, verify
from generated import LOG, VERSIONED
from measure import Sample, Stop, say
from section import Job, Row, Section
from sets import TAR

BLOCK = 131_072
GROWTH_BYTES = 34_776_777
TOUCHED_PART, RENAMED, REMOVED = 100, 100, 50
OLD = (1, 1)  # equal times and sizes would let rsync do nothing

# --- Changes ---


def fill(path: Path, length: int) -> None:
    """Writes so many random bytes to the end of a file."""
    with open(path, "ab") as file:
        while length > 0:
            length -= file.write(os.urandom(min(length, 1 << 24)))


def change_in_place(path: Path, share: float) -> None:
    """Other random bytes in this share of a file's blocks, at random places."""
    blocks = path.stat().st_size // BLOCK
    with open(path, "r+b") as file:
        for block in sorted(random.sample(range(blocks), max(1, round(blocks * share)))):
            file.seek(block * BLOCK)
            file.write(os.urandom(BLOCK))


def older(source: Path, copy: Path, share: float) -> None:
    """A copy of which this share is not as in the source; not timed."""
    if share < 1:
        shutil.copyfile(source, copy)
        change_in_place(copy, share)
    else:
        copy.unlink(missing_ok=True)
        fill(copy, source.stat().st_size)
    os.utime(copy, OLD)


def regular_files(tree: Path) -> list[str]:
    names = (os.path.join(folder, name) for folder, _, names in os.walk(tree) for name in names)
    return sorted(name for name in names if not os.path.islink(name))


@contextlib.contextmanager
def nothing(_bench: Bench, _tree: Path):
    yield


@contextlib.contextmanager
def touched(_bench: Bench, tree: Path):
    """One file of a hundred gets some other bytes; the set is of the same size afterwards, and used as it is then."""
    files = [name for name in regular_files(tree) if os.path.getsize(name) > 0]
    for name in random.sample(files, max(1, len(files) // TOUCHED_PART)):
        middle = os.path.getsize(name) // 2
        with open(name, "r+b") as file:
            file.seek(middle)
            file.write(os.urandom(min(4096, os.path.getsize(name) - middle)))
    yield


@contextlib.contextmanager
def moved(bench: Bench, tree: Path):
    """Files have other names, or are removed; until the end."""
    files = regular_files(tree)
    chosen = random.sample(files, min(RENAMED + REMOVED, len(files) // 2))
    renamed = [(name, f"{name}.renamed") for name in chosen[:RENAMED]]
    aside = bench.run / "aside"
    aside.mkdir()
    removed = [(name, str(aside / str(number))) for number, name in enumerate(chosen[RENAMED:])]
    for was, now in renamed + removed:
        os.rename(was, now)
    try:
        yield
    finally:
        for was, now in renamed + removed:
            os.rename(now, was)


# --- Runs ---


def sent_by(log: Path, pattern: str) -> int | None:
    found = re.findall(pattern, log.read_text(errors="replace"))
    return int(re.sub(r"\D", "", found[-1])) if found else None


def rsync_run(bench: Bench, tree: Path, key: str, *options: str) -> Sample:
    sample = run_rsync_from(bench, tree, key, "-a", "--stats", *options)
    sample.wire = sent_by(bench.log(key), r"Total bytes sent: ([\d,.]+)")
    return sample


def sync_run(bench: Bench, proxy, url: str, tree: Path, key: str, *options: str) -> Sample:
    sample = run_with(bench, proxy, ["sync", tree, url, *databases(bench), "--json", *options], key)
    sample.wire = sent_by(bench.log(f"tar-like {key}"), r'"wire_bytes":(\d+)')
    return sample


def compare(source: Path, copy: Path) -> None:
    if not filecmp.cmp(source, copy, shallow=False):
        raise Stop("the copy is not equal to its source", short="not equal")


def wire(result, row) -> str:
    known = [sample.wire for sample in result.samples[row.key] if sample.wire is not None]
    return f"{statistics.median(known) / 1e6:,.2f}" if known else NOTHING


# --- One file ---


def only_file(data) -> Path:
    return next(data.tree.iterdir())


def rsync_file(key: str, share: float, *options: str):
    def run(bench: Bench, data, first: bool):
        source = only_file(data)
        older(source, bench.dest / source.name, share)
        yield key, rsync_run(bench, data.tree, key, *options)
        if first:
            compare(source, bench.dest / source.name)

    return run


def pdiffcopy_file(share: float):
    def run(bench: Bench, data, first: bool):
        source = only_file(data)
        copy = bench.dest / source.name
        older(source, copy, share)
        port, log = free_port(), bench.log("pdiffcopy server")
        program = bench.tools["pdiffcopy"]
        server = bench.runner.start([program, "-q", "-l", f"127.0.0.1:{port}"], log)
        server.until(lambda: listens(server.pid, port), f"on port {port}")
        to = f"http://127.0.0.1:{port}/{str(copy).lstrip('/')}"
        yield "pdiffcopy", bench.runner.run([program, "-q", source, to], bench.log("pdiffcopy"))
        server.stop()
        if first:
            compare(source, copy)

    return run


def adopt_file(share: float):
    def run(bench: Bench, data, first: bool):
        source = only_file(data)
        older(source, bench.dest / source.name, share)
        proxy, url = start_proxy(bench)
        yield "adopt", sync_run(bench, proxy, url, data.tree, "adopt", "--adopt")
        proxy.stop()
        if first:
            compare(source, bench.dest / source.name)

    return run


def known_file(share: float):
    """The set changes in place: it is random bytes, before and after."""

    def run(bench: Bench, data, first: bool):
        source = only_file(data)
        proxy, url = start_proxy(bench)
        sync_run(bench, proxy, url, data.tree, "previous run")
        change_in_place(source, share)
        yield "known", sync_run(bench, proxy, url, data.tree, "known")
        proxy.stop()
        if first:
            compare(source, bench.dest / source.name)

    return run


def rsync_job(name: str, key: str, run: Callable, label: str) -> Job:
    return Job(name, "to a daemon", ["rsync"], [Row(key, label)], run)


ADOPT = Row("adopt", "**`tar-like sync --adopt`**: the receiver looks at the copy first")
KNOWN = Row("known", "**`tar-like sync`** after a previous run")
RSYNC = "`rsync -a` to a daemon"
INPLACE = "`rsync -a --inplace`"


def in_place(share: float, kind: str, goal: str, last: bool) -> Section:
    jobs = [
        rsync_job("rsync", "rsync", rsync_file("rsync", share), RSYNC),
        rsync_job("rsync-inplace", "rsync --inplace", rsync_file("rsync --inplace", share, "--inplace"), INPLACE),
        Job(
            "pdiffcopy",
            "pdiffcopy to its server",
            ["pdiffcopy"],
            [Row("pdiffcopy", "`pdiffcopy` to its server, no verification")],
            pdiffcopy_file(share),
        ),
        Job("sync-adopt", "over a copy that it has not made", ["tar-like --adopt"], [ADOPT], adopt_file(share)),
    ]
    if kind in VERSIONED:
        jobs.append(Job("sync", "after a previous run", ["tar-like"], [KNOWN], known_file(share)))
    return section(
        f"{share:.0%} changed in place".replace("%", " %"),
        kind,
        jobs,
        ["rsync", "rsync --inplace"],
        [goal] if goal else [],
        keeps_sets=not last,
        copies=2,
    )


# --- One byte at the front ---


@contextlib.contextmanager
def two_versions(bench: Bench, data):
    """A folder with the tar in it, and a function that puts one byte before it."""
    folder, old = bench.run / "source", only_file(data)
    folder.mkdir()
    # Never written to: it may be another set's file as well.
    os.link(old, folder / old.name)

    def insert() -> None:
        new = bench.run / "new"
        with open(old, "rb") as source, open(new, "wb") as file:
            file.write(b"\n")
            shutil.copyfileobj(source, file, 1 << 24)
        os.rename(new, folder / old.name)

    yield folder, insert


def rsync_front(key: str, *options: str):
    def run(bench: Bench, data, first: bool):
        with two_versions(bench, data) as (folder, insert):
            shutil.copyfile(folder / TAR, bench.dest / TAR)
            os.utime(bench.dest / TAR, OLD)
            insert()
            yield key, rsync_run(bench, folder, key, *options)
            if first:
                compare(folder / TAR, bench.dest / TAR)

    return run


def sync_front(key: str, *options: str):
    def run(bench: Bench, data, first: bool):
        with two_versions(bench, data) as (folder, insert):
            if options:
                shutil.copyfile(folder / TAR, bench.dest / TAR)
            proxy, url = start_proxy(bench)
            if not options:
                sync_run(bench, proxy, url, folder, "previous run")
            insert()
            yield key, sync_run(bench, proxy, url, folder, key, *options)
            proxy.stop()
            if first:
                compare(folder / TAR, bench.dest / TAR)

    return run


def front() -> Section:
    inplace = rsync_front("rsync --inplace", "--inplace")
    jobs = [
        rsync_job("rsync", "rsync", rsync_front("rsync"), RSYNC),
        rsync_job("rsync-inplace", "rsync --inplace", inplace, INPLACE),
        Job("sync-adopt", "", ["tar-like --adopt"], [ADOPT], sync_front("adopt", "--adopt")),
        Job("sync", "after a previous run", ["tar-like"], [KNOWN], sync_front("known")),
    ]
    goals = ["Goal: 1 % of the bytes sent."]
    return section("one byte inserted at the front", "tar", jobs, ["rsync"], goals, keeps_sets=True, copies=3)


# --- A log that grows ---


@contextlib.contextmanager
def receiving_file_system(bench: Bench, size: int):
    """The destination on XFS, which can share blocks of files, in a file of the working folder; else as it is. Says which."""
    image, mkfs = bench.run / "xfs", shutil.which("mkfs.xfs")
    mounted = False
    if mkfs and os.geteuid() == 0:
        with open(image, "wb") as file:
            file.truncate(max(size * 2, 1 << 29))
        made = subprocess.run([mkfs, "-q", "-m", "reflink=1", image], capture_output=True)
        mount = ["mount", "-o", "loop", image, bench.dest]
        mounted = made.returncode == 0 and subprocess.run(mount, capture_output=True).returncode == 0
    if not mounted:
        say("no XFS here: a receiver that cannot share blocks copies the whole log")
    try:
        yield "on XFS, in a file of the working folder" if mounted else "in the working folder, without reflinks"
    finally:
        if mounted:
            bench.runner.stop_all()
            subprocess.run(["umount", bench.dest], check=True)


@contextlib.contextmanager
def log_of(data):
    """The log, and a function that lets it grow; at the end it is as before."""
    path = only_file(data)
    size = path.stat().st_size
    growth = max(1, GROWTH_BYTES * size // LOG.size)
    try:
        yield path, lambda: fill(path, growth)
    finally:
        os.truncate(path, size)


def rsync_log(bench: Bench, data, first: bool):
    with receiving_file_system(bench, data.counts["bytes"]) as where, log_of(data) as (source, grow):
        if first:
            yield "rsync --append-verify", f"The destination is {where}."
        copy, size = bench.dest / source.name, source.stat().st_size
        shutil.copyfile(source, copy)
        grow()
        for key, option in (
            ("rsync --append-verify", "--append-verify"),
            ("rsync --append", "--append"),
            ("rsync --inplace", "--inplace"),
        ):
            os.truncate(copy, size)
            os.utime(copy, OLD)
            yield key, rsync_run(bench, data.tree, key, option)
            if first:
                compare(source, copy)


def sync_log(modes: dict[str, str]):
    """Runs one after the other, by row and mode."""

    def run(bench: Bench, data, first: bool):
        with receiving_file_system(bench, data.counts["bytes"]), log_of(data) as (source, grow):
            proxy, url = start_proxy(bench)
            sync_run(bench, proxy, url, data.tree, "previous run")
            for key, mode in modes.items():
                grow()
                options = ["--append", mode] if mode else []
                yield key, sync_run(bench, proxy, url, data.tree, key, *options)
            proxy.stop()
            if first:
                compare(source, bench.dest / source.name)

    return run


def log() -> Section:
    rsync_rows = [
        Row(f"rsync {option}", f"`rsync -a {option}`: {what}")
        for option, what in (
            ("--append-verify", "the whole file is compared afterwards"),
            ("--append", "what was there is believed"),
            ("--inplace", "block by block"),
        )
    ]
    modes = {"append full": "full", "append spot": "spot", "append trust": "trust"}
    labels = [Row(key, f"**`tar-like sync --append {mode}`** after a previous run") for key, mode in modes.items()]
    plain = sync_log({"known": ""})
    jobs = [
        Job("rsync", "to a daemon", ["rsync"], rsync_rows, rsync_log),
        Job("sync", "after a previous run", ["tar-like"], [KNOWN], plain),
        Job("sync-append", "with --append", ["tar-like --append"], labels, sync_log(modes)),
    ]
    goals = ["Goal: 0.1 × `rsync --append-verify`; 1.02 times the growth sent."]
    case = f"{GROWTH_BYTES:,} bytes more"
    return section(case, "log", jobs, ["rsync --append-verify"], goals, keeps_sets=False, copies=1.1)


# --- Many files ---


def rsync_tree(change, *options: str):
    def run(bench: Bench, data, first: bool):
        subprocess.run(["cp", "-a", "--reflink=never", f"{data.tree}/.", bench.dest], check=True)
        with change(bench, data.tree):
            yield "rsync", rsync_run(bench, data.tree, "rsync", *options)

    return run


def sync_tree(change, *options: str):
    def run(bench: Bench, data, first: bool):
        proxy, url = start_proxy(bench)
        sync_run(bench, proxy, url, data.tree, "previous run")
        with change(bench, data.tree):
            yield "known", sync_run(bench, proxy, url, data.tree, "known", *options)
            proxy.stop()
            if first:
                yield "known", verify(bench, data)

    return run


def tree(case: str, change, goal: str | None, delete: bool = False) -> Section:
    rsync_options = ["--delete"] if delete else []
    own_options = ["--delete"] if delete else []
    label = RSYNC + (" `--delete`" if delete else "")
    row = Row("known", KNOWN.label.replace("sync`", "sync --delete`") if delete else KNOWN.label)
    needs = "tar-like --delete" if delete else "tar-like"
    jobs = [
        rsync_job("rsync", "rsync", rsync_tree(change, *rsync_options), label),
        Job("sync", "after a previous run", [needs], [row], sync_tree(change, *own_options)),
    ]
    return section(case, "small", jobs, ["rsync"], [goal] if goal else [], keeps_sets=True, whole=True)


def section(
    case: str, kind: str, jobs: list[Job], bases: list[str], notes: list[str], whole: bool = False, **more
) -> Section:
    extra = {} if whole else {"amount": lambda data: f"{data.counts['bytes'] / 1e9:.2f} GB"}
    return Section(
        name="delta",
        title="An incremental run over what has changed",
        about="what changed since the last run, beside rsync and pdiffcopy; long",
        sets=[kind],
        case=case,
        columns=[
            *(columns.ratio(base) for base in bases),
            *columns.TIMES,
            Column("MB sent", wire),
            *columns.CPU,
            *columns.PEAKS,
        ],
        jobs=jobs,
        notes=notes,
        long=True,
        **extra,
        **more,
    )


TENTH = "Goal: 0.25 × `rsync --inplace`, against a copy that the receiver did not make."
ALL = "Goal: 0.6 × `rsync`."
SECTIONS = [
    in_place(0.1, "1.8gib", TENTH, last=False),
    in_place(1, "1.8gib", ALL, last=True),
    in_place(0.1, "5.5gib", TENTH, last=False),
    in_place(1, "5.5gib", ALL, last=True),
    log(),
    front(),
    in_place(0.1, "tar", "", last=False),
    in_place(0.5, "tar", "", last=False),
    in_place(1, "tar", "", last=False),
    tree("nothing changed", nothing, "Goal: 0.4 × `rsync`."),
    tree("1 % touched", touched, "Goal: 0.6 × `rsync`."),
    tree(f"{RENAMED} renamed, {REMOVED} removed", moved, None, delete=True),
]
