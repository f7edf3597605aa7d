"""A session's state machine: which frame may come when, and what follows.

    CONNECTED --hello--> LIVE --close--> CLOSED

The whole of it is `TRANSITIONS`; `Session.receive` looks a frame up there and never decides by itself. A frame that
cannot be read is answered `bad_frame` and counted: the tenth within a minute closes the session with 4400, so that a
broken client does not turn into a busy loop.

The machine knows no socket and no clock. Whoever drives it passes bytes and the time, and does as it is told:

    session = Session()
    match session.receive(frame, now):
        case Accepted(frame=..., payload=...): ...     # act on it
        case Refused(ref=..., error=...): ...          # answer with an `error` frame
        # raises SessionClosed                         # close with its code
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from relay.protocol import codec
from relay.protocol.envelope import Ack, Call, ClientFrame, Hello, Publish, Ref, Refresh
from relay.protocol.errors import CloseCode, ErrorCode, ReplyError, SessionClosed

BAD_FRAMES_ALLOWED = 9
BAD_FRAME_WINDOW_S = 60.0


class State(Enum):
    CONNECTED = auto()
    """The socket is open and authenticated; the client has to say hello."""
    LIVE = auto()
    """The client has been welcomed: it publishes, calls and is shown events."""
    CLOSED = auto()
    """Nothing is read any more."""


class Signal(Enum):
    HELLO = auto()
    REQUEST = auto()
    UNKNOWN = auto()
    UNREADABLE = auto()


class Outcome(Enum):
    ACCEPT = auto()
    REFUSE = auto()
    REFUSE_AND_COUNT = auto()
    CLOSE = auto()


TRANSITIONS: Mapping[tuple[State, Signal], tuple[Outcome, State]] = {
    (State.CONNECTED, Signal.HELLO): (Outcome.ACCEPT, State.CONNECTED),
    (State.CONNECTED, Signal.REQUEST): (Outcome.CLOSE, State.CLOSED),
    (State.CONNECTED, Signal.UNKNOWN): (Outcome.CLOSE, State.CLOSED),
    (State.CONNECTED, Signal.UNREADABLE): (Outcome.CLOSE, State.CLOSED),
    (State.LIVE, Signal.HELLO): (Outcome.REFUSE, State.LIVE),
    (State.LIVE, Signal.REQUEST): (Outcome.ACCEPT, State.LIVE),
    (State.LIVE, Signal.UNKNOWN): (Outcome.REFUSE, State.LIVE),
    (State.LIVE, Signal.UNREADABLE): (Outcome.REFUSE_AND_COUNT, State.LIVE),
    (State.CLOSED, Signal.HELLO): (Outcome.CLOSE, State.CLOSED),
    (State.CLOSED, Signal.REQUEST): (Outcome.CLOSE, State.CLOSED),
    (State.CLOSED, Signal.UNKNOWN): (Outcome.CLOSE, State.CLOSED),
    (State.CLOSED, Signal.UNREADABLE): (Outcome.CLOSE, State.CLOSED),
}
"""A hello is accepted while CONNECTED and leaves it so: it may still turn out `invalid`, and be sent again.
`Session.welcomed` moves on to LIVE."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A frame to act on. `payload` is the bytes behind the header if it came as a binary frame."""

    frame: ClientFrame
    payload: bytes | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """A frame to answer with an `error`; the session lives on."""

    ref: Ref
    error: ReplyError


class Session:
    """The protocol's side of one WebSocket. Not safe for use by two tasks at once.

    Args:
        max_text_bytes: the longest text frame, and the longest JSON that a frame may carry.
        max_payload_bytes: the longest payload of a binary frame.
    """

    def __init__(self, *, max_text_bytes: int, max_payload_bytes: int) -> None:
        self.state = State.CONNECTED
        self._max_text_bytes = max_text_bytes
        self._max_payload_bytes = max_payload_bytes
        self._bad_frames_at: list[float] = []

    def welcomed(self) -> None:
        """The hello was good and has been answered."""
        assert self.state is State.CONNECTED, f"expected a session that waits for hello, this one is {self.state.name}"
        self.state = State.LIVE

    def receive(self, frame: str | bytes, now: float) -> Accepted | Refused:
        """Take one frame as it came from the socket; `now` is a monotonic time in seconds.

        Raises:
            SessionClosed: close the socket with this code; no further frame is to be read.
        """
        decoded = self._decode(frame)
        outcome, self.state = TRANSITIONS[self.state, _signal_of(decoded)]
        match outcome:
            case Outcome.CLOSE:
                raise SessionClosed(CloseCode.BAD_FRAMES, "the first frame of a session is a hello")
            case Outcome.ACCEPT:
                assert isinstance(decoded, Accepted)
                return decoded
            case Outcome.REFUSE_AND_COUNT:
                assert isinstance(decoded, Refused)
                self._count_bad_frame(now)
                return decoded
            case Outcome.REFUSE:
                if isinstance(decoded, Refused):
                    return decoded
                error = ReplyError(ErrorCode.INVALID, "this session has said hello already", {"type": "second hello"})
                return Refused(getattr(decoded.frame, "ref", None), error)

    def _decode(self, frame: str | bytes) -> Accepted | Refused:
        try:
            if isinstance(frame, str):
                self._check_size(_utf8_size(frame, self._max_text_bytes), self._max_text_bytes, "a text frame")
                return Accepted(codec.decode_text(frame))
            envelope, payload = codec.decode_binary(frame)
            try:
                self._check_size(len(payload), self._max_payload_bytes, "a binary payload")
            except ReplyError as error:
                return Refused(envelope.ref, error)
            return Accepted(envelope, payload)
        except codec.FrameError as error:
            return Refused(error.ref, error)
        except ReplyError as error:
            return Refused(_ref_of(frame), error)

    @staticmethod
    def _check_size(size: int, limit: int, what: str) -> None:
        if size > limit:
            raise ReplyError(
                ErrorCode.TOO_LARGE, f"{what} has at most {limit} bytes, this one has {size}", {"limit": limit}
            )

    def _count_bad_frame(self, now: float) -> None:
        recent = self._bad_frames_at
        recent.append(now)
        while recent[0] <= now - BAD_FRAME_WINDOW_S:
            recent.pop(0)
        if len(recent) > BAD_FRAMES_ALLOWED:
            self.state = State.CLOSED
            raise SessionClosed(CloseCode.BAD_FRAMES, f"{len(recent)} bad frames within a minute")


def _signal_of(decoded: Accepted | Refused) -> Signal:
    match decoded:
        case Accepted(frame=Hello()):
            return Signal.HELLO
        case Accepted(frame=Publish() | Ack() | Call() | Refresh()):
            return Signal.REQUEST
        case Refused(error=error) if error.code is ErrorCode.BAD_FRAME:
            return Signal.UNREADABLE
        case _:
            return Signal.UNKNOWN


def _utf8_size(text: str, limit: int) -> int:
    """The text's size in bytes; text that cannot pass the limit whatever its characters is not encoded to count."""
    return len(text) if len(text) * 4 <= limit else len(text.encode(errors="surrogatepass"))


def _ref_of(frame: str | bytes) -> Ref:
    """The `ref` of a frame that is refused for its size alone, so that the sender learns which one it was."""
    try:
        decoded = codec.decode_text(frame)
    except codec.FrameError as error:
        return error.ref
    return getattr(decoded, "ref", None)
