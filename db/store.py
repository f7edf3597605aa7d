"""`Store`: the door through which the relay uses the database. It serves the ports of `relay.core.ports`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cached_property

from db.accounts import Groups, Keys, Sites, Tokens, Users
from db.admission import Admission, Invitations
from db.audit import Audit
from db.blobs import Blobs
from db.connect import Database
from db.connection import Connection
from db.cursors import Cursors, Progress
from db.files import Files
from db.journal import Journal, append_at_once, append_counting_up
from db.overview import Overviews
from db.policies import Policies
from db.projects import Participants, Projects
from db.retention import Retention
from db.runs import Runs
from db.signing_keys import SigningKeys
from db.site_certificates import SiteCertificates
from relay.core.model import Draft
from relay.core.ports import StorageLoad
from relay.protocol.position import JournalBounds


class Tx:
    """One transaction. Its parts are made when they are asked for, and share its connection."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    @cached_property
    def journal(self) -> Journal:
        return Journal(self._db)

    @cached_property
    def cursors(self) -> Cursors:
        return Cursors(self._db)

    @cached_property
    def retention(self) -> Retention:
        return Retention(self._db)

    @cached_property
    def users(self) -> Users:
        return Users(self._db)

    @cached_property
    def tokens(self) -> Tokens:
        return Tokens(self._db)

    @cached_property
    def signing_keys(self) -> SigningKeys:
        return SigningKeys(self._db)

    @cached_property
    def site_certificates(self) -> SiteCertificates:
        return SiteCertificates(self._db)

    @cached_property
    def sites(self) -> Sites:
        return Sites(self._db)

    @cached_property
    def projects(self) -> Projects:
        return Projects(self._db)

    @cached_property
    def participants(self) -> Participants:
        return Participants(self._db)

    @cached_property
    def invitations(self) -> Invitations:
        return Invitations(self._db)

    @cached_property
    def admission(self) -> Admission:
        return Admission(self._db)

    @cached_property
    def runs(self) -> Runs:
        return Runs(self._db)

    @cached_property
    def policies(self) -> Policies:
        return Policies(self._db)

    @cached_property
    def progress(self) -> Progress:
        return Progress(self._db)

    @cached_property
    def keys(self) -> Keys:
        return Keys(self._db)

    @cached_property
    def files(self) -> Files:
        return Files(self._db)

    @cached_property
    def blobs(self) -> Blobs:
        return Blobs(self._db)

    @cached_property
    def groups(self) -> Groups:
        return Groups(self._db)

    @cached_property
    def audit(self) -> Audit:
        return Audit(self._db)

    @cached_property
    def overviews(self) -> Overviews:
        return Overviews(self._db)


class Store:
    """Serves `relay.core.ports.Store`."""

    def __init__(self, database: Database) -> None:
        self.database = database

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Tx]:
        async with self.database.transaction() as connection:
            yield Tx(connection)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Tx]:
        async with self.database.snapshot() as connection:
            yield Tx(connection)

    @property
    def load(self) -> StorageLoad:
        return self.database.load

    async def check(self) -> None:
        async with self.database.transaction() as connection:
            await connection.fetch_one("SELECT 1 AS one")

    async def append_fast(self, drafts: Mapping[int, Sequence[Draft]], now_us: int) -> dict[int, JournalBounds]:
        if self.database.dialect == "sqlite":
            return await self.database.transact(lambda raw: append_counting_up(raw, drafts, now_us))
        async with self.database.autocommit() as connection:
            return await append_at_once(connection, drafts, now_us)
