"""From samples to Markdown."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from dataclasses import asdict
from pathlib import Path

from bench import ROOT, file_system, memory
from measure import say

PAGE = ROOT / "docs/PERFORMANCE.md"
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
MIB = 1 << 20


class SetResult:
    """What was measured on one set: samples by row, or why there are none."""

    def __init__(self, data):
        self.data = data
        self.rows = []
        self.samples: dict[str, list] = {}
        self.reasons: dict[str, str] = {}
        self.failures: list[str] = []
        self.notes: list[str] = []

    def add_row(self, row, missing: str | None) -> None:
        self.rows.append(row)
        self.samples[row.key] = []
        if missing:
            self.reasons[row.key] = f"not available: {missing}"

    def usable(self, job) -> bool:
        return not any(row.key in self.reasons for row in job.rows)

    def fail(self, job, short: str) -> None:
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
        return {"set": self.data.name, "counts": self.data.counts, "samples": samples, "reasons": self.reasons}


def render(bench, sections, results, started, load: float, options) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in bench.versions.items())
    lines = [
        f"Measured on {started:%Y-%m-%d}; rounds: {options.rounds}; {machine(bench)}. Load before: {load:.2f}.",
        f"{versions}.{commit() if 'tar-like' in bench.tools else ''}",
    ]
    if options.scale != 1:
        lines += ["", f"**Not a measurement: a try with sets of {options.scale:g} of their size.**"]
    for section in sections:
        for result in results[section.title]:
            lines += ["", *render_set(section, result)]
    return "\n".join(lines)


def render_set(section, result: SetResult) -> list[str]:
    counts = result.data.counts
    amount = ", ".join(f"{counts[kind]:,} {kind}" for kind in ("files", "folders", "links"))
    amount += f", {counts['bytes'] / 1e9:.2f} GB"
    columns = ["", "median s", "min–max s", f"× {section.base}", "CPU s sender", "CPU s receiver"]
    columns += ["peak MiB sender", "peak MiB receiver"]
    lines = [
        f"### {section.title}, {result.data.name}: {amount}",
        "",
        f"| {' | '.join(columns)} |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in result.rows:
        lines.append(f"| {row.label} | {' | '.join(cells(section, result, row))} |")
    for note in result.notes:
        lines += ["", note]
    return lines


def cells(section, result: SetResult, row) -> list[str]:
    if row.key in result.reasons:
        return [result.reasons[row.key]] + ["–"] * 6
    samples = result.samples[row.key]
    median = result.median(row.key)
    walls = [sample.wall for sample in samples]
    ratio = ratio_to(median, result.median(section.base))
    if row.versus and result.median(row.versus):
        ratio += f" ({ratio_to(median, result.median(row.versus))} × {row.versus})"
    senders = [sample.sender for sample in samples]
    receivers = [sample.receiver for sample in samples if sample.receiver]
    return [
        f"{median:.2f}",
        f"{min(walls):.2f}–{max(walls):.2f}",
        ratio,
        cpu(senders),
        cpu(receivers),
        peak(senders),
        peak(receivers),
    ]


def ratio_to(value: float, base: float | None) -> str:
    return f"{value / base:.2f}" if base else "–"


def cpu(costs: list) -> str:
    return f"{statistics.median(cost.cpu for cost in costs):.2f}" if costs else "–"


def peak(costs: list) -> str:
    if not costs:
        return "–"
    known = [cost.peak for cost in costs if cost.peak is not None]
    return f"{max(known) / MIB:.0f}" if known else "not measured"


def machine(bench) -> str:
    model = "processor unknown"
    with open("/proc/cpuinfo") as lines:
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    cores = len(os.sched_getaffinity(0))
    return (
        f"{cores} cores, {model}; {memory('MemTotal') / (1 << 30):.1f} GiB of memory; "
        f"Linux {platform.release().split('-')[0]} {platform.machine()}; from and to {file_system(bench.keep)}"
    )


def commit() -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    if os.environ.get("TAR_LIKE"):
        return " tar-like: a binary that was given."
    head = git("rev-parse", "--short", "HEAD")
    if not head:
        return ""
    return f" tar-like is built from {head}{', with changes' if git('status', '--porcelain', '--', 'src') else ''}."


def write(text: str, page: Path = PAGE) -> None:
    """Puts the table between the markers; all around them is left alone."""
    if page.exists():
        old = page.read_text()
    else:
        old = f"# Performance\n\n{BEGIN}\n{END}\n"
    before, begin, rest = old.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        old, before, after = "", f"{old.rstrip()}\n\n", "\n"
    page.parent.mkdir(exist_ok=True)
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")
    say(f"written: {page}")
