"""The polling API: controllers that poll over REST run against the relay unchanged.

Translation only. Each endpoint calls the use case that the WebSocket's `call` uses; what it changes is in the journal,
and sites with a session see it at once. What may be done is decided in `relay.core`, how it is said is decided here.

    door       negotiation, login, method, errors, headers: what all endpoints share
    bodies     JSON and forms → data            fields    data → values, or the reasons why not
    answers    refusals of the core → the words that controllers know
    pages      what a browser is shown
"""

from __future__ import annotations

from starlette.routing import BaseRoute

from relay.config import Settings
from relay.core.node import Node
from relay.web.auth import Authenticator
from relay.web.legacy import projects, root, sites
from relay.web.legacy.door import Door

VIEWS = [*sites.VIEWS, *projects.VIEWS, *root.VIEWS]


def routes(node: Node, auth: Authenticator, settings: Settings) -> list[BaseRoute]:
    """The routes of the API. They come last in an application: the very last one answers what no other does."""
    door = Door(node, auth)
    return [*(door.route(view) for view in VIEWS), *root.ROUTES, root.Elsewhere()]
