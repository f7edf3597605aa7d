"""What a connection is to the rest of `db`, whichever driver is underneath."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

Dialect = Literal["sqlite", "postgresql"]
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How long to wait and how much to hold, each in seconds or connections."""

    acquire_timeout_s: float = 5.0
    command_timeout_s: float = 10.0
    readers: int = 4
    pg_connections: int = 10


class Row(Protocol):
    """A row of either driver: its columns by name."""

    def __getitem__(self, column: str, /) -> Any: ...


class Connection(Protocol):
    """One connection, for one task at a time. `:name` marks a parameter, in both dialects."""

    dialect: Dialect

    async def execute(self, sql: str, values: Mapping[str, Any] | None = None) -> None: ...
    async def execute_many(self, sql: str, rows: Iterable[Mapping[str, Any]]) -> None: ...
    async def fetch_all(self, sql: str, values: Mapping[str, Any] | None = None) -> Sequence[Row]: ...

    async def fetch_one(self, sql: str, values: Mapping[str, Any] | None = None) -> Row | None: ...

    async def fetch_positional(self, sql: str, *values: object) -> Sequence[Row]:
        """For statements in the dialect's own words, with its own numbered parameters."""
        ...


class Lease(Protocol):
    """A connection that is taken and given back."""

    async def take(self) -> Connection: ...
    async def give_back(self, *, rollback: bool) -> None: ...
    def let_go(self) -> None:
        """Give it back without waiting for it, with no transaction open."""
