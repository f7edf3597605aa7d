"""Puts the clock of the day of a process forward by CLOCK_AHEAD_S seconds, if this folder is on its PYTHONPATH."""

from __future__ import annotations

import os
import time

_AHEAD_NS = int(float(os.environ["CLOCK_AHEAD_S"]) * 1e9)
_time_ns = time.time_ns


def _moved_ns() -> int:
    return _time_ns() + _AHEAD_NS


time.time_ns = _moved_ns
time.time = lambda: _moved_ns() / 1e9
