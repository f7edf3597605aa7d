"""What a site holds to be true of the others, whatever the relay says; kept in a file beside the key file.

    sites      the keys of each site, as first seen or as trusted by hand, or as the key before has signed for
    former     keys that were replaced by a signed rotation: good for what was on its way, for `FORMER_S`
    offered    keys that were refused, for `starfish-relay keys trust` to compare with what is read on the telephone
    projects   the coordinator of each project, as first seen
    seen       which events were shown, and where they stood in the journal

A SQLite file of mode 0600; several processes of one site may share it. It holds no secret, but who can write it
decides whom this site trusts.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Self

from relay.client.sealed.errors import BadIdentity, CoordinatorChanged, KeyChanged, Replayed, Untrusted
from relay.client.sealed.identity import PublicKeys

log = logging.getLogger(__name__)

FORMER_S = 30 * 86400.0
"""How long the signatures of a key are still taken after it was rotated."""
SEEN_S = 180 * 86400.0
"""What was sealed longer ago is not shown by itself, and what was shown twice as long ago is forgotten."""
BUSY_S = 5.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS own (one INTEGER PRIMARY KEY CHECK (one = 1), uid TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS sites (
    uid TEXT PRIMARY KEY, sign BLOB NOT NULL, seal TEXT NOT NULL, how TEXT NOT NULL, since TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS former (
    uid TEXT NOT NULL, sign BLOB NOT NULL, seal TEXT NOT NULL, until REAL NOT NULL, PRIMARY KEY (uid, sign));
CREATE TABLE IF NOT EXISTS offered (uid TEXT PRIMARY KEY, sign BLOB NOT NULL, seal TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS projects (id INTEGER PRIMARY KEY, coordinator TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS seen (
    project INTEGER NOT NULL, sender TEXT NOT NULL, id TEXT NOT NULL, epoch TEXT NOT NULL, position INTEGER,
    done_at REAL, seen_at REAL NOT NULL, PRIMARY KEY (project, sender, id)) WITHOUT ROWID;
PRAGMA user_version = 1;
"""

