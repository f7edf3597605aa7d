"""The port for traces: what is told of an event on its way, from its publisher to each site that acknowledges it.

    publish ─▶ commit ─▶ deliver (a site) ─▶ ack (the site)

`Node.tracer` is None unless the relay is to trace (`relay.tracing`): whoever tells looks at that, and does no more.
"""

from __future__ import annotations

from typing import Protocol

from relay.core.model import Appended, Draft
from relay.protocol.errors import ReplyError


class Tracer(Protocol):
    """None of these raises, waits, or keeps a payload."""

    def published(self, project_id: int, draft: Draft, parent: bytes | None) -> None:
        """A draft is offered to the journal. `parent`: the publisher's own trace (W3C `traceparent`), as it came."""

    def answered(self, project_id: int, draft: Draft, outcome: Appended | ReplyError) -> None:
        """Its publisher is told what became of it."""

    def delivered(self, project_id: int, offset: int, site_id: int, site_uid: str) -> None:
        """It has been handed to a site's connection."""

    def acknowledged(self, project_id: int, site_id: int, offset: int) -> None:
        """A site has processed everything up to this offset."""
