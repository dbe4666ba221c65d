"""The sets that are generated, because no machine has them: very many files, objects, and an index of very many rows."""

from __future__ import annotations

import hashlib
import os
import random
import sqlite3
from dataclasses import dataclass
from pathlib import Path

FILES_IN_FOLDER = 100
SMALLEST, LARGEST = 100, 600

OBJECTS = 20_000
OBJECT_BYTES = 2_000_000_000
SHARED_BYTES = 600_000_000
IMAGE_BYTES = 4_000_000_000


@dataclass(frozen=True)
class Versioned:
    """One file of random bytes, of which there will be other versions."""

    name: str
    size: int

    def make(self, tree: Path, scale: float) -> str:
        return write_noise(tree / self.name, int(self.size * scale))


LOG = Versioned("grows.log", 8 << 30)
VERSIONED = {"1.8gib": Versioned("image", 9 * (1 << 30) // 5), "5.5gib": Versioned("image", 11 * (1 << 29))}

ROWS = 10_000_000
ROW_BYTES = 300  # of each file that the index names
# What the original program writes: this one table, and its indexes.
TABLE = "CREATE TABLE tar (id INT64, path TEXT, size INT64, offset INT64, offset_end INT64, hash TEXT)"
INDEXES = ["path", "hash", "offset", "offset_end", "offset, offset_end"]


def make_files(tree: Path, scale: float, files: int) -> str:
    """Files of 100 to 600 bytes, 100 in a folder, 100 folders in a folder."""
    choose = random.Random(files)
    noise = os.urandom(1 << 20)
    total = int(files * scale)
    for first in range(0, total, FILES_IN_FOLDER):
        number = first // FILES_IN_FOLDER
        folder = tree / f"{number // 100:03d}" / f"{number % 100:02d}"
        folder.mkdir(parents=True)
        at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        for name in range(first, min(first + FILES_IN_FOLDER, total)):
            start = choose.randrange(len(noise) - LARGEST)
            file = os.open(f"file-{name:07d}.dat", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=at)
            os.write(file, noise[start : start + choose.randint(SMALLEST, LARGEST)])
            os.close(file)
        os.close(at)
    return f"random bytes, {SMALLEST} to {LARGEST} in a file, {FILES_IN_FOLDER} files in a folder"


def make_objects(tree: Path, scale: float) -> str:
    """Files of 10 to 90 kB, 200 in a folder: about 50 kB each."""
    choose = random.Random(OBJECTS)
    noise = os.urandom(1 << 20)
    for number in range(int(OBJECTS * scale)):
        folder = tree / f"folder-{number // 200:03d}"
        folder.mkdir(exist_ok=True)
        size = choose.randint(10_000, 90_000)
        start = choose.randrange(len(noise) - size)
        (folder / f"object-{number:05d}.dat").write_bytes(noise[start : start + size])
    return "random bytes, 10 to 90 kB in an object, 200 objects in a folder"


def make_shared(tree: Path, scale: float) -> str:
    """60 files of 10 MB."""
    for number in range(60):
        write_noise(tree / f"file-{number:02d}", int(SHARED_BYTES / 60 * scale))
    return "random bytes"


def make_object(tree: Path, scale: float) -> str:
    """One object of 2 GB."""
    return write_noise(tree / "object.dat", int(OBJECT_BYTES * scale))


def make_image(tree: Path, scale: float) -> str:
    """One image of 4 GB."""
    return write_noise(tree / "image", int(IMAGE_BYTES * scale))


def write_noise(path: Path, length: int) -> str:
    with open(path, "wb") as file:
        while length > 0:
            length -= file.write(os.urandom(min(length, 1 << 24)))
    return "random bytes"


def make_index(tree: Path, scale: float) -> str:
    """An index in the original program's format, of files that need not exist: content() makes them."""
    # Sorting the columns takes as much space again for a while.
    os.environ["SQLITE_TMPDIR"] = str(tree)
    with sqlite3.connect(tree / "index.sqlite") as index:
        index.executescript(f"PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-65536; {TABLE};")
        index.executemany("INSERT INTO tar VALUES (?,?,?,?,?,?)", map(row, range(rows_at(scale))))
        for columns in INDEXES:
            index.execute(f"CREATE INDEX idx_tar_{columns.replace(', ', '_n_')} ON tar ({columns})")
    index.close()
    return f"an index of the original program's format, every file of {ROW_BYTES} bytes"


def rows_at(scale: float) -> int:
    return int(ROWS * scale)


def row(number: int) -> tuple:
    path = f"folder-{number // 100_000:03d}/sub-{number // 100 % 1000:03d}/file-{number:08d}.dat"
    offset = number * ROW_BYTES
    md5 = hashlib.md5(content(number), usedforsecurity=False).hexdigest()
    return number, path, ROW_BYTES, offset, offset + ROW_BYTES - 1, md5


def content(number: int) -> bytes:
    return (b"%020d" % number) * (ROW_BYTES // 20)
