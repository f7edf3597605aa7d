"""Passwords: hashed with argon2id, verified also from the hashes of the old router, which are Django's PBKDF2.

A hash takes about 20 ms and 19 MiB on purpose, so it runs on a thread of its own, and only few at once: a crowd that
logs in waits, and the event loop does not.

Every password that is refused costs the same: one argon2id, and as many iterations of PBKDF2 as the slowest of the old
router's hashes that are left. So the time tells neither whether there is such a user, nor whether it is disabled or has
logged in since the old router. Once no old hash is left, only argon2id is paid.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError

MIN_LENGTH = 8
MAX_BYTES = 1024
MAX_ITERATIONS = 10_000_000
"""Of PBKDF2. A hash that says it has more is none."""

_OLD = "pbkdf2_sha256$"
_hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
_NOBODYS = _hasher.hash("the password of nobody")


class Passwords:
    """Hashes and verifies, off the event loop. `close` when the server ends.

    Attributes:
        old_iterations: of the slowest old hash that is known of. To be set from the storage; higher ones are noticed.
    """

    def __init__(self, threads: int = 2) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="password")
        self.old_iterations = 0

    async def hash(self, password: str) -> str:
        return await asyncio.get_running_loop().run_in_executor(self._threads, hash_now, password)

    async def verify(self, password: str, hashed: str | None, *, is_active: bool = True) -> bool:
        """Whether the password is the one that was hashed, and of an active user.

        Args:
            hashed: None for an unknown user: it costs as much, and is False.
        """
        self.old_iterations = max(self.old_iterations, iterations_of(hashed or ""))
        check = partial(verify_now, password, hashed, is_active=is_active, old_iterations=self.old_iterations)
        return await asyncio.get_running_loop().run_in_executor(self._threads, check)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def hash_now(password: str) -> str:
    return _hasher.hash(password)


def verify_now(password: str, hashed: str | None, *, is_active: bool = True, old_iterations: int = 0) -> bool:
    if len(password.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        return False
    iterations = iterations_of(hashed or "")
    check = _is_django if iterations else _is_argon2
    good = check(password, hashed or "")
    if good and is_active:
        return True
    if iterations:
        _is_argon2(password, _NOBODYS)
    if old_iterations > iterations:
        _pbkdf2(password, "nobody", old_iterations - iterations)
    return False


def needs_rehash(hashed: str) -> bool:
    """Whether a hash that has just been verified should be made anew: it is an old router's, or of older parameters."""
    return not hashed.startswith("$argon2") or _hasher.check_needs_rehash(hashed)


def iterations_of(hashed: str) -> int:
    """Of a hash of the old router's; 0 if it is none. Its beginning is enough."""
    number = hashed.removeprefix(_OLD).partition("$")[0]
    if not hashed.startswith(_OLD) or not (number.isascii() and number.isdigit() and len(number) <= 8):
        return 0
    return int(number) if int(number) <= MAX_ITERATIONS else 0


def _is_argon2(password: str, hashed: str) -> bool:
    try:
        return _argon2(password, hashed)
    except (
        InvalidHashError,
        VerificationError,
    ):  # such as Django's "!": no password is good, and that is not to be quick either
        _argon2(password, _NOBODYS)
        return False


def _argon2(password: str, hashed: str) -> bool:
    try:
        return _hasher.verify(hashed, password)
    except (VerifyMismatchError, UnicodeEncodeError):
        return False


def _is_django(password: str, hashed: str) -> bool:
    """`pbkdf2_sha256$<iterations>$<salt>$<base64 of the digest>` (django.contrib.auth.hashers)."""
    salt, _, encoded = hashed.removeprefix(_OLD).partition("$")[2].partition("$")
    digest = _pbkdf2(password, salt, iterations_of(hashed))
    return hmac.compare_digest(base64.b64encode(digest), encoded.encode("utf-8", "replace"))


def _pbkdf2(password: str, salt: str, iterations: int) -> bytes:
    return hashlib.pbkdf2_hmac("sha256", password.encode("utf-8", "replace"), salt.encode(), iterations)
