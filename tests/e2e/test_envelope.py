"""The sealed form: whatever is done to it, it is opened as it was or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import io
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.client.sealed import Altered, Identity, NotAddressed, Replayed, envelope
from relay.client.sealed.desk import _require_remembered
from relay.client.sealed.envelope import Header

ANNA, BERT, CARL = Identity.generate(), Identity.generate(), Identity.generate()


def header(**fields: Any) -> Header:
    default: dict[str, Any] = {
        "project": 12,
        "kind": "update",
        "id": "0b6c",
        "sender": "anna",
        "to": ("bert",),
        "key": ANNA.public.id,
        "at": datetime(2026, 11, 25, tzinfo=UTC),
        "content": "bytes",
    }
    return Header(**(default | fields))


def opened(sealed: bytes, by: Identity = BERT) -> tuple[Header, bytes]:
    read = envelope.read(sealed)
    envelope.check(read, ANNA.public)
    return read.header, envelope.open_body(read, by)


@settings(max_examples=50, deadline=None)
@given(
    content=st.binary(max_size=5000),
    project=st.integers(1, 2**53),
    run=st.none() | st.integers(1, 2**53),
    round_=st.none() | st.integers(0, 10_000),
    kind=st.sampled_from(["update", "log", "message"]),
    to=st.lists(st.uuids().map(str), min_size=1, max_size=20),
)
def test_what_is_sealed_is_opened_as_it_was(
    content: bytes, kind: str, to: list[str], round_: int, **where: int
) -> None:
    sealed_as = header(kind=kind, to=tuple(to), round=round_, **where)
    sealed = envelope.seal(sealed_as, content, ANNA, [BERT.public])
    assert opened(sealed) == (sealed_as, content)
    assert opened(sealed, by=ANNA) == (sealed_as, content)  # the sender's other sessions
    if len(content) >= 8:
        assert content not in sealed


OTHER = envelope.seal(header(id="ffff"), b"other weights", ANNA, [BERT.public])
SEALED = envelope.seal(header(), b"the weights", ANNA, [BERT.public])


@settings(max_examples=300, deadline=None)
@given(at=st.integers(0, 8 * len(SEALED) - 1))
def test_a_bit_that_is_flipped_anywhere_is_found(at: int) -> None:
    changed = bytearray(SEALED)
    changed[at // 8] ^= 1 << at % 8
    with pytest.raises(Altered):
        opened(bytes(changed))


@settings(max_examples=100, deadline=None)
@given(first=st.integers(0, len(SEALED)), second=st.integers(0, len(OTHER)))
def test_what_is_cut_off_lengthened_or_mixed_is_found(first: int, second: int) -> None:
    mixed = SEALED[:first] + OTHER[second:]
    if mixed not in (SEALED, OTHER):
        with pytest.raises(Altered):
            opened(mixed)


@given(st.binary(max_size=300))
def test_noise_is_no_envelope(noise: bytes) -> None:
    for sealed in (noise, envelope.MAGIC + noise):
        with pytest.raises(Altered):
            opened(sealed)


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59-14:00", "0001-01-01T00:00:00+14:00"])
def test_no_time_is_too_far_away(at: str) -> None:
    raw = msgspec.json.encode(msgspec.to_builtins(header()) | {"at": at})
    read = envelope.read(_signed_by(ANNA, raw, b""))
    with contextlib.suppress(Replayed):
        _require_remembered(read.header)


def test_a_time_without_a_zone_is_none() -> None:
    raw = msgspec.json.encode(msgspec.to_builtins(header()) | {"at": "2026-11-25T00:00:00"})
    with pytest.raises(Altered):
        envelope.read(_signed_by(ANNA, raw, b""))


def test_a_header_that_is_nested_too_deeply_is_refused_like_any_other() -> None:
    with pytest.raises(Altered, match="header"):
        envelope.read(_signed_by(ANNA, b'{"x":' + b"[" * 5000, b""))


def test_somebody_else_cannot_open_it() -> None:
    with pytest.raises(NotAddressed):
        opened(SEALED, by=CARL)


def test_somebody_else_cannot_sign_for_the_sender() -> None:
    forged = envelope.seal(header(), b"poison", CARL, [BERT.public])
    with pytest.raises(Altered, match="signature"):
        opened(forged)


def test_a_body_cannot_be_passed_off_as_somebody_elses() -> None:
    """Carl, who cannot read what Anna has sealed for Bert, signs it as his own."""
    stolen = envelope.read(SEALED)
    raw = msgspec.json.encode(header(sender="carl", key=CARL.public.id))
    passed_off = envelope.read(_signed_by(CARL, raw, bytes(stolen.body)))
    envelope.check(passed_off, CARL.public)
    with pytest.raises(Altered, match="another header"):
        envelope.open_body(passed_off, BERT)


def _signed_by(identity: Identity, raw: bytes, body: bytes) -> bytes:
    return envelope._head(raw, hashlib.sha256(body).digest(), identity) + body


@dataclass
class Streamed:
    head: bytes
    body: bytes


def streamed(content: bytes) -> Streamed:
    body = io.BytesIO()
    head, sha256 = envelope.seal_file(header(), io.BytesIO(content), body, ANNA, [BERT.public])
    assert sha256 == hashlib.sha256(body.getvalue()).hexdigest()
    return Streamed(head, body.getvalue())


@pytest.mark.parametrize("size", [0, 1, 31, 65536 - 32, 65536, 1_000_000])
def test_a_stream_is_sealed_and_opened(size: int) -> None:
    content = bytes(range(256)) * (size // 256 + 1)
    sealed = streamed(content[:size])
    out = io.BytesIO()
    envelope.open_file(envelope.read(sealed.head), io.BytesIO(sealed.body), out, BERT, ANNA.public)
    assert out.getvalue() == content[:size]


@pytest.mark.parametrize("at", [0, 100, 100_000, -1])
def test_of_a_stream_that_was_altered_nothing_is_written(at: int) -> None:
    sealed = streamed(bytes(200_000))
    changed = bytearray(sealed.body)
    changed[at] ^= 1
    for body in (bytes(changed), sealed.body[:-1], sealed.body[:65_000], sealed.body + b"\0", b""):
        out = io.BytesIO()
        with pytest.raises(Altered):
            envelope.open_file(envelope.read(sealed.head), io.BytesIO(body), out, BERT, ANNA.public)
        assert not out.getvalue()


@pytest.mark.parametrize("recipients", [1, 20])
def test_the_overhead_is_at_most_5_per_cent_from_1_mb_on(recipients: int) -> None:
    others = [Identity.generate().public for _ in range(recipients)]
    to = tuple(f"00000000-0000-4000-8000-{number:012}" for number in range(recipients))
    sealed = envelope.seal(header(to=to), bytes(1_000_000), ANNA, others)
    assert len(sealed) <= 1_050_000
