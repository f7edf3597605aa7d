"""Passwords: whatever is refused costs the same, so that its time tells nothing. Counted, not measured."""

from __future__ import annotations

import base64
import hashlib

import pytest

from relay.core import passwords
from relay.core.passwords import MAX_ITERATIONS, Passwords, hash_now, iterations_of, verify_now

SLOWEST = 500


def old_hash(password: str, iterations: int) -> str:
    digest = hashlib.pbkdf2_hmac("sha256", password.encode(), b"salt", iterations)
    return f"pbkdf2_sha256${iterations}$salt${base64.b64encode(digest).decode()}"


@pytest.fixture
def spent(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many argon2id were paid, and how many iterations of PBKDF2."""
    counts = {"argon2": 0, "pbkdf2": 0}
    argon2, pbkdf2 = passwords._argon2, passwords._pbkdf2

    def counted_argon2(password: str, hashed: str) -> bool:
        good = argon2(password, hashed)
        counts["argon2"] += 1
        return good

    def counted_pbkdf2(password: str, salt: str, iterations: int) -> bytes:
        counts["pbkdf2"] += iterations
        return pbkdf2(password, salt, iterations)

    monkeypatch.setattr(passwords, "_argon2", counted_argon2)
    monkeypatch.setattr(passwords, "_pbkdf2", counted_pbkdf2)
    return counts


@pytest.mark.parametrize(
    ("hashed", "password", "is_active"),
    [
        pytest.param(None, "right", False, id="absent"),
        pytest.param(hash_now("right"), "wrong", True, id="wrong"),
        pytest.param(hash_now("right"), "wrong", False, id="wrong, and disabled"),
        pytest.param(hash_now("right"), "right", False, id="right, but disabled"),
        pytest.param(old_hash("right", SLOWEST), "wrong", True, id="old"),
        pytest.param(old_hash("right", SLOWEST), "right", False, id="old, right, but disabled"),
        pytest.param(old_hash("right", 100), "wrong", True, id="older"),
        pytest.param(old_hash("right", 100).replace("$100$", f"${MAX_ITERATIONS + 1}$"), "right", True, id="absurd"),
        pytest.param("pbkdf2_sha256$many$salt$digest", "right", True, id="unreadable"),
        pytest.param("!", "right", True, id="no password"),
        pytest.param("$argon2id$v=19$broken", "right", True, id="broken"),
    ],
)
def test_all_that_is_refused_costs_the_same(
    spent: dict[str, int], hashed: str | None, password: str, is_active: bool
) -> None:
    assert not verify_now(password, hashed, is_active=is_active, old_iterations=SLOWEST)
    assert spent == {"argon2": 1, "pbkdf2": SLOWEST}


def test_where_no_old_hash_is_left_only_argon2_is_paid(spent: dict[str, int]) -> None:
    assert not verify_now("wrong", hash_now("right"))
    assert not verify_now("wrong", None)
    assert spent == {"argon2": 2, "pbkdf2": 0}


def test_what_is_right_is_let_in_and_costs_no_more_than_it_has_to(spent: dict[str, int]) -> None:
    assert verify_now("right", hash_now("right"), old_iterations=SLOWEST)
    assert verify_now("right", old_hash("right", 100), old_iterations=SLOWEST)
    assert spent == {"argon2": 1, "pbkdf2": 100}


async def test_a_slower_hash_than_was_known_of_is_paid_for_by_all_from_then_on(spent: dict[str, int]) -> None:
    own = Passwords()
    try:
        assert not await own.verify("wrong", old_hash("right", SLOWEST))
        assert not await own.verify("wrong", None)
    finally:
        own.close()
    assert spent == {"argon2": 2, "pbkdf2": 2 * SLOWEST}


@pytest.mark.parametrize(
    ("hashed", "iterations"),
    [
        ("pbkdf2_sha256$390000$salt$digest", 390_000),
        ("pbkdf2_sha256$390000$sal", 390_000),
        ("pbkdf2_sha256$-5$salt$digest", 0),
        ("pbkdf2_sha256$99999999$salt$digest", 0),
        ("pbkdf2_sha256$", 0),
        ("$argon2id$v=19", 0),
        ("", 0),
    ],
)
def test_iterations_are_read_from_the_beginning_of_a_hash(hashed: str, iterations: int) -> None:
    assert iterations_of(hashed) == iterations
