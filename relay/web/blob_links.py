"""Links: URLs that let a tool download one blob for a short while without sending headers.

    …/blobs/<id>?site=<uid>&expires=<seconds since 1970>&signature=<HMAC-SHA-256>

A link has the rights that its site has when it is used, and only to read that one blob. The key is a file in the data
directory, so links outlive a restart.
"""

from __future__ import annotations

import base64
import hmac
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlencode

from relay.core import site_certificates
from relay.core.access import Principal
from relay.core.model import Site
from relay.core.node import Node
from relay.core.session import Identity
from relay.protocol.errors import ErrorCode, ReplyError

MAX_S = 3600
DEFAULT_S = 300
_KEY_BYTES = 32


class Links:
    """See the module. The key is made when the first link is."""

    def __init__(self, node: Node, key_path: Path) -> None:
        self._node = node
        self._key_path = key_path
        self._key = b""

    def query(self, blob_id: str, site: Site, expires_s: int) -> str:
        """The query of a link's URL."""
        signature = self._sign(blob_id, site.uid, str(expires_s))
        return urlencode({"site": site.uid, "expires": expires_s, "signature": signature})

    async def site(self, blob_id: str, query: Mapping[str, str], certificate: str | None) -> Identity:
        """The site whose link this is, on a connection that has shown this certificate.

        Raises:
            ReplyError: `unauthenticated`, it is no link of ours, or its time is over; `forbidden`, for the certificate.
        """
        uid, expires = query.get("site", ""), query.get("expires", "")
        expected = self._sign(blob_id, uid, expires)
        if not hmac.compare_digest(expected.encode(), query.get("signature", "").encode("utf-8", "replace")):
            raise _refused("the link is not one of this relay's")
        if int(expires) * 1_000_000 <= self._node.now_us():
            raise _refused("the link has expired; ask for a new one")
        async with self._node.store.snapshot() as tx:
            site = await tx.sites.by_uid(uid)
            gone = site is None or await tx.sites.unusable_among([site.id])
            bound = {} if site is None else await tx.site_certificates.of_sites([site.id])
        if site is None or gone:
            raise _refused("the link's site is gone")
        site_certificates.require(bound.get(site.id, site_certificates.NONE), certificate)
        principal = Principal(user_id=site.owner_id, sites=frozenset({site.id}), name=site.name, site_uid=site.uid)
        return Identity(site=site, principal=principal, certificate=certificate)

    def _sign(self, blob_id: str, uid: str, expires: str) -> str:
        if not self._key:
            self._key = _key_in(self._key_path)
        text = f"{blob_id}\0{uid}\0{expires}".encode("utf-8", "replace")
        return base64.urlsafe_b64encode(hmac.digest(self._key, text, "sha256")).decode().rstrip("=")


def _refused(message: str) -> ReplyError:
    return ReplyError(ErrorCode.UNAUTHENTICATED, message)


def _key_in(path: Path) -> bytes:
    """The key in a file; one that is made first, for nobody else to read, if there is none."""
    while not path.exists():
        beside = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    return path.read_bytes()
