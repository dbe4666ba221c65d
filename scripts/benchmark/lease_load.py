"""Many hosts that only lease: the scripts of src/queue/lease on a real server, as fast as it answers."""

from __future__ import annotations

import json
import selectors
import socket
import time
from pathlib import Path

from measure import Stop

KEYS = ["job", "free", "lease", "owner", "host", "about", "parked"]
RANGE_BLOCKS = 64
LEASE_MS = 60_000
ATTEMPTS = 5
CONNECTIONS = 32


class Load:
    """Each host claims a range, renews it once, and says with its next claim that it is done: as a real one does."""

    def __init__(self, address: tuple, scripts: Path, hosts: int):
        self._files, self._sockets = [], []
        for _ in range(CONNECTIONS):
            connection = socket.create_connection(address, timeout=30)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets.append(connection)
            self._files.append(connection.makefile("rb"))
        self._keys = [f"tl:{{bench}}:{key}" for key in KEYS]
        common = (scripts / "common.lua").read_text()
        self._scripts = {
            name: self._ask("SCRIPT", "LOAD", common + (scripts / f"{name}.lua").read_text())
            for name in ("seed", "claim", "renew")
        }
        # What each host has leased: id, first block and end; a renewal comes after it, then the next claim.
        self._leases: list[tuple | None] = [None] * hosts
        self._is_renewed = [False] * hosts
        self.operations = 0

    def run(self, ranges: int) -> float:
        """Seconds until so many ranges are sent."""
        self._all_blocks = ranges * RANGE_BLOCKS
        self._ask(*self._call("seed", 0, json.dumps([0, self._all_blocks]), 0))
        began = time.perf_counter()
        left, turn = ranges, 0
        with selectors.DefaultSelector() as selector:
            for number, connection in enumerate(self._sockets):
                selector.register(connection, selectors.EVENT_READ, number)
            hosts = [None] * CONNECTIONS
            for number in range(CONNECTIONS):
                hosts[number], turn = self._next(number, turn), turn + 1
            while left > 0:
                for key, _ in selector.select():
                    number = key.data
                    left -= self._take(hosts[number], self._answer(number))
                    hosts[number], turn = self._next(number, turn), turn + 1
        return time.perf_counter() - began

    def _next(self, number: int, turn: int) -> int:
        host = turn % len(self._leases)
        lease, name = self._leases[host], f"node-{host}/{host}/0badcafe"
        about = '{"version":"0.1.0","rate":1000000}'
        if lease and not self._is_renewed[host]:
            half = (lease[1] + lease[2]) // 2
            call = self._call("renew", name, lease[0], half, LEASE_MS, LEASE_MS * 10, about, RANGE_BLOCKS)
        else:
            done = lease[0] if lease else ""
            call = self._call("claim", name, RANGE_BLOCKS, LEASE_MS, ATTEMPTS, about, done, self._all_blocks)
        self._sockets[number].sendall(encoded(*call))
        self.operations += 1
        return host

    def _take(self, host: int, answer: list) -> int:
        """Whether a range was sent."""
        if answer[0] == b"held":
            self._is_renewed[host] = True
            return 0
        had = self._leases[host]
        self._leases[host] = (answer[1].decode(), answer[2], answer[3]) if answer[0] == b"range" else None
        self._is_renewed[host] = False
        return 1 if had else 0

    def _call(self, script: str, *arguments) -> tuple:
        return ("EVALSHA", self._scripts[script], len(self._keys), *self._keys, *arguments)

    def _ask(self, *words) -> str:
        self._sockets[0].sendall(encoded(*words))
        answer = self._answer(0)
        return answer.decode() if isinstance(answer, bytes) else answer

    def _answer(self, number: int):
        return parsed(self._files[number])


def encoded(*words) -> bytes:
    parts = [str(word).encode() for word in words]
    return b"".join([b"*%d\r\n" % len(parts), *(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)])


def parsed(file):
    """An answer of the server."""
    line = file.readline()
    kind, rest = line[:1], line[1:-2]
    if kind == b"*":
        return [parsed(file) for _ in range(int(rest))]
    if kind == b"$":
        return file.read(int(rest) + 2)[:-2] if int(rest) >= 0 else None
    if kind == b":":
        return int(rest)
    if kind == b"+":
        return rest
    raise Stop(f"the engine answered {line!r}", short="the engine refused")
