"""The section out of S3: from a bucket that rclone serves to verified files, near and with a delay for each request."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import columns
from bench import Bench
from ends import databases, environment, start_proxy
from measure import Daemon, Sample, Stop
from section import Job, Row, Section

KEY, SECRET = "benchaccesskey", "benchsecretkey"
BUCKET = "tree"  # that of every set, in the set's folder
DELAY_MS = 30


class Store:
    """rclone serve s3 on a set's folder, and if wanted a relay before it."""

    def __init__(self, bench: Bench, data, delay_ms: int):
        log = bench.log("rclone serve")
        log.unlink(missing_ok=True)
        config = bench.keep / "rclone.conf"
        config.touch()
        command = [bench.tools["rclone"], "serve", "s3", "--config", config, "--addr", "127.0.0.1:0"]
        command += ["--auth-key", f"{KEY},{SECRET}", "--read-only", data.tree.parent]
        self.daemons = [bench.runner.start(command, log, env=environment(bench))]
        port = self._port(self.daemons[0], log, r"Starting s3 server on \[http://127\.0\.0\.1:(\d+)/\]")
        if delay_ms:
            log = bench.log("relay")
            log.unlink(missing_ok=True)
            command = [sys.executable, Path(__file__).with_name("relay.py"), str(port), str(delay_ms)]
            self.daemons.append(bench.runner.start(command, log, env=environment(bench)))
            port = self._port(self.daemons[1], log, r"relaying on port (\d+)")
        self.endpoint = f"http://127.0.0.1:{port}"

    @staticmethod
    def _port(daemon: Daemon, log: Path, line: str) -> str:
        def port() -> str | None:
            found = re.search(line, log.read_text(errors="replace"))
            return found[1] if found else None

        return daemon.until(port, "it says no port")

    def rclone(self, bench: Bench) -> dict[str, str]:
        options = {
            "TYPE": "s3",
            "PROVIDER": "Other",
            "ENDPOINT": self.endpoint,
            "ACCESS_KEY_ID": KEY,
            "SECRET_ACCESS_KEY": SECRET,
            "FORCE_PATH_STYLE": "true",
        }
        return environment(bench) | {f"RCLONE_CONFIG_STORE_{name}": value for name, value in options.items()}

    def tar_like(self, bench: Bench) -> dict[str, str]:
        return environment(bench) | {
            "TARLIKE_S3_ENDPOINT": self.endpoint,
            "TARLIKE_S3_BUCKET": BUCKET,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
        }

    def warm(self, bench: Bench) -> None:
        """Its ETags are md5s, for which it reads each file once."""
        command = [bench.tools["rclone"], "lsf", "-R", "--fast-list", "--hash", "MD5", "--format", "ph"]
        command += ["--config", bench.keep / "rclone.conf", f"store:{BUCKET}"]
        with open(bench.log("rclone warm"), "wb") as log:
            done = subprocess.run(command, env=self.rclone(bench), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        if done.returncode != 0:
            raise Stop("the store cannot be listed", short="no list")


def started(bench: Bench, data, delay_ms: int) -> Store:
    store = Store(bench, data, delay_ms)
    store.warm(bench)
    return store


def rclone_job(delay_ms: int, transfers: int):
    def run(bench: Bench, data, first: bool):
        store = started(bench, data, delay_ms)
        key = f"rclone {transfers}"
        command = [bench.tools["rclone"], "copy", "--config", bench.keep / "rclone.conf", "--fast-list", "--quiet"]
        command += ["--transfers", str(transfers), "--checkers", str(transfers), f"store:{BUCKET}", bench.dest]
        yield key, bench.runner.run(command, bench.log(key), env=store.rclone(bench))
        if first:
            bench.compare_counts(data, "rclone")

    return run


def run_with(bench: Bench, proxy: Daemon, store: Store, arguments: list, name: str) -> Sample:
    proxy.mark()
    command = [bench.tools["tar-like"], *arguments]
    sample = bench.runner.run(command, bench.log(f"tar-like {name}"), env=store.tar_like(bench))
    sample.receiver = proxy.since_mark()
    return sample


def sync_job(delay_ms: int):
    def run(bench: Bench, data, first: bool):
        store = started(bench, data, delay_ms)
        proxy, url = start_proxy(bench)
        for key in ("sync", "sync again"):
            yield key, run_with(bench, proxy, store, ["sync", f"s3://{BUCKET}", url, *databases(bench)], key)
        proxy.stop()
        if first:
            check(bench, data)

    return run


def steps_job(delay_ms: int):
    def run(bench: Bench, data, first: bool):
        store = started(bench, data, delay_ms)
        index = ["index", "--use-s3", "-db", bench.run / "index.sqlite"]
        command = [bench.tools["tar-like"], *index]
        yield "index", bench.runner.run(command, bench.log("tar-like index"), env=store.tar_like(bench))
        proxy, url = start_proxy(bench)
        yield "upload", run_with(bench, proxy, store, ["upload", "--use-s3", *databases(bench), "-u", url], "upload")
        proxy.stop()
        if first:
            check(bench, data)

    return run


def check(bench: Bench, data) -> None:
    """Contents: times of a bucket are whole seconds here, and it has no modes."""
    command = [bench.tools["diff"], "-r", "--exclude=.tar-like", str(data.tree), str(bench.dest)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env={**os.environ, "LC_ALL": "C"})
    if done.returncode != 0:
        raise Stop(f"the copy differs:\n{done.stdout[:2000]}{done.stderr[:2000]}", short="the copy differs")


def section(delay_ms: int, case: str) -> Section:
    base = "rclone 8"
    return Section(
        name="s3",
        title="Out of S3",
        case=case,
        about="from a bucket, beside rclone copy; with and without 30 ms more for each request",
        sets=["objects", "object"],
        columns=[
            columns.ratio(base),
            columns.ratio("rclone 64"),
            *columns.TIMES,
            *columns.CPU,
            *columns.PEAKS,
        ],
        jobs=[
            Job(
                f"rclone-{transfers}",
                f"copy with {transfers} transfers",
                ["rclone"],
                [Row(f"rclone {transfers}", f"`rclone copy --transfers {transfers}`")],
                rclone_job(delay_ms, transfers),
            )
            for transfers in (8, 64)
        ]
        + [
            Job(
                "s3-sync",
                "tar-like sync out of a bucket, then again",
                ["tar-like", "rclone"],
                [
                    Row("sync", "**`tar-like sync s3://…`** to a proxy"),
                    Row("sync again", "**`tar-like sync`** again, nothing changed"),
                ],
                sync_job(delay_ms),
            ),
            Job(
                "s3-steps",
                "tar-like index --use-s3, then upload --use-s3",
                ["tar-like", "rclone"],
                [
                    Row("index", "`tar-like index --use-s3`"),
                    Row("upload", "`tar-like upload --use-s3` to a proxy, index given"),
                ],
                steps_job(delay_ms),
            ),
        ],
    )


SECTIONS = [section(0, "near"), section(DELAY_MS, f"{DELAY_MS} ms more for each request")]
