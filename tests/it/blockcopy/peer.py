"""The stream of the original blockcopy, written from its description for tests and measurements.

It shares no code with the program.

peer.py checksum FILE [--start N] [--end N] | peer.py retrieve FILE [--lzma] | peer.py save FILE

Threads hash, as in the original: Python's hash functions let others run.
"""

import argparse
import hashlib
import itertools
import lzma
import os
import sys
from collections import deque
from concurrent.futures import ThreadPoolExecutor

BLOCK = 131072
BATCH = 16
WORKERS = min(os.cpu_count(), 8)
IN, OUT = sys.stdin.buffer, sys.stdout.buffer


def number(value, size):
    return value.to_bytes(size, "big")


def need(size):
    data = IN.read(size)
    if len(data) != size:
        sys.exit("peer: the stream ends too early")
    return data


def in_order(pool, work, tasks):
    """Results of work(task) in order, a few tasks ahead."""
    waiting = deque()
    for task in tasks:
        waiting.append(pool.submit(work, task))
        if len(waiting) > 3 * WORKERS:
            yield waiting.popleft().result()
    for future in waiting:
        yield future.result()


def sha3(block):
    return hashlib.sha3_512(block).digest()


def checksum(options):
    source = IN if options.file == "-" else open(options.file, "rb")
    if options.start:
        source.seek(options.start)
    position = options.start

    def batches():
        nonlocal position
        while True:
            batch = []
            while len(batch) < BATCH:
                most = BLOCK if options.end is None else min(BLOCK, options.end - position)
                block = source.read(most) if most > 0 else b""
                if not block:
                    break
                batch.append((position, block))
                position += len(block)
            if not batch:
                return
            yield batch

    def work(batch):
        return b"".join(b"Hash" + number(at, 8) + number(len(block), 4) + sha3(block) for at, block in batch)

    with ThreadPoolExecutor(WORKERS) as pool:
        for records in in_order(pool, work, batches()):
            OUT.write(records)
    if options.end is None or position >= os.path.getsize(options.file):
        OUT.write(b"rest" + number(position, 8))
    OUT.write(b"done")
    OUT.flush()


def retrieve(options):
    source = open(options.file, "rb")

    def asked():
        """(position, block, hash of the destination's or None), of everything that is to be looked at."""
        implied = 0
        while True:
            tag = need(4)
            if tag == b"done":
                return
            if tag == b"rest":
                at = int.from_bytes(need(8), "big")
                source.seek(at)
                while block := source.read(BLOCK):
                    yield at, block, None
                    at += len(block)
                continue
            if tag not in (b"Hash", b"hash"):
                sys.exit(f"peer: unknown record {tag!r}")
            at = int.from_bytes(need(8), "big") if tag == b"Hash" else implied
            length = int.from_bytes(need(4), "big")
            there = need(64)
            implied = at + length
            source.seek(at)
            if block := source.read(length):
                yield at, block, there if len(block) == length else None

    def batches():
        everything = asked()
        while batch := list(itertools.islice(everything, BATCH)):
            yield batch

    def work(batch):
        found = []
        for at, block, there in batch:
            if there is not None and sha3(block) == there:
                continue
            tag, body = b"data", block
            if options.lzma and len(packed := lzma.compress(block)) < len(block):
                tag, body = b"dlzm", packed
            found += [tag + number(at, 8) + number(len(body), 4), body]
        return found

    with ThreadPoolExecutor(WORKERS) as pool:
        for records in in_order(pool, work, batches()):
            for piece in records:
                OUT.write(piece)
    OUT.write(b"done")
    OUT.flush()


def save(options):
    with open(options.file, "r+b") as destination:
        while (tag := need(4)) != b"done":
            if tag not in (b"data", b"dlzm"):
                sys.exit(f"peer: unknown record {tag!r}")
            destination.seek(int.from_bytes(need(8), "big"))
            body = need(int.from_bytes(need(4), "big"))
            destination.write(lzma.decompress(body) if tag == b"dlzm" else body)


parser = argparse.ArgumentParser()
parser.add_argument("step", choices=["checksum", "retrieve", "save"])
parser.add_argument("file")
parser.add_argument("--start", type=int, default=0)
parser.add_argument("--end", type=int)
parser.add_argument("--lzma", action="store_true")
arguments = parser.parse_args()
{"checksum": checksum, "retrieve": retrieve, "save": save}[arguments.step](arguments)
