"""The data sets: real files of this machine, chosen in a fixed order up to a size, and copied once."""

from __future__ import annotations

import functools
import json
import os
import stat
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import generated
from bench import Bench, Counts, count
from measure import Stop, say

SMALL_FILES = 90_000
SMALL_BYTES = 1_200_000_000
TOOLCHAIN_BYTES = 2_860_000_000
TAR = "toolchain.tar"
RANDOM_BYTES = 1_500_000_000
# The names come on standard input.
PACK = ["tar", "-C", "/", "--null", "--verbatim-files-from", "--no-recursion", "-T", "-"]


@dataclass
class DataSet:
    name: str
    tree: Path
    counts: Counts
    origin: str


def make_set(bench: Bench, name: str, scale: float) -> DataSet:
    """The set as it is, or newly made; its manifest is written last."""
    folder = bench.keep / "sets" / name
    tree, manifest = folder / "tree", folder / "manifest.json"
    if manifest.exists():
        known = json.loads(manifest.read_text())
        if known["scale"] == scale and count(tree) == known["counts"]:
            return DataSet(name, tree, Counts(known["counts"]), known["origin"])
    say(f"making the set {name}")
    bench.remove_tree(folder)
    tree.mkdir(parents=True)
    origin = KINDS[name].make(tree, scale)
    data = DataSet(name, tree, count(tree), origin)
    manifest.write_text(json.dumps({"scale": scale, "counts": data.counts, "origin": data.origin}))
    say(f"{name}: {data.counts}; from {data.origin}")
    return data


def make_small(tree: Path, scale: float) -> str:
    sources = ["/usr/share", sysconfig.get_paths()["stdlib"], *python_libraries()]
    for toolchain in toolchains():
        sources += [f"{toolchain}/share", f"{toolchain}/lib/rustlib"]
    sources += ["/usr/include", "/usr/lib"]
    chosen, origin = choose(sources, SMALL_FILES * scale, SMALL_BYTES * scale, tree)
    with subprocess.Popen([*PACK, "-cf", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as pack:
        unpack = subprocess.Popen(["tar", "-C", tree, "-xpf", "-", *writable()], stdin=pack.stdout)
        pack.stdout.close()
        feed(pack, chosen)
        if unpack.wait() != 0:
            raise Stop("tar could not write the set small")
    return origin


def make_tenth(tree: Path, scale: float) -> str:
    return make_small(tree, scale * 0.11)


def make_tar(tree: Path, scale: float) -> str:
    sources = [*toolchains(), "/usr/lib", "/usr/bin"]
    # In a tar each file has a header and is filled up to 512 bytes.
    chosen, origin = choose(sources, float("inf"), TOOLCHAIN_BYTES * scale, tree, overhead=768)
    with subprocess.Popen([*PACK, "-cf", tree / TAR], stdin=subprocess.PIPE) as pack:
        feed(pack, chosen)
    return f"{origin} as one tar"


def link_tar(tree: Path, scale: float) -> str:
    """The tar of the set big, if there is one: it takes no space of its own then."""
    big = tree.parents[1] / "big"
    if not (big / "manifest.json").exists() or json.loads((big / "manifest.json").read_text())["scale"] != scale:
        return make_tar(tree, scale)
    os.link(big / "tree" / TAR, tree / TAR)
    return "the tar of the set big"


def make_big(tree: Path, scale: float) -> str:
    origin = make_tar(tree, scale)
    left = int(RANDOM_BYTES * scale)
    with open(tree / "random.bin", "wb") as file:
        while left > 0:
            left -= file.write(os.urandom(min(left, 1 << 24)))
    return f"{origin}, and random bytes"


@dataclass
class Kind:
    make: Callable  # of (tree, scale); gives what it is made from
    bytes: float  # that it takes on a tmpfs, about: small files take whole pages


KINDS = {
    "small": Kind(make_small, SMALL_BYTES * 1.35),
    "big": Kind(make_big, (TOOLCHAIN_BYTES + RANDOM_BYTES) * 1.03),
    "tar": Kind(link_tar, TOOLCHAIN_BYTES * 1.03),
    "tenth": Kind(make_tenth, SMALL_BYTES * 0.15),
    "100k": Kind(functools.partial(generated.make_files, files=100_000), 5.5e8),
    "1m": Kind(functools.partial(generated.make_files, files=1_000_000), 5.5e9),
    "objects": Kind(generated.make_objects, generated.OBJECTS * 52_000),
    "shared": Kind(generated.make_shared, generated.SHARED_BYTES),
    "object": Kind(generated.make_object, generated.OBJECT_BYTES),
    "image": Kind(generated.make_image, generated.IMAGE_BYTES),
    **{name: Kind(version.make, version.size) for name, version in generated.VERSIONED.items()},
    "log": Kind(generated.LOG.make, generated.LOG.size),
    "rows": Kind(generated.make_index, generated.ROWS * 240),
}


def python_libraries() -> list[str]:
    found = sorted(Path("/usr/lib").glob("python3*"))
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    found += sorted(pyenv.glob("versions/*/lib/python3*"))
    return [str(path) for path in found]


def toolchains() -> list[str]:
    """The Rust toolchain in use, then others beside it."""
    try:
        said = subprocess.run(["rustc", "--print", "sysroot"], capture_output=True, text=True)
    except OSError:
        return []
    sysroot = os.path.realpath(said.stdout.strip()) if said.returncode == 0 else "/usr"
    if Path(sysroot) == Path("/usr"):
        return []
    others = {os.path.realpath(path) for path in Path(sysroot).parent.iterdir() if (path / "bin/rustc").exists()}
    return [sysroot, *sorted(others - {sysroot})]


def choose(
    sources: list[str], most_files: float, most_bytes: float, avoid: Path, overhead: int = 0
) -> tuple[list[bytes], str]:
    """Names below the sources, in order, until one of the limits is reached, and where they are from."""
    chosen, used, taken = [], [], set()
    files = size = 0

    def full() -> bool:
        return files >= most_files or size >= most_bytes

    for source in map(os.path.realpath, sources):
        before = files
        if full() or source in taken or not os.path.isdir(source):
            continue
        for folder, folders, names in os.walk(os.fsencode(source)):
            if full():
                break
            if os.fsdecode(folder) in taken or folder == os.fsencode(avoid):
                folders.clear()
                continue
            folders.sort()
            chosen.append(folder)
            links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
            for name in sorted(names + links):
                path = os.path.join(folder, name)
                try:
                    status = os.lstat(path)
                except OSError:
                    continue
                if stat.S_ISLNK(status.st_mode):
                    chosen.append(path)
                elif stat.S_ISREG(status.st_mode) and os.access(path, os.R_OK) and not full():
                    chosen.append(path)
                    files += 1
                    size += status.st_size + overhead
        taken.add(source)
        if files > before:
            used.append(short_name(source) + (" (in part)" if full() else ""))
    return chosen, ", ".join(used)


def short_name(path: str) -> str:
    home = f"{Path.home()}/"
    return f"~/{path[len(home) :]}" if path.startswith(home) else path


def feed(pack: subprocess.Popen, names: list[bytes]) -> None:
    with pack.stdin as names_in:
        names_in.write(b"".join(name.lstrip(b"/") + b"\0" for name in names))
    # 1: a file changed meanwhile. What was written is what counts.
    if pack.wait() not in (0, 1):
        raise Stop("tar could not read the files of the set")


def writable() -> list[str]:
    """An ordinary user could not remove a copy of a folder that is not writable."""
    return [] if os.geteuid() == 0 else ["--mode=u+rwX"]
