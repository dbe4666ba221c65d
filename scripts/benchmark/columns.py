"""The columns of the tables: from the samples of a row to a cell. Ratios are of medians, of one run."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Callable

MIB = 1 << 20
NOTHING = "–"


@dataclass
class Column:
    head: str
    cell: Callable  # of (Result, Row), as text


def spread(head: str, value: Callable, digits: int = 2) -> list[Column]:
    """Median and range of value(sample, data) in two columns."""

    def values(result, row) -> list[float]:
        return [value(sample, result.data) for sample in result.samples[row.key]]

    def middle(result, row) -> str:
        return number(statistics.median(values(result, row)), digits)

    def ends(result, row) -> str:
        found = values(result, row)
        return f"{number(min(found), digits)}–{number(max(found), digits)}"

    return [Column(f"median {head}", middle), Column(f"min–max {head}", ends)]


def ratio(base: str) -> Column:
    """Of times: how much longer than the row `base`."""

    def cell(result, row) -> str:
        median, text = result.median(row.key), NOTHING
        if result.median(base):
            text = f"{median / result.median(base):.2f}"
        if row.versus and result.median(row.versus):
            text += f" ({median / result.median(row.versus):.2f} × {row.versus})"
        return text

    return Column(f"× {base}", cell)


def rate_ratio(base: str, name: str) -> Column:
    """Of rates: how much faster than the row `base`."""

    def cell(result, row) -> str:
        return f"{result.median(base) / result.median(row.key):.2f}" if result.median(base) else NOTHING

    return Column(f"× {name}", cell)


def per_side(head: str, value: Callable) -> list[Column]:
    """value(costs, data) of the sender and of the receiver."""

    def cell(side: str) -> Callable:
        def text(result, row) -> str:
            costs = [getattr(sample, side) for sample in result.samples[row.key]]
            costs = [cost for cost in costs if cost]
            return value(costs, result.data) if costs else NOTHING

        return text

    return [Column(f"{head} {side}", cell(side)) for side in ("sender", "receiver")]


def cpu_per_gb(costs: list, data) -> str:
    return f"{statistics.median(cost.cpu for cost in costs) / (data.counts['bytes'] / 1e9):.2f}"


def peak(costs: list, _) -> str:
    known = [cost.peak for cost in costs if cost.peak is not None]
    return f"{max(known) / MIB:.0f}" if known else "not measured"


def calls_per_file(side: str) -> Callable:
    def cell(result, row) -> str:
        cost = getattr(result.calls[row.key], side) if row.key in result.calls else None
        return f"{cost.calls / result.data.counts['files']:.2f}" if cost and cost.calls else NOTHING

    return cell


def number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}"


TIMES = spread("s", lambda sample, _: sample.wall)
MICROSECONDS_PER_FILE = spread("µs a file", lambda sample, data: sample.wall * 1e6 / data.counts["files"], 1)
MB_PER_S = spread("MB/s", lambda sample, data: data.counts["bytes"] / 1e6 / sample.wall, 0)
MILLISECONDS = spread("ms", lambda sample, _: sample.wall * 1e3)
CPU = per_side("CPU s/GB", cpu_per_gb)
PEAKS = per_side("peak MiB", peak)
CALLS = [Column(f"calls/file {side}", calls_per_file(side)) for side in ("sender", "receiver")]
