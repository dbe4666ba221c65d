"""The section ten million rows: a receiver that works by a very large index."""

from __future__ import annotations

import contextlib
import http.client
import random
import sqlite3
import time
from pathlib import Path
from urllib.parse import urlsplit

import columns
from bench import Bench
from columns import Column
from ends import start_proxy
from generated import ROW_BYTES, content
from measure import Daemon, Sample, Stop
from section import Job, Row, Section

FILES_IN_BLOCK = 10
BLOCK_BYTES = FILES_IN_BLOCK * ROW_BYTES
BLOCKS = 50
# LZ4 frames of pieces as they are: magic, version 1 with independent blocks of at most 4 MiB, checksum of these.
FRAME_HEADER = bytes.fromhex("04224d18607073")
STORED = 0x8000_0000
PIECE = 4 << 20


def run_rows(bench: Bench, data, _first: bool):
    index = data.tree / "index.sqlite"
    choose = random.Random(1)
    with contextlib.closing(sqlite3.connect(index)) as rows:
        (last,) = rows.execute("SELECT max(rowid) FROM tar").fetchone()
    blocks = choose.sample(range(last // FILES_IN_BLOCK), BLOCKS)
    proxy, receiver = start(bench)
    proxy.mark()
    seconds = receiver.put("db", frame_length(index.stat().st_size), frame_of_file(index))
    yield "intake", Sample(seconds, receiver=proxy.since_mark())
    proxy.mark()
    took = receiver.put_blocks(blocks)
    yield "written", samples(took, proxy)
    proxy.stop()
    for _ in range(bench.rounds):
        began = time.perf_counter()
        proxy, receiver = start(bench)
        proxy.until(lambda: receiver.get("/readyz") == 200, "ready")
        yield "ready", Sample(time.perf_counter() - began, receiver=proxy.since_mark())
        # They are on stable storage: the answer is what the index and the journal say of them.
        choose.shuffle(blocks)
        took = receiver.put_blocks(blocks)
        yield "first lookup", samples(took[:1], proxy)
        yield "lookup", samples(took, proxy)
        proxy.stop()


def samples(took: list[float], proxy: Daemon) -> list[Sample]:
    cost = proxy.since_mark()
    return [Sample(seconds, receiver=cost) for seconds in took]


def start(bench: Bench) -> tuple[Daemon, Receiver]:
    # Without --legacy, blocks need the digest of the index, which is BLAKE3, which Python has not.
    proxy, url = start_proxy(bench, "--legacy")
    return proxy, Receiver(url, bench.runner.timeout)


class Receiver:
    """One connection to it."""

    def __init__(self, url: str, timeout: int):
        self._base = urlsplit(url)
        self._http = http.client.HTTPConnection(self._base.netloc, timeout=timeout)

    def get(self, path: str) -> int | None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            self._http.request("GET", path)
            answer = self._http.getresponse()
            answer.read()
            return answer.status
        self._http.close()
        return None

    def put(self, what: str, length: int, body) -> float:
        """Seconds until the answer."""
        began = time.perf_counter()
        self._http.request("PUT", f"{self._base.path}/0/{what}", body, {"Content-Length": str(length)})
        answer = self._http.getresponse()
        said = answer.read()
        seconds = time.perf_counter() - began
        if answer.status != 200 or b'"rejected"' in said:
            raise Stop(f"the receiver answered {answer.status}: {said.decode(errors='replace')}", short="refused")
        return seconds

    def put_blocks(self, blocks: list[int]) -> list[float]:
        took = []
        for block in blocks:
            first = block * FILES_IN_BLOCK
            body = frame(b"".join(content(number) for number in range(first, first + FILES_IN_BLOCK)))
            took.append(self.put(f"{BLOCK_BYTES}/{block}", len(body), body))
        return took


def frame(piece: bytes) -> bytes:
    return FRAME_HEADER + (len(piece) | STORED).to_bytes(4, "little") + piece + bytes(4)


def frame_length(length: int) -> int:
    return len(FRAME_HEADER) + -(-length // PIECE) * 4 + length + 4


def frame_of_file(path: Path):
    yield FRAME_HEADER
    with open(path, "rb") as file:
        while piece := file.read(PIECE):
            yield (len(piece) | STORED).to_bytes(4, "little") + piece
    yield bytes(4)


def goal(_, row) -> str:
    return {"ready": "5,000", "lookup": "2"}.get(row.key, columns.NOTHING)


def peak(result, row) -> str:
    return columns.peak([sample.receiver for sample in result.samples[row.key]], result.data)


SECTION = Section(
    name="rows",
    title="Ten million rows",
    about="an index of 10,000,000 files at a receiver: start, look-ups, memory; long",
    sets=["rows"],
    amount=lambda data: f"an index of {data.counts['bytes'] / 1e9:.2f} GB",
    long=True,
    rounds=1,
    copies=3.2,
    columns=[*columns.MILLISECONDS, Column("goal ms", goal), Column("peak MiB receiver (goal 512)", peak)],
    notes=[
        "An index in the original program's format, so without BLAKE3; the proxy runs with `--legacy`. It takes the "
        "index and the blocks once, and is started again in every round. "
        f"A block has {BLOCK_BYTES:,} bytes, {FILES_IN_BLOCK} files; {BLOCKS} of them at random places go over one "
        "connection; their times are from the request to the answer. "
        "Looked up: the block is on stable storage already, and is sent again.",
    ],
    jobs=[
        Job(
            "rows",
            "take in, start, look up",
            ["tar-like"],
            [
                Row("intake", "the index: sent, checked, copied"),
                Row("written", "a block: written, synced, its files published"),
                Row("ready", "from the start of the proxy until `/readyz` answers 200"),
                Row("first lookup", "the first block after the start, looked up"),
                Row("lookup", "a block, looked up"),
            ],
            run_rows,
        )
    ],
)