How = Literal["own", "first use", "by hand", "rotation"]
Sight = Literal["first", "unfinished", "done"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pinned:
    """A site's keys, as this site trusts them. `how` it came to: `own`, `first use`, `by hand`, `rotation`."""

    uid: str
    keys: PublicKeys
    how: How
    since: str
    offered: PublicKeys | None
    """Other keys that the relay has shown since, and that are refused."""


class Trust:
    """See the module.

    Args:
        path: the file; it is made if there is none. None keeps all in memory: then every start is a first use.
        first_use: a site that was never seen is trusted with the keys that the relay shows. False: only after
            `starfish-relay keys trust`.

    Raises:
        BadIdentity: the file is no trust file, or others can write it.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, *, first_use: bool = True) -> None:
        self._first_use = first_use
        if path is not None:
            _require_private(Path(path))
        try:
            self._db = sqlite3.connect(path or ":memory:", timeout=BUSY_S, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            if self._db.execute("PRAGMA user_version").fetchone()[0] > 1:
                raise BadIdentity(f"{path}: it was written by a later version")
            self._db.executescript(_SCHEMA)
            self._db.execute("DELETE FROM seen WHERE seen_at < ?", (time.time() - 2 * SEEN_S,))
        except sqlite3.Error as error:
            raise BadIdentity(f"{path}: expected a trust file: {error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()

    # --- this site itself

    def is_me(self, uid: str, chain: Sequence[PublicKeys]) -> None:
        """An identity is one site's: the relay cannot make it another one's. Its keys are as its own file says.

        Raises:
            BadIdentity: it was another site's before.
        """
        self._db.execute("INSERT OR IGNORE INTO own VALUES (1, ?)", (uid,))
        known = self.me
        if known != uid:
            raise BadIdentity(f"this identity is that of site {known}; the relay says that this is site {uid}")
        with self._transaction():
            self._retire(uid, chain[:-1])
            self._pin(uid, chain[-1], "own")

    @property
    def me(self) -> str | None:
        """This site's uid, if it was ever connected."""
        found = self._db.execute("SELECT uid FROM own").fetchone()
        return None if found is None else str(found[0])

    # --- the keys of others

    def sites(self) -> list[Pinned]:
        rows = self._db.execute("SELECT uid FROM sites ORDER BY uid").fetchall()
        return [found for (uid,) in rows if (found := self.site(uid)) is not None]

    def strangers(self) -> list[tuple[str, PublicKeys]]:
        """Sites that are not trusted yet, with the keys that the relay has shown."""
        rows = self._db.execute("SELECT uid, sign, seal FROM offered WHERE uid NOT IN (SELECT uid FROM sites)")
        return [(uid, PublicKeys(sign=sign, seal=seal)) for uid, sign, seal in rows]

    def site(self, uid: str) -> Pinned | None:
        row = self._db.execute("SELECT sign, seal, how, since FROM sites WHERE uid = ?", (uid,)).fetchone()
        if row is None:
            return None
        return Pinned(
            uid=uid, keys=PublicKeys(sign=row[0], seal=row[1]), how=row[2], since=row[3], offered=self.offered(uid)
        )

    def offered(self, uid: str) -> PublicKeys | None:
        """Keys that the relay has shown for a site, and that are refused until they are trusted by hand."""
        row = self._db.execute("SELECT sign, seal FROM offered WHERE uid = ?", (uid,)).fetchone()
        return None if row is None else PublicKeys(sign=row[0], seal=row[1])

    def signer(self, uid: str, key_id: str) -> PublicKeys | None:
        """The key by which a site has signed, if it is trusted: its own, or one that it has rotated lately."""
        rows = self._db.execute(
            "SELECT sign, seal FROM sites WHERE uid = ? "
            "UNION ALL SELECT sign, seal FROM former WHERE uid = ? AND until > ?",
            (uid, uid, time.time()),
        ).fetchall()
        known = (PublicKeys(sign=sign, seal=seal) for sign, seal in rows)
        return next((keys for keys in known if keys.id == key_id), None)

    def accept(self, uid: str, chain: Sequence[PublicKeys]) -> PublicKeys:
        """Take the keys that the relay shows for a site: the last of a chain in which each has signed for the next.

        Raises:
            KeyChanged: the key that is trusted has not signed for them.
            Untrusted: the site was never seen, and first use is not enough.
        """
        shown = chain[-1]
        with self._transaction():
            pinned = self.site(uid)
            if pinned is not None and pinned.keys == shown:
                return shown
            if pinned is None and self._first_use:
                self._retire(uid, chain[:-1])
                self._pin(uid, shown, "first use")
                log.warning("first use of the key of site %s: %s; compare it by telephone", uid, shown.fingerprint)
                return shown
            if pinned is not None and pinned.keys in chain:
                self._retire(uid, chain[chain.index(pinned.keys) : -1])
                self._pin(uid, shown, "rotation")
                log.warning("site %s has rotated its key: %s", uid, shown.fingerprint)
                return shown
            self._db.execute("INSERT OR REPLACE INTO offered VALUES (?, ?, ?)", (uid, shown.sign, shown.seal))
        if pinned is None:
            raise Untrusted(
                f"site {uid} is not trusted yet; the relay shows {shown.fingerprint}. Ask that site for its "
                f"fingerprint, by telephone, and then: starfish-relay keys trust {uid} FINGERPRINT"
            )
        raise KeyChanged(uid, pinned.keys.fingerprint, shown.fingerprint)

    def offer(self, uid: str, shown: PublicKeys) -> None:
        """Remember keys that the relay shows, without trusting them, unless the site has others that are trusted."""
        if self.site(uid) is None:
            self._db.execute("INSERT OR REPLACE INTO offered VALUES (?, ?, ?)", (uid, shown.sign, shown.seal))

    def trust(self, uid: str, fingerprint: str) -> Pinned:
        """A person has compared the fingerprint: those keys, and no former ones, are the site's.

        Raises:
            Untrusted: the relay has not shown keys with this fingerprint for the site.
        """
        given = "".join(fingerprint.split())
        with self._transaction():
            pinned = self.site(uid)
            held = None if pinned is None else pinned.keys
            known = [keys for keys in (self.offered(uid), held) if keys is not None]
            found = next((keys for keys in known if keys.fingerprint.replace(" ", "") == given), None)
            if found is None:
                shown = "; ".join(keys.fingerprint for keys in known) or "none"
                raise Untrusted(f"the relay has shown no such key for site {uid}; it has shown: {shown}")
            if held != found:
                self._db.execute("DELETE FROM former WHERE uid = ?", (uid,))
            self._pin(uid, found, "by hand")
        trusted = self.site(uid)
        assert trusted is not None
        return trusted

    def _pin(self, uid: str, keys: PublicKeys, how: How) -> None:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        self._db.execute("INSERT OR REPLACE INTO sites VALUES (?, ?, ?, ?, ?)", (uid, keys.sign, keys.seal, how, since))
        self._db.execute("DELETE FROM offered WHERE uid = ?", (uid,))

    def _retire(self, uid: str, old: Sequence[PublicKeys]) -> None:
        until = time.time() + FORMER_S
        rows = [(uid, keys.sign, keys.seal, until) for keys in old]
        self._db.executemany("INSERT OR IGNORE INTO former VALUES (?, ?, ?, ?)", rows)

    # --- who coordinates

    def coordinator(self, project: int) -> str | None:
        found = self._db.execute("SELECT coordinator FROM projects WHERE id = ?", (project,)).fetchone()
        return None if found is None else str(found[0])

    def accept_coordinator(self, project: int, uid: str) -> None:
        """
        Raises:
            CoordinatorChanged: it was another site before.
        """
        self._db.execute("INSERT OR IGNORE INTO projects VALUES (?, ?)", (project, uid))
        pinned = self.coordinator(project)
        if pinned is not None and pinned != uid:
            raise CoordinatorChanged(project, pinned, uid)

    def trust_coordinator(self, project: int, uid: str) -> None:
        """A person has said so."""
        self._db.execute("INSERT OR REPLACE INTO projects VALUES (?, ?)", (project, uid))

    # --- what was shown

    def see(self, project: int, sender: str, id_: str, *, epoch: str, offset: int | None, since: float) -> Sight:
        """An event is about to be shown: for the first time, or again, since it was not processed; or it was before
        `since`, when this process began (another process of this site may be at it now, and that does not count).

        Raises:
            Replayed: it was shown before, from another place of the same journal.
        """
        key = (project, sender, id_)
        fresh = self._db.execute(
            "INSERT OR IGNORE INTO seen (project, sender, id, epoch, position, seen_at) VALUES (?, ?, ?, ?, ?, ?)",
            (*key, epoch, offset, time.time()),
        )
        if fresh.rowcount:
            return "first"
        self.require_place(project, sender, id_, epoch=epoch, offset=offset)
        row = self._db.execute("SELECT done_at FROM seen WHERE project = ? AND sender = ? AND id = ?", key).fetchone()
        return "done" if row[0] is not None and row[0] < since else "unfinished"

    def require_place(self, project: int, sender: str, id_: str, *, epoch: str, offset: int | None) -> None:
        """
        Raises:
            Replayed: the event was shown before, from another place of the same journal.
        """
        found = self._db.execute(
            "SELECT epoch, position FROM seen WHERE project = ? AND sender = ? AND id = ?", (project, sender, id_)
        ).fetchone()
        if found is not None and found[0] == epoch and found[1] != offset:
            raise Replayed(f"event {id_} of site {sender} stood at {_place(found[1])}, and comes at {_place(offset)}")

    def processed(self, project: int, sender: str, id_: str) -> None:
        self._db.execute(
            "UPDATE seen SET done_at = ? WHERE project = ? AND sender = ? AND id = ? AND done_at IS NULL",
            (time.time(), project, sender, id_),
        )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")


def beside(path: str | os.PathLike[str]) -> Path:
    """Where the trust of an identity is kept."""
    path = Path(path)
    return path.with_name(f"{path.name}.trust")


def _require_private(path: Path) -> None:
    """Make the file if there is none; refuse one that others can write."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        mode = path.stat().st_mode
    except OSError as error:
        raise BadIdentity(f"{path}: {error.strerror}") from None
    if os.name == "posix" and mode & 0o077:
        raise BadIdentity(f"{path}: its mode is {mode & 0o777:04o}; expected 0600: chmod 600 {path}")


def _place(offset: int | None) -> str:
    return "no offset" if offset is None else f"offset {offset}"
