"""Starting processes, and what they cost: wall time, CPU seconds, peak memory."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from calls import Perf, Strace

TICKS = os.sysconf("SC_CLK_TCK")


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


class Stop(Exception):
    """Something that ends a job, or all of it; short is what fits into the table."""

    def __init__(self, message: str, short: str = "failed", code: int = 1):
        super().__init__(message)
        self.short = short
        self.code = code


class Unavailable(Exception):
    """This machine does not let a section be measured: it is left out, and nothing has failed."""


@dataclass
class Cost:
    """Of one side. What could not be measured, or was not counted, is None; peak memory of a pipeline is the sum."""

    cpu: float
    peak: int | None
    calls: int | None = None

    def __add__(self, other: Cost) -> Cost:
        known = self.peak is not None and other.peak is not None
        return Cost(self.cpu + other.cpu, self.peak + other.peak if known else None)


@dataclass
class Sample:
    wall: float
    sender: Cost | None = None
    receiver: Cost | None = None
    wire: int | None = None  # bytes that went over a link, where that was measured
    complete: float | None = None  # when the first of several senders had the receiver's word for everything


class Process:
    """A process in a session of its own, below GNU time.

    Linux hands a parent's peak memory on to the program that its child executes, so the figure of a small program
    started from Python would be Python's. GNU time is small itself.
    """

    def __init__(self, runner: Runner, command: list, log: Path, stdin=subprocess.DEVNULL, stdout=None, env=None):
        words = [str(word) for word in command[1:2] if str(word).isalpha()]
        self.name = " ".join([Path(command[0]).name, *words])
        self.log = log
        self._runner = runner
        self._peak_file = log.with_suffix(f".{len(runner.running)}.peak")
        self._pid_file = log.with_suffix(f".{len(runner.running)}.pid")
        self._calls_file = log.with_suffix(f".{len(runner.running)}.calls")
        for old in (self._peak_file, self._pid_file, self._calls_file):
            old.unlink(missing_ok=True)
        wrapped = ["sh", "-c", 'echo $$ >"$0"; exec "$@"', self._pid_file, *command]
        if runner.time:
            wrapped = [runner.time, "--quiet", "-f", "%M", "-o", self._peak_file, *wrapped]
        self._counter = runner.counter
        if self._counter:
            wrapped = self._counter.wrap(wrapped, self._calls_file)
        with open(log, "ab") as output:
            self._process = subprocess.Popen(
                [os.fspath(part) for part in wrapped],
                stdin=stdin,
                stdout=stdout if stdout is not None else output,
                stderr=output,
                env=env,
                start_new_session=True,
            )
        runner.running.append(self)

    @property
    def pid(self) -> int | None:
        """Of the program itself: of GNU time's child. Valid until wait() has returned."""
        with contextlib.suppress(OSError, ValueError):
            return int(self._pid_file.read_text())
        return None

    def wait(self) -> tuple[int, Cost]:
        """Exit code and cost, of all that the program started and waited for; the peak is that of the largest."""
        _, status, usage = os.wait4(self._process.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        self._process.returncode = code
        self._runner.running.remove(self)
        peak = None
        with contextlib.suppress(OSError, ValueError, IndexError):
            peak = int(self._peak_file.read_text().split()[-1]) * 1024
        calls = self._counter.read(self._calls_file) if self._counter else None
        return code, Cost(usage.ru_utime + usage.ru_stime, peak, calls)

    def ended(self) -> bool:
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def signal(self, number: int) -> None:
        pid = self.pid
        if pid and not self.ended():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        # The session's group: GNU time, the program, and what it has started.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def tail(self) -> str:
        with contextlib.suppress(OSError):
            lines = self.log.read_text(errors="replace").strip().split("\n")
            return "\n".join(f"    {line}" for line in lines[-15:])
        return ""


class Daemon:
    """A receiver that is started before a run and stopped after it, neither of it timed."""

    def __init__(self, process: Process):
        self._process = process
        self._cpu = 0.0

    def until(self, is_ready, what: str):
        """Waits for what is_ready() returns."""
        end = time.monotonic() + 30
        while time.monotonic() < end:
            if self._process.ended():
                break
            ready = is_ready()
            if ready:
                return ready
            time.sleep(0.02)
        raise Stop(f"{self._process.name} did not come up ({what}):\n{self._process.tail()}", short="did not start")

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def mark(self) -> None:
        """From here on counts what since_mark() returns."""
        self._cpu = self._cpu_now()
        # Resets the peak where the kernel can; elsewhere it is the peak since the start.
        with contextlib.suppress(OSError):
            Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")

    def since_mark(self) -> Cost:
        peak = None
        with contextlib.suppress(OSError):
            found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{self._process.pid}/status").read_text())
            peak = int(found[1]) * 1024 if found else None
        return Cost(self._cpu_now() - self._cpu, peak)

    def _cpu_now(self) -> float:
        try:
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            raise Stop(f"{self._process.name} ended by itself:\n{self._process.tail()}", short="receiver died") from None
        return sum(map(int, fields[11:15])) / TICKS

    def until_idle(self) -> None:
        """Waits until it has reaped the processes that it forked for connections."""
        pid = self._process.pid
        end = time.monotonic() + 10
        while pid in parents() and time.monotonic() < end:
            time.sleep(0.01)

    def stop(self, expected: tuple[int, ...] = (0,)) -> Cost:
        """The cost of its whole life, forked children included; their peak is that of the largest process."""
        timer = threading.Timer(60, self._process.kill)
        timer.start()
        try:
            self._process.signal(signal.SIGTERM)
            code, cost = self._process.wait()
        finally:
            timer.cancel()
        if code not in expected:
            raise Stop(f"{self._process.name} ended with {code}:\n{self._process.tail()}", short=f"receiver exit {code}")
        return cost


def parents() -> set[int]:
    """Of all processes."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            found.add(int(stat.read_text().rpartition(")")[2].split()[1]))
    return found


class Runner:
    def __init__(self, timeout: int):
        self.timeout = timeout
        self.time: str | None = None
        self.counter: Perf | Strace | None = None
        self.running: list[Process] = []

    def run(self, command: list, log: Path, env=None) -> Sample:
        """One process, timed."""
        began = time.perf_counter()
        process = Process(self, command, log, env=env)
        (cost,) = self._finish([process])
        return Sample(time.perf_counter() - began, cost)

    def run_linked(self, senders: list[list], receivers: list[list], log: Path) -> Sample:
        """Two pipelines with one TCP connection on loopback between them, timed until both have ended."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            out = socket.create_connection(server.getsockname())
            into, _ = server.accept()
        began = time.perf_counter()
        with out, into:
            receiving = self._pipeline(receivers, into, None, log)
            sending = self._pipeline(senders, subprocess.DEVNULL, out, log)
        costs = self._finish(sending + receiving)
        wall = time.perf_counter() - began
        sender, receiver = costs[: len(sending)], costs[len(sending) :]
        nothing = Cost(0.0, 0)
        return Sample(wall, sum(sender, nothing), sum(receiver, nothing))

    def run_beside(self, commands: list[list], logs: list[Path], env=None) -> Sample:
        """Several processes at the same time, timed until all have ended; the cost is that of all."""
        began = time.perf_counter()
        costs = self._finish([Process(self, command, log, env=env) for command, log in zip(commands, logs)])
        return Sample(time.perf_counter() - began, sum(costs, Cost(0.0, 0)))

    def run_piped(self, commands: list[list], log: Path) -> Sample:
        """A pipeline, timed until all of it has ended."""
        began = time.perf_counter()
        costs = self._finish(self._pipeline(commands, subprocess.DEVNULL, None, log))
        return Sample(time.perf_counter() - began, sum(costs, Cost(0.0, 0)))

    def start(self, command: list, log: Path, env=None) -> Daemon:
        return Daemon(Process(self, command, log, env=env))

    def stop_all(self) -> None:
        """Everything that is still running and was started here."""
        for process in list(self.running):
            process.signal(signal.SIGTERM)
        end = time.monotonic() + 5
        for process in list(self.running):
            while not process.ended() and time.monotonic() < end:
                time.sleep(0.02)
            process.kill()
            process.wait()

    def _pipeline(self, commands: list[list], stdin, stdout, log: Path) -> list[Process]:
        processes = []
        for number, command in enumerate(commands):
            last = number == len(commands) - 1
            read, write = (None, stdout) if last else os.pipe()
            processes.append(Process(self, command, log, stdin=stdin, stdout=write))
            if number > 0:
                os.close(stdin)
            if not last:
                os.close(write)
            stdin = read
        return processes

    def _finish(self, processes: list[Process]) -> list[Cost]:
        late = threading.Event()

        def kill():
            late.set()
            for process in processes:
                if process in self.running:
                    process.kill()

        timer = threading.Timer(self.timeout, kill)
        timer.start()
        try:
            ends = [process.wait() for process in processes]
        finally:
            timer.cancel()
        if late.is_set():
            raise Stop(f"took more than {self.timeout} s and was ended", short=f"more than {self.timeout} s")
        for process, (code, _) in zip(processes, ends):
            if code != 0:
                raise Stop(f"{process.name} ended with {code}:\n{process.tail()}", short=f"exit {code}")
        return [cost for _, cost in ends]
