"""A section of the report: jobs that are measured on sets of data, round after round, and the columns of its table."""

from __future__ import annotations

import contextlib
import statistics
from dataclasses import asdict, dataclass, field
from typing import Callable

from bench import Bench
from measure import Sample, Stop, say
from sets import DataSet, KINDS, make_set

@dataclass
class Row:
    key: str
    label: str
    versus: str | None = None  # a second ratio, to this row


@dataclass
class Job:
    """Runs that belong together. run yields (row's key, Sample), or (row's key, text) for a note in the report."""

    name: str
    about: str
    needs: list[str]
    rows: list[Row]
    run: Callable
    counted: bool = False  # its system calls, in a run of their own, on the section's counted_sets


@dataclass
class Column:
    head: str
    cell: Callable  # of (Result, Row), as text
    only_if: Callable = field(default=lambda result: True)


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
        samples = {key: [asdict(sample) for sample in samples] for key, samples in self.samples.items()}
        calls = {key: asdict(sample) for key, sample in self.calls.items()}
        counts, facts = self.data.counts, self.facts
        return {"set": self.data.name, "counts": counts, "samples": samples, "calls": calls, "facts": facts} | {
            "reasons": self.reasons
        }


@dataclass
class Section:
    """name is that of --section; several sections may share one."""

    name: str
    title: str
    about: str
    sets: list[str]
    jobs: list[Job]
    columns: list[Column]
    notes: list[str] = field(default_factory=list)
    counted_sets: list[str] = field(default_factory=list)
    long: bool = False  # only with --all or by its name; its sets are removed afterwards
    copies: float = 1  # how often the largest set lies in the working folder, besides itself
    # Makes what all runs of the section need, and takes it away. Stop with code 0: it cannot be had on this machine.
    around: Callable = contextlib.nullcontext
    prepare: Callable | None = None  # of (Bench, Result), before the rounds on a set

    def space(self, scale: float) -> int:
        """Bytes for all its sets, and copies of the largest."""
        sizes = [KINDS[name].bytes for name in self.sets]
        return int((sum(sizes) + max(sizes) * self.copies) * scale + 0.5e9)

    def measure(self, bench: Bench, options) -> list[Result]:
        bench.make_room(self.sets, self.space(options.scale))
        results = []
        with self.around(bench):
            for name in (name for name in self.sets if name in options.sets):
                results.append(self._measure_set(bench, make_set(bench, name, options.scale), options))
        if self.long:
            bench.make_room([], None)
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
        for turn in range(1, options.rounds + 1):
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
                for row, sample in job.run(bench, result.data, turn == 1):
                    if isinstance(sample, str):
                        result.notes.append(sample)
                        say(f"{name} {turn}: {sample}")
                    else:
                        result.samples[row].append(sample)
                        say(f"{name} {turn}: {row}: {sample.wall:.4g} s")
        except Stop as stop:
            say(f"{name} {turn}: {job.name} FAILED: {stop}")
            result.fail(job, stop.short)

    def _count_calls(self, bench: Bench, jobs: list[Job], result: Result) -> None:
        for job in jobs:
            say(f"{result.data.name}: {job.name}: counting system calls")
            try:
                with bench.fresh_run(), bench.runner.counting() as counter:
                    for row, sample in job.run(bench, result.data, False):
                        result.calls[row] = sample
            except Stop as stop:
                say(f"{result.data.name}: {job.name}: system calls were not counted: {stop}")
                continue
            if not counter:
                result.notes.append("System calls were not counted: neither `perf` nor `strace` works here.")
                return
