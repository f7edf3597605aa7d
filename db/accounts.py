"""Users, tokens, sites and their public keys."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from db import records
from db.connection import Connection
from db.membership import MINE, among
from relay.core.model import Group, Holder, Site, Token, User
from relay.core.passwords import iterations_of

_USER = "id, username, email, password_hash, is_operator, is_active, created_us"
USER = f"SELECT {_USER} FROM users WHERE id = :id"
USER_BY_NAME = f"SELECT {_USER} FROM users WHERE username = :username"
USERS = f"SELECT {_USER} FROM users ORDER BY id LIMIT :limit OFFSET :skip"
OLD_HASHES = """SELECT DISTINCT substr(password_hash, 1, 23) AS beginning FROM users
    WHERE substr(password_hash, 1, 14) = 'pbkdf2_sha256$'"""
COUNT_USERS = "SELECT COUNT(*) AS n FROM users"
CREATE_USER = f"""INSERT INTO users (username, email, password_hash, is_operator, is_active, created_us)
    VALUES (:username, :email, :password_hash, :is_operator, :is_active, :now_us) RETURNING {_USER}"""
SET_PASSWORD = "UPDATE users SET password_hash = :password_hash WHERE id = :id"
SET_ACTIVE = "UPDATE users SET is_active = :active WHERE id = :id"
UPDATE_USER = f"UPDATE users SET username = :username, email = :email WHERE id = :id RETURNING {_USER}"
DELETE_USER = "DELETE FROM users WHERE id = :id"

GROUP = "SELECT id, name FROM groups WHERE id = :id"
GROUPS = "SELECT id, name FROM groups ORDER BY id LIMIT :limit OFFSET :skip"
COUNT_GROUPS = "SELECT COUNT(*) AS n FROM groups"
GROUPS_OF_USERS = """SELECT user_id, group_id FROM user_groups WHERE user_id {among} ORDER BY user_id, group_id"""
CREATE_GROUP = "INSERT INTO groups (name) VALUES (:name) RETURNING id, name"
RENAME_GROUP = "UPDATE groups SET name = :name WHERE id = :id RETURNING id, name"
DELETE_GROUP = "DELETE FROM groups WHERE id = :id"
LEAVE_GROUPS = "DELETE FROM user_groups WHERE user_id = :user_id"
JOIN_GROUP = "INSERT INTO user_groups (user_id, group_id) VALUES (:user_id, :group_id)"

_TOKEN = "id, site_id, label, created_us, expires_us, revoked_us, scopes"
TOKEN_BY_DIGEST = f"SELECT {_TOKEN} FROM tokens WHERE digest = :digest"
CREATE_TOKEN = f"""INSERT INTO tokens ({_TOKEN}, digest)
    VALUES (:id, :site_id, :label, :created_us, :expires_us, NULL, :scopes, :digest)"""
REVOKE_TOKEN = "UPDATE tokens SET revoked_us = :now_us WHERE id = :id AND revoked_us IS NULL RETURNING id"
TOKENS = f"SELECT {_TOKEN} FROM tokens ORDER BY created_us, id"
TOKENS_OF_SITE = f"SELECT {_TOKEN} FROM tokens WHERE site_id = :site_id ORDER BY created_us, id"
VALID_TOKENS = """SELECT id FROM tokens WHERE id {among} AND revoked_us IS NULL
    AND (expires_us IS NULL OR expires_us > :now_us)"""

_SITE = "id, uid, name, description, owner_id, connected, seen_us, created_us, updated_us"
SITE = f"SELECT {_SITE} FROM sites WHERE id = :id"
SITE_BY_UID = f"SELECT {_SITE} FROM sites WHERE uid = :uid"
SITE_BY_NAME = f"SELECT {_SITE} FROM sites WHERE name = :name"
SITES_AMONG = f"SELECT {_SITE} FROM sites WHERE id {{among}}"
SITES_PRESENT = f"SELECT {_SITE} FROM sites WHERE connected"
IDS_OF_OWNER = "SELECT id FROM sites WHERE owner_id = :user_id"
ALL_SITES = f"SELECT {_SITE} FROM sites ORDER BY id LIMIT :limit OFFSET :skip"
COUNT_SITES = "SELECT COUNT(*) AS n FROM sites"
_VISIBLE = """FROM sites WHERE (owner_id = :user_id OR id IN (
    SELECT p.site_id FROM participants p JOIN mine ON mine.project_id = p.project_id
    WHERE mine.leads = 1 OR p.role = 'CO'))"""
VISIBLE_SITES = f"{MINE} SELECT {_SITE} {_VISIBLE} ORDER BY id LIMIT :limit OFFSET :skip"
COUNT_VISIBLE_SITES = f"{MINE} SELECT COUNT(*) AS n {_VISIBLE}"
IS_VISIBLE_SITE = f"{MINE} SELECT id {_VISIBLE} AND id = :site_id"
CREATE_SITE = f"""INSERT INTO sites (uid, name, description, owner_id, connected, seen_us, created_us, updated_us)
    VALUES (:uid, :name, :description, :owner_id, :connected, :seen_us, :now_us, :now_us) RETURNING {_SITE}"""
UPDATE_SITE = """UPDATE sites SET name = :name, description = :description, updated_us = :now_us WHERE id = :id"""
DELETE_SITE = "DELETE FROM sites WHERE id = :id"
RECORD_PRESENCE = """UPDATE sites SET updated_us = CASE WHEN connected = :connected THEN updated_us ELSE :now_us END,
    connected = :connected, seen_us = :seen_us WHERE id = :id"""
USABLE_SITES = """SELECT s.id FROM sites s JOIN users u ON u.id = s.owner_id WHERE s.id {among} AND u.is_active"""

PUT_KEY = """INSERT INTO site_keys (site_id, name, value) VALUES (:site_id, :name, :value)
    ON CONFLICT (site_id, name) DO UPDATE SET value = excluded.value"""

HOLDERS = """SELECT t.digest, t.id AS token_id, t.site_id, t.label, t.created_us AS token_created_us, t.expires_us,
    t.revoked_us, t.scopes, u.is_active,
    s.id, s.uid, s.name, s.description, s.owner_id, s.connected, s.seen_us, s.created_us,
    s.updated_us FROM tokens t JOIN sites s ON s.id = t.site_id JOIN users u ON u.id = s.owner_id WHERE t.digest """
KEYS_OF_SITES = "SELECT site_id, name, value FROM site_keys WHERE site_id {among} ORDER BY site_id, name"


class Users:
    """Serves `relay.core.account_ports.Users`."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    async def get(self, user_id: int) -> User | None:
        row = await self._db.fetch_one(USER, {"id": user_id})
        return None if row is None else records.user(row)

    async def by_name(self, username: str) -> User | None:
        row = await self._db.fetch_one(USER_BY_NAME, {"username": username})
        return None if row is None else records.user(row)

    async def page(self, *, limit: int, skip: int) -> tuple[int, list[User]]:
        total = await self._db.fetch_one(COUNT_USERS)
        rows = await self._db.fetch_all(USERS, {"limit": limit, "skip": skip})
        return (total["n"] if total else 0), [records.user(row) for row in rows]

    async def old_iterations(self) -> int:
        rows = await self._db.fetch_all(OLD_HASHES)
        return max((iterations_of(row["beginning"]) for row in rows), default=0)

    async def create(self, *, username: str, email: str, password_hash: str, is_operator: bool, now_us: int) -> User:
        row = await self._db.fetch_one(
            CREATE_USER,
            {
                "username": username,
                "email": email,
                "password_hash": password_hash,
                "is_operator": is_operator,
                "is_active": True,
                "now_us": now_us,
            },
        )
        assert row is not None
        return records.user(row)

    async def set_password(self, user_id: int, password_hash: str) -> None:
        await self._db.execute(SET_PASSWORD, {"id": user_id, "password_hash": password_hash})

    async def set_active(self, user_id: int, active: bool) -> None:
        await self._db.execute(SET_ACTIVE, {"id": user_id, "active": active})

    async def update(self, user_id: int, *, username: str, email: str) -> User | None:
        row = await self._db.fetch_one(UPDATE_USER, {"id": user_id, "username": username, "email": email})
        return None if row is None else records.user(row)

    async def delete(self, user_id: int) -> None:
        await self._db.execute(DELETE_USER, {"id": user_id})


