"""The two families of errors, and that they say what the contract says."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from relay.protocol import errors
from relay.protocol.errors import RECONNECT, CloseCode, ErrorCode, ReplyError, SessionClosed, invalid

CONTRACT = (
    "bad_frame unknown_type unknown_method invalid too_large unauthenticated forbidden unknown_project unknown_run "
    "unknown_site unknown_blob conflict not_all_connected exists rate_limited unavailable internal"
)
HANDSHAKE = "too_many_sessions draining"


def test_the_error_codes_are_those_of_the_contract() -> None:
    assert {str(code) for code in ErrorCode} == set(CONTRACT.split()) | set(HANDSHAKE.split())


def test_the_close_codes_are_those_of_the_contract() -> None:
    assert {int(code) for code in CloseCode} == {
        1000, 1001, 1009, 1012, 1013, 4400, 4401, 4403, 4408, 4410, 4429,
    }  # fmt: skip


def test_every_close_code_says_whether_to_come_back() -> None:
    assert set(RECONNECT) == set(CloseCode)


def test_a_client_comes_back_exactly_where_the_contract_says_so() -> None:
    assert {code for code, again in RECONNECT.items() if again} == {1012, 1013, 4408, 4410, 4429}


def test_the_families_do_not_mix() -> None:
    assert not issubclass(ReplyError, SessionClosed)
    assert not issubclass(SessionClosed, ReplyError)


def test_invalid_says_which_field_and_why() -> None:
    error = invalid(project="a positive integer", to="not an empty list")
    assert error.code is ErrorCode.INVALID
    assert error.details == {"project": "a positive integer", "to": "not an empty list"}
    assert "project" in error.message


@pytest.mark.parametrize("make", [errors.unknown_project, errors.unknown_run, errors.unknown_site])
def test_absent_and_foreign_are_told_in_the_same_words(make: Callable[[], ReplyError]) -> None:
    assert make().code == make.__name__
    assert make().details == {}


def test_details_are_the_errors_own() -> None:
    details = {"id": "x"}
    error = ReplyError(ErrorCode.INTERNAL, "m", details)
    details["id"] = "changed"
    assert error.details == {"id": "x"}
