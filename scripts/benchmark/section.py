"""A section of the report: jobs that are measured on sets of data, round after round, and the columns of its table."""

from __future__ import annotations

import contextlib
import statistics
from dataclasses import asdict, dataclass, field
from typing import Callable

from bench import Bench
from calls import find_counter
from columns import Column
from measure import Sample, Stop, say
from sets import KINDS, DataSet, make_set


@dataclass
class Row:
    key: str
    label: str
    versus: str | None = None  # a second ratio, to this row


@dataclass
class Job:
    """Runs that belong together. run yields a row's key with a Sample, a list of them, or a note for the report."""

    name: str
    about: str
    needs: list[str]
    rows: list[Row]
    run: Callable
    counted: bool = False  # its system calls, in a run of their own, on the section's counted_sets


class Result:
    """What was measured on one set: samples by row, or why there are none."""

    def __init__(self, data: DataSet):
        self.data = data
        self.rows: list[Row] = []
        self.samples: dict[str, list[Sample]] = {}
        self.reasons: dict[str, str] = {}
        self.failures: list[str] = []
        self.notes: list[str] = []
        self.calls: dict[str, Sample] = {}
        self.facts: dict[str, float] = {}

    def add_row(self, row: Row, missing: str | None) -> None:
        self.rows.append(row)
        self.samples[row.key] = []
        if missing:
            self.reasons[row.key] = f"not available: {missing}"

    def usable(self, job: Job) -> bool:
        return not any(row.key in self.reasons for row in job.rows)

    def fail(self, job: Job, short: str) -> None:
        """Ends the job on this set: a figure of a tool that fails now and then is no figure."""
        self.failures.append(f"{self.data.name}: {job.name}: {short}")
        for row in job.rows:
            self.reasons[row.key] = f"FAILED: {short}"

    def median(self, key: str | None) -> float | None:
        if key in self.reasons or not self.samples.get(key):
            return None
        return statistics.median(sample.wall for sample in self.samples[key])

    def raw(self) -> dict:
        return {
            "set": self.data.name,
            "counts": self.data.counts,
            "facts": self.facts,
            "samples": {key: [asdict(sample) for sample in samples] for key, samples in self.samples.items()},
            "calls": {key: asdict(sample) for key, sample in self.calls.items()},
            "reasons": self.reasons,
        }


def amount(data: DataSet) -> str:
    counts = ", ".join(f"{data.counts[kind]:,} {kind}" for kind in ("files", "folders", "links"))
    return f"{counts}, {data.counts['bytes'] / 1e9:.2f} GB"


@dataclass
class Section:
    """name is that of --section. Several may share name and title, each with a case of its own."""

    name: str
    title: str
    about: str
    sets: list[str]
    jobs: list[Job]
    columns: list[Column]
    case: str = ""
    amount: Callable = amount  # of (DataSet), as text
    notes: list[str] = field(default_factory=list)
    counted_sets: list[str] = field(default_factory=list)
    long: bool = False  # only with --all or by its name; its sets are removed afterwards
    rounds: int | None = None  # instead of --rounds
    keeps_sets: bool = False  # although it is long: another section uses them
    copies: float = 1  # how often the largest set lies in the working folder, besides itself
    # Makes what all runs of the section need, and takes it away; or says that it is Unavailable.
    around: Callable = contextlib.nullcontext  # of (Bench)
    prepare: Callable | None = None  # of (Bench, Result), before the rounds on a set

    def space(self, scale: float) -> int:
        """Bytes for all its sets, and copies of the largest."""
        sizes = [KINDS[name].bytes for name in self.sets]
        return int((sum(sizes) + max(sizes) * self.copies) * scale + 0.5e9)

    def measure(self, bench: Bench, options) -> list[Result]:
        sets = [name for name in self.sets if name in options.sets]
        bench.make_room(sets, self.space(options.scale))
        with self.around(bench):
            results = [self._measure_set(bench, make_set(bench, name, options.scale), options) for name in sets]
        if self.long and not self.keeps_sets:
            for name in sets:
                bench.remove_set(name)
        return results

    def _measure_set(self, bench: Bench, data: DataSet, options) -> Result:
        jobs = [job for job in self.jobs if job.name in options.jobs]
        bench.warm(data.tree)
        result = Result(data)
        for job in jobs:
            missing = bench.missing(job.needs)
            for row in job.rows:
                result.add_row(row, missing)
            if missing:
                say(f"{data.name}: {job.name} not available: {missing}")
        if self.prepare:
            self.prepare(bench, result)
        for turn in range(1, (self.rounds or options.rounds) + 1):
            # Forth and back, so that no job always comes after the same other one.
            for job in jobs if turn % 2 else reversed(jobs):
                if result.usable(job):
                    self._run_job(bench, job, result, turn)
        if data.name in self.counted_sets:
            self._count_calls(bench, [job for job in jobs if job.counted and result.usable(job)], result)
        return result

    def _run_job(self, bench: Bench, job: Job, result: Result, turn: int) -> None:
        name = result.data.name
        try:
            with bench.fresh_run():
                for row, got in job.run(bench, result.data, turn == 1):
                    if isinstance(got, str):
                        result.notes.append(got)
                        say(f"{name} {turn}: {got}")
                        continue
                    samples = got if isinstance(got, list) else [got]
                    result.samples[row] += samples
                    say(f"{name} {turn}: {row}: {statistics.median(sample.wall for sample in samples):.4g} s")
        except Stop as stop:
            say(f"{name} {turn}: {job.name} FAILED: {stop}")
            result.fail(job, stop.short)

    def _count_calls(self, bench: Bench, jobs: list[Job], result: Result) -> None:
        counter = find_counter()
        if not counter:
            result.notes.append("System calls were not counted: neither `perf` nor `strace` works here.")
            return
        result.notes.append(f"System calls were counted by {counter.name}, in runs that are not timed.")
        bench.runner.counter = counter
        try:
            for job in jobs:
                say(f"{result.data.name}: {job.name}: counting system calls")
                with bench.fresh_run():
                    result.calls.update(job.run(bench, result.data, False))
        except Stop as stop:
            say(f"{result.data.name}: system calls were not counted: {stop}")
            result.notes.append("System calls were not all counted: a run failed.")
        finally:
            bench.runner.counter = None
