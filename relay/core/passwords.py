"""Passwords: hashed with argon2id, verified also from the hashes of the old router, which are Django's PBKDF2.

A hash takes about 20 ms and 19 MiB on purpose, so it runs on a thread of its own, and only few at once: a crowd that
logs in waits, and the event loop does not.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from concurrent.futures import ThreadPoolExecutor

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

MIN_LENGTH = 8
MAX_BYTES = 1024

_hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
_NOBODYS = _hasher.hash("the password of nobody")


class Passwords:
    """Hashes and verifies, off the event loop. `close` when the server ends."""

    def __init__(self, threads: int = 2) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="password")

    async def hash(self, password: str) -> str:
        return await asyncio.get_running_loop().run_in_executor(self._threads, hash_now, password)

    async def verify(self, password: str, hashed: str | None) -> bool:
        """Whether the password is the one that was hashed. None, for an unknown user, costs as much and is False."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, verify_now, password, hashed)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def hash_now(password: str) -> str:
    return _hasher.hash(password)


def verify_now(password: str, hashed: str | None) -> bool:
    if len(password.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        return False
    if hashed is not None and hashed.startswith("pbkdf2_sha256$"):
        return _verify_django(password, hashed)
    try:
        _hasher.verify(hashed or _NOBODYS, password)
    except (VerificationError, InvalidHashError, UnicodeEncodeError):
        return False
    return hashed is not None


def needs_rehash(hashed: str) -> bool:
    """Whether a hash that has just been verified should be made anew: it is an old router's, or of older parameters."""
    return not hashed.startswith("$argon2") or _hasher.check_needs_rehash(hashed)


def _verify_django(password: str, hashed: str) -> bool:
    """`pbkdf2_sha256$<iterations>$<salt>$<base64 of the digest>` (django.contrib.auth.hashers)."""
    try:
        _, iterations, salt, encoded = hashed.split("$")
        digest = hashlib.pbkdf2_hmac("sha256", password.encode(), salt.encode(), int(iterations))
    except (ValueError, OverflowError):
        return False
    return hmac.compare_digest(base64.b64encode(digest).decode("ascii"), encoded)
