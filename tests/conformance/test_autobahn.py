"""Autobahn's conformance cases for WebSocket servers, and each deviation by name (docs/conformance.md)."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest
from kosoku import FailureError, run_fuzzingclient
from kosoku._kosoku import CaseResult

from tests.support.ports import free_port

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")
"""The runner leaves the files open that its cases read."""
START_TRIES = 400
FAIL_FAST = {f"6.4.{n}" for n in range(1, 5)}
"""Where text that is no UTF-8 is refused once its message is whole, not at its first bad byte."""
NOT_STRICT = (
    {f"3.{n}" for n in range(2, 5)} | {f"4.{k}.{n}" for k in (1, 2) for n in range(3, 6)} | {"5.15"} | FAIL_FAST
)
"""Where the close may come before the echo of what was sent in one piece with the offence."""
LEFT_OPEN = {"7.1.6", "7.13.1", "7.13.2"}
"""Which the standard leaves open."""
COMPRESSION = ("12.", "13.")
"""Declined: `permessage-deflate` is never agreed to."""
HEAVY = ("9.*", "12.*", "13.*")
"""Megabytes of echo, and hundreds of handshakes in which compression is declined."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "tests.conformance.autobahn_echo", str(port)])
    try:
        _wait_until_it_listens(process, port)
        yield f"ws://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait(10)


async def test_the_cases(url: str) -> None:
    results = await _run(url, leave_out=HEAVY) + await _run(url, "9.1.1", "9.3.1", "12.1.1", "13.1.1")
    assert _unexpected(results) == {}


@pytest.mark.soak
async def test_every_case(url: str) -> None:
    results = await _run(url)
    assert len(results) == 517
    assert _unexpected(results) == {}
    seen = Counter(one.behavior.value for one in results)
    print(f"\nAutobahn's cases: {', '.join(f'{count} {verdict}' for verdict, count in sorted(seen.items()))}")  # noqa: T201


async def _run(url: str, *cases: str, leave_out: Sequence[str] = ()) -> list[CaseResult]:
    try:
        return await run_fuzzingclient(url, cases or None, leave_out, concurrency=8)
    except FailureError as failure:  # it takes what is declined for a failure; we tell them apart
        return failure.results


def _unexpected(results: Sequence[CaseResult]) -> dict[str, tuple[str, str, str]]:
    """The verdicts, by the case, that are neither OK nor expected to be otherwise."""
    verdicts = {one.case_id: (one.behavior.value, one.behavior_close.value, one.result) for one in results}
    return {case: verdict for case, verdict in verdicts.items() if not _is_expected(case, *verdict[:2])}


def _is_expected(case: str, verdict: str, close: str) -> bool:
    if case in LEFT_OPEN:
        return verdict == "INFORMATIONAL"
    if case.startswith(COMPRESSION):
        return (verdict, close) == ("UNIMPLEMENTED", "OK")
    return close == "OK" and (verdict == "OK" or (verdict == "NON-STRICT" and case in NOT_STRICT))


def _wait_until_it_listens(process: subprocess.Popen[bytes], port: int) -> None:
    for _ in range(START_TRIES):
        assert process.poll() is None, f"the echo ended with {process.returncode}"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("the echo does not listen")
