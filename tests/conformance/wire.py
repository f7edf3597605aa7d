"""A raw WebSocket client for black-box tests: frames out, frames in, nothing clever between.

It knows the framing of docs/protocol.md (section 3) and imports nothing of the product. Frames that come in are kept
in order of arrival until a test claims them; every wait has a time-out and says what had come instead.

To prove that something is *not* delivered, have something sent after it that is, and look at `Wire.until`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import struct
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin, Subprotocol

Frame: TypeAlias = dict[str, Any]

SUBPROTOCOL = "starfish.v1"
PAYLOAD = "payload"
"""The key under which `decode` puts a binary frame's payload (bytes) beside its header's fields."""

TIMEOUT_S = float(os.environ.get("CONFORMANCE_TIMEOUT_S", "20"))
"""How long any single wait may take."""

SHOWN = 20
"""Of the frames that came instead of an awaited one: how many a failure names."""

MAX_INCOMING_BYTES = 64 * 1024 * 1024


def new_id() -> str:
    """A fresh idempotency key: a lower-case UUID."""
    return str(uuid.uuid4())


def binary_frame(header: Mapping[str, Any], payload: bytes) -> bytes:
    """The binary framing: length of the header (4 bytes, big-endian), header, payload."""
    encoded = json.dumps(header).encode()
    return struct.pack(">I", len(encoded)) + encoded + payload


def decode(message: str | bytes) -> Frame:
    """A frame's fields; of a binary one its header's, with the payload under `PAYLOAD`."""
    if isinstance(message, str):
        frame = json.loads(message)
    else:
        (length,) = struct.unpack_from(">I", message)
        frame = json.loads(message[4 : 4 + length])
        assert PAYLOAD not in frame, f"a binary frame's header holds the payload's key: {frame}"
        frame[PAYLOAD] = message[4 + length :]
    assert isinstance(frame, dict), f"a frame is one JSON object, not {message!r:.200}"
    return frame


def matches(frame: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether the frame has all wanted fields; an object matches one that holds at least its members."""
    for name, value in wanted.items():
        if name not in frame:
            return False
        found = frame[name]
        if isinstance(value, Mapping) and isinstance(found, Mapping):
            if not matches(found, value):
                return False
        elif found != value or isinstance(found, bool) != isinstance(value, bool):
            return False
    return True


class HandshakeRefused(AssertionError):
    """The relay answered the upgrade with a plain HTTP response."""

    def __init__(self, response: Any) -> None:
        self.status: int = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self.body: bytes = response.body or b""
        super().__init__(f"HTTP {self.status}: {self.body[:300]!r}")

    @property
    def error(self) -> Frame:
        """The `error` object of the JSON body."""
        body = json.loads(self.body)
        assert isinstance(body, dict) and isinstance(body["error"], dict), body
        error: Frame = body["error"]
        return error


