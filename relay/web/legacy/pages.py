"""The pages for people: plain HTML, whole in themselves. No script, nothing from any other host, and the browser is
told to allow neither.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from pathlib import Path

from starlette.responses import Response

from relay.web.headers import page_policy
from relay.web.legacy.answers import Answer

_STYLE = Path(__file__).with_name("page.css").read_text(encoding="utf-8")

HEADERS: Mapping[str, str] = {"Content-Security-Policy": page_policy(styles=[_STYLE])}


def response(html: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A page as an answer."""
    return Response(html, status, {**HEADERS, **(headers or {})}, media_type="text/html")


def document(title: str, body: str) -> str:
    """A whole page. `body` is HTML already, `title` is not."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)} · Starfish Relay</title><style>{_STYLE}</style></head>\n"
        f"<body><main>\n{body}\n</main></body></html>\n"
    )


def answer_page(name: str, method: str, path: str, allow: str, answer: Answer) -> str:
    """What a JSON answer looks like to a browser."""
    body = json.loads(answer.body) if isinstance(answer.body, bytes) else answer.body
    shown = json.dumps(body, indent=2, ensure_ascii=False)
    return document(
        name,
        f'<p><a href="/starfish/api/v1/">Starfish Relay</a></p><h1>{escape(name)}</h1>'
        f"<p><code>{escape(method)} {escape(path)}</code> · HTTP {answer.status} · Allow: {escape(allow)}</p>"
        f"<pre>{escape(shown)}</pre>",
    )


def not_found_page(path: str) -> str:
    return document(
        "Not found",
        f"<h1>Not found</h1><p>There is nothing at <code>{escape(path)}</code>. "
        'The API begins at <a href="/starfish/api/v1/">/starfish/api/v1/</a>.</p>',
    )


def login_page() -> str:
    return document(
        "Login",
        "<h1>There is no login page</h1><p>The API takes HTTP Basic credentials with each request, and keeps no "
        'sessions. It begins at <a href="/starfish/api/v1/">/starfish/api/v1/</a>.</p>',
    )
