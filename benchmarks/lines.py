"""How the relay and its peers are spoken to: where to connect, what to say first, how a message looks.

The load counts byte patterns and parses nothing, for all of them alike, so that it costs as little as it can.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.realm import Seat
from tests.support.relay import RelayProcess

DATA = b"x" * 300
"""Of each message, without any envelope."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One connection of the load.

    Args:
        opening: what to say first; each with what tells that it was understood, before the next is said.
        message: what a publisher sends: `%(n)d` is the message's number, `%(id)s` a new UUID.
        delivered: is once in every delivered message, and in nothing else that is counted.
        answered: is once in every answer to a publisher.
        ping: what a server asks to see that the peer is there, and `pong` the answer.
    """

    url: str
    headers: tuple[tuple[str, str], ...] = ()
    opening: tuple[tuple[bytes, bytes], ...] = ()
    message: bytes = b""
    delivered: bytes = b"\0"
    answered: bytes = b"\0"
    ping: bytes | None = None
    pong: bytes = b""
    is_binary: bool = False


HELLO = b'{"type":"hello","ref":0,"client":"benchmark"}'


def relay(process: RelayProcess, seat: Seat, *, kind: str = "message") -> Line:
    """A session of the relay, whose publishes are durable."""
    head = b'{"type":"publish","ref":%%(n)d,"id":"%%(id)s","project":%d,"kind":"%s","data":"'
    return Line(
        url=process.ws_url,
        headers=tuple(seat.headers.items()),
        opening=((HELLO, b'"welcome"'),),
        message=head % (seat.project, kind.encode()) + DATA + b'"}',
        delivered=b'"type":"event"',
        answered=b'"type":"ok"',
    )


def bare(url: str, path: str) -> Line:
    """A connection to `benchmarks.peers.bare`."""
    return Line(url=url + path, message=b"+" + DATA[1:], delivered=b"+", answered=b"ok")


def socketio(url: str) -> Line:
    """A connection to `benchmarks.peers.socketio_server`."""
    return Line(
        url=f"{url}/socket.io/?EIO=4&transport=websocket",
        opening=((b"40", b"40{"), (b'420["subscribe"]', b"430[")),
        message=b'42%(n)d["publish","' + DATA + b'"]',
        delivered=b'42["event"',
        answered=b'["ok"]',
        ping=b"2",
        pong=b"3",
    )


def nats(url: str) -> Line:
    """A connection to NATS by its WebSocket, which is not shown what it publishes itself."""
    return Line(
        url=url,
        opening=((b'CONNECT {"verbose":false,"echo":false}\r\nSUB project 1\r\nPING\r\n', b"PONG"),),
        message=b"PUB project %d\r\n+%s\r\nPING\r\n" % (len(DATA), DATA[1:]),
        delivered=b"+x",
        answered=b"PONG",
        is_binary=True,
    )


def jetstream(url: str, number: int) -> Line:
    """A connection to NATS whose publishes are answered when a stream has stored them."""
    stream = b'{"name":"all","subjects":["stream.>"],"storage":"file"}'
    create = b"PUB $JS.API.STREAM.CREATE.all answer.%d %d\r\n%s\r\n" % (number, len(stream), stream)
    return replace(
        nats(url),
        opening=(
            (b'CONNECT {"verbose":false}\r\nSUB answer.%d 1\r\nPING\r\n' % number, b"PONG"),
            (create, b"stream_create_response"),
        ),
        message=b"PUB stream.%d answer.%d %d\r\n%s\r\n" % (number, number, len(DATA), DATA),
        answered=b'"seq":',
    )