class Wire:
    """One WebSocket, at the level of frames."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.unclaimed: list[Frame] = []
        self.welcome: Frame = {}
        self._refs = itertools.count(1)
        self._arrived = asyncio.Condition()
        self._ended = False
        self._failure: Exception | None = None
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def open(
        cls,
        url: str,
        headers: Mapping[str, str] | None = None,
        *,
        subprotocols: Sequence[str] | None = (SUBPROTOCOL,),
        origin: str | None = None,
    ) -> Wire:
        """Connects; raises `HandshakeRefused` when the relay answers with anything but 101."""
        try:
            connection = await connect(
                url,
                additional_headers=dict(headers or {}),
                subprotocols=None if subprotocols is None else [Subprotocol(name) for name in subprotocols],
                origin=None if origin is None else Origin(origin),
                max_size=MAX_INCOMING_BYTES,
                open_timeout=TIMEOUT_S,
                close_timeout=1,
                ping_interval=None,
                compression=None,
                proxy=None,
            )
        except InvalidStatus as refusal:
            raise HandshakeRefused(refusal.response) from None
        return cls(connection)

    # Sending

    async def send_text(self, text: str) -> None:
        await self.connection.send(text)

    async def send_bytes(self, data: bytes) -> None:
        await self.connection.send(data)

    async def send(self, **frame: Any) -> None:
        await self.send_text(json.dumps(frame))

    async def send_binary(self, payload: bytes, **header: Any) -> None:
        await self.send_bytes(binary_frame(header, payload))

    # Waiting

    async def expect(self, type_: str, **fields: Any) -> Frame:
        """The first unclaimed frame of this type with these fields, waited for and claimed."""
        return await self._first(lambda frame: matches(frame, {"type": type_, **fields}), f"{type_} {fields}")

    async def until(self, type_: str, **fields: Any) -> list[Frame]:
        """All unclaimed frames up to and including the first of this type with these fields; claims them all."""
        marker = await self._first(
            lambda frame: matches(frame, {"type": type_, **fields}), f"{type_} {fields}", claim=False
        )
        end = next(index for index, frame in enumerate(self.unclaimed) if frame is marker) + 1
        frames, self.unclaimed = self.unclaimed[:end], self.unclaimed[end:]
        return frames

    async def answer(self, ref: str | int) -> Frame:
        """The `ok` or `error` to that ref."""
        return await self._first(
            lambda frame: frame.get("type") in ("ok", "error") and matches(frame, {"ref": ref}), f"answer to {ref!r}"
        )

    async def next_frame(self) -> Frame:
        """The oldest unclaimed frame, whatever it is."""
        return await self._first(lambda frame: True, "any frame")

    async def closed(self) -> int:
        """The code that the relay closed with."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await self.connection.wait_closed()
                await self._reader
        except TimeoutError:
            raise AssertionError(f"not closed in {TIMEOUT_S} s; unclaimed: {self._inventory()}") from None
        code = self.connection.close_code
        assert code is not None
        return code

    # Asking

    async def ask(self, **frame: Any) -> Frame:
        """Sends a frame with a ref and waits for its answer, `ok` or `error`."""
        ref = frame.setdefault("ref", next(self._refs))
        await self.send(**frame)
        return await self.answer(ref)

    async def ask_binary(self, payload: bytes, **header: Any) -> Frame:
        ref = header.setdefault("ref", next(self._refs))
        await self.send_binary(payload, **header)
        return await self.answer(ref)

    async def ok(self, **frame: Any) -> Frame:
        return _ok(await self.ask(**frame), frame)

    async def error(self, **frame: Any) -> Frame:
        return _error(await self.ask(**frame), frame)

    async def call(self, method: str, **params: Any) -> Any:
        """The result of a `call` that must succeed."""
        return (await self.ok(type="call", method=method, params=params))["result"]

    async def refused(self, method: str, **params: Any) -> Frame:
        """The error frame of a `call` that must fail."""
        return await self.error(type="call", method=method, params=params)

    async def publish(self, project: int, **fields: Any) -> Frame:
        """The `ok` of a `publish` that must succeed; a message with a fresh id unless the fields say otherwise."""
        return await self.ok(**publication(project, fields))

    async def publish_refused(self, project: int, **fields: Any) -> Frame:
        return await self.error(**publication(project, fields))

    async def publish_binary(self, project: int, payload: bytes, **fields: Any) -> Frame:
        header = publication(project, fields, data=False)
        return _ok(await self.ask_binary(payload, **header), header)

    async def ack(self, project: int, offset: int) -> None:
        await self.send(type="ack", project=project, offset=offset)

    async def hello(self, **fields: Any) -> Frame:
        """Says hello and keeps the welcome."""
        await self.send(type="hello", **fields)
        self.welcome = await self.expect("welcome")
        return self.welcome

    async def is_alive(self) -> bool:
        """Whether the session still answers; raises if it does not."""
        await self.call("projects.list")
        return True

    async def close(self) -> None:
        await self.connection.close()
        await self._reader

    # Reading

    async def _read(self) -> None:
        try:
            async for message in self.connection:
                await self._note(decode(message))
        except ConnectionClosed:
            pass
        except Exception as failure:
            self._failure = failure
        finally:
            async with self._arrived:
                self._ended = True
                self._arrived.notify_all()

    async def _note(self, frame: Frame) -> None:
        async with self._arrived:
            self.unclaimed.append(frame)
            self._arrived.notify_all()

    async def _first(self, wanted: Callable[[Frame], bool], name: str, *, claim: bool = True) -> Frame:
        try:
            async with asyncio.timeout(TIMEOUT_S), self._arrived:
                while (found := self._find(wanted)) is None:
                    if self._ended:
                        break
                    await self._arrived.wait()
        except TimeoutError:
            raise AssertionError(f"{name}: not in {TIMEOUT_S} s; unclaimed: {self._inventory()}") from None
        if found is None:
            if self._failure is not None:
                raise self._failure
            code = self.connection.close_code
            raise AssertionError(f"{name}: closed with {code} instead; unclaimed: {self._inventory()}")
        if claim:
            self.unclaimed = [frame for frame in self.unclaimed if frame is not found]
        return found

    def _find(self, wanted: Callable[[Frame], bool]) -> Frame | None:
        return next((frame for frame in self.unclaimed if wanted(frame)), None)

    def _inventory(self) -> str:
        newest = "\n".join(f"  {frame!r:.400}" for frame in self.unclaimed[-SHOWN:])
        return f"{len(self.unclaimed)}, the newest of them:\n{newest}" if newest else "nothing"


def publication(project: int, fields: Mapping[str, Any], *, data: bool = True) -> Frame:
    """A `publish` frame: a message with a fresh id unless the fields say otherwise."""
    defaults: Frame = {"type": "publish", "id": new_id(), "project": project, "kind": "message"}
    if data:
        defaults["data"] = {}
    return defaults | dict(fields)


def events(frames: Sequence[Frame], kind: str | None = None) -> list[Frame]:
    """The events among the frames, of one kind or of all."""
    return [frame for frame in frames if frame["type"] == "event" and kind in (None, frame["kind"])]


def _ok(answer: Frame, asked: Mapping[str, Any]) -> Frame:
    assert answer["type"] == "ok", f"{dict(asked)!r:.300} was refused: {answer}"
    return answer


def _error(answer: Frame, asked: Mapping[str, Any]) -> Frame:
    assert answer["type"] == "error", f"{dict(asked)!r:.300} should be refused, but: {answer}"
    assert isinstance(answer["code"], str) and isinstance(answer["message"], str), answer
    assert isinstance(answer.get("details", {}), dict), answer
    return answer
