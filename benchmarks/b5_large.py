"""B5: a large payload in, and out to 1 and to 8 sites, in flat memory; and in over a link that is cut now and then.

The bare relay stores and checks nothing. nginx serves the same bytes from the page cache. What is uploaded is hashed,
and flushed to the disk before it is answered: what that costs alone is measured beside it.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from benchmarks.bulk import PIECE_BYTES, Bulk, digest
from benchmarks.harness import Report, options, ratio, take_turns
from benchmarks.processes import Remote, Server, memory_bytes
from benchmarks.realm import Team, relay_with
from tests.conformance.realm import API
from tests.support.relay import RelayProcess

MIB = 1024 * 1024
SITES = 8
LINK_BYTES_PER_S = 50 * MIB
CUT_EVERY_S = 1.0
MISSING = 1e9
"""Seconds that a peer takes that is not there."""

_NGINX = """daemon off; master_process off; pid /dev/null; error_log stderr crit;
events { worker_connections 64; }
http { access_log off; sendfile on; server { listen 127.0.0.1:{port}; root %s; } }
"""


class Blobs:
    """What is uploaded to and downloaded from one relay."""

    def __init__(self, relay: RelayProcess, team: Team, load: Remote, size: int) -> None:
        self.relay = relay
        self.size = size
        self.peak = 0
        self._team = team
        self._load = load
        self.path = self.create(checked=True)

    def create(self, *, checked: bool = False) -> str:
        """Begin an upload; its path."""
        pairs = {"project": str(self._team.project), "filename": "model"}
        if checked:
            pairs["sha256"] = digest(self.size)
        given = ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in pairs.items())
        headers = {"Tus-Resumable": "1.0.0", "Upload-Length": str(self.size), "Upload-Metadata": given}
        url = f"{self.relay.url}{API}/blobs/"
        answer = httpx.post(url, headers={**self._team.coordinator.headers, **headers}, trust_env=False)
        answer.raise_for_status()
        return httpx.URL(answer.headers["Location"]).path

    def up(self) -> float:
        self.path = self.create(checked=True)
        return self._measured("upload", self.path, self.size)

    def down(self, sites: int) -> float:
        return self._measured("download", self.path, self.size, sites)

    def through(self, sites: int) -> float:
        return self._measured("through", self.create(checked=True), self.size, sites)

    def _measured(self, method: str, *arguments: object) -> float:
        """Seconds; meanwhile the relay's memory is looked at."""
        self._load.start(method, *arguments)
        while not self._load.is_done(0.02):
            self.peak = max(self.peak, memory_bytes(self.relay.pid))
        seconds: float = self._load.result()
        return seconds


def main() -> None:
    size = options().pick(256, 8) * MIB
    rounds = options().pick(5, 1)
    with ExitStack() as stack:
        relay, (team,) = stack.enter_context(relay_with(1))
        load = stack.enter_context(Remote(Bulk, relay.port, team.coordinator.headers))
        blobs = Blobs(relay, team, load, size)
        before = memory_bytes(relay.pid)
        peers = _Peers(stack, size)
        _speed(blobs, peers, rounds, before)
        _cuts(blobs, load)


