"""Who this site is, and a new token in time where the application can give one."""

from __future__ import annotations

import asyncio
import base64
import inspect
from collections.abc import Awaitable, Callable

from relay.client.errors import SessionEnded
from relay.client.limits import Limits

TokenSource = Callable[[], str | Awaitable[str]]
"""Gives a token of the site: a function (that does not wait), or a coroutine function."""


class TokenUnavailable(OSError):
    """The application's own `token` failed or took too long. It is asked again."""


class Credentials:
    """A token, a source of tokens, or a user's password with the site's uid. No secret shows in a `repr` or a log.

    A source is asked each time a token is needed: for each connection, and without a WebSocket for each request. What
    it gives may be good for one use only, as what a site's own key signs is (`relay.client.keys`).
    """

    def __init__(
        self,
        token: str | TokenSource | None,
        user: str | None,
        password: str | None,
        uid: str | None,
        limits: Limits,
    ) -> None:
        by_token = token is not None and (user, password, uid) == (None, None, None)
        by_password = token is None and user is not None and password is not None and uid is not None
        if not by_token and not by_password:
            raise ValueError("give either token, or user, password and uid")
        self._source = token if callable(token) else None
        self._token = token if isinstance(token, str) else None
        self._user, self._password, self._uid = user, password, uid
        self._limits = limits
        self._proven = False

    def __repr__(self) -> str:
        return f"Credentials(uid={self._uid!r}, …)" if self._uid is not None else "Credentials(token=…)"

    @property
    def renewable(self) -> bool:
        """There is a source to ask for a new token."""
        return self._source is not None

    async def headers(self) -> dict[str, str]:
        """What goes with a request: to be asked for anew for the next one.

        Raises:
            TokenUnavailable: the source failed.
            SessionEnded: the source says that there will be none.
        """
        if self._uid is not None:
            pair = base64.b64encode(f"{self._user}:{self._password}".encode()).decode("ascii")
            return {"Authorization": f"Basic {pair}", "X-Starfish-Site": self._uid}
        return bearer(await self.fetch() if self._token is None else self._token)

    async def fetch(self) -> str:
        """A token from the source. Raises as `headers` does."""
        assert self._source is not None
        try:
            async with asyncio.timeout(self._limits.token_s):
                given = self._source()
                token = await given if inspect.isawaitable(given) else given
        except SessionEnded:
            raise
        except Exception as error:  # what it says may hold a secret: its type has to do
            raise TokenUnavailable(f"the token's source failed: {type(error).__name__}") from error
        if not isinstance(token, str):
            raise TypeError(f"the token's source gives a string, this one gave a {type(token).__name__}")
        return token

    def renew(self, token: str) -> None:
        """From now on, this token; a source goes on giving them."""
        if self._source is None:
            self._token = token

    def accepted(self) -> None:
        """The relay has welcomed the site with them."""
        self._proven = True

    def refused(self) -> bool:
        """The relay does not take them (any more). True: a source may have better ones by now, try once more."""
        again = self._source is not None and self._proven
        self._proven = False
        return again


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}
