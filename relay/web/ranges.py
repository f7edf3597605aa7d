"""Conditional and partial requests (RFC 9110, sections 13 and 14), as far as they concern bytes that never change."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

MAX_RANGES = 64
"""More are not served in parts: the whole is sent."""

_SPEC = re.compile(r"(\d{0,19})-(\d{0,19})", re.ASCII)
_TAG = re.compile(r'(?:W/)?"[^"]*"')


class Unsatisfiable(Exception):
    """None of the ranges has a byte in it: 416."""


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes from `start` up to, and not with, `end`."""

    start: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.start

    def header(self, size: int) -> str:
        """Its Content-Range in something of this size."""
        return f"bytes {self.start}-{self.end - 1}/{size}"


def is_known(headers: Mapping[str, str], etag: str) -> bool:
    """Whether the client has it already, by If-None-Match: 304."""
    given = headers.get("if-none-match", "")
    return given.strip() == "*" or etag in (tag.removeprefix("W/") for tag in _TAG.findall(given))


def is_unexpected(headers: Mapping[str, str], etag: str) -> bool:
    """Whether the client wants something else, by If-Match: 412."""
    given = headers.get("if-match")
    return given is not None and given.strip() != "*" and etag not in _TAG.findall(given)


def wanted(headers: Mapping[str, str], size: int, etag: str, modified: str) -> list[Span] | None:
    """The spans that are asked for, in that order, without overlaps. None: the whole, with 200.

    Raises:
        Unsatisfiable.
    """
    given = headers.get("range", "")
    unit, _, specs = given.partition("=")
    if unit.strip().lower() != "bytes" or headers.get("if-range", etag) not in (etag, modified):
        return None
    found = [_SPEC.fullmatch(spec.strip()) for spec in specs.split(",") if spec.strip()]
    if not found or len(found) > MAX_RANGES:
        return None
    spans = []
    for match in found:
        if match is None or match[0] == "-" or (match[1] and match[2] and int(match[1]) > int(match[2])):
            return None
        span = _span(match[1], match[2], size)
        if span.size > 0:
            spans.append(span)
    if not spans:
        raise Unsatisfiable
    return _merged(spans)


def _span(first: str, last: str, size: int) -> Span:
    if not first:
        return Span(max(0, size - int(last)), size)
    return Span(int(first), min(size, int(last) + 1) if last else size)


def _merged(spans: list[Span]) -> list[Span]:
    """Spans that overlap or touch become one, so that no byte is sent twice."""
    ordered = sorted(spans, key=lambda span: span.start)
    if all(before.end < after.start for before, after in pairwise(ordered)):
        return spans
    merged = [ordered[0]]
    for span in ordered[1:]:
        if span.start <= merged[-1].end:
            merged[-1] = Span(merged[-1].start, max(merged[-1].end, span.end))
        else:
            merged.append(span)
    return merged
