"""Failed logins are slowed down: whoever guesses waits, and nobody can have an honest site wait for it."""

from __future__ import annotations

import itertools
from contextlib import suppress

import pytest

from relay.core import throttle as module
from relay.core.throttle import Attempt, Throttle, ThrottleLimits, TooOften, network_of

LIMITS = ThrottleLimits(failures=3, backoff_s=8.0, address_failures=20, account_failures=20, hold_s=2.0)
_numbers = itertools.count()


def password(account: str, word: str | None = None, network: str = "192.0.2.1") -> Attempt:
    """A password that is tried for an account: another one each time, unless it is given."""
    shown = f"{account}:{word or next(_numbers)}".encode()
    return Attempt(network=network, account=account.encode(), credential=shown)


def token(secret: str, network: str = "192.0.2.1") -> Attempt:
    return Attempt(network=network, credential=secret.encode())


@pytest.fixture
def throttle() -> Throttle:
    return Throttle(LIMITS)


def fail(throttle: Throttle, attempt: Attempt, now: float) -> float:
    """How long it was held before it failed."""
    ticket = throttle.admit(attempt, now)
    throttle.failed(ticket, now)
    return ticket.hold_s


def succeed(throttle: Throttle, attempt: Attempt, now: float) -> float:
    ticket = throttle.admit(attempt, now)
    throttle.good(ticket, now)
    return ticket.hold_s


def refused(throttle: Throttle, attempt: Attempt, now: float) -> TooOften:
    with pytest.raises(TooOften) as caught:
        throttle.admit(attempt, now)
    return caught.value


def test_who_guesses_one_account_waits_twice_as_long_each_time_up_to_a_bound(throttle: Throttle) -> None:
    for _ in range(LIMITS.failures):
        fail(throttle, password("anna"), 0.0)
    now, waits = 0.0, []
    for _ in range(6):
        error = refused(throttle, password("anna"), now)
        assert error.why == "account"
        waits.append(error.details["retry_after"])
        now += error.details["retry_after"]
        fail(throttle, password("anna"), now)
    assert waits == pytest.approx([1, 2, 4, 8, 8, 8], abs=0.01)


def test_many_guesses_at_once_are_no_way_round(throttle: Throttle) -> None:
    tickets = [throttle.admit(password("anna"), 0.0) for _ in range(LIMITS.failures)]
    refused(throttle, password("anna"), 0.0)
    throttle.void(tickets[0], 0.0)
    throttle.admit(password("anna"), 0.0)


def test_a_long_while_without_a_failure_forgives(throttle: Throttle) -> None:
    for _ in range(LIMITS.failures):
        fail(throttle, password("anna"), 0.0)
    later = module.FORGET_S + 1
    for _ in range(LIMITS.failures):
        fail(throttle, password("anna"), later)
    refused(throttle, password("anna"), later)


def test_who_mistypes_and_then_gets_it_right_starts_anew(throttle: Throttle) -> None:
    for _ in range(3):
        for _ in range(LIMITS.failures - 1):
            fail(throttle, password("anna"), 0.0)
        succeed(throttle, password("anna"), 0.0)


def test_what_was_good_before_passes_whatever_others_guess_from_the_same_address(throttle: Throttle) -> None:
    good = password("anna", "her own")
    succeed(throttle, good, 0.0)
    for number in range(LIMITS.address_failures):
        fail(throttle, password(f"account {number}"), 0.0)
    for _ in range(LIMITS.failures):
        fail(throttle, password("anna"), 0.0)
    refused(throttle, password("anna"), 0.0)
    assert refused(throttle, password("bert"), 0.0).why == "address"
    assert succeed(throttle, good, 0.0) == 0.0


def test_what_was_good_and_is_no_more_is_throttled_like_any_other(throttle: Throttle) -> None:
    old = password("anna", "before the change")
    succeed(throttle, old, 0.0)
    for _ in range(LIMITS.address_failures):
        fail(throttle, old, 0.0)
    assert refused(throttle, old, 0.0).why == "repeated"


def test_one_stale_password_that_many_send_keeps_the_new_one_of_the_same_address_out_never(throttle: Throttle) -> None:
    stale, now = password("anna", "stale"), 0.0
    for _ in range(100):
        now += 0.5
        with suppress(TooOften):
            fail(throttle, stale, now)
    assert refused(throttle, stale, now).why == "repeated"
    assert succeed(throttle, password("anna", "new"), now) == 0.0


