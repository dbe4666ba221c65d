"""From samples to Markdown."""

from __future__ import annotations

import os
import platform
import subprocess
import textwrap
from pathlib import Path

from bench import ROOT, file_system, memory
from columns import NOTHING
from measure import say

PAGE = ROOT / "docs/PERFORMANCE.md"
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"


def section_mark(name: str) -> str:
    return f"<!-- bench:section {name} -->"


def wrapped(text: str) -> str:
    """Prose in lines of the width that the pages have."""
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)


def render(title: str, head: str, tables: list[str]) -> str:
    return "\n\n".join([f"### {title}", head, *tables])


def render_head(bench, started, load: float, rounds: int, scale: float) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in bench.versions.items())
    said = f"Measured on {started:%Y-%m-%d}; rounds: {rounds}; {machine(bench)}. Load before: {load:.2f}."
    lines = [wrapped(f"{said} {versions}.{commit() if 'tar-like' in bench.tools else ''}")]
    if scale != 1:
        lines += ["", f"**Not a measurement: a try with sets of {scale:g} of their size.**"]
    return "\n".join(lines)


def render_set(section, result) -> str:
    # A column that has nothing to say of this set is left out.
    rows = [row for row in result.rows if row.key not in result.reasons]
    table = [(column.head, {row.key: column.cell(result, row) for row in rows}) for column in section.columns]
    table = [(head, cells) for head, cells in table if not rows or set(cells.values()) != {NOTHING}]
    lines = [
        f"#### {', '.join(filter(None, [section.case, result.data.name]))}: {section.amount(result.data)}",
        "",
        f"| {' | '.join(['', *(head for head, _ in table)])} |",
        "|---" + "|---:" * len(table) + "|",
    ]
    for row in result.rows:
        cells = [texts.get(row.key, NOTHING) for _, texts in table]
        if row.key in result.reasons:
            cells = [result.reasons[row.key], *cells[1:]]
        lines.append(f"| {' | '.join([row.label, *cells])} |")
    for note in [*section.notes, *result.notes]:
        lines += ["", wrapped(note)]
    return "\n".join(lines)


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


def write(texts: dict[str, str], names: list[str], page: Path = PAGE) -> None:
    """Puts sections between the page's markers; those that were not measured this time stay, and so does all around."""
    before, begin, rest = page.read_text().partition(BEGIN)
    old, end, after = rest.partition(END)
    if not begin or not end:
        old, before, after = "", f"{before.rstrip()}\n\n", "\n"
    parts = []
    for name in names:
        _, mark, kept = old.partition(section_mark(name))
        text = texts.get(name) or (kept.partition("<!-- bench:section ")[0].strip() if mark else "")
        if text:
            parts.append(f"{section_mark(name)}\n{text}\n")
    page.write_text(f"{before}{BEGIN}\n{chr(10).join(parts)}{END}{after}")
    say(f"written: {page}")
