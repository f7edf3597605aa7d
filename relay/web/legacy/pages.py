"""The pages for people: plain HTML, whole in themselves, nothing from any other host."""

from __future__ import annotations

import json
from html import escape

from relay import __version__
from relay.web.legacy.answers import Answer

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 2rem auto; padding: 0 1rem; }
pre, code { font: 14px/1.45 ui-monospace, monospace; }
pre { padding: 1rem; overflow-x: auto; border: 1px solid #8884; border-radius: 6px; }
h2 { margin-top: 2.5rem; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #8884; }
"""


def document(title: str, body: str) -> str:
    """A whole page. `body` is HTML already, `title` is not."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)} · Starfish Relay</title><style>{_STYLE}</style></head>\n"
        f"<body>{body}</body></html>\n"
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


def root_page(resources: dict[str, str]) -> str:
    """What the API is, for a person who has opened its URL."""
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td><a href="{escape(url)}"><code>{escape(url)}</code></a></td></tr>'
        for name, url in resources.items()
    )
    return document(
        "API",
        f"<h1>Starfish Relay {escape(__version__)}</h1>"
        "<p>The routing server between sites that train a model together and keep their data to themselves. Sites "
        "speak to it over a WebSocket at <code>/starfish/ws/v1</code>, or poll this REST API.</p>"
        '<p><a href="/starfish/api/v1/docs/">Documentation of the API</a> · '
        '<a href="/starfish/api/v1/openapi.yaml">openapi.yaml</a></p>'
        f"<h2>Resources</h2><table>{rows}</table>",
    )
