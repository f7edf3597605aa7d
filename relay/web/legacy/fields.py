"""Reading the fields of a body, with the errors that the API has always had for them: `{field: [reason]}`.

A field's reader takes a value as it came (JSON, or the text of a form) and returns it as the use cases want it, or
raises `Wrong` with what is to be said of it.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from relay.core.model import JsonObject
from relay.protocol.position import MAX_OFFSET
from relay.web.legacy.answers import bad, missing_object

REQUIRED = "This field is required."
NULL = "This field may not be null."
BLANK = "This field may not be blank."
UNIQUE = "This field must be unique."

NAME_LENGTH = 100

Reader = Callable[[Any], Any]

_ZEROS = re.compile(r"\.0*\s*$")


class Wrong(Exception):
    """What is wrong with a value: a sentence, or the errors inside it."""

    def __init__(self, reason: Any) -> None:
        super().__init__(str(reason))
        self.reason = [reason] if isinstance(reason, str) else reason


def read(data: Any, readers: Mapping[str, Reader], *, optional: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The named fields of a body, read; others are ignored, and `optional` ones may be missing.

    Raises:
        Refused: 400, with the reasons of all fields, in the order of the readers.
    """
    found, wrong = _read(data, readers, optional)
    if wrong:
        raise bad(wrong)
    return found


def _read(data: Any, readers: Mapping[str, Reader], optional: frozenset[str]) -> tuple[dict[str, Any], JsonObject]:
    if not isinstance(data, Mapping):
        return {}, _not_a_dictionary(data)
    found: dict[str, Any] = {}
    wrong: JsonObject = {}
    for name, reader in readers.items():
        try:
            if name in data:
                found[name] = reader(data[name])
            elif name not in optional:
                raise Wrong(REQUIRED)
        except Wrong as error:
            wrong[name] = error.reason
    return found, wrong


def _not_a_dictionary(data: Any) -> JsonObject:
    return {"non_field_errors": [f"Invalid data. Expected a dictionary, but got {type(data).__name__}."]}


def text(value: Any, *, longest: int | None = None) -> str:
    """A string with something in it; numbers are taken for their digits."""
    if value is None:
        raise Wrong(NULL)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise Wrong("Not a valid string.")
    stripped = str(value).strip()
    if not stripped:
        raise Wrong(BLANK)
    if longest is not None and len(stripped) > longest:
        raise Wrong(f"Ensure this field has no more than {longest} characters.")
    if "\0" in stripped:
        raise Wrong("Null characters are not allowed.")
    return stripped


def name(value: Any) -> str:
    return text(value, longest=NAME_LENGTH)


def uid(value: Any) -> str:
    """A UUID in any of its spellings, in the one that the relay uses."""
    if value is None:
        raise Wrong(NULL)
    try:
        return str(uuid.UUID(int=value) if isinstance(value, int) else uuid.UUID(hex=value))
    except (ValueError, AttributeError, TypeError):
        raise Wrong("Must be a valid UUID.") from None


def integer(value: Any, *, least: int, most: int) -> int:
    if value is None:
        raise Wrong(NULL)
    if isinstance(value, str) and len(value) > 1000:
        raise Wrong("String value too large.")
    try:
        number = int(_ZEROS.sub("", str(value)))
    except ValueError:
        raise Wrong("A valid integer is required.") from None
    if number < least:
        raise Wrong(f"Ensure this value is greater than or equal to {least}.")
    if number > most:
        raise Wrong(f"Ensure this value is less than or equal to {most}.")
    return number


def pk(value: Any) -> int:
    """The id of another object. Whether there is one is the use case's to say."""
    if value is None or value == "":
        raise Wrong(NULL)
    try:
        if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).isascii():
            raise ValueError
        number = int(value)
    except (ValueError, OverflowError):
        raise Wrong(f"Incorrect type. Expected pk value, received {type(value).__name__}.") from None
    if not 0 < number <= MAX_OFFSET or (isinstance(value, float) and number != value):
        raise Wrong(missing_object(value))
    return number


def anything(value: Any) -> Any:
    return value


def dictionary(value: Any) -> JsonObject:
    """A nested object of which nothing is taken: it cannot be changed through another one."""
    if not isinstance(value, dict):
        raise Wrong(_not_a_dictionary(value))
    return value


def one_of(*choices: str) -> Reader:
    def read_choice(value: Any) -> str:
        if value is None:
            raise Wrong(NULL)
        if value not in choices:
            raise Wrong(f'"{value}" is not a valid choice.')
        return str(value)

    return read_choice


def tasks(value: Any) -> list[JsonObject]:
    """A list of tasks `{seq, model, config?}`; what else a task has is left out."""
    if value is None:
        raise Wrong(NULL)
    if not isinstance(value, list):
        raise Wrong({"non_field_errors": [f'Expected a list of items but got type "{type(value).__name__}".']})
    if len(value) > 1000:
        raise Wrong({"non_field_errors": ["Ensure this field has no more than 1000 elements."]})
    read_ones = [_task(one) for one in value]
    if any(wrong for _, wrong in read_ones):
        raise Wrong([wrong for _, wrong in read_ones])
    return [task for task, _ in read_ones]


_TASK: Mapping[str, Reader] = {
    "seq": lambda value: integer(value, least=0, most=1_000_000),
    "model": name,
    "config": anything,
}
NO_CONFIG = "{}"
"""What a task without a config is shown with, and may be sent back with."""


def _task(value: Any) -> tuple[JsonObject, JsonObject]:
    task, wrong = _read(value, _TASK, frozenset({"config"}))
    if not wrong and task.get("config", NO_CONFIG) == NO_CONFIG:
        task.pop("config", None)
    elif not wrong and not isinstance(task["config"], dict):
        wrong = {"non_field_errors": [f"config: expected a dictionary, but got {type(task['config']).__name__}."]}
    return task, wrong


def number(given: Any) -> int | None:
    """An id or a number of a body that is read field by field: an integer, or its digits; None if it is neither."""
    if isinstance(given, str) and given.isascii() and given.isdigit() and len(given) <= 19:
        given = int(given)
    if isinstance(given, bool) or not isinstance(given, int) or not 0 <= given <= MAX_OFFSET:
        return None
    return given
