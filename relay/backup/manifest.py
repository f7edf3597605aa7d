"""What a backup says of itself."""

from __future__ import annotations

import msgspec

FORMAT = 1
NAME = "manifest.json"
CONTENTS = "contents.jsonl"


class BadBackup(Exception):
    """A backup that cannot be restored, or a place that none can be put to. The message says which and why."""


class Table(msgspec.Struct, frozen=True):
    """`columns`: of each row, in order. `sha256`: of the file."""

    columns: list[str]
    rows: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    """`schema`: the last migration that the rows have been through. `lost`: contents that were not there to copy."""

    format: int
    release: str
    schema: int
    taken_us: int
    tables: dict[str, Table]
    counters: dict[str, int]
    contents: int
    content_bytes: int
    contents_sha256: str
    lost: list[str]


def table_file(name: str) -> str:
    return f"tables/{name}.jsonl"


def content_file(sha256: str) -> str:
    return f"contents/{sha256[:2]}/{sha256[2:]}"


def read(data: bytes) -> Manifest:
    """Raises `BadBackup`."""
    try:
        said = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        format_ = msgspec.json.decode(said.get("format", msgspec.Raw(b"0")))
        if format_ != FORMAT:
            raise BadBackup(
                f"its format is {format_!r:.20}, this release reads {FORMAT}: restore it with the release that made it"
            )
        return msgspec.json.decode(data, type=Manifest)
    except msgspec.MsgspecError as error:
        raise BadBackup(f"its {NAME} is damaged: {error}") from None