def test_guessing_an_account_from_many_networks_holds_strangers_and_locks_nobody_out(throttle: Throttle) -> None:
    succeed(throttle, password("anna", "first", "198.51.100.7"), 0.0)
    for number in range(LIMITS.account_failures + 5):
        held_s = fail(throttle, password("anna", network=f"203.0.113.{number}"), 0.0)
    assert held_s == LIMITS.hold_s
    assert succeed(throttle, password("anna", "another", "198.51.100.7"), 0.0) == 0.0, "a place where she has been"
    assert succeed(throttle, password("anna", "first", "203.0.113.250"), 0.0) == 0.0, "a password that was good"
    assert succeed(throttle, password("anna", "a third", "203.0.113.251"), 0.0) == LIMITS.hold_s
    throttle.held = module.HELD
    assert refused(throttle, password("anna", network="203.0.113.252"), 0.0).why == "held"
    assert succeed(throttle, password("bert", network="203.0.113.252"), 0.0) == 0.0


def test_an_address_that_tries_many_accounts_goes_on_at_a_bounded_rate(throttle: Throttle) -> None:
    passed, now = 0, 0.0
    for number in range(1000):
        now = number * 0.1
        with suppress(TooOften):
            fail(throttle, password(f"account {number}"), now)
            passed += 1
    assert refused(throttle, password("another"), now).details["retry_after"] <= 1.01
    assert passed <= LIMITS.address_failures + module.ADDRESS_RATE * now + 1


def test_a_crowd_with_good_tokens_is_let_in_at_once_and_one_bad_token_waits_by_itself(throttle: Throttle) -> None:
    tickets = [throttle.admit(token(f"good {number}"), 0.0) for number in range(10 * LIMITS.address_failures)]
    for ticket in tickets:
        throttle.good(ticket, 0.0)
    for _ in range(LIMITS.address_failures):
        fail(throttle, token("expired"), 0.0)
    assert refused(throttle, token("expired"), 0.0).why == "repeated"
    for number in range(LIMITS.address_failures - 1):
        fail(throttle, token(f"guess {number}"), 0.0)
    assert refused(throttle, token("new"), 0.0).why == "address"
    assert succeed(throttle, token("good 7"), 0.0) == 0.0


def test_signatures_that_fail_in_the_name_of_a_key_do_not_keep_its_site_out(throttle: Throttle) -> None:
    signed = Attempt(network="192.0.2.1", credential=b"network and key", is_once=True)
    succeed(throttle, signed, 0.0)
    for _ in range(3 * LIMITS.address_failures):
        fail(throttle, signed, 0.0)
    assert refused(throttle, token("some"), 0.0).why == "address"
    assert succeed(throttle, signed, 0.0) == 0.0


def test_nothing_is_throttled_where_it_is_switched_off() -> None:
    throttle = Throttle(ThrottleLimits(failures=0))
    for _ in range(1000):
        fail(throttle, password("anna"), 0.0)


def test_a_refusal_is_news_once_a_minute(throttle: Throttle) -> None:
    for _ in range(LIMITS.failures):
        fail(throttle, password("anna"), 0.0)
    assert [refused(throttle, password("anna"), 0.5).is_news for _ in range(3)] == [True, False, False]
    fail(throttle, password("anna"), 61.0)
    assert refused(throttle, password("anna"), 61.0).is_news


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 50)
    throttle = Throttle(LIMITS)
    for number in range(2000):
        network = f"2001:db8:{number:x}::/64"
        fail(throttle, password(f"account {number}", network=network), 0.0)
        fail(throttle, token(f"token {number}", network), 0.0)
        succeed(throttle, password(f"user {number}", network=network), 0.0)
    assert throttle.remembered <= 7 * 50


@pytest.mark.parametrize(
    ("origin", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:0db8:0001:0002::/64"),
        ("2001:db8:1:2:ffff::", "2001:0db8:0001:0002::/64"),
        ("", ""),
        ("x" * 1000, "x" * 64),
    ],
)
def test_a_network_is_an_address_or_the_64_of_one(origin: str, network: str) -> None:
    assert network_of(origin) == network
