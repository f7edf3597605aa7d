"""Ports of the storage: users and sites, and what they sign in with. Parts of `relay.core.ports.Tx`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from relay.core.model import (
    Group,
    Holder,
    SigningKey,
    Site,
    SiteCertificate,
    Token,
    User,
)


class Users(Protocol):
    async def get(self, user_id: int) -> User | None: ...
    async def by_name(self, username: str) -> User | None: ...
    async def old_iterations(self) -> int:
        """Of the slowest password hash that is left of the old router's; 0 if none is."""

    async def page(self, *, limit: int, skip: int) -> tuple[int, list[User]]: ...
    async def create(
        self, *, username: str, email: str, password_hash: str, is_operator: bool, now_us: int
    ) -> User: ...
    async def set_password(self, user_id: int, password_hash: str) -> None: ...
    async def set_active(self, user_id: int, active: bool) -> None: ...
    async def update(self, user_id: int, *, username: str, email: str) -> User | None:
        """Raises `AlreadyThere` if the name is taken. None if there is no such user."""

    async def delete(self, user_id: int) -> None:
        """The user's sites go with it: delete them first, so that it is told."""


class Groups(Protocol):
    async def get(self, group_id: int) -> Group | None: ...
    async def page(self, *, limit: int, skip: int) -> tuple[int, list[Group]]: ...
    async def create(self, name: str) -> Group:
        """Raises `AlreadyThere` if the name is taken; so does `rename`."""

    async def rename(self, group_id: int, name: str) -> Group | None: ...
    async def delete(self, group_id: int) -> None: ...
    async def of_users(self, user_ids: Sequence[int]) -> dict[int, list[int]]:
        """User id → the ids of its groups."""

    async def set_of_user(self, user_id: int, group_ids: Sequence[int]) -> None: ...


class Tokens(Protocol):
    async def by_digest(self, digest: bytes) -> Token | None: ...
    async def holders(self, digests: Sequence[bytes]) -> dict[bytes, Holder]:
        """Of those that there are: revoked and expired ones, too."""

    async def create(self, token: Token, digest: bytes) -> None: ...
    async def revoke(self, token_id: str, now_us: int) -> bool: ...
    async def of_site(self, site_id: int | None) -> list[Token]: ...
    async def invalid_among(self, token_ids: Sequence[str], now_us: int) -> set[str]:
        """Those that are revoked, expired or gone."""


class SigningKeys(Protocol):
    """The public keys that sites sign in with."""

    async def get(self, key_id: str) -> SigningKey | None: ...
    async def create(self, key: SigningKey) -> None:
        """Raises `AlreadyThere` if the key is registered, for whichever site."""

    async def revoke(self, key_id: str, now_us: int) -> bool: ...
    async def of_site(self, site_id: int | None) -> list[SigningKey]: ...
    async def invalid_among(self, key_ids: Sequence[str]) -> set[str]:
        """Those that are revoked or gone."""

    async def use(self, key_id: str, jti: str, *, expires_us: int, now_us: int) -> bool:
        """Take note that what the key has signed under this `jti` is used. False if the key is no longer good.

        Raises:
            AlreadyThere: it has been used before.
        """

    async def purge(self, now_us: int) -> None:
        """Forget what has been used and is expired."""


class SiteCertificates(Protocol):
    """The TLS client certificates that sites are bound to, by their fingerprints."""

    async def add(self, certificate: SiteCertificate) -> None:
        """Raises `AlreadyThere` if the site is bound to it."""

    async def all(self) -> list[SiteCertificate]: ...
    async def of_sites(self, site_ids: Sequence[int]) -> dict[int, frozenset[str]]:
        """Site id → fingerprints; without those that are bound to none."""

    async def remove(self, sha256: str) -> list[int]:
        """Unbind it from all sites. Returns the ids of those that were bound to it."""


class Keys(Protocol):
    async def put(self, site_id: int, keys: Mapping[str, str]) -> None: ...
    async def of_sites(self, site_ids: Sequence[int]) -> dict[int, dict[str, str]]: ...


class Sites(Protocol):
    async def get(self, site_id: int) -> Site | None: ...
    async def by_uid(self, uid: str) -> Site | None: ...
    async def by_name(self, name: str) -> Site | None: ...
    async def many(self, site_ids: Sequence[int]) -> dict[int, Site]: ...
    async def ids_of_owner(self, user_id: int) -> list[int]: ...
    async def visible_to(self, user_id: int | None, *, limit: int, skip: int) -> tuple[int, list[Site]]:
        """The sites of a user and those that it meets in projects (None: all): how many, and one page."""

    async def visible(self, user_id: int, site_id: int) -> bool: ...
    async def create(
        self, *, uid: str, name: str, description: str, owner_id: int, connected: bool, now_us: int
    ) -> Site:
        """Raises `AlreadyThere` if the uid or the name is taken."""

    async def update(self, site_id: int, *, name: str, description: str, now_us: int) -> None: ...
    async def delete(self, site_id: int) -> None: ...
    async def record_presence(self, states: Mapping[int, tuple[bool, int]]) -> None:
        """Site id → (connected, seen_us), as presence knows it."""

    async def present(self) -> list[Site]:
        """The sites that were connected when presence last wrote it down."""

    async def unusable_among(self, site_ids: Sequence[int]) -> set[int]:
        """Those that are deleted, or whose user is disabled."""
