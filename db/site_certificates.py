"""The TLS client certificates that sites are bound to."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence

from db import records
from db.connection import Connection
from db.membership import among
from relay.core.model import SiteCertificate

_CERTIFICATE = "site_id, sha256, label, created_us"
ADD = f"INSERT INTO site_certificates ({_CERTIFICATE}) VALUES (:site_id, :sha256, :label, :created_us)"
ALL = f"SELECT {_CERTIFICATE} FROM site_certificates ORDER BY created_us, site_id, sha256"
OF_SITES = "SELECT site_id, sha256 FROM site_certificates WHERE site_id {among}"
REMOVE = "DELETE FROM site_certificates WHERE sha256 = :sha256 RETURNING site_id"


class SiteCertificates:
    """Serves `relay.core.account_ports.SiteCertificates`."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    async def add(self, certificate: SiteCertificate) -> None:
        values = {
            "site_id": certificate.site_id,
            "sha256": certificate.sha256,
            "label": certificate.label,
            "created_us": certificate.created_us,
        }
        await self._db.execute(ADD, values)

    async def all(self) -> list[SiteCertificate]:
        return [records.site_certificate(row) for row in await self._db.fetch_all(ALL)]

    async def of_sites(self, site_ids: Sequence[int]) -> dict[int, frozenset[str]]:
        if not site_ids:
            return {}
        sql = OF_SITES.format(among=among(self._db.dialect, "ids"))
        found: dict[int, set[str]] = defaultdict(set)
        for row in await self._db.fetch_all(sql, {"ids": json.dumps(list(site_ids))}):
            found[row["site_id"]].add(row["sha256"])
        return {site_id: frozenset(bound) for site_id, bound in found.items()}

    async def remove(self, sha256: str) -> list[int]:
        return [row["site_id"] for row in await self._db.fetch_all(REMOVE, {"sha256": sha256})]
