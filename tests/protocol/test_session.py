"""The session's state machine: every (state, signal) of its table, sizes, and the count of bad frames."""

from __future__ import annotations

import itertools

import pytest

from relay.protocol.envelope import Ack, Call, Hello, Publish, Refresh
from relay.protocol.errors import CloseCode, ErrorCode, SessionClosed
from relay.protocol.session import (
    BAD_FRAMES_ALLOWED,
    TRANSITIONS,
    Accepted,
    Outcome,
    Refused,
    Session,
    Signal,
    State,
)

BINARY_PUBLISH = b'{"type":"publish","ref":3}'
BINARY_PUBLISH = len(BINARY_PUBLISH).to_bytes(4, "big") + BINARY_PUBLISH

FRAMES: dict[Signal, list[str | bytes]] = {
    Signal.HELLO: ['{"type":"hello","ref":3}'],
    Signal.REQUEST: [
        '{"type":"publish","ref":3}',
        BINARY_PUBLISH,
        '{"type":"ack"}',
        '{"type":"call","ref":3}',
        '{"type":"refresh","ref":3}',
    ],
    Signal.UNKNOWN: ['{"type":"dance","ref":3}', '{"type":"call","ref":3,"x":"' + "x" * 2000 + '"}'],
    Signal.UNREADABLE: ["{", "[]", '{"type":"call","method":1}', b"", b"\0\0\0\2[]", "\ud800"],
}
"""For each signal, frames that give it (the long one is refused for its size, which is no bad frame)."""


def session_in(state: State) -> Session:
    session = Session(max_text_bytes=1000, max_payload_bytes=100)
    if state is State.LIVE:
        session.receive('{"type":"hello"}', 0.0)
        session.welcomed()
    elif state is State.CLOSED:
        with pytest.raises(SessionClosed):
            session.receive("not a hello", 0.0)
    assert session.state is state
    return session


def test_the_table_has_every_state_and_signal() -> None:
    assert set(TRANSITIONS) == set(itertools.product(State, Signal))


@pytest.mark.parametrize(("state", "signal"), TRANSITIONS, ids=lambda part: part.name)
def test_every_transition_does_what_the_table_says(state: State, signal: Signal) -> None:
    outcome, after = TRANSITIONS[state, signal]
    for frame in FRAMES[signal]:
        session = session_in(state)
        if outcome is Outcome.CLOSE:
            with pytest.raises(SessionClosed) as caught:
                session.receive(frame, 0.0)
            assert caught.value.code is CloseCode.BAD_FRAMES
        else:
            expected = Accepted if outcome is Outcome.ACCEPT else Refused
            assert isinstance(session.receive(frame, 0.0), expected)
        assert session.state is after


def test_nothing_is_read_after_the_end() -> None:
    for signal in Signal:
        assert TRANSITIONS[State.CLOSED, signal] == (Outcome.CLOSE, State.CLOSED)


@pytest.mark.parametrize(
    ("frame", "kind"),
    [
        ('{"type":"publish"}', Publish),
        ('{"type":"ack"}', Ack),
        ('{"type":"call"}', Call),
        ('{"type":"refresh"}', Refresh),
    ],
)
def test_a_live_session_accepts_each_request(frame: str, kind: type) -> None:
    accepted = session_in(State.LIVE).receive(frame, 0.0)
    assert isinstance(accepted, Accepted)
    assert isinstance(accepted.frame, kind)
    assert accepted.payload is None


def test_a_hello_that_turned_out_invalid_may_be_said_again() -> None:
    session = session_in(State.CONNECTED)
    for _ in range(2):
        accepted = session.receive('{"type":"hello","client":"c"}', 0.0)
        assert accepted == Accepted(Hello(client="c"))
    session.welcomed()
    assert session.state is State.LIVE


def test_a_second_hello_is_invalid_and_the_session_lives_on() -> None:
    session = session_in(State.LIVE)
    refused = session.receive('{"type":"hello","ref":"again"}', 0.0)
    assert isinstance(refused, Refused)
    assert (refused.ref, refused.error.code) == ("again", ErrorCode.INVALID)
    assert refused.error.details
    assert isinstance(session.receive('{"type":"ack"}', 0.0), Accepted)


