"""What a check has found."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

from relay.core.ports import StorageUnavailable


class State(StrEnum):
    GOOD = "good"
    WARNING = "warning"
    """It works, and may not always."""
    FAULT = "fault"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One line of the report.

    Attributes:
        check: what was looked at, in a word or two.
        said: what was found. Never a secret.
        mend: what to do about it; empty if nothing is to be done.
    """

    check: str
    state: State
    said: str
    mend: str = ""


def good(check: str, said: str) -> Finding:
    return Finding(check=check, state=State.GOOD, said=said)


def warning(check: str, said: str, mend: str = "") -> Finding:
    return Finding(check=check, state=State.WARNING, said=said, mend=mend)


def fault(check: str, said: str, mend: str = "") -> Finding:
    return Finding(check=check, state=State.FAULT, said=said, mend=mend)


async def guarded(check: str, looking: Callable[[], Awaitable[list[Finding]]]) -> list[Finding]:
    """What a check finds; that it could not look is a finding, too."""
    try:
        return await looking()
    except StorageUnavailable as error:
        return [fault(check, f"could not be looked at: {error.cause}")]
    except TimeoutError:
        return [fault(check, "no answer in time")]
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        return [fault(check, f"could not be looked at: {error.strerror or error}{where}")]
