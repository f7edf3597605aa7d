"""`python -m benchmarks`: runs the parts that are named, or all of them."""

from __future__ import annotations

import importlib
import pkgutil
import re
import signal
import sys
import time
import traceback
from types import FrameType

import benchmarks
from benchmarks import harness


def parts() -> dict[str, str]:
    """The parts by their short names, as modules."""
    names = [module.name for module in pkgutil.iter_modules(benchmarks.__path__) if re.match(r"b\d+_", module.name)]
    return {name.partition("_")[0]: name for name in sorted(names, key=lambda name: int(name[1:].partition("_")[0]))}


def main() -> int:
    """Run, print and keep the results. 1 if a part failed; a goal that is not met is no failure."""
    signal.signal(signal.SIGTERM, _interrupt)
    known = parts()
    chosen = harness.options().parts or list(known)
    unknown = [part for part in chosen if part not in known]
    if unknown:
        print(f"error: no part {', '.join(unknown)}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    harness.print_header()
    failed = []
    for part in chosen:
        started = time.monotonic()
        try:
            importlib.import_module(f"benchmarks.{known[part]}").main()
        except Exception:
            traceback.print_exc()
            failed.append(part)
        harness.note(f"{part} took {time.monotonic() - started:.0f} s")
    harness.write_json()
    return 1 if failed else 0


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