def test_a_session_is_welcomed_once() -> None:
    session = session_in(State.LIVE)
    with pytest.raises(AssertionError, match="LIVE"):
        session.welcomed()


# Bad frames


def bad(session: Session, now: float) -> None:
    refused = session.receive("no json", now)
    assert isinstance(refused, Refused)
    assert refused.error.code is ErrorCode.BAD_FRAME


def test_the_tenth_bad_frame_within_a_minute_closes() -> None:
    session = session_in(State.LIVE)
    for number in range(BAD_FRAMES_ALLOWED):
        bad(session, float(number))
    with pytest.raises(SessionClosed) as caught:
        session.receive("no json", float(BAD_FRAMES_ALLOWED))
    assert (caught.value.code, session.state) == (CloseCode.BAD_FRAMES, State.CLOSED)
    assert len(caught.value.reason.encode()) <= 123


def test_bad_frames_that_are_older_than_a_minute_do_not_count() -> None:
    session = session_in(State.LIVE)
    for number in range(100):
        bad(session, number * 7.0)  # nine of them in any 60 s
    assert session.state is State.LIVE


def test_good_frames_between_bad_ones_do_not_forgive_them() -> None:
    session = session_in(State.LIVE)
    for _ in range(BAD_FRAMES_ALLOWED):
        bad(session, 0.0)
        session.receive('{"type":"ack"}', 0.0)
    with pytest.raises(SessionClosed):
        session.receive("no json", 0.0)


def test_an_unknown_type_does_not_count() -> None:
    session = session_in(State.LIVE)
    for _ in range(50):
        refused = session.receive('{"type":"dance","ref":1}', 0.0)
        assert isinstance(refused, Refused)
        assert (refused.error.code, refused.ref) == (ErrorCode.UNKNOWN_TYPE, 1)


# Sizes


def call_of(size: int, filler: str = "x") -> str:
    """A call with `ref` 4 of exactly that many bytes."""
    empty = '{"type":"call","ref":4,"params":{"a":""}}'
    width = len(filler.encode())
    count, rest = divmod(size - len(empty), width)
    return empty.replace('""', f'"{"x" * rest}{filler * count}"')


@pytest.mark.parametrize("filler", ["x", "é", "€", "𝄞"])
def test_a_text_frame_is_measured_in_bytes(filler: str) -> None:
    session = session_in(State.LIVE)
    assert len(call_of(1000, filler).encode()) == 1000
    assert isinstance(session.receive(call_of(1000, filler), 0.0), Accepted)
    refused = session.receive(call_of(1001, filler), 0.0)
    assert isinstance(refused, Refused)
    assert (refused.error.code, refused.ref) == (ErrorCode.TOO_LARGE, 4)
    assert refused.error.details == {"limit": 1000}


def test_a_payload_is_measured_without_its_header() -> None:
    session = session_in(State.LIVE)
    accepted = session.receive(BINARY_PUBLISH + bytes(100), 0.0)
    assert isinstance(accepted, Accepted)
    assert accepted.payload == bytes(100)
    refused = session.receive(BINARY_PUBLISH + bytes(101), 0.0)
    assert isinstance(refused, Refused)
    assert (refused.error.code, refused.ref) == (ErrorCode.TOO_LARGE, 3)


def test_frames_that_are_too_large_do_not_count_as_bad() -> None:
    session = session_in(State.LIVE)
    for _ in range(50):
        session.receive(call_of(1001), 0.0)
    assert session.state is State.LIVE


def test_a_frame_that_is_too_large_and_unreadable_has_no_ref() -> None:
    refused = session_in(State.LIVE).receive("{" * 1001, 0.0)
    assert isinstance(refused, Refused)
    assert (refused.ref, refused.error.code) == (None, ErrorCode.TOO_LARGE)
