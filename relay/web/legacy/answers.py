"""What the polling API says: an answer of a handler, and the refusals in the words that controllers know.

A refusal's body is a bare JSON string where the API has one, else `{"detail": …}` or `{field: [reason, …]}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from relay.core.ports import StorageFull
from relay.protocol.errors import ErrorCode, ReplyError
from relay.web.auth import BadCredentials
from relay.web.replies import STATUS, retry_after

NO_BODY: Any = object()
"""The body of an answer that has none, and no Content-Type either."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """`body` is anything that JSON can say, or `NO_BODY`."""

    status: int = 200
    body: Any = NO_BODY
    headers: Mapping[str, str] = field(default_factory=dict)


class Refused(Exception):
    """The request ends with this answer, and nothing was changed."""

    def __init__(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(f"{status}: {body!r:.200}")
        self.answer = Answer(status=status, body=body, headers=headers or {})


def detail(status: int, words: str, headers: Mapping[str, str] | None = None) -> Refused:
    return Refused(status, {"detail": words}, headers)


def bad(body: Any) -> Refused:
    """A 400: a bare string, or the fields and what is wrong with each."""
    return Refused(400, body)


def not_found() -> Refused:
    """The same for what does not exist and for what is none of the caller's business."""
    return detail(404, "Not found.")


def not_allowed() -> Refused:
    return detail(403, "You do not have permission to perform this action.")


def method_not_allowed(method: str) -> Refused:
    return detail(405, f'Method "{method}" not allowed.')


def missing_object(pk: object) -> str:
    """What is said of an id in a body: absent and foreign alike."""
    return f'Invalid pk "{pk}" - object does not exist.'


def refusal(error: ReplyError) -> Refused:
    """A refusal of the core, for which the endpoint has no words of its own."""
    match error:
        case BadCredentials():
            return detail(403, error.message)  # never 401: controllers know only this
        case StorageFull():
            return detail(507, error.message)
        case ReplyError(code=ErrorCode.INVALID):
            return bad({name: [reason] for name, reason in error.details.items()} or {"detail": error.message})
        case ReplyError(code=ErrorCode.FORBIDDEN):
            return not_allowed()
        case ReplyError(code=ErrorCode.UNKNOWN_PROJECT | ErrorCode.UNKNOWN_RUN | ErrorCode.UNKNOWN_SITE):
            return not_found()
    return detail(STATUS[error.code], error.message, retry_after(error))