class _Peers:
    """What the relay is measured beside."""

    def __init__(self, stack: ExitStack, size: int) -> None:
        self.size = size
        self._home = Path(stack.enter_context(TemporaryDirectory(prefix="relay-benchmark-")))
        bare = stack.enter_context(Server(sys.executable, "-m", "benchmarks.peers.tcp", "{port}"))
        self._bare = stack.enter_context(Remote(Bulk, bare.port, {}))
        self._nginx: Remote | None = None
        if shutil.which("nginx"):
            self._home.chmod(0o755)
            self.disk()
            nginx = stack.enter_context(Server("nginx", "-c", "{config}", config=_NGINX % self._home))
            self._nginx = stack.enter_context(Remote(Bulk, nginx.port, {}))

    def bare(self, sites: int) -> float:
        return float(self._bare.call("relayed", self.size, sites))

    def nginx(self, sites: int) -> float | None:
        return None if self._nginx is None else float(self._nginx.call("download", "/model", self.size, sites))

    def disk(self) -> float:
        """Writing and flushing the same bytes, without a network; hashing them comes to it."""
        piece = os.urandom(PIECE_BYTES)
        hashed = hashlib.sha256()
        started = time.perf_counter()
        with (self._home / "model").open("wb", buffering=0) as file:
            for _ in range(self.size // PIECE_BYTES):
                file.write(piece)
                hashed.update(piece)
            os.fsync(file.fileno())
        return time.perf_counter() - started


def _speed(blobs: Blobs, peers: _Peers, rounds: int, before: int) -> None:
    report = Report(
        title=f"B5  {blobs.size // MIB} MiB in and out",
        columns=("", "starfish-relay", "bare TCP relay", "nginx", "disk and hash"),
    )
    subjects: tuple[Callable[[], float], ...] = (
        blobs.up,
        lambda: blobs.down(1),
        lambda: blobs.down(SITES),
        lambda: blobs.through(1),
        lambda: blobs.through(SITES),
        lambda: peers.bare(1),
        lambda: peers.bare(SITES),
        lambda: peers.nginx(1) or MISSING,
        lambda: peers.nginx(SITES) or MISSING,
        peers.disk,
    )
    up, one, many, along, all_along, bare, bare_many, nginx, nginx_many, disk = take_turns(rounds, *subjects)

    def rate(seconds: Sequence[float], sites: int = 1) -> str:
        median_s = statistics.median(seconds)
        return "missing" if median_s == MISSING else f"{sites * blobs.size / MIB / median_s:,.0f} MiB/s"

    report.row("in", rate(up), rate(bare), "", rate(disk))
    report.row("out, 1 site", rate(one), rate(bare), rate(nginx), "")
    report.row(f"out, {SITES} sites", rate(many, SITES), rate(bare_many, SITES), rate(nginx_many, SITES), "")
    report.row("in, and out to 1 meanwhile", rate(along), rate(bare), "", "")
    report.row(f"in, and out to {SITES} meanwhile", rate(all_along, SITES), rate(bare_many, SITES), "", "")
    for wanted, ours, theirs in (
        ("in ≥ 0.5 × a bare relay one way", up, bare),
        ("out to 1 ≥ 0.5 × a bare relay one way", one, bare),
        (f"out to {SITES} ≥ 0.5 × a bare relay to {SITES}", many, bare_many),
    ):
        times = ratio(theirs, ours)
        report.at_least(wanted, 0.5, times, f"{times:.2f} ×")
    grown = (blobs.peak - before) / MIB
    report.at_most("memory grows by ≤ 64 MiB", 64, grown, f"{grown:.0f} MiB")
    report.notes.append("out: the sum of all sites; in: hashed, and flushed to the disk")
    report.say()


def _cuts(blobs: Blobs, load: Remote) -> None:
    report = Report(
        title=f"B5  {blobs.size // MIB} MiB in over a link of {LINK_BYTES_PER_S // MIB} MiB/s that is cut each second",
        columns=("", "cuts", "sent again", "of the whole"),
    )
    again: list[float] = []
    for _ in range(options().pick(3, 1)):
        cuts, sent = load.call("cut", blobs.create(), blobs.size, LINK_BYTES_PER_S, CUT_EVERY_S)
        again.append((sent - blobs.size) / blobs.size)
    share = statistics.median(again)
    report.row("starfish-relay", f"{cuts}", f"{share * blobs.size / 1024:,.0f} KiB", f"{share:.2%}")
    report.at_most("≤ 2 % sent again", 0.02, share, f"{share:.2%}")
    report.say()


if __name__ == "__main__":
    main()
