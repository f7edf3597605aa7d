"""The public keys that sites sign in with, and the assertions that have been used."""

from __future__ import annotations

import json
from collections.abc import Sequence

from db import records
from db.connection import Connection
from db.membership import among
from relay.core.model import SigningKey

_KEY = "id, site_id, label, public_key, created_us, used_us, revoked_us"
KEY = f"SELECT {_KEY} FROM signing_keys WHERE id = :id"
CREATE = f"""INSERT INTO signing_keys ({_KEY})
    VALUES (:id, :site_id, :label, :public_key, :created_us, NULL, NULL)"""
REVOKE = "UPDATE signing_keys SET revoked_us = :now_us WHERE id = :id AND revoked_us IS NULL RETURNING id"
KEYS = f"SELECT {_KEY} FROM signing_keys ORDER BY created_us, id"
KEYS_OF_SITE = f"SELECT {_KEY} FROM signing_keys WHERE site_id = :site_id ORDER BY created_us, id"
VALID_KEYS = "SELECT id FROM signing_keys WHERE id {among} AND revoked_us IS NULL"
USE = "UPDATE signing_keys SET used_us = :now_us WHERE id = :id AND revoked_us IS NULL RETURNING id"
REMEMBER = "INSERT INTO used_assertions (key_id, jti, expires_us) VALUES (:id, :jti, :expires_us)"
PURGE = "DELETE FROM used_assertions WHERE expires_us <= :now_us"


class SigningKeys:
    """Serves `relay.core.account_ports.SigningKeys`."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    async def get(self, key_id: str) -> SigningKey | None:
        row = await self._db.fetch_one(KEY, {"id": key_id})
        return None if row is None else records.signing_key(row)

    async def create(self, key: SigningKey) -> None:
        values = {
            "id": key.id,
            "site_id": key.site_id,
            "label": key.label,
            "public_key": key.public_key,
            "created_us": key.created_us,
        }
        await self._db.execute(CREATE, values)

    async def revoke(self, key_id: str, now_us: int) -> bool:
        return await self._db.fetch_one(REVOKE, {"id": key_id, "now_us": now_us}) is not None

    async def of_site(self, site_id: int | None) -> list[SigningKey]:
        if site_id is None:
            rows = await self._db.fetch_all(KEYS)
        else:
            rows = await self._db.fetch_all(KEYS_OF_SITE, {"site_id": site_id})
        return [records.signing_key(row) for row in rows]

    async def invalid_among(self, key_ids: Sequence[str]) -> set[str]:
        sql = VALID_KEYS.format(among=among(self._db.dialect, "ids", "TEXT"))
        rows = await self._db.fetch_all(sql, {"ids": json.dumps(list(key_ids))})
        return set(key_ids) - {row["id"] for row in rows}

    async def use(self, key_id: str, jti: str, *, expires_us: int, now_us: int) -> bool:
        if await self._db.fetch_one(USE, {"id": key_id, "now_us": now_us}) is None:
            return False
        await self._db.execute(REMEMBER, {"id": key_id, "jti": jti, "expires_us": expires_us})
        return True

    async def purge(self, now_us: int) -> None:
        await self._db.execute(PURGE, {"now_us": now_us})
