"""What the drivers raise, by what it means: `StorageUnavailable`, `AlreadyThere`; or a bug, raised as it is."""

from __future__ import annotations

import sqlite3

import asyncpg

from relay.core.ports import AlreadyThere, StorageUnavailable

UNAVAILABLE = (
    OSError,
    TimeoutError,
    sqlite3.OperationalError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the driver is told of the server's end in the middle of something else
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.LockNotAvailableError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.ReadOnlySQLTransactionError,
)


class named_errors:  # noqa: N801 - reads as a statement
    """Turns a driver's errors into the two that the ports name."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if _is_taken(error):
            raise AlreadyThere(str(error)) from error
        if _is_passing(error):
            raise StorageUnavailable(f"{type(error).__name__}: {error}") from error


def _is_taken(error: BaseException | None) -> bool:
    if isinstance(error, sqlite3.IntegrityError):
        return error.sqlite_errorname in ("SQLITE_CONSTRAINT_UNIQUE", "SQLITE_CONSTRAINT_PRIMARYKEY")
    return isinstance(error, asyncpg.UniqueViolationError)


def _is_passing(error: BaseException | None) -> bool:
    """Not among them, though of the same classes: SQL that is wrong (SQLite), a value that fits no column (asyncpg)."""
    if isinstance(error, sqlite3.OperationalError):
        return getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_ERROR
    if isinstance(error, asyncpg.InterfaceError):
        return not isinstance(error, ValueError)
    return isinstance(error, UNAVAILABLE)
