"""What else a session does, over plain HTTP: where it stands, and the methods of `call` (protocol, section 9).

    POST hello/              what `welcome` says
    POST calls/{method}/     a method, with its parameters as the body

One rule, two doors: both run what the WebSocket runs. Each request speaks for one site, as in `relay.web.events`.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from relay.core import calls
from relay.core.access import Right
from relay.core.methods import Caller
from relay.core.node import Node
from relay.core.welcome import standing
from relay.protocol.envelope import Call, Hello
from relay.web.auth import Authenticator, asking
from relay.web.events import API
from relay.web.replies import Json, answering, read_body


class CallDoor:
    """See the module."""

    def __init__(self, node: Node, auth: Authenticator, ping_interval_s: float) -> None:
        self._node = node
        self._auth = auth
        self._ping_interval_s = ping_interval_s

    def routes(self) -> list[BaseRoute]:
        return [
            Route(f"{API}/hello/", answering(self.hello), methods=["POST"]),
            Route(f"{API}/calls/{{method}}/", answering(self.call), methods=["POST"]),
        ]

    async def hello(self, request: Request) -> Response:
        identity = await asking(self._auth, self._node.shares, request, Right.READ)
        hello = await read_body(request, Hello, self._node.limits.text_bytes)
        if identity.principal.takes_part:
            self._node.presence.heartbeat(identity.site.id, alive=True)
        return Json(await standing(self._node, identity, hello, ping_interval_s=self._ping_interval_s))

    async def call(self, request: Request) -> Response:
        identity = await asking(self._auth, self._node.shares, request, None)
        params = await read_body(request, dict[str, Any], self._node.limits.text_bytes)
        caller = Caller(node=self._node, principal=identity.principal, site=identity.site)
        return Json({"result": await calls.perform(caller, Call(None, request.path_params["method"], params))})
