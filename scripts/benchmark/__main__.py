"""scripts/bench: options, then set-up, data sets, rounds, report.

A section is a table of the report: sets of data and jobs that are measured on each of them. To add one (S3, delta,
a limited link, ...), write a module like folders.py and add it to SECTIONS.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import signal
import sys

import folders
import report
from bench import Bench, Stop, say
from sets import SETS, make_set, space_wanted

SECTIONS = [folders.SECTION]


def parse_arguments() -> argparse.Namespace:
    jobs = [job for section in SECTIONS for job in section.jobs]
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Measures tar-like beside other ways to copy a folder, on real files of this machine: wall time,\n"
        "CPU seconds and peak memory of each side, in several rounds. Prints a Markdown table on stdout.\n"
        "Installs the other tools where it may (as root, on a Debian-like machine), builds tar-like, and\n"
        "makes the data sets: once, they are used again. Everything is kept in one working folder.",
        epilog="jobs: "
        + ", ".join(f"{job.name} ({job.about})" for job in jobs)
        + "; tar-like is sync and steps.\n\n"
        "environment: TAR_LIKE=PATH measures this binary instead of building one.\n\n"
        "examples:\n"
        "  scripts/bench --write                         all of it, into docs/PERFORMANCE.md\n"
        "  scripts/bench --set small --only rsync,sync   one pair\n"
        "  scripts/bench --scale 0.02 --rounds 1         a quick try; its figures say nothing\n\n"
        "Nothing else should run meanwhile. Exit codes: 0 measured; 1 a run failed, or a tree that tar-like has\n"
        "written is not that of the source; 2 usage; 130 interrupted.",
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="how often each job runs (default: 5)")
    parser.add_argument("--set", action="append", choices=list(SETS), help="only this set (repeatable; default: all)")
    parser.add_argument("--only", metavar="JOB,...", help="only these jobs, in the table's order")
    parser.add_argument(
        "--dir",
        metavar="FOLDER",
        help="working folder (default: /dev/shm/tar-like-bench if memory suffices, else tar-like-bench in $TMPDIR)",
    )
    parser.add_argument("--scale", type=float, default=1.0, metavar="X", help="size of the sets (default: 1)")
    parser.add_argument("--timeout", type=int, default=1800, metavar="SECONDS", help="for one run (default: 1800)")
    parser.add_argument("--clean", action="store_true", help="remove the working folder at the end")
    parser.add_argument("--write", action="store_true", help="put the table into docs/PERFORMANCE.md")
    options = parser.parse_args()
    if options.rounds < 1 or not 0 < options.scale <= 1 or options.timeout < 1:
        parser.error("--rounds and --timeout are at least 1, --scale is above 0 and at most 1")
    if options.write and (options.scale != 1 or options.only or options.set):
        parser.error("--write is for the whole table: not with --scale, --only, --set")
    names = {job.name: {job.name} for job in jobs}
    names["tar-like"] = {job.name for job in jobs if "tar-like" in job.needs}
    wanted = options.only.split(",") if options.only else list(names)
    unknown = [name for name in wanted if name not in names]
    if unknown:
        parser.error(f"no such job: {', '.join(unknown)} (there are {', '.join(names)})")
    options.jobs = set().union(*(names[name] for name in wanted))
    options.sets = [name for name in SETS if not options.set or name in options.set]
    return options


def measure_section(bench: Bench, section, options) -> list[report.SetResult]:
    jobs = [job for job in section.jobs if job.name in options.jobs]
    results = []
    for name in (name for name in section.sets if name in options.sets):
        data = make_set(bench, name, options.scale)
        bench.warm(data.tree)
        result = report.SetResult(data)
        for job in jobs:
            missing = bench.missing(job.needs)
            for row in job.rows:
                result.add_row(row, missing)
            if missing:
                say(f"{data.name}: {job.name} not available: {missing}")
        for turn in range(1, options.rounds + 1):
            # Forth and back, so that no job always comes after the same other one.
            for job in jobs if turn % 2 else reversed(jobs):
                if result.usable(job):
                    run_job(bench, job, data, result, turn)
        results.append(result)
    return results


def run_job(bench: Bench, job, data, result: report.SetResult, turn: int) -> None:
    try:
        with bench.fresh_run():
            for row, sample in job.run(bench, data, turn == 1):
                if isinstance(sample, str):
                    result.notes.append(sample)
                    say(f"{data.name} {turn}: {sample}")
                else:
                    result.samples[row].append(sample)
                    say(f"{data.name} {turn}: {row}: {sample.wall:.2f} s")
    except Stop as stop:
        say(f"{data.name} {turn}: {job.name} FAILED: {stop}")
        result.fail(job, stop.short)


def main() -> int:
    options = parse_arguments()

    def terminate(number, _frame):
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, terminate)

    needs = {need for section in SECTIONS for job in section.jobs if job.name in options.jobs for need in job.needs}
    bench = Bench(options.dir, space_wanted(options.sets, options.scale), options.timeout)
    with bench:
        bench.set_up(needs)
        load = os.getloadavg()[0]
        started = datetime.datetime.now(datetime.timezone.utc)
        results = {section.title: measure_section(bench, section, options) for section in SECTIONS}
        text = report.render(bench, SECTIONS, results, started, load, options)
        print(text)
        failures = [line for rows in results.values() for result in rows for line in result.failures]
        if not options.clean:
            raw = bench.keep / f"results-{started:%Y%m%dT%H%M%SZ}.json"
            raw.write_text(json.dumps({title: [r.raw() for r in rows] for title, rows in results.items()}, indent=1))
            say(f"all samples: {raw}")
        for line in failures:
            say(f"FAILED: {line}")
        if failures:
            return 1
        if options.write:
            report.write(text)
        if options.clean:
            bench.remove()
        else:
            say(f"the data sets stay for the next time; to remove them: rm -rf {bench.keep}")
    return 0


try:
    sys.exit(main())
except KeyboardInterrupt:
    sys.exit(130)
except Stop as stop:
    say(str(stop))
    sys.exit(stop.code)
