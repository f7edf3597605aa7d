"""Frames to envelopes and back: what is read, what is refused, and that payloads pass untouched."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Raw

from relay.protocol import codec
from relay.protocol.codec import MAX_HEADER_BYTES, FrameError, decode_binary, decode_text
from relay.protocol.envelope import Ack, Call, Event, Hello, Publish, Refresh, ResumeFrom
from relay.protocol.errors import ErrorCode

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def refused(frame: str | bytes) -> FrameError:
    """The error of a text frame that cannot be read."""
    with pytest.raises(FrameError) as caught:
        decode_text(frame)
    return caught.value


def binary(header: bytes, payload: bytes = b"") -> bytes:
    return len(header).to_bytes(4, "big") + header + payload


# Text frames


def test_a_hello_is_read() -> None:
    frame = decode_text(
        '{"type":"hello","ref":1,"client":"c/1","projects":{"12":{"offset":340,"epoch":"k3f9"},"7":{"offset":"new"}}}'
    )
    assert frame == Hello(
        ref=1, client="c/1", projects={"12": ResumeFrom(offset=340, epoch="k3f9"), "7": ResumeFrom(offset="new")}
    )


def test_a_publish_is_read() -> None:
    frame = decode_text(
        '{"type":"publish","ref":"r","id":"i","project":12,"kind":"log","to":["a"],"run":3,"transient":true,'
        '"receipts":false,"data":{"a": 1}}'
    )
    assert isinstance(frame, Publish)
    assert (frame.ref, frame.id, frame.project, frame.kind, frame.to) == ("r", "i", 12, "log", ["a"])
    assert (frame.run, frame.transient, frame.receipts) == (3, True, False)


def test_data_that_is_null_differs_from_data_left_out() -> None:
    null, absent = decode_text('{"type":"publish","data":null}'), decode_text('{"type":"publish"}')
    assert isinstance(null, Publish) and isinstance(null.data, Raw) and bytes(null.data) == b"null"
    assert isinstance(absent, Publish) and absent.data is UNSET


def test_an_ack_a_call_and_a_refresh_are_read() -> None:
    assert decode_text('{"type":"ack","project":1,"offset":2}') == Ack(project=1, offset=2)
    assert decode_text('{"type":"call","method":"m","params":{"a":[1]}}') == Call(method="m", params={"a": [1]})
    assert decode_text('{"type":"refresh","token":"secret"}') == Refresh(token="secret")


def test_a_token_is_not_in_the_repr_of_its_frame() -> None:
    assert "secret" not in repr(decode_text('{"type":"refresh","token":"secret"}'))


def test_unknown_fields_are_ignored() -> None:
    assert decode_text('{"type":"ack","project":1,"offset":2,"extra":{"deep":[1,{}]}}') == Ack(project=1, offset=2)


def test_what_is_left_out_or_null_is_none_and_not_an_error() -> None:
    """What is required is a question of meaning, answered `invalid`, not of grammar."""
    assert decode_text('{"type":"publish","id":null,"project":null,"to":null}') == Publish()
    assert decode_text('{"type":"ack"}') == Ack()


@pytest.mark.parametrize(
    "frame",
    [
        "",
        " ",
        "{",
        "not json",
        '{"type":"hello"} x',
        '{"type":"hello"}{}',
        '{"type":"hello",}',
        "{'type':'hello'}",
        '\ufeff{"type":"hello"}',
        '{"type":"call","params":{"a":NaN}}',
        '{"type":"call","params":{"a":-Infinity}}',
        '{"type":"hello","ref":"\\ud800"}',
    ],
)
def test_what_is_not_json_is_a_bad_frame(frame: str) -> None:
    error = refused(frame)
    assert error.code is ErrorCode.BAD_FRAME
    assert error.ref is None


@pytest.mark.parametrize("frame", ["null", "1", '"hello"', "[]", '[{"type":"hello"}]', "true"])
def test_json_that_is_no_object_is_a_bad_frame(frame: str) -> None:
    assert refused(frame).code is ErrorCode.BAD_FRAME


@pytest.mark.parametrize(
    "fields",
    [
        '"type":"publish","id":3',
        '"type":"publish","project":"12"',
        '"type":"publish","project":12.5',
        '"type":"publish","project":12.0',
        '"type":"publish","project":true',
        '"type":"publish","to":{}',
        '"type":"publish","to":[1]',
        '"type":"publish","transient":1',
        '"type":"hello","projects":[]',
        '"type":"hello","projects":{"12":340}',
        '"type":"hello","projects":{"12":{"offset":"old"}}',
        '"type":"call","params":[]',
        '"type":"call","method":1',
        '"type":"refresh","token":1',
        '"type":5',
        '"type":null',
        '"id":"no type at all"',
        '"type":"publish","type":"ack"',
    ],
)
def test_a_wrong_type_in_a_known_field_is_a_bad_frame_that_carries_the_ref(fields: str) -> None:
    error = refused(f'{{"ref":"r7",{fields}}}')
    assert error.code is ErrorCode.BAD_FRAME
    assert error.ref == "r7"


@pytest.mark.parametrize("ref", ["1.5", "true", "[]", "{}", "1e2"])
def test_a_ref_of_a_wrong_type_is_a_bad_frame_and_is_not_sent_back(ref: str) -> None:
    error = refused(f'{{"type":"hello","ref":{ref}}}')
    assert (error.code, error.ref) == (ErrorCode.BAD_FRAME, None)


@pytest.mark.parametrize("kind", ["event", "welcome", "HELLO", "", "\\u0000"])
def test_an_unknown_type_is_told_apart_and_carries_the_ref(kind: str) -> None:
    error = refused(f'{{"type":"{kind}","ref":9}}')
    assert (error.code, error.ref) == (ErrorCode.UNKNOWN_TYPE, 9)


def test_a_message_does_not_repeat_what_the_client_sent_at_length() -> None:
    for frame in (
        f'{{"type":"{"x" * 10_000}"}}',
        f'{{"type":"hello","projects":{{"1":{{"offset":"{"x" * 10_000}"}}}}}}',
        f'{{"type":"publish","type":"{"x" * 10_000}"}}',
    ):
        assert len(refused(frame).message) < 300


def test_an_integer_beyond_64_bit_is_read_as_it_is() -> None:
    """Whoever acts on it checks its range: that is `invalid`, not grammar."""
    frame = decode_text(f'{{"type":"publish","ref":{10**30},"project":{2**64},"run":{-(2**63) - 1}}}')
    assert isinstance(frame, Publish)
    assert (frame.ref, frame.project, frame.run) == (10**30, 2**64, -(2**63) - 1)


def test_text_with_nul_is_read_as_it_is() -> None:
    """PostgreSQL cannot store it: whoever acts on it answers `invalid`."""
    frame = decode_text('{"type":"publish","id":"a\\u0000b"}')
    assert isinstance(frame, Publish)
    assert frame.id == "a\0b"


@pytest.mark.parametrize("frame", ['{"type":"hello","client":"\ud800"}', "\ud800", '{"\udfff":1}'])
def test_lone_surrogates_in_a_string_are_a_bad_frame(frame: str) -> None:
    assert refused(frame).code is ErrorCode.BAD_FRAME


@pytest.mark.parametrize("bad", [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"])
@pytest.mark.parametrize("field", ["id", "data", "extra"])
def test_bytes_that_are_not_utf8_are_a_bad_frame_also_where_nothing_is_read(field: str, bad: bytes) -> None:
    assert refused(b'{"type":"publish","%s":"%s"}' % (field.encode(), bad)).code is ErrorCode.BAD_FRAME


@pytest.mark.parametrize("field", ["data", "extra", "params"])
@pytest.mark.parametrize("kind", ["publish", "call"])
@pytest.mark.parametrize("nested", ["[", '{"a":'])
def test_deep_nesting_is_a_bad_frame(field: str, kind: str, nested: str) -> None:
    assert refused(f'{{"type":"{kind}","{field}":{nested * 100_000}').code is ErrorCode.BAD_FRAME


# Data passes unread


@given(value=JSON, ascii_only=st.booleans(), indent=st.sampled_from([None, 1]))
def test_data_passes_byte_for_byte(value: Any, ascii_only: bool, indent: int | None) -> None:
    data = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    frame = f'{{"type":"publish","data":  {data} ,"id":"i"}}'
    for sent in (frame, frame.encode()):
        publish = decode_text(sent)
        assert isinstance(publish, Publish) and isinstance(publish.data, Raw)
        assert bytes(publish.data) == data.encode()


@pytest.mark.parametrize("data", ["1e400", "123456789012345678901234567890.5", '{"a":1,"a":2}', '"\\u0000"', "-0.0"])
def test_data_that_no_number_or_map_of_ours_could_hold_passes_as_it_is(data: str) -> None:
    publish = decode_text(f'{{"type":"publish","data":{data}}}')
    assert isinstance(publish, Publish) and isinstance(publish.data, Raw)
    assert bytes(publish.data) == data.encode()


@pytest.mark.parametrize(
    "data",
    [
        "01", "1.", ".5", "+1", "1e", "1e+", "-", "--1", "0x10", "NaN", "Infinity", "tru", "nul", '"\\x"', '"\\u12"',
        '"a\tb"', '"open', "[1,]", "[,1]", "[1,,2]", "[1 2]", "{a:1}", '{"a"}', '{"a":1,}', '{"a":1 "b":2}', "1 2",
        "\x0b1", "", "'a'", "[1}", '"\x00"',
    ],
)  # fmt: skip
def test_data_that_is_not_json_is_a_bad_frame_though_nobody_reads_it(data: str) -> None:
    assert refused(f'{{"ref":1,"type":"publish","data":{data}}}').code is ErrorCode.BAD_FRAME


# Binary frames


@given(payload=st.binary())
def test_a_binary_publish_is_split_into_header_and_payload(payload: bytes) -> None:
    publish, received = decode_binary(binary(b'{"type":"publish","ref":1,"project":2}', payload))
    assert (publish.ref, publish.project) == (1, 2)
    assert received == payload


@pytest.mark.parametrize("frame", [b"", b"\0", b"\0\0\0"])
def test_a_binary_frame_without_a_whole_length_is_a_bad_frame(frame: bytes) -> None:
    with pytest.raises(FrameError) as caught:
        decode_binary(frame)
    assert caught.value.code is ErrorCode.BAD_FRAME


@pytest.mark.parametrize("length", [3, 100, MAX_HEADER_BYTES, MAX_HEADER_BYTES + 1, 2**32 - 1])
def test_a_header_length_that_says_too_much_is_a_bad_frame(length: int) -> None:
    with pytest.raises(FrameError) as caught:
        decode_binary(length.to_bytes(4, "big") + b"{}")
    assert caught.value.code is ErrorCode.BAD_FRAME


def test_the_longest_header_is_read_and_one_byte_more_is_not() -> None:
    longest = b'{"type":"publish"}'.ljust(MAX_HEADER_BYTES)
    assert decode_binary(binary(longest, b"p"))[1] == b"p"
    with pytest.raises(FrameError):
        decode_binary(binary(longest + b" ", b"p"))


@pytest.mark.parametrize("header", [b"", b"{}", b"[]", b'{"type":"publish","id":"\xff"}', b'{"type":"nonsense"}'])
def test_a_header_that_is_no_publish_is_refused(header: bytes) -> None:
    with pytest.raises(FrameError):
        decode_binary(binary(header, b"payload"))


@pytest.mark.parametrize("kind", ["hello", "call", "refresh"])
def test_a_binary_frame_of_another_type_is_a_bad_frame_that_carries_the_ref(kind: str) -> None:
    with pytest.raises(FrameError) as caught:
        decode_binary(binary(f'{{"type":"{kind}","ref":5}}'.encode()))
    assert (caught.value.code, caught.value.ref) == (ErrorCode.BAD_FRAME, 5)


# What the relay sends


def event(**fields: Any) -> Event:
    defaults: dict[str, Any] = {
        "project": 12,
        "offset": 353,
        "id": "an-id",
        "kind": "message",
        "sender": "a-uid",
        "run": None,
        "batch": None,
        "at": "2026-11-24T10:00:00.123456Z",
    }
    return Event(**(defaults | fields))


HEADER = (
    '{"type":"event","project":12,"offset":353,"id":"an-id","kind":"message","from":"a-uid","run":null,"batch":null,'
    '"at":"2026-11-24T10:00:00.123456Z"'
)


def test_an_event_is_written_field_by_field_in_the_protocols_order() -> None:
    assert codec.encode_event(event(data=b'{"a": [1, 2]}')) == (f'{HEADER},"data":{{"a": [1, 2]}}}}'.encode(), False)


def test_a_transient_event_has_no_offset() -> None:
    message, _ = codec.encode_event(event(offset=None, data=b"1"))
    assert "offset" not in json.loads(message)


def test_an_event_without_data_says_null() -> None:
    message, _ = codec.encode_event(event())
    assert json.loads(message)["data"] is None


@pytest.mark.parametrize("payload", [b"", b"\0\xffbytes"])
def test_a_binary_event_is_its_header_and_its_payload(payload: bytes) -> None:
    message, is_binary = codec.encode_event(event(payload=payload))
    assert is_binary
    header, rest = codec.split_binary(message)
    assert header.decode() == HEADER + "}"
    assert rest == payload


def test_where_there_are_no_binary_frames_a_payload_is_base64_up_to_the_limit() -> None:
    payload = b"\0\xff" * 8
    shown = codec.event_object(event(payload=payload), inline_limit=len(payload))
    assert base64.b64decode(shown["payload"]) == payload
    assert not shown.keys() & {"data", "size"}


def test_where_there_are_no_binary_frames_a_payload_past_the_limit_is_told_by_its_size() -> None:
    shown = codec.event_object(event(payload=b"12345"), inline_limit=4)
    assert (shown["payload"], shown["size"]) == (None, 5)


def test_data_is_shown_as_it_is_where_there_are_no_binary_frames() -> None:
    shown = codec.event_object(event(data=b'{"a": 1e400}'), inline_limit=1)
    assert b'"data":{"a": 1e400}' in codec.encode(shown)


@given(ref=st.none() | st.integers() | st.text())
def test_a_ref_that_was_accepted_can_be_sent_back(ref: str | int | None) -> None:
    frame = decode_text(json.dumps({"type": "call", "ref": ref}))
    assert isinstance(frame, Call)
    assert json.loads(codec.encode({"ref": frame.ref})) == {"ref": ref}
