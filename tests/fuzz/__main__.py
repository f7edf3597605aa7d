"""`make fuzz`: each target under atheris for its share of the time.

    python -m tests.fuzz [--budget SECONDS] [TARGET …]

What was found to reach new code is kept in .fuzz/TARGET, and is where the next run begins. An input that fails is there
too, as crash-*, timeout-* or oom-*; `python -m tests.fuzz --again FILE TARGET` runs it again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz what is read from outside.")
    parser.add_argument("--budget", type=int, default=600, help="seconds for all of it (default: %(default)s)")
    parser.add_argument("--again", type=Path, metavar="FILE", help="run one input of TARGET, and no more")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="of tests/fuzz/targets.py (default: all)")
    options = parser.parse_args()
    if options.again is not None:
        return _again(options.again, options.targets[0])
    from tests.fuzz.targets import TARGETS

    names = options.targets or list(TARGETS)
    share_s = max(1, options.budget // len(names))
    failed = [name for name in names if _fuzz(name, share_s) != 0]
    print(f"fuzz: {len(names)} targets, {share_s} s each; {', '.join(failed) or 'none'} failed")  # noqa: T201
    return 1 if failed else 0


def _fuzz(name: str, seconds: int) -> int:
    """One target in a process of its own."""
    print(f"fuzz: {name}", flush=True)  # noqa: T201
    return subprocess.call([sys.executable, "-m", "tests.fuzz.guided", name, str(seconds)])


def _again(path: Path, name: str) -> int:
    from tests.fuzz.targets import TARGETS, close

    try:
        TARGETS[name].run(path.read_bytes())
    finally:
        close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
