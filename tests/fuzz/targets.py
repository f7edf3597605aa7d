"""What is read from outside, each as a function of bytes: it returns, or what it raises is a finding.

The relay's side: frames, session, bodies, uploads, headers, assertions. A site's side, whose relay may be hostile:
frames, envelopes. A target refuses what it should by itself, and asserts what holds of what it takes.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from starlette.requests import Request
from starlette.types import Message

from relay.client import frames as client_frames
from relay.client.errors import ProtocolViolation
from relay.client.sealed import Altered, BadAnnouncement, Identity, NotAddressed, envelope
from relay.client.sealed.envelope import Header
from relay.client.sealed.identity import read_announcement
from relay.core import signing_keys
from relay.core.assertions import BadAssertion, judge, named_key
from relay.core.file_ports import FileStore
from relay.core.model import Content, SigningKey
from relay.protocol import codec
from relay.protocol.errors import ReplyError, SessionClosed
from relay.protocol.session import Refused, Session, State
from relay.web import ranges, tus
from relay.web.legacy import answers, bodies, uploads

NOW_S = 1_764_064_800
UID = "5f0c8f0e-0c51-4b1e-9d5f-2b8b6f1f9a10"
SIZE = 1000
BASE = "/starfish/api/v1/blobs/"
BATCH = b"\0\0"
"""Between the parts of an input that has several."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """`seeds` are inputs to begin with; `words` is what a mutation may put into them."""

    run: Callable[[bytes], None]
    seeds: Sequence[bytes]
    words: Sequence[bytes]


# --- frames, as the relay reads them


def frame(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    for read in (lambda: codec.decode_text(text), lambda: codec.decode_text(data), lambda: codec.decode_binary(data)):
        try:
            read()
        except codec.FrameError as error:
            _assert_sendable(error.ref, error)


def session(data: bytes) -> None:
    machine = Session(max_text_bytes=300, max_payload_bytes=100)
    for number, one in enumerate(data.split(BATCH)):
        try:
            answer = machine.receive(one if one[:1] == b"\0" else one.decode("utf-8", "replace"), number * 1.0)
        except SessionClosed:
            assert machine.state is State.CLOSED
            return
        if isinstance(answer, Refused):
            _assert_sendable(answer.ref, answer.error)
            continue
        assert len(answer.payload or b"") <= 100
        if machine.state is State.CONNECTED:
            machine.welcomed()


def _assert_sendable(ref: object, error: ReplyError) -> None:
    codec.encode({"ref": ref, "message": error.message, "details": error.details})


# --- bodies and uploads of the polling API


def body(data: bytes) -> None:
    kind, _, content = data.partition(b"\n")
    with contextlib.suppress(answers.Refused):
        found = _loop().run_until_complete(bodies.read(_request(kind, [content]), stall_s=1))
        json.dumps(found, ensure_ascii=False, allow_nan=False).encode()


def upload(data: bytes) -> None:
    """However the body is cut into pieces, the same comes out of it, and nothing is left behind."""
    kind, _, content = data.partition(b"\n")
    middle = len(content) // 2
    pieces = [content[at : at + 7] for at in range(0, middle, 7)] + [content[middle // 7 * 7 + 7 * (middle % 7 > 0) :]]
    assert _uploaded(kind, [content]) == _uploaded(kind, pieces)


def _uploaded(kind: bytes, pieces: list[bytes]) -> object:
    store = _Memory()

    async def receive() -> object:
        wanted = ("run", "task_seq")
        request = _request(kind, pieces)
        async with uploads.received(request, store.port, wanted, max_bytes=4096, max_files=3, stall_s=1) as got:
            return got.fields, [(one.type, one.name, bytes(store.held[one.incoming])) for one in got.files]

    try:
        return _loop().run_until_complete(receive())
    except answers.Refused as refused:
        return refused.answer.status
    finally:
        assert store.held == {}, "what was not kept is discarded"


class _Memory:
    """A file store that only begins."""

    def __init__(self) -> None:
        self.held: dict[object, bytearray] = {}
        self.port: FileStore = self  # type: ignore[assignment]

    def begin(self) -> _Incoming:
        incoming = _Incoming(self)
        self.held[incoming] = bytearray()
        return incoming


class _Incoming:
    def __init__(self, store: _Memory) -> None:
        self._store = store

    @property
    def size(self) -> int:
        return len(self._store.held[self])

    def write(self, data: bytes) -> None:
        self._store.held[self] += data

    def keep(self) -> Content:
        raise AssertionError("nothing is kept here")

    def discard(self) -> None:
        self._store.held.pop(self, None)


def _request(kind: bytes, pieces: list[bytes]) -> Request:
    coming = iter(pieces)

    async def receive() -> Message:
        piece = next(coming, None)
        return {"type": "http.request", "body": piece or b"", "more_body": piece is not None}

    headers = [(b"content-type", kind.strip().replace(b"\r", b""))]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": headers}, receive)


_made: list[asyncio.AbstractEventLoop] = []


def _loop() -> asyncio.AbstractEventLoop:
    """One for all inputs."""
    if not _made:
        _made.append(asyncio.new_event_loop())
    return _made[0]


def close() -> None:
    """Let go of what the targets share."""
    for loop in _made:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
    _made.clear()


# --- headers of blobs


def tus_headers(data: bytes) -> None:
    headers = dict(_headers(data))
    for read in (
        tus.require_version,
        tus.checksum,
        lambda given: tus.number(given, "upload-offset"),
        lambda given: tus.parts(given.get("upload-concat", ""), BASE),
        lambda given: _assert_fit(tus.wish(given, 1).filename),
    ):
        with contextlib.suppress(ReplyError):
            read(headers)


def _assert_fit(filename: str) -> None:
    assert "/" not in filename and "\0" not in filename and filename not in (".", "..")
    assert len(filename.encode()) <= 4 * tus.FILENAME_LENGTH


def range_headers(data: bytes) -> None:
    headers, etag = dict(_headers(data)), '"abc"'
    ranges.is_known(headers, etag)
    ranges.is_unexpected(headers, etag)
    for size in (0, 1, SIZE):
        try:
            spans = ranges.wanted(headers, size, etag, "Wed, 25 Nov 2026 10:00:00 GMT") or []
        except ranges.Unsatisfiable:
            continue
        assert len(spans) <= ranges.MAX_RANGES
        assert all(0 <= one.start < one.end <= size for one in spans)
        assert sum(one.size for one in spans) <= size, "no byte is sent twice"


def _headers(data: bytes) -> Iterator[tuple[str, str]]:
    for line in data.decode("latin-1").split("\n"):
        name, _, value = line.partition(":")
        yield name.strip().lower(), value.strip()


# --- what a site signs

_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEY = SigningKey(
    id=signing_keys.thumbprint(_KEY.public_key().public_bytes_raw()),
    site_id=1,
    label="",
    public_key=_KEY.public_key().public_bytes_raw(),
    created_us=0,
    used_us=None,
    revoked_us=None,
)


def assertion(data: bytes) -> None:
    """As it comes, and with its claims signed by a site whose key is known."""
    for text in (data.decode("latin-1"), signed(*data.partition(BATCH)[::2])):
        with contextlib.suppress(BadAssertion):
            named_key(text)
        with contextlib.suppress(BadAssertion):
            judge(text, KEY, UID, "relay", NOW_S * 1_000_000)


def signed(claims: bytes, header: bytes = b"") -> str:
    """An assertion over these bytes, whatever they are."""
    header = header or json.dumps({"alg": "EdDSA", "kid": KEY.id}).encode()
    parts = [base64.urlsafe_b64encode(part).rstrip(b"=") for part in (header, claims)]
    signature = base64.urlsafe_b64encode(_KEY.sign(b".".join(parts))).rstrip(b"=")
    return b".".join([*parts, signature]).decode()


# --- what a hostile relay, or a hostile member, shows a site


def client_frame(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    for given in (text, data):
        with contextlib.suppress(ProtocolViolation):
            client_frames.decode(given)
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(text)
        with contextlib.suppress(ProtocolViolation):
            client_frames.event_of(found)


ANNA, BERT = (Identity.generate() for _ in range(2))
SEALED = envelope.seal(
    Header(
        project=12,
        kind="update",
        id="0b6c",
        sender="anna",
        to=("bert",),
        key=ANNA.public.id,
        at=datetime(2026, 11, 25, tzinfo=UTC),
        content="bytes",
    ),
    b"weights",
    ANNA,
    [BERT.public],
)


def sealed(data: bytes) -> None:
    """As it comes, and with everything in it signed by a member that is known."""
    for given in (data, signed_by_member(*data.partition(BATCH)[::2])):
        with contextlib.suppress(Altered, NotAddressed):
            read = envelope.read(given)
            envelope.check(read, ANNA.public)
            envelope.open_body(read, BERT)
    with contextlib.suppress(BadAnnouncement):
        read_announcement("anna", data.decode("latin-1"))
    with contextlib.suppress(BadAnnouncement):
        read_announcement("anna", base64.b64encode(data).decode())


def signed_by_member(header: bytes, content: bytes) -> bytes:
    return envelope._head(header, hashlib.sha256(content).digest(), ANNA) + content


# --- all of them

_HELLO = b'{"type":"hello","ref":1,"projects":{"12":{"offset":340,"epoch":"k3f9"}}}'
_PUBLISH = b'{"type":"publish","ref":7,"id":"0b6c","project":12,"kind":"update","to":["a"],"data":{"x":[1.5e3,null]}}'
_CALL = b'{"type":"call","ref":9,"method":"runs.start","params":{"project":12}}'
_BINARY = len(_PUBLISH).to_bytes(4, "big") + _PUBLISH + b"payload"
_JSON = (
    b'"',
    b"{",
    b"}",
    b"[" * 2000,
    b'{"a":' * 2000,
    b"\\ud800",
    b"9" * 400,
    b"1e999",
    b"-0",
    b"null",
    b"\xed\xa0\x80",
)
_FORM = b'--b\r\nContent-Disposition: form-data; name="run"\r\n\r\n7\r\n--b\r\nContent-Disposition: form-data; \
name="artifacts"; filename="w.bin"\r\nContent-Type: application/octet-stream\r\n\r\n\x00\xff\r\n--b--\r\n'
_KINDS = b"multipart/form-data; boundary=b\n"
_MIME = (
    b"\r\n--b\r\n",
    b"--b--",
    b"boundary=",
    b"; filename*=utf-8''%ff",
    b'name="run"',
    b"multipart/mixed; boundary=c",
    b"Content-Transfer-Encoding: base64",
    b"message/rfc822",
    b"=?utf-8?q?=ff?=",
    b"charset=",
    b"Content-Type: ",
    b";" * 3000,
    b"Content-Disposition: form-data; ",
    b"(" * 3000,
    b"; a=b" * 2000,
    b'"' * 3001,
    b"\r\n\r\n",
    b"\r",
    b"\n",
    b"\\",
)
_EVENT = (
    b'{"type":"event","project":12,"offset":3,"id":"x","kind":"log","from":null,"at":"2026-11-24T10:00:00Z","data":1}'
)
_WELCOME = (
    b'{"type":"welcome","session":"s","site":{"id":3,"uid":"u","name":"n"},"projects":{"12":{"role":"coordinator",\
"epoch":"k","offset":352,"from":340,"recovered":true,"online":["u"]}}}'
)
_HISTORY = _EVENT.replace(b'"data":1', b'"payload":"AAEC"')
_CLAIMS = json.dumps(
    {"iss": UID, "sub": UID, "aud": "relay", "iat": NOW_S, "exp": NOW_S + 300, "jti": "a-unique-name"}
).encode()

TARGETS = {
    "frame": Target(run=frame, seeds=(_HELLO, _PUBLISH, _CALL, _BINARY), words=_JSON),
    "session": Target(
        run=session, seeds=(BATCH.join((_HELLO, _BINARY, _CALL, b"{", b"x", _PUBLISH)),), words=(*_JSON, BATCH)
    ),
    "body": Target(
        run=body,
        seeds=(
            _KINDS + _FORM,
            b'application/json\n{"name":"n","tasks":[{"seq":1,"config":{}}]}',
            b"application/x-www-form-urlencoded\nname=a+b&x=%ff&y",
        ),
        words=(*_MIME, *_JSON),
    ),
    "upload": Target(run=upload, seeds=(_KINDS + _FORM, _KINDS + _FORM + _FORM), words=_MIME),
    "tus": Target(
        run=tus_headers,
        seeds=(
            b"Tus-Resumable: 1.0.0\nUpload-Length: 100\nUpload-Metadata: project MTI=,filename d29ybGQ=",
            b"Upload-Checksum: sha1 2jmj7l5rSw0yVb/vlWAYkK/YBwk=\nUpload-Offset: 5\nUpload-Defer-Length: 1",
            b"Upload-Concat: final;/starfish/api/v1/blobs/a http://h/starfish/api/v1/blobs/b\nTus-Resumable: 1",
        ),
        words=(
            b"//[",
            b"http://[::1",
            b"final;",
            b"partial",
            b"Upload-Concat: ",
            b"Upload-Defer-Length: 1",
            b"\xb2",
            b"Li4v",
        ),
    ),
    "ranges": Target(
        run=range_headers,
        seeds=(b'Range: bytes=0-1,5-,-3\nIf-Range: "abc"', b'If-None-Match: W/"abc", "x"\nIf-Match: *'),
        words=(b"bytes=", b",", b"-", b"9" * 19, b"0-0", b"-0", b"\xb2"),
    ),
    "assertion": Target(
        run=assertion, seeds=(signed(_CLAIMS).encode(), _CLAIMS), words=(*_JSON, b".", b"Infinity", BATCH)
    ),
    "client-frame": Target(run=client_frame, seeds=(_EVENT, _WELCOME, _HISTORY, _BINARY), words=(*_JSON, "é".encode())),
    "sealed": Target(
        run=sealed,
        seeds=(
            SEALED,
            envelope.read(SEALED).raw_header + BATCH + bytes(envelope.read(SEALED).body),
            base64.b64decode(ANNA.announcement("anna")),
        ),
        words=(*_JSON, b"SFS1", BATCH, b"age-encryption.org/v1\n-> X25519 ", b"\n--- "),
    ),
}
