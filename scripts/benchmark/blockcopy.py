"""The section blockcopy: a huge file over another version of itself, through local pipes."""

from __future__ import annotations

import filecmp
import os
import random
import shutil
import sys
from pathlib import Path

import columns
from bench import ROOT, Bench
from measure import Stop
from section import Job, Row, Section

BLOCK = 131_072
IMAGE = "image"
# The original cannot be had from the package index: its stream, as described, in Python with threads stands in for it.
PEER = ROOT / "tests/it/blockcopy/peer.py"


def destination(bench: Bench, data, share: float) -> Path:
    """The image with so many of its blocks changed, which ones is always the same; not timed."""
    path = bench.dest / IMAGE
    shutil.copyfile(data.tree / IMAGE, path)
    blocks = path.stat().st_size // BLOCK
    other = random.Random(1).randbytes(BLOCK)
    with open(path, "r+b") as file:
        for block in random.Random(2).sample(range(blocks), max(1, round(blocks * share))):
            file.seek(block * BLOCK)
            file.write(other)
    os.sync()
    return path


def copy(key: str, share: float, program, options: tuple = ()):
    def run(bench: Bench, data, first: bool):
        to = destination(bench, data, share)
        start = program(bench)
        steps = [
            [*start, "checksum", *options, to],
            [*start, "retrieve", data.tree / IMAGE],
            [*start, "save", to],
        ]
        yield key, bench.runner.run_piped(steps, bench.log(f"blockcopy {key}"))
        compare(data, to, first)

    return run


def rsync(share: float):
    def run(bench: Bench, data, first: bool):
        to = destination(bench, data, share)
        # Times that are equal would let it do nothing.
        os.utime(to, (1, 1))
        command = [bench.tools["rsync"], "--inplace", "--no-whole-file", data.tree / IMAGE, to]
        yield "rsync", bench.runner.run(command, bench.log("blockcopy rsync"))
        compare(data, to, first)

    return run


def compare(data, to: Path, first: bool) -> None:
    if first and not filecmp.cmp(data.tree / IMAGE, to, shallow=False):
        raise Stop("the copy is not equal to its source", short="not equal")


def original(_: Bench) -> list:
    return [sys.executable, os.environ.get("TAR_LIKE_BLOCKCOPY") or PEER]


def ours(bench: Bench) -> list:
    return [bench.tools["tar-like"], "blockcopy"]


def section(case: str, share: float) -> Section:
    return Section(
        name="blockcopy",
        title="A huge file over an older version of itself",
        about="blockcopy through local pipes, beside the original's way in Python and rsync",
        sets=["image"],
        case=case,
        amount=lambda data: f"{data.counts['bytes'] / 1e9:.2f} GB",
        columns=[
            columns.rate_ratio("original", "the original"),
            columns.rate_ratio("rsync", "rsync"),
            *columns.TIMES,
        ],
        notes=[
            f"Blocks of {BLOCK:,} bytes at random places are changed; the content is random bytes. The original is its "
            "stream as described, written for this in Python (`tests/it/blockcopy/peer.py`), with hashlib's SHA3-512 in "
            "threads and without a sync at the end; ours end when the copy is on stable storage.",
        ],
        jobs=[
            Job(
                "original",
                "blockcopy's stream in Python",
                [],
                [Row("original", "the original: `checksum \\| retrieve \\| save` under Python")],
                copy("original", share, original),
            ),
            Job(
                "blockcopy",
                "tar-like blockcopy in the original's stream",
                ["tar-like"],
                [Row("blockcopy", "**`tar-like blockcopy`** in the same stream")],
                copy("blockcopy", share, ours),
            ),
            Job(
                "native",
                "tar-like blockcopy --native",
                ["tar-like"],
                [Row("native", "**`tar-like blockcopy`** with `checksum --native`")],
                copy("native", share, ours, ("--native",)),
            ),
            Job(
                "rsync-inplace",
                "rsync --inplace --no-whole-file",
                ["rsync"],
                [Row("rsync", "`rsync --inplace --no-whole-file`")],
                rsync(share),
            ),
        ],
    )


SECTIONS = [section("1 % changed", 0.01), section("50 % changed", 0.5)]
