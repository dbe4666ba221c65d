"""scripts/bench: options, then set-up, and section after section.

To measure something else, write a module like folders.py and add it to SECTIONS.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import signal
import sys

import blockcopy
import compress
import delta
import folders
import link
import million
import queues
import report
import rows
import s3
import slices
from bench import Bench, Stop, say
from measure import Unavailable
from sets import KINDS

SECTIONS = [
    folders.SECTION,
    compress.SECTION,
    *blockcopy.SECTIONS,
    *delta.SECTIONS,
    *link.SECTIONS,
    *queues.SECTIONS,
    *slices.SECTIONS,
    *s3.SECTIONS,
    million.SECTION,
    rows.SECTION,
]


def parse_arguments() -> argparse.Namespace:
    names = list(dict.fromkeys(section.name for section in SECTIONS))
    about = {section.name: f"{section.name} ({section.about})" for section in SECTIONS}
    jobs = sorted({job.name for section in SECTIONS for job in section.jobs})
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Measures tar-like beside other ways to copy a folder, on real files of this machine,\n"
        "in several rounds: time, CPU seconds, system calls and peak memory of each side. Prints Markdown\n"
        "tables on stdout.\n"
        "Installs the other tools where it may (as root, on a Debian-like machine), builds tar-like, and\n"
        "makes the data sets: once, they are used again. Everything is kept in one working folder.",
        epilog="sections:\n"
        + "".join(f"  {text}\n" for text in about.values())
        + "The long ones run with --all, or when they are named; their sets are removed afterwards.\n\n"
        f"jobs: {', '.join(jobs)}; tar-like is all of its own.\n\n"
        "environment: TAR_LIKE=PATH measures this binary instead of building one; TAR_LIKE_LZ4=PATH likewise for\n"
        "benches/lz4.rs; TAR_LIKE_BLOCKCOPY=PATH the original blockcopy.py.\n\n"
        "examples:\n"
        "  scripts/bench --all --write                   everything, into docs/PERFORMANCE.md\n"
        "  scripts/bench --section link --write          one section of it\n"
        "  scripts/bench --section folders --set small --only rsync,sync   one pair\n"
        "  scripts/bench --scale 0.02 --rounds 1         a quick try; its figures say nothing\n\n"
        "Nothing else should run meanwhile. Exit codes: 0 measured; 1 a run failed, or a tree that tar-like has\n"
        "written is not that of the source; 2 usage; 130 interrupted.",
    )
    parser.add_argument(
        "--section", action="append", choices=names, help="only this section (repeatable; default: those not long)"
    )
    parser.add_argument("--all", action="store_true", help="the long sections, too")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="how often each job runs (default: 5)")
    parser.add_argument("--set", action="append", choices=list(KINDS), help="only this set (repeatable; default: all)")
    parser.add_argument("--only", metavar="JOB,...", help="only these jobs, in the table's order")
    parser.add_argument(
        "--dir",
        metavar="FOLDER",
        help="working folder (default: /dev/shm/tar-like-bench if memory suffices, else tar-like-bench in $TMPDIR)",
    )
    parser.add_argument("--scale", type=float, default=1.0, metavar="X", help="size of the sets (default: 1)")
    parser.add_argument("--timeout", type=int, default=1800, metavar="SECONDS", help="for one run (default: 1800)")
    parser.add_argument("--clean", action="store_true", help="remove the working folder at the end")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/PERFORMANCE.md")
    options = parser.parse_args()
    if options.rounds < 1 or not 0 < options.scale <= 1 or options.timeout < 1:
        parser.error("--rounds and --timeout are at least 1, --scale is above 0 and at most 1")
    if options.write and (options.scale != 1 or options.only or options.set):
        parser.error("--write is for whole sections: not with --scale, --only, --set")
    options.sets = options.set or list(KINDS)
    own = {job.name for section in SECTIONS for job in section.jobs if any(n.startswith("tar-like") for n in job.needs)}
    options.jobs = set(options.only.split(",") if options.only else jobs)
    if "tar-like" in options.jobs:
        options.jobs = options.jobs - {"tar-like"} | own
    if options.jobs - set(jobs):
        parser.error(f"no such job: {', '.join(sorted(options.jobs - set(jobs)))} (there are {', '.join(jobs)})")
    options.sections = [section for section in SECTIONS if is_wanted(section, options)]
    if not options.sections:
        parser.error("no section that is wanted has that set, or those jobs")
    return options


def is_wanted(section, options) -> bool:
    if not any(job.name in options.jobs for job in section.jobs):
        return False
    if options.set and not set(options.set) & set(section.sets):
        return False
    return section.name in options.section if options.section else options.all or not section.long


def measure_section(bench: Bench, section, options) -> tuple[list[str], dict]:
    """Tables, and all samples; none if this machine does not let it be measured."""
    try:
        results = section.measure(bench, options)
    except Unavailable as reason:
        say(f"{section.title}: NOT MEASURED: {reason}")
        return [], {}
    for line in (line for result in results for line in result.failures):
        options.failures.append(f"{section.title}: {line}")
    tables = [report.render_set(section, result) for result in results]
    return tables, {result.data.name: result.raw() for result in results}


def main() -> int:
    options = parse_arguments()

    def terminate(number, _frame):
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, terminate)

    used = [job for section in options.sections for job in section.jobs if job.name in options.jobs]
    needs = {need for job in used for need in job.needs}
    space = max(section.space(options.scale) for section in options.sections)
    options.failures = []
    with Bench(options.dir, space, options.timeout, options.rounds) as bench:
        bench.set_up(needs)
        started = datetime.datetime.now(datetime.timezone.utc)
        texts, raw = {}, {}
        for name in dict.fromkeys(section.name for section in options.sections):
            sections = [section for section in options.sections if section.name == name]
            head = report.render_head(bench, started, os.getloadavg()[0], options.rounds, options.scale)
            tables = []
            for section in sections:
                more, raw[f"{section.title} {section.case}"] = measure_section(bench, section, options)
                tables += more
            if tables:
                texts[name] = report.render(sections[0].title, head, tables)
                print(f"{texts[name]}\n", flush=True)
        if not options.clean:
            file = bench.keep / f"results-{started:%Y%m%dT%H%M%SZ}.json"
            file.write_text(json.dumps(raw, indent=1))
            say(f"all samples: {file}")
        for line in options.failures:
            say(f"FAILED: {line}")
        if options.failures:
            return 1
        if options.write:
            report.write(texts, list(dict.fromkeys(section.name for section in SECTIONS)))
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