class Groups:
    """Serves `relay.core.account_ports.Groups`."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    async def get(self, group_id: int) -> Group | None:
        row = await self._db.fetch_one(GROUP, {"id": group_id})
        return None if row is None else records.group(row)

    async def page(self, *, limit: int, skip: int) -> tuple[int, list[Group]]:
        total = await self._db.fetch_one(COUNT_GROUPS)
        rows = await self._db.fetch_all(GROUPS, {"limit": limit, "skip": skip})
        return (total["n"] if total else 0), [records.group(row) for row in rows]

    async def create(self, name: str) -> Group:
        row = await self._db.fetch_one(CREATE_GROUP, {"name": name})
        assert row is not None
        return records.group(row)

    async def rename(self, group_id: int, name: str) -> Group | None:
        row = await self._db.fetch_one(RENAME_GROUP, {"id": group_id, "name": name})
        return None if row is None else records.group(row)

    async def delete(self, group_id: int) -> None:
        await self._db.execute(DELETE_GROUP, {"id": group_id})

    async def of_users(self, user_ids: Sequence[int]) -> dict[int, list[int]]:
        sql = GROUPS_OF_USERS.format(among=among(self._db.dialect, "ids"))
        rows = await self._db.fetch_all(sql, {"ids": json.dumps(list(user_ids))})
        groups: dict[int, list[int]] = {user_id: [] for user_id in user_ids}
        for row in rows:
            groups[row["user_id"]].append(row["group_id"])
        return groups

    async def set_of_user(self, user_id: int, group_ids: Sequence[int]) -> None:
        await self._db.execute(LEAVE_GROUPS, {"user_id": user_id})
        await self._db.execute_many(
            JOIN_GROUP, [{"user_id": user_id, "group_id": group_id} for group_id in sorted(set(group_ids))]
        )


class Tokens:
    """Serves `relay.core.account_ports.Tokens`."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    async def by_digest(self, digest: bytes) -> Token | None:
        row = await self._db.fetch_one(TOKEN_BY_DIGEST, {"digest": digest})
        return None if row is None else records.token(row)

    async def holders(self, digests: Sequence[bytes]) -> dict[bytes, Holder]:
        if self._db.dialect == "sqlite":
            marks = ", ".join("?" * len(digests))
            rows = await self._db.fetch_positional(f"{HOLDERS} IN ({marks})", *digests)
        else:
            rows = await self._db.fetch_positional(f"{HOLDERS} = ANY($1::bytea[])", list(digests))
        return {bytes(row["digest"]): records.holder(row) for row in rows}

    async def create(self, token: Token, digest: bytes) -> None:
        await self._db.execute(
            CREATE_TOKEN,
            {
                "id": token.id,
                "site_id": token.site_id,
                "label": token.label,
                "created_us": token.created_us,
                "expires_us": token.expires_us,
                "scopes": ",".join(token.scopes),
                "digest": digest,
            },
        )

    async def revoke(self, token_id: str, now_us: int) -> bool:
        return await self._db.fetch_one(REVOKE_TOKEN, {"id": token_id, "now_us": now_us}) is not None

    async def of_site(self, site_id: int | None) -> list[Token]:
        if site_id is None:
            rows = await self._db.fetch_all(TOKENS)
        else:
            rows = await self._db.fetch_all(TOKENS_OF_SITE, {"site_id": site_id})
        return [records.token(row) for row in rows]

    async def invalid_among(self, token_ids: Sequence[str], now_us: int) -> set[str]:
        sql = VALID_TOKENS.format(among=among(self._db.dialect, "ids", "TEXT"))
        rows = await self._db.fetch_all(sql, {"ids": json.dumps(list(token_ids)), "now_us": now_us})
        return set(token_ids) - {row["id"] for row in rows}


