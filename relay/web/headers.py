"""What each answer tells a browser, so that neither a page nor a file of somebody's can do harm with it.

Answers are JSON, events or bytes: unless an answer says otherwise, a browser takes none of them for something else,
shows them in no frame, runs nothing in them, and tells no other site where it came from. A page says what of its own it
needs, by `page_policy`.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
CAUTION = (
    ("Content-Security-Policy", NOTHING),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
)


def page_policy(*, styles: Iterable[str] = (), scripts: Iterable[str] = (), connects: bool = False) -> str:
    """The Content-Security-Policy of a page that has these styles and scripts within, letter by letter.

    Args:
        connects: it may ask the relay it came from, and nobody else.
    """
    allowed = [NOTHING]
    for directive, texts in (("style-src", styles), ("script-src", scripts)):
        if hashes := " ".join(_hash(text) for text in texts):
            allowed.append(f"{directive} {hashes}")
    if connects:
        allowed.append("connect-src 'self'")
    return "; ".join(allowed)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


class CarefulHeaders:
    """An ASGI application that adds them where an answer does not say otherwise.

    Args:
        hsts_s: for so many seconds a browser that came by TLS, the relay's own or a trusted proxy's, comes by nothing
            else; 0 does not say so.
    """

    def __init__(self, app: ASGIApp, hsts_s: int = 0) -> None:
        self.app = app
        self._hsts_s = hsts_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def careful(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message.setdefault("headers", []))
                for name, value in CAUTION:
                    headers.setdefault(name, value)
                if self._hsts_s and scope["scheme"] == "https":
                    headers.setdefault("Strict-Transport-Security", f"max-age={self._hsts_s}")
            await send(message)

        await self.app(scope, receive, careful)
