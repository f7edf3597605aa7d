"""Whether what the server installs has known vulnerabilities: pip-audit, on the lock (`make check`).

A vulnerability fails. An advisory service that cannot be reached does not: one line says that nothing, or not
everything, was audited. An answer holds for a day, for as long as the lock is the same.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements-server.lock"
SEEN = ROOT / ".venv" / ".audited"
HOLDS_S = 86_400.0
TIMEOUT_S = 90.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """`vulnerable`: a line for each one. `why_not`: what was not audited, and why; empty if all was."""

    vulnerable: tuple[str, ...] = ()
    why_not: str = ""


def read(report: str, complaint: str = "") -> Verdict:
    """What a report of `pip-audit --format json` says; no report is what it is where the service is not reached."""
    try:
        dependencies = json.loads(report)["dependencies"]
    except (ValueError, KeyError, TypeError):
        last = (complaint.strip().splitlines() or ["no report"])[-1]
        return Verdict(why_not=f"nothing was audited: {last[:200]}")
    vulnerable = tuple(
        f"{one['name']} {one['version']}: {found['id']}, fixed in {', '.join(found['fix_versions']) or 'no release'}"
        for one in dependencies
        for found in one.get("vulns", ())
    )
    skipped = [one["name"] for one in dependencies if "skip_reason" in one]
    if not skipped:
        return Verdict(vulnerable=vulnerable)
    words = f"{len(skipped)} of {len(dependencies)} were not audited: the advisory service does not know {skipped[0]}"
    return Verdict(vulnerable=vulnerable, why_not=words)


def ask() -> Verdict:
    """Run pip-audit. It installs nothing and resolves nothing: the lock is all there is."""
    command = [sys.executable, "-m", "pip_audit", "--require-hashes", "--disable-pip", "--progress-spinner", "off"]
    try:
        done = subprocess.run(
            [*command, "--format", "json", "--requirement", str(LOCK)],
            check=False,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return Verdict(why_not=f"nothing was audited: no answer within {TIMEOUT_S:.0f} s")
    return read(done.stdout, done.stderr)


def main() -> int:
    digest = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    if _is_known_good(digest):
        return 0
    verdict = ask()
    if verdict.why_not:
        print(f"pip-audit: {verdict.why_not}")
    for line in verdict.vulnerable:
        print(f"pip-audit: {line}")
    if verdict == Verdict():
        SEEN.write_text(digest)
    return 1 if verdict.vulnerable else 0


def _is_known_good(digest: str) -> bool:
    try:
        return SEEN.read_text() == digest and time.time() - SEEN.stat().st_mtime < HOLDS_S
    except OSError:
        return False


if __name__ == "__main__":
    raise SystemExit(main())
