"""The polling API: controllers that poll over REST run against the relay unchanged.

Translation only. Each endpoint calls the use case that the WebSocket's `call` uses; what it changes is in the journal,
and sites with a session see it at once. What may be done is decided in `relay.core`, how it is said is decided here.

    door       negotiation, login, method, errors, headers: what all endpoints share
    bodies     JSON and forms → data            fields    data → values, or the reasons why not
    answers    refusals of the core → the words that controllers know
    polls      answers that are kept until they change                uploads   files, streamed to the store
    pages      what a browser is shown            reference   openapi.yaml as a page
"""

from __future__ import annotations

from starlette.routing import BaseRoute

from relay.config import Settings
from relay.core.file_ports import FileStore
from relay.core.node import Node
from relay.web.auth import Authenticator
from relay.web.legacy import accounts, files, projects, root, runs, sites
from relay.web.legacy.door import Door

VIEWS = [*runs.VIEWS, *sites.VIEWS, *projects.VIEWS, *files.VIEWS, *accounts.VIEWS, *root.VIEWS]
"""Those that are polled first: routes are tried in this order."""


def routes(node: Node, auth: Authenticator, settings: Settings, file_store: FileStore) -> list[BaseRoute]:
    """The routes of the API. They come last in an application: the very last one answers what no other does."""
    door = Door(node, auth, settings, file_store)
    return [*(door.route(view) for view in VIEWS), *root.ROUTES, root.Elsewhere()]