class Sites:
    """Serves `relay.core.account_ports.Sites`."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    async def _one(self, sql: str, **values: object) -> Site | None:
        row = await self._db.fetch_one(sql, values)
        return None if row is None else records.site(row)

    async def get(self, site_id: int) -> Site | None:
        return await self._one(SITE, id=site_id)

    async def by_uid(self, uid: str) -> Site | None:
        return await self._one(SITE_BY_UID, uid=uid)

    async def by_name(self, name: str) -> Site | None:
        return await self._one(SITE_BY_NAME, name=name)

    async def many(self, site_ids: Sequence[int]) -> dict[int, Site]:
        sql = SITES_AMONG.format(among=among(self._db.dialect, "ids"))
        rows = await self._db.fetch_all(sql, {"ids": json.dumps(list(site_ids))})
        return {row["id"]: records.site(row) for row in rows}

    async def ids_of_owner(self, user_id: int) -> list[int]:
        rows = await self._db.fetch_all(IDS_OF_OWNER, {"user_id": user_id})
        return [row["id"] for row in rows]

    async def visible_to(self, user_id: int | None, *, limit: int, skip: int) -> tuple[int, list[Site]]:
        page = {"limit": limit, "skip": skip}
        if user_id is None:
            total = await self._db.fetch_one(COUNT_SITES)
            rows = await self._db.fetch_all(ALL_SITES, page)
        else:
            total = await self._db.fetch_one(COUNT_VISIBLE_SITES, {"user_id": user_id})
            rows = await self._db.fetch_all(VISIBLE_SITES, page | {"user_id": user_id})
        return (total["n"] if total else 0), [records.site(row) for row in rows]

    async def visible(self, user_id: int, site_id: int) -> bool:
        values = {"user_id": user_id, "site_id": site_id}
        return await self._db.fetch_one(IS_VISIBLE_SITE, values) is not None

    async def create(
        self, *, uid: str, name: str, description: str, owner_id: int, connected: bool, now_us: int
    ) -> Site:
        site = await self._one(
            CREATE_SITE,
            uid=uid,
            name=name,
            description=description,
            owner_id=owner_id,
            connected=connected,
            seen_us=now_us,
            now_us=now_us,
        )
        assert site is not None
        return site

    async def update(self, site_id: int, *, name: str, description: str, now_us: int) -> None:
        values = {"id": site_id, "name": name, "description": description, "now_us": now_us}
        await self._db.execute(UPDATE_SITE, values)

    async def delete(self, site_id: int) -> None:
        await self._db.execute(DELETE_SITE, {"id": site_id})

    async def record_presence(self, states: Mapping[int, tuple[bool, int]]) -> None:
        await self._db.execute_many(
            RECORD_PRESENCE,
            [
                {"id": site_id, "connected": connected, "seen_us": seen_us, "now_us": seen_us}
                for site_id, (connected, seen_us) in sorted(states.items())
            ],
        )

    async def present(self) -> list[Site]:
        return [records.site(row) for row in await self._db.fetch_all(SITES_PRESENT)]

    async def unusable_among(self, site_ids: Sequence[int]) -> set[int]:
        sql = USABLE_SITES.format(among=among(self._db.dialect, "ids"))
        rows = await self._db.fetch_all(sql, {"ids": json.dumps(list(site_ids))})
        return set(site_ids) - {row["id"] for row in rows}


class Keys:
    """Serves `relay.core.account_ports.Keys`."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    async def put(self, site_id: int, keys: Mapping[str, str]) -> None:
        await self._db.execute_many(
            PUT_KEY, [{"site_id": site_id, "name": name, "value": value} for name, value in sorted(keys.items())]
        )

    async def of_sites(self, site_ids: Sequence[int]) -> dict[int, dict[str, str]]:
        sql = KEYS_OF_SITES.format(among=among(self._db.dialect, "ids"))
        rows = await self._db.fetch_all(sql, {"ids": json.dumps(list(site_ids))})
        keys: dict[int, dict[str, str]] = {site_id: {} for site_id in site_ids}
        for row in rows:
            keys[row["site_id"]][row["name"]] = row["value"]
        return keys
