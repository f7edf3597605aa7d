"""Every bound and every time of the client, with its default."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Pass one to `Site` to change them: `Site(url, token=…, limits=Limits(in_flight=8))`."""

    in_flight: int = 64
    """Requests that may wait for their answers. The next caller waits until one of them has been answered."""
    buffer_events: int = 1024
    """Events that are read ahead of `Site.events`. When so many wait, the socket is not read further."""
    buffer_bytes: int = 32 * 1024 * 1024
    """The same, in bytes."""
    buffer_excess: int = 8
    """How many times the buffer may be filled while answers are waited for: they come behind the events."""
    stall_s: float = 10.0
    """How long the socket is left unread. After that the client reads on, so that the session does not die, lets go
    of the events that do not fit, and has them sent again once the buffer is empty."""
    frame_bytes: int = 64 * 1024 * 1024
    """The longest frame that is taken from the relay."""
    ack_delay_s: float = 0.05
    """How long an acknowledgement may wait for others to be sent along with it."""
    connect_s: float | None = 30.0
    """How long entering the `async with` block goes on trying to connect. None: for ever."""
    open_s: float = 10.0
    """For one attempt to connect and to be welcomed."""
    close_s: float = 5.0
    """For the last acknowledgements and the closing handshake."""
    ping_s: float = 20.0
    """Between two pings, and for each to be answered. Without a WebSocket: an answer, or the next sign of life on an
    event stream, may take twice as long."""
    poll_s: float = 25.0
    """How long a long poll waits for an event, 1 to 60: less than what is idle may live on the way, mostly 60 s."""
    look_s: float = 30.0
    """Without a WebSocket: how often to look for projects that were joined or left by others, and who is online."""
    climb_s: float | None = 300.0
    """On a lower rung: how long until those above are tried again, half of it at least; it doubles with each try. None:
    never."""
    climb_max_s: float = 3600.0
    token_s: float = 10.0
    """For the application's own `token` to give one."""
    backoff_s: float = 0.5
    """The longest wait before the first attempt to reconnect; it doubles with each that fails."""
    backoff_max_s: float = 30.0
    inline_bytes: int = 1024 * 1024
    """`Site.send_update` puts up to so many bytes into the event itself, if the relay takes them; more are a blob."""
    request_bytes: int = 32 * 1024 * 1024
    """The longest body of a request that uploads. Something between may take less: then it is halved."""
    part_bytes: int = 64 * 1024 * 1024
    """Twice to 200 times as much is uploaded in parts of this length, which the relay puts together."""
    parallel_parts: int = 4
    """Parts that are under way at a time. 1: nothing is uploaded in parts."""
    finish_s: float = 600.0
    """For the relay to put parts together, and to hash what has come."""
    damage_tries: int = 3
    """How often bytes that arrive damaged are sent or fetched."""
    stable_s: float = 10.0
    """A session that lasted so long was a good one: the doubling starts again."""


def backoff(limits: Limits, attempt: int, retry_after_s: float | None) -> float:
    """Seconds before the attempt (counted from 0): spread at random, so that not all sites come back at once.

    Full jitter (M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015). What the relay asks for is
    a lower bound.
    """
    ceiling = min(limits.backoff_max_s, limits.backoff_s * 2 ** min(attempt, 16))
    wait_s = random.uniform(0, ceiling)  # noqa: S311 - not a secret
    if retry_after_s is None:
        return wait_s
    return retry_after_s * random.uniform(1, 1.5) + wait_s  # noqa: S311 - not a secret
