"""Whatever comes in: `FrameError` or `SessionClosed`, and nothing else."""

from __future__ import annotations

import json
import string
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from relay.protocol.codec import FrameError, decode_binary, decode_text, encode
from relay.protocol.envelope import Hello
from relay.protocol.errors import SessionClosed
from relay.protocol.session import Accepted, Refused, Session, State

EXAMPLES = 200

any_text = st.text(st.characters(exclude_categories=()))  # lone surrogates among them
numbers = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([2**63, 2**64, -(2**63) - 1, 10**400, 1e308, float("nan"), float("inf"), -0.0]),
)
values = st.recursive(
    st.none() | st.booleans() | numbers | any_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3),
    max_leaves=8,
)
FIELDS = (
    "type", "ref", "id", "project", "kind", "to", "run", "data", "transient", "receipts", "offset",
    "epoch", "client", "projects", "method", "params", "token",
)  # fmt: skip
TYPES = ("hello", "publish", "ack", "call", "refresh", "event", "")
fields = st.lists(
    st.tuples(st.sampled_from(FIELDS) | any_text, values)
    | st.tuples(st.just("type"), st.sampled_from(TYPES))
    | st.tuples(st.just("projects"), st.dictionaries(any_text, st.dictionaries(st.sampled_from(FIELDS), values))),
    max_size=8,
)


def write(pairs: list[tuple[str, Any]], ascii_only: bool) -> str:
    """A JSON object with these members in this order, duplicates and all."""
    members = (f"{json.dumps(k, ensure_ascii=ascii_only)}:{json.dumps(v, ensure_ascii=ascii_only)}" for k, v in pairs)
    return "{" + ",".join(members) + "}"


objects = st.builds(write, fields, st.booleans())
mangled = st.builds(
    lambda text, at, junk, cut: text[: at % (len(text) + 1)] + junk + text[at % (len(text) + 1) + cut :],
    objects,
    st.integers(0, 10_000),
    any_text | st.text(string.punctuation, max_size=3),
    st.integers(0, 3),
)
deep = st.builds(
    lambda opening, times, tail: '{"type":"publish","data":' + opening * times + tail,
    st.sampled_from(["[", '{"a":', "[[", '{"a":[']),
    st.integers(0, 3000),
    any_text,
)
texts = st.one_of(objects, objects, mangled, deep, any_text)
headers = st.one_of(texts.map(lambda text: text.encode(errors="surrogatepass")), st.binary())
binaries = st.one_of(
    st.binary(),
    st.builds(lambda head, rest: len(head).to_bytes(4, "big") + head + rest, headers, st.binary()),
    st.builds(lambda length, head: length.to_bytes(4, "big") + head, st.integers(0, 2**32 - 1), headers),
)


def assert_sendable(error: FrameError) -> None:
    """What is refused can be answered: its ref and message can be written as a frame."""
    encode({"ref": error.ref, "message": error.message, "details": error.details})


@settings(max_examples=EXAMPLES)
@given(frame=st.one_of(texts, headers))
@example(frame="\ud800")
@example(frame=b"\xff")
@example(frame="[" * 200_000)
@example(frame='{"type":"call","params":{"a":' + "9" * 5000 + "}}")
@example(frame='{"type":"call","ref":' + "9" * 5000 + "}")
def test_a_text_frame_is_read_or_refused(frame: str | bytes) -> None:
    try:
        decode_text(frame)
    except FrameError as error:
        assert_sendable(error)


@settings(max_examples=EXAMPLES)
@given(frame=binaries)
def test_a_binary_frame_is_read_or_refused(frame: bytes) -> None:
    try:
        _, payload = decode_binary(frame)
    except FrameError as error:
        assert_sendable(error)
    else:
        assert frame.endswith(payload)


@given(frames=st.lists(texts | binaries, max_size=4), limit=st.sampled_from([20, 100, 1_000_000]))
def test_a_session_answers_or_closes(frames: list[str | bytes], limit: int) -> None:
    session = Session(max_text_bytes=limit, max_payload_bytes=limit)
    session.receive('{"type":"hello"}', 0.0)
    session.welcomed()
    for frame in frames:
        answer = session.receive(frame, 0.0)
        assert isinstance(answer, Accepted | Refused)
        if isinstance(answer, Refused):
            encode({"ref": answer.ref, "message": answer.error.message, "details": answer.error.details})


@given(frame=texts | binaries)
def test_a_first_frame_is_a_hello_or_closes(frame: str | bytes) -> None:
    session = Session(max_text_bytes=1000, max_payload_bytes=1000)
    try:
        answer = session.receive(frame, 0.0)
    except SessionClosed:
        assert session.state is State.CLOSED
    else:
        assert isinstance(answer, Accepted) and isinstance(answer.frame, Hello)
